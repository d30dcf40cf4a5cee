"""Pursuit: ends that nothing has confirmed yet are brought about, with back-off, until something confirms them.

An execution whose attempt is over and not confirmed to be gone is `cancelling` and held by no worker. What may still
run is in its event stream, so any process that has the kind and reaches the daemon pursues it, also after a restart.
Several may do so at once: the change that ends the execution is guarded, and holds once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Kinds, LeavesRemains
from praxis_sdk.control.kinds.base import REMAINS
from praxis_sdk.control.lifecycle import completion
from praxis_sdk.errors import PraxisError
from praxis_sdk.log import get_logger
from praxis_sdk.model import EventType, Execution
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import AppliedChange, EventFilter, ExecutionFilter, Store
from praxis_sdk.termination import Remains

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
_MOST: Final = 1000
_TOLD: Final = frozenset({EventType.ACTION, EventType.ALERT})

events = get_logger("praxis.control")


@dataclass(frozen=True, slots=True)
class _Try:
    """When an execution is looked at next, on the monotonic clock, and the pause after that, in seconds."""

    at: float = 0.0
    pause_s: float = FIRST_PAUSE_S


class Pursuit:
    """Pursues unconfirmed ends.

    Args:
        store: where executions live.
        kinds: what this process can run, and therefore end.
        clock: the time.
        told: called with every end that came about here.
    """

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        clock: Clock,
        *,
        told: Callable[[AppliedChange], None] = lambda settled: None,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._clock = clock
        self._told = told
        self._tries: dict[tuple[str, int], _Try] = {}
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Look soon: there may be something to pursue."""
        self._wanted.set()

    async def run(self) -> None:
        """Remove what dead processes left, then pursue until cancelled; free while there is nothing to pursue."""
        await self._sweep()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while await self.round():
                    await self._clock.sleep(self._pause_s())
            except PraxisError as error:
                events.warning("pursuit.failed", detail=str(error))

    async def _sweep(self) -> None:
        for name in self._kinds.names:
            kind = self._kinds.get(name)
            try:
                if isinstance(kind, LeavesRemains):
                    await kind.sweep()
            except (PraxisError, OSError) as error:
                events.warning("pursuit.not_swept", kind=name, detail=str(error))

    async def round(self) -> bool:
        """Pursue what is due; returns whether something is left to pursue."""
        wanted = ExecutionFilter(statuses=frozenset({ExecutionStatus.CANCELLING}), worker_id="")
        found = await self._store.find(wanted, limit=_MOST)
        keys = {(one.id, one.token) for one in found}
        self._tries = {key: self._tries.get(key, _Try()) for key in keys}
        now = self._clock.monotonic()
        due = [one for one in found if self._tries[one.id, one.token].at <= now]
        ended = await asyncio.gather(*(self._pursue(one.id, one.token) for one in due))
        return len(found) > sum(ended)

    def _pause_s(self) -> float:
        now = self._clock.monotonic()
        return min((max(one.at - now, FIRST_PAUSE_S) for one in self._tries.values()), default=FIRST_PAUSE_S)

    async def _pursue(self, execution_id: str, token: int) -> bool:
        execution = await self._store.get(execution_id)
        remains = await remains_of(self._store, execution)
        if remains is None or execution.token != token or execution.kind not in self._kinds.names:
            return self._postpone(execution_id, token)
        kind = self._kinds.get(execution.kind)
        if not isinstance(kind, LeavesRemains):
            return self._postpone(execution_id, token)
        try:
            termination = await kind.end_remains(remains)
        except PraxisError as error:
            events.warning("pursuit.not_confirmed", execution_id=execution_id, detail=str(error))
            return self._postpone(execution_id, token)
        if not termination.confirmed:
            events.info("pursuit.not_confirmed", execution_id=execution_id, detail=termination.known)
            return self._postpone(execution_id, token)
        (settled,) = await self._store.apply(
            [completion.confirmed(execution, termination, self._clock.time())]
        )
        if settled is not None:
            self._told(settled)
        return True

    def _postpone(self, execution_id: str, token: int) -> bool:
        last = self._tries[execution_id, token]
        at = self._clock.monotonic() + last.pause_s
        self._tries[execution_id, token] = _Try(at, min(2 * last.pause_s, LONGEST_PAUSE_S))
        return False


async def remains_of(store: Store, execution: Execution) -> Remains | None:
    """Find in its event stream what may still run of an execution's last attempt; None: nothing is known of any."""
    wanted = EventFilter(execution_id=execution.id, types=_TOLD)
    for event in await store.query_events(wanted, limit=_MOST):
        if REMAINS in event.data and event.data.get("token") == execution.token:
            return Remains.of(event.data[REMAINS])
    return None
