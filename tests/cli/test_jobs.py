"""`praxis jobs`, `job`, `replay` and `artifact`: what was run stays known, and can be run again."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from tests.cli.conftest import AtHome, only_line


def run(at_home: AtHome, *words: str) -> dict[str, Any]:
    """Run a job and return its result."""
    result: dict[str, Any] = at_home.json("exec", *words)["result"]
    return result


# -- jobs and job


def test_jobs_are_listed_the_youngest_first(at_home: AtHome) -> None:
    assert at_home("jobs").stdout == b"no job yet; 'praxis exec' runs one\n"
    good, bad = run(at_home, "-c", "1"), run(at_home, "-c", "1/0")
    heading, first, second = at_home("jobs").stdout.decode().splitlines()
    assert heading.startswith("job ")
    assert first.split()[0] == bad["job_id"]
    assert "failed" in first
    assert "exception" in first
    assert second.split()[0] == good["job_id"]
    brief = at_home.json("jobs", "--limit", "1")
    assert (brief["total"], [one["job_id"] for one in brief["jobs"]]) == (2, [bad["job_id"]])
    assert at_home("jobs", "--limit", "0").returncode == 2


def test_a_job_can_be_looked_at_in_full(at_home: AtHome) -> None:
    code = "print('said \\x1b[2J'); open('a.txt', 'w').write('a'); {'n': parameters['n']}"
    result = run(at_home, "-c", code, "-p", "n=4", "--input-json", "j=[1]")
    shown = at_home("job", result["job_id"]).stdout.decode()
    for part in ('parameters   {"n": 4}', "input        j: [1]", "  print('said", '    "n": 4', "a.txt"):
        assert part in shown
    assert "  said \\x1b[2J\n" in shown
    found = at_home.json("job", result["job_id"])
    assert found["result"] == result
    assert found["payload"]["code"] == code


def test_an_unknown_job_is_one_line(at_home: AtHome) -> None:
    for command in ("job", "replay"):
        done = at_home(command, "nobody")
        assert done.returncode == 2
        assert only_line(done.stderr) == (
            "praxis: job 'nobody' is not known here ('praxis jobs' lists those that are)"
        )


# -- replay


def test_a_replay_of_a_deterministic_job_is_equal(at_home: AtHome) -> None:
    (at_home.cwd / "data").write_text("data")
    code = "import random; open('a.txt', 'w').write(open(inputs['d']).read()); [random.random(), hash('x')]"
    result = run(at_home, "-c", code, "-i", "d=data")
    os.unlink(at_home.cwd / "data")  # its bytes are kept
    done = at_home("replay", result["job_id"])
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.decode().splitlines()[1:]]
    assert [row[:-2] for row in rows] == [
        ["status", "same"],
        ["outputs", "same"],
        ["artifact", "a.txt", "same"],
    ]
    assert only_line(done.stderr).endswith(f"all is the same as in {result['job_id']}")


def test_a_replay_of_what_chance_decides_differs(at_home: AtHome) -> None:
    code = "import os; open('r.bin', 'wb').write(os.urandom(16)); open('s.txt', 'w').write('s')"
    result = run(at_home, "-c", code)
    done = at_home("replay", result["job_id"])
    assert done.returncode == 1
    verdicts = {line.split()[1]: line for line in done.stdout.decode().splitlines()}
    assert "different" in verdicts["r.bin"]
    assert "same" in verdicts["s.txt"]
    found = at_home.json("replay", result["job_id"])
    assert found["equal"] is False
    assert {one["what"]: one["same"] for one in found["comparison"]} == {
        "status": True,
        "outputs": True,
        "artifact r.bin": False,
        "artifact s.txt": True,
    }
    assert found["replayed_as"] != result["job_id"]


def test_a_replay_of_a_failure_is_equal_when_it_fails_again(at_home: AtHome) -> None:
    result = run(at_home, "-c", "1/0")
    done = at_home("replay", result["job_id"], "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"failed (exception)" in done.stdout


def test_a_replay_of_a_served_result_runs_it(at_home: AtHome) -> None:
    run(at_home, "-c", "[1]")
    served = run(at_home, "-c", "[1]")
    assert served["from_cache"]
    found = at_home.json("replay", served["job_id"])
    assert found["equal"] is True
    assert at_home.json("job", found["replayed_as"])["result"]["from_cache"] is False


# -- artifacts


def test_an_artifact_is_read_by_its_digest(at_home: AtHome) -> None:
    content = bytes(range(256)) * 5000
    (at_home.cwd / "data").write_bytes(content)
    code = "import shutil; shutil.copy(inputs['d'], 'copy.bin')"
    digest = run(at_home, "-c", code, "-i", "d=data")["artifacts"][0]["digest"]
    assert at_home("artifact", "get", digest).stdout == content
    assert at_home("artifact", "get", digest, "-o", "got").returncode == 0
    assert (at_home.cwd / "got").read_bytes() == content


@pytest.mark.parametrize(
    ("digest", "status", "told"),
    [("sha256:xyz", 2, "is not a digest"), (f"sha256:{'0' * 64}", 3, "is not in the store")],
)
def test_what_is_no_artifact_is_one_line(at_home: AtHome, digest: str, status: int, told: str) -> None:
    done = at_home("artifact", "get", digest, "-o", "got")
    assert (done.returncode, done.stdout) == (status, b"")
    assert told in only_line(done.stderr)
    assert os.listdir(at_home.cwd) == []


def test_garbage_collection_keeps_what_a_job_names(at_home: AtHome) -> None:
    (at_home.cwd / "data").write_text("an input")
    code = "open('a.txt', 'w').write('an output')"
    digest = run(at_home, "-c", code, "-i", "d=data")["artifacts"][0]["digest"]
    forgotten = run(at_home, "-c", "open('b.txt', 'w').write('forgotten')")
    garbage = forgotten["artifacts"][0]["digest"]
    for record in (at_home.home / "results/jobs").iterdir():
        if json.loads(record.read_bytes())["result"]["job_id"] == forgotten["job_id"]:
            record.unlink()
    assert at_home.json("artifact", "gc")["kept_young"] == 3
    two_days_ago = time.time() - 2 * 24 * 3600
    for stored in (at_home.home / "artifacts/sha256").glob("*/*"):
        os.utime(stored, (two_days_ago, two_days_ago))
    assert at_home.json("artifact", "gc", "--dry-run")["removed"] == [garbage]
    done = at_home.json("artifact", "gc")
    assert (done["removed"], done["kept_referenced"]) == ([garbage], 2)
    assert at_home("artifact", "get", digest).stdout == b"an output"
    assert at_home("artifact", "get", garbage).returncode == 3
