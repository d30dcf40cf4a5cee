"""Kept results: durable when `keep` returns, whole or not at all, shared syncs, and equal jobs."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.artifacts import ArtifactStoreUnavailable
from praxis_sdk.jobs.executor import commit
from praxis_sdk.jobs.executor.commit import FileGroupCommit, PendingFile
from praxis_sdk.jobs.executor.result import JobResult, JobTimings
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.states import ExecutionStatus
from tests.jobs.conftest import payload

KEY = "a" * 64


def completed(job_id: str, **fields: Any) -> JobResult:
    timings = JobTimings(queued_at=datetime(2026, 1, 31, tzinfo=UTC))
    fields = {"outputs": {"value": "ü"}, "dedupe_key": KEY, "timings": timings} | fields
    return JobResult(job_id=job_id, status=ExecutionStatus.COMPLETED, **fields)


class Syncs:
    """Counts syncs, says what was synced, and holds them up or has them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.error: OSError | None = None
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, fd: int) -> None:
        self.begun.set()
        self.go.wait(30)
        if self.error is not None:
            raise self.error
        self._sync(fd)
        self.synced.append(os.readlink(f"/proc/self/fd/{fd}"))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Syncs]:
    made = Syncs(monkeypatch)
    yield made
    made.go.set()


async def test_a_kept_result_comes_back_as_it_was(tmp_path: Path) -> None:
    job = payload(
        code="1", parameters={"n": [1, 1.0, -0.0, 2**64 - 1]}, provenance={"document_revision": "r"}
    )
    result = completed(job.job_id, outputs=[1, 1.0, "\x7f\u2028ü", None])
    await ResultStore(tmp_path).keep(job, result)
    record = ResultStore(tmp_path).get(job.job_id)
    assert (record.payload, record.result) == (job, result)
    assert json.dumps(record.result.to_json()) == json.dumps(result.to_json())
    assert json.dumps(record.payload.to_json()) == json.dumps(job.to_json())
    assert [one.payload.job_id for one in ResultStore(tmp_path).list()] == [job.job_id]


async def test_file_and_folders_are_synced_before_it_returns(tmp_path: Path, syncs: Syncs) -> None:
    job = payload(code="1")
    await ResultStore(tmp_path).keep(job, completed(job.job_id))
    jobs = tmp_path / "results" / "jobs"
    assert [Path(path).parent for path in syncs.synced if path.endswith(".new")] == [jobs]
    assert str(jobs) in syncs.synced, "the name is durable, too"
    assert {str(tmp_path), str(tmp_path / "results")} <= set(syncs.synced), (
        "and so is each folder that was made"
    )


async def test_it_does_not_return_before_the_sync(tmp_path: Path, syncs: Syncs) -> None:
    syncs.go.clear()
    keeping = asyncio.ensure_future(FileGroupCommit().keep(PendingFile(str(tmp_path / "a"), b"a")))
    await asyncio.to_thread(syncs.begun.wait, 30)
    assert not keeping.done()
    assert not (tmp_path / "a").exists(), "nothing has the name that is not whole"
    syncs.go.set()
    await keeping
    assert (tmp_path / "a").read_bytes() == b"a"


async def test_those_who_come_meanwhile_share_the_next_sync_of_the_folder(
    tmp_path: Path, syncs: Syncs
) -> None:
    syncs.go.clear()
    commits = FileGroupCommit()
    first = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "first"), b"first")))
    await asyncio.to_thread(syncs.begun.wait, 30)
    rest = [
        asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / f"{n}"), b"%d" % n))) for n in range(10)
    ]
    await asyncio.sleep(0)
    syncs.go.set()
    await asyncio.gather(first, *rest)
    assert syncs.synced.count(str(tmp_path)) == 2
    assert [(tmp_path / f"{n}").read_bytes() for n in range(10)] == [b"%d" % n for n in range(10)]
    assert not list(tmp_path.glob("*.new"))


async def test_a_batch_is_bounded_and_everybody_is_served(tmp_path: Path, syncs: Syncs) -> None:
    commits = FileGroupCommit()
    count = 3 * commit.MAX_BATCH
    await asyncio.gather(*(commits.keep(PendingFile(str(tmp_path / f"{n}"), b"x")) for n in range(count)))
    assert len(os.listdir(tmp_path)) == count
    assert 4 <= syncs.synced.count(str(tmp_path)) <= 5


async def test_whoever_is_cancelled_stops_nobody_else(tmp_path: Path, syncs: Syncs) -> None:
    syncs.go.clear()
    commits = FileGroupCommit()
    leader = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "leader"), b"")))
    await asyncio.to_thread(syncs.begun.wait, 30)
    dropped = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "dropped"), b"")))
    other = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "other"), b"")))
    await asyncio.sleep(0)
    leader.cancel()
    dropped.cancel()
    await asyncio.sleep(0)
    syncs.go.set()
    await other
    assert leader.cancelled()
    assert dropped.cancelled()
    assert (tmp_path / "other").exists()


async def test_one_that_cannot_be_written_fails_alone(tmp_path: Path, syncs: Syncs) -> None:
    syncs.go.clear()
    commits = FileGroupCommit()
    (tmp_path / "file").write_text("")
    first = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "first"), b"")))
    await asyncio.to_thread(syncs.begun.wait, 30)
    bad = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "file" / "below"), b"")))
    folder = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path), b"")))
    good = asyncio.ensure_future(commits.keep(PendingFile(str(tmp_path / "good"), b"good")))
    await asyncio.sleep(0)
    syncs.go.set()
    ends = await asyncio.gather(first, bad, folder, good, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), NotADirectoryError, IsADirectoryError, type(None)]
    assert (tmp_path / "good").read_bytes() == b"good"
    assert not [*tmp_path.glob("*.new"), *tmp_path.parent.glob("*.new")]


async def test_a_sync_that_fails_is_no_kept_result(tmp_path: Path, syncs: Syncs) -> None:
    store = ResultStore(tmp_path)
    job = payload(code="1")
    await store.keep(job, completed(job.job_id, outputs=1))
    syncs.error = OSError(28, "No space left on device")
    with pytest.raises(ArtifactStoreUnavailable, match=r"cannot be kept in .*: No space left on device"):
        await store.keep(job, completed(job.job_id, outputs=2))
    with pytest.raises(ArtifactStoreUnavailable):
        store.put(job, completed(job.job_id, outputs=3))
    assert store.get(job.job_id).result.outputs == 1, "what was kept before is still there"
    assert not list((tmp_path / "results" / "jobs").glob("*.new"))
    syncs.error = None
    await store.keep(job, completed(job.job_id, outputs=4))
    assert store.get(job.job_id).result.outputs == 4


async def test_who_keeps_while_the_loop_gives_no_threads_is_told(tmp_path: Path) -> None:
    await asyncio.get_running_loop().shutdown_default_executor()
    job = payload(code="1")
    with pytest.raises(ArtifactStoreUnavailable, match="cannot be kept"):
        await ResultStore(tmp_path).keep(job, completed(job.job_id))


async def test_a_large_result_is_kept_as_well(tmp_path: Path) -> None:
    job = payload(code="1", inputs={"a": {"text": "ü" * 400_000}})
    store = ResultStore(tmp_path)
    await store.keep(job, completed(job.job_id))
    assert store.get(job.job_id).payload == job


async def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    job = payload(code="1")
    with pytest.raises(ArtifactStoreUnavailable, match="Not a directory"):
        await ResultStore(tmp_path / "home").keep(job, completed(job.job_id))


# -- equal jobs


async def test_a_completed_job_answers_for_equal_ones_and_the_last_one_wins(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert not store.may_have_equal(KEY)
    job = payload(code="1")
    for number in range(3):
        job = payload(code="1")
        await store.keep(job, completed(job.job_id, outputs=number))
        assert store.may_have_equal(KEY)
        assert (found := store.equal(KEY)) is not None
        assert (found.outputs, found.job_id) == (number, job.job_id)
    await store.keep(job, completed(job.job_id, outputs="again"))
    assert (found := store.equal(KEY)) is not None
    assert found.outputs == "again"
    assert len(os.listdir(tmp_path / "results" / "keys")) == 1


async def test_a_failed_or_served_job_answers_for_nobody(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    job = payload(code="1")
    await store.keep(job, completed(job.job_id, from_cache=True))
    await store.keep(job, JobResult(job_id=job.job_id, status=ExecutionStatus.CANCELLED, dedupe_key=KEY))
    assert not store.may_have_equal(KEY)
    assert store.equal(KEY) is None


async def test_a_job_that_was_removed_or_replaced_answers_for_nobody(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    job = payload(code="1")
    await store.keep(job, completed(job.job_id))
    await store.keep(job, completed(job.job_id, dedupe_key="b" * 64))
    assert store.equal(KEY) is None, "its artifacts are referenced by nothing any more"
    assert store.equal("b" * 64) is not None
    for path in (tmp_path / "results" / "jobs").iterdir():
        path.unlink()
    assert store.equal("b" * 64) is None


@pytest.mark.parametrize("content", [b"", b"job-1", b"{", b"\xff", b'{"format":2}', b"[]"])
async def test_a_damaged_key_answers_for_nobody_and_is_mended_by_the_next_job(
    tmp_path: Path, content: bytes
) -> None:
    store = ResultStore(tmp_path)
    (tmp_path / "results" / "keys").mkdir(parents=True)
    (tmp_path / "results" / "keys" / KEY).write_bytes(content)
    assert store.equal(KEY) is None
    job = payload(code="1")
    await store.keep(job, completed(job.job_id))
    assert store.equal(KEY) is not None


async def test_a_copy_of_a_home_answers_as_the_original(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    job = payload(code="1")
    await store.keep(job, completed(job.job_id))
    key = tmp_path / "results" / "keys" / KEY
    content = key.read_bytes()
    key.unlink()
    key.write_bytes(content)  # a copy knows of no second names
    assert store.equal(KEY) == store.get(job.job_id).result


async def test_what_is_not_known_or_damaged_is_told(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    with pytest.raises(ValidationError, match="job 'nobody' is not known here"):
        store.get("nobody")
    job = payload(code="1")
    await store.keep(job, completed(job.job_id))
    next((tmp_path / "results" / "jobs").iterdir()).write_bytes(b"{")
    with pytest.raises(PlatformError, match="is damaged"):
        store.get(job.job_id)
