"""The worker: one job per slot, every end accounted for, whatever fails."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from praxis_sdk.errors import IsolationUnavailable, PlatformError, ValidationError
from praxis_sdk.jobs.artifacts import ArtifactStore, StoreUnavailable
from praxis_sdk.jobs.environments import EnvironmentStore
from praxis_sdk.jobs.executor import JobExecutor
from praxis_sdk.jobs.metrics import PrometheusMetrics
from praxis_sdk.jobs.payload import JobPayload
from praxis_sdk.jobs.queue import Claim, JobState, MemoryQueue
from praxis_sdk.jobs.result import JobResult
from praxis_sdk.jobs.results import ResultStore
from praxis_sdk.jobs.worker import Worker
from praxis_sdk.sandbox import Launcher, Sandbox
from praxis_sdk.states import ExecutionStatus
from tests.jobs.queue_conformance import LEASE_S, ManualClock, document, settle

GRACE_S = 20.0
KILL_BOUND_S = 60.0


class FakeExecutor:
    """Runs what a test says: `code` is the name of a behaviour."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.live: set[str] = set()
        self.most_live = 0
        self.finish = asyncio.Event()
        self.begun = asyncio.Event()
        self.failures: dict[str, BaseException] = {}
        self.died: list[str] = []
        self.kept: list[JobResult] = []

    async def keep(self, payload: JobPayload, result: JobResult) -> None:
        assert payload.job_id == result.job_id
        self.kept.append(result)

    async def execute(self, payload: JobPayload, *, on_progress: Callable[[str], None]) -> JobResult:
        self.started.append(payload.job_id)
        self.live.add(payload.job_id)
        self.most_live = max(self.most_live, len(self.live))
        self.begun.set()
        on_progress("building")
        try:
            if payload.code in self.failures:
                raise self.failures[payload.code]
            if payload.code == "wait":
                await self.finish.wait()
            if payload.code == "immortal":
                while not self.finish.is_set():
                    try:
                        await self.finish.wait()
                    except asyncio.CancelledError:
                        continue
            if payload.code == "breaks when killed":
                try:
                    await self.finish.wait()
                except asyncio.CancelledError:
                    raise PlatformError("the sandbox was killed and is not gone") from None
            if payload.code == "somebody else's":
                return result("other")
            return result(payload.job_id)
        except asyncio.CancelledError:
            self.died.append(payload.job_id)
            raise
        finally:
            self.live.discard(payload.job_id)


def result(job_id: str) -> JobResult:
    return JobResult.model_validate({"job_id": job_id, "status": ExecutionStatus.COMPLETED})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> MemoryQueue:
    return MemoryQueue(lease_s=LEASE_S, clock=clock)


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def make(queue: MemoryQueue, executor: FakeExecutor, clock: ManualClock) -> Callable[..., Worker]:
    def make_one(**options: Any) -> Worker:
        given = {"slots": 1, "clock": clock, "grace_s": GRACE_S, "kill_bound_s": KILL_BOUND_S, **options}
        return Worker(given.pop("queue", queue), given.pop("executor", executor), **given)

    return make_one


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """Have a worker run; at the end it is drained and must be gone, with all that it started."""
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(worker.run())
    try:
        yield task
    finally:
        worker.kill()
        await asyncio.wait_for(task, 30)
        assert not [left for left in asyncio.all_tasks() - before if left is not task]


async def ended(queue: MemoryQueue, job_id: str = "a") -> JobResult:
    return await asyncio.wait_for(queue.result(job_id), 30)


def code_of(result: JobResult) -> tuple[str, str]:
    assert result.failure is not None
    return str(result.failure.category), result.failure.code


# -- the common way


async def test_jobs_are_run_and_reported(make: Callable[..., Worker], queue: MemoryQueue) -> None:
    for job_id in ("a", "b", "c"):
        await queue.submit(document(job_id))
    await make().run(until_empty=True)
    assert [(await queue.status(job_id)) for job_id in ("a", "b", "c")] == [JobState.COMPLETED] * 3


async def test_the_result_says_how_long_the_job_waited(
    make: Callable[..., Worker], queue: MemoryQueue, clock: ManualClock
) -> None:
    submitted_at = clock.now()
    await queue.submit(document())
    await clock.advance(5)
    await make().run(until_empty=True)
    timings = (await ended(queue)).timings
    assert (timings.queued_at, timings.queue_s) == (submitted_at, 5)


async def test_a_slot_runs_one_job_at_a_time(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor
) -> None:
    for number in range(9):
        await queue.submit(document(f"job-{number}", code="wait"))
    worker = make(slots=3)
    async with running(worker):
        await settle()
        assert sorted(worker.running) == ["job-0", "job-1", "job-2"]
        executor.finish.set()
        for number in range(9):
            assert (await ended(queue, f"job-{number}")).succeeded
    assert executor.most_live == 3


async def test_an_idle_worker_takes_a_job_at_once(make: Callable[..., Worker], queue: MemoryQueue) -> None:
    async with running(make(slots=2)):
        await settle()
        await queue.submit(document())
        assert (await ended(queue)).succeeded, "though no time passed"


async def test_slots_are_as_many_as_processors() -> None:
    assert Worker(MemoryQueue(), FakeExecutor()).slots == os.cpu_count()
    with pytest.raises(ValidationError, match="0 slots"):
        Worker(MemoryQueue(), FakeExecutor(), slots=0)


# -- what fails


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"runtime": 7}, "invalid_payload", "payload.runtime"),
        ({"limits": {"files": "many"}}, "invalid_payload", "payload.limits.files"),
        ({"schema_version": "2.0"}, "unsupported_schema", "2.0 is not supported"),
        ({"schema_version": "x" * 99}, "invalid_payload", "schema_version"),
    ],
)
async def test_an_unacceptable_payload_is_a_result(
    make: Callable[..., Worker],
    queue: MemoryQueue,
    executor: FakeExecutor,
    fields: dict[str, Any],
    code: str,
    said: str,
) -> None:
    await queue.submit({**document(), **fields})
    await make().run(until_empty=True)
    result = await ended(queue)
    assert code_of(result) == ("VALIDATION_ERROR", code)
    assert result.failure is not None
    assert said in result.failure.message
    assert executor.started == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (IsolationUnavailable("no user namespaces"), "sandbox_unavailable"),
        (StoreUnavailable("the bucket does not answer"), "storage_unavailable"),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/praxis/results"), "storage_unavailable"),
        (OSError(errno.EBADF, "Bad file descriptor"), "internal"),
        (PlatformError("the launcher died, see /srv/praxis/launcher/log"), "internal"),
        (KeyError("token=hunter2secret"), "internal"),
        (RecursionError(), "internal"),
        (asyncio.CancelledError(), "internal"),
    ],
)
async def test_a_failing_platform_is_an_internal_error_and_the_next_job_runs(
    make: Callable[..., Worker],
    queue: MemoryQueue,
    executor: FakeExecutor,
    failure: BaseException,
    code: str,
) -> None:
    executor.failures["fail"] = failure
    await queue.submit(document("a", code="fail"))
    await queue.submit(document("b"))
    await make().run(until_empty=True)
    result = await ended(queue)
    assert code_of(result) == ("INTERNAL_ERROR", code)
    assert result.failure is not None
    assert "/srv/praxis" not in result.failure.message
    assert "hunter2" not in result.failure.message
    assert os.uname().nodename not in result.failure.message
    assert (await ended(queue, "b")).succeeded


async def test_a_result_of_another_job_is_an_internal_error(
    make: Callable[..., Worker], queue: MemoryQueue
) -> None:
    await queue.submit(document(code="somebody else's"))
    await make().run(until_empty=True)
    assert code_of(await ended(queue)) == ("INTERNAL_ERROR", "internal")


class FaultyQueue(MemoryQueue):
    """Fails so many times at each thing."""

    def __init__(self, clock: ManualClock, **failures: int) -> None:
        super().__init__(lease_s=LEASE_S, clock=clock)
        self.failures = failures

    def _fail(self, name: str) -> None:
        if self.failures.get(name, 0):
            self.failures[name] -= 1
            raise OSError("the database is gone")

    async def claim(self, worker_id: str) -> Claim | None:
        self._fail("claim")
        return await super().claim(worker_id)

    async def wait(self) -> None:
        self._fail("wait")
        await super().wait()

    async def complete(self, claim: Claim, result: JobResult) -> bool:
        self._fail("complete")
        return await super().complete(claim, result)

    async def heartbeat(self, claim: Claim) -> bool:
        self._fail("heartbeat")
        return await super().heartbeat(claim)


@pytest.mark.parametrize("what", ["claim", "wait", "complete"])
async def test_a_queue_that_fails_for_a_while_stops_nothing(
    make: Callable[..., Worker], clock: ManualClock, what: str
) -> None:
    queue = FaultyQueue(clock, **{what: 5})
    async with running(make(queue=queue)):
        await clock.advance(1)
        await queue.submit(document())
        await clock.advance(25)
        assert (await ended(queue)).succeeded
    assert queue.failures == {what: 0}


async def test_a_slot_survives_a_queue_that_takes_no_result(
    make: Callable[..., Worker], clock: ManualClock, executor: FakeExecutor
) -> None:
    queue = FaultyQueue(clock, complete=10_000)
    async with running(make(queue=queue)):
        await queue.submit(document())
        await clock.advance(2 * LEASE_S)
        queue.failures.clear()
        await clock.advance(2 * LEASE_S)
        assert (await ended(queue)).succeeded
    assert len(executor.started) > 1, "at least once"


# -- leases


async def test_a_long_job_keeps_its_lease(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor, clock: ManualClock
) -> None:
    await queue.submit(document(code="wait"))
    async with running(make()):
        await clock.advance(20 * LEASE_S)
        assert executor.started == ["a"]
        executor.finish.set()
        assert (await ended(queue)).succeeded
    assert (await queue.counts()).lost == 0


async def test_a_worker_that_cannot_renew_its_lease_kills_the_job(
    make: Callable[..., Worker], executor: FakeExecutor, clock: ManualClock
) -> None:
    queue = FaultyQueue(clock, heartbeat=10_000)
    await queue.submit(document(code="wait"))
    async with running(make(queue=queue)):
        await clock.advance(LEASE_S)
        assert executor.died == ["a"]
        queue.failures.clear()
        executor.finish.set()
        assert (await ended(queue)).succeeded
    assert executor.started == ["a", "a"]


async def test_the_result_of_a_lost_lease_is_discarded(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor, clock: ManualClock
) -> None:
    metrics = PrometheusMetrics()
    await queue.submit(document(code="wait"))
    async with running(make(metrics=metrics)):
        await settle()
        clock._seconds += LEASE_S  # as if the process had been stopped
        taken = await queue.claim("another")
        assert taken is not None
        await clock.advance(1)
        assert executor.died == ["a"]
        assert await queue.complete(taken, result("a"))
    assert b'praxis_job_results_discarded_total{reason="lease_lost"} 1.0' in metrics.render()


# -- cancellation


async def test_a_cancelled_job_ends_when_its_sandbox_is_dead(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor
) -> None:
    await queue.submit(document(code="wait"))
    async with running(make()):
        await asyncio.wait_for(executor.begun.wait(), 30)
        assert await queue.cancel("a") is JobState.CANCELLING
        result = await ended(queue)
        assert (result.status, result.failure) == (ExecutionStatus.CANCELLED, None)
        assert executor.died == ["a"]
        await queue.submit(document("b"))
        assert (await ended(queue, "b")).succeeded, "the slot is free"


async def test_the_late_result_of_a_cancelled_job_is_discarded(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor
) -> None:
    metrics = PrometheusMetrics()
    await queue.submit(document(code="wait"))
    async with running(make(metrics=metrics)):
        await asyncio.wait_for(executor.begun.wait(), 30)
        executor.finish.set()
        await queue.cancel("a")
        assert (await ended(queue)).status is ExecutionStatus.CANCELLED
    assert b'praxis_job_results_discarded_total{reason="late"} 1.0' in metrics.render()
    assert (await queue.counts()).discarded == 1


@pytest.mark.parametrize("code", ["immortal", "breaks when killed"])
async def test_a_death_without_proof_is_not_called_one(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor, clock: ManualClock, code: str
) -> None:
    await queue.submit(document(code=code))
    await queue.submit(document("b"))
    worker = make()
    task = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(executor.begun.wait(), 30)
    await queue.cancel("a")
    await clock.advance(KILL_BOUND_S)
    result = await ended(queue)
    assert result.status is ExecutionStatus.CANCELLED
    assert result.failure is not None
    assert "not proven dead" in result.failure.message
    await asyncio.wait_for(task, 30)
    assert await queue.status("b") is JobState.QUEUED, "its slot takes no more jobs"
    executor.finish.set()
    await settle()


# -- the end


async def test_draining_finishes_what_runs_and_takes_nothing_new(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor
) -> None:
    for job_id in ("a", "b"):
        await queue.submit(document(job_id, code="wait"))
    worker = make()
    async with running(worker) as task:
        await asyncio.wait_for(executor.begun.wait(), 30)
        worker.drain()
        await settle()
        assert not task.done()
        executor.finish.set()
        await asyncio.wait_for(task, 30)
    assert (await queue.status("a"), await queue.status("b")) == (JobState.COMPLETED, JobState.QUEUED)


async def test_after_the_grace_period_jobs_are_killed_and_given_back(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor, clock: ManualClock
) -> None:
    await queue.submit(document(code="wait"))
    worker = make()
    async with running(worker) as task:
        await asyncio.wait_for(executor.begun.wait(), 30)
        worker.drain()
        await clock.advance(GRACE_S - 1)
        assert executor.live == {"a"}
        await clock.advance(1)
        await asyncio.wait_for(task, 30)
    assert (executor.live, executor.died) == (set(), ["a"])
    assert await queue.status("a") is JobState.QUEUED
    executor.finish.set()
    await make().run(until_empty=True)
    assert (await ended(queue)).succeeded, "another worker did it"


async def test_an_idle_worker_drains_at_once(make: Callable[..., Worker]) -> None:
    worker = make(slots=3)
    async with running(worker) as task:
        await settle()
        worker.drain()
        await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("signals", [1, 2])
async def test_the_first_signal_drains_and_the_second_kills(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor, signals: int
) -> None:
    await queue.submit(document(code="wait"))
    worker = make()
    task = asyncio.ensure_future(worker.run(signals=(signal.SIGTERM, signal.SIGINT)))
    await asyncio.wait_for(executor.begun.wait(), 30)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(worker._draining.wait(), 30)
    if signals == 1:
        executor.finish.set()
    else:
        os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(task, 30)
    expected = JobState.COMPLETED if signals == 1 else JobState.QUEUED
    assert await queue.status("a") is expected
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_queue_that_does_not_answer_keeps_no_worker_from_ending(
    make: Callable[..., Worker], clock: ManualClock
) -> None:
    class Silent(MemoryQueue):
        async def claim(self, worker_id: str) -> Claim | None:
            await asyncio.Event().wait()
            return None

    worker = make(queue=Silent(clock=clock))
    async with running(worker) as task:
        worker.kill()
        await clock.advance(2 * KILL_BOUND_S)
        await asyncio.wait_for(task, 30)


async def test_who_cancels_the_worker_leaves_nothing_behind(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor
) -> None:
    await queue.submit(document(code="wait"))
    task = asyncio.ensure_future(make().run())
    await asyncio.wait_for(executor.begun.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert executor.died == ["a"]
    assert await queue.status("a") is JobState.QUEUED


# -- what is told


async def test_every_transition_is_logged_without_what_the_job_is(
    make: Callable[..., Worker], queue: MemoryQueue, executor: FakeExecutor
) -> None:
    executor.failures["secret-code"] = PlatformError("broken")
    was_configured = structlog.is_configured()
    structlog.configure()  # without it the library is silent
    try:
        with structlog.testing.capture_logs() as entries:
            await queue.submit(document(code="secret-code", parameters={"key": "secret-value"}))
            await make(worker_id="w-1").run(until_empty=True)
    finally:
        if not was_configured:
            structlog.reset_defaults()
    told = [entry for entry in entries if entry["event"] == "job.status"]
    assert [(entry["job_id"], entry["worker_id"], entry["status"]) for entry in told] == [
        ("a", "w-1", "running"),
        ("a", "w-1", "failed"),
    ]
    assert told[-1]["category"] == "INTERNAL_ERROR"
    assert told[-1]["code"] == "internal"
    assert {"env_version", "wall_s"} <= set(told[-1])
    assert "secret" not in repr(entries)


# -- with real sandboxes


class HeardExecutor(JobExecutor):
    """Tells when a job has written something."""

    def __init__(self, *stores: Any) -> None:
        super().__init__(*stores)
        self.heard = asyncio.Event()

    async def execute(self, payload: JobPayload, **options: Any) -> JobResult:
        return await super().execute(payload, on_output=lambda *_: self.heard.set(), **options)


@pytest.fixture
async def real(environments: EnvironmentStore, tmp_path: Path) -> AsyncIterator[HeardExecutor]:
    made = HeardExecutor(ArtifactStore.open(tmp_path / "artifacts"), environments, ResultStore(tmp_path))
    yield made
    await made.close()


@pytest.fixture
def sandboxes(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[Sandbox]:
    """Every sandbox that is started; a job may be heard a moment before it is here."""
    started: asyncio.Queue[Sandbox] = asyncio.Queue()
    fork = Launcher.fork

    async def noted(self: Launcher, *args: Any, **options: Any) -> Sandbox:
        sandbox = await fork(self, *args, **options)
        if not options.get("canary"):
            started.put_nowait(sandbox)
        return sandbox

    monkeypatch.setattr(Launcher, "fork", noted)
    return started


async def test_real_jobs_are_run_and_counted(real: HeardExecutor) -> None:
    queue, metrics = MemoryQueue(), PrometheusMetrics()
    await queue.submit(document("value", code="open('a.txt', 'w').write('five!')\n40 + 2"))
    await queue.submit(document("error", code="1 / 0"))
    await queue.submit(document("value-again", code="open('a.txt', 'w').write('five!')\n40 + 2"))
    await Worker(queue, real, slots=1, metrics=metrics).run(until_empty=True)
    value, error = await ended(queue, "value"), await ended(queue, "error")
    assert value.outputs == 42
    assert code_of(error) == ("USER_CODE_ERROR", "exception")
    assert (await ended(queue, "value-again")).from_cache
    page = metrics.render().decode()
    assert "praxis_sandbox_starts_total 2.0" in page
    assert "praxis_artifact_bytes_total 5.0" in page
    assert "praxis_job_cache_hits_total 1.0" in page
    labels = f'category="none",env_version="{value.env_version}",status="completed"'
    assert f"praxis_jobs_total{{{labels}}} 2.0" in page


@pytest.mark.parametrize("way", ["cancel", "kill"])
async def test_a_real_job_that_is_killed_is_dead(
    real: HeardExecutor, sandboxes: asyncio.Queue[Sandbox], way: str
) -> None:
    queue = MemoryQueue()
    code = "import os\nos.fork()\nprint('running', flush=True)\nwhile True: pass"
    await queue.submit(document("endless", code=code))
    worker = Worker(queue, real, slots=1)
    async with running(worker) as task:
        await asyncio.wait_for(real.heard.wait(), 60)
        sandbox = await asyncio.wait_for(sandboxes.get(), 60)
        assert Path(f"/proc/{sandbox.pid}").exists()
        if way == "cancel":
            await queue.cancel("endless")
            result = await ended(queue, "endless")
            assert (result.status, result.failure) == (ExecutionStatus.CANCELLED, None)
        else:
            worker.kill()
            await asyncio.wait_for(task, 60)
            assert await queue.status("endless") is JobState.QUEUED
        assert not Path(f"/proc/{sandbox.pid}").exists()
