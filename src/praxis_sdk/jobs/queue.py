"""The queue between those who submit jobs and the workers who run them.

                    .--------------- release, lease ran out ---------------.
                    v                                                      |
    submit --> queued -- claim --> running -- complete --> completed | failed | timed_out
                 |                    |
                 | cancel             '- cancel --> cancelling -- complete(cancelled) --> cancelled
                 '------------------------------------------------------------------------^

A claim holds a job for a lease, which heartbeats renew. Each claim has a fencing token, greater than all
before it; everything that a worker says about a job counts only with the token of the claim that holds it.
So attempts are at least one, and accepted completions exactly one: the result of a worker that was given up
for lost, or of a job that was cancelled meanwhile, is discarded and counted.

`JobQueue` is the protocol, `MemoryQueue` the one for a single process. A conformance suite in the tests says
what every implementation promises.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol

import praxis_sdk
from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.payload import JobPayload
from praxis_sdk.jobs.result import FailureCode, JobFailure, JobResult, JobTimings
from praxis_sdk.states import ExecutionStatus, FailureCategory

DEFAULT_LEASE_S: Final = 30.0
DEFAULT_MAX_QUEUED: Final = 10_000
DEFAULT_MAX_FINISHED: Final = 1_000
DEFAULT_MAX_LOST: Final = 3

# A payload as it was submitted: whether a document is acceptable is the worker's to say (spec 3, section 3).
Document = JobPayload | Mapping[str, Any]

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


class QueueFull(PlatformError):
    """No more jobs are taken for now; the message names the limit."""


class DuplicateJob(ValidationError):
    """A job of this id is known already."""


class UnknownJob(ValidationError):
    """No job of this id is known, or it ended long ago."""


class JobState(StrEnum):
    """Where a job stands; the last four never change again."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds it
    CANCELLING = "cancelling"  # its end is wanted and not yet proven
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self not in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)


class Clock:
    """The time of this machine; tests hand over another."""

    def now(self) -> datetime:
        """Return the date and time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return when so much time has passed."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, eq=False)
class Claim:
    """A job in the hands of one worker.

    Args:
        job_id: the job.
        document: its payload, as it was submitted.
        token: fencing token, greater than that of every earlier claim of the job.
        worker_id: who holds it.
        queued_at: when the job was submitted.
        queue_s: how long it waited, in seconds, by the queue's clock.
        lease_s: for how long a heartbeat renews the claim, in seconds.
        cancelled: set when somebody wants its end.
    """

    job_id: str
    document: Document = field(repr=False)
    token: int
    worker_id: str
    queued_at: datetime
    queue_s: float
    lease_s: float
    cancelled: asyncio.Event = field(repr=False)


@dataclass(frozen=True)
class QueueCounts:
    """How full a queue is, and what it refused.

    Args:
        queued: jobs that wait.
        running: jobs that workers hold.
        discarded: results that came too late, so far.
        lost: claims whose lease ran out, so far.
    """

    queued: int
    running: int
    discarded: int
    lost: int


class JobQueue(Protocol):
    """What submitters and workers need of a queue; first in, first out."""

    async def submit(self, document: Document) -> None:
        """Queue a job.

        Raises:
            ValidationError: the document names no job id.
            DuplicateJob: a job of this id is known.
            QueueFull: the queue's limit is reached.
        """

    async def claim(self, worker_id: str) -> Claim | None:
        """Take the oldest job that waits; None where none does."""

    async def wait(self) -> None:
        """Return when a claim may succeed: another worker can still be faster."""

    async def heartbeat(self, claim: Claim) -> bool:
        """Renew the lease; False when the claim no longer holds the job."""

    async def complete(self, claim: Claim, result: JobResult) -> bool:
        """End a job by its result.

        A job whose cancellation was asked for accepts a result of status `cancelled` alone.

        Returns:
            False when the result was discarded: the claim no longer holds the job, or it was cancelled.

        Raises:
            ValueError: the result is of another job, or says `cancelled` of a job that nobody cancelled.
        """

    async def release(self, claim: Claim) -> bool:
        """Give a job back unfinished, to be the next that is claimed.

        Returns:
            False when there is nothing to give back: the claim no longer holds the job, or it was cancelled.
        """

    async def cancel(self, job_id: str) -> JobState:
        """Ask for a job's end: at once while it waits; else by its worker.

        Returns:
            Where it stands now; the final state of a job that had ended before.

        Raises:
            UnknownJob: there is no such job.
        """

    async def status(self, job_id: str) -> JobState:
        """Return where a job stands; raises UnknownJob."""

    async def result(self, job_id: str) -> JobResult:
        """Wait for a job's end and return its result; raises UnknownJob."""

    async def counts(self) -> QueueCounts:
        """Return how full the queue is."""


@dataclass(eq=False)
class _Job:
    """One job of a `MemoryQueue`."""

    job_id: str
    document: Document | None
    queued_at: datetime
    queued: float
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    token: int = 0  # of the claim that holds it; 0 where none does
    lease_until: float = 0.0
    lost: int = 0
    result: JobResult | None = None

    @property
    def state(self) -> JobState:
        if self.result is not None:
            return JobState(self.result.status)
        if not self.token:
            return JobState.QUEUED
        return JobState.CANCELLING if self.cancelled.is_set() else JobState.RUNNING


class MemoryQueue:
    """A `JobQueue` in the memory of one process; what it holds ends with the process.

    Args:
        max_queued: most jobs that may wait.
        max_finished: how many results are kept, the youngest; those of older jobs are forgotten.
        lease_s: how long a claim holds without a heartbeat, in seconds.
        max_lost: how often a job's worker may be lost; then the job fails.
        clock: the time.
    """

    def __init__(
        self,
        *,
        max_queued: int = DEFAULT_MAX_QUEUED,
        max_finished: int = DEFAULT_MAX_FINISHED,
        lease_s: float = DEFAULT_LEASE_S,
        max_lost: int = DEFAULT_MAX_LOST,
        clock: Clock | None = None,
    ) -> None:
        self._max_queued = max_queued
        self._max_finished = max_finished
        self._lease_s = lease_s
        self._max_lost = max_lost
        self._clock = clock or Clock()
        self._tokens = itertools.count(1)
        self._waiting: OrderedDict[str, _Job] = OrderedDict()
        self._held: dict[str, _Job] = {}
        self._finished: OrderedDict[str, _Job] = OrderedDict()
        self._changed = asyncio.Event()
        self._first_lease = math.inf  # no lease ends before
        self._discarded = 0
        self._lost = 0

    async def submit(self, document: Document) -> None:
        """Queue a job."""
        job_id = _job_id(document)
        if self._find(job_id) is not None:
            raise DuplicateJob(
                f"job '{job_id}' was submitted before", remedy="give each job an id of its own"
            )
        if len(self._waiting) >= self._max_queued:
            raise QueueFull(
                f"the queue holds {self._max_queued} jobs, which is its limit (max_queued)",
                remedy="submit again when some have ended",
            )
        self._waiting[job_id] = _Job(job_id, document, self._clock.now(), self._clock.monotonic())
        self._wake()

    async def claim(self, worker_id: str) -> Claim | None:
        """Take the oldest job that waits."""
        self._expire()
        if not self._waiting:
            return None
        _, job = self._waiting.popitem(last=False)
        assert job.document is not None
        now = self._clock.monotonic()
        job.token = next(self._tokens)
        job.lease_until = now + self._lease_s
        self._first_lease = min(self._first_lease, job.lease_until)
        self._held[job.job_id] = job
        held = (job.job_id, job.document, job.token, worker_id, job.queued_at)
        return Claim(*held, max(0.0, now - job.queued), self._lease_s, job.cancelled)

    async def wait(self) -> None:
        """Return when a job waits, be it because the lease of another worker ran out."""
        while True:
            self._expire()
            if self._waiting:
                return
            changed = self._changed
            if self._held:
                left_s = max(0.0, self._first_lease - self._clock.monotonic())
                await first_of(changed.wait(), self._clock.sleep(left_s))
            else:
                await changed.wait()

    async def heartbeat(self, claim: Claim) -> bool:
        """Renew the lease."""
        job = self._holder(claim)
        if job is None:
            return False
        job.lease_until = self._clock.monotonic() + self._lease_s
        return True

    async def complete(self, claim: Claim, result: JobResult) -> bool:
        """End a job by its result."""
        if result.job_id != claim.job_id:
            raise ValueError(f"a result of job '{result.job_id}' cannot end job '{claim.job_id}'")
        cancelled = result.status is ExecutionStatus.CANCELLED
        job = self._holder(claim)
        if job is None or job.cancelled.is_set() is not cancelled:
            if job is not None and cancelled:
                raise ValueError(f"nobody cancelled job '{claim.job_id}'")
            self._discarded += not cancelled
            return False
        self._finish(job, result)
        return True

    async def release(self, claim: Claim) -> bool:
        """Give a job back unfinished."""
        job = self._holder(claim)
        if job is None or job.cancelled.is_set():
            return False
        self._requeue(job)
        return True

    async def cancel(self, job_id: str) -> JobState:
        """Ask for a job's end."""
        self._expire()
        job = self._known(job_id)
        if job.result is None:
            job.cancelled.set()
            if not job.token:
                self._finish(job, self._made_here(job, ExecutionStatus.CANCELLED, None))
        return job.state

    async def status(self, job_id: str) -> JobState:
        """Return where a job stands."""
        self._expire()
        return self._known(job_id).state

    async def result(self, job_id: str) -> JobResult:
        """Wait for a job's end and return its result."""
        self._expire()
        job = self._known(job_id)
        await job.ended.wait()
        assert job.result is not None
        return job.result

    async def counts(self) -> QueueCounts:
        """Return how full the queue is."""
        self._expire()
        return QueueCounts(len(self._waiting), len(self._held), self._discarded, self._lost)

    def _find(self, job_id: str) -> _Job | None:
        return self._waiting.get(job_id) or self._held.get(job_id) or self._finished.get(job_id)

    def _known(self, job_id: str) -> _Job:
        job = self._find(job_id)
        if job is None:
            raise UnknownJob(f"job '{job_id[:128]}' is not known here")
        return job

    def _holder(self, claim: Claim) -> _Job | None:
        """Return the job, if this claim still holds it."""
        self._expire()
        job = self._held.get(claim.job_id)
        return job if job is not None and job.token == claim.token else None

    def _expire(self) -> None:
        """Take the jobs back whose workers gave no sign of life."""
        now = self._clock.monotonic()
        if now < self._first_lease:
            return
        for job in [job for job in self._held.values() if job.lease_until <= now]:
            self._lost += 1
            job.lost += 1
            if job.cancelled.is_set():
                message = "cancelled; its worker was lost before it could say that the sandbox is gone"
                self._finish(job, self._made_here(job, ExecutionStatus.CANCELLED, _worker_lost(message)))
            elif job.lost >= self._max_lost:
                message = f"its worker was lost {job.lost} times, which is the limit (max_lost)"
                self._finish(job, self._made_here(job, ExecutionStatus.FAILED, _worker_lost(message)))
            else:
                self._requeue(job)
        self._first_lease = min((job.lease_until for job in self._held.values()), default=math.inf)

    def _requeue(self, job: _Job) -> None:
        del self._held[job.job_id]
        job.token = 0
        self._waiting[job.job_id] = job
        self._waiting.move_to_end(job.job_id, last=False)
        self._wake()

    def _finish(self, job: _Job, result: JobResult) -> None:
        self._waiting.pop(job.job_id, None)
        self._held.pop(job.job_id, None)
        job.result = result
        job.token = 0
        job.document = None
        self._finished[job.job_id] = job
        if len(self._finished) > self._max_finished:
            self._finished.popitem(last=False)
        job.ended.set()

    def _made_here(self, job: _Job, status: ExecutionStatus, failure: JobFailure | None) -> JobResult:
        return JobResult.model_validate(
            {
                "job_id": job.job_id,
                "status": status,
                "failure": failure,
                "executor_version": praxis_sdk.__version__,
                "timings": JobTimings(queued_at=job.queued_at, finished_at=self._clock.now()),
            }
        )

    def _wake(self) -> None:
        """Wake everybody who waits for a job; those who come later wait for the next."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _worker_lost(message: str) -> JobFailure:
    return JobFailure(category=FailureCategory.INTERNAL_ERROR, code=FailureCode.WORKER_LOST, message=message)


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of these has ended; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _job_id(document: Document) -> str:
    job_id = document.job_id if isinstance(document, JobPayload) else document.get("job_id")
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise ValidationError("payload.job_id: is missing or not in the form that this field has")
    return job_id
