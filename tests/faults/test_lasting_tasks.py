"""Whatever ends a lasting task of a process: the process goes on serving.

The tasks are found, not listed: a new one that is not supervised, or that does not survive, fails here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from praxis_sdk.control.observe.notifiers.base import Notifier
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.model import EventType
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.supervisor import PREFIX, Supervisor
from tests.faults.acts import TALK, FaultKind
from tests.faults.load import work
from tests.faults.worker import CAPACITY, make_kinds, open_store

STORES = ("sqlite", "postgres")
SOON_S = 30.0
# What waits within a supervised task and ends with it.
CHILDREN = ("Hub.changed", "Store.changed", "Clock.sleep", "Event.wait", "supervisor of ")
LOG = frozenset({EventType.LOG})


class Silent(Notifier):
    """Tells nobody."""

    name = "silent"

    async def notify(self, alert: Any) -> None:
        return


class Ends:
    """Ends supervised tasks from inside, one by one, by an error that nobody foresaw."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.triggers: dict[str, asyncio.Event] = {}
        start = Supervisor.start

        def watched(supervisor: Supervisor, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
            trigger = self.triggers[name] = asyncio.Event()

            async def until_triggered() -> None:
                running, waiting = asyncio.ensure_future(run()), asyncio.ensure_future(trigger.wait())
                try:
                    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
                    if running.done():
                        return running.result()
                    trigger.clear()
                    raise asyncpg.InternalClientError("the driver lost track")
                finally:
                    for task in (running, waiting):
                        task.cancel()
                    await asyncio.wait((running, waiting))

            start(supervisor, name, until_triggered)

        patch.setattr(Supervisor, "start", watched)


def lasting() -> dict[str, asyncio.Task[Any]]:
    """Return the supervised tasks of this process by name."""
    tasks = {task.get_name(): task for task in asyncio.all_tasks() if not task.done()}
    return {name.removeprefix(PREFIX): task for name, task in tasks.items() if name.startswith(PREFIX)}


@pytest.fixture(params=STORES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "praxis.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


async def serves(plane: ControlPlane, store: Any, kind: FaultKind, name: str) -> None:
    """Work is begun, its lines are seen while it runs, it ends, and the worker's lease is renewed."""
    coordinator = plane.coordinator
    async with asyncio.timeout(SOON_S):
        one = await coordinator.submit_execution(work(TALK, gate=name, value=name))
        async for event in coordinator.tail(one, types=LOG):
            assert event.message == "before"
            break
        kind.open(name)
        done = await coordinator.wait(one)
        assert (done.status, done.outputs) == (ExecutionStatus.COMPLETED, name)
        assert plane.worker is not None
        await plane.worker._heartbeat.once()
        assert plane.worker._heartbeat.age_s < SOON_S
        assert [worker.id for worker in await store.workers()] == [plane.worker.id]


@pytest.mark.parametrize("cancelled", [False, True], ids=("raises", "is cancelled"))
async def test_whichever_lasting_task_ends_the_process_goes_on_serving(
    address: str, monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
) -> None:
    ends = Ends(monkeypatch)
    store, kind = await open_store(address), FaultKind()
    try:
        options = PlaneOptions(worker=WorkerCapacity(CAPACITY, 8, 60.0), notifiers=[Silent()])
        async with ControlPlane(store, make_kinds(kind), options) as plane:
            await serves(plane, store, kind, "first")
            names = sorted(ends.triggers)
            assert {"dispatcher", "keeper", "worker.heartbeat", "worker.journal"} <= set(names)
            for name in names:
                before = lasting()[name]
                if cancelled:
                    before.cancel()
                else:
                    ends.triggers[name].set()
                await asyncio.wait([before], timeout=SOON_S)
                assert before.done(), name
                async with asyncio.timeout(SOON_S):
                    while True:
                        if name in lasting():
                            break
                        await asyncio.sleep(0.01)  # the pause before it is started again rings no bell
                await serves(plane, store, kind, name)
    finally:
        async with asyncio.timeout(SOON_S):
            await store.close()


async def test_every_lasting_task_is_supervised(address: str) -> None:
    before = asyncio.all_tasks()
    store, kind = await open_store(address), FaultKind()
    try:
        options = PlaneOptions(worker=WorkerCapacity(CAPACITY, 8, 60.0), notifiers=[Silent()])
        async with ControlPlane(store, make_kinds(kind), options) as plane:
            await serves(plane, store, kind, "first")
            alone = [
                f"{task.get_name()} {task.get_coro().__qualname__}"
                for task in asyncio.all_tasks() - before
                if not task.get_name().startswith(PREFIX)
            ]
            left = [one for one in alone if not any(child in one for child in CHILDREN)]
            assert left == []
    finally:
        await store.close()
