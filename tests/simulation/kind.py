"""Simulated work: each attempt does what its request says, well or badly, and takes virtual time for it."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from praxis_sdk.control.kinds import AttemptHandle, Grace, Outcome, Plan
from praxis_sdk.errors import EngineUnavailable
from praxis_sdk.model import Execution, Failure, RetryPolicy, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionMode, ExecutionStatus, FailureCategory

if TYPE_CHECKING:
    from tests.simulation.process import Process

KIND = "simulated"
GRACE = Grace(cooperative_s=0.5, terminate_s=0.5)
FAILURES = {
    "permanent": (FailureCategory.USER_CODE_ERROR, ErrorType.PERMANENT, "exit_nonzero"),
    "transient": (FailureCategory.INTERNAL_ERROR, ErrorType.TRANSIENT, "unavailable"),
    "resource": (FailureCategory.RESOURCE_LIMIT, ErrorType.RESOURCE, "memory_exceeded"),
    "crash": (FailureCategory.INTERNAL_ERROR, ErrorType.CRASH, "crashed"),
}


class SimulatedKind:
    """A kind of work in one process.

    A request holds `acts`, one per attempt, the last for all further ones. An act:
        s: how long it takes, in seconds.
        end: 'return', 'errors', 'raise', 'unavailable', 'unreadable', 'odd', or a key of `FAILURES`.
        deaf_s: for how long it survives a kill, in seconds.
        lies: it returns a result though it was killed.
        hears: it ends by itself when its end is wanted.
        logs: lines it writes.
        children: requests of children; it waits for them.
    """

    name = KIND
    children = frozenset({KIND})
    grace = GRACE

    def __init__(self, process: "Process") -> None:
        self._process = process

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        return Plan(
            control=str(request.get("control", "work")),
            request=dict(request),
            requirements=Resources.of(request.get("needs", {})),
            timeout_s=request.get("timeout_s"),
            retry=RetryPolicy(max_retries=request.get("max_retries", 3)),
            mode=mode,
            learns=False,
        )

    async def run(self, attempt: AttemptHandle) -> Any:
        execution = attempt.execution
        acts = (execution.request or {})["acts"]
        act = acts[min(execution.attempt, len(acts)) - 1]
        began = self._process.began(execution)
        try:
            return await self._perform(attempt, act)
        finally:
            self._process.ended(began)

    async def _perform(self, attempt: AttemptHandle, act: Mapping[str, Any]) -> Any:
        try:
            ids = [
                await attempt.submit(KIND, child, key=str(number))
                for number, child in enumerate(act.get("children", ()))
            ]
            await self._work(attempt, act)
            for child in ids:
                await attempt.wait(child)
        except asyncio.CancelledError:
            self._process.dying.add((attempt.execution.id, attempt.execution.token))
            await self._survive(act.get("deaf_s", 0.0))
            if not act.get("lies"):
                raise
        return self._end(attempt.execution, act)

    async def _work(self, attempt: AttemptHandle, act: Mapping[str, Any]) -> None:
        steps = max(1, act.get("logs", 0))
        for number in range(steps):
            await asyncio.sleep(act["s"] / steps)
            if act.get("logs"):
                attempt.log(f"line {number} of {steps}")
                attempt.progress(act.get("progress", number / steps))  # it need not be true, or a share
                if number % 3 == 2:
                    attempt.checkpoint()
            if act.get("hears"):
                attempt.check_cancelled()

    async def _survive(self, deaf_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + deaf_s
        while loop.time() < until and not self._process.world.over:
            try:
                await asyncio.sleep(until - loop.time())
            except asyncio.CancelledError:
                continue

    def _end(self, execution: Execution, act: Mapping[str, Any]) -> Any:
        end = act["end"]
        if end == "raise":
            raise RuntimeError("as asked")
        if end == "unavailable":
            raise EngineUnavailable("simulated: the service is away")
        return end, {"id": execution.id, "token": execution.token}

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        end, outputs = ending
        if end == "unreadable":
            raise ValueError("simulated: its result cannot be read")
        usage = Usage(wall_s=1.0, cpu_s=0.5)
        if end in FAILURES:
            category, error_type, code = FAILURES[end]
            failure = Failure(category, error_type, code, f"simulated: {end}", "a detail")
            return Outcome(ExecutionStatus.FAILED, failure=failure, usage=usage)
        if end == "odd":  # what it returned is no JSON
            return Outcome(
                ExecutionStatus.COMPLETED, outputs={"text": "\ud800", "object": object()}, usage=usage
            )
        status = ExecutionStatus.COMPLETED if end == "return" else ExecutionStatus.COMPLETED_WITH_ERRORS
        return Outcome(status, outputs=outputs, usage=usage)

    def dependency(self, execution: Execution) -> str | None:
        return (execution.request or {}).get("dependency")

    async def close(self) -> None:
        return
