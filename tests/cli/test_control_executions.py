"""`praxis ps`, `show`, `logs`, `cancel`, `retry` and `metrics`, with workers in other processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import AtHome, only_line
from tests.cli.test_control_submit import FOREVER


def submitted(at_home: AtHome, *words: str) -> str:
    """Submit something and return its id."""
    return only_line(at_home("submit", *words, "--quiet").stdout)


def start_worker(at_home: AtHome, *words: str) -> Any:
    """Start a worker and return it when it takes work."""
    process = at_home.start("worker", *words)
    while b"takes work from" not in (line := process.stderr.readline()):
        assert line, "the worker ended"
    return process


@pytest.fixture
def worker(at_home: AtHome) -> Iterator[Any]:
    """A worker in a process of its own."""
    process = start_worker(at_home)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # the same one twice might arrive as one
    process.communicate(timeout=60)


def running(at_home: AtHome) -> tuple[str, Any]:
    """Submit something that never ends, and return its id and a follower, when it runs."""
    execution_id = submitted(at_home, "-c", FOREVER, "--timeout", "10m")
    follower = at_home.start("logs", "-f", execution_id)
    assert follower.stdout.readline() == b"ready\n"
    return execution_id, follower


# -- ps


def test_what_somebody_should_look_at_is_listed_when_asked(at_home: AtHome, worker: Any) -> None:
    execution_id, follower = running(at_home)
    assert at_home.json("ps", "--flagged")["executions"] == []
    worker.kill()
    worker.communicate(timeout=60)
    follower.kill()
    follower.communicate(timeout=60)
    at_home("cancel", execution_id)
    (found,) = at_home.json("ps", "--flagged")["executions"]
    assert (found["id"], found["status"], found["flags"]) == (execution_id, "cancelled", ["crashed"])


def test_an_empty_store_is_told(at_home: AtHome) -> None:
    assert only_line(at_home("ps").stdout) == "no such execution; 'praxis ps --all' shows those that ended"
    assert only_line(at_home("ps", "--all").stdout) == "no such execution"


def test_the_youngest_come_first_and_ended_ones_when_asked(at_home: AtHome) -> None:
    ended = at_home.json("submit", "-c", "1", "--wait")["execution"]["id"]
    first = submitted(at_home, "-c", "1", "--label", "x=y")
    second = submitted(at_home, "-c", "1", "--priority", "low")
    heading, *rows = at_home("ps").stdout.decode().splitlines()
    assert heading.split()[:4] == ["execution", "status", "priority", "work"]
    assert [row.split()[0] for row in rows] == [second, first]
    assert rows[0].split()[1:4] == ["queued", "low", "job"]
    assert rows[0].split()[4].startswith("python:base:")
    everything = at_home.json("ps", "--all")
    assert [one["id"] for one in everything["executions"]] == [second, first, ended]
    assert everything["more"] is False
    limited = at_home.json("ps", "--limit", "1")
    assert ([one["id"] for one in limited["executions"]], limited["more"]) == ([second], True)
    for words, found in (
        (["--label", "x=y"], [first]),
        (["--status", "completed"], [ended]),
        (["--kind", "tool"], []),
    ):
        assert [one["id"] for one in at_home.json("ps", *words)["executions"]] == found
    wrong = at_home("ps", "--status", "lost")
    assert (wrong.returncode, "--status: 'lost'" in only_line(wrong.stderr)) == (2, True)


# -- show


def test_an_execution_is_shown_in_full_by_the_end_of_its_id(at_home: AtHome) -> None:
    done = at_home.json("submit", "-c", "1/0", "--wait", "--label", "a=b")["execution"]
    shown = at_home("show", done["id"][-8:]).stdout.decode()
    assert shown.startswith(f"{done['id']} failed: ")
    for part in ("label        a=b", "USER_CODE_ERROR exception (permanent): ", "ZeroDivisionError", "1/0"):
        assert part in shown
    found = at_home.json("show", done["id"])
    assert found["execution"] == done
    assert [one["ending"] for one in found["attempts"]] == ["failed"]
    assert found["result"]["failure"]["code"] == "exception"


def test_it_is_said_why_something_waits(at_home: AtHome) -> None:
    execution_id = submitted(at_home, "-c", "1")
    assert at_home.json("show", execution_id)["why"].startswith("no worker takes such work now")


def test_an_id_that_fits_none_or_many_is_one_line(at_home: AtHome) -> None:
    ids = [submitted(at_home, "-c", "1") for _ in range(2)]
    common = ids[0][: next(place for place in range(36) if ids[0][place] != ids[1][place])]
    for text, told in (
        (common, "2 executions begin or end with"),
        ("nobody", "there is no execution 'nobody'"),
    ):
        for command in ("show", "logs", "cancel", "retry"):
            done = at_home(command, text)
            assert (done.returncode, done.stdout) == (2, b"")
            assert told in only_line(done.stderr)


# -- logs


def test_output_keeps_its_streams(at_home: AtHome) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    execution_id = at_home.json("submit", "-c", code, "--wait")["execution"]["id"]
    done = at_home("logs", execution_id)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    events = [json.loads(line) for line in at_home("logs", execution_id, "--json").stdout.splitlines()]
    assert [(one["message"], one["data"]["stream"]) for one in events] == [
        ("out", "stdout"),
        ("err", "stderr"),
    ]
    rest = at_home("logs", execution_id, "--json", "--after", str(events[0]["seq"])).stdout
    assert only_line(rest) == json.dumps(events[1])
    told = at_home("logs", execution_id, "--type", "status").stdout.decode()
    assert [line.split()[5] for line in told.splitlines()] == ["queued", "running", "completed"]
    every = at_home("logs", execution_id, "--type", "all", "--json").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in every] == list(range(len(every)))
    wrong = at_home("logs", execution_id, "--type", "logs")
    assert (wrong.returncode, "--type: 'logs'" in only_line(wrong.stderr)) == (2, True)


def test_following_runs_what_nobody_else_would(at_home: AtHome) -> None:
    execution_id = submitted(at_home, "-c", "print('here')")
    done = at_home("logs", "-f", execution_id)
    assert (done.returncode, done.stdout) == (0, b"here\n")
    assert at_home.json("show", execution_id)["execution"]["status"] == "completed"


def test_following_takes_over_from_a_worker_that_is_killed(at_home: AtHome) -> None:
    worker = start_worker(at_home)
    execution_id, follower = running(at_home)
    worker.kill()
    worker.communicate(timeout=60)
    assert follower.stdout.readline() == b"ready\n"  # the second attempt, in the follower's own process
    at_home("cancel", execution_id)
    follower.communicate(timeout=60)
    assert follower.returncode == 0
    found = at_home.json("show", execution_id)
    assert [one["ending"] for one in found["attempts"]] == ["lost", "cancelled"]
    assert found["execution"]["flags"] == ["crashed"]


# -- cancel and retry


def test_what_waits_is_cancelled_at_once(at_home: AtHome) -> None:
    first, second = submitted(at_home, "-c", "1"), submitted(at_home, "-c", "2")
    done = at_home("cancel", first, second, "--reason", "a mistake")
    assert done.stdout.decode().splitlines() == [f"{first} cancelled", f"{second} cancelled"]
    assert at_home.json("show", first)["execution"]["reason"] == "a mistake"
    again = at_home("cancel", first)
    assert (again.returncode, again.stdout.decode()) == (0, f"{first} cancelled (it had ended before)\n")


def test_a_wrong_id_among_others_cancels_none(at_home: AtHome) -> None:
    good = submitted(at_home, "-c", "1")
    assert at_home("cancel", good, "nobody").returncode == 2
    assert at_home.json("show", good)["execution"]["status"] == "queued"


def test_what_another_process_runs_is_cancelled(at_home: AtHome, worker: Any) -> None:
    execution_id, follower = running(at_home)
    row = at_home("ps").stdout.decode().splitlines()[1].split()
    assert row[:2] == [execution_id, "running"]
    assert row[8].endswith(at_home.json("show", execution_id)["execution"]["worker"])
    done = at_home.json("cancel", execution_id, "--wait")
    assert done["executions"] == [{"id": execution_id, "status": "cancelled", "asked": True}]
    follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert worker.poll() is None


def test_ctrl_c_ends_the_following_alone(at_home: AtHome, worker: Any) -> None:
    execution_id, follower = running(at_home)
    follower.send_signal(signal.SIGINT)
    told = only_line(follower.communicate(timeout=60)[1])
    assert follower.returncode == 130
    assert told.startswith(f"praxis: SIGINT: {execution_id} goes on: ")
    assert at_home.json("show", execution_id)["execution"]["status"] == "running"


def test_a_retry_is_a_new_execution(at_home: AtHome) -> None:
    old = at_home.json("submit", "-c", "print('again'); 1/0", "--wait")["execution"]["id"]
    done = at_home("retry", old, "--wait")
    assert (done.returncode, done.stdout) == (1, b"again\n")
    new = at_home.json("ps", "--all", "--limit", "1")["executions"][0]
    assert new["id"] != old
    assert new["labels"] == {"praxis.retry_of": old}
    waiting = submitted(at_home, "-c", "1")
    refused = at_home("retry", waiting)
    assert refused.returncode == 2
    assert "only what has ended is tried again" in only_line(refused.stderr)


# -- metrics


def test_metrics_count_what_ended(at_home: AtHome) -> None:
    for code in ("1", "1/0"):
        at_home("submit", "-c", code, "--wait", "--quiet")
    submitted(at_home, "-c", "2")
    numbers = at_home.json("metrics", "--window", "10m")["metrics"]
    assert (numbers["completed_executions"], numbers["failed_executions"]) == (1, 1)
    assert (numbers["queue_depth"], numbers["success_rate"]) == (1, 50.0)
    shown = at_home("metrics").stdout.decode()
    assert "success rate         50.0 %" in shown
    page = at_home("metrics", "--prometheus").stdout.decode()
    assert 'praxis_executions{status="queued"} 1.0' in page
    assert at_home("metrics", "--window", "x").returncode == 2
