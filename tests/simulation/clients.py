"""Clients: they talk to any process that answers, hear nothing from it now and then, and ask again."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.submission import Window
from praxis_sdk.errors import PraxisError
from praxis_sdk.store.protocol import StoreConflict, UnknownExecution
from tests.simulation.process import Gone, Process
from tests.simulation.workload import Wish

if TYPE_CHECKING:
    from tests.simulation.world import World

MOST_TRIES = 40
PAUSE_S = 1.0
Question = Callable[[ExecutionCoordinator], Coroutine[Any, Any, Any]]


class Client:
    """Carries out one wish, and notes what it was told."""

    def __init__(self, world: "World", wish: Wish, random_: random.Random) -> None:
        self._world = world
        self._wish = wish
        self._random = random_

    async def live(self) -> None:
        """Carry out the wish."""
        await asyncio.sleep(self._wish.at)
        if self._wish.cron is not None:
            await self._add_schedule()
            return
        await self._submit()
        if not self._wish.ids:
            return
        if self._wish.again and self._wish.key is not None:
            await self._submit()
        going = [self._wait(), self._follow(), self._cancel()]
        await asyncio.gather(*(one for one in going))

    # -- submitting

    async def _submit(self) -> None:
        wish, world = self._wish, self._world
        repeatable = wish.key is not None
        now = world.clock.time()
        window = Window(now + wish.window[0], now + wish.window[1]) if wish.window is not None else None
        if wish.batch_name is not None:
            await self._submit_batch(window)
            return

        def ask(coordinator: ExecutionCoordinator) -> Coroutine[Any, Any, Any]:
            return coordinator.submit_execution(
                wish.works[0], priority=wish.priority, schedule=window, idempotency_key=wish.key
            )

        try:
            execution_id = await self._ask(ask, tries=MOST_TRIES if repeatable else 1)
        except StoreConflict:
            if wish.key != "key-shared" and not world.faults.any:
                world.fail(f"the key {wish.key} was refused, and used for nothing else")
            return
        if execution_id is not None:
            self._acknowledged(execution_id)

    async def _submit_batch(self, window: Window | None) -> None:
        wish, world = self._wish, self._world
        assert wish.batch_name is not None
        name = wish.batch_name
        batch = await self._ask(
            lambda coordinator: coordinator.submit_batch(
                name, wish.works, schedule=window, priority=wish.priority
            ),
            tries=1,
        )
        if batch is None:
            return
        members = [one.id for one in world.ledger.known.values() if one.batch_id == batch.id]
        if len(members) != len(wish.works):
            world.fail(f"of a batch of {len(wish.works)} there are {len(members)}")
        for member in members:
            self._acknowledged(member)

    def _acknowledged(self, execution_id: str) -> None:
        wish, world = self._wish, self._world
        world.acknowledged.add(execution_id)
        if execution_id not in wish.ids:
            wish.ids.append(execution_id)
        if execution_id not in world.ledger.known:
            world.fail(f"{execution_id} was acknowledged, and there is none")
        if wish.key is not None and world.keys.setdefault(wish.key, execution_id) != execution_id:
            world.fail(f"{wish.key} names {world.keys[wish.key]} and {execution_id}")

    async def _add_schedule(self) -> None:
        wish, world = self._wish, self._world
        assert wish.cron is not None
        cron = wish.cron
        for _ in range(MOST_TRIES):
            process = await self._somebody()
            if process is None:
                return
            try:
                assert process.plane is not None
                await process.ask(process.plane.schedules.add("often", cron, wish.works[0]))
            except (Gone, PraxisError):
                await asyncio.sleep(PAUSE_S)
            else:
                world.count("schedules")
                return

    # -- asking about it

    async def _wait(self) -> None:
        wish, world = self._wish, self._world
        if not wish.waits:
            return
        ended = await self._to_the_end(lambda coordinator: coordinator.wait(wish.ids[0]))
        if ended is None:
            return
        known = world.ledger.known[ended.id]
        if not ended.status.final or ended.status is not known.status:
            world.fail(f"{world.ledger.name(ended.id)}: a client heard {ended.status}, it is {known.status}")
        world.count("waited for")
        if wish.retries:
            again = await self._ask(lambda coordinator: coordinator.retry_execution(ended.id), tries=1)
            if again is not None:
                world.acknowledged.add(again)
                world.count("run once more")

    async def _follow(self) -> None:
        wish, world = self._wish, self._world
        if not wish.follows:
            return

        async def read(coordinator: ExecutionCoordinator) -> list[int]:
            return [event.seq async for event in coordinator.tail(wish.ids[0])]

        seen = await self._to_the_end(read)
        if seen is None:
            return
        if seen != list(range(len(seen))):
            world.fail(f"{world.ledger.name(wish.ids[0])}: a client read {seen}")
        world.count("followed")

    async def _cancel(self) -> None:
        wish, world = self._wish, self._world
        if wish.cancel_s is None:
            return
        await asyncio.sleep(wish.cancel_s)
        for execution_id in wish.ids:
            cancelled = await self._ask(
                lambda coordinator, wanted=execution_id: coordinator.cancel_execution(wanted), tries=5
            )
            if cancelled:
                world.cancelled.setdefault(execution_id, world.loop.time())
                if world.ledger.known[execution_id].status.value not in ("cancelling", "cancelled"):
                    world.fail(
                        f"{world.ledger.name(execution_id)}: its cancellation was acknowledged, and is not so"
                    )

    # -- talking to processes

    async def _somebody(self) -> Process | None:
        for _ in range(MOST_TRIES):
            serving = [process for process in self._world.processes if process.serves]
            if serving:
                return self._random.choice(serving)
            await asyncio.sleep(PAUSE_S)
        return None

    async def _ask(self, question: Question, tries: int) -> Any:
        """Return an answer; None where there was none after so many tries."""
        world = self._world
        for _ in range(tries):
            process = await self._somebody()
            if process is None:
                return None
            assert process.plane is not None
            try:
                return await process.ask(question(process.plane.coordinator))
            except (StoreConflict, UnknownExecution):
                raise
            except (Gone, PraxisError) as error:
                world.tell(f"client had no answer from {process.name}: {type(error).__name__}")
                await asyncio.sleep(PAUSE_S)
        return None

    async def _to_the_end(self, question: Question) -> Any:
        """Ask for something that takes until an execution has ended; who is not answered then is forgotten."""
        world, execution_id = self._world, self._wish.ids[0]
        for _ in range(MOST_TRIES):
            process = await self._somebody()
            if process is None:
                return None
            assert process.plane is not None
            waiting = world.loop.create_task(process.ask(question(process.plane.coordinator), patience_s=1e6))
            world.waiting[waiting] = process, execution_id
            try:
                return await waiting
            except (Gone, PraxisError):
                await asyncio.sleep(PAUSE_S)
            finally:
                world.waiting.pop(waiting, None)
        return None
