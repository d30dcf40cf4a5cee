"""`praxis batch` and `praxis schedule`: work that belongs together, and work that comes again."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.cli.conftest import AtHome, ContractWriter, only_line


def job(code: str) -> dict[str, Any]:
    """Return the submission of a job."""
    request = {"schema_version": "1.0", "runtime": "python", "env": "base", "code": code}
    return {"kind": "job", "request": request}


def write(at_home: AtHome, name: str, document: Any) -> str:
    """Write a document and return its name."""
    (at_home.cwd / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return name


# -- batch


def test_a_batch_is_run_and_reported_in_every_format(at_home: AtHome) -> None:
    file = write(at_home, "nightly.json", {"submissions": [job("[1]"), job("1/0"), job("[3]")]})
    done = at_home.json("batch", "submit", file, "--wait")
    assert (done["exit_status"], done["batch"]["name"], done["batch"]["size"]) == (1, "nightly", 3)
    assert done["summary"]["by_status"] == {"completed": 2, "failed": 1}
    batch_id = done["batch"]["id"]
    report = at_home.json("batch", "report", "nightly")
    assert report["complete"] is True
    assert [one["outputs"] for one in report["executions"]] == [[1], None, [3]]
    assert report["executions"][1]["error"]["code"] == "exception"
    assert at_home("batch", "report", batch_id[-8:]).stdout.startswith(b"# Batch nightly\n")
    page = at_home("batch", "report", batch_id, "-o", "report.html")
    assert (page.returncode, page.stdout, page.stderr) == (0, b"", b"praxis: wrote report.html\n")
    assert (at_home.cwd / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert [one["id"] for one in at_home.json("batch", "list")["batches"]] == [batch_id]
    assert len(at_home.json("ps", "--all", "--batch", "nightly")["executions"]) == 3


def test_a_batch_waits_for_its_window(at_home: AtHome) -> None:
    window = {"opens": "+1h", "closes": "+3h"}
    file = write(at_home, "b.json", {"name": "n", "window": window, "submissions": [job("1"), job("2")]})
    done = at_home("batch", "submit", file, "--priority", "low")
    batch_id = only_line(done.stdout)
    assert b"no worker takes such work now" in done.stderr
    found = at_home.json("ps", "--batch", batch_id)["executions"]
    assert [(one["status"], one["priority"], one["class"]) for one in found] == [
        ("submitted", "low", "batch")
    ] * 2
    assert at_home.json("batch", "report", batch_id)["complete"] is False


@pytest.mark.parametrize("name", ["b.jsonl", "-", "b.yaml"])
def test_a_batch_is_lines_of_json_a_list_or_yaml(
    at_home: AtHome, write_contract: ContractWriter, name: str
) -> None:
    contract = str(write_contract("true"))
    pieces = [{"kind": "tool", "request": {"contract": contract}}, job("1")]
    text = "\n".join(map(json.dumps, pieces))
    if name == "b.yaml":
        text = "submissions:\n" + "".join(f"- {json.dumps(piece)}\n" for piece in pieces)
    write(at_home, "b.jsonl" if name == "-" else name, text)
    done = at_home("batch", "submit", name, "--quiet", stdin=text.encode() if name == "-" else b"")
    assert done.returncode == 0, done.stderr
    found = at_home.json("ps")["executions"]
    assert {one["kind"] for one in found} == {"tool", "job"}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"submissions": [job("1"), {"kind": "job"}]}, "batch, piece 2: request: missing or no object"),
        ({"submissions": [job("1"), 7]}, "submissions[1]: is no object"),
        ({"submissions": []}, "batch: holds no work"),
        ({"name": "x"}, "submissions: missing or no list"),
        ({"submissions": [], "colour": 1}, "colour: not a field of a batch"),
        (
            {"submissions": [{**job("1"), "priority": "low"}]},
            "submissions[0]: priority: is said of the whole",
        ),
        ({"submissions": [job("1")], "window": "night"}, "window: is no window"),
        ("7", "FILE: holds no batch"),
    ],
)
def test_a_batch_is_refused_as_a_whole(at_home: AtHome, document: Any, told: str) -> None:
    done = at_home("batch", "submit", write(at_home, "b.json", document))
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in only_line(done.stderr)
    assert at_home.json("ps", "--all")["executions"] == []


def test_ctrl_c_ends_the_waiting_and_keeps_the_batch(at_home: AtHome) -> None:
    file = write(at_home, "b.json", {"submissions": [job("import signal; signal.pause()")]})
    process = at_home.start("batch", "submit", file, "--wait")
    first = process.stderr.readline().decode()
    batch_id = first.removeprefix("praxis: submitted ").split(":")[0]
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1].decode().splitlines()
    assert process.returncode == 130
    assert told[-1].startswith(f"praxis: SIGINT: {batch_id} stays: ")
    assert len(at_home.json("ps", "--batch", batch_id)["executions"]) == 1


def test_an_unknown_batch_is_one_line(at_home: AtHome) -> None:
    assert only_line(at_home("batch", "list").stdout).startswith("no batch yet")
    done = at_home("batch", "report", "nobody")
    assert done.returncode == 2
    assert "there is no batch 'nobody'" in only_line(done.stderr)


# -- schedule


def test_a_schedule_is_kept_until_it_is_removed(at_home: AtHome) -> None:
    file = write(at_home, "s.json", {**job("1"), "priority": "high"})
    assert only_line(at_home("schedule", "list").stdout).startswith("no schedule yet")
    added = at_home.json("schedule", "add", "daily", "0 3 * * *", file, "--timezone", "Europe/Berlin")
    assert added["schedule"]["next_at"] is not None
    (found,) = at_home.json("schedule", "list")["schedules"]
    assert (found["name"], found["cron"], found["timezone"]) == ("daily", "0 3 * * *", "Europe/Berlin")
    assert found["submission"]["priority"] == "high"
    assert at_home.json("schedule", "remove", "daily") == {"schema_version": 1, "removed": "daily"}
    gone = at_home("schedule", "remove", "daily")
    assert (gone.returncode, "there is no 'daily'" in only_line(gone.stderr)) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x", "every day", "s.json"], "schedule.cron: 'every day' is not a cron expression"),
        (["x", "0 3 * * *", "s.json", "-z", "Moon"], "schedule.timezone: there is no 'Moon'"),
        (["a b", "0 3 * * *", "s.json"], "schedule: 'a b' is no name"),
        (["x", "0 3 * * *", "window.json"], "opens: has no meaning in a schedule"),
        (["x", "0 3 * * *", "wrong.json"], "payload.code"),
    ],
)
def test_a_wrong_schedule_is_refused_now_rather_than_at_night(
    at_home: AtHome, words: list[str], told: str
) -> None:
    write(at_home, "s.json", job("1"))
    write(at_home, "window.json", {**job("1"), "opens": "+1h"})
    write(at_home, "wrong.json", {"kind": "job", "request": {**job("1")["request"], "code": 7}})
    done = at_home("schedule", "add", *words)
    assert done.returncode == 2
    assert told in only_line(done.stderr)
    assert at_home.json("schedule", "list")["schedules"] == []
