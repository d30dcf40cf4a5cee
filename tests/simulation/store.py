"""The store as a process sees it: one real store for all, behind a link that delays, fails, repeats and forgets.

What a call does happens at once and as a whole; what varies is when it happens, how often, and whether its
answer arrives. News travel the same way: at once within a process, later to the others, and sometimes not at all;
then the other process looks again by itself, as every store promises.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from praxis_sdk.errors import PraxisError
from praxis_sdk.store.hub import Hub
from praxis_sdk.store.protocol import StoreUnavailable

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

WRITES = frozenset(
    {
        "submit",
        "apply",
        "schedule",
        "put_worker",
        "beat",
        "expire_workers",
        "put_schedule",
        "fire",
        "put_batch",
    }
)
LASTING = frozenset({"beat", "living_workers", "next_due"})  # what only lasting tasks ask for
SLOWLY_S = 3.0
LOOK_S = 2.0  # how long a ring that was lost stays unheard
TRAVEL_S = 0.01


class OrderedHub(Hub):
    """A hub that wakes those who wait in the order in which they came: a set has another order each time."""

    async def _rung(self, topic: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(topic, {})
        waiting[future] = None
        try:
            await future
        finally:
            waiting.pop(future, None)
            if not waiting and self._waiting.get(topic) is waiting:
                del self._waiting[topic]


class Link:
    """A store for one process."""

    def __init__(self, world: "World", process: "Process", random_: random.Random) -> None:
        self._world = world
        self._process = process
        self._random = random_
        self.hub = OrderedHub()
        self.cut_until = 0.0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        operation = getattr(self._world.base, name)

        async def call(*positional: Any, **named: Any) -> Any:
            return await self._call(name, lambda: operation(*positional, **named))

        setattr(self, name, call)
        return call

    async def changed(self, topic: str, seen: int) -> int:
        return await self.hub.changed(topic, seen)

    async def close(self) -> None:
        """Leave the store open: it is everybody's."""

    async def _call(self, name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        faults, random_, world = self._world.faults, self._random, self._world
        await self._arrive(name)
        if name in LASTING and random_.random() < faults.odd:
            world.fault("odd error", f"{self._process.name} {name}")
            raise RuntimeError("simulated: the driver lost track of its connection")
        if random_.random() < faults.fails:
            world.fault("store fails", f"{self._process.name} {name}")
            raise StoreUnavailable("simulated: the call did not arrive")
        answer = await operation()
        if name in WRITES and random_.random() < faults.repeats:
            world.fault("store repeats", f"{self._process.name} {name}")
            with contextlib.suppress(PraxisError):
                await operation()
        await self._pause()
        if random_.random() < faults.unheard:
            world.fault("store unheard", f"{self._process.name} {name}")
            raise StoreUnavailable("simulated: the answer was lost")
        return answer

    async def _arrive(self, name: str) -> None:
        await self._pause()
        world, loop = self._world, asyncio.get_running_loop()
        if world.over:
            raise StoreUnavailable("simulated: the world has ended")
        away_until = max(self.cut_until, world.down_until)
        if loop.time() < away_until:
            world.fault("store away", f"{self._process.name} {name}")
            if (
                self._random.random() < 0.3
            ):  # some connections hang until it is back, and the call is done then
                await asyncio.sleep(away_until - loop.time())
                return
            await asyncio.sleep(self._random.choice((0.2, SLOWLY_S)))  # some refuse slowly
            raise StoreUnavailable("simulated: the store is away")

    async def _pause(self) -> None:
        faults, random_ = self._world.faults, self._random
        if random_.random() < faults.slow:
            self._world.fault("store slow", self._process.name)
            await asyncio.sleep(random_.uniform(0.05, faults.slow_s))
        elif random_.random() < 0.5:
            await asyncio.sleep(random_.uniform(0.0002, 0.005))

    # -- news

    def ring(self, topics: Iterable[str]) -> None:
        """Tell this process at once."""
        self.hub.ring(topics)

    def ring_from_afar(self, topics: Iterable[str]) -> None:
        """Tell this process what another one wrote."""
        loop, context = self._process.loop, self._process.context
        if self._random.random() < self._world.faults.lost_rings:
            self._world.fault("ring lost", self._process.name)
            loop.call_later(self._random.uniform(0.0, LOOK_S), self.hub.ring_all, context=context)
        else:
            loop.call_later(self._random.uniform(0.0002, TRAVEL_S), self.hub.ring, topics, context=context)
