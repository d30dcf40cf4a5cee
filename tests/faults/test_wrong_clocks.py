"""A newcomer whose clock is hours or months ahead: what cannot be taken back is not decided by it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.clock import Clock
from praxis_sdk.control.lifecycle.submission import Window
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.model import EventType, Flag
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import Round, RoundScope
from praxis_sdk.store.sqlite import SqliteStore
from tests.faults.acts import FaultKind
from tests.faults.conftest import Survivor
from tests.faults.load import work
from tests.faults.worker import CAPACITY, make_kinds, open_store

STORES = ("sqlite", "postgres")
HOURS_S = 3 * 3600.0
MONTHS_S = 100 * 86_400.0
SOON_S = 30.0


@pytest.fixture(params=STORES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "praxis.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


class Machine:
    """The clock of the machine on which this process runs; the server of PostgreSQL runs on another."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        patch.setattr(Clock, "time", lambda _: time.time() + self.ahead_s)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine of all planes of a test."""
    return Machine(monkeypatch)


@contextlib.asynccontextmanager
async def newcomer(address: str, *, works: bool = True) -> AsyncIterator[Survivor]:
    """A plane on a store of its own, or only the door to it."""
    store, kind = await open_store(address), FaultKind()
    try:
        options = PlaneOptions(
            worker=WorkerCapacity(CAPACITY, 8) if works else None, dispatch=works, keep=works
        )
        async with ControlPlane(store, make_kinds(kind), options) as plane:
            yield Survivor(plane, store, kind)
    finally:
        await store.close()


def windowed(seconds: float) -> Window:
    """A window that is open, and closes after so many seconds."""
    return Window(opens_at=time.time() - 60.0, closes_at=time.time() + seconds)


async def finished(survivor: Survivor, execution_id: str) -> Any:
    """Wait for an end that must come soon."""
    async with asyncio.timeout(SOON_S):
        return await survivor.plane.coordinator.wait(execution_id)


async def rounds(survivor: Survivor) -> None:
    """Have at least one round that began now come to its end."""
    for number in range(2):
        await finished(survivor, await survivor.plane.coordinator.submit_execution(work(value=number)))


async def test_a_window_is_not_missed_by_a_clock_that_is_ahead(address: str, machine: Machine) -> None:
    async with newcomer(address, works=False) as door:
        submit = door.plane.coordinator.submit_execution
        one = await submit(work(value="in time"), schedule=windowed(3600.0))
        large = {**work(), "requirements": {"cpu_cores": CAPACITY.cpu_cores + 1}}
        waits = await submit(large, schedule=windowed(3600.0))
        soon = await submit(large, schedule=windowed(1.0))
    machine.ahead_s = HOURS_S
    async with newcomer(address) as wrong:
        await rounds(wrong)
        for execution_id in (one, waits):
            found = await wrong.store.get(execution_id)
            assert found.status is not ExecutionStatus.FAILED
            assert Flag.WINDOW_MISSED not in found.flags
        missed = await finished(wrong, soon)
        assert missed.status is ExecutionStatus.FAILED
        assert Flag.WINDOW_MISSED in missed.flags, "it is judged by the time that passes"
    machine.ahead_s = 0.0
    async with newcomer(address) as right:
        done = await finished(right, one)
        assert (done.status, done.outputs) == (ExecutionStatus.COMPLETED, "in time")
        assert (await right.store.get(waits)).status is ExecutionStatus.QUEUED


async def test_why_windowed_work_waits_is_told_where_only_the_clock_says_that_it_is_late(
    tmp_path: Path, machine: Machine
) -> None:
    address = str(tmp_path / "praxis.db")
    async with newcomer(address, works=False) as door:
        one = await door.plane.coordinator.submit_execution(work(), schedule=windowed(3600.0))
    machine.ahead_s = HOURS_S
    async with newcomer(address) as wrong:
        await rounds(wrong)
        await rounds(wrong)
        found = await wrong.store.get(one)
        assert (found.status, found.attempt) == (ExecutionStatus.QUEUED, 0)
        assert "clock that was set ahead" in found.reason
        told = await wrong.store.events(one, types=frozenset({EventType.DECISION}))
        assert [event.message for event in told] == [found.reason], "once"


async def test_nothing_is_forgotten_by_a_clock_that_is_months_ahead(address: str, machine: Machine) -> None:
    async with newcomer(address) as right:
        one = await right.plane.coordinator.submit_execution(work("log", lines=3))
        await finished(right, one)
        before = await right.store.events(one)
    machine.ahead_s = MONTHS_S
    async with newcomer(address) as wrong:
        await wrong.plane.keeper.round()
        assert await wrong.store.events(one) == before
        assert (await wrong.store.get(one)).status is ExecutionStatus.COMPLETED


async def test_times_in_a_shared_store_are_the_servers(postgres_url: str, machine: Machine) -> None:
    machine.ahead_s = HOURS_S
    began = time.time()
    async with newcomer(postgres_url) as wrong:
        done = await finished(wrong, await wrong.plane.coordinator.submit_execution(work()))
    times = (done.submitted_at, done.started_at, done.ended_at)
    assert all(began - 1.0 < at < time.time() + 1.0 for at in times), "the server runs on this machine"


class StandingClock(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = time.time()
        self.since_boot_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def boottime(self) -> float:
        return self.since_boot_s

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.since_boot_s += seconds


async def test_a_clock_that_was_put_right_is_believed_after_a_day(tmp_path: Path) -> None:
    clock = StandingClock()
    seen: list[Round] = []
    store = await SqliteStore.open(tmp_path / "praxis.db", clock=clock)

    async def doubted_s() -> float:
        await store.schedule(RoundScope(), lambda found: seen.append(found) or ())
        return round(seen[-1].now - seen[-1].certain)

    try:
        assert await doubted_s() == 0
        clock.now_s += MONTHS_S
        assert await doubted_s() == MONTHS_S
        clock.passes(86_000.0)
        assert await doubted_s() == MONTHS_S
        clock.passes(500.0)
        assert await doubted_s() == 0
        clock.now_s -= HOURS_S
        assert await doubted_s() == 0, "one that was put back is believed at once"
    finally:
        await store.close()
