"""`praxis worker`: it takes work, ends in good order, and what it leaves is taken up by others."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from praxis_sdk.cli import worker_service
from praxis_sdk.model import Execution
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.protocol import Counts
from tests.cli.conftest import AtHome, ContractWriter, only_line
from tests.cli.test_control_batch import job, write
from tests.cli.test_control_executions import running, start_worker, submitted


def test_draining_works_until_nothing_is_left(at_home: AtHome) -> None:
    ids = [submitted(at_home, "-c", f"[{number}]") for number in range(3)]
    later = submitted(at_home, "-c", "1", "--opens", "+2h")
    file = write(at_home, "s.json", job("1"))
    assert at_home("schedule", "add", "yearly", "0 0 1 1 *", file).returncode == 0
    done = at_home("worker", "--drain")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"praxis: nothing is left to do\n" in done.stderr
    found = {one["id"]: one["status"] for one in at_home.json("ps", "--all")["executions"]}
    assert found == {**dict.fromkeys(ids, "completed"), later: "submitted"}
    assert at_home("worker", "--drain", "--quiet").stderr == b""  # and nothing to do is no work


def test_draining_does_not_wait_for_what_no_worker_can_hold(at_home: AtHome) -> None:
    submitted(at_home, "-c", "1", "--memory", "2G")
    done = at_home("worker", "--drain", "--memory", "1G")
    assert done.returncode == 0
    assert b"praxis: 1 wait that no worker here can run: 'praxis ps' shows them\n" in done.stderr
    (found,) = at_home.json("ps")["executions"]
    assert (found["status"], found["attempt"]) == ("queued", 0)
    assert at_home("worker", "--drain", "--memory", "8G", "--quiet").returncode == 0
    assert at_home.json("show", found["id"])["execution"]["status"] == "completed"


@pytest.mark.parametrize(
    ("needs", "offer"),
    [
        ({"gpus": 1}, ["--gpus", "1"]),
        ({"network_mbps": 2000}, ["--network", "2500"]),
        ({"storage_mb": 1 << 30}, ["--storage", "1025T"]),
    ],
)
def test_work_waits_for_a_worker_that_offers_what_it_needs(
    at_home: AtHome, needs: dict[str, int], offer: list[str]
) -> None:
    file = write(at_home, "s.json", {**job("1"), "requirements": needs})
    execution_id = submitted(at_home, file)
    assert at_home("worker", "--drain", "--quiet").returncode == 0
    assert at_home.json("show", execution_id)["execution"]["status"] == "queued"
    assert at_home("worker", "--drain", "--quiet", "--slots", "2", "--max-slots", "4", *offer).returncode == 0
    assert at_home.json("show", execution_id)["execution"]["status"] == "completed"


def test_the_first_signal_finishes_what_runs(at_home: AtHome) -> None:
    worker = start_worker(at_home)
    execution_id, follower = running(at_home)
    worker.send_signal(signal.SIGTERM)
    while b"SIGTERM: takes no more work; finishing 1 that run" not in (line := worker.stderr.readline()):
        assert line
    at_home("cancel", execution_id, "--wait")
    told = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0
    assert b"gone" in told
    follower.communicate(timeout=60)


def test_the_second_signal_gives_it_back(at_home: AtHome) -> None:
    worker = start_worker(at_home)
    execution_id, follower = running(at_home)
    worker.send_signal(signal.SIGTERM)
    while b"finishing 1 that run" not in (line := worker.stderr.readline()):
        assert line
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=60)
    worker.send_signal(signal.SIGINT)
    assert b"giving back 1 that run" in worker.communicate(timeout=60)[1]
    assert worker.returncode == 130
    found = at_home.json("show", execution_id)
    assert found["attempts"][0]["ending"] == "released"
    assert found["execution"]["retries"] == 0


def test_what_a_killed_worker_held_is_run_by_the_next(at_home: AtHome) -> None:
    worker = start_worker(at_home)
    execution_id, follower = running(at_home)
    follower.kill()
    follower.communicate(timeout=60)
    worker.kill()
    worker.communicate(timeout=60)
    found = at_home.json("show", execution_id)  # asking is enough to find out
    assert found["execution"]["status"] == "submitted"
    assert found["attempts"][0]["ending"] == "lost"
    at_home("cancel", execution_id)
    assert at_home("worker", "--drain", "--quiet").returncode == 0


def test_two_workers_share_the_work_and_start_nothing_twice(at_home: AtHome) -> None:
    file = write(at_home, "b.json", {"submissions": [job(f"[{number}]") for number in range(12)]})
    batch_id = only_line(at_home("batch", "submit", file, "--quiet").stdout)
    workers = [at_home.start("worker", "--drain", "--quiet", "--slots", "2") for _ in range(2)]
    for worker in workers:
        assert worker.communicate(timeout=90) == (b"", b"")
        assert worker.returncode == 0
    report = at_home.json("batch", "report", batch_id)
    assert report["summary"]["by_status"] == {"completed": 12}
    assert {one["attempts"] for one in report["executions"]} == {1}
    assert at_home.json("audit", "verify")["intact"] is True


def test_metrics_are_served_to_prometheus(at_home: AtHome) -> None:
    submitted(at_home, "-c", "1", "--opens", "+2h")
    ended = submitted(at_home, "-c", "1")
    process = at_home.start("worker", "--metrics-port", "0")
    url = re.search(rb"metrics at (http://\S+)", process.stderr.readline() + process.stderr.readline())
    assert url is not None
    assert at_home("logs", "-f", ended).returncode == 0
    with urllib.request.urlopen(url[1].decode(), timeout=30) as answer:
        page = answer.read().decode()
    assert 'praxis_executions{status="submitted"} 1.0' in page
    assert "praxis_workers 1.0" in page
    assert 'praxis_executions_ended_total{error_type="none",kind="job",status="completed"} 1.0' in page
    assert re.search(r'praxis_jobs_total\{.*status="completed"\} 1.0', page), "its jobs are counted, too"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url[1].decode() + "/other", timeout=30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metrics-port", "http"], "--metrics-port: 'http' is no port"),
        (["--memory", "much"], "--memory: "),
        (["--slots", "0"], "--slots"),
        (["--storage", "much"], "--storage: "),
        (["--gpus", "-1"], "--gpus"),
        (["--network", "0"], "--network"),
        (["--max-slots", "8"], "--max-slots: "),
        (["--slots", "9", "--max-slots", "8"], "--max-slots: "),
    ],
)
def test_a_wrong_offer_is_one_line(at_home: AtHome, words: list[str], told: str) -> None:
    done = at_home("worker", *words)
    assert done.returncode == 2
    assert told in only_line(done.stderr)


def test_every_attempt_is_told_which_one_it_is(at_home: AtHome, write_contract: ContractWriter) -> None:
    told = 'echo "$PRAXIS_ATTEMPT $PRAXIS_IDEMPOTENCY_KEY $PRAXIS_FENCING_TOKEN"'
    script = f'{told}; test "$PRAXIS_ATTEMPT" = 2 || exit 75'
    contract = write_contract(script, spec={"env": {"PRAXIS_FENCING_TOKEN": "forged"}})
    done = at_home(
        "submit", "--tool", contract, "--trust", "--retry-exit", "75", "--key", "order-7", "--wait", "--quiet"
    )
    first, second = (line.split() for line in done.stdout.decode().splitlines())
    assert [first[:2], second[:2]] == [["1", "order-7"], ["2", "order-7"]]
    assert 0 < int(first[2]) < int(second[2])


async def test_work_that_moves_on_while_it_is_counted_keeps_a_draining_worker() -> None:
    class Moving:
        """A store whose only execution is started between the count and the look."""

        async def counts(self) -> Counts:
            return Counts({ExecutionStatus.SUBMITTED: 1}, None)

        async def find(self, *_: object, **__: object) -> list[Execution]:
            return []

    assert await worker_service._left_over(SimpleNamespace(store=Moving())) is None
