"""The remote MCP engine: the conformance suite, and what is its own, against a real MCP server process."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import logging
import os
import ssl
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from praxis_sdk.errors import EngineUnavailable, ExecutionError, MissingExtra, ValidationError
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.specs import EngineType, RemoteMCPEngineSpec
from praxis_sdk.execution.contracts import ToolContract, ToolParameter
from praxis_sdk.execution.engines.mcp.answer import Answer
from praxis_sdk.execution.engines.mcp.remote import RemoteMCPEngine
from praxis_sdk.execution.outcome import Isolation, Limit, ToolOutcome
from praxis_sdk.states import ExecutionStatus, FailureCategory
from tests.execution.conformance import LONG_S, EngineConformance, Listener

SERVER_PROGRAM = Path(__file__).parent / "mcp_server.py"
EXAMPLE_PROGRAM = Path(__file__).parents[2] / "examples" / "mcp_text_analyzer.py"
TOKEN = "open-sesame-0123456789"
ERAS = ["/mcp", "/legacy/mcp"]
PROXIES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]


class ServerProcess:
    """A server program that tells its URL in its first line and ends with its stdin."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the server did not start"

    def call_state(self, marker: str, *states: str, patience_s: float = LONG_S / 2) -> str:
        """Wait until a call of `hang` is in one of some states; returns the state it is in at last."""
        query = f"states={','.join(states)}&patience_s={patience_s}"
        with urllib.request.urlopen(f"{self.url}/calls/{marker}?{query}", timeout=LONG_S) as response:
            return str(json.load(response))

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Talk to the loopback directly, whatever the environment says."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Run the MCP server for the tests of this module."""
    running = ServerProcess(str(SERVER_PROGRAM))
    yield running
    running.stop()


@pytest.fixture
def mortal() -> Iterator[ServerProcess]:
    """Run an MCP server that a test may kill."""
    running = ServerProcess(str(SERVER_PROGRAM))
    yield running
    running.stop()


@pytest.fixture
async def engine() -> AsyncIterator[RemoteMCPEngine]:
    """Make an engine for one test; nothing of it may be left afterwards."""
    made = RemoteMCPEngine()
    yield made
    await made.cleanup()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a call outlived its run"


def remote(address: str, name: str = "echo", params: tuple[str, ...] = (), **spec: Any) -> ToolContract:
    """Make a contract for a tool of a server."""
    return ToolContract(
        name=name,
        engine=EngineType.REMOTE_MCP,
        engine_spec={"address": address, **spec},
        parameters=[ToolParameter(name=parameter, type="any") for parameter in params],
    )


async def call(
    engine: RemoteMCPEngine, address: str, tool: str, context: RunContext | None = None, **args: Any
) -> ToolOutcome:
    return await engine.run(remote(address, tool, tuple(args)), args, context)


@pytest.mark.usefixtures("server")
class RemoteConformance(EngineConformance):
    """The shared promises; a deriving class says how old the server's protocol is."""

    engine_type = EngineType.REMOTE_MCP
    claims_usage = False
    confirms_ends = False
    path: str

    @pytest.fixture(autouse=True)
    def _server(self, server: ServerProcess) -> None:
        self.server = server
        self.is_running = False

    def tool(self, name: str, **spec: Any) -> ToolContract:
        return ToolContract(
            name=name,
            engine=self.engine_type,
            engine_spec={"address": self.server.url + self.path, **spec},
            parameters=[ToolParameter(name="text", required=True)],
        )

    def echoing(self) -> ToolContract:
        return self.tool("echo")

    def failing(self) -> ToolContract:
        return self.tool("fail")

    def hanging(self, marker: str) -> ToolContract:
        return self.tool("hang")

    def flooding(self) -> ToolContract:
        return self.tool("flood", output_limit="64k")

    async def test_output_limit_ends_the_tool(self, engine: ExecutionEngine) -> None:
        """An answer comes whole or not at all: a longer one is cut off on the wire, before it is parsed."""
        outcome = await engine.run(self.flooding(), {"text": "x"})
        assert outcome.status is ExecutionStatus.FAILED
        assert outcome.limit is Limit.OUTPUT
        assert outcome.failure is not None
        assert outcome.failure.category is FailureCategory.RESOURCE_LIMIT
        assert len(outcome.stdout) <= 64 << 10

    async def started(self, marker: str, listener: Listener) -> None:
        state = await asyncio.to_thread(self.server.call_state, marker, "running")
        assert state == "running"
        self.is_running = True

    def leftovers(self, marker: str) -> list[str]:
        """Ask the server: it must see that the call is over; while it runs, ask without patience."""
        patience_s = 0 if self.is_running else LONG_S / 2
        self.is_running = False
        state = self.server.call_state(marker, "cancelled", "unknown", patience_s=patience_s)
        return [state] if state in ("running", "finished") else []


class TestConformance(RemoteConformance):
    """With a server whose every request stands alone."""

    path = "/mcp"


class TestConformanceWithAnOlderServer(RemoteConformance):
    """With a server that wants a handshake and keeps a session."""

    path = "/legacy/mcp"


# -- results


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("tool", "args", "stdout"),
    [
        ("echo", {"text": "größe 7 ☃"}, "größe 7 ☃"),
        ("echo", {"text": ""}, ""),
        (
            "echo",
            {"text": '{"result": "text that looks like a structure"}'},
            '{"result": "text that looks like a structure"}',
        ),
        ("point", {"x": 1, "label": "hier ☃"}, '{"x": 1, "label": "hier ☃"}'),
        ("verdict", {}, '{"result": "guilty"}'),
        ("numbers", {}, "[1, 2, 3]"),
        ("lines", {}, "one\nzwei ☃"),
        ("nothing", {}, ""),
        (
            "picture",
            {},
            '[{"type": "text", "text": "see:"}, {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}]',
        ),
    ],
)
async def test_every_kind_of_result_has_one_form(
    engine: RemoteMCPEngine, server: ServerProcess, era: str, tool: str, args: dict[str, Any], stdout: str
) -> None:
    outcome = await call(engine, server.url + era, tool, **args)
    assert outcome.succeeded, outcome
    assert outcome.stdout == stdout
    assert outcome.stderr == ""
    assert outcome.exit_code == 0
    assert outcome.isolation is Isolation.REMOTE
    assert outcome.usage.cpu_s is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(False, (), None, True), "null"),
        (Answer(False, (), {"result": None}, True), "null"),
        (Answer(False, ({"type": "text", "text": "a"},), "a", True), "a"),
        (
            Answer(False, ({"type": "resource_link", "uri": "x:y"},)),
            '[{"type": "resource_link", "uri": "x:y"}]',
        ),
        (Answer(True, ({"type": "text", "text": "why"},), {"code": 1}, True), "why"),
        (Answer(True, (), {"code": 1}, True), '{"code": 1}'),
    ],
)
def test_rare_answers_have_one_form_too(answer: Answer, text: str) -> None:
    assert answer.text == text


async def test_a_large_result_arrives_whole(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    for era in ERAS:
        outcome = await call(engine, server.url + era, "flood", text="", size_bytes=5 << 20)
        assert outcome.succeeded, outcome.failure
        assert outcome.stdout_bytes == 5 << 20


@pytest.mark.parametrize("path", ["/odd/endless", "/legacy/mcp"])
async def test_an_endless_answer_ends_at_the_limit(
    engine: RemoteMCPEngine, server: ServerProcess, path: str
) -> None:
    outcome = await call(engine, server.url + path, "flood", text="", size_bytes=80 << 20)
    assert outcome.status is ExecutionStatus.FAILED
    assert outcome.limit is Limit.OUTPUT
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.RESOURCE_LIMIT


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("tool", "args", "said"),
    [
        ("fail", {"text": "☃"}, "problem: ☃"),
        ("crash", {}, "Error executing tool crash"),
        ("protest", {}, "the quota is used up (JSON-RPC error -32050)"),
        ("point", {"x": "not a number"}, "Input should be a valid integer"),
        ("point", {}, "Field required"),
    ],
)
async def test_an_error_of_the_tool_is_the_tools(
    engine: RemoteMCPEngine, server: ServerProcess, era: str, tool: str, args: dict[str, Any], said: str
) -> None:
    outcome = await call(engine, server.url + era, tool, **args)
    assert outcome.status is ExecutionStatus.FAILED
    assert outcome.exit_code == 1
    assert said in outcome.stderr
    assert outcome.stdout == ""
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.USER_CODE_ERROR
    with pytest.raises(ExecutionError, match="the remote tool reported an error") as caught:
        outcome.output_or_raise()
    assert said in (caught.value.output or "")


async def test_a_tool_that_asks_for_input_fails(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    outcome = await call(engine, server.url + "/mcp", "inquire")
    assert outcome.exit_code == 1
    assert "asks for input" in outcome.stderr


async def test_progress_is_passed_on_as_lines(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    for era in ERAS:
        heard: list[str] = []
        outcome = await call(engine, server.url + era, "progress", RunContext(on_progress=heard.append))
        assert outcome.stdout == "done"
        assert heard == ["1 of 3", "2 of 3", "step three"]


# -- what the server is given


async def test_headers_and_token_are_delivered(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    for era in ERAS:
        contract = remote(
            server.url + era,
            "received",
            headers={"X-Tenant": "blue", "authorization": "Basic no"},
            auth_token=TOKEN,
        )
        headers = json.loads(await engine.execute(contract, {}))["headers"]
        assert headers["x-tenant"] == "blue"
        assert headers["authorization"] == f"Bearer {TOKEN}"


async def test_the_context_never_reaches_the_arguments(
    engine: RemoteMCPEngine, server: ServerProcess
) -> None:
    contract = remote(server.url + "/mcp", "received", ("text",))
    context = {"text": "from the context", "execution_id": "run-7", "other": "leak"}
    received = await engine.execute(contract, {"text": "from the caller"}, context)
    assert json.loads(received)["text"] == "from the caller"
    assert "leak" not in received
    assert "run-7" not in received
    assert json.loads(await engine.execute(contract, {}, context))["text"] == ""


async def test_only_declared_arguments_are_sent(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    contract = remote(server.url + "/paged/mcp", "anything", ("a", "b"), tool="page-2")
    assert await engine.execute(contract, {"a": [1, {"deep": None}]}) == "page-2 {'a': [1, {'deep': None}]}"


async def test_the_tool_may_have_another_name_there(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    contract = remote(server.url + "/mcp", "my-own-name", ("text",), tool="echo")
    assert await engine.execute(contract, {"text": "t"}) == "t"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"headers": {"Host": "other"}}, "headers"),
        ({"headers": {"X-A": "sécret"}}, r"headers\.X-A"),
        ({"auth_token": "sécret"}, "auth_token"),
        ({"address": "http://host:port/mcp"}, "address"),
        ({"address": "http://:80/mcp"}, "address"),
    ],
)
async def test_what_cannot_be_sent_is_refused_by_name_alone(
    engine: RemoteMCPEngine, spec: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=rf"engineSpec\.{field}") as caught:
        await engine.run(remote(**{"address": "http://127.0.0.1:1/mcp", **spec}), {})
    assert "sécret" not in str(caught.value)


# -- refusals: the contract's author must act


@pytest.mark.parametrize(
    ("path", "token", "said"),
    [
        ("/private/mcp", None, "wants credentials (HTTP 401)"),
        ("/private/mcp", "wrong-0123456789", "does not accept it (HTTP 401)"),
        ("/odd/forbidden", "wrong-0123456789", "does not accept it (HTTP 403)"),
    ],
)
async def test_refused_credentials_are_named_in_one_line(
    engine: RemoteMCPEngine, server: ServerProcess, path: str, token: str | None, said: str
) -> None:
    outcome = await engine.run(remote(server.url + path, auth_token=token), {})
    assert outcome.status is ExecutionStatus.FAILED
    assert outcome.exit_code is None
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.VALIDATION_ERROR
    assert outcome.failure.message.startswith(f"engineSpec.auth_token: {server.url}{path} {said}")
    assert "\n" not in outcome.failure.message
    assert "0123456789" not in outcome.failure.message


async def test_the_right_token_opens(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    contract = remote(server.url + "/private/mcp", "echo", ("text",), auth_token=TOKEN)
    assert await engine.execute(contract, {"text": "in"}) == "in"


@pytest.mark.parametrize(
    ("path", "tool", "said"),
    [
        ("/mcp", "ecko", "offers no tool 'ecko' (did you mean 'echo'?)"),
        ("/legacy/mcp", "ecko", "offers no tool 'ecko' (did you mean 'echo'?)"),
        ("/mcp", "zzz", "offers no tool 'zzz' (it offers echo, point, verdict, "),
        ("/paged/mcp", "zzz", "(it offers page-1, page-2, page-3, page-4, page-5)"),
        ("/toolless/mcp", "zzz", "offers no tool 'zzz' (it offers none)"),
    ],
)
async def test_an_unknown_tool_is_a_missing_dependency(
    engine: RemoteMCPEngine, server: ServerProcess, path: str, tool: str, said: str
) -> None:
    outcome = await engine.run(remote(server.url + path, tool), {})
    assert outcome.status is ExecutionStatus.FAILED
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.DEPENDENCY_ERROR
    assert said in outcome.failure.message
    assert server.url in outcome.failure.message


async def test_too_large_arguments_are_the_callers(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    outcome = await engine.run(remote(server.url + "/odd/big"), {})
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.VALIDATION_ERROR
    assert outcome.failure.message.startswith("args: larger than")


# -- unavailability: the server is not there, or is no MCP server


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("html", "does not answer as an MCP server does"),
        ("json", "does not answer as an MCP server does"),
        ("text-json", "does not answer as an MCP server does"),
        ("events", "does not answer as an MCP server does"),
        ("nothing-here", "answers HTTP 404: no MCP endpoint there"),
        ("busy", "answers HTTP 503"),
        ("broken", "answers HTTP 500"),
        ("loop", "redirects to"),
        ("compressed", "compresses its answers"),
    ],
)
async def test_what_is_no_mcp_server_is_unavailable(
    engine: RemoteMCPEngine,
    server: ServerProcess,
    caplog: pytest.LogCaptureFixture,
    what: str,
    said: str,
) -> None:
    with pytest.raises(EngineUnavailable, match=said) as caught:
        await engine.run(remote(f"{server.url}/odd/{what}", auth_token=TOKEN), {})
    assert caught.value.message.startswith(f"{server.url}/odd/{what} ")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caplog.records == [], "the SDK's own account of it is for who asks for it"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:1/mcp", "cannot be reached: connection refused"),
        ("http://no-such-host.invalid/mcp", "cannot be reached: the host name is not known"),
    ],
)
async def test_an_absent_server_is_unavailable(engine: RemoteMCPEngine, address: str, said: str) -> None:
    with pytest.raises(EngineUnavailable, match=f"^{address} {said}"):
        await engine.run(remote(address), {})


async def test_secrets_in_an_address_stay_out_of_errors(engine: RemoteMCPEngine) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        await engine.run(remote("http://user:pass-word@127.0.0.1:1/mcp?key=api-key#part"), {})
    assert caught.value.message.startswith("http://127.0.0.1:1/mcp cannot be reached")
    assert "pass-word" not in str(caught.value)
    assert "api-key" not in str(caught.value)


async def test_tls_failures_are_told_apart(
    engine: RemoteMCPEngine, server: ServerProcess, self_signed: ssl.SSLContext
) -> None:
    with pytest.raises(EngineUnavailable, match="TLS: the handshake failed"):
        await engine.run(remote(server.url.replace("http:", "https:") + "/mcp"), {})

    async def never_asked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(never_asked, "127.0.0.1", 0, ssl=self_signed) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(EngineUnavailable, match="TLS: self-signed certificate"):
            await engine.run(remote(f"https://127.0.0.1:{port}/mcp", auth_token=TOKEN), {})


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Make a TLS server's context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_credentials_follow_no_redirect_elsewhere(
    engine: RemoteMCPEngine, server: ServerProcess
) -> None:
    visitors: asyncio.Queue[bytes] = asyncio.Queue()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.put_nowait(await reader.readline())
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as elsewhere:
        port = elsewhere.sockets[0].getsockname()[1]
        target = f"http://127.0.0.1:{port}"
        contract = remote(f"{server.url}/odd/away?to={target}/mcp", auth_token=TOKEN, headers={"X-Key": "k"})
        with pytest.raises(EngineUnavailable, match=f"redirects to {target} and was not followed there"):
            await engine.run(contract, {})
        # Visitors are served in the order of their coming, so one of our own shows who came before.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"the test itself\n")
        assert await visitors.get() == b"the test itself\n"
        writer.close()
        await writer.wait_closed()


async def test_a_redirect_within_the_server_is_followed(
    engine: RemoteMCPEngine, server: ServerProcess
) -> None:
    contract = remote(server.url + "/moved/mcp", "echo", ("text",))
    assert await engine.execute(contract, {"text": "t"}) == "t"


async def test_a_server_that_dies_between_calls_is_unavailable_until_it_is_back(
    engine: RemoteMCPEngine, mortal: ServerProcess
) -> None:
    contract = remote(mortal.url + "/mcp", "echo", ("text",))
    assert await engine.execute(contract, {"text": "before"}) == "before"
    mortal.stop()
    with pytest.raises(EngineUnavailable, match="connection refused"):
        await engine.run(contract, {"text": "t"})
    again = ServerProcess(str(SERVER_PROGRAM), "--port", mortal.url.rpartition(":")[2])
    try:
        assert await engine.execute(contract, {"text": "after"}) == "after"
    finally:
        again.stop()


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_dies_in_a_call_is_unavailable(
    engine: RemoteMCPEngine, mortal: ServerProcess, era: str
) -> None:
    running = asyncio.ensure_future(call(engine, mortal.url + era, "hang", text="m"))
    assert await asyncio.to_thread(mortal.call_state, "m", "running") == "running"
    mortal.stop()
    with pytest.raises(EngineUnavailable, match="closed the connection before it answered"):
        await running


# -- ends


@pytest.mark.parametrize("era", ERAS)
async def test_a_slow_tool_times_out_and_the_server_is_told(
    engine: RemoteMCPEngine, server: ServerProcess, era: str
) -> None:
    marker = uuid.uuid4().hex
    began = time.monotonic()
    running = asyncio.ensure_future(
        engine.run(remote(server.url + era, "hang", ("text",), timeout=5), {"text": marker})
    )
    assert await asyncio.to_thread(server.call_state, marker, "running") == "running"
    outcome = await running
    assert outcome.status is ExecutionStatus.TIMED_OUT
    assert outcome.limit is Limit.TIMEOUT
    assert 5 <= time.monotonic() - began < LONG_S / 3
    assert await asyncio.to_thread(server.call_state, marker, "cancelled", "finished") == "cancelled"


async def test_a_server_that_never_answers_times_out(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    outcome = await engine.run(remote(server.url + "/odd/silent", timeout=0.3), {})
    assert outcome.status is ExecutionStatus.TIMED_OUT


async def test_the_engines_default_timeout_is_for_contracts_without_one(server: ServerProcess) -> None:
    address = server.url + "/odd/silent"
    quick = RemoteMCPEngine(default_timeout=1)
    assert (await quick.run(remote(address), {})).failure is not None
    patient = RemoteMCPEngine(default_timeout=LONG_S)
    assert (await patient.run(remote(address, timeout=0.2), {})).status is ExecutionStatus.TIMED_OUT
    assert (await patient.run(remote(address), {}, {"timeout_s": 0.2})).status is ExecutionStatus.TIMED_OUT
    with pytest.raises(ValidationError, match="default_timeout"):
        RemoteMCPEngine(default_timeout=0)


async def test_cancellation_before_the_server_answers_leaves_nothing(
    engine: RemoteMCPEngine, server: ServerProcess
) -> None:
    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await gone.wait()
        writer.close()

    arrived, gone = asyncio.Event(), asyncio.Event()
    async with await asyncio.start_server(accept, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        running = asyncio.ensure_future(engine.run(remote(f"http://127.0.0.1:{port}/mcp"), {}))
        await arrived.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        gone.set()


async def test_a_server_that_does_not_let_go_cannot_hold_the_answer_back(
    engine: RemoteMCPEngine, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(engine, server.url + "/mcp", "echo", text="the module is loaded now")
    monkeypatch.setattr("praxis_sdk.execution.engines.mcp.client.GOODBYE_TIMEOUT_S", 0.2)
    outcome = await call(engine, server.url + "/sticky/mcp", "echo", text="t")
    assert (outcome.succeeded, outcome.stdout) == (True, "t")


# -- many at once


@pytest.mark.parametrize("era", ERAS)
async def test_twenty_calls_are_really_at_once(
    engine: RemoteMCPEngine, server: ServerProcess, era: str
) -> None:
    place = uuid.uuid4().hex
    outcomes = await asyncio.gather(
        *(call(engine, server.url + era, "meet", place=place, party=20) for _ in range(20))
    )
    assert [outcome.stdout for outcome in outcomes] == ["met"] * 20


async def test_an_engine_serves_one_event_loop_after_another(server: ServerProcess) -> None:
    engine = RemoteMCPEngine()
    contract = remote(server.url + "/mcp", "echo", ("text",))

    def in_a_loop_of_its_own(text: str) -> str:
        return asyncio.run(engine.execute(contract, {"text": text}))

    for text in ("first", "second"):
        assert await asyncio.to_thread(in_a_loop_of_its_own, text) == text


# -- what is told


async def test_logs_hold_neither_token_nor_headers_nor_arguments(
    engine: RemoteMCPEngine, server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    contract = remote(
        server.url + "/private/mcp?key=in-the-query",
        "echo",
        ("text",),
        auth_token=TOKEN,
        headers={"X-Key": "in-a-header"},
    )
    with structlog.testing.capture_logs() as logs:
        assert (await engine.run(contract, {"text": "an-argument"})).succeeded
        await engine.run(remote(server.url + "/private/mcp", auth_token="bad-" + TOKEN), {})
    told = json.dumps(logs, default=str) + caplog.text
    for secret in (TOKEN, "in-a-header", "in-the-query", "an-argument"):
        assert secret not in told
    assert [line["event"] for line in logs] == ["tool.started", "tool.ended"] * 2


def test_importing_the_sdk_leaves_logging_alone() -> None:
    program = (
        "import logging; before = (logging.root.level, logging.root.handlers[:])\n"
        "import praxis_sdk.execution.engines.mcp.client\n"
        "assert (logging.root.level, logging.root.handlers) == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ})


def test_the_engine_does_not_load_the_sdk_until_it_is_used() -> None:
    program = (
        "import sys, praxis_sdk.execution.engines.mcp.remote; assert not {'mcp', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_a_missing_sdk_is_named_with_its_extra(
    engine: RemoteMCPEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "praxis_sdk.execution.engines.mcp.client", raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"pip install 'praxis-sdk\[mcp\]'"):
        await engine.run(remote("http://127.0.0.1:1/mcp"), {})


async def test_the_tools_of_a_server_can_be_listed(engine: RemoteMCPEngine, server: ServerProcess) -> None:
    paged = await engine.list_tools(RemoteMCPEngineSpec(address=server.url + "/paged/mcp"))
    assert [tool.name for tool in paged] == [f"page-{number}" for number in range(1, 6)]
    tools = {
        tool.name: tool for tool in await engine.list_tools(RemoteMCPEngineSpec(address=server.url + "/mcp"))
    }
    assert tools["echo"].description == "Return the text."
    assert tools["echo"].input_schema["required"] == ["text"]
    assert await engine.list_tools(RemoteMCPEngineSpec(address=server.url + "/toolless/mcp")) == ()
    with pytest.raises(ValidationError, match=r"engineSpec\.auth_token"):
        await engine.list_tools(RemoteMCPEngineSpec(address=server.url + "/private/mcp"))
    with pytest.raises(EngineUnavailable, match=r"did not list its tools within 0\.2 s"):
        await engine.list_tools(RemoteMCPEngineSpec(address=server.url + "/odd/silent", timeout=0.2))
    with pytest.raises(EngineUnavailable, match="too large"):
        await engine.list_tools(RemoteMCPEngineSpec(address=server.url + "/odd/endless"))


async def test_capabilities_promise_nothing_of_the_servers(
    engine: RemoteMCPEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = await engine.get_capabilities()
    assert capabilities["isolation"] == "remote"
    assert capabilities["available"] is True
    assert not any(value for key, value in capabilities.items() if key.startswith("supports_"))
    monkeypatch.setattr("praxis_sdk.execution.engines.mcp.remote.SDK_DISTRIBUTION", "no-such-distribution")
    without = await engine.get_capabilities()
    assert without["available"] is False
    assert "praxis-sdk[mcp]" in without["remedy"]


# -- the example


async def test_the_example_server_analyses_texts_below_its_root_only(
    engine: RemoteMCPEngine, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("größer größer kleiner\n")
    (root / "link.txt").symlink_to("a.txt")
    (root / "noise.bin").write_bytes(b"\xff\xfe")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "out.txt").symlink_to("../secret.txt")
    os.mkfifo(root / "pipe")
    example = ServerProcess(str(EXAMPLE_PROGRAM), "--root", str(root), "--port", "0")
    try:
        contract = remote(example.url, "text_analyzer", ("input_file",))
        for name in ("a.txt", "link.txt"):
            statistics = json.loads(await engine.execute(contract, {"input_file": name}))
            assert (statistics["lines"], statistics["words"], statistics["characters"]) == (1, 3, 22)
            assert statistics["most_frequent"] == {"größer": 2, "kleiner": 1}
        for name in (
            "../secret.txt",
            "out.txt",
            str(tmp_path / "secret.txt"),
            "absent",
            "pipe",
            ".",
            "noise.bin",
        ):
            outcome = await engine.run(contract, {"input_file": name})
            assert outcome.exit_code == 1, name
            assert name in outcome.stderr
            assert outcome.stdout == ""
    finally:
        example.stop()
