"""`praxis exec`: code, inputs, parameters, limits, exit status, JSON, equal jobs."""

from __future__ import annotations

import json
import os
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest

from devservices.ordinary_user import OrdinaryUser
from praxis_sdk.jobs import parse_result
from tests.cli.conftest import AtHome, only_line


def said(stderr: bytes) -> list[str]:
    """Return what people were told, line by line."""
    return [line.removeprefix("praxis: ") for line in stderr.decode().splitlines()]


# -- what is run, and what comes of it


def test_code_prints_returns_a_value_and_leaves_artifacts(at_home: AtHome) -> None:
    code = "print('printed')\nopen('table.csv', 'w').write('x,y\\n1,2\\n')\n{'sum': 3, 'word': 'grün'}"
    done = at_home("exec", "-c", code)
    assert (done.returncode, done.stdout) == (0, b"printed\n")
    output, heading, artifact, used, verdict = said(done.stderr)
    assert output == 'output: {"sum": 3, "word": "grün"}'
    assert heading.split() == ["artifact", "kind", "format", "size", "digest"]
    assert artifact.split()[:-1] == ["table.csv", "dataset", "csv", "8", "B"]
    assert artifact.split()[-1].startswith("sha256:")
    assert used.startswith("used ")
    assert " completed in base-" in verdict


def test_a_file_is_run_under_its_own_name(at_home: AtHome) -> None:
    (at_home.cwd / "analysis.py").write_text("def main(n):\n    return n / 0\n")
    done = at_home("exec", "analysis.py", "--param", "n=1")
    assert done.returncode == 1
    assert b'File "analysis.py", line 2, in main' in done.stderr
    assert said(done.stderr)[-1].endswith("ZeroDivisionError: division by zero")


def test_code_comes_from_stdin(at_home: AtHome) -> None:
    done = at_home("exec", "-", "--quiet", stdin=b"print('from stdin')")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"from stdin\n", b"")


def test_inputs_arrive_as_files_and_as_values(at_home: AtHome) -> None:
    (at_home.cwd / "data.bin").write_bytes(b"\0\xff" * 10)
    code = "[list(open(inputs['data'], 'rb').read(2)), inputs['options']]"
    words = ["--input", "data=data.bin", "--input-json", 'options={"depth": [1, null]}']
    assert at_home.json("exec", "-c", code, *words)["result"]["outputs"] == [[0, 255], {"depth": [1, None]}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("2.5", 2.5),
        ("true", True),
        ("null", None),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ('{"a": {}}', {"a": {}}),
        ("text", "text"),
        ("", ""),
        ("a=b", "a=b"),
        ("NaN", "NaN"),
        ("{broken", "{broken"),
    ],
)
def test_a_parameter_is_json_where_it_is_json_and_else_text(at_home: AtHome, text: str, value: Any) -> None:
    outputs = at_home.json("exec", "-c", "[parameters['p']]", "--param", f"p={text}")["result"]["outputs"]
    assert json.dumps(outputs) == json.dumps([value])


def test_a_command_runs_with_its_arguments(at_home: AtHome) -> None:
    done = at_home(
        "exec", "--runtime", "command", "--quiet", "--", "sh", "-c", 'echo "$1"; exit 3', "-", "--json"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"--json\n", b"")


def test_a_command_returns_what_it_writes_to_its_result_file(at_home: AtHome) -> None:
    done = at_home("exec", "-r", "command", "--", "sh", "-c", "echo '[1, 2]' > \"$PRAXIS_RESULT_FILE\"")
    assert (done.returncode, done.stdout) == (0, b"")
    assert said(done.stderr)[0] == "output: [1, 2]"


def test_the_network_is_granted_host_by_host_and_each_use_is_told(at_home: AtHome) -> None:
    code = """
import urllib.request
for url in ("https://data.example.invalid/", "http://other.example.org/"):
    try:
        urllib.request.urlopen(url, timeout=10)
    except OSError as error:
        print(error)
"""
    grants = ("--network", "data.example.invalid", "--network", "files.example.org:8080")
    done = at_home("exec", "-c", code, *grants)
    assert done.returncode == 0
    told = [line for line in said(done.stderr) if line.startswith("network: ")]
    assert told == [
        "network: data.example.invalid:443: 0 B sent, 0 B received: cannot be reached: the name has no address",
        "network: other.example.org:80: refused: not in the job's network grant",
    ]
    job_id = said(done.stderr)[-1].split()[0]
    kept = at_home.json("job", job_id)
    assert kept["payload"]["network"] == ["data.example.invalid:443", "files.example.org:8080"]
    assert [(use["host"], use["allowed"]) for use in kept["result"]["network"]] == [
        ("data.example.invalid", True),
        ("other.example.org", False),
    ]
    shown = at_home("job", job_id).stdout.decode()
    assert "network      data.example.invalid:443, files.example.org:8080" in shown
    assert "  other.example.org:80: refused: not in the job's network grant" in shown


def test_without_a_grant_there_is_no_network(at_home: AtHome) -> None:
    result = at_home.json("exec", "-c", "import os; sorted(v for v in os.environ if 'proxy' in v.lower())")[
        "result"
    ]
    assert (result["outputs"], result["network"]) == ([], [])


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_latex_makes_what_the_suffix_says(at_home: AtHome, suffix: str, start: bytes) -> None:
    (at_home.cwd / "formula.tex").write_text(r"\int_0^1 x^2\,dx = \frac{1}{3}")
    done = at_home("exec", "--runtime", "latex", "formula.tex", "-o", f"formula.{suffix}", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (at_home.cwd / f"formula.{suffix}").read_bytes().startswith(start)


# -- exit status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(7)", 7),
        ("def main(): return object()", 1),
        ("import ctypes; ctypes.string_at(0)", 139),
    ],
)
def test_the_jobs_end_is_the_exit_status(at_home: AtHome, code: str, status: int) -> None:
    assert at_home("exec", "-c", code, "--quiet").returncode == status


def test_a_job_over_its_time_ends_with_124(at_home: AtHome) -> None:
    done = at_home("exec", "-c", "print('begun')\nwhile True: pass", "--timeout", "500ms")
    assert (done.returncode, done.stdout) == (124, b"begun\n")
    assert " timed out " in said(done.stderr)[-1]


def test_a_job_over_its_memory_ends_with_137(at_home: AtHome) -> None:
    result = at_home.json("exec", "-c", "x = b'x' * (256 << 20)", "--memory", "64M")["result"]
    assert (result["limit"], result["failure"]["code"]) == ("memory_bytes", "memory_exceeded")
    assert at_home("exec", "-c", "x = b'x' * (256 << 20)", "--memory", "64M").returncode == 137


@pytest.mark.parametrize(
    ("words", "limit", "allowed"),
    [
        (["--timeout", "2m"], "wall_s", 120.0),
        (["--cpu-time", "1.5s"], "cpu_s", 1.5),
        (["--memory", "512M"], "memory_bytes", 512 << 20),
        (["--processes", "7"], "processes", 7),
        (["--file-size", "1M"], "file_size_bytes", 1 << 20),
        (["--files", "100"], "files", 100),
        (["--scratch", "2M"], "scratch_bytes", 2 << 20),
        (["--stdout-limit", "2K"], "stdout_bytes", 2048),
        (["--stderr-limit", "3K"], "stderr_bytes", 3072),
        (["--output-limit", "4K"], "outputs_bytes", 4096),
        (["--max-artifacts", "3"], "artifact_count", 3),
        (["--artifact-bytes", "5K"], "artifact_total_bytes", 5120),
    ],
)
def test_every_limit_has_an_option(at_home: AtHome, words: list[str], limit: str, allowed: float) -> None:
    job_id = at_home.json("exec", "-c", "1", *words)["result"]["job_id"]
    assert at_home.json("job", job_id)["payload"]["limits"][limit] == allowed


# -- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to run"),
        (["nowhere.py"], "nowhere.py: No such file or directory"),
        (["."], ".: holds no files (name a folder with sources)"),
        (["--runtime", "latex", "-c", "1", "more"], "more than one thing to run: 'more'"),
        (["-c", "1", "--env", "nowhere"], "no environment 'nowhere'; there are: base"),
        (["-c", "1", "--env", "Bad Name"], "--env: "),
        (["-c", "1", "--runtime", "cobol"], "payload.runtime: there is no runtime 'cobol' here"),
        (["-c", "1", "--memory", "lots"], "--memory: is not a size"),
        (["-c", "1", "--memory", "1K"], "--memory: "),
        (["-c", "1", "--timeout", "soon"], "--timeout: is not a duration"),
        (["-c", "1", "--processes", "0"], "--processes: "),
        (["-c", "1", "--processes", "many"], "invalid value for '--processes'"),
        (["-c", "1", "--input", "x=nowhere"], "--input: 'x': nowhere: No such file or directory"),
        (["-c", "1", "--input", "x=/dev/null"], "--input: 'x': /dev/null: not a regular file"),
        (["-c", "1", "--input", "../x=/etc/hostname"], "--input"),
        (["-c", "1", "--input-json", "x={"], "--input-json: 'x': not JSON"),
        (["-c", "1", "--input-json", 'x={"a":1,"a":2}'], "--input-json: 'x': key 'a' is given twice"),
        (["-c", "1", "--param", "x"], "--param: 'x' is not of the form NAME=VALUE"),
        (["-c", "1", "--param", "x=1", "--param", "x=2"], "--param: 'x' is given twice"),
        (["-c", "1", "--network", "localhost"], "--network: 'localhost' is not a host name with a domain"),
        (["-c", "1", "--network", "a.org", "--network", "*.b.org"], "--network: '*.b.org' holds a wildcard"),
        (["-c", "1", "--network", "a.org:0"], "--network: 'a.org:0' has no port between 1 and 65535"),
        (["-c", "1", "--network", "10.0.0.1"], "--network: '10.0.0.1' is not a public address"),
        (["-c", "1", "-o", "x", "--artifacts", "y"], "-o: cannot be combined with --artifacts"),
        (["--runtime", "command"], "the program is missing"),
        (["--runtime", "command", "-c", "1"], "-c: the runtime 'command' runs a program"),
        (["--runtime", "latex", "-c", "x", "-o", "x.gif"], "-o: 'x.gif' does not say what to make"),
        (["--runtime", "latex", "-c", "x", "-p", "format=pdf", "-o", "x.svg"], "--param: 'format'"),
        (["--runtime", "latex", "-c", "x", "-p", "dpi=0"], "payload.parameters.dpi: "),
    ],
)
def test_a_mistake_is_one_line_and_status_2(at_home: AtHome, words: list[str], told: str) -> None:
    done = at_home("exec", *words, "--quiet")
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith(f"praxis: {told}")


@pytest.mark.parametrize("home", ["/proc/nowhere", "/etc/hostname"])
def test_a_home_that_cannot_be_written_is_told(at_home: AtHome, home: str) -> None:
    at_home.variables["PRAXIS_HOME"] = home
    done = at_home("exec", "-c", "1")
    assert (done.returncode, done.stdout) == (3, b"")
    assert only_line(done.stderr).startswith(f"praxis: the Praxis home {home} cannot be written to: ")
    assert "set PRAXIS_HOME" in only_line(done.stderr)


def test_the_home_is_where_the_desktop_keeps_data(at_home: AtHome, environments: Path) -> None:
    shared = at_home.cwd / "share"
    (shared / "praxis").mkdir(parents=True)
    (shared / "praxis/environments").symlink_to(environments)
    at_home.variables.update(PRAXIS_HOME="", XDG_DATA_HOME=str(shared))
    assert at_home("exec", "-c", "1", "--quiet").returncode == 0
    assert (shared / "praxis/results/jobs").is_dir()


def test_artifacts_can_be_kept_elsewhere(at_home: AtHome) -> None:
    at_home.variables["PRAXIS_ARTIFACTS"] = str(at_home.cwd / "store")
    assert at_home("exec", "-c", "open('a', 'w').write('a')", "--quiet").returncode == 0
    assert (at_home.cwd / "store/sha256").is_dir()
    assert not (at_home.home / "artifacts").exists()
    at_home.variables["PRAXIS_ARTIFACTS"] = "ftp://somewhere"
    refused = at_home("exec", "-c", "1", "--quiet")
    assert refused.returncode == 2
    assert only_line(refused.stderr).startswith("praxis: PRAXIS_ARTIFACTS: ")


# -- JSON


def test_json_is_the_whole_account(at_home: AtHome) -> None:
    code = "print('out'); open('a.txt', 'w').write('a'); [1]"
    found = at_home.json("exec", "-c", code, "--artifacts", "out")
    assert sorted(found) == ["exit_status", "result", "schema_version", "served_by", "written"]
    result = parse_result(found["result"])
    assert (str(result.status), result.outputs, result.stdout.text) == ("completed", [1], "out\n")
    assert found["written"] == [{"name": "a.txt", "path": "out/a.txt", "digest": result.artifacts[0].digest}]
    assert (found["exit_status"], found["served_by"]) == (0, None)


def test_json_of_a_failure_has_the_traceback(at_home: AtHome) -> None:
    found = at_home.json("exec", "-c", "{}['key']")
    failure = found["result"]["failure"]
    assert (failure["category"], failure["code"]) == ("USER_CODE_ERROR", "exception")
    assert "KeyError: 'key'" in failure["traceback"]
    assert found["exit_status"] == 1


def test_json_of_a_mistake_is_an_error(at_home: AtHome) -> None:
    error = at_home.json("exec", "-c", "1", "--memory", "lots")["error"]
    assert (error["type"], error["field"], error["exit_status"]) == ("ValidationError", "--memory", 2)


# -- equal jobs


def test_an_equal_job_is_served_from_the_first_and_fresh_is_not(at_home: AtHome) -> None:
    code = "import sys; print('once'); print('and', file=sys.stderr); open('a.txt', 'w').write('a'); 5"
    first = at_home.json("exec", "-c", code)["result"]
    second = at_home("exec", "-c", code, "--artifacts", "out")
    assert (second.returncode, second.stdout) == (0, b"once\n")
    lines = said(second.stderr)
    assert lines[:2] == ["and", "output: 5"]
    assert f"completed as {first['job_id']} did" in lines[-2]
    assert "--fresh" in lines[-2]
    assert (at_home.cwd / "out/a.txt").read_text() == "a"
    third = at_home.json("exec", "-c", code)
    assert (third["result"]["from_cache"], third["served_by"]) == (True, first["job_id"])
    fresh = at_home.json("exec", "-c", code, "--fresh")
    assert (fresh["result"]["from_cache"], fresh["served_by"]) == (False, None)
    assert fresh["result"]["dedupe_key"] == first["dedupe_key"]


def test_another_input_is_another_job(at_home: AtHome) -> None:
    for content in ("one", "two"):
        (at_home.cwd / "data").write_text(content)
        result = at_home.json("exec", "-c", "open(inputs['data']).read()", "-i", "data=data")["result"]
        assert (result["outputs"], result["from_cache"]) == (content, False)


# -- artifacts


def test_o_takes_the_only_artifact_or_the_one_of_that_name(at_home: AtHome) -> None:
    code = "for name in 'ab': open(name + '.txt', 'w').write(name)"
    unclear = at_home("exec", "-c", code, "-o", "c.txt", "--quiet")
    assert unclear.returncode == 2
    assert "left 2 artifacts: a.txt, b.txt" in only_line(unclear.stderr)
    assert at_home("exec", "-c", code, "-o", "b.txt", "--quiet").returncode == 0
    assert (at_home.cwd / "b.txt").read_text() == "b"
    assert at_home("exec", "-c", "open('a', 'w').write('x')", "-o", "any.name", "--quiet").returncode == 0
    assert (at_home.cwd / "any.name").read_text() == "x"


def test_a_job_that_fails_leaves_an_existing_file_alone(at_home: AtHome) -> None:
    (at_home.cwd / "kept.txt").write_text("kept")
    assert at_home("exec", "-c", "1/0", "-o", "kept.txt", "--quiet").returncode == 1
    assert (at_home.cwd / "kept.txt").read_text() == "kept"


def test_artifacts_replace_files_and_are_not_written_through_links(at_home: AtHome) -> None:
    outside = at_home.cwd / "outside.txt"
    outside.write_text("outside")
    out = at_home.cwd / "out"
    out.mkdir()
    (out / "a.txt").symlink_to(outside)
    (out / "b.txt").write_text("old")
    code = "for name in 'ab': open(name + '.txt', 'w').write('new')"
    assert at_home("exec", "-c", code, "--artifacts", "out", "--quiet").returncode == 0
    assert outside.read_text() == "outside"
    assert not (out / "a.txt").is_symlink()
    assert [(out / f"{name}.txt").read_text() for name in "ab"] == ["new", "new"]
    assert sorted(os.listdir(out)) == ["a.txt", "b.txt"]


def test_artifacts_do_not_leave_the_folder_through_a_link(at_home: AtHome) -> None:
    outside = at_home.cwd / "outside"
    outside.mkdir()
    (at_home.cwd / "out").mkdir()
    (at_home.cwd / "out/sub").symlink_to(outside)
    code = "import os; os.mkdir('sub'); open('sub/a.txt', 'w').write('a')"
    done = at_home("exec", "-c", code, "--artifacts", "out", "--quiet")
    assert done.returncode == 2
    assert only_line(done.stderr).startswith("praxis: out/sub/a.txt: a link or a file is in the way")
    assert os.listdir(outside) == []


def test_a_job_cannot_configure_the_tools_of_whoever_takes_its_artifacts(at_home: AtHome) -> None:
    code = "import os; os.makedirs('.git/hooks'); open('.git/hooks/pre-commit', 'w').write('#!/bin/sh')"
    assert at_home("exec", "-c", code, "--artifacts", ".", "--quiet").returncode == 0
    written = at_home.cwd / "_.git/hooks/pre-commit"
    assert written.read_text() == "#!/bin/sh"
    assert not os.access(written, os.X_OK)
    assert os.listdir(at_home.cwd) == ["_.git"]


def test_a_damaged_artifact_is_not_delivered(at_home: AtHome) -> None:
    code = f"open('a.txt', 'w').write('{uuid.uuid4().hex}')"
    digest = at_home.json("exec", "-c", code)["result"]["artifacts"][0]["digest"].removeprefix("sha256:")
    stored = at_home.home / "artifacts/sha256" / digest[:2] / digest[2:]
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    done = at_home("exec", "-c", code, "--artifacts", "out", "--quiet")
    assert done.returncode == 3
    assert "is damaged" in only_line(done.stderr)
    assert os.listdir(at_home.cwd / "out") == []


def test_an_ordinary_user_runs_a_job_in_a_home_of_its_own(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user.run_praxis("exec", "-c", "open('a.txt', 'w').write('a'); [1]", "-o", "got", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["result"]["outputs"]) == (0, [1])
    assert (ordinary_user.home / "got").read_text() == "a"
    kept = ordinary_user.home / ".local/share/praxis"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
