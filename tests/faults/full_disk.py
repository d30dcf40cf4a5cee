"""A control plane whose disk is full for a while, in a process of its own, on a small file system of its own.

    python -m tests.faults.full_disk FOLDER

It prints, as JSON, what it counted; what must hold it asserts itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any, Final

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from tests.faults.acts import TALK, FaultKind
from tests.faults.ledger import drained, lines_of_last_attempt, prove
from tests.faults.load import work
from tests.faults.worker import CAPACITY

RUNNING: Final = 8
SUBMITTERS: Final = 4
REFUSALS: Final = 20
ACCEPTED: Final = 50
PAYLOAD: Final = "x" * 4000


class Submitters:
    """Submit under keys without end, and once more what was refused.

    Args:
        plane: where.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._numbers = itertools.count()
        self.accepted: list[str] = []
        self.refused = 0
        self.ending = False
        self._news = asyncio.Condition()

    async def run(self) -> None:
        """Submit until `ending`."""
        await asyncio.gather(*(self._one() for _ in range(SUBMITTERS)))

    async def until(self, wanted: Any) -> None:
        """Wait until something holds of what was counted."""
        async with self._news:
            await self._news.wait_for(wanted)

    async def _one(self) -> None:
        while not self.ending:
            await self._see_through(f"work-{next(self._numbers)}")

    async def _see_through(self, key: str) -> None:
        while True:
            try:
                asked = work("log", lines=2, payload=PAYLOAD)
                one = await self._plane.coordinator.submit_execution(asked, idempotency_key=key)
            except StoreUnavailable:
                self.refused += 1
            else:
                self.accepted.append(one)
                return
            finally:
                async with self._news:
                    self._news.notify_all()


def fill(path: Path) -> None:
    """Write a file until there is no room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass


async def main(folder: Path) -> None:
    """Fill the disk under load, make room again, and check that nothing was lost."""
    store = await SqliteStore.open(folder / "praxis.db")
    kind = FaultKind()
    async with ControlPlane(store, Kinds(kind), PlaneOptions(worker=WorkerCapacity(CAPACITY, 64))) as plane:
        talks = [
            await plane.coordinator.submit_execution(work(TALK, gate="gate", value=n)) for n in range(RUNNING)
        ]
        for one in talks:
            await kind.begun_one(one)
        submitters = Submitters(plane)
        submitting = asyncio.create_task(submitters.run())
        await submitters.until(lambda: len(submitters.accepted) >= ACCEPTED)
        filler = folder / "filler"
        fill(filler)
        await submitters.until(lambda: submitters.refused >= REFUSALS)
        kind.open("gate")  # what runs ends now, and nobody can write that
        await submitters.until(lambda: submitters.refused >= 2 * REFUSALS)
        refused, accepted = submitters.refused, len(submitters.accepted)
        filler.unlink()
        await submitters.until(lambda: len(submitters.accepted) >= accepted + ACCEPTED)
        submitters.ending = True
        await submitting
        await drained(plane, store)
        for number, one in enumerate(talks):
            ended = await store.get(one)
            assert (ended.status, ended.outputs) == (ExecutionStatus.COMPLETED, number)
            assert ended.attempt == 1, "a full disk is no reason to begin again"
            assert await lines_of_last_attempt(store, one) == ["before", "after"]
    account = await prove(store, [*talks, *submitters.accepted])
    assert account.completed == RUNNING + len(submitters.accepted) == account.attempts
    await store.close()
    sys.stdout.write(json.dumps({"refused": refused, "completed": account.completed}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
