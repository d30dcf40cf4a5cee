"""A virtual event loop: time jumps to the next timer, and processes in it can be killed and frozen.

Every handle belongs to the process in whose context it was made, since asyncio copies the context to all that
a task starts. Before the loop runs a handle it looks at its process: what belongs to a frozen one waits until
that goes on (SIGSTOP), and what belongs to a dead one never runs (SIGKILL): no `finally`, no `except`, nothing.
There are no threads, no sockets and no real time, so the same seed runs the same steps.
"""

import asyncio
import contextvars
import heapq
from collections.abc import Coroutine
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from praxis_sdk.clock import Clock

EPOCH_S = 1_700_000_000.0
START_S = 1000.0
MOST_STEPS_AT_ONCE = 200_000  # at one moment of virtual time; more go round in a circle


class Livelock(AssertionError):
    """The simulated programs are busy for ever, and time does not pass."""


class Deadlock(AssertionError):
    """Nothing is left that could ever happen."""


class State(Enum):
    """Whether what belongs to a process is run."""

    RUNNING = auto()
    FROZEN = auto()
    DEAD = auto()


class Life:
    """What the loop knows of a process."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.state = State.RUNNING
        self.skew_s = 0.0
        self.asleep_s = 0.0  # how long its machine was suspended
        self.woke_at = 0.0  # when it last went on after it had stood still
        self.loop = loop
        self.context = contextvars.copy_context()
        self.context.run(LIFE.set, self)
        self._parked: list[asyncio.Handle] = []

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in this process."""
        return self.loop.create_task(work, context=self.context)

    def park(self, handle: asyncio.Handle) -> None:
        """Keep what cannot run now."""
        self._parked.append(handle)

    def go_on(self) -> None:
        """Run from now on, and catch up with what was kept."""
        self.state = State.RUNNING
        self.woke_at = self.loop.time()
        parked, self._parked = self._parked, []
        self.loop.take(parked)


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in order, and then the next timer, whenever that is."""

    def __init__(self) -> None:
        super().__init__()
        self._now = START_S
        self._steps = 0
        self.steps = 0

    def time(self) -> float:
        return self._now

    def take(self, handles: list[asyncio.Handle]) -> None:
        """Make handles ready that were kept back."""
        self._ready.extend(handles)

    def _run_once(self) -> None:
        if not self._ready:
            self._next_moment()
        handle = self._ready.popleft()
        if handle._cancelled:
            return
        life = handle._context.get(LIFE)
        if life is not None and life.state is not State.RUNNING:
            life.park(handle)
            return
        self.steps += 1
        self._steps += 1
        if self._steps > MOST_STEPS_AT_ONCE:
            raise Livelock(f"{MOST_STEPS_AT_ONCE} steps at {self._now}, last {handle!r}")
        handle._run()

    def _next_moment(self) -> None:
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not timers:
            raise Deadlock("nothing left that could happen")
        self._now = max(self._now, timers[0]._when)
        self._steps = 0
        while timers and timers[0]._when <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave cancelled timers where they are: they are passed over when their time has come."""

    def _write_to_self(self) -> None:
        """Wake nobody: nothing sleeps."""


class VirtualClock(Clock):
    """The time of whichever process asks: one may be set wrong; none ever goes back on `monotonic`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def time(self) -> float:
        life = LIFE.get()
        return EPOCH_S + self._loop.time() + (life.skew_s if life is not None else 0.0)

    def monotonic(self) -> float:
        life = LIFE.get()
        return self._loop.time() - (life.asleep_s if life is not None else 0.0)

    def boottime(self) -> float:
        return self._loop.time()
