"""What the simulation found, each told once more in a few lines, since a seed means something else tomorrow."""

from collections.abc import AsyncIterator

import pytest

from praxis_sdk.control.kinds import AttemptHandle, CancellationRequested, Kinds, Outcome
from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.transitions import note, start
from praxis_sdk.control.workers.worker import WorkerCapacity, WorkerProcess
from praxis_sdk.model import Execution, Flag, Worker, WorkerState
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import ExecutionFilter
from praxis_sdk.store.changes import apply_change
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from tests.control.scripted import ScriptedKind

OFFER = WorkerCapacity(Resources(cpu_cores=4), slots=8)


class OddKind(ScriptedKind):
    """Returns what is no JSON."""

    def collect(self, attempt: AttemptHandle, ending: object) -> Outcome:
        return Outcome(ExecutionStatus.COMPLETED, outputs=object())


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(":memory:", inline=True)
    yield opened
    await opened.close()


async def begun(
    store: SqliteStore, kind: ScriptedKind, worker: WorkerProcess, **request: object
) -> Execution:
    """Return an execution that a round has given to a worker, which has not heard of it."""
    coordinator = ExecutionCoordinator(store, Kinds(kind))
    execution_id = await coordinator.submit_execution({"kind": kind.name, "request": request})
    queued = await store.get(execution_id)
    await store.apply([start(queued, worker.id, queued.submitted_at)])
    return await store.get(execution_id)


async def test_a_worker_that_leaves_gives_back_what_it_never_began(store: SqliteStore) -> None:
    kind = ScriptedKind()
    worker = WorkerProcess(store, Kinds(kind), OFFER)
    await worker.start()
    given = await begun(store, kind, worker)
    await worker.stop()
    assert (await store.get(given.id)).status is ExecutionStatus.QUEUED
    (gone,) = await store.workers(active_only=False)
    assert (gone.state, gone.running) == (WorkerState.GONE, 0)


async def test_a_worker_that_could_not_say_that_it_drains_gives_back_all_the_same(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ScriptedKind()
    worker = WorkerProcess(store, Kinds(kind), OFFER)
    await worker.start()

    async def away(_worker: Worker) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_worker", away)
        with pytest.raises(StoreUnavailable):
            await worker.drain()
    states: list[WorkerState] = []
    put_worker = store.put_worker

    async def seen(one: Worker) -> None:
        states.append(one.state)
        await put_worker(one)

    monkeypatch.setattr(store, "put_worker", seen)
    await worker.stop()
    assert states == [WorkerState.DRAINING, WorkerState.GONE]


async def test_late_news_of_an_attempt_that_has_ended_do_not_begin_it_again(store: SqliteStore) -> None:
    kind = ScriptedKind()
    worker = WorkerProcess(store, Kinds(kind), OFFER)
    await worker.start()
    given = await begun(store, kind, worker)
    worker.accept(given)
    await worker._idle.wait()
    worker.accept(given)
    await worker._idle.wait()
    await worker.stop()
    assert kind.begun == [given.id]


async def test_outputs_that_are_no_json_fail_the_execution_and_do_not_run_for_ever(
    store: SqliteStore,
) -> None:
    kind = OddKind()
    worker = WorkerProcess(store, Kinds(kind), OFFER)
    await worker.start()
    given = await begun(store, kind, worker)
    worker.accept(given)
    await worker._idle.wait()
    await worker.stop()
    ended = await store.get(given.id)
    assert ended.status is ExecutionStatus.FAILED
    assert ended.failure is not None
    assert ended.failure.code == "outputs_not_json"


async def test_a_worker_that_came_back_hears_of_its_work_under_its_new_name(store: SqliteStore) -> None:
    kind = ScriptedKind()
    worker = WorkerProcess(store, Kinds(kind), OFFER)
    await worker.start()
    assert await store.expire_workers({one.id: one.lease_until for one in await store.workers()}) == []
    await worker._heartbeat.once()
    given = await begun(store, kind, worker)
    await kind.begun_count(1)
    assert kind.begun == [given.id]
    await worker.stop()


async def test_a_flag_that_a_monitor_set_outlives_the_end_of_the_attempt(store: SqliteStore) -> None:
    kind = ScriptedKind()
    given = await begun(store, kind, WorkerProcess(store, Kinds(kind), OFFER))
    flagged = given.but(flags=(Flag.LONG_RUNNING,))
    settled = apply_change(flagged, note(given.id, [], flags=(Flag.CRASHED,)), 0.0)
    assert settled is not None
    assert set(settled.after.flags) == {Flag.LONG_RUNNING, Flag.CRASHED}


async def test_a_child_that_comes_after_its_parents_cancellation_is_cancelled(store: SqliteStore) -> None:
    kind = ScriptedKind()
    coordinator = ExecutionCoordinator(store, Kinds(kind))
    parent = await begun(store, kind, WorkerProcess(store, Kinds(kind), OFFER))
    await coordinator.cancel_execution(parent.id)
    with pytest.raises(CancellationRequested):
        await coordinator.submit_child(parent, kind.children, kind.name, {}, {"key": "late"})
    (child,) = await store.find(ExecutionFilter(parent_id=parent.id))
    assert child.status is ExecutionStatus.CANCELLED
