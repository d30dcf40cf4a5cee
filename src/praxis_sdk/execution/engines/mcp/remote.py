"""The remote MCP engine: tools that an MCP server elsewhere runs (spec 1, "Remote MCP Engine").

Nothing is started here: the tool is called over streamable HTTP, and the server answers for its
isolation and limits. What Praxis promises: a time limit and an end (the server is told, the connection
is closed), bounded output, arguments that are the contract's and nothing else, and credentials that
reach that one server and no log.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.specs import EngineType, RemoteMCPEngineSpec
from praxis_sdk.execution.enforcement import NO_LIMITS, limits_to_json
from praxis_sdk.execution.engines.mcp.answer import AnswerTooLargeError, CallRefusedError, RemoteTool
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.outcome import Exit, Exports, Isolation, Limit, ToolFailure, ToolOutcome
from praxis_sdk.execution.output import OutputCapture
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Termination

if TYPE_CHECKING:
    from praxis_sdk.execution.engines.mcp.client import ToolCall

# An answer holds its text twice, plain and structured, and JSON may escape every character of it.
WIRE_BYTES_PER_OUTPUT_BYTE: Final = 4
TOOL_LIST_LIMIT_BYTES: Final = 16 << 20
SDK_DISTRIBUTION: Final = "mcp"
SDK_MAJOR: Final = 2
SDK_PACKAGES: Final = frozenset({"anyio", "httpx2", "mcp", "mcp_types"})


class RemoteMCPEngine(SupervisedEngine):
    """Calls tools of remote MCP servers.

    Args:
        default_timeout: wall-clock limit in seconds, for contracts that name none.
    """

    engine_type = EngineType.REMOTE_MCP
    isolation = Isolation.REMOTE

    def __init__(self, default_timeout: int = 30) -> None:
        if default_timeout <= 0:
            raise ValidationError(f"default_timeout: {default_timeout} is not a positive number of seconds")
        self.default_timeout = default_timeout
        self._client: ModuleType | None = None

    async def run(
        self,
        contract: ToolContract,
        args: Mapping[str, Any],
        context: RunContext | Mapping[str, Any] | None = None,
    ) -> ToolOutcome:
        """Call a tool and return the full account of it; see `ExecutionEngine.run`."""
        ctx = RunContext.of(context)
        if ctx.timeout_s is None and "timeout" not in contract.engine_spec:
            ctx = replace(ctx, timeout_s=float(self.default_timeout))
        return await super().run(contract, args, ctx)

    async def launch(self, invocation: Invocation, capture: OutputCapture) -> RemoteCall:
        """Begin a call; see `SupervisedEngine.launch`. Even connecting counts against the time limit."""
        spec = invocation.spec
        assert isinstance(spec, RemoteMCPEngineSpec)
        client = await self._loaded_client()
        call: ToolCall = client.ToolCall(
            client.Server.of(spec),
            spec.tool or invocation.contract.name,
            invocation.arguments,
            answer_limit_bytes=invocation.output_limit_bytes * WIRE_BYTES_PER_OUTPUT_BYTE,
            on_progress=invocation.context.progress,
        )
        return RemoteCall(call, capture)

    async def list_tools(self, spec: RemoteMCPEngineSpec) -> tuple[RemoteTool, ...]:
        """Ask a server what tools it offers, all pages of its list.

        Args:
            spec: address, credentials and `timeout`; other fields do not matter here.

        Raises:
            ValidationError: address or credentials are not acceptable.
            EngineUnavailable: the server is not there, is no MCP server, or is too slow.
            MissingExtra: the MCP SDK is not installed.
        """
        client = await self._loaded_client()
        tools: tuple[RemoteTool, ...] = await client.list_tools(
            client.Server.of(spec), float(spec.timeout), TOOL_LIST_LIMIT_BYTES
        )
        return tools

    async def get_capabilities(self) -> dict[str, Any]:
        """Say what this engine can do; whether a server answers is known only once one is named."""
        version = _sdk_version()
        available = version.startswith(f"{SDK_MAJOR}.")
        missing = MissingExtra(SDK_DISTRIBUTION, "mcp")
        return {
            "engine_type": str(self.engine_type),
            "available": available,
            "isolation": self.isolation.label,
            "supports_containers": False,
            "supports_mounts": False,
            "supports_environment": False,
            **limits_to_json(NO_LIMITS),
            "supports_network_isolation": False,
            "transports": ["streamable-http"],
            "sdk_version": version or None,
            **({} if available else {"unavailable_reason": missing.message, "remedy": missing.remedy}),
        }

    async def cleanup(self) -> None:
        """Do nothing, repeatably: between calls this engine holds no connection."""

    async def _loaded_client(self) -> ModuleType:
        """Import the module that needs the SDK, off the event loop: it takes half a second.

        Raises:
            MissingExtra: the SDK is not installed, or is too old.
        """
        if self._client is None:
            self._client = await load_client()
        return self._client


class RemoteCall:
    """A running call, as `SupervisedEngine` sees it; the call itself has a task of its own."""

    def __init__(self, call: ToolCall, capture: OutputCapture) -> None:
        self._call = call
        self._capture = capture
        self._answered = False
        self._task = asyncio.ensure_future(self._perform())

    async def wait(self) -> Exit:
        """Wait for the answer, or for the end of an abandoned call."""
        return await asyncio.shield(self._task)

    async def terminate(self) -> None:
        """Do nothing: the protocol knows no gentle end; see `kill`."""

    async def kill(self) -> None:
        """Tell the server that the call is over, and close the connection."""
        self._call.abandon()

    @property
    def termination(self) -> Termination:
        """What is known of a tool on another machine: its answer, or what the server was told."""
        if self._answered:
            return Termination("the server answered the call")
        termination: Termination = self._call.termination
        return termination

    async def export(self) -> Exports:
        """Export nothing: a remote tool has no mounts."""
        return Exports()

    async def close(self) -> None:
        """Make sure that the task is gone."""
        if not self._task.done():
            self._call.abandon()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # seen here where nobody waited any more

    async def _perform(self) -> Exit:
        try:
            answer = await self._call.answer()
        except AnswerTooLargeError:
            return Exit(limit=Limit.OUTPUT)
        except CallRefusedError as refused:
            return Exit(refusal=ToolFailure(refused.category, str(refused)))
        if answer is None:
            return Exit()
        self._answered = True
        if answer.failed:
            text = answer.text or "the server does not say what"
            self._capture.feed("stderr", text.encode("utf-8", errors="replace"))
            failure = ToolFailure(FailureCategory.USER_CODE_ERROR, "the remote tool reported an error")
            return Exit(exit_code=1, refusal=failure)
        self._capture.feed("stdout", answer.text.encode("utf-8", errors="replace"))
        return Exit(exit_code=0)


async def load_client() -> ModuleType:
    """Import the module that needs the SDK, off the event loop.

    Raises:
        MissingExtra: the SDK is not installed, or is too old.
    """
    return await asyncio.to_thread(_import_client)


def _import_client() -> ModuleType:
    try:
        return importlib.import_module("praxis_sdk.execution.engines.mcp.client")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in SDK_PACKAGES:
            raise
        raise MissingExtra(SDK_DISTRIBUTION, "mcp") from error


def _sdk_version() -> str:
    try:
        return importlib.metadata.version(SDK_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""
