"""A third, tiny kind of work: does in this process what its request says. It shows what a kind has to be."""

import asyncio
from collections.abc import Mapping
from typing import Any

from praxis_sdk.control.kinds import AttemptHandle, Grace, Outcome, Plan
from praxis_sdk.errors import EngineUnavailable, ValidationError
from praxis_sdk.model import Execution, Failure, RetryPolicy, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionMode, ExecutionStatus, FailureCategory

ACTS = ("return", "raise", "fail", "unavailable", "wait", "listen", "stubborn", "log", "children", "flaky")


class ScriptedKind:
    """Acts: return a value, raise, fail with an error type, wait until told, be stubborn, log, have children.

    Args:
        gates: events that waiting work waits for, by name.
    """

    name = "scripted"
    children = frozenset({"scripted"})
    grace = Grace(cooperative_s=0.05, terminate_s=0.05)

    def __init__(self, *, max_retries: int = 3, first_pause_s: float = 1.0) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []
        self.begin = asyncio.Event()
        self.running = 0
        self.most_running = 0
        self._retry = RetryPolicy(max_retries=max_retries, first_pause_s=first_pause_s)

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        act = request.get("act", "return")
        if act not in ACTS:
            raise ValidationError(
                f"request.act: unknown act {act!r}", remedy=f"choose from {', '.join(ACTS)}"
            )
        return Plan(
            control=str(request.get("control", act)),
            request=dict(request),
            requirements=Resources.of(request.get("needs", {})),
            retry=self._retry,
            mode=mode,
            version=str(request.get("version", "")),
            agent_id=str(request.get("agent_id", "")),
            data_sources=tuple(request.get("sources", ())),
            agent_config=request.get("agent"),
            learns=False,
        )

    async def run(self, attempt: AttemptHandle) -> Any:
        request = attempt.execution.request or {}
        self.begun.append(attempt.execution.id)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.begin.set()
        try:
            return await getattr(self, "_" + request.get("act", "return"))(attempt, request)
        finally:
            self.running -= 1

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        if isinstance(ending, Failure):
            return Outcome(ExecutionStatus.FAILED, failure=ending)
        return Outcome(ExecutionStatus.COMPLETED, outputs=ending, usage=Usage(wall_s=0.001, cpu_s=0.001))

    def dependency(self, execution: Execution) -> str | None:
        return (execution.request or {}).get("dependency")

    async def close(self) -> None:
        return

    async def begun_count(self, count: int) -> None:
        """Wait until so many attempts have begun."""
        while len(self.begun) < count:
            self.begin.clear()
            await self.begin.wait()

    def open(self, gate: str) -> None:
        """Let the work go on that waits at a gate."""
        self.gates.setdefault(gate, asyncio.Event()).set()

    # -- acts

    async def _return(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        return request.get("value")

    async def _raise(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        raise RuntimeError(request.get("message", "as asked"))

    async def _fail(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        error_type = ErrorType(request.get("type", "permanent"))
        return Failure(FailureCategory.INTERNAL_ERROR, error_type, "asked", "as asked", "the crash log")

    async def _unavailable(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        raise EngineUnavailable("the service is away")

    async def _flaky(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        """Fail so often, then succeed."""
        if attempt.execution.attempt <= request["failures"]:
            return await self._fail(attempt, {"type": request.get("type", "transient")})
        return request.get("value")

    async def _wait(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        """Wait for a gate; a kill ends it."""
        await self.gates.setdefault(str(request.get("gate", "gate")), asyncio.Event()).wait()
        return request.get("value")

    async def _listen(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        """End by itself when its end is wanted."""
        await attempt.cancelled.wait()
        attempt.check_cancelled()

    async def _stubborn(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        """Hear neither flag nor SIGTERM, and return a result even when killed."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "green in spite of all"

    async def _log(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        for number in range(request.get("lines", 3)):
            attempt.log(f"line {number}")
            attempt.progress((number + 1) / request.get("lines", 3), f"step {number}")
            if number % 100 == 0:
                await asyncio.sleep(0)
        attempt.decision("went on", reason="nothing spoke against it")
        attempt.data_access("table:orders", rows=3)
        attempt.action("wrote a letter")
        return None

    async def _children(self, attempt: AttemptHandle, request: Mapping[str, Any]) -> Any:
        ids = [
            await attempt.submit("scripted", one, key=str(number))
            for number, one in enumerate(request["requests"])
        ]
        return [str((await attempt.wait(one)).status) for one in ids]
