"""What every queue of jobs promises; a test module per implementation derives from `QueueConformance`.

A deriving class supplies the fixtures `clock` (a `ManualClock` that the queue follows) and `queue`, made with
`LEASE_S`, `MAX_QUEUED` and `MAX_LOST`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.queue import Claim, Clock, DuplicateJob, JobQueue, JobState, QueueFull, UnknownJob
from praxis_sdk.jobs.result import FailureCode, JobFailure, JobResult
from praxis_sdk.states import ExecutionStatus, FailureCategory

LEASE_S = 30.0
MAX_QUEUED = 5
MAX_LOST = 3

COMPLETED = ExecutionStatus.COMPLETED
CANCELLED = ExecutionStatus.CANCELLED


class ManualClock(Clock):
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self._seconds = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._numbers), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass; whoever sleeps wakes at its own moment, in order, and does what it does."""
        until = self._seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            moment, _, future = heapq.heappop(self._sleepers)
            self._seconds = max(self._seconds, moment)
            if not future.done():
                future.set_result(None)
                await settle()
        self._seconds = until
        await settle()


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(50):
        await asyncio.sleep(0)


def document(job_id: str = "a", **fields: object) -> dict[str, object]:
    return {"schema_version": "1.0", "job_id": job_id, "runtime": "python", "code": "1", **fields}


def result_of(claim: Claim, status: ExecutionStatus = COMPLETED) -> JobResult:
    failure = None
    if status is ExecutionStatus.FAILED:
        failure = JobFailure(
            category=FailureCategory.USER_CODE_ERROR, code=FailureCode.EXCEPTION, message="failed"
        )
    return JobResult.model_validate({"job_id": claim.job_id, "status": status, "failure": failure})


async def claimed(queue: JobQueue, worker_id: str = "w") -> Claim:
    claim = await queue.claim(worker_id)
    assert claim is not None
    return claim


class QueueConformance:
    async def test_jobs_are_claimed_in_the_order_in_which_they_came(self, queue: JobQueue) -> None:
        for job_id in ("c", "a", "b"):
            await queue.submit(document(job_id))
        assert [(await claimed(queue)).job_id for _ in range(3)] == ["c", "a", "b"]
        assert await queue.claim("w") is None

    async def test_a_claim_tells_what_was_submitted_and_how_long_it_waited(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        submitted_at = clock.now()
        await queue.submit(document(code="40 + 2", unknown=["kept"]))
        await clock.advance(7)
        claim = await claimed(queue, "worker-7")
        assert claim.document == document(code="40 + 2", unknown=["kept"])
        assert (claim.queued_at, claim.queue_s) == (submitted_at, 7)
        assert (claim.worker_id, claim.lease_s) == ("worker-7", LEASE_S)
        assert not claim.cancelled.is_set()

    async def test_a_job_goes_from_queued_to_running_to_its_end(self, queue: JobQueue) -> None:
        await queue.submit(document())
        assert await queue.status("a") is JobState.QUEUED
        claim = await claimed(queue)
        assert await queue.status("a") is JobState.RUNNING
        assert await queue.complete(claim, result_of(claim, ExecutionStatus.FAILED))
        assert await queue.status("a") is JobState.FAILED
        assert (await queue.result("a")).failure is not None

    @pytest.mark.parametrize("stage", ["queued", "running", "ended"])
    async def test_an_id_is_used_once(self, queue: JobQueue, stage: str) -> None:
        await queue.submit(document())
        if stage != "queued":
            claim = await claimed(queue)
            if stage == "ended":
                await queue.complete(claim, result_of(claim))
        with pytest.raises(DuplicateJob, match="'a'"):
            await queue.submit(document())

    @pytest.mark.parametrize("job_id", [None, 7, "", "../x", "a b", "x" * 129, "a\n"])
    async def test_a_job_without_a_proper_id_is_refused(self, queue: JobQueue, job_id: object) -> None:
        with pytest.raises(ValidationError, match="job_id"):
            await queue.submit({**document(), "job_id": job_id})

    async def test_a_full_queue_names_its_limit(self, queue: JobQueue) -> None:
        for number in range(MAX_QUEUED):
            await queue.submit(document(f"job-{number}"))
        with pytest.raises(QueueFull, match=f"{MAX_QUEUED} jobs"):
            await queue.submit(document("one-more"))
        with pytest.raises(UnknownJob):
            await queue.status("one-more")
        await claimed(queue)
        await queue.submit(document("one-more"))

    async def test_what_is_not_known_is_said_to_be_so(self, queue: JobQueue) -> None:
        for ask in (queue.status, queue.result, queue.cancel):
            with pytest.raises(UnknownJob, match="'nobody'"):
                await ask("nobody")

    # -- waiting

    async def test_wait_returns_at_once_when_a_job_waits(self, queue: JobQueue) -> None:
        await queue.submit(document())
        await queue.wait()

    async def test_wait_returns_when_a_job_comes(self, queue: JobQueue) -> None:
        waiting = [asyncio.ensure_future(queue.wait()) for _ in range(3)]
        await settle()
        assert not any(task.done() for task in waiting)
        await queue.submit(document())
        await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_a_result_is_waited_for(self, queue: JobQueue) -> None:
        await queue.submit(document())
        waiting = asyncio.ensure_future(queue.result("a"))
        claim = await claimed(queue)
        await settle()
        assert not waiting.done()
        await queue.complete(claim, result_of(claim))
        assert (await asyncio.wait_for(waiting, 10)).status is COMPLETED

    async def test_who_stops_waiting_takes_nothing_along(self, queue: JobQueue) -> None:
        await queue.submit(document())
        waiting = asyncio.ensure_future(queue.result("a"))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        claim = await claimed(queue)
        assert await queue.complete(claim, result_of(claim))
        assert (await queue.result("a")).status is COMPLETED

    # -- tokens and leases

    async def test_a_second_completion_is_discarded(self, queue: JobQueue) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        assert await queue.complete(claim, result_of(claim))
        assert not await queue.complete(claim, result_of(claim, ExecutionStatus.FAILED))
        assert await queue.status("a") is JobState.COMPLETED
        assert (await queue.counts()).discarded == 1

    async def test_a_lease_that_ran_out_gives_the_job_to_another(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        await queue.submit(document())
        first = await claimed(queue, "first")
        waiting = asyncio.ensure_future(queue.wait())
        await clock.advance(LEASE_S)
        await asyncio.wait_for(waiting, 10)
        second = await claimed(queue, "second")
        assert second.token > first.token
        assert not await queue.heartbeat(first)
        assert not await queue.release(first)
        assert not await queue.complete(first, result_of(first))
        assert await queue.status("a") is JobState.RUNNING
        assert await queue.complete(second, result_of(second))
        counts = await queue.counts()
        assert (counts.discarded, counts.lost) == (1, 1)

    async def test_heartbeats_keep_a_job(self, queue: JobQueue, clock: ManualClock) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        for _ in range(5):
            await clock.advance(LEASE_S - 1)
            assert await queue.heartbeat(claim)
        assert await queue.complete(claim, result_of(claim))

    async def test_a_job_that_loses_every_worker_ends(self, queue: JobQueue, clock: ManualClock) -> None:
        await queue.submit(document())
        for _ in range(MAX_LOST):
            await claimed(queue)
            await clock.advance(LEASE_S)
        assert await queue.claim("w") is None
        failure = (await queue.result("a")).failure
        assert failure is not None
        assert (failure.category, failure.code) == (FailureCategory.INTERNAL_ERROR, FailureCode.WORKER_LOST)

    async def test_a_released_job_is_the_next_and_loses_nothing(self, queue: JobQueue) -> None:
        for job_id in ("a", "b"):
            await queue.submit(document(job_id))
        for _ in range(MAX_LOST + 1):
            claim = await claimed(queue)
            assert claim.job_id == "a"
            assert await queue.release(claim)
        assert not await queue.release(claim)
        assert await queue.status("a") is JobState.QUEUED

    async def test_a_result_of_another_job_is_an_error(self, queue: JobQueue) -> None:
        for job_id in ("a", "b"):
            await queue.submit(document(job_id))
        first, second = await claimed(queue), await claimed(queue)
        with pytest.raises(ValueError, match="'b'"):
            await queue.complete(first, result_of(second))
        assert await queue.complete(first, result_of(first))

    # -- cancellation

    async def test_a_queued_job_is_cancelled_at_once(self, queue: JobQueue) -> None:
        await queue.submit(document())
        assert await queue.cancel("a") is JobState.CANCELLED
        assert (await queue.result("a")).status is CANCELLED
        assert await queue.claim("w") is None
        assert (await queue.counts()).queued == 0

    async def test_a_running_job_is_cancelled_by_its_worker(self, queue: JobQueue) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        assert await queue.cancel("a") is JobState.CANCELLING
        await asyncio.wait_for(claim.cancelled.wait(), 10)
        assert await queue.heartbeat(claim), "its worker still holds it"
        assert await queue.complete(claim, result_of(claim, CANCELLED))
        assert await queue.status("a") is JobState.CANCELLED

    async def test_the_late_result_of_a_cancelled_job_is_discarded(self, queue: JobQueue) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        await queue.cancel("a")
        assert not await queue.complete(claim, result_of(claim))
        assert await queue.status("a") is JobState.CANCELLING
        assert (await queue.counts()).discarded == 1
        assert await queue.complete(claim, result_of(claim, CANCELLED))
        assert await queue.cancel("a") is JobState.CANCELLED

    async def test_a_job_that_ended_is_not_cancelled_afterwards(self, queue: JobQueue) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        await queue.complete(claim, result_of(claim))
        assert await queue.cancel("a") is JobState.COMPLETED

    async def test_nobody_but_the_queue_decides_on_cancellation(self, queue: JobQueue) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        with pytest.raises(ValueError, match="nobody cancelled"):
            await queue.complete(claim, result_of(claim, CANCELLED))
        assert await queue.status("a") is JobState.RUNNING

    async def test_a_cancelled_job_never_goes_back_to_the_queue(
        self, queue: JobQueue, clock: ManualClock
    ) -> None:
        await queue.submit(document())
        claim = await claimed(queue)
        await queue.cancel("a")
        assert not await queue.release(claim)
        await clock.advance(LEASE_S)
        result = await queue.result("a")
        assert result.status is CANCELLED
        assert result.failure is not None, "nobody proved its end"
        assert result.failure.code == FailureCode.WORKER_LOST
        assert not await queue.complete(claim, result_of(claim, CANCELLED))
        assert await queue.claim("w") is None
