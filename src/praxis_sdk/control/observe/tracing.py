"""Traces of executions that ended: gathered and told beside the work, never in its way."""

from __future__ import annotations

import asyncio
from typing import Final

from praxis_sdk.control.observe.telemetry import Telemetry
from praxis_sdk.errors import PraxisError
from praxis_sdk.log import get_logger
from praxis_sdk.model import EventType, Execution
from praxis_sdk.store import Store
from praxis_sdk.supervisor import Supervisor

MAX_WAITING: Final = 10_000
MAX_EVENTS: Final = 1000
CLOSE_S: Final = 5.0
# Log lines are in the stream; a trace tells what happened.
_TOLD: Final = frozenset(EventType) - {EventType.LOG, EventType.PROGRESS}

events = get_logger("praxis.control")


class Tracing:
    """Tells OpenTelemetry of each execution that ended here, as one trace.

    Args:
        store: where attempts and events are.
        telemetry: where traces go.
    """

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._ended: asyncio.Queue[Execution] = asyncio.Queue(MAX_WAITING)
        self.tasks = Supervisor()
        self._started = False

    def start(self) -> None:
        """Begin to tell."""
        self._started = True
        self.tasks.start("tracing", self._tell_all)

    def ended(self, execution: Execution) -> None:
        """Have an execution told; when too many wait, it is left out."""
        if self._ended.full():
            events.warning("trace.left_out", execution_id=execution.id)
            return
        self._ended.put_nowait(execution)

    async def close(self) -> None:
        """Tell what waits, for a bounded time, and end; repeatable."""
        started, self._started = self._started, False
        if not started:
            return
        await asyncio.wait([asyncio.ensure_future(self._ended.join())], timeout=CLOSE_S)
        await self.tasks.stop()
        await asyncio.to_thread(self._telemetry.close)

    async def _tell_all(self) -> None:
        while True:
            execution = await self._ended.get()
            try:
                attempts = await self._store.attempts(execution.id)
                told = await self._store.events(execution.id, limit=MAX_EVENTS, types=_TOLD)
                self._telemetry.tell(execution, attempts, told)
            except PraxisError as error:
                events.warning("trace.not_told", execution_id=execution.id, detail=str(error))
            finally:
                self._ended.task_done()
