"""The heartbeat: renews a worker's lease, and tells the worker when it must not go on.

Two tasks, so that neither a store that hangs nor a long queue before it keeps the worker from looking at its own
lease: one sends heartbeats and gives each a short time, the other looks at the clock. Where the event loop itself
stands still, `StallWatch` looks from a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.workers.leases import Lease
from praxis_sdk.errors import PraxisError
from praxis_sdk.log import get_logger
from praxis_sdk.store import Store
from praxis_sdk.store.protocol import StoreGone

_AGAIN_S: Final = 0.5  # after a heartbeat that failed

events = get_logger("praxis.control")


class Heartbeat:
    """Renews the lease of one worker.

    Args:
        store: where the lease is.
        clock: the time; the lease is judged by `boottime`, which counts while the machine is suspended.
        lease: how long it lasts.
        name: returns the worker's id, which changes when it was lost.
        renewed: called after each heartbeat that the store confirmed.
        overdue: called when half of the lease has passed without one, again and again until one is confirmed.
        lost: called when the store says that others have taken over.
        gone: called when the store is gone for good.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: Lease,
        *,
        name: Callable[[], str],
        renewed: Callable[[], None],
        overdue: Callable[[], None],
        lost: Callable[[], Awaitable[None]],
        gone: Callable[[StoreGone], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._name = name
        self._renewed = renewed
        self._overdue = overdue
        self._lost = lost
        self._gone = gone
        self._confirmed_at = clock.boottime()
        self._failing = False
        self._wanted = asyncio.Event()
        self.looks = 0  # how often `watch` has looked: it stands still with the event loop

    def confirm(self, sent_at: float) -> None:
        """Take note that the store holds the lease of a heartbeat, or of a registration, sent at that time."""
        self._confirmed_at = max(self._confirmed_at, sent_at)
        if self._failing:
            self._failing = False
            events.info("worker.heartbeat_back", worker_id=self._name())

    @property
    def age_s(self) -> float:
        """How long ago the last confirmed heartbeat was sent, in seconds; readable from any thread."""
        return self._clock.boottime() - self._confirmed_at

    @property
    def trusted(self) -> bool:
        """Whether the worker may run attempts."""
        return self.age_s < self._lease.stop_after_s

    async def beat(self) -> None:
        """Renew the lease, again and again."""
        while True:
            pause_s = self._lease.heartbeat_s
            await self._pause(min(_AGAIN_S, pause_s) if self._failing else pause_s)
            await self.once()

    async def once(self) -> None:
        """Send one heartbeat, and do what its answer demands."""
        name, sent_at = self._name(), self._clock.boottime()
        until = self._clock.time() + self._lease.duration_s
        try:
            async with asyncio.timeout(self._lease.answer_s):
                alive = await self._store.beat(name, until)
        except StoreGone as error:
            self._gone(error)
            raise
        except (PraxisError, TimeoutError) as error:
            detail = str(error) or "no answer in time"
            events.warning(
                "worker.heartbeat_failed", worker_id=name, detail=detail, age_s=round(self.age_s, 1)
            )
            self._failing = True
            return
        if name != self._name():
            return  # it came back under another one meanwhile
        if not alive:
            await self._lost()
        else:
            self.confirm(sent_at)
            self._renewed()

    async def watch(self) -> None:
        """Look at the lease, again and again, whatever the store does."""
        while True:
            await self._clock.sleep(self._lease.look_s)
            self.look()

    def look(self) -> bool:
        """Look at the lease now; returns whether the worker may run attempts."""
        self.looks += 1
        if self.trusted:
            return True
        self._wanted.set()  # the machine may just have woken: ask at once
        self._overdue()
        return False

    async def _pause(self, seconds: float) -> None:
        """Wait for the time of the next heartbeat, or until one is wanted; while they fail only time counts."""
        if self._failing:
            await self._clock.sleep(seconds)
        else:
            await self._clock.wait(self._wanted.wait(), seconds)
        self._wanted.clear()


class StallWatch:
    """Looks at a lease from a thread of its own, where the event loop may stand still and stop nothing.

    Args:
        heartbeat: of the worker.
        busy: whether attempts run.
        lease: of the worker.
        stalled: called once, in the thread, when attempts should have been killed and the loop still stands still.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        busy: Callable[[], bool],
        lease: Lease,
        stalled: Callable[[float], None],
    ) -> None:
        self._heartbeat = heartbeat
        self._busy = busy
        self._lease = lease
        self._stalled = stalled
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="praxis-lease-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer; repeatable."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        # Counted in looks of this thread: whoever wakes from a long stop gets the time to look by itself first.
        most = max(2, round(self._lease.margin_s / self._lease.look_s))
        seen = idle = 0
        while not self._ended.wait(self._lease.look_s):
            looks, seen = seen, self._heartbeat.looks
            idle = idle + 1 if looks == seen else 0
            age_s = self._heartbeat.age_s
            if idle >= most and age_s >= self._lease.kill_after_s and self._busy():
                self._stalled(age_s)
                return
