"""The worker: claims jobs from a queue and has them run, one per slot (spec 3, sections 3 and 4).

    claim -> validate -> executor.execute -> complete             the common way
                  |            |
                  |            |- somebody cancelled the job: kill, then complete it as cancelled
                  |            |- the lease is lost: kill; somebody else has the job
                  |            '- the worker is to end: kill, then release the job for another worker
                  '- unacceptable: complete it as failed

Theory of operation. `executor.execute` is a task. To kill is to cancel that task; its end is the proof that the
sandbox is dead, because the executor returns only then. An end that is not proven within a bound is never
called one: the result says so, and the slot takes no more jobs. Everything that fails around a job ends that job
alone. The queue has the last word on every result.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import praxis_sdk
from praxis_sdk.errors import IsolationUnavailable, PlatformError, PraxisError, ValidationError
from praxis_sdk.jobs.artifacts import ArtifactChanged, ArtifactCorrupt, StoreUnavailable
from praxis_sdk.jobs.metrics import JobMetrics, SilentMetrics
from praxis_sdk.jobs.payload import SCHEMA_MAJOR, JobPayload, parse_payload
from praxis_sdk.jobs.queue import Claim, Clock, JobQueue, first_of
from praxis_sdk.jobs.result import FailureCode, JobFailure, JobResult, JobTimings
from praxis_sdk.jobs.sanitize import Sanitizer
from praxis_sdk.log import Logger, get_logger
from praxis_sdk.states import ExecutionStatus, FailureCategory

log = get_logger("praxis.worker")

T = TypeVar("T")

DEFAULT_GRACE_S: Final = 30.0
DEFAULT_KILL_BOUND_S: Final = 60.0
_HEARTBEATS_PER_LEASE: Final = 3
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_STORAGE_TROUBLE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO}
)


class Executor(Protocol):
    """What runs one job; `JobExecutor` is one.

    A call that is cancelled ends when the job's sandbox is dead, and not before.
    """

    async def execute(self, payload: JobPayload, *, on_progress: Callable[[str], None]) -> JobResult:
        """Run one job and return its result; raises PlatformError when the platform failed."""

    async def keep(self, payload: JobPayload, result: JobResult) -> None:
        """Keep a result that the queue has accepted, so that it answers equal jobs."""


@dataclass(frozen=True)
class _Killed:
    """A job was killed: why, and what is known of its end."""

    reason: str  # 'cancelled', 'lease_lost' or 'worker_ends'
    failure: JobFailure | None  # None where its death is proven
    after_s: float


class Worker:
    """Works on the jobs of a queue until it is told to stop.

    Args:
        queue: where jobs come from and results go to.
        executor: what runs them; it stays the caller's.
        slots: how many jobs run at once; unless given, as many as there are processors.
        worker_id: its name in claims and logs; made up unless given.
        metrics: who counts.
        clock: the time.
        grace_s: how long running jobs may go on after `drain`, in seconds.
        kill_bound_s: how long a killed job may take to be gone, in seconds.
    """

    def __init__(
        self,
        queue: JobQueue,
        executor: Executor,
        *,
        slots: int | None = None,
        worker_id: str | None = None,
        metrics: JobMetrics | None = None,
        clock: Clock | None = None,
        grace_s: float = DEFAULT_GRACE_S,
        kill_bound_s: float = DEFAULT_KILL_BOUND_S,
    ) -> None:
        self.slots = os.cpu_count() or 1 if slots is None else slots
        if self.slots < 1:
            raise ValidationError(f"worker: {self.slots} slots can do no work", remedy="give it 1 or more")
        self.worker_id = worker_id or f"worker-{uuid.uuid4().hex[:12]}"
        self._queue = queue
        self._executor = executor
        self._metrics = metrics or SilentMetrics()
        self._clock = clock or Clock()
        self._grace_s = grace_s
        self._kill_bound_s = kill_bound_s
        self._draining = asyncio.Event()
        self._ending = asyncio.Event()
        self._running: dict[str, Claim] = {}
        self._log = log.bind(worker_id=self.worker_id)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that it runs now."""
        return tuple(self._running)

    def drain(self) -> None:
        """Take no new jobs; what still runs after the grace period is killed and given back to the queue."""
        if not self._draining.is_set():
            self._log.info("worker.draining", running=len(self._running), grace_s=self._grace_s)
            self._draining.set()

    def kill(self) -> None:
        """End now: kill what runs and give it back to the queue."""
        self.drain()
        self._ending.set()

    async def run(self, *, until_empty: bool = False, signals: Collection[signal.Signals] = ()) -> None:
        """Work until drained.

        Args:
            until_empty: end also when the queue has no job left.
            signals: the first of these that arrives drains, the second kills; for the main thread.
        """
        self._log.info("worker.started", slots=self.slots)
        self._metrics.slots(self.slots)
        slots = [asyncio.ensure_future(self._slot(number, until_empty)) for number in range(self.slots)]
        grace = asyncio.ensure_future(self._end_after_grace(slots))
        try:
            with self._handled(signals):
                await asyncio.wait(slots)
        finally:
            for task in (grace, *slots):
                task.cancel()
            await asyncio.gather(grace, *slots, return_exceptions=True)
            self._metrics.slots(0)
            self._log.info("worker.ended")

    async def measure(self) -> None:
        """Bring the queue's gauges up to date; call it before metrics are rendered."""
        self._metrics.queue(await self._queue.counts())

    # -- signals

    @contextmanager
    def _handled(self, signals: Collection[signal.Signals]) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in signals:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        self._log.info("worker.signal", signal=number.name)
        if self._draining.is_set():
            self.kill()
        else:
            self.drain()

    async def _end_after_grace(self, slots: Sequence[asyncio.Future[None]]) -> None:
        await self._draining.wait()
        await first_of(self._clock.sleep(self._grace_s), self._ending.wait())
        self._ending.set()
        # A queue that does not answer must not keep a worker from ending; leases tell it what became of its jobs.
        await self._clock.sleep(2 * self._kill_bound_s)
        for slot in slots:
            slot.cancel()

    # -- a slot

    async def _slot(self, number: int, until_empty: bool) -> None:
        """Carry out one job after the other; whatever goes wrong with one, the next is another matter."""
        pauses = _pauses()
        while not self._draining.is_set():
            try:
                claim = await self._queue.claim(self.worker_id)
                if claim is None:
                    if until_empty:
                        return
                    await first_of(self._queue.wait(), self._draining.wait())
                elif self._draining.is_set():
                    await self._queue.release(claim)
                elif not await self._carry_out(claim):
                    self._log.error("worker.slot_retired", slot=number)
                    return
                pauses = _pauses()
            except Exception as error:  # noqa: BLE001 - a slot outlives all that fails in it
                self._log.error(
                    "worker.slot_failed", slot=number, error=type(error).__name__, detail=str(error)
                )
                await first_of(self._clock.sleep(next(pauses)), self._draining.wait())

    async def _carry_out(self, claim: Claim) -> bool:
        """Take one job from its claim to its end; False when its sandbox may still be alive."""
        events = self._log.bind(job_id=claim.job_id, token=claim.token)
        events.info("job.status", status="running", queue_s=claim.queue_s)
        self._running[claim.job_id] = claim
        self._metrics.started(claim.queue_s)
        heart = asyncio.ensure_future(self._heartbeat(claim, events))
        try:
            end = await self._supervise(claim, heart, events)
            if isinstance(end, JobResult):
                await self._report(claim, end, events)
                return True
            await self._report_kill(claim, end, events)
            return end.failure is None
        finally:
            heart.cancel()
            await asyncio.gather(heart, return_exceptions=True)
            del self._running[claim.job_id]
            self._metrics.stopped()

    async def _supervise(
        self, claim: Claim, heart: asyncio.Future[None], events: Logger
    ) -> JobResult | _Killed:
        """Have a job run, and kill it where nobody wants its result any more."""
        work = asyncio.ensure_future(self._result(claim, events))
        wanted = asyncio.ensure_future(claim.cancelled.wait())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            watched: set[asyncio.Future[Any]] = {work, wanted, heart, ending}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if work.cancelled():
                return self._failed(claim, _internal(FailureCode.INTERNAL, "the executor gave up"))
            if work.done():
                return work.result()
            reason = "cancelled" if wanted.done() else "lease_lost" if heart.done() else "worker_ends"
            events.info("job.killing", reason=reason)
            return await self._kill(work, reason, events)
        except asyncio.CancelledError:
            await self._kill(work, "worker_ends", events)
            await self._queue.release(claim)
            raise
        finally:
            wanted.cancel()
            ending.cancel()

    async def _kill(self, work: asyncio.Future[JobResult], reason: str, events: Logger) -> _Killed:
        """Kill a job and wait for the proof: the end of the call that ran it."""
        began = self._clock.monotonic()
        work.cancel()
        await first_of(asyncio.wait({work}), self._clock.sleep(self._kill_bound_s))
        after_s = self._clock.monotonic() - began
        message = f"killed, and not proven dead within {self._kill_bound_s:g} s"
        if work.done():
            failure = None if work.cancelled() else work.result().failure
            if failure is None or failure.category is not FailureCategory.INTERNAL_ERROR:
                return _Killed(reason, None, after_s)
            message = f"killed, and not proven dead: {failure.message}"
        events.error("job.not_proven_dead", reason=reason, after_s=after_s)
        return _Killed(reason, _internal(FailureCode.INTERNAL, message), after_s)

    async def _result(self, claim: Claim, events: Logger) -> JobResult:
        """Return how a job ended, whatever happens: a failure of the platform is told as one."""
        try:
            payload = _read(claim)
            result = await self._executor.execute(
                payload, on_progress=lambda line: events.debug("job.progress", line=line)
            )
            if result.job_id != claim.job_id or result.status is ExecutionStatus.CANCELLED:
                raise PlatformError(f"the executor returned a result of '{result.job_id}': {result.status}")
            return result
        except ValidationError as error:
            return self._failed(claim, _invalid(claim, error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the platform's failure
            events.error("job.platform_failed", error=type(error).__name__, detail=str(error))
            return self._failed(claim, _platform_failure(error))

    # -- results

    async def _report(self, claim: Claim, result: JobResult, events: Logger) -> None:
        timings = result.timings.model_copy(update={"queued_at": claim.queued_at, "queue_s": claim.queue_s})
        result = result.model_copy(update={"timings": timings})
        if await self._complete(claim, result, events):
            await self._keep(claim, result, events)
            self._ended(result, events)
        else:
            self._metrics.discarded("late")
            events.warning("job.result_discarded", status=str(result.status))
            # The queue says which: of a job that was cancelled it takes the end, of one that was lost nothing.
            await self._report_cancelled(claim, None, events)

    async def _report_kill(self, claim: Claim, killed: _Killed, events: Logger) -> None:
        events.info("job.killed", reason=killed.reason, proven=killed.failure is None, after_s=killed.after_s)
        if killed.reason == "lease_lost":
            self._metrics.discarded("lease_lost")
        elif killed.reason == "cancelled":
            await self._report_cancelled(claim, killed.failure, events)
        elif killed.failure is None:
            if await self._queue.release(claim):
                events.info("job.status", status="queued", reason="its worker ends")
            else:
                await self._report_cancelled(claim, None, events)
        # What may still be alive is not given back: its lease runs out, and then the queue decides.

    async def _report_cancelled(self, claim: Claim, failure: JobFailure | None, events: Logger) -> None:
        result = self._made_here(claim, ExecutionStatus.CANCELLED, failure)
        if await self._complete(claim, result, events):
            await self._keep(claim, result, events)
            self._ended(result, events)

    async def _keep(self, claim: Claim, result: JobResult, events: Logger) -> None:
        """Keep what the queue has accepted; the queue has it, so a store that fails loses only an answer."""
        try:
            await self._executor.keep(_read(claim), result)
        except ValidationError:
            return  # the payload is what was wrong, and nothing can be filed under it
        except PlatformError as error:
            events.error("job.result_not_kept", detail=str(error))

    def _ended(self, result: JobResult, events: Logger) -> None:
        self._metrics.ended(result)
        events.info(
            "job.status",
            status=str(result.status),
            category=str(result.failure.category) if result.failure else None,
            code=result.failure.code if result.failure else None,
            env_version=result.env_version,
            from_cache=result.from_cache,
            **result.usage.model_dump(exclude_none=True),
        )

    async def _complete(self, claim: Claim, result: JobResult, events: Logger) -> bool:
        """Hand a result over; while the queue fails, try as long as a lease lasts."""
        until = self._clock.monotonic() + claim.lease_s
        for pause_s in _pauses():
            try:
                return await self._queue.complete(claim, result)
            except (PraxisError, OSError) as error:
                events.warning("job.not_reported", error=type(error).__name__, detail=str(error))
                if self._clock.monotonic() + pause_s >= until or self._ending.is_set():
                    raise
            await first_of(self._clock.sleep(pause_s), self._ending.wait())
        raise AssertionError("pauses never end")

    def _failed(self, claim: Claim, failure: JobFailure) -> JobResult:
        return self._made_here(claim, ExecutionStatus.FAILED, failure)

    def _made_here(self, claim: Claim, status: ExecutionStatus, failure: JobFailure | None) -> JobResult:
        return JobResult.model_validate(
            {
                "job_id": claim.job_id,
                "status": status,
                "failure": failure,
                "executor_version": praxis_sdk.__version__,
                "timings": JobTimings(
                    queued_at=claim.queued_at, finished_at=self._clock.now(), queue_s=claim.queue_s
                ),
            }
        )

    # -- the lease

    async def _heartbeat(self, claim: Claim, events: Logger) -> None:
        """Renew the lease; returns when it is lost, or when nobody can say that it is not."""
        until = self._clock.monotonic() + claim.lease_s
        while True:
            await self._clock.sleep(claim.lease_s / _HEARTBEATS_PER_LEASE)
            asked = self._clock.monotonic()
            try:
                if not await self._within(until - asked, self._queue.heartbeat(claim)):
                    events.warning("job.lease_lost")
                    return
                until = asked + claim.lease_s
            except Exception as error:  # noqa: BLE001 - the lease decides, whatever the queue suffers from
                events.warning("job.heartbeat_failed", error=type(error).__name__, detail=str(error))
                if self._clock.monotonic() >= until:
                    return

    async def _within(self, seconds: float, awaitable: Awaitable[T]) -> T:
        """Return what an awaitable does; raises TimeoutError when that takes longer."""
        task = asyncio.ensure_future(awaitable)
        try:
            await first_of(asyncio.wait({task}), self._clock.sleep(max(0.0, seconds)))
            if task.done():
                return task.result()
        finally:
            task.cancel()
        raise TimeoutError


def _pauses() -> Iterator[float]:
    """Go through the pauses between attempts, in seconds, each twice the one before."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _read(claim: Claim) -> JobPayload:
    document = claim.document
    payload = document if isinstance(document, JobPayload) else parse_payload(document)
    if payload.job_id != claim.job_id:
        raise ValidationError(f"payload.job_id: the queue knows this job as '{claim.job_id}'")
    return payload


def _invalid(claim: Claim, error: ValidationError) -> JobFailure:
    """Tell an unacceptable payload; a schema of another major version has a code of its own."""
    version: Any = None if isinstance(claim.document, JobPayload) else claim.document.get("schema_version")
    major = re.match(r"([0-9]{1,6})\.[0-9]{1,6}\Z", version, re.ASCII) if isinstance(version, str) else None
    unsupported = major is not None and int(major[1]) != SCHEMA_MAJOR
    return JobFailure(
        category=FailureCategory.VALIDATION_ERROR,
        code=FailureCode.UNSUPPORTED_SCHEMA if unsupported else FailureCode.INVALID_PAYLOAD,
        message=_sanitizer().message(str(error)),
    )


def _platform_failure(error: Exception) -> JobFailure:
    """Tell a failure of the platform: the code for programs, and a message that names nothing of the host."""
    code = FailureCode.INTERNAL
    if isinstance(error, IsolationUnavailable):
        code = FailureCode.SANDBOX_UNAVAILABLE
    elif isinstance(error, StoreUnavailable | ArtifactCorrupt | ArtifactChanged) or (
        isinstance(error, OSError) and error.errno in _STORAGE_TROUBLE
    ):
        code = FailureCode.STORAGE_UNAVAILABLE
    if isinstance(error, PraxisError):
        return _internal(code, error.message)
    # What a stranger's exception says may hold anything; its operator finds it in the log.
    return _internal(code, f"the executor failed: {type(error).__name__}")


def _internal(code: FailureCode, message: str) -> JobFailure:
    return JobFailure(
        category=FailureCategory.INTERNAL_ERROR, code=code, message=_sanitizer().message(message)
    )


def _sanitizer() -> Sanitizer:
    return Sanitizer(host_names=(os.uname().nodename,))
