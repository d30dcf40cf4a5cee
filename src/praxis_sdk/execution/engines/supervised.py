"""How every built-in engine runs a tool: the control flow of a run, once.

    prepare -> launch -> wait | time limit | output limit | cancellation -> (kill, wait) -> export -> close

An engine supplies `launch`, which returns a `RunningTool`: the seam between this flow and the many ways
in which a tool can be started, awaited and killed.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.portability import port_spec
from praxis_sdk.execution.contract.specs import EngineType, IsolatedEngineSpec
from praxis_sdk.execution.enforcement import NO_LIMITS, LimitSupports, check_strict, weaknesses
from praxis_sdk.execution.invocation import Invocation, prepare
from praxis_sdk.execution.outcome import Exit, Exports, Limit, ToolOutcome, classify, written
from praxis_sdk.execution.output import TAIL_BYTES, OutputCapture
from praxis_sdk.execution.output_files import OutputFolder, check_outputs
from praxis_sdk.log import get_logger
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.termination import Termination

log = get_logger("praxis.execution")

KILL_BOUND_S: Final = 30.0  # how long a killed tool may take to be gone before the platform is to blame


class RunningTool(Protocol):
    """One started tool."""

    async def wait(self) -> Exit:
        """Wait until the tool has ended, nothing of it runs any more and its output has been captured."""

    async def terminate(self) -> None:
        """Ask the tool to end (SIGTERM); does nothing where an engine cannot, or the tool has ended."""

    async def kill(self) -> None:
        """End the tool and all it started, for certain; `wait` returns soon afterwards."""

    async def export(self) -> Exports:
        """Copy what the tool changed in its read-write mounts to the host; called after a natural end."""

    async def close(self) -> None:
        """Free everything that belongs to the run; called once, whatever happened."""

    @property
    def termination(self) -> Termination:
        """What is known of the end: evidence from the kernel or the daemon, or none; asked for after `close`."""


class SupervisedEngine(ExecutionEngine):
    """An engine that starts something, watches over it, and ends it."""

    engine_type: EngineType

    @abstractmethod
    async def launch(self, invocation: Invocation, capture: OutputCapture) -> RunningTool:
        """Start a tool. Whoever cancels or fails the launch finds nothing left behind.

        Raises:
            ValidationError: this engine cannot run this invocation.
            PlatformError: the engine could not start it.
        """

    async def limits(self) -> LimitSupports:
        """Say which limits hold here, after asking whoever enforces them.

        Raises:
            PlatformError: the engine does not work here.
        """
        return NO_LIMITS

    async def validate_contract(self, contract: ToolContract) -> bool:
        """Tell whether this engine can run a contract, going by the contract alone."""
        try:
            port_spec(contract, self.engine_type)
        except ValidationError:
            return False
        return True

    async def execute(
        self,
        contract: ToolContract,
        args: dict[str, Any],
        context: dict[str, Any] | None = None,
    ) -> str:
        """Run a tool and return what it wrote to stdout; see `ExecutionEngine.execute`."""
        return (await self.run(contract, args, context)).output_or_raise()

    async def run(
        self,
        contract: ToolContract,
        args: Mapping[str, Any],
        context: RunContext | Mapping[str, Any] | None = None,
    ) -> ToolOutcome:
        """Run a tool and return the full account of it; see `ExecutionEngine.run`."""
        ctx = RunContext.of(context)
        invocation = prepare(contract, args, ctx, self.engine_type)
        if isinstance(invocation.spec, IsolatedEngineSpec):
            limits = await self.limits()
            check_strict(invocation.spec, limits)
            weak = weaknesses(invocation.spec, limits)
            invocation = replace(invocation, notes=(*invocation.notes, *weak)) if weak else invocation
        keep = ctx.keep_output_bytes
        kept = {} if keep is None else {"head_bytes": keep, "tail_bytes": min(keep, TAIL_BYTES)}
        capture = OutputCapture(invocation.output_limit_bytes, ctx.on_output, mask=ctx.mask, **kept)
        events = log.bind(tool=contract.name, engine=str(self.engine_type), execution_id=ctx.execution_id)
        ctx.ended(Termination(evidence="nothing of it was started"))  # a launch that fails leaves nothing
        events.info("tool.started", timeout_s=invocation.timeout_s)
        began = time.monotonic()
        check_outputs(invocation.spec, invocation.mounts)
        folder = OutputFolder(invocation)
        try:
            outcome = await self._supervise(folder.invocation, capture, began)
            outcome = await asyncio.to_thread(folder.collect, outcome) if folder.used else outcome
        except BaseException as error:
            # The flow is told, whatever interrupts it; what the error says may hold arguments.
            events.info(
                "tool.aborted", error=type(error).__name__, duration_s=round(time.monotonic() - began, 6)
            )
            raise
        finally:
            folder.close()
        events.info(
            "tool.ended",
            status=str(outcome.status),
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            category=str(outcome.failure.category) if outcome.failure else None,
            duration_s=round(outcome.duration_s, 6),
            stdout_bytes=outcome.stdout_bytes,
            stderr_bytes=outcome.stderr_bytes,
            cpu_s=outcome.usage.cpu_s,
            peak_memory_bytes=outcome.usage.peak_memory_bytes,
        )
        return outcome

    async def _supervise(self, invocation: Invocation, capture: OutputCapture, began: float) -> ToolOutcome:
        running = await self.launch(invocation, capture)
        invocation.context.ended(Termination(known="it was started, and nothing has been heard of its end"))
        try:
            asked = invocation.context.terminating
            exit_, timed_out = await _until_end(running, invocation.timeout_s, capture, asked)
            capture.end()
            duration_s = time.monotonic() - began
            status, failure = classify(exit_, timeout_s=invocation.timeout_s, timed_out=timed_out)
            # What a killed tool left is half-written; what a failed one left is how one learns why.
            killed = timed_out or exit_.limit is Limit.OUTPUT or exit_.exit_code is None
            exports = Exports() if killed else await running.export()
        finally:
            try:
                await asyncio.shield(running.close())
            finally:
                invocation.context.ended(running.termination)
        left = running.termination
        unconfirmed = () if left.confirmed else (f"its end is not confirmed: {left.known}",)
        return ToolOutcome(
            tool=invocation.contract.name,
            execution_id=invocation.context.execution_id,
            engine=str(self.engine_type),
            isolation=self.isolation,
            status=status,
            exit_code=exit_.exit_code if status is not ExecutionStatus.TIMED_OUT else None,
            signal=exit_.signal,
            limit=Limit.TIMEOUT if timed_out else exit_.limit,
            **written("stdout", capture.kept("stdout")),
            **written("stderr", capture.kept("stderr")),
            stdout_bytes=capture.seen_bytes("stdout"),
            stderr_bytes=capture.seen_bytes("stderr"),
            stdout_truncated=capture.left_out_bytes("stdout") > 0,
            stderr_truncated=capture.left_out_bytes("stderr") > 0,
            stdout_sha256=capture.sha256("stdout"),
            stderr_sha256=capture.sha256("stderr"),
            duration_s=duration_s,
            usage=exit_.usage,
            exports=exports,
            failure=failure,
            notes=(*invocation.notes, *unconfirmed, *exports.notes),
        )


async def _until_end(
    running: RunningTool, timeout_s: float, capture: OutputCapture, asked: asyncio.Event | None
) -> tuple[Exit, bool]:
    """Wait for the end of a tool, and bring it about when a limit is reached or the caller gives up."""
    ending = asyncio.ensure_future(running.wait())
    asking = None if asked is None else asyncio.ensure_future(_terminate(running, asked))
    try:
        events: set[asyncio.Future[Any]] = {ending, capture.overflow}
        await asyncio.wait(events, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        ended_by_itself = ending.done()
        exit_ = ending.result() if ended_by_itself else await _kill(running, ending) or Exit()
        if capture.overflow.done():
            return replace(exit_, limit=Limit.OUTPUT), False
        return exit_, not ended_by_itself
    except asyncio.CancelledError:
        await asyncio.shield(_kill(running, ending))
        raise
    finally:
        ending.cancel()
        if asking is not None:
            asking.cancel()


async def _terminate(running: RunningTool, asked: asyncio.Event) -> None:
    await asked.wait()
    try:
        await running.terminate()
    except PlatformError as error:
        log.warning("tool.not_asked_to_end", detail=str(error))  # the caller kills it anyway


async def _kill(running: RunningTool, ending: asyncio.Future[Exit]) -> Exit | None:
    """Kill a tool; returns how it ended, or None where nothing says so: then `termination` tells what is known."""
    try:
        await running.kill()
        return await asyncio.wait_for(asyncio.shield(ending), KILL_BOUND_S)
    except (TimeoutError, PlatformError) as error:
        log.warning("tool.end_not_confirmed", detail=str(error) or f"not gone after {KILL_BOUND_S:g} s")
        return None
