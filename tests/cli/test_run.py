"""`praxis run`: output, exit status, arguments, JSON."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, ContractWriter, environment, only_line, praxis, praxis_after, start

ECHO = 'printf "%s" "$ARG_TEXT"'


def document(*words: str | Path, **options: Any) -> dict[str, Any]:
    """Run with --json and return the document; stdout must hold nothing else, and stderr nothing."""
    done = praxis("run", *words, "--json", **options)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.stderr == b""
    assert found["schema_version"] == 1
    assert done.returncode == found.get("error", found)["exit_status"]
    return found


# -- output and exit status


def test_streams_pass_through_byte_by_byte(write_contract: ContractWriter) -> None:
    script = r"printf 'out\033[1m\377\r\n'; printf 'err\200' >&2"
    done = praxis("run", write_contract(script), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\x1b[1m\xff\r\n", b"err\x80")


def test_the_summary_is_a_line_of_its_own_on_stderr(write_contract: ContractWriter) -> None:
    done = praxis("run", write_contract("printf 'no line end' >&2"))
    said, summary = done.stderr.decode().splitlines()
    assert said == "no line end"
    assert summary.startswith("praxis: tool completed on local (isolation: none) in ")
    assert summary.endswith(" s, exit code 0")


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("exit 255", 255), ("kill -SEGV $$", 139)])
def test_the_tools_end_is_the_exit_status(write_contract: ContractWriter, script: str, status: int) -> None:
    assert praxis("run", write_contract(script)).returncode == status


def test_a_tool_over_its_time_ends_with_124(write_contract: ContractWriter) -> None:
    done = praxis("run", write_contract("echo begun; sleep 60"), "--timeout", "1500ms")
    assert (done.returncode, done.stdout) == (124, b"begun\n")
    assert "timed out" in only_line(done.stderr)
    assert "longer than its 1.5 s" in only_line(done.stderr)


def test_quiet_still_says_why_there_is_no_exit_code(write_contract: ContractWriter) -> None:
    contract = write_contract(spec={"command": ["no-such-program-here"]})
    done = praxis("run", contract, "--quiet")
    assert done.returncode != 0
    assert only_line(done.stderr) == "praxis: command 'no-such-program-here' not found"


def test_an_untrusted_tool_runs_in_the_sandbox(write_contract: ContractWriter) -> None:
    done = praxis("run", write_contract("echo isolated; exit 7", engine="sandbox", trust="untrusted"))
    assert (done.returncode, done.stdout) == (7, b"isolated\n")
    assert "on sandbox (isolation: namespaces)" in only_line(done.stderr)


def test_exported_files_are_told(write_contract: ContractWriter, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    contract = write_contract(
        "echo report > /data/report.txt", engine="sandbox", spec={"mounts": {"./data": "/data"}}
    )
    done = praxis("run", contract, "--workspace", tmp_path)
    told, summary = done.stderr.decode().splitlines()
    assert told == "praxis: exported /data/report.txt (7 B)"
    assert summary.endswith("exit code 0, 1 file exported")
    assert (tmp_path / "data/report.txt").read_text() == "report\n"


def test_warnings_of_the_contract_are_told(write_contract: ContractWriter) -> None:
    done = praxis("run", write_contract("true", descripton="typo"))
    warning, _ = done.stderr.decode().splitlines()
    assert warning.startswith("praxis: warning: ")
    assert "descripton" in warning
    assert "description" in warning
    assert praxis("run", write_contract("true", descripton="typo"), "--quiet").stderr == b""


# -- trust


def test_an_untrusted_tool_is_refused_without_isolation(write_contract: ContractWriter) -> None:
    contract = write_contract("echo ran", trust="untrusted")
    refused = praxis("run", contract)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert "not declared trusted" in only_line(refused.stderr)
    assert "--trust" in only_line(refused.stderr)
    trusted = praxis("run", contract, "--trust")
    assert (trusted.returncode, trusted.stdout) == (0, b"ran\n")


# -- arguments


@pytest.mark.parametrize("value", ["", "a=b=c", "  spaces ", "grün ☃", "$(id) `id` \"'"])
def test_an_argument_arrives_as_it_was_given(write_contract: ContractWriter, value: str) -> None:
    done = praxis("run", write_contract(ECHO), "--arg", f"text={value}", "--quiet")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, value, b"")


def test_arguments_are_read_by_their_types(write_contract: ContractWriter) -> None:
    script = 'cat "$PRAXIS_ARGS_FILE"'
    done = praxis("run", write_contract(script), "-a", "text=7", "-a", "count=7", "-a", "loud=yes", "-q")
    assert json.loads(done.stdout) == {"text": "7", "count": 7, "loud": True}


def test_arguments_come_from_a_file_and_the_command_line_goes_before(
    write_contract: ContractWriter, tmp_path: Path
) -> None:
    (tmp_path / "args.json").write_text('{"text": "file", "count": 5}')
    contract = write_contract('echo "$ARG_TEXT $ARG_COUNT"')
    from_file = praxis("run", contract, "--args-file", tmp_path / "args.json", "-a", "count=6", "-q")
    assert from_file.stdout == b"file 6\n"
    from_stdin = praxis("run", contract, "--args-file", "-", "-q", stdin=b'{"text": "stdin"}')
    assert from_stdin.stdout == b"stdin 1\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--arg", "text"], "--arg: 'text' is not of the form NAME=VALUE"),
        (["--arg", "=x"], "--arg: '=x' is not of the form NAME=VALUE"),
        (["--arg", "text=a", "--arg", "text=b"], "args.text: given twice, and not a list (keep one of them)"),
        (["--arg", "txet=a"], "args.txet: the contract declares no such parameter (did you mean 'text'?)"),
        (["--arg", "count=many"], "args.count: must be a whole number, not 'many'"),
        (["--arg", "loud=perhaps"], "args.loud: must be true or false, not 'perhaps'"),
        (["--args-file", "nowhere.json"], "--args-file: nowhere.json: No such file"),
        (["--args-file", "-"], "--args-file: not JSON"),
        (["--timeout", "soon"], "--timeout: 'soon' is not a duration"),
        (["--timeout", "-1"], "--timeout: '-1' is not a duration"),
        (["--workspace", "nowhere"], "--workspace: "),
        (["--engine", "sandbx"], "engine: 'sandbx' is not an engine (known: dagger, "),
        (["--engine", "kubernetes"], "no 'kubernetes' engine"),
        (["--colour"], "no such option: --colour"),
        (["one", "two"], "unexpected extra argument"),
        (["--arg"], "option '--arg' requires an argument"),
    ],
)
def test_a_mistake_is_one_clear_line(
    write_contract: ContractWriter, tmp_path: Path, words: list[str], told: str
) -> None:
    done = praxis("run", write_contract("echo ran"), *words, cwd=tmp_path)
    assert done.stdout == b""
    line = only_line(done.stderr)
    assert line.startswith("praxis: ")
    assert told.lower() in line.lower()
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"text": NaN}', "NaN is not a JSON number"),
        (b'{"text": "a", "text": "b"}', "'text' comes twice"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (5 << 20), "larger than 4 MiB"),
    ],
)
def test_a_bad_file_of_arguments_is_one_clear_line(
    write_contract: ContractWriter, content: bytes, told: str
) -> None:
    done = praxis("run", write_contract(), "--args-file", "-", stdin=content)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in only_line(done.stderr)


# -- contracts that cannot be used


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        (b"{name: [", "contract.yaml:1"),
        (b"just words", "a contract is a mapping"),
        (b"\xff\xfe\x00", "contract.yaml"),
        (b"name: x\nengine: warp\n", "contract.yaml:2: engine"),
    ],
)
def test_a_contract_that_cannot_be_used_names_the_place(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "contract.yaml"
    if content is not None:
        path.write_bytes(content)
    done = praxis("run", path)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("praxis: ") for line in lines)
    assert told in lines[0]


# -- one JSON object


def test_json_has_the_whole_account(write_contract: ContractWriter) -> None:
    found = document(write_contract("echo out; echo err >&2", bogus=1))
    assert found["tool"] == "tool"
    assert found["status"] == "completed"
    assert (found["stdout"], found["stderr"], found["exit_code"]) == ("out\n", "err\n", 0)
    assert (found["engine"], found["isolation"], found["failure"]) == ("local", "none", None)
    assert found["duration_s"] > 0
    assert "bogus" in found["warnings"][0]


def test_json_of_a_failure_has_its_category(write_contract: ContractWriter) -> None:
    found = document(write_contract("echo why >&2; exit 9"))
    assert (found["status"], found["exit_code"], found["stderr"]) == ("failed", 9, "why\n")
    assert found["failure"]["category"] == "USER_CODE_ERROR"


def test_json_of_a_timeout_has_no_exit_code(write_contract: ContractWriter) -> None:
    found = document(write_contract("sleep 60"), "--timeout", "0.3")
    assert (found["status"], found["exit_code"], found["exit_status"]) == ("timed_out", None, 124)
    assert found["limit"] == "timeout"


def test_json_of_mistakes_names_type_field_and_remedy(write_contract: ContractWriter, tmp_path: Path) -> None:
    contract = write_contract()
    error = document(contract, "--arg", "count=x")["error"]
    assert (error["type"], error["field"], error["exit_status"]) == ("ValidationError", "args.count", 2)
    assert error["message"] == "args.count: must be a whole number, not 'x'"
    assert document(contract, "--arg", "cuont=1")["error"]["remedy"] == "did you mean 'count'?"
    error = document(contract, "--arg", "x")["error"]
    assert (error["type"], error["field"]) == ("ValidationError", "--arg")
    error = document(contract, "--nonsense")["error"]
    assert (error["type"], error["exit_status"]) == ("UsageError", 2)
    error = document(tmp_path / "none.yaml")["error"]
    assert (error["type"], error["exit_status"]) == ("ContractError", 2)
    assert error["problems"][0]["file"].endswith("none.yaml")
    error = document(contract, "--engine", "kubernetes")["error"]
    assert (error["type"], error["exit_status"]) == ("ValidationError", 2)


def test_json_is_safe_to_print(write_contract: ContractWriter) -> None:
    script = r"printf '\033]0;x\007\302\233\342\200\256'"
    done = praxis("run", write_contract(script), "--json")
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout
    assert json.loads(done.stdout)["stdout"] == "\x1b]0;x\x07\x9b\u202e"


NOISY_ENGINE = """
import logging, subprocess
import praxis_sdk.execution.engine as engine
from praxis_sdk.execution.engines.local.engine import LocalExecutionEngine

class Noisy(LocalExecutionEngine):
    async def launch(self, *args):
        print("library chatter")
        subprocess.run(["echo", "chatter of a child"])
        logging.getLogger("library").addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger("library").error("log line")
        return await super().launch(*args)

def noisy():
    registry = engine.EngineRegistry()
    registry.register("local", Noisy())
    return registry

engine.builtin_engines = noisy
"""


@pytest.mark.parametrize("options", [["--json"], ["--quiet"]])
def test_nothing_that_libraries_print_reaches_stdout(
    write_contract: ContractWriter, options: list[str]
) -> None:
    done = praxis_after(NOISY_ENGINE, "run", write_contract("echo result"), *options)
    assert b"chatter" in done.stderr
    assert done.returncode == 0
    if "--json" in options:
        assert json.loads(done.stdout)["stdout"] == "result\n"
    else:
        assert done.stdout == b"result\n"


PULLING_ENGINE = """
import praxis_sdk.execution.engine as engine
from dataclasses import replace
from praxis_sdk.execution.engines.local.engine import LocalExecutionEngine

class Pulling(LocalExecutionEngine):
    async def run(self, contract, args, context):
        context.progress("pulling image\\x1b[2J x")
        context.progress("told before")
        outcome = await super().run(contract, args, context)
        return replace(outcome, notes=("told before", "told at the end"))

    async def cleanup(self):
        await super().cleanup()
        raise RuntimeError("a container is left")

def pulling():
    registry = engine.EngineRegistry()
    registry.register("local", Pulling())
    return registry

engine.builtin_engines = pulling
"""


def test_progress_notes_and_failed_clean_up_are_told_once(write_contract: ContractWriter) -> None:
    done = praxis_after(PULLING_ENGINE, "run", write_contract("echo result"))
    assert (done.returncode, done.stdout) == (0, b"result\n")
    *told, summary = done.stderr.decode().splitlines()
    assert told == [
        "praxis: pulling image\\x1b[2J x",
        "praxis: told before",
        "praxis: warning: clean-up: a container is left",
        "praxis: note: told at the end",
    ]
    assert "completed" in summary
    assert praxis_after(PULLING_ENGINE, "run", write_contract("echo result"), "--quiet").stderr == b""
    as_json = praxis_after(PULLING_ENGINE, "run", write_contract("echo result"), "--json")
    assert json.loads(as_json.stdout)["warnings"] == ["clean-up: a container is left"]


# -- logging


def test_the_log_is_silent_unless_asked_for(write_contract: ContractWriter) -> None:
    contract = write_contract("true")
    assert b"tool.started" not in praxis("run", contract, "-a", "text=secret").stderr
    verbose = praxis("run", contract, "--verbose", "-a", "text=secret").stderr
    assert b"event='tool.started' tool='tool'" in verbose
    assert b"secret" not in verbose


def test_the_log_can_be_json(write_contract: ContractWriter) -> None:
    done = praxis("run", write_contract("true"), "--quiet", env={"PRAXIS_LOG": "json"})
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events == ["tool.started", "tool.ended"]
    refused = praxis("run", write_contract("true"), env={"PRAXIS_LOG": "xml"})
    assert refused.returncode == 2
    assert "PRAXIS_LOG" in only_line(refused.stderr)


# -- readers that leave


def test_a_reader_that_leaves_ends_the_run_quietly(write_contract: ContractWriter) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = praxis_to(writer, "run", write_contract("echo a; sleep 60"), "--quiet")
    assert done == (141, b"")


def test_a_table_for_a_reader_that_left_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert praxis_to(writer, "tools", tmp_path) == (141, b"")


def test_a_full_disk_is_the_platforms_failure(write_contract: ContractWriter) -> None:
    status, said = praxis_to(os.open("/dev/full", os.O_WRONLY), "run", write_contract("echo a; sleep 60"))
    assert status == 3
    assert "stdout: No space left on device" in only_line(said)


def test_a_full_disk_cannot_hide_an_error_in_json(write_contract: ContractWriter) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    status, said = praxis_to(full, "run", write_contract(), "--arg", "text", "--json")
    assert status == 2
    assert b"--arg: 'text' is not of the form NAME=VALUE" in said
    assert b"stdout: No space left on device" in said
    assert b"Traceback" not in said


def test_a_log_that_nobody_reads_ends_no_run(write_contract: ContractWriter, tmp_path: Path) -> None:
    contract = write_contract(f"touch {tmp_path}/ran")
    reader, writer = os.pipe()
    os.close(reader)
    process = start("run", contract, "--verbose", stderr=writer)
    os.close(writer)
    process.communicate(timeout=100)
    assert process.returncode == 0
    assert (tmp_path / "ran").exists()


def test_closed_streams_harm_nothing(write_contract: ContractWriter) -> None:
    words = shlex.join([*COMMAND, "run", str(write_contract("echo a; exit 5"))])
    done = subprocess.run(["sh", "-c", f"{words} <&- >&- 2>&-"], env=environment(), timeout=100, check=False)
    assert done.returncode == 5


def praxis_to(stdout: int, *words: str | Path) -> tuple[int, bytes]:
    """Run the command with a given stdout, which is closed here; returns exit status and stderr."""
    process = start(*words, stdout=stdout)
    os.close(stdout)
    said = process.communicate(timeout=100)[1]
    return process.returncode, said


def test_lists_and_files_are_arguments(write_contract: ContractWriter, tmp_path: Path) -> None:
    path = write_contract(
        'printf "%s|" "$ARG_TAG" "$ARG_N" "$ARG_TEXT" "$ARG_AT"',
        params={"tag": "array", "n": {"type": "array", "items": {"type": "integer"}}, "text": "string",
                    "at": "string"},
    )  # fmt: skip
    (tmp_path / "text.txt").write_text("two\nlines ☃\n")
    given = ["tag=a", "tag=b c", "n=3.0", f"text=@{tmp_path / 'text.txt'}", "at=@@home"]
    done = praxis("run", "-q", path, *(word for pair in given for word in ("--arg", pair)))
    assert (done.returncode, done.stdout.decode()) == (0, '["a", "b c"]|[3]|two\nlines ☃\n|@home|'), (
        done.stderr
    )
    missing = praxis("run", path, "--arg", "text=@nowhere.txt")
    assert missing.returncode == 2
    assert "--arg text: nowhere.txt: No such file" in only_line(missing.stderr)


def test_standard_input_reaches_the_tool(write_contract: ContractWriter, tmp_path: Path) -> None:
    path = write_contract("cat; echo end", params=[])
    (tmp_path / "data").write_bytes(b"of a file\n")
    with (tmp_path / "data").open("rb") as file:
        done = start("run", "-q", path, stdin=file)
        assert done.communicate()[0] == b"of a file\nend\n"
    assert praxis("run", "-q", path, stdin=b"of a pipe\n").stdout == b"of a pipe\nend\n"
    assert praxis("run", "-q", "--no-stdin", path, stdin=b"of a pipe\n").stdout == b"end\n"


def test_a_tool_ends_though_standard_input_does_not(write_contract: ContractWriter) -> None:
    reading, writing = os.pipe()
    process = start("run", "-q", write_contract("echo done"), stdin=reading)
    assert process.communicate()[0] == b"done\n"
    assert process.returncode == 0
    os.close(reading)
    os.close(writing)


def test_output_files_go_where_the_caller_says(write_contract: ContractWriter, tmp_path: Path) -> None:
    script = "mkdir sub; echo 1 > a.csv; echo 2 > sub/b.csv; echo 3 > c.txt"
    path = write_contract(script, engine="sandbox", spec={"outputs": ["**/*.csv"]})
    done = praxis("run", path, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == [
        "a.csv",
        "sub/b.csv",
    ]
    assert b"a.csv (2 B)" in done.stderr
    unsaid = praxis("run", path, cwd=tmp_path)
    assert b"were not kept" in unsaid.stderr
    assert b"a.csv" in unsaid.stderr
