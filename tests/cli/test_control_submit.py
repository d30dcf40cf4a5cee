"""`praxis submit`: work is kept, found again, and with --wait run here where nobody else does."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.cli.conftest import AtHome, ContractWriter, only_line

FOREVER = "print('ready', flush=True); import signal; signal.pause()"


def lines(text: bytes) -> list[str]:
    """Return the lines of a stream."""
    return text.decode().splitlines()


# -- without --wait


def test_submitting_prints_the_id_and_says_that_no_worker_runs(at_home: AtHome) -> None:
    done = at_home("submit", "-c", "1")
    assert done.returncode == 0
    execution_id = only_line(done.stdout)
    assert only_line(done.stderr) == (
        "praxis: no worker takes such work now: 'praxis worker' runs one, "
        f"'praxis logs -f {execution_id}' runs this"
    )
    assert at_home.json("show", execution_id)["execution"]["status"] == "queued"
    assert at_home("submit", "-c", "1", "--quiet").stderr == b""


def test_a_file_is_submitted_with_its_terms(at_home: AtHome) -> None:
    payload = {"schema_version": "1.0", "runtime": "python", "env": "base", "code": "1"}
    document = {"kind": "job", "request": payload, "priority": "high", "labels": {"team": "red"}}
    (at_home.cwd / "s.json").write_text(json.dumps(document))
    found = at_home.json("submit", "s.json", "--label", "of=test", "--timeout", "90s")["execution"]
    assert (found["kind"], found["priority"]) == ("job", "high")
    assert re.fullmatch(r"python:base:[0-9a-f]{8}", found["control"])
    assert found["labels"] == {"team": "red", "of": "test"}
    assert at_home.json("show", found["id"])["timeout_s"] == 90


def test_yaml_on_stdin_is_submitted_with_the_contract_that_it_names(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    contract = write_contract("echo $text")
    text = f"kind: tool\nrequest:\n  contract: {contract}\n  args: {{text: hello}}\n"
    done = at_home("submit", "-", "--wait", stdin=text.encode())
    assert (done.returncode, done.stdout) == (0, b"hello\n")


def test_the_same_key_is_the_same_execution(at_home: AtHome) -> None:
    first = at_home.json("submit", "-c", "1", "--key", "k")["execution"]["id"]
    assert at_home.json("submit", "-c", "1", "--key", "k")["execution"]["id"] == first
    other = at_home("submit", "-c", "2", "--key", "k")
    assert other.returncode == 2
    assert "k" in only_line(other.stderr)


def test_a_window_keeps_work_for_later(at_home: AtHome) -> None:
    found = at_home.json("submit", "-c", "1", "--opens", "+2h", "--closes", "+4h")["execution"]
    assert (found["status"], found["class"]) == ("submitted", "batch")
    shown = at_home("show", found["id"]).stdout.decode()
    assert "submitted: waits until " in shown.splitlines()[0]


def test_inputs_and_parameters_reach_a_job(at_home: AtHome) -> None:
    (at_home.cwd / "data").write_text("some")
    code = "open(inputs['d']).read() + parameters['p']"
    done = at_home.json("submit", "-c", code, "-i", "d=data", "-p", "p=thing", "--wait")
    assert done["execution"]["outputs"] == "something"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to submit (name a FILE, or give --job FILE, -c CODE, or --tool CONTRACT)"),
        (["--job", "a", "-c", "1"], "--code and --job: more than one thing to submit"),
        (["a", "b"], "FILE: more than one thing to submit"),
        (["nowhere.json"], "FILE: nowhere.json: No such file or directory"),
        (["bad.yaml"], "FILE: bad.yaml"),
        (["empty.json"], "FILE: empty.json: is empty"),
        (["list.json"], "FILE: list.json: holds no object"),
        (["kind.json"], "kind: there is no kind of work 'warp' (known: job, tool)"),
        (["field.json"], "colour: not a field of a submission"),
        (["payload.json"], "payload.code"),
        (["labels.json", "--label", "a=b"], "labels: ['red'] has the wrong form"),
        (["-c", "1", "--priority", "top"], "priority: there is no 'top'"),
        (["-c", "1", "--opens", "soon"], "--opens: 'soon' is not a valid time"),
        (["-c", "1", "--opens", "+99999999d"], "--opens: '+99999999d' is out of reach"),
        (["-c", "1", "--closes", "2020-01-01"], "schedule.closes_at: the window has passed"),
        (["-c", "1", "--opens", "+2h", "--closes", "+1h"], "--closes: the window ends before it begins"),
        (["-c", "1", "--timeout", "long"], "--timeout: "),
        (["-c", "1", "--label", "x"], "--label: 'x' is not of the form NAME=VALUE"),
        (["--tool", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(at_home: AtHome, words: list[str], told: str) -> None:
    (at_home.cwd / "bad.yaml").write_text("kind: [")
    (at_home.cwd / "empty.json").write_text(" ")
    (at_home.cwd / "list.json").write_text("[1]")
    (at_home.cwd / "kind.json").write_text('{"kind": "warp", "request": {}}')
    (at_home.cwd / "field.json").write_text('{"kind": "job", "request": {}, "colour": "red"}')
    (at_home.cwd / "labels.json").write_text('{"kind": "job", "request": {}, "labels": ["red"]}')
    payload = {"schema_version": "1.0", "runtime": "python", "env": "base", "code": 7}
    (at_home.cwd / "payload.json").write_text(json.dumps({"kind": "job", "request": payload}))
    done = at_home("submit", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in only_line(done.stderr)
    assert at_home.json("ps", "--all")["executions"] == []


# -- with --wait


def test_waiting_passes_output_on_and_ends_with_the_status_of_the_work(at_home: AtHome) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    done = at_home("submit", "-c", code, "--wait")
    assert (done.returncode, done.stdout) == (7, b"out\n")
    told = lines(done.stderr)
    assert told[0].startswith("praxis: submitted ")
    assert "err" in told
    assert told[-1].endswith("exited with code 7")
    quiet = at_home("submit", "-c", "print(1)", "--wait", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"1\n", b"")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-c", "while True: pass", "--timeout", "1s"], 124),
        (["-c", "x = b'x' * 10**9", "--memory", "64M"], 137),
        (["-c", "1/0"], 1),
        (["-c", "{'n': 1}"], 0),
    ],
)
def test_the_exit_status_is_that_of_exec(at_home: AtHome, words: list[str], status: int) -> None:
    found = at_home.json("submit", *words, "--wait")
    assert found["exit_status"] == status
    assert found["execution"]["ended_at"] is not None


def test_a_tool_runs_with_its_arguments(at_home: AtHome, write_contract: ContractWriter) -> None:
    contract = write_contract('echo "$text $count"; exit 3')
    done = at_home("submit", "--tool", contract, "-a", "text=a b", "-a", "count=4", "--wait")
    assert (done.returncode, done.stdout) == (3, b"a b 4\n")
    assert at_home("submit", "--tool", contract, "-a", "count=x").returncode == 2


def test_a_program_runs_with_its_words(at_home: AtHome) -> None:
    done = at_home("submit", "-r", "command", "--wait", "--", "echo", "-n", "x")
    assert (done.returncode, done.stdout) == (0, b"x")


def test_ctrl_c_ends_the_waiting_and_keeps_the_work(at_home: AtHome) -> None:
    process = at_home.start("submit", "-c", FOREVER, "--wait", "--timeout", "10m")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    told = lines(process.communicate(timeout=60)[1])
    assert process.returncode == 130
    execution = at_home.json("ps")["executions"][0]
    assert (execution["status"], execution["retries"]) == ("queued", 0)
    assert told[-1].startswith(f"praxis: SIGINT: {execution['id']} went back to the queue: ")
    assert at_home.json("show", execution["id"])["attempts"][0]["ending"] == "released"


def test_a_reader_that_leaves_ends_the_command(at_home: AtHome) -> None:
    process = at_home.start("submit", "-c", "while True: print('y' * 100)", "--wait", "--timeout", "10m")
    assert process.stdout.read(2) == b"yy"
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=60)
    assert process.returncode in (141, 137)  # it may have reached its limit of output before


def test_a_tool_of_an_engine_that_nobody_has_is_refused_when_it_is_submitted(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    (at_home.cwd / "tool.yaml").write_text(
        "name: pod\nengine: kubernetes\nengineSpec: {image: 'alpine:3', command: [echo, hi]}\n"
    )
    for words in (["tool.yaml"], [str(write_contract("true")), "--engine", "kubernetes"]):
        refused = at_home("submit", *words)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert only_line(refused.stderr) == (
            "praxis: engine: no 'kubernetes' engine exists in this version of Praxis "
            "(use --engine docker or --engine sandbox, or install a package that brings the engine)"
        )
    assert at_home("submit", "tool.yaml", "--engine", "docker", "--quiet").returncode == 0
