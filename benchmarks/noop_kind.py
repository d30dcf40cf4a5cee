"""The smallest kind of work: does nothing, or waits, in this process; what is measured is all that is around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from praxis_sdk.control.kinds import AttemptHandle, Grace, Outcome, Plan
from praxis_sdk.model import Execution
from praxis_sdk.resources import ZERO
from praxis_sdk.states import ExecutionMode, ExecutionStatus

WORK: dict[str, Any] = {"kind": "noop", "request": {}}


class NoopKind:
    """Does nothing, and remembers when it began.

    Args:
        timed: whether each beginning is remembered.
    """

    name = "noop"
    children: frozenset[str] = frozenset()
    grace = Grace(cooperative_s=0.0, terminate_s=0.0)

    def __init__(self, *, timed: bool = False) -> None:
        self._timed = timed
        self.begun_at: list[float] = []
        self.open = asyncio.Event()

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        """Accept anything; `{"wait": true}` waits until `open` is set."""
        return Plan(control="noop", request=request, requirements=ZERO, learns=False)

    async def run(self, attempt: AttemptHandle) -> Any:
        """Do nothing, or wait."""
        if self._timed:
            self.begun_at.append(time.perf_counter())
        request = attempt.execution.request
        if request and request.get("wait"):
            await self.open.wait()
        return None

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        """Say that it went well."""
        return Outcome(ExecutionStatus.COMPLETED)

    def dependency(self, execution: Execution) -> str | None:
        """Name nothing."""
        return None

    async def close(self) -> None:
        """Do nothing."""
