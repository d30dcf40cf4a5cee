"""Work with a window never starts after it closed: the miss is recorded, flagged, told, and the execution ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from praxis_sdk.clock import Clock
from praxis_sdk.control.lifecycle.submission import Window
from praxis_sdk.control.observe.alerts import Alert, AlertKind
from praxis_sdk.control.scheduling.scheduler import decide
from praxis_sdk.model import EventType, Flag
from praxis_sdk.states import ExecutionStatus, ServiceClass
from praxis_sdk.store import Round, Store
from praxis_sdk.store.sqlite import SqliteStore
from tests.control.conftest import OFFER, MakePlane, work
from tests.control.rounds import NOW, cores, queued, worker
from tests.control.scripted import ScriptedKind

SOON_S = 20.0
WINDOW_S = 600.0


class SetClock(Clock):
    """A clock that is put forward."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def time(self) -> float:
        return super().time() + self.by_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)


class PassingClock(Clock):
    """A clock by which as much time passes as another is put forward by."""

    def __init__(self, clock: SetClock) -> None:
        self._clock = clock

    def time(self) -> float:
        return self._clock.time()

    def boottime(self) -> float:
        return super().boottime() + self._clock.by_s


@pytest.fixture
def clock() -> SetClock:
    """The time of the planes and of their store."""
    return SetClock()


@pytest.fixture
async def store(tmp_path: Path, clock: SetClock) -> AsyncIterator[Store]:
    """An empty store for which the time passes that the clock is put forward by."""
    opened = await SqliteStore.open(tmp_path / "praxis.db", clock=PassingClock(clock))
    try:
        yield opened
    finally:
        await opened.close()


class Told:
    """Keeps the alerts that people are told."""

    name = "kept"

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.told = asyncio.Event()

    async def notify(self, alert: Alert) -> None:
        self.alerts.append(alert)
        if alert.kind is AlertKind.WINDOW_MISSED:
            self.told.set()


@pytest.mark.parametrize("service_class", list(ServiceClass))
async def test_what_found_no_room_before_its_window_closed_never_starts(
    service_class: ServiceClass, make_plane: MakePlane, kind: ScriptedKind, clock: SetClock
) -> None:
    told = Told()
    async with make_plane(clock=clock, notifiers=[told]) as plane:
        coordinator = plane.coordinator
        holder = {**work("wait", gate="gate"), "requirements": {"cpu_cores": OFFER.capacity.cpu_cores}}
        busy = await coordinator.submit_execution(holder)
        await kind.begun_count(1)
        late = await coordinator.submit_execution(
            {**work(), "requirements": {"cpu_cores": 1}, "batch": service_class is ServiceClass.BATCH},
            schedule=Window(None, clock.time() + WINDOW_S),
        )
        seen = 0
        while (await coordinator.get_execution_status(late)) is not ExecutionStatus.QUEUED:
            seen = await plane._store.changed(f"execution:{late}", seen)
        clock.by_s += WINDOW_S + 1.0
        kind.open("gate")
        await coordinator.wait(busy)
        async with asyncio.timeout(SOON_S):
            missed = await coordinator.wait(late)
            await told.told.wait()
        assert (missed.status, missed.attempt, missed.started_at) == (ExecutionStatus.FAILED, 0, None)
        assert missed.failure is not None
        assert missed.failure.code == "window_missed"
        assert Flag.WINDOW_MISSED in missed.flags
        alerts = await plane._store.events(late, types=frozenset({EventType.ALERT}))
        assert [event.data["alert"] for event in alerts] == ["window_missed"]
        assert kind.begun == [busy]


async def test_what_no_worker_came_for_never_starts_after_its_window(
    make_plane: MakePlane, kind: ScriptedKind, clock: SetClock
) -> None:
    async with make_plane(clock=clock, worker=None) as door:
        late = await door.coordinator.submit_execution(
            {**work(), "batch": True}, schedule=Window(None, clock.time() + WINDOW_S)
        )
    clock.by_s += WINDOW_S + 1.0
    async with make_plane(clock=clock) as plane, asyncio.timeout(SOON_S):
        missed = await plane.coordinator.wait(late)
        assert missed.failure is not None
        assert (missed.status, missed.failure.code) == (ExecutionStatus.FAILED, "window_missed")
        assert kind.begun == []


async def test_a_retry_does_not_start_after_the_window_either(
    make_plane: MakePlane, kind: ScriptedKind, clock: SetClock
) -> None:
    async with make_plane(clock=clock) as plane:
        flaky = {**work("flaky", failures=1), "batch": True, "retry": {"first_pause_s": 300.0}}
        one = await plane.coordinator.submit_execution(flaky, schedule=Window(None, clock.time() + WINDOW_S))
        seen = 0
        while not (await plane._store.get(one)).retries:
            seen = await plane._store.changed(f"execution:{one}", seen)
        clock.by_s += WINDOW_S + 1.0
        async with asyncio.timeout(SOON_S):
            missed = await plane.coordinator.wait(one)
        assert missed.failure is not None
        assert (missed.attempt, missed.failure.code) == (1, "window_missed")
        assert missed.failure.detail, "why its first attempt failed"


def test_a_plan_that_would_start_after_the_window_is_not_waited_for() -> None:
    window = NOW, NOW + WINDOW_S
    due = tuple(
        queued(name, cores(1), service_class=ServiceClass.BATCH, window=window, expected_s=500.0)
        for name in "abc"
    )
    decision = decide(Round(NOW, due=due, workers=(worker("w", cores(1)),)))
    assert decision.released == 3, (
        "they may start early and end late; planned for after the window they never start"
    )
