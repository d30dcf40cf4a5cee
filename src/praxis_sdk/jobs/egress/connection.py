"""One connection of a job: what it asks for, whether it may, and the relay.

    request -> granted? -> resolve, public? -> connect -> CONNECT: ClientHello of the same name -> relay
                                                      '-> http:    head written anew            -> relay

Everything has a bound: heads, time, silence, bytes. One request per connection, so nothing can hide behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from praxis_sdk.jobs.egress.bodies import PIECE_BYTES, Write, copy_chunked, copy_length, copy_to_end
from praxis_sdk.jobs.egress.client_hello import Incomplete, NotTls, parse_client_hello
from praxis_sdk.jobs.egress.heads import (
    TO_END,
    BadHead,
    RequestHead,
    ResponseHead,
    answer,
    parse_request,
    parse_response,
)
from praxis_sdk.jobs.egress.policy import EgressPolicy
from praxis_sdk.jobs.egress.resolving import AddressRefused, Resolve, connect, literal
from praxis_sdk.jobs.executor.result import NetworkUse

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_INTERIM: Final = 4  # responses of status 1xx before the real one
_MAX_HOST_CHARS: Final = 255
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 1 << 20
_WORDS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    408: "Request Timeout",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}


class Refusal(Exception):
    """A connection ends before its time.

    Args:
        status: what the client is told, while it can still be told.
        reason: why, in a few words.
        failed: the use was in order, and something failed; else it is against the grant or the policy.
    """

    def __init__(self, status: int, reason: str, *, failed: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.failed = failed


@dataclass(eq=False)
class Traffic:
    """What one job may reach and how much of it it has used, over all its connections."""

    grant: frozenset[tuple[str, int]]
    policy: EgressPolicy
    resolve: Resolve
    sent_bytes: int = 0
    received_bytes: int = 0


class ProxyConnection:
    """A client's connection; `run` carries it out, `use` is its record.

    Args:
        reader: what the client sends.
        writer: to the client.
        account: the job's.
        at: when it was accepted.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, account: Traffic, at: datetime
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._account = account
        self._policy = account.policy
        self._at = at
        self._host = ""
        self._port = 0
        self._allowed = False
        self._sent_bytes = 0
        self._received_bytes = 0
        self._reason = ""
        self._answered = False
        self._idle: asyncio.Timeout | None = None
        self.asked = False  # something was sent, so there is something to record

    @property
    def use(self) -> NetworkUse:
        """What it was so far."""
        return NetworkUse(
            at=self._at,
            host=self._host,
            port=self._port,
            allowed=self._allowed,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
            reason=self._reason,
        )

    async def run(self) -> None:
        """Carry it out; when this returns it is closed."""
        try:
            async with _bound(self._policy.total_s, 504, "lasted longer than a connection may"):
                await self._carry_out()
        except Refusal as refusal:
            self._allowed = self._allowed and refusal.failed
            self._reason = refusal.reason
            await self._tell(refusal)
        except OSError as error:
            self._reason = f"the connection broke: {type(error).__name__}"
            self._writer.transport.abort()
        except asyncio.CancelledError:
            # A connection that was kept open for more is no failure.
            self._reason = "" if self._received_bytes else "the job ended"
            self._writer.transport.abort()
            raise
        finally:
            await _close(self._writer)

    async def _carry_out(self) -> None:
        request = await self._request()
        self._check(request)
        upstream_reader, upstream_writer = await self._connect(request)
        try:
            carry = self._tunnel if request.method == "CONNECT" else self._forward
            await carry(request, upstream_reader, upstream_writer)
        finally:
            await _close(upstream_writer)

    async def _request(self) -> RequestHead:
        try:
            async with _bound(self._policy.head_s, 408, "sent no whole request in time"):
                request = parse_request(await self._reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            self.asked = bool(error.partial)
            raise Refusal(400, "incomplete head") from error
        except asyncio.LimitOverrunError as error:
            self.asked = True
            raise Refusal(400, "longer head than is accepted") from error
        except BadHead as error:
            self.asked = True
            raise Refusal(400, str(error)) from error
        except Refusal:
            self.asked = True
            raise
        self.asked = True
        return request

    def _check(self, request: RequestHead) -> None:
        """Compare what is asked for with the grant, exactly."""
        self._host, self._port = request.host[:_MAX_HOST_CHARS], request.port
        address = literal(request.host)
        host = request.host if address is None else address.compressed
        if (host, request.port) not in self._account.grant:
            raise Refusal(403, "not in the job's network grant")
        self._allowed = True

    async def _connect(self, request: RequestHead) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with _bound(self._policy.connect_s, 504, "did not answer in time", failed=True):
                connected = await connect(request.host, request.port, self._policy, self._account.resolve)
        except AddressRefused as error:
            raise Refusal(403, str(error)) from error
        except (OSError, ValueError) as error:
            raise Refusal(502, f"cannot be reached: {_cause(error)}", failed=True) from error
        return await asyncio.open_connection(sock=connected, limit=self._policy.head_bytes)

    # -- tunnels

    async def _tunnel(
        self, request: RequestHead, host_reader: asyncio.StreamReader, host_writer: asyncio.StreamWriter
    ) -> None:
        self._answered = True
        self._writer.write(_ESTABLISHED)
        await self._writer.drain()
        hello = b""
        if request.port not in self._policy.plain_tunnel_ports:
            hello = await self._client_hello(request.host)

        async def up() -> None:
            to_host = self._to_host(host_writer)
            if hello:
                await to_host(hello)
            await copy_to_end(self._reader, to_host)
            host_writer.write_eof()

        await self._relay(copy_to_end(host_reader, self._to_client), up())

    async def _client_hello(self, host: str) -> bytes:
        """Return the beginning of a TLS connection that names the granted host."""
        data = b""
        hello = None
        async with _bound(self._policy.head_s, 408, "began no TLS connection in time"):
            while hello is None:
                piece = await self._reader.read(PIECE_BYTES)
                if not piece:
                    raise Refusal(400, "began no TLS connection")
                data += piece
                try:
                    hello = parse_client_hello(data)
                except NotTls as error:
                    raise Refusal(400, str(error)) from error
                except Incomplete:
                    if len(data) > self._policy.client_hello_bytes:
                        raise Refusal(400, "longer ClientHello than is accepted") from None
        if hello.encrypted:
            raise Refusal(403, "names its host in an encrypted ClientHello")
        if hello.server_name != (None if literal(host) else host):
            raise Refusal(403, "names another host in TLS than it asked for")
        return data

    # -- plain HTTP

    async def _forward(
        self, request: RequestHead, host_reader: asyncio.StreamReader, host_writer: asyncio.StreamWriter
    ) -> None:
        async def up() -> None:
            to_host = self._to_host(host_writer)
            await to_host(request.write())
            if request.expects_continue and request.length != 0:
                self._writer.write(_CONTINUE)
            try:
                await _copy(self._reader, to_host, request.length)
            except BadHead as error:
                raise Refusal(400, str(error)) from error

        async def down() -> None:
            response = await self._response(host_reader)
            self._answered = True
            self._writer.write(response.write())
            bodiless = request.method == "HEAD" or response.status in (204, 304)
            try:
                await _copy(host_reader, self._to_client, 0 if bodiless else response.length)
            except BadHead as error:
                raise Refusal(502, str(error), failed=True) from error
            await self._writer.drain()

        await self._relay(down(), up())

    async def _response(self, reader: asyncio.StreamReader) -> ResponseHead:
        unacceptable = Refusal(502, "sent no acceptable response", failed=True)
        for _ in range(_MAX_INTERIM + 1):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                self._receive(len(head))
                response = parse_response(head)
            except (BadHead, asyncio.LimitOverrunError, asyncio.IncompleteReadError) as error:
                raise unacceptable from error
            if response.status >= 200:
                return response
            if response.status == 101:
                break
        raise unacceptable

    # -- the relay

    async def _relay(self, down: Coroutine[Any, Any, None], up: Coroutine[Any, Any, None]) -> None:
        """Carry both directions until the host's has ended."""
        tasks = down_task, up_task = asyncio.ensure_future(down), asyncio.ensure_future(up)
        try:
            async with _bound(self._policy.idle_s, 504, "was silent for too long", failed=True) as self._idle:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not down_task.done():
                    up_task.result()
                await down_task
        finally:
            self._idle = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _to_host(self, writer: asyncio.StreamWriter) -> Write:
        async def write(data: bytes) -> None:
            if self._account.sent_bytes + len(data) > self._policy.sent_bytes:
                raise Refusal(403, "the job has sent as much as it may")
            self._account.sent_bytes += len(data)
            self._sent_bytes += len(data)
            self._alive()
            writer.write(data)
            await writer.drain()

        return write

    async def _to_client(self, data: bytes) -> None:
        self._receive(len(data))
        self._writer.write(data)
        await self._writer.drain()

    def _receive(self, count: int) -> None:
        if self._account.received_bytes + count > self._policy.received_bytes:
            raise Refusal(403, "the job has received as much as it may")
        self._account.received_bytes += count
        self._received_bytes += count
        self._alive()

    def _alive(self) -> None:
        if self._idle is not None and not self._idle.expired():
            with contextlib.suppress(RuntimeError):  # it is expiring right now
                self._idle.reschedule(asyncio.get_running_loop().time() + self._policy.idle_s)

    async def _tell(self, refusal: Refusal) -> None:
        """Answer, and let the client read it: what it still sends would otherwise reset the connection."""
        if not self.asked or self._answered:
            self._writer.transport.abort()  # a broken answer must not look like a whole one
            return
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                self._writer.write(answer(refusal.status, _WORDS[refusal.status], refusal.reason))
                self._writer.write_eof()
                left = _LINGER_BYTES
                while left > 0 and (piece := await self._reader.read(PIECE_BYTES)):
                    left -= len(piece)


async def _copy(reader: asyncio.StreamReader, write: Write, length: int | None) -> None:
    if length is None:
        await copy_chunked(reader, write)
    elif length == TO_END:
        await copy_to_end(reader, write)
    else:
        await copy_length(reader, write, length)


@contextlib.asynccontextmanager
async def _bound(
    seconds: float, status: int, reason: str, *, failed: bool = False
) -> AsyncIterator[asyncio.Timeout]:
    """Refuse what takes longer; a TimeoutError of another origin stays one."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield timeout
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise Refusal(status, reason, failed=failed) from error


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close, with what is still to be written; not for ever."""
    writer.close()
    try:
        async with asyncio.timeout(_LINGER_S):
            await writer.wait_closed()
    except OSError:
        pass
    finally:
        writer.transport.abort()


def _cause(error: OSError | ValueError) -> str:
    """Say in words why a host cannot be reached."""
    if isinstance(error, socket.gaierror) or not isinstance(error, OSError):
        return "the name has no address"
    return os.strerror(error.errno).lower() if error.errno else "nobody answers"
