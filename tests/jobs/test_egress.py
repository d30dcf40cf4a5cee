"""Egress: real sockets on loopback, a plain and a TLS server, and everything that must not get through."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.jobs.egress import EgressPolicy, EgressProxy, egress_for, proxy_variables
from praxis_sdk.jobs.egress import heads as http
from praxis_sdk.jobs.egress.client_hello import ClientHello, Incomplete, NotTls, parse_client_hello
from praxis_sdk.jobs.egress.policy import is_public
from praxis_sdk.jobs.payload.network import NetworkHost
from praxis_sdk.jobs.payload.payload import parse_payload

HOST = "data.example.org"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
POLICY = EgressPolicy(permitted_networks=LOOPBACK)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def to_loopback(host: str) -> Sequence[str]:
    return ["127.0.0.1"]


class Server:
    """A server on loopback that keeps what it was sent and answers as a test says."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") -> None:
        self.answer = answer
        self.received = b""
        self.connections = 0
        self.port = 0
        self.until = b"\r\n\r\n"  # answers when this came
        self.closes = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.until not in self.received and (piece := await reader.read(65_536)):
                self.received += piece
            writer.write(self.answer)
            await writer.drain()
            if not self.closes:
                await reader.read()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: Server, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(server.serve(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def listening_socket() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


class Client:
    """A job's side: speaks to the proxy, byte by byte."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, data: bytes) -> bytes:
        """Send, and return all that comes back until the proxy closes; nothing where it does not even listen."""
        try:
            reader, writer = await self.open()
        except ConnectionRefusedError:
            return b""
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 30)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def tunnel(self, host: str, port: int) -> tuple[bytes, Streams]:
        reader, writer = await self.open()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        return head, (reader, writer)


@asynccontextmanager
async def proxying(
    *granted: tuple[str, int],
    policy: EgressPolicy = POLICY,
    resolve: Callable[[str], Awaitable[Sequence[str]]] = to_loopback,
) -> AsyncIterator[tuple[EgressProxy, Client]]:
    """Have a proxy run; at the end nothing of it may be left."""
    before = asyncio.all_tasks()
    listening = listening_socket()
    proxy = EgressProxy([NetworkHost(*one) for one in granted], policy, resolve=resolve)
    client = Client(listening.getsockname()[1])
    async with proxy.serve(listening):
        yield proxy, client
    assert listening.fileno() == -1
    assert not [task for task in asyncio.all_tasks() - before if "egress" in repr(task)]


def get(port: int, path: str = "/", *fields: str, host: str = HOST, method: str = "GET") -> bytes:
    lines = [f"{method} http://{host}:{port}{path} HTTP/1.1", f"Host: {host}:{port}", *fields, "", ""]
    return "\r\n".join(lines).encode()


# -- plain HTTP


async def test_a_granted_host_is_reached_and_every_byte_accounted_for() -> None:
    async with serving(Server()) as server, proxying((HOST, server.port)) as (proxy, client):
        answer = await client.say(get(server.port, "/data.csv?a=1", "Accept: text/csv"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nhello")
        assert server.received.startswith(b"GET /data.csv?a=1 HTTP/1.1\r\n")
        assert b"Accept: text/csv\r\n" in server.received
    (use,) = proxy.uses
    assert (use.host, use.port, use.allowed, use.reason) == (HOST, server.port, True, "")
    assert (use.sent_bytes, use.received_bytes) == (len(server.received), len(server.answer))


@pytest.mark.parametrize(
    "request_",
    [
        get(80, host="other.example.org"),
        get(81),
        get(80, host="data.example.org.evil.example"),
        get(80, host="127.0.0.1"),
        get(80, host="2130706433"),
        get(80, host="[::1]"),
        b"CONNECT other.example.org:443 HTTP/1.1\r\n\r\n",
        b"CONNECT data.example.org:22 HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_was_not_granted_is_refused_and_recorded(request_: bytes) -> None:
    looked_up = []

    async def resolve(host: str) -> Sequence[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    async with proxying((HOST, 80), (HOST, 443), resolve=resolve) as (proxy, client):
        assert (await client.say(request_)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    (use,) = proxy.uses
    assert (use.allowed, use.reason) == (False, "not in the job's network grant")
    assert looked_up == [], "a name that is looked up can carry data out"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: data.example.org\r\n\r\n",
        b"GET https://data.example.org/ HTTP/1.1\r\n\r\n",
        b"GET ftp://data.example.org/ HTTP/1.1\r\n\r\n",
        b"GET http://user:pw@data.example.org/ HTTP/1.1\r\n\r\n",
        b"GET http://data.example.org:0/ HTTP/1.1\r\n\r\n",
        b"GET http://data.example.org:99999/ HTTP/1.1\r\n\r\n",
        b"GET http://data.example.org/ HTTP/2.0\r\n\r\n",
        b"TRACE http://data.example.org/ HTTP/1.1\r\n\r\n",
        b"CONNECT data.example.org HTTP/1.1\r\n\r\n",
        b"POST http://data.example.org/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST http://data.example.org/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://data.example.org/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST http://data.example.org/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"GET http://data.example.org/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET http://data.example.org/ HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET http://data.example.org/ HTTP/1.1\nA: b\r\n\r\n",
        b"GET http://data.example.org/ HTTP/1.1\r\nA: b\0\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"GET http://data.example.org/ HTTP/1.1\r\n" + b"A: b\r\n" * 201 + b"\r\n",
        b"GET http://data.example.org/ HTTP/1.1\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_refused_and_recorded(request_: bytes) -> None:
    async with proxying((HOST, 80), (HOST, 443)) as (proxy, client):
        assert (await client.say(request_)).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    (use,) = proxy.uses
    assert not use.allowed
    assert use.reason


async def test_who_asks_for_nothing_leaves_no_record() -> None:
    async with proxying((HOST, 80)) as (proxy, client):
        _, writer = await client.open()
        writer.close()
        await client.say(get(81))
    assert len(proxy.uses) == 1


async def test_hop_by_hop_fields_and_credentials_go_no_further() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Private\r\n"
        b"X-Private: 1\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: yes\r\n\r\nok"
    )
    async with serving(Server(answer)) as server, proxying((HOST, server.port)) as (_, client):
        response = await client.say(
            get(
                server.port,
                "/",
                "Proxy-Authorization: Basic c2VjcmV0",
                "Proxy-Connection: keep-alive",
                "Connection: X-Job, Host, keep-alive",
                "X-Job: secret",
                "TE: trailers",
                "Upgrade: websocket",
                "Authorization: Bearer the-jobs-own",
            )
        )
    sent = server.received.lower()
    for name in (b"proxy-", b"x-job", b"te:", b"upgrade", b"keep-alive", b"c2vjcmv0"):
        assert name not in sent
    assert b"authorization: bearer the-jobs-own\r\n" in sent
    assert b"connection: close\r\n" in sent
    assert b"x-kept: yes" in response.lower()
    for name in (b"keep-alive", b"x-private", b"proxy-authenticate", b"upgrade"):
        assert name not in response.lower()


async def test_the_host_field_is_the_one_that_was_checked() -> None:
    async with serving(Server()) as server, proxying((HOST, server.port)) as (_, client):
        line = f"GET http://{HOST}:{server.port}/ HTTP/1.1\r\n"
        await client.say(line.encode() + b"Host: admin.internal\r\nhost: other.internal\r\n\r\n")
    assert b"internal" not in server.received
    assert f"Host: {HOST}:{server.port}\r\n".encode() in server.received


async def test_nothing_hides_behind_a_request() -> None:
    async with serving(Server()) as server, proxying((HOST, server.port)) as (proxy, client):
        await client.say(get(server.port) + get(server.port, "/second"))
    assert b"/second" not in server.received
    assert len(proxy.uses) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_go_through_as_they_are_framed(chunked: bool) -> None:
    server = Server(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n"
    )
    server.until = b"0\r\n\r\n" if chunked else b"12345"
    async with serving(server), proxying((HOST, server.port)) as (_, client):
        framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5"
        body = b"5;ext=1\r\n12345\r\n0\r\nA: b\r\n\r\n" if chunked else b"12345"
        answer = await client.say(get(server.port, "/", framing, method="POST") + body + b"GET smuggled")
    assert server.received.endswith(b"\r\n\r\n5\r\n12345\r\n0\r\n\r\n" if chunked else b"\r\n\r\n12345")
    assert answer.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


async def test_a_malformed_chunk_ends_the_request() -> None:
    server = Server()
    server.until = b"never"
    async with serving(server), proxying((HOST, server.port)) as (proxy, client):
        request = get(server.port, "/", "Transfer-Encoding: chunked", method="POST")
        assert b"400 Bad Request" in await client.say(request + b"-5\r\nabcde\r\n0\r\n\r\n")
    assert proxy.uses[0].reason == "malformed chunk"


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    server = Server()
    server.until = b"body!"
    async with serving(server), proxying((HOST, server.port)) as (_, client):
        reader, writer = await client.open()
        writer.write(get(server.port, "/", "Expect: 100-continue", "Content-Length: 5", method="PUT"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body!")
        assert (await reader.read()).endswith(b"hello")
        writer.close()
    assert b"expect" not in server.received.lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"",
    ],
)
async def test_a_server_that_speaks_no_http_is_a_bad_gateway(answer: bytes) -> None:
    async with serving(Server(answer)) as server, proxying((HOST, server.port)) as (proxy, client):
        assert (await client.say(get(server.port))).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    (use,) = proxy.uses
    assert use.allowed
    assert use.reason == "sent no acceptable response"


async def test_a_response_ends_where_its_length_says_though_the_server_goes_on() -> None:
    server = Server()
    server.closes = False
    async with serving(server), proxying((HOST, server.port)) as (_, client):
        assert (await client.say(get(server.port))).endswith(b"hello")


# -- addresses


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
     "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1",
     "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"],
)  # fmt: skip
async def test_a_name_that_leads_nearby_is_refused(address: str) -> None:
    async def resolve(host: str) -> Sequence[str]:
        return [address]

    async with proxying((HOST, 80), policy=EgressPolicy(), resolve=resolve) as (proxy, client):
        assert b"403 Forbidden" in await client.say(get(80))
    (use,) = proxy.uses
    assert (use.allowed, use.reason, use.sent_bytes) == (False, "has no public address", 0)


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """A name server that gives another answer the second time is not asked a second time."""
    asked = 0

    async def rebinding(host: str) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return ["127.0.0.1"] if asked == 1 else ["127.0.0.2"]

    only = replace(POLICY, permitted_networks=(ipaddress.ip_network("127.0.0.1/32"),))
    async with (
        serving(Server()) as server,
        proxying((HOST, server.port), policy=only, resolve=rebinding) as (proxy, client),
    ):
        assert b"hello" in await client.say(get(server.port))
        assert asked == 1
        assert b"403 Forbidden" in await client.say(get(server.port))
    assert [use.allowed for use in proxy.uses] == [True, False]
    assert server.connections == 1


async def test_private_addresses_of_a_mixed_answer_are_left_out() -> None:
    async def mixed(host: str) -> Sequence[str]:
        return ["10.0.0.1", "127.0.0.1", "::1"]

    async with serving(Server()) as server, proxying((HOST, server.port), resolve=mixed) as (_, client):
        assert b"hello" in await client.say(get(server.port))


async def test_a_name_that_nobody_knows_is_a_bad_gateway() -> None:
    async def unknown(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with proxying((HOST, 80), resolve=unknown) as (proxy, client):
        answer = await client.say(get(80))
    assert b"502 Bad Gateway" in answer
    assert (proxy.uses[0].allowed, proxy.uses[0].reason) == (
        True,
        "cannot be reached: the name has no address",
    )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "fec0::1",
            "feff::1",
            "fe80::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "ff0e::1",
            "::",
            "::1",
            "::808:808",
        ),
        *("::ffff:8.8.8.8", "::ffff:0:808:808", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1"),
        *("2001:db8::1", "2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "8000::1", "c000::1", "e000::1"),
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.2", "169.254.169.254", "172.16.0.1"),
        *(
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
        ),
        *("224.0.0.1", "233.252.0.1", "240.0.0.1", "255.255.255.255"),
    ],
)
def test_a_local_or_special_address_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "192.88.100.1", "2606:4700::1111", "2a00:1450:4001::1"]
)
def test_an_address_of_the_open_internet_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_public_is_at_most_what_python_calls_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert not is_public(address) or (address.is_global and not address.is_multicast)


# -- TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of its own making, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    folder: Path = tmp_path_factory.mktemp("tls")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "server.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + pem
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


TlsContexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def over_tls(streams: Streams, context: ssl.SSLContext, name: str, data: bytes) -> bytes:
    reader, writer = streams
    try:
        await asyncio.wait_for(writer.start_tls(context, server_hostname=name), 30)
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


async def test_a_granted_host_is_reached_over_tls(tls: TlsContexts) -> None:
    async with serving(Server(), tls[0]) as server, proxying((HOST, server.port)) as (proxy, client):
        head, streams = await client.tunnel(HOST.upper(), server.port)
        assert head.startswith(b"HTTP/1.1 200 ")
        answer = await over_tls(streams, tls[1], HOST, b"GET / HTTP/1.1\r\n\r\n")
        assert answer.endswith(b"hello")
    (use,) = proxy.uses
    assert (use.host, use.allowed, use.reason) == (HOST, True, "")
    assert use.sent_bytes > 100
    assert use.received_bytes > 100


async def test_an_address_is_reached_over_tls_without_a_name(tls: TlsContexts) -> None:
    async with serving(Server(), tls[0]) as server, proxying(("127.0.0.1", server.port)) as (proxy, client):
        _, streams = await client.tunnel("127.0.0.1", server.port)
        assert (await over_tls(streams, tls[1], "127.0.0.1", b"\r\n\r\n")).endswith(b"hello")
    assert proxy.uses[0].allowed


def hello_for(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    made = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        made.do_handshake()
    return outgoing.read()


# It says that it goes on for 64 KiB, in records of 16 KiB.
LONG_HELLO = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + b"\0" * 0x3FFC
LONG_HELLO += (b"\x16\x03\x01\x40\x00" + b"\0" * 0x4000) * 2


def with_extension(hello: bytes, kind: int, body: bytes = b"") -> bytes:
    """Return a ClientHello with one more extension."""
    handshake = bytearray(hello[5:])
    at = 4 + 34
    at += 1 + handshake[at]
    at += 2 + int.from_bytes(handshake[at : at + 2], "big")
    at += 1 + handshake[at]
    length = int.from_bytes(handshake[at : at + 2], "big")
    extension = struct.pack(">HH", kind, len(body)) + body
    handshake[at : at + 2] = struct.pack(">H", length + len(extension))
    handshake += extension
    handshake[1:4] = (len(handshake) - 4).to_bytes(3, "big")
    return hello[:3] + struct.pack(">H", len(handshake)) + bytes(handshake)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (hello_for("other.example.org"), "names another host in TLS than it asked for"),
        (hello_for(None), "names another host in TLS than it asked for"),
        (with_extension(hello_for(HOST), 0xFE0D), "names its host in an encrypted ClientHello"),
        (with_extension(hello_for(HOST), 0), "a ClientHello with an extension twice"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not a TLS handshake"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a TLS handshake"),
        (LONG_HELLO, "longer ClientHello than is accepted"),
    ],
    ids=range(7),
)
async def test_a_tunnel_carries_tls_to_the_granted_name_alone(sent: bytes, reason: str) -> None:
    server = Server()
    async with serving(server), proxying((HOST, server.port)) as (proxy, client):
        _, (reader, writer) = await client.tunnel(HOST, server.port)
        writer.write(sent)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    (use,) = proxy.uses
    assert (use.allowed, use.reason, use.sent_bytes) == (False, reason, 0)
    assert server.received == b""


async def test_a_port_that_an_operator_opened_takes_anything() -> None:
    server = Server(b"welcome")
    server.until = b"hi"
    async with serving(server):
        policy = replace(POLICY, plain_tunnel_ports=frozenset({server.port}))
        async with proxying((HOST, server.port), policy=policy) as (proxy, client):
            _, (reader, writer) = await client.tunnel(HOST, server.port)
            writer.write(b"hi")
            assert await asyncio.wait_for(reader.read(), 30) == b"welcome"
            writer.close()
    assert proxy.uses[0].sent_bytes == 2


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,10}){1,3}", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(names.filter(lambda name: "--" not in name), st.integers(1, 600))
def test_the_name_is_read_in_however_many_records(name: str, size: int) -> None:
    """Feature: job-egress: what OpenSSL sends is understood, whole or in pieces, and no sooner than it is whole."""
    hello = hello_for(name)
    assert parse_client_hello(hello) == ClientHello(name, encrypted=False)
    body = hello[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    split = b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)
    assert parse_client_hello(split).server_name == name
    for end in range(0, len(split), 37):
        with pytest.raises(Incomplete):
            parse_client_hello(split[:end])
    with pytest.raises(NotTls):
        parse_client_hello(with_extension(hello, 0, b"\0\0"))


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_upset_the_reader_of_client_hellos(data: bytes, framed: bool) -> None:
    if framed:
        handshake = b"\x01" + len(data).to_bytes(3, "big") + data
        data = b"\x16\x03\x03" + struct.pack(">H", len(handshake)) + handshake
    with suppress(NotTls, Incomplete):
        assert isinstance(parse_client_hello(data), ClientHello)


# -- heads

tokens = st.text("abcXYZ-09_", min_size=1, max_size=10)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
fields_ = st.lists(st.tuples(tokens, values), max_size=8)


@given(fields_, st.sampled_from(["GET", "POST"]), st.none() | st.integers(0, 10**9), values)
def test_what_is_passed_on_is_read_the_same_by_the_next(
    fields: list[tuple[str, str]], method: str, length: int | None, query: str
) -> None:
    """A head that is accepted, written and read again asks for the same, with no field of the neighbourhood."""
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    lines = [f"{key}: {value}" for key, value in (*fields, framing)]
    target = f"http://{HOST}/p?{query.replace('#', '')}"
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode()
    try:
        request = http.parse_request(head)
    except http.BadHead:
        return
    written = request.write()
    assert written.count(b"\r\n\r\n") == 1
    again = http.parse_request(
        written.replace(f"{method} /".encode(), f"{method} http://{HOST}/".encode(), 1)
    )
    assert again == request
    sent = [line.split(":")[0].lower() for line in written.decode().split("\r\n")[1:-2]]
    assert sent.count("host") == 1
    assert sent.count("content-length") + sent.count("transfer-encoding") <= 1
    assert "proxy-authorization" not in sent


@given(st.binary(max_size=120))
def test_no_bytes_upset_the_readers_of_heads(data: bytes) -> None:
    for prefix in (b"", b"GET http://data.example.org/ HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"):
        for parse in (http.parse_request, http.parse_response):
            with suppress(http.BadHead):
                parse(prefix + data + b"\r\n\r\n")


# -- bounds


async def test_a_slow_head_is_not_waited_for() -> None:
    async with proxying((HOST, 80), policy=replace(POLICY, head_s=0.05)) as (proxy, client):
        assert b"408 Request Timeout" in await client.say(b"GET http://")
    assert proxy.uses[0].reason == "sent no whole request in time"


async def test_a_slow_client_hello_is_not_waited_for() -> None:
    async with (
        serving(Server()) as server,
        proxying((HOST, server.port), policy=replace(POLICY, head_s=0.05)) as (proxy, client),
    ):
        _, (reader, writer) = await client.tunnel(HOST, server.port)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    assert proxy.uses[0].reason == "began no TLS connection in time"


@pytest.mark.parametrize(
    ("bound", "reason"),
    [("idle_s", "was silent for too long"), ("total_s", "lasted longer than a connection may")],
)
async def test_a_silent_server_is_not_waited_for(bound: str, reason: str) -> None:
    server = Server()
    server.until = b"never"
    async with (
        serving(server),
        proxying((HOST, server.port), policy=replace(POLICY, **{bound: 0.1})) as (proxy, client),
    ):
        assert b"504 Gateway Timeout" in await client.say(get(server.port))
    assert proxy.uses[0].reason == reason


async def test_a_slow_name_server_is_not_waited_for() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    policy = replace(POLICY, connect_s=0.05)
    async with proxying((HOST, 80), policy=policy, resolve=never) as (proxy, client):
        assert b"504 Gateway Timeout" in await client.say(get(80))
    assert proxy.uses[0].reason == "did not answer in time"


async def test_bytes_are_bounded_over_all_connections() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    async with serving(Server(answer)) as server:
        policy = replace(POLICY, received_bytes=2500)
        async with proxying((HOST, server.port), policy=policy) as (proxy, client):
            whole = [await client.say(get(server.port)) for _ in range(3)]
    assert [part.endswith(b"x" * 1000) for part in whole] == [True, True, False]
    assert proxy.uses[2].reason == "the job has received as much as it may"
    assert sum(use.received_bytes for use in proxy.uses) <= 2500


async def test_what_is_sent_is_bounded() -> None:
    server = Server()
    server.until = b"never"
    async with (
        serving(server),
        proxying((HOST, server.port), policy=replace(POLICY, sent_bytes=5_000)) as (proxy, client),
    ):
        request = get(server.port, "/", "Content-Length: 100000", method="POST")
        assert b"403 Forbidden" in await client.say(request + b"x" * 100_000)
    (use,) = proxy.uses
    assert (use.allowed, use.reason) == (False, "the job has sent as much as it may")
    assert use.sent_bytes <= 5_000


async def test_a_flood_of_connections_waits_outside_until_there_is_room() -> None:
    """What is accepted costs the executor descriptors, and so does what is refused in words."""
    server = Server()
    async with (
        serving(server),
        proxying((HOST, server.port), policy=replace(POLICY, max_connections=2)) as (proxy, client),
    ):
        open_ = [await client.tunnel(HOST, server.port) for _ in range(2)]
        before = len(os.listdir("/proc/self/fd"))
        flood = [await client.open() for _ in range(60)]
        waiting = asyncio.ensure_future(client.say(get(server.port)))
        for _ in range(10):  # rounds of the loop, in which a proxy without a bound would accept
            await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) <= before + len(flood) + 1
        assert len(proxy.uses) == 2
        for _, writer in [streams for _, streams in open_] + flood:
            writer.close()
        assert b"hello" in await waiting


async def test_connections_in_all_are_bounded() -> None:
    async with proxying((HOST, 80), policy=replace(POLICY, max_uses=3)) as (proxy, client):
        answers = [await client.say(get(81)) for _ in range(5)]
    assert [bool(answer) for answer in answers] == [True, True, True, False, False]
    assert len(proxy.uses) == 3


async def test_the_end_of_the_job_ends_every_connection() -> None:
    async with serving(Server()) as server:
        async with proxying((HOST, server.port)) as (proxy, client):
            _, (reader, writer) = await client.tunnel(HOST, server.port)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    assert proxy.uses[0].reason == "the job ended"


# -- for the executor


async def test_a_descriptor_and_a_payload_are_all_that_is_needed() -> None:
    payload = parse_payload(
        {
            "schema_version": "1.0",
            "job_id": "a",
            "runtime": "python",
            "code": "1",
            "network": [f"{HOST}:8443", "1.1.1.1:80"],
        }
    )
    listening = listening_socket()
    client = Client(listening.getsockname()[1])
    async with egress_for(payload, listening.detach(), resolve=to_loopback) as proxy:
        assert b"403 Forbidden" in await client.say(get(8443))
        assert b"403 Forbidden" in await client.say(get(443))
    assert [use.reason for use in proxy.uses] == ["has no public address", "not in the job's network grant"]


async def test_names_are_looked_up_as_this_machine_does() -> None:
    listening = listening_socket()
    client = Client(listening.getsockname()[1])
    async with serving(Server()) as server:
        proxy = EgressProxy([NetworkHost("localhost", server.port)], POLICY)
        async with proxy.serve(listening):
            assert b"hello" in await client.say(get(server.port, host="localhost"))


def test_programs_inside_find_the_proxy() -> None:
    variables = proxy_variables(3128)
    assert variables["HTTPS_PROXY"] == variables["http_proxy"] == "http://127.0.0.1:3128"
    assert variables["NO_PROXY"] == variables["no_proxy"] == ""
    assert len(variables) == 6
