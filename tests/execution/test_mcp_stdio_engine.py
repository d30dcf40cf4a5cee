"""MCP over stdio: real servers of the MCP SDK, and servers that misbehave, in the sandbox and as local processes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp
import pytest

from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contracts import ToolContract
from praxis_sdk.execution.engine import McpStdioEngine
from praxis_sdk.execution.outcome import Isolation, Limit, ToolOutcome
from praxis_sdk.states import ExecutionStatus, FailureCategory
from praxis_sdk.termination import Termination
from tests.execution.conformance import processes_with

PACKAGES = Path(mcp.__file__).parent.parent
SERVER = """
import asyncio, subprocess, sys
from mcp.server import MCPServer
server = MCPServer("probe")

@server.tool()
def add(a: int, b: int) -> int:
    print("adding", file=sys.stderr)
    return a + b

@server.tool()
def fail() -> str:
    raise ValueError("out of paper")

@server.tool()
def big() -> str:
    return "x" * 3_000_000

@server.tool()
async def hang(marker: str) -> str:
    subprocess.Popen(["sh", "-c", "sleep 600; : " + marker])
    print("hanging", file=sys.stderr, flush=True)
    await asyncio.sleep(600)
    return ""

server.run("stdio")
"""
PARAMETERS = [
    {"name": "a", "type": "integer"},
    {"name": "b", "type": "integer"},
    {"name": "marker", "type": "string"},
]


@pytest.fixture
async def engine() -> AsyncIterator[McpStdioEngine]:
    """Make an engine for one test."""
    made = McpStdioEngine()
    yield made
    await made.cleanup()


def contract(tool: str, *, trust: str = "untrusted", **spec: Any) -> ToolContract:
    """Make the contract of a tool of the SDK's server."""
    fields: dict[str, Any] = {
        "command": ["python3", "-c", SERVER],
        "env": {"PYTHONPATH": "/site" if trust == "untrusted" else str(PACKAGES)},
        "timeout": 60,
        "tool": tool,
        **spec,
    }
    if trust == "untrusted":
        fields["mounts"] = {f"./{PACKAGES.name}": "/site:ro"}
        fields["memory_limit"] = "2g"
    document = {"name": "probe", "engine": "mcp-stdio", "trust": trust, "params": PARAMETERS}
    return ToolContract.model_validate({**document, "engineSpec": fields})


async def call(engine: McpStdioEngine, made: ToolContract, **args: Any) -> ToolOutcome:
    """Call a tool."""
    return await engine.run(made, args, RunContext(workspace=PACKAGES.parent))


@pytest.mark.parametrize(
    ("trust", "isolation"), [("untrusted", Isolation.NAMESPACES), ("trusted", Isolation.NONE)]
)
async def test_a_tool_of_a_server_is_called_where_its_trust_allows(
    engine: McpStdioEngine, trust: str, isolation: Isolation
) -> None:
    outcome = await call(engine, contract("add", trust=trust), a=2, b=3)
    assert outcome.status is ExecutionStatus.COMPLETED, outcome
    assert (outcome.stdout, outcome.isolation) == ("5", isolation)
    assert "adding" in outcome.stderr, "what the server writes to stderr is kept"


async def test_a_tool_that_fails_says_why(engine: McpStdioEngine) -> None:
    outcome = await call(engine, contract("fail", trust="trusted"))
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.USER_CODE_ERROR
    assert "out of paper" in outcome.stderr


async def test_a_tool_that_is_not_there_is_told_with_those_that_are(engine: McpStdioEngine) -> None:
    outcome = await call(engine, contract("ad", trust="trusted"))
    assert outcome.failure is not None
    assert "offers no tool 'ad' (did you mean 'add'?)" in outcome.failure.message


async def test_an_answer_over_the_limit_ends_the_run(engine: McpStdioEngine) -> None:
    outcome = await call(engine, contract("big", trust="trusted", output_limit="64k"))
    assert outcome.limit is Limit.OUTPUT


@pytest.mark.parametrize("trust", ["untrusted", "trusted"])
async def test_cancelling_ends_the_server_and_all_it_started(engine: McpStdioEngine, trust: str) -> None:
    marker = f"mcp-{uuid.uuid4().hex}"
    known: list[Termination] = []
    context = RunContext(workspace=PACKAGES.parent, on_termination=known.append)
    run = asyncio.ensure_future(engine.run(contract("hang", trust=trust), {"marker": marker}, context))
    while not processes_with(marker):
        assert not run.done(), run.result()
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert processes_with(marker) == []
    assert known[-1].confirmed


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Listening...'; sleep 600", "wrote to its stdout what is not an MCP message: 'Listening...'"),
        ("echo broken >&2; exit 3", "ended before it answered: exited with code 3"),
        ("exit 0", "ended before it answered (exit code 0)"),
        ("yes x", "what is not an MCP message: 'x'"),
        ("kill -9 $$", "ended before it answered"),
    ],
)
async def test_a_server_that_misbehaves_is_told_in_one_line(
    engine: McpStdioEngine, script: str, words: str
) -> None:
    made = ToolContract.model_validate(
        {"name": "p", "engine": "mcp-stdio", "engineSpec": {"command": ["sh", "-c", script], "timeout": 60}}
    )
    outcome = await engine.run(made, {})
    assert outcome.status is ExecutionStatus.FAILED
    assert outcome.failure is not None
    assert words in outcome.failure.message
    assert "\n" not in outcome.failure.message


async def test_a_server_that_hangs_or_floods_is_ended(engine: McpStdioEngine) -> None:
    for script, limit in (("sleep 600", Limit.TIMEOUT), ("cat /dev/zero", Limit.OUTPUT)):
        spec = {"command": ["sh", "-c", script], "timeout": 5, "output_limit": "64k"}
        made = ToolContract.model_validate({"name": "p", "engine": "mcp-stdio", "engineSpec": spec})
        assert (await engine.run(made, {})).limit is limit, script


# Speaks MCP by hand, so that it can say what no SDK would; answers the request METHOD with an error of its own.
BY_HAND = """
import json, sys
refused, code, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
results = {
    "initialize": {
        "protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "h", "version": "1"}
    },
    "tools/list": {"tools": [{"name": "p", "inputSchema": {"type": "object"}}]},
}
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method = message["method"]
    if method == "tools/call" and memory:
        held = bytearray(memory)
    if method == refused:
        answer = {"error": {"code": code, "message": "out of paper"}}
    elif method in results:
        answer = {"result": results[method]}
    else:
        answer = {"error": {"code": -32601, "message": "Method not found"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""


def by_hand(*words: object) -> ToolContract:
    """Make the contract of a tool whose server is written by hand."""
    spec = {"command": ["python3", "-c", BY_HAND, *map(str, words)], "timeout": 60, "memory_limit": "128m"}
    return ToolContract.model_validate({"name": "p", "engine": "mcp-stdio", "engineSpec": spec})


@pytest.mark.parametrize("code", [-32000, -32001, -32050, 7])
async def test_an_error_of_the_tool_is_its_own_whatever_its_code(engine: McpStdioEngine, code: int) -> None:
    outcome = await engine.run(by_hand("tools/call", code, 0), {})
    assert outcome.failure is not None
    assert outcome.failure.message == "the tool reported an error"
    assert outcome.stderr == f"out of paper (JSON-RPC error {code})"
    assert outcome.exit_code == 1


async def test_a_server_that_refuses_to_begin_did_not_close_the_connection(engine: McpStdioEngine) -> None:
    outcome = await engine.run(by_hand("initialize", -32000, 0), {})
    assert outcome.failure is not None
    assert outcome.failure.message.endswith("does not answer as an MCP server does (JSON-RPC error -32000)")


async def test_a_server_over_its_memory_limit_is_ended_by_that(engine: McpStdioEngine) -> None:
    outcome = await engine.run(by_hand("none", 0, 1 << 30), {})
    assert outcome.limit is Limit.MEMORY


@pytest.mark.parametrize("trust", ["untrusted", "trusted"])
async def test_a_server_that_is_not_installed_is_a_missing_dependency(
    engine: McpStdioEngine, trust: str
) -> None:
    spec = {"command": ["no-such-server"], "timeout": 60}
    made = ToolContract.model_validate(
        {"name": "p", "engine": "mcp-stdio", "trust": trust, "engineSpec": spec}
    )
    outcome = await engine.run(made, {})
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.DEPENDENCY_ERROR
    assert "no-such-server" in outcome.failure.message
