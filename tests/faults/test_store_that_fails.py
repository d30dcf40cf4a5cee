"""A store that fails for a while, at chosen calls: what ended is not begun again, and lines keep their place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.model import EventType
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import AppliedChange, Change
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from tests.faults.acts import TALK, FaultKind
from tests.faults.conftest import Survivor
from tests.faults.ledger import lines_of_last_attempt, prove
from tests.faults.load import work
from tests.faults.worker import CAPACITY

LEASE_S = 2.0
LOG = frozenset({EventType.LOG})


class FailingStore:
    """A store of which some calls fail.

    Args:
        store: the real one.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.away = False
        self.fails: Callable[[Sequence[Change]], bool] = lambda changes: False
        self.failed = 0
        self.beats = 0
        self.news = asyncio.Condition()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, changes: Sequence[Change]) -> list[AppliedChange | None]:
        if self.away or self.fails(changes):
            self.failed += 1
            await self._tell()
            raise StoreUnavailable("no room")
        settled: list[AppliedChange | None] = await self._store.apply(changes)
        return settled

    async def put_worker(self, worker: Any) -> None:
        if self.away:
            raise StoreUnavailable("no room")
        await self._store.put_worker(worker)

    async def beat(self, worker_id: str, lease_until: float) -> bool:
        alive: bool = await self._store.beat(worker_id, lease_until)
        self.beats += 1
        await self._tell()
        return alive

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait until something holds of what was counted."""
        async with self.news, asyncio.timeout(20):
            await self.news.wait_for(wanted)

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()


def ends(changes: Sequence[Change]) -> bool:
    """Whether an attempt's end is among changes."""
    return any(one.ending is not None for one in changes)


@contextlib.asynccontextmanager
async def failing(path: Path) -> AsyncIterator[Survivor]:
    """A plane on a store that fails when it is told to."""
    real = await SqliteStore.open(path)
    store, kind = FailingStore(real), FaultKind()
    try:
        options = PlaneOptions(worker=WorkerCapacity(CAPACITY, 8, LEASE_S))
        async with ControlPlane(store, Kinds(kind), options) as plane:
            yield Survivor(plane, store, kind)
    finally:
        await real.close()


async def test_an_end_that_cannot_be_written_is_not_begun_again(tmp_path: Path) -> None:
    """Signs of life still go through, as on a disk that is almost full: it stays this worker's."""
    async with failing(tmp_path / "praxis.db") as survivor:
        one = await survivor.plane.coordinator.submit_execution(work(value="once"))
        survivor.store.fails = ends
        await survivor.store.until(lambda: survivor.store.failed >= 1)
        beats = survivor.store.beats
        await survivor.store.until(lambda: survivor.store.beats >= beats + 9)  # three leases
        survivor.store.fails = lambda changes: False
        done = await survivor.plane.coordinator.wait(one)
        assert (done.status, done.outputs, done.attempt) == (ExecutionStatus.COMPLETED, "once", 1)
        assert survivor.kind.begun == [one]
        await prove(survivor.store, [one])


async def test_lines_that_could_not_be_written_stand_before_the_end_all_the_same(tmp_path: Path) -> None:
    async with failing(tmp_path / "praxis.db") as survivor:
        survivor.store.fails = lambda changes: not ends(changes)
        one = await survivor.plane.coordinator.submit_execution(work(TALK, gate="gate"))
        await survivor.store.until(lambda: survivor.store.failed >= 1)
        survivor.kind.open("gate")
        await survivor.plane.coordinator.wait(one)
        assert await lines_of_last_attempt(survivor.store, one) == ["before", "after"]


async def test_lines_are_written_when_the_store_is_back_though_nothing_more_is_told(tmp_path: Path) -> None:
    async with failing(tmp_path / "praxis.db") as survivor:
        survivor.store.fails = lambda changes: not ends(changes)
        one = await survivor.plane.coordinator.submit_execution(work(TALK, gate="never"))
        await survivor.store.until(lambda: survivor.store.failed >= 1)
        survivor.store.fails = lambda changes: False
        async with asyncio.timeout(10):
            async for event in survivor.plane.coordinator.tail(one, types=LOG):
                assert event.message == "before"
                break


async def test_a_line_that_the_store_refuses_takes_no_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unkeepable(kind: FaultKind, attempt: Any, request: Any) -> str:
        attempt.log("no JSON", thing=object())
        return "fine"

    monkeypatch.setattr(FaultKind, "_return", unkeepable)
    async with failing(tmp_path / "praxis.db") as survivor:
        talks = await survivor.plane.coordinator.submit_execution(work(TALK, gate="gate"))
        await survivor.kind.begun_one(talks)
        done = await survivor.plane.coordinator.run(work())
        assert (done.status, done.outputs) == (ExecutionStatus.COMPLETED, "fine")
        survivor.kind.open("gate")
        await survivor.plane.coordinator.wait(talks)
        assert await lines_of_last_attempt(survivor.store, talks) == ["before", "after"]


async def test_work_is_killed_at_the_end_of_a_process_though_the_store_is_away(tmp_path: Path) -> None:
    closed = asyncio.Event()
    with contextlib.suppress(StoreUnavailable):
        async with failing(tmp_path / "praxis.db") as survivor:
            one = await survivor.plane.coordinator.submit_execution(work("wait"))
            await survivor.kind.begun_one(one)

            async def close() -> None:
                closed.set()

            survivor.kind.close = close  # type: ignore[method-assign]
            survivor.store.away = True
    assert survivor.kind.running == 0
    assert closed.is_set(), "engines and sandboxes end, too"
