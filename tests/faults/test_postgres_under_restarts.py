"""PostgreSQL crashes every other second under load: all that was acknowledged completes, exactly once."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack

from devservices.postgres import PostgresServer
from praxis_sdk.errors import PlatformError
from praxis_sdk.states import ExecutionStatus
from tests.faults.conftest import Survive, Survivor
from tests.faults.ledger import drained, lines_of_last_attempt, prove
from tests.faults.load import work
from tests.faults.processes import worker_child
from tests.faults.worker import Config, open_store

RESTARTS = 8
BETWEEN = 120  # accepted between two crashes, which takes a second or two
SUBMITTERS = 4
LINES = 3
LEASE_S = 30.0  # longer than the server is ever away


class _Submitters:
    """Submits under keys until told to end, and submits again what it was not told of."""

    def __init__(self, door: Survivor) -> None:
        self._door = door
        self.acknowledged: list[str] = []
        self.refused = 0
        self.ending = False
        self._numbers = itertools.count()
        self._news = asyncio.Condition()

    async def run(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(SUBMITTERS)))

    async def more(self, count: int) -> None:
        """Wait until so many more have ended."""
        async with self._news:
            wanted = len(self.acknowledged) + count
            await self._news.wait_for(lambda: len(self.acknowledged) >= wanted)

    async def _one(self) -> None:
        while not self.ending:
            key = f"work-{next(self._numbers)}"
            execution_id = await self._submitted(key)
            self.acknowledged.append(execution_id)
            await self._ended(execution_id)
            async with self._news:
                self._news.notify_all()

    async def _submitted(self, key: str) -> str:
        while True:
            try:
                asked = work("log", lines=LINES)
                return await self._door.plane.coordinator.submit_execution(asked, idempotency_key=key)
            except PlatformError:
                self.refused += 1

    async def _ended(self, execution_id: str) -> None:
        while True:
            try:
                await self._door.plane.coordinator.wait(execution_id)
            except PlatformError:
                self.refused += 1
            else:
                return


async def test_work_is_done_once_while_the_server_crashes_again_and_again(
    own_postgres_server: PostgresServer, survive: Survive
) -> None:
    server = own_postgres_server
    url = server.url()
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(survive(url, works=False))
        children = [
            await stack.enter_async_context(worker_child(Config(url, lease_s=LEASE_S, slots=4)))
            for _ in range(2)
        ]
        for child in children:
            await child.hear("ready")
        readers = [asyncio.create_task(child.ended()) for child in children]
        submitters = _Submitters(door)
        submitting = asyncio.create_task(submitters.run())
        for _ in range(RESTARTS):
            await submitters.more(BETWEEN)
            await asyncio.to_thread(server.stop, "immediate")
            await asyncio.to_thread(server.start)
        await submitters.more(BETWEEN)
        submitters.ending = True
        await submitting
        await drained(door.plane, door.store)
        for child in children:
            child.end()
        assert [await reader for reader in readers] == [0, 0]
    store = await open_store(url)
    try:
        account = await prove(store, submitters.acknowledged)
        assert len(submitters.acknowledged) >= (RESTARTS + 1) * BETWEEN
        assert account.by_status == {ExecutionStatus.COMPLETED: account.completed}
        assert account.completed >= len(set(submitters.acknowledged))
        for one in submitters.acknowledged:
            lines = await lines_of_last_attempt(store, one)
            assert lines == [f"line {number}" for number in range(LINES)]
        # The leases held, so nobody was declared dead for the server's sake.
        assert account.attempts == account.completed
        workers = {line["worker"] for child in children for line in child.said if "began" in line}
        assert len(workers) == 2
    finally:
        await store.close()
