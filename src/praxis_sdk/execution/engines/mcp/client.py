"""One call of a tool on an MCP server: the only module that knows the MCP SDK and its HTTP client.

    connect -> agree on a protocol version -> find the tool in the server's list -> call it -> say goodbye

Each call has a connection of its own, so that no cookie, header or credential of one contract can
reach the server of another. The SDK runs its connection in task groups, whose cancel scopes must be
left by the task that entered them: a `ToolCall` therefore lives in one task from beginning to end, and
others end it through `abandon` alone.

What a server answers is data from a stranger. It is bounded before it is parsed, never decompressed,
and never quoted in an error of the platform: a server that is shown a token could hand it back there.
The SDK hides the HTTP status behind errors of its own, and turns some failures of the network into
answers; so `Wire` watches the responses themselves, and `_explained` judges by what it saw.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Final

import anyio
import httpx2
import pydantic
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    jsonrpc_message_adapter,
)

from praxis_sdk import __version__
from praxis_sdk.errors import EngineUnavailable, PraxisError
from praxis_sdk.execution.engines.mcp.answer import Answer, AnswerTooLargeError, CallRefusedError, RemoteTool
from praxis_sdk.execution.engines.mcp.http import Server, Wire, printable
from praxis_sdk.execution.engines.mcp.pipe import ServerPipe
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Termination

CONNECT_TIMEOUT_S: Final = 10.0  # a server that takes longer to accept a connection is not there
GOODBYE_TIMEOUT_S: Final = 2.0  # for telling the server that a call is abandoned and the session over
MAX_REDIRECTS: Final = 5
MAX_TOOL_PAGES: Final = 100
MAX_PROGRESS_LINES: Final = 1000
MAX_NAMES_SHOWN: Final = 10
MAX_NAMES_COMPARED: Final = 1000
MAX_NAME_CHARS: Final = 128  # what MCP allows

_ANSWER: Final[pydantic.TypeAdapter[CallToolResult | InputRequiredResult]] = pydantic.TypeAdapter(
    CallToolResult | InputRequiredResult
)
# Codes with which a server refuses to look at a request.
_NO_ANSWER: Final = frozenset({PARSE_ERROR, INVALID_REQUEST})
_SDK_CLOSED: Final = (
    "Connection closed",
    "SSE stream ",
)  # so the SDK begins; servers use its code for their own

# The SDK logs whole messages, with their arguments, at DEBUG, and tracebacks of what is reported below as
# one line at ERROR; its HTTP client logs addresses, with what is in them. Who wants that asks for it by
# giving these loggers a level.
for _name in ("mcp.client", "httpx2", "httpcore2"):
    if (_logger := logging.getLogger(_name)).level == logging.NOTSET:
        _logger.setLevel(logging.CRITICAL)

ProgressLine = Callable[[str], None]


class ToolCall:
    """One call of one tool, in one task.

    Args:
        server: where.
        tool: the tool's name on that server.
        arguments: what it is given.
        answer_limit_bytes: most bytes of one HTTP response.
        on_progress: told a line for people when the server reports progress.
    """

    def __init__(
        self,
        server: Server,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        answer_limit_bytes: int,
        on_progress: ProgressLine,
    ) -> None:
        self._server = server
        self._tool = tool
        self._arguments = dict(arguments)
        self._answer_limit_bytes = answer_limit_bytes
        self._on_progress = on_progress
        self._progress_lines = 0
        self._whole = anyio.CancelScope()
        self._call = anyio.CancelScope()
        self._calling = False
        self._abandoned = False
        self._wire: Wire | None = None

    async def answer(self) -> Answer | None:
        """Make the call; awaited once.

        Returns:
            The answer, or None if the call was abandoned.

        Raises:
            CallRefusedError: the server has no such tool, or does not accept the credentials.
            EngineUnavailable: the server is not there, or is no MCP server.
            AnswerTooLargeError: it sent more than the limit.
        """
        answer: Answer | None = None
        try:
            with self._whole:
                async with self._connect() as (client, wire):
                    self._wire = wire
                    await _find(client, self._tool, self._server)
                    with self._call:
                        self._calling = True
                        answer = await self._ask(client, wire)
                    self._bound_goodbye()
        except (PraxisError, AnswerTooLargeError):
            if not self._abandoned:
                raise
        return answer

    def _connect(self) -> contextlib.AbstractAsyncContextManager[tuple[Client, Wire]]:
        return _connected(self._server, self._answer_limit_bytes)

    def abandon(self) -> None:
        """End the call: the server is told, within bounds, and the connection is closed; repeatable."""
        self._abandoned = True
        if self._calling:
            self._bound_goodbye()
            self._call.cancel()
        else:
            self._whole.cancel()

    @property
    def termination(self) -> Termination:
        """What is known of a call that was abandoned: no signal reaches another machine."""
        if not self._calling:
            return Termination("the tool had not been called yet")
        told = (
            "took the notification" if self._wire is not None and self._wire.notified else "was not notified"
        )
        known = f"cancellation requested: {self._server.place} {told}, and the connection was closed"
        return Termination(known=f"{known}; whether it ended the tool is not known")

    def _bound_goodbye(self) -> None:
        self._whole.deadline = min(self._whole.deadline, anyio.current_time() + GOODBYE_TIMEOUT_S)

    async def _ask(self, client: Client, wire: Wire) -> Answer:
        request = CallToolRequest(params=CallToolRequestParams(name=self._tool, arguments=self._arguments))
        try:
            # Not `client.call_tool`: that checks the answer against the server's own schema, whose
            # patterns could keep this process busy for ever.
            result = await client.session.send_request(request, _ANSWER, progress_callback=self._progress)
        except MCPError as error:
            if wire.failed or error.code in _NO_ANSWER or _is_closed(error):
                raise
            return Answer.error(f"{error.message} (JSON-RPC error {error.code})")
        if isinstance(result, InputRequiredResult):
            return Answer.error("the tool asks for input while it runs, which an execution cannot give")
        return Answer(
            failed=result.is_error,
            contents=tuple(
                content.model_dump(mode="json", by_alias=True, exclude_none=True)
                for content in result.content
            ),
            structured=result.structured_content,
            has_structure="structured_content" in result.model_fields_set,
        )

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._progress_lines += 1
        if self._progress_lines <= MAX_PROGRESS_LINES:
            share = f"{progress:g} of {total:g}" if total is not None else f"{progress:g}"
            self._on_progress(printable(message, 500) if message else share)


class PipedToolCall(ToolCall):
    """One call of a tool of a server that speaks MCP on two pipes, in one task.

    Args:
        pipe: to the server.
        tool, arguments, on_progress: as for `ToolCall`.
    """

    def __init__(
        self, pipe: ServerPipe, tool: str, arguments: Mapping[str, Any], *, on_progress: ProgressLine
    ) -> None:
        # A pipe says of itself what a server and its wire say: where it leads, and what was wrong.
        super().__init__(
            pipe,  # type: ignore[arg-type]
            tool,
            arguments,
            answer_limit_bytes=0,
            on_progress=on_progress,
        )
        self._pipe = pipe

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[Client, Any]]:
        pipe = self._pipe
        try:
            async with Client(
                _piped(pipe), client_info=Implementation(name="praxis", version=__version__), cache=None
            ) as client:
                yield client, pipe
        except Exception as error:
            raise _explained(error, pipe, pipe) from error  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def _piped(pipe: ServerPipe) -> AsyncIterator[Any]:
    """Speak MCP in lines of JSON, as the SDK's own transport over stdio does; the process is others' to end."""
    into, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, out_of = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with into:
            while (line := await pipe.line()) is not None:
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    pipe.refuse(line)
                    return
                try:
                    await into.send(SessionMessage(message))
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return

    async def write() -> None:
        async with out_of:
            async for one in out_of:
                await pipe.send(
                    one.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        try:
            yield incoming, outgoing
        finally:
            for stream in (incoming, outgoing):
                stream.close()
            tasks.cancel_scope.cancel()


async def list_tools(server: Server, timeout_s: float, answer_limit_bytes: int) -> tuple[RemoteTool, ...]:
    """Ask a server for all its tools.

    Raises:
        CallRefusedError: the server does not accept the credentials.
        EngineUnavailable: the server is not there, is no MCP server, or is too slow.
    """
    try:
        with anyio.fail_after(timeout_s):
            async with _connected(server, answer_limit_bytes) as (client, _):
                return tuple([tool async for page in _tool_pages(client, server) for tool in page])
    except TimeoutError as error:
        raise EngineUnavailable(f"{server.place} did not list its tools within {timeout_s:g} s") from error
    except AnswerTooLargeError as error:
        raise EngineUnavailable(f"{server.place} sent a list of tools that is too large") from error


@contextlib.asynccontextmanager
async def _connected(server: Server, answer_limit_bytes: int) -> AsyncIterator[tuple[Client, Wire]]:
    """Open a session, and turn what goes wrong in it into one error that says so."""
    wire = Wire(server, answer_limit_bytes)
    headers = httpx2.Headers(dict(server.headers))
    headers["Accept-Encoding"] = "identity"
    try:
        async with (
            httpx2.AsyncClient(
                headers=headers,
                auth=server.sign if server.token is not None else None,
                # None for reading: a tool may think as long as its time limit lets it, which others keep.
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
                verify=_tls(),
                max_redirects=MAX_REDIRECTS,
                event_hooks={"response": [wire.see]},
            ) as http,
            Client(
                streamable_http_client(str(server.url), http_client=http, max_sse_event_size=None),
                client_info=Implementation(name="praxis", version=__version__),
                cache=None,
            ) as client,
        ):
            yield client, wire
    except Exception as error:
        raise _explained(error, server, wire) from error


@cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # 20 ms, so once


async def _find(client: Client, name: str, server: Server) -> None:
    offered: list[str] = []
    async with contextlib.aclosing(_tool_pages(client, server)) as pages:
        async for page in pages:
            if any(tool.name == name for tool in page):
                return
            offered += [tool.name for tool in page]
    # Bounded, because comparing texts takes time that grows with the product of their lengths.
    comparable = [other for other in offered[:MAX_NAMES_COMPARED] if len(other) <= MAX_NAME_CHARS]
    near = get_close_matches(name, comparable, n=1)
    shown = ", ".join(printable(other, MAX_NAME_CHARS) for other in offered[:MAX_NAMES_SHOWN])
    more = f" and {len(offered) - MAX_NAMES_SHOWN} more" if len(offered) > MAX_NAMES_SHOWN else ""
    raise CallRefusedError(
        FailureCategory.DEPENDENCY_ERROR,
        f"engineSpec.tool: {server.place} offers no tool '{name}'",
        remedy=f"did you mean '{printable(near[0], MAX_NAME_CHARS)}'?"
        if near
        else f"it offers {shown or 'none'}{more}",
    )


async def _tool_pages(client: Client, server: Server) -> AsyncGenerator[list[RemoteTool]]:
    cursor: str | None = None
    for _ in range(MAX_TOOL_PAGES):
        try:
            page = await client.list_tools(cursor=cursor)
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND and cursor is None:
                return  # a server may offer prompts or resources alone
            raise
        yield [RemoteTool(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            return
    raise EngineUnavailable(f"{server.place} lists tools without end: {MAX_TOOL_PAGES} pages were read")


def _explained(error: Exception, server: Server, wire: Wire) -> Exception:
    """Find the one thing that went wrong among what the SDK's task groups raise together."""
    leaves = list(_leaves(error))
    if wire.too_large:
        return AnswerTooLargeError()
    for leaf in leaves:
        if isinstance(leaf, PraxisError):
            return leaf
    if wire.failure is not None:
        return wire.failure
    for leaf in leaves:
        if (reason := _reason(leaf)) is not None:
            return EngineUnavailable(
                f"{server.place} {reason}", remedy="check engineSpec.address and the server"
            )
    return leaves[0]


def _leaves(error: BaseException) -> Iterator[Exception]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error, Exception):
        yield error


def _reason(error: Exception) -> str | None:
    """Say in words of our own why there is no answer; None for what was not foreseen."""
    match error:
        case httpx2.ConnectTimeout():
            return f"accepts no connection within {CONNECT_TIMEOUT_S:g} s"
        case httpx2.ConnectError():
            return f"cannot be reached: {_connect_fault(error)}"
        case httpx2.UnsupportedProtocol():
            return "cannot be reached: only http and https are spoken"
        case httpx2.ProxyError():
            return "cannot be reached: the HTTP proxy of this host refuses"
        case httpx2.RemoteProtocolError() | httpx2.ReadError() | httpx2.WriteError():
            return "closed the connection before it answered"
        case httpx2.TransportError() | httpx2.DecodingError():
            return f"cannot be talked to over HTTP ({type(error).__name__})"
        case MCPError() if _is_closed(error):
            return "closed the connection before it answered"
        case MCPError(code=code) if code == UNSUPPORTED_PROTOCOL_VERSION:
            return "speaks no version of MCP that is known here"
        case MCPError(code=code):
            return f"does not answer as an MCP server does (JSON-RPC error {code})"
        case pydantic.ValidationError() | RuntimeError():
            # RuntimeError is what the SDK raises for a version that it does not know.
            return "does not answer as an MCP server does"
    return None


def _is_closed(error: MCPError) -> bool:
    """Whether the SDK reports the end of the connection, rather than an error that a server sent."""
    return error.code == CONNECTION_CLOSED and error.message.startswith(_SDK_CLOSED)


def _connect_fault(error: BaseException) -> str:
    """Find the operating system's reason below what the HTTP client makes of it."""
    seen: list[BaseException] = [error]
    for fault in seen:
        if isinstance(fault, ssl.SSLCertVerificationError):
            return f"TLS: {fault.verify_message}"
        if isinstance(fault, ssl.SSLError):
            return "TLS: the handshake failed"
        if isinstance(fault, socket.gaierror):
            return "the host name is not known"
        if isinstance(fault, OSError) and fault.errno:
            return os.strerror(fault.errno).lower()
        inner = [fault.__cause__, fault.__context__]
        if isinstance(fault, BaseExceptionGroup):
            inner += fault.exceptions
        seen += [cause for cause in inner if cause is not None and cause not in seen]
    return "no connection"
