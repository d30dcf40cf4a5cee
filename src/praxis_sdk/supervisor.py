"""The supervisor: keeps the long-lived tasks of a part of a process running.

A process whose heartbeat or dispatcher died looks alive and serves nobody. So no long-lived task runs by itself:
each is started here, by name. One that fails, or is cancelled by anybody but the supervisor, is logged with its
reason and started again, after a pause that doubles while it keeps failing. One that returns is finished.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from praxis_sdk.log import get_logger

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
STEADY_S: Final = 60.0  # a task that ran for so long has recovered: its next pause is short again
PREFIX: Final = "supervised: "

events = get_logger("praxis.supervisor")

Run = Callable[[], Coroutine[Any, Any, None]]


class Supervisor:
    """Runs named tasks until it is stopped.

    Args:
        sleep: pauses for so many seconds.
        monotonic: returns seconds that never go back.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._renewed: set[str] = set()
        self.failures: Counter[str] = Counter()

    def start(self, name: str, run: Run) -> None:
        """Start a task, and keep it running until it returns or `stop` is called.

        Args:
            name: of the task, for the log; unique within this supervisor.
            run: called for each start; its coroutine is the task.
        """
        assert name not in self._keeping, f"{name} is supervised already"
        self._keeping[name] = asyncio.create_task(self._keep(name, run), name=f"supervisor of {name}")

    def restart(self, name: str) -> None:
        """Start a task afresh, without a pause; does nothing where it does not run."""
        task = self._running.get(name)
        if task is not None and not task.done():
            self._renewed.add(name)
            task.cancel()

    async def finished(self) -> None:
        """Return when every task has returned."""
        if self._keeping:
            await asyncio.wait(self._keeping.values())

    async def stop(self) -> None:
        """Cancel all tasks, the last started first, and wait for their ends; repeatable."""
        keeping, self._keeping = self._keeping, {}
        for task in reversed(keeping.values()):
            task.cancel()
            await asyncio.wait([task])

    async def _keep(self, name: str, run: Run) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = self._monotonic()
            task = self._running[name] = asyncio.create_task(run(), name=f"{PREFIX}{name}")
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                raise
            if not task.cancelled() and task.exception() is None:
                return
            if task.cancelled() and name in self._renewed:
                self._renewed.discard(name)
                continue
            self._note(name, task)
            if self._monotonic() - began >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            await self._sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _note(self, name: str, task: asyncio.Task[None]) -> None:
        self.failures[name] += 1
        if task.cancelled():
            events.error("task.failed", task=name, detail="cancelled from outside")
            return
        error = task.exception()
        assert error is not None
        where = "".join(traceback.format_exception(error)[-2:]).strip()
        events.error("task.failed", task=name, detail=repr(error), where=where)
