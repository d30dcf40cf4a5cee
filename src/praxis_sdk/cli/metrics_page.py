"""The page for Prometheus, served by a worker: `GET /metrics`, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from praxis_sdk.errors import PlatformError, PraxisError, ValidationError
from praxis_sdk.log import get_logger

LOCALHOST: Final = "127.0.0.1"
_MAX_REQUEST_BYTES: Final = 16 << 10
_REQUEST_S: Final = 10.0
_MAX_AT_ONCE: Final = 16
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

events = get_logger("praxis.metrics")


def read_address(text: str) -> tuple[str, int]:
    """Read `PORT` or `HOST:PORT`; without a host only this machine is answered.

    Raises:
        ValidationError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValidationError(
            f"--metrics-port: {text[:64]!r} is no port", remedy="write 9090, or 0.0.0.0:9090"
        )
    return host.strip("[]") or LOCALHOST, int(port)


@contextlib.asynccontextmanager
async def served(address: tuple[str, int], page: Callable[[], Awaitable[bytes]]) -> AsyncIterator[str]:
    """Serve a page as long as the context lasts.

    Args:
        address: host and port; port 0 is a free one.
        page: makes the page.

    Yields:
        The URL.

    Raises:
        PlatformError: the port cannot be had.
    """
    room = asyncio.Semaphore(_MAX_AT_ONCE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with room, asyncio.timeout(_REQUEST_S):
                writer.write(await _answer(reader, page))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or never finished asking
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, *address, limit=_MAX_REQUEST_BYTES)
    except OSError as error:
        raise PlatformError(
            f"--metrics-port: {address[0]}:{address[1]}: {error.strerror or error}", remedy="choose another"
        ) from error
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    finally:
        server.close()


async def _answer(reader: asyncio.StreamReader, page: Callable[[], Awaitable[bytes]]) -> bytes:
    words = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", b"")
    if words[1].split(b"?", 1)[0] != b"/metrics":
        return _response("404 Not Found", b"")
    try:
        body = await page()
    except PraxisError as error:
        events.warning("metrics.failed", detail=str(error))
        return _response("503 Service Unavailable", b"")
    return _response("200 OK", body, body_follows=words[0] == b"GET")


def _response(status: str, body: bytes, *, body_follows: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if body_follows else b"")
