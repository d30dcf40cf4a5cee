"""A real MCP server, run as a process of its own by the tests: `python mcp_server.py [--port N]`.

The first line on stdout is its base URL. It ends when its stdin does, so it cannot outlive the tests.

    /mcp           MCP as it is spoken today: each request stands alone
    /legacy/mcp    the same tools for a client that has to shake hands first, as older servers want it
    /sticky/mcp    the same, and does not let a session go
    /private/mcp   the first behind the bearer token TOKEN
    /paged/mcp     a server whose list of tools has many pages
    /toolless/mcp  a server that offers no tools
    /odd/...       what is no MCP server, or fails as one
    /calls/MARKER  what became of the calls of `hang` with a marker: running, cancelled, finished
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from mcp.server import MCPServer, Server, ServerRequestContext
from mcp.server.mcpserver import Context, Image
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

TOKEN = "open-sesame-0123456789"
LONG_S = 60
PAGES = 5
PIXEL = bytes.fromhex("89504e470d0a1a0a")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Calls:
    """What became of the calls of `hang`, by marker."""

    def __init__(self) -> None:
        self.state: dict[str, str] = {}
        self.changed = asyncio.Event()

    def set(self, marker: str, state: str) -> None:
        """Note a state and wake who waits for it."""
        self.state[marker] = state
        self.changed.set()
        self.changed = asyncio.Event()

    async def wait_for(self, marker: str, states: set[str], patience_s: float) -> str:
        """Wait until a call is in one of the states; returns the state it is in at last."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self.state.get(marker, "unknown") not in states:
                    await self.changed.wait()
        return self.state.get(marker, "unknown")


class Point(BaseModel):
    """A structured result."""

    x: int
    label: str


class Verdict(BaseModel):
    """A structured result that happens to have the one field that wrappers have."""

    result: str


calls = Calls()
gathered = asyncio.Condition()
present: dict[str, int] = {}  # calls of `meet` by place
tools = MCPServer("praxis-tests", log_level="CRITICAL")


@tools.tool()
def echo(text: str) -> str:
    """Return the text."""
    return text


@tools.tool()
def point(x: int, label: str = "here") -> Point:
    """Return a structure."""
    return Point(x=x, label=label)


@tools.tool()
def verdict() -> Verdict:
    """Return a structure with one field named 'result'."""
    return Verdict(result="guilty")


@tools.tool()
def numbers() -> list[int]:
    """Return a list."""
    return [1, 2, 3]


@tools.tool()
def lines() -> CallToolResult:
    """Return several texts and no structure."""
    return CallToolResult(content=[TextContent(text="one"), TextContent(text="zwei ☃")])


@tools.tool(structured_output=False)
def picture() -> list[Any]:
    """Return a text and an image."""
    return ["see:", Image(data=PIXEL, format="png")]


@tools.tool()
def nothing() -> CallToolResult:
    """Return no content at all."""
    return CallToolResult(content=[])


@tools.tool(structured_output=False)
def flood(text: str, size_bytes: int = 17 << 20) -> str:
    """Return very much."""
    return "x" * size_bytes


@tools.tool()
def fail(text: str) -> CallToolResult:
    """Report an error of the tool."""
    return CallToolResult(content=[TextContent(text=f"problem: {text}")], is_error=True)


@tools.tool()
def crash() -> str:
    """Raise what nobody expects."""
    raise RuntimeError("a detail of the server that is nobody's business")


@tools.tool()
def protest() -> str:
    """Answer with an error of the protocol."""
    raise MCPError(code=-32050, message="the quota is used up")


@tools.tool()
def inquire() -> InputRequiredResult:
    """Ask for input instead of answering."""
    return InputRequiredResult(request_state="more")


@tools.tool()
async def hang(text: str) -> str:
    """Go on for long; tells what became of it under /calls/TEXT."""
    calls.set(text, "running")
    try:
        await asyncio.sleep(LONG_S)
    except asyncio.CancelledError:
        calls.set(text, "cancelled")
        raise
    calls.set(text, "finished")
    return "done"


@tools.tool()
async def progress(ctx: Context, steps: int = 3) -> str:
    """Report progress."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, "step\nthree" if step == 3 else None)
    return "done"


@tools.tool()
async def meet(place: str, party: int) -> str:
    """Answer only when so many calls are at a place at once."""
    async with gathered:
        present[place] = present.get(place, 0) + 1
        gathered.notify_all()
        await gathered.wait_for(lambda: present[place] >= party)
    return "met"


@tools.tool(structured_output=False)
def received(ctx: Context, text: str = "") -> dict[str, Any]:
    """Tell the HTTP headers and the arguments that arrived."""
    return {"headers": dict(ctx.request_context.request.headers), "text": text}


async def list_page(_: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
    """List one tool a page."""
    page = int(params.cursor) if params and params.cursor else 1
    names = [Tool(name=f"page-{page}", input_schema={"type": "object"})]
    return ListToolsResult(tools=names, next_cursor=str(page + 1) if page < PAGES else None)


async def call_paged(_: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    """Say which tool was called, and with what."""
    return CallToolResult(content=[TextContent(text=f"{params.name} {params.arguments}")])


paged = Server("paged", on_list_tools=list_page, on_call_tool=call_paged)
toolless = Server("toolless")


async def odd(request: Request) -> Response:
    """Answer as something else than an MCP server."""
    what = request.path_params["what"]
    target = request.query_params.get("to", "")
    match what:
        case "html":
            return HTMLResponse("<html><body>Welcome!</body></html>")
        case "json":
            return JSONResponse({"hello": "world"})
        case "text-json":
            return Response(b"{not json", media_type="application/json")
        case "events":
            return Response(b"event: message\ndata: {not json\n\n", media_type="text/event-stream")
        case "busy":
            return JSONResponse({"message": "overloaded"}, status_code=503)
        case "broken":
            return PlainTextResponse("Internal Server Error", status_code=500)
        case "forbidden":
            return PlainTextResponse("no", status_code=403)
        case "big":
            return PlainTextResponse("too big", status_code=413)
        case "loop":
            return Response(status_code=307, headers={"location": str(request.url)})
        case "away":
            return Response(status_code=307, headers={"location": target})
        case "compressed":
            return Response(b"\x1f\x8b", media_type="application/json", headers={"content-encoding": "gzip"})
        case "endless":
            return StreamingResponse(endless(), media_type="application/json")
        case "silent":
            await asyncio.sleep(LONG_S)
    return PlainTextResponse("Not Found", status_code=404)


async def endless() -> Any:
    """Yield a JSON string that is far longer than anybody wants."""
    yield b'"'
    for _ in range(4096):
        yield b"x" * (1 << 16)
        await asyncio.sleep(0)


async def tell_call(request: Request) -> Response:
    """Wait until a call is in one of some states, and tell in which it is."""
    states = set(request.query_params["states"].split(","))
    patience_s = float(request.query_params["patience_s"])
    return JSONResponse(await calls.wait_for(request.path_params["marker"], states, patience_s))


def http_app(answer: Callable[[Request], Awaitable[Response]], **path_params: str) -> Any:
    """Make an application of a function, without a router."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["path_params"] = path_params
        await (await answer(Request(scope, receive)))(scope, receive, send)

    return app


async def front(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each request where it belongs."""
    kind, _, rest = scope["path"].lstrip("/").partition("/")
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    app: Any = apps.get(kind, apps["mcp"])
    if kind == "odd":
        app = http_app(odd, what=rest)
    elif kind == "calls":
        app = http_app(tell_call, marker=rest)
    elif kind == "private" and headers.get("authorization") != f"Bearer {TOKEN}":
        app = PlainTextResponse("who are you?", status_code=401, headers={"www-authenticate": "Bearer"})
    elif kind == "sticky" and scope["method"] == "DELETE":
        await asyncio.sleep(LONG_S)
    elif kind in ("legacy", "sticky") and headers.get("mcp-protocol-version", "") >= "2026":
        app = PlainTextResponse("Bad Request: Unsupported protocol version", status_code=400)
    elif kind == "moved":
        app = Response(status_code=307, headers={"location": "/mcp"})
    await app(scope if kind == "odd" else {**scope, "path": "/mcp"}, receive, send)


apps: dict[str, Any] = {}


async def serve(port: int) -> None:
    """Serve until stdin ends."""
    apps["mcp"] = tools.streamable_http_app()
    apps["paged"] = paged.streamable_http_app()
    apps["toolless"] = toolless.streamable_http_app()
    # The protocol is named, because asyncio turns off Nagle's algorithm only where it reads TCP there.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    config = uvicorn.Config(front, lifespan="off", log_level="error", access_log=False)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), end_with_stdin)
    async with tools.session_manager.run(), paged.session_manager.run(), toolless.session_manager.run():
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        await uvicorn.Server(config).serve(sockets=[listener])


def end_with_stdin() -> None:
    """End at once when whoever started this is gone."""
    if not os.read(sys.stdin.fileno(), 1):
        os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
