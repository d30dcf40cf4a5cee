"""The scripted kind as the fault tests run it: it tells when an attempt begins, and talks around a gate."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from praxis_sdk.control.kinds import AttemptHandle, Plan
from praxis_sdk.model import Execution
from praxis_sdk.states import ExecutionMode
from tests.control.scripted import ScriptedKind

TALK = "talk"  # logs "before", waits for a gate, logs "after"
FIRST_PAUSE_S = 0.001


class FaultKind(ScriptedKind):
    """A scripted kind whose attempts tell that they began.

    Args:
        began: called with each execution whose attempt begins.
    """

    def __init__(self, began: Callable[[Execution], None] = lambda execution: None) -> None:
        super().__init__(first_pause_s=FIRST_PAUSE_S)
        self._began = began
        self._beginnings: dict[str, asyncio.Event] = {}

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        if request.get("act") != TALK:
            return super().validate(request, mode)
        plan = super().validate({**request, "act": "wait"}, mode)
        return Plan(
            control=TALK,
            request=dict(request),
            requirements=plan.requirements,
            retry=plan.retry,
            learns=False,
        )

    async def run(self, attempt: AttemptHandle) -> Any:
        self._beginning(attempt.execution.id).set()
        self._began(attempt.execution)
        return await super().run(attempt)

    async def begun_one(self, execution_id: str) -> None:
        """Wait until an attempt of an execution has begun."""
        await self._beginning(execution_id).wait()

    def _beginning(self, execution_id: str) -> asyncio.Event:
        return self._beginnings.setdefault(execution_id, asyncio.Event())

    async def _talk(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        attempt.log("before")
        value = await self._wait(attempt, request)
        attempt.log("after")
        return value
