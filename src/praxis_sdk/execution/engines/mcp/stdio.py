"""MCP over stdio: a tool of a server that the contract's command starts.

The server is a process like any tool's: it runs in the sandbox, or, where the contract is trusted and asks for no file
system and limits of its own, on the local engine. So it is isolated, bounded and ended for certain as every tool is,
and the evidence of its end is that engine's. What this engine adds is the conversation on its stdin and stdout.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.specs import EngineType, McpStdioEngineSpec
from praxis_sdk.execution.enforcement import LimitSupports
from praxis_sdk.execution.engines.local.engine import LocalExecutionEngine
from praxis_sdk.execution.engines.mcp.answer import AnswerTooLargeError, CallRefusedError
from praxis_sdk.execution.engines.mcp.remote import WIRE_BYTES_PER_OUTPUT_BYTE, load_client
from praxis_sdk.execution.engines.sandbox import SandboxExecutionEngine
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.outcome import Exit, Exports, Isolation, Limit, ToolFailure, ToolOutcome
from praxis_sdk.execution.output import OutputCapture
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Termination

if TYPE_CHECKING:
    from praxis_sdk.execution.engines.mcp.client import PipedToolCall
    from praxis_sdk.execution.engines.mcp.pipe import ServerPipe

LEAVING_BOUND_S: Final = 2.0  # for a server to end by itself once its stdin is closed
_ISOLATING: Final = ("mounts", "memory_limit", "cpu_limit", "working_dir", "file_size_limit", "scratch_size")


class McpStdioEngine(SupervisedEngine):
    """Calls tools of MCP servers that it starts."""

    engine_type = EngineType.MCP_STDIO
    isolation = Isolation.NAMESPACES

    def __init__(self) -> None:
        self._sandbox = SandboxExecutionEngine()
        self._local = LocalExecutionEngine()

    async def run(self, contract: ToolContract, args: Any, context: Any = None) -> ToolOutcome:
        """Call a tool and return the full account of it; see `ExecutionEngine.run`."""
        outcome = await super().run(contract, args, context)
        return replace(outcome, isolation=self._host_of(contract).isolation)

    async def launch(self, invocation: Invocation, capture: OutputCapture) -> _StdioCall:
        """Start the server and begin the call; see `SupervisedEngine.launch`."""
        spec = invocation.spec
        if not isinstance(spec, McpStdioEngineSpec):
            raise ValidationError(f"engine: a {type(spec).__name__} is not for MCP over stdio")
        client = await load_client()
        return _StdioCall(client, self._host_of(invocation.contract), invocation, spec, capture)

    async def limits(self) -> LimitSupports:
        """Say which limits hold for a server in the sandbox."""
        return await self._sandbox.limits()

    async def get_capabilities(self) -> dict[str, Any]:
        """Say what this engine can do: what the sandbox can."""
        capabilities = await self._sandbox.get_capabilities()
        return capabilities | {"engine_type": str(self.engine_type), "transports": ["stdio"]}

    async def cleanup(self) -> None:
        """End the engines that servers run on; repeatable."""
        await self._sandbox.cleanup()
        await self._local.cleanup()

    def _host_of(self, contract: ToolContract) -> SupervisedEngine:
        asks = any(name in contract.get_typed_spec().model_fields_set for name in _ISOLATING)
        return self._local if contract.trusted and not asks else self._sandbox


class _StdioCall:
    """A server and the call of one of its tools; see `RunningTool`."""

    def __init__(
        self,
        client: Any,
        host: SupervisedEngine,
        invocation: Invocation,
        spec: McpStdioEngineSpec,
        capture: OutputCapture,
    ) -> None:
        from praxis_sdk.execution.engines.mcp.pipe import ServerPipe

        self._capture = capture
        self._termination = Termination("no server was started")
        self._server_outcome: ToolOutcome | None = None
        wire_bytes = invocation.output_limit_bytes * WIRE_BYTES_PER_OUTPUT_BYTE
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._pipe: ServerPipe = ServerPipe(spec.command[0], writer, wire_bytes)
        fields = {name: value for name, value in invocation.contract.engine_spec.items() if name != "tool"}
        server = invocation.contract.model_copy(
            update={
                "engine": EngineType.SANDBOX,
                "engine_spec": {**fields, "output_limit": 2 * wire_bytes},
                "parameters": [],
            }
        )
        context = RunContext(
            execution_id=invocation.context.execution_id,
            workspace=invocation.context.workspace,
            timeout_s=invocation.timeout_s + LEAVING_BOUND_S,
            stdin=reader,
            on_output=self._heard,
            on_termination=self._learn,
        )
        self._server = asyncio.ensure_future(self._serve(host, server, context, reader))
        self._call: PipedToolCall = client.PipedToolCall(
            self._pipe,
            spec.tool or invocation.contract.name,
            invocation.arguments,
            on_progress=invocation.context.progress,
        )
        self._answer = asyncio.ensure_future(self._call.answer())

    async def wait(self) -> Exit:
        """Wait for the answer, or for the end of the server; then the server is over, too."""
        await asyncio.wait({self._answer})
        exit_ = self._exit()
        await self._end_server()
        if exit_.refusal is not None and self._pipe.failure is None and self._server_outcome is not None:
            return replace(exit_, usage=self._server_outcome.usage)
        return exit_

    async def terminate(self) -> None:
        """Close the server's stdin, which asks it to end."""
        self._pipe.close()

    async def kill(self) -> None:
        """End the call, and the server with all it started."""
        self._call.abandon()
        self._server.cancel()

    async def export(self) -> Exports:
        """Return what the server changed in its mounts."""
        return self._server_outcome.exports if self._server_outcome is not None else Exports()

    async def close(self) -> None:
        """Leave nothing behind."""
        self._call.abandon()
        self._server.cancel()
        await asyncio.wait({self._answer, self._server})
        for task in (self._answer, self._server):
            if not task.cancelled():
                task.exception()  # seen here where nobody waited any more
        self._pipe.close()

    @property
    def termination(self) -> Termination:
        """What is known of the server's end, from the engine that it ran on."""
        return self._termination

    def _heard(self, stream: str, data: bytes) -> None:
        if stream == "stdout":
            self._pipe.feed(data)
        else:
            self._capture.feed("stderr", data)

    def _learn(self, termination: Termination) -> None:
        self._termination = termination

    async def _serve(
        self, host: SupervisedEngine, server: ToolContract, context: RunContext, reader: int
    ) -> None:
        try:
            self._server_outcome = await host.run(server, {}, context)
        finally:
            os.close(reader)
            self._pipe.end()

    async def _end_server(self) -> None:
        self._pipe.close()
        if not self._pipe.failed:
            await asyncio.wait({self._server}, timeout=LEAVING_BOUND_S)
        self._server.cancel()
        await asyncio.wait({self._server})

    def _exit(self) -> Exit:
        try:
            answer = self._answer.result()
        except AnswerTooLargeError:
            return Exit(limit=Limit.OUTPUT)
        except CallRefusedError as refused:
            return Exit(refusal=ToolFailure(refused.category, str(refused)))
        except PraxisError as error:
            if self._server.done() and not self._server.cancelled() and self._server.exception() is not None:
                self._server.result()  # the server could not be started: that is what counts
            if self._server_outcome is not None and self._server_outcome.limit is not None:
                return Exit(limit=self._server_outcome.limit)
            return Exit(refusal=ToolFailure(self._category(), self._why(error)))
        if answer is None:
            return Exit()
        text = answer.text.encode("utf-8", errors="replace")
        if answer.failed:
            self._capture.feed("stderr", text or b"the server does not say what")
            failure = ToolFailure(FailureCategory.USER_CODE_ERROR, "the tool reported an error")
            return Exit(exit_code=1, refusal=failure)
        self._capture.feed("stdout", text)
        return Exit(exit_code=0)

    def _category(self) -> FailureCategory:
        """Say whose fault it is that the server gave no answer: it may lack a program, as any tool may."""
        failure = None if self._server_outcome is None else self._server_outcome.failure
        lacking = failure is not None and failure.category is FailureCategory.DEPENDENCY_ERROR
        return FailureCategory.DEPENDENCY_ERROR if lacking else FailureCategory.USER_CODE_ERROR

    def _why(self, error: PraxisError) -> str:
        ended = self._server_outcome
        if ended is None:
            return error.message
        if ended.failure is not None:
            return f"{self._pipe.place} ended before it answered: {ended.failure.message}"
        return f"{self._pipe.place} ended before it answered (exit code {ended.exit_code})"
