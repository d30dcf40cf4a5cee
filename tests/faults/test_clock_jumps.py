"""Clocks that are set by hours while work runs: nothing is lost or doubled, and nothing waits for hours.

Time limits and pauses of running work go by monotonic time. Whose lease has run out is judged by the time of day
while clocks agree, and by watching it once they do not. A retry that is due by a wrong clock, and a schedule that
was moved on by one, are brought back. Not mended: times that a submitter gave, and places in the queue, which a
clock that was ahead leaves behind for as long as it was ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.model import AttemptEnd
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.sqlite import SqliteStore
from tests.faults.acts import TALK, FaultKind
from tests.faults.conftest import Survivor
from tests.faults.ledger import drained, prove
from tests.faults.load import work
from tests.faults.worker import CAPACITY

HOURS_S = 3 * 3600.0
LEASE_S = 3.0
BEATS = 6  # two leases
SOON_S = 20.0
RUNNING = 4


class SetClock(Clock):
    """A clock whose time of day can be set.

    Args:
        by_s: by how much it is wrong.
    """

    def __init__(self, by_s: float = 0.0) -> None:
        self.by_s = by_s

    def time(self) -> float:
        return super().time() + self.by_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)


@contextlib.asynccontextmanager
async def plane_with(path: Path, clock: Clock) -> AsyncIterator[Survivor]:
    """A plane that goes by a clock, its store as well."""
    store = await SqliteStore.open(path, clock=clock)
    kind = FaultKind()
    options = PlaneOptions(worker=WorkerCapacity(CAPACITY, RUNNING, LEASE_S))
    try:
        async with ControlPlane(store, Kinds(kind), options, clock=clock) as plane:
            yield Survivor(plane, store, kind)
    finally:
        await store.close()


async def beats(survivor: Survivor, count: int = BEATS) -> None:
    """Wait until the workers of a store have given so many signs of life."""
    leases: set[tuple[str, float]] = set()
    async with asyncio.timeout(SOON_S):
        while len(leases) < count:
            leases |= {(worker.id, worker.lease_until) for worker in await survivor.store.workers()}
            await survivor.plane.keeper.bury()
            await asyncio.sleep(LEASE_S / 10)  # beats ring no bell


async def running(survivor: Survivor) -> list[str]:
    """Have attempts run until their gate opens."""
    submit = survivor.plane.coordinator.submit_execution
    return [await submit(work(TALK, gate="gate", value=number)) for number in range(RUNNING)]


@pytest.mark.parametrize("jumps", [(HOURS_S,), (-HOURS_S,), (HOURS_S, -HOURS_S), (-HOURS_S, HOURS_S)])
async def test_what_runs_is_left_alone_when_the_clock_is_set(tmp_path: Path, jumps: Sequence[float]) -> None:
    clock = SetClock()
    async with plane_with(tmp_path / "praxis.db", clock) as survivor:
        assert survivor.plane.worker is not None
        name = survivor.plane.worker.id
        ids = await running(survivor)
        for one in ids:
            await survivor.kind.begun_one(one)
        for by_s in jumps:
            clock.by_s += by_s
            await beats(survivor)
            free = await survivor.plane.coordinator.submit_execution(work(value="meanwhile"))
            ids.append(free)
        assert survivor.plane.worker.id == name, "it was not declared dead"
        survivor.kind.open("gate")
        await drained(survivor.plane, survivor.store)
        account = await prove(survivor.store, ids)
        assert account.completed == account.attempts == len(ids)


@pytest.mark.parametrize("by_s", [HOURS_S, -HOURS_S])
async def test_a_worker_that_dies_after_the_clock_was_set_is_missed_soon(tmp_path: Path, by_s: float) -> None:
    clock = SetClock()
    path = tmp_path / "praxis.db"
    async with plane_with(path, clock) as survivor, plane_with(path, clock) as doomed:
        assert doomed.plane.worker is not None
        assert survivor.plane.worker is not None
        await survivor.plane.worker.resize(0)
        (one, *_) = await running(survivor)
        await doomed.kind.begun_one(one)
        await doomed.plane.worker.tasks.stop()  # no heartbeat any more, as of a process that stands still
        await survivor.plane.keeper.bury()
        clock.by_s += by_s
        await survivor.plane.worker.resize(RUNNING)
        survivor.kind.open("gate")
        async with asyncio.timeout(SOON_S):
            done = await survivor.plane.coordinator.wait(one)
        assert done.status is ExecutionStatus.COMPLETED
        assert [attempt.ending for attempt in await survivor.store.attempts(one)] == [
            AttemptEnd.LOST,
            AttemptEnd.COMPLETED,
        ]


@pytest.mark.parametrize("by_s", [HOURS_S, -HOURS_S])
async def test_one_clock_of_two_that_is_set_loses_and_doubles_nothing(tmp_path: Path, by_s: float) -> None:
    clock = SetClock()
    path = tmp_path / "praxis.db"
    async with plane_with(path, clock) as wrong, plane_with(path, Clock()) as right:
        ids = [*await running(wrong), *await running(right)]
        await asyncio.gather(wrong.kind.begun_count(1), right.kind.begun_count(1))
        clock.by_s = by_s
        await beats(right, 2 * BEATS)
        for one in (wrong, right):
            one.kind.open("gate")
            ids.append(await one.plane.coordinator.submit_execution(work(value="more")))
        await drained(right.plane, right.store)
        account = await prove(right.store, ids)
        assert account.completed == len(ids)
        assert account.attempts == len(ids), "nobody was declared dead for a clock's sake"
        clock.by_s = 0.0
        assert right.plane.worker is not None
        await right.plane.worker.resize(0)
        async with asyncio.timeout(SOON_S):
            back = await right.plane.coordinator.run(work(value="back"))
        assert back.outputs == "back", "the worker whose clock was wrong works on"


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_retry_is_not_stuck_when_the_clock_is_set_back(tmp_path: Path, *, restarted: bool) -> None:
    clock = SetClock(HOURS_S)
    path = tmp_path / "praxis.db"
    async with plane_with(path, clock) as survivor:
        flaky = {**work("flaky", failures=1, value="at last"), "retry": {"first_pause_s": 1.0}}
        one = await survivor.plane.coordinator.submit_execution(flaky)
        seen = 0
        while not (await survivor.store.get(one)).retries:
            seen = await survivor.store.changed(f"execution:{one}", seen)
        if not restarted:
            await survivor.plane.keeper.bury()
            clock.by_s = 0.0
            async with asyncio.timeout(SOON_S):
                done = await survivor.plane.coordinator.wait(one)
    if restarted:
        async with plane_with(path, Clock()) as survivor, asyncio.timeout(SOON_S):
            done = await survivor.plane.coordinator.wait(one)
    assert (done.status, done.outputs, done.attempt) == (ExecutionStatus.COMPLETED, "at last", 2)


async def test_a_schedule_that_a_wrong_clock_moved_on_is_due_again(tmp_path: Path) -> None:
    clock = SetClock(HOURS_S)
    async with plane_with(tmp_path / "praxis.db", clock) as survivor:
        await survivor.plane.schedules.add("hourly", "0 * * * *", work())
        await survivor.plane.keeper.bury()
        clock.by_s = 0.0
        await survivor.plane.keeper.round()
        (schedule,) = await survivor.plane.schedules.list()
        assert schedule.next_at is not None
        assert 0 < schedule.next_at - clock.time() <= 3600
