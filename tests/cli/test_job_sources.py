"""What a job is given: arguments, standard input, a folder, a document; and what does not fit into its limits."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import socket
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, only_line, start

SAYS_ITS_INPUT = "import sys\nprint(sys.argv[1:], repr(sys.stdin.read()))\n"
DIGESTS_ITS_INPUT = "import hashlib, sys\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\n"
BINARY = random.Random(7).randbytes(3_000_000)


# -- arguments and standard input


def test_a_script_gets_its_arguments_and_standard_input(at_home: AtHome) -> None:
    (at_home.cwd / "f.py").write_text(SAYS_ITS_INPUT)
    done = at_home("exec", "f.py", "--quiet", "--", "--n", "4", stdin=b"some data\r\nmore")
    assert (done.returncode, done.stdout) == (0, b"['--n', '4'] 'some data\\nmore'\n")
    assert at_home("exec", "-c", SAYS_ITS_INPUT, "-q", "--", "x").stdout == b"['x'] ''\n"


@pytest.mark.parametrize("data", [b"\0\xff\r\n" * 10, BINARY], ids=["short", "long"])
@pytest.mark.parametrize(
    "words",
    [["-c", DIGESTS_ITS_INPUT], ["-r", "command", "--", "sh", "-c", "sha256sum | cut -d' ' -f1"]],
    ids=["python", "command"],
)
def test_bytes_of_standard_input_arrive_unchanged(at_home: AtHome, words: list[str], data: bytes) -> None:
    done = at_home("exec", "--quiet", *words, stdin=data)
    assert done.stdout.decode() == f"{hashlib.sha256(data).hexdigest()}\n"


def test_standard_input_is_submitted_with_the_work_and_outlives_the_command(at_home: AtHome) -> None:
    (at_home.cwd / "f.py").write_text(DIGESTS_ITS_INPUT)
    submitted = at_home("submit", "f.py", "--quiet", "--", "-v", stdin=BINARY).stdout.decode().strip()
    followed = at_home("logs", "--follow", submitted)
    assert hashlib.sha256(BINARY).hexdigest() in followed.stdout.decode()
    request = at_home.json("show", submitted)["request"]
    assert request["stdin"] == {"digest": f"sha256:{hashlib.sha256(BINARY).hexdigest()}"}
    assert request["argv"] == ["-v"]


def test_equal_jobs_are_those_with_equal_arguments_and_input(at_home: AtHome) -> None:
    def key(*words: str, stdin: bytes = b"") -> str:
        done = at_home("exec", "-c", SAYS_ITS_INPUT, "--json", *words, stdin=stdin)
        return str(json.loads(done.stdout)["result"]["dedupe_key"])

    keys = [key(), key("--", "a"), key("--", "a", "b"), key(stdin=b"a"), key(stdin=b"b")]
    assert len(set(keys)) == len(keys)
    assert key("--", "a") == keys[1]
    assert key(stdin=b"b") == keys[4]
    shown = at_home("job", at_home.json("jobs")["jobs"][0]["job_id"]).stdout.decode()
    assert f"stdin        sha256:{hashlib.sha256(b'b').hexdigest()}" in shown


def test_a_job_is_replayed_with_its_arguments_and_input(at_home: AtHome) -> None:
    code = "import sys\n[sys.argv[1:], sys.stdin.read()]"
    document = json.loads(at_home("exec", "-c", code, "--json", "--", "a", stdin=b"in").stdout)
    assert document["result"]["outputs"] == [["a"], "in"]
    assert at_home.json("replay", document["result"]["job_id"])["equal"] is True


def test_a_terminal_is_no_input_unless_asked_for(at_home: AtHome) -> None:
    code = "import sys; print(repr(sys.stdin.read()))"

    def run(*words: str, typed: bytes) -> bytes:
        ours, theirs = pty.openpty()
        try:
            process = start(
                "exec", "-c", code, "--quiet", *words, cwd=at_home.cwd, env=at_home.variables, stdin=theirs
            )
            os.write(ours, typed)
            return bytes(process.communicate(timeout=60)[0])
        finally:
            os.close(ours)
            os.close(theirs)

    assert run(typed=b"") == b"''\n"
    assert run("--stdin", typed=b"typed\n\x04") == b"'typed\\n'\n"


def test_no_stdin_leaves_a_pipe_that_never_ends_alone(at_home: AtHome) -> None:
    ours, theirs = os.pipe()
    try:
        process = start(
            "exec",
            "-c",
            SAYS_ITS_INPUT,
            "-q",
            "--no-stdin",
            cwd=at_home.cwd,
            env=at_home.variables,
            stdin=ours,
        )
        assert process.communicate(timeout=60)[0] == b"[] ''\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_socket_as_standard_input_is_read_to_its_end(at_home: AtHome) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = start(
            "exec", "-c", DIGESTS_ITS_INPUT, "-q", cwd=at_home.cwd, env=at_home.variables, stdin=theirs
        )
        sender = threading.Thread(target=lambda: (ours.sendall(BINARY), ours.shutdown(socket.SHUT_WR)))
        sender.start()
        told = process.communicate(timeout=60)[0]
        sender.join()
    assert told.decode() == f"{hashlib.sha256(BINARY).hexdigest()}\n"


def test_the_source_and_the_input_cannot_both_be_standard_input(at_home: AtHome) -> None:
    done = at_home("exec", "-", "--stdin", stdin=b"print(1)")
    assert done.returncode == 2
    assert only_line(done.stderr) == "praxis: --stdin: standard input holds the source (leave it out)"


# -- what does not fit


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        (
            ["-i", "data=big"],
            b"",
            "--input.data: 97.7 KiB is more than the limit file_size_bytes of 64.0 KiB",
        ),
        ([], bytes(100_000), "standard input: more than the limit file_size_bytes of 64.0 KiB"),
        (
            ["-i", "a=half", "-i", "b=half", "--scratch", "64K"],
            b"",
            "--input: 80.0 KiB in all is more than the limit scratch_bytes of 64.0 KiB",
        ),
    ],
)
def test_what_is_larger_than_a_limit_is_refused_before_anything_starts(
    at_home: AtHome, words: list[str], stdin: bytes, told: str
) -> None:
    (at_home.cwd / "big").write_bytes(bytes(100_000))
    (at_home.cwd / "half").write_bytes(bytes(40_000))
    done = at_home("exec", "-c", "1", "--file-size", "64K", *words, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith(f"praxis: {told}")
    assert at_home.json("jobs")["jobs"] == []


def test_an_input_by_digest_that_is_too_large_is_no_fault_of_the_code(at_home: AtHome) -> None:
    left = at_home.json("exec", "-c", "open('big', 'wb').write(bytes(100_000)); None")
    digest = left["result"]["artifacts"][0]["digest"]
    payload = {
        "schema_version": "1.0",
        "runtime": "python",
        "code": "1",
        "inputs": {"data": {"digest": digest}},
        "limits": {"file_size_bytes": "64K"},
    }
    (at_home.cwd / "job.json").write_text(json.dumps(payload))
    failed = at_home.json("submit", "job.json", "--wait")["execution"]["failure"]
    assert failed["category"] == "VALIDATION_ERROR"
    assert failed["message"] == (
        "payload.inputs.data: 97.7 KiB is more than the limit file_size_bytes of 64.0 KiB "
        "(raise limits.file_size_bytes, on the command line --file-size)"
    )


# -- a folder


@pytest.fixture
def project(at_home: AtHome) -> Path:
    """A folder with a package, data, and much that is nobody's business."""
    files = {
        "pkg/__init__.py": "",
        "pkg/helper.py": "VALUE = 3\n",
        "pkg/main.py": "import sys\nimport helper\nprint(helper.VALUE, open('data/t.txt').read(), sys.argv[1:])\n",
        "pkg/tool.py": "from . import helper\nprint(__name__, __package__, helper.VALUE)\n",
        "data/t.txt": "text",
        ".gitignore": "secret*\n/out/\n!secret.keep\n",
        "secret.txt": "s",
        "secret.keep": "k",
        "out/large": "x",
        "data/.gitignore": "*.tmp\n",
        "data/a.tmp": "x",
        ".git/config": "x",
        ".venv/pyvenv.cfg": "x",
        "other-env/pyvenv.cfg": "x",
        "pkg/__pycache__/helper.pyc": "x",
    }
    folder = at_home.cwd / "project"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "within").symlink_to("data/t.txt")
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "above").symlink_to("..")
    os.mkfifo(folder / "fifo")
    return folder


def test_a_folder_is_a_job_whose_neighbours_can_be_imported(at_home: AtHome, project: Path) -> None:
    done = at_home("exec", "project/", "--entrypoint", "pkg/main.py", "--", "a")
    assert (done.returncode, done.stdout) == (0, b"3 text ['a']\n")
    assert at_home("exec", "project", "-q", "-m", "pkg.tool").stdout == b"__main__ pkg 3\n"
    again = at_home("submit", "project", "-m", "pkg.tool", "--wait", "-q", "--fresh")
    assert (again.returncode, again.stdout) == (0, b"__main__ pkg 3\n")


def test_a_folder_leaves_out_what_is_not_meant_and_says_so(at_home: AtHome, project: Path) -> None:
    (project / "main.py").write_text(
        "import os\nprint(*sorted(os.path.join(b, f)[2:] for b, _, fs in os.walk('.') for f in fs))\n"
    )
    done = at_home("exec", "project")
    assert done.stdout.decode().split() == [
        *(".gitignore", "data/.gitignore", "data/t.txt", "main.py", "pkg/__init__.py", "pkg/helper.py"),
        *("pkg/main.py", "pkg/tool.py", "secret.keep", "within"),
    ]
    told = done.stderr.decode().splitlines()[0]
    assert told.startswith("praxis: left out of project: .git/, .venv/, above (a link out of the folder), ")
    assert told.endswith(" and 4 more")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["project"],
            "project: it is not said which file to run (give --entrypoint FILE, or -m MODULE; it holds",
        ),
        (["project", "--entrypoint", "no.py"], "--entrypoint: 'no.py' is not among the files of project"),
        (["project", "--entrypoint", "../f.py"], "--entrypoint: '../f.py' is not among the files of project"),
        (
            ["project", "-m", "pkg.no"],
            "--module: 'pkg.no': project holds neither pkg/no.py nor pkg/no/__main__",
        ),
        (["project/pkg/tool.py", "-m", "pkg"], "--module: chooses a file of a folder"),
        (["many", "--entrypoint", "1.py"], "many: more than 1024 files, the most of one job"),
        (["large", "--entrypoint", "1.py"], "large: its files are larger than 8.0 MiB together"),
    ],
)
def test_a_folder_that_cannot_be_a_job_is_one_line(
    at_home: AtHome, project: Path, words: list[str], told: str
) -> None:
    for folder in ("many", "large"):
        (at_home.cwd / folder).mkdir()
    for number in range(1025):
        (at_home.cwd / "many" / f"{number}.py").touch()
    for number in range(9):
        (at_home.cwd / "large" / f"{number}.py").write_bytes(b"#" * (1 << 20))
    done = at_home("exec", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith(f"praxis: {told}")


def test_a_single_script_comes_without_its_neighbours(at_home: AtHome, project: Path) -> None:
    done = at_home("exec", "project/pkg/main.py")
    assert done.returncode == 1
    assert b"No module named 'helper'" in done.stderr


# -- what submit is given


def test_submit_recognises_what_a_file_is(at_home: AtHome) -> None:
    cwd = at_home.cwd
    (cwd / "script.py").write_text("'script'")
    payload = {"schema_version": "1.0", "runtime": "python", "code": "'payload'"}
    (cwd / "payload.json").write_text(json.dumps(payload))
    (cwd / "payload.yaml").write_text("schema_version: '1.0'\nruntime: python\ncode: \"'yaml'\"\n")
    (cwd / "submission.json").write_text(json.dumps({"kind": "job", "request": payload}))
    (cwd / "contract.yaml").write_text(
        "name: greet\nengine: sandbox\nparameters: [{name: who, type: string}]\n"
        "engineSpec: {command: [sh, -c, 'echo hello $ARG_WHO']}\n"
    )
    for file, value in (("script.py", "script"), ("payload.json", "payload"), ("payload.yaml", "yaml")):
        assert at_home.json("submit", file, "--wait")["execution"]["outputs"] == value
    assert at_home.json("submit", "submission.json", "--wait")["execution"]["outputs"] == "payload"
    tool = at_home("submit", "contract.yaml", "--arg", "who=world", "--wait", "-q")
    assert (tool.returncode, tool.stdout) == (0, b"hello world\n")


# -- exit codes that ask for another try


def test_work_is_tried_again_on_the_exit_codes_that_ask_for_it(at_home: AtHome) -> None:
    retry = {"exit_codes": [75], "max_retries": 1, "first_pause_s": 0.01}

    def attempts(code: int, work: dict[str, object]) -> int:
        (at_home.cwd / "work.json").write_text(json.dumps({**work, "retry": retry}))
        done = at_home.json("submit", "work.json", "--wait")
        assert done["exit_status"] == code
        return int(done["execution"]["attempt"])

    def job(code: int) -> dict[str, object]:
        request = {"schema_version": "1.0", "runtime": "command", "command": ["sh", "-c", f"exit {code}"]}
        return {"kind": "job", "request": request}

    assert attempts(75, job(75)) == 2
    assert attempts(1, job(1)) == 1
    contract = {"name": "t", "engine": "sandbox", "engineSpec": {"command": ["sh", "-c", "exit 75"]}}
    assert attempts(75, {"kind": "tool", "request": {"contract": contract}}) == 2


def test_the_exit_codes_of_retries_are_checked(at_home: AtHome) -> None:
    found = at_home.json("submit", "-c", "1", "--retry-exit", "75", "--retry-exit", "111")["execution"]
    assert at_home.json("show", found["id"])["retry"]["exit_codes"] == [75, 111]
    done = at_home("submit", "-c", "1", "--retry-exit", "0")
    assert done.returncode == 2
    assert only_line(done.stderr) == (
        "praxis: retry.exit_codes: [0] is not a list of exit codes (write numbers from 1 to 255)"
    )
