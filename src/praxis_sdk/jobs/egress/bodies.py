"""The bodies of HTTP/1 messages, copied as far as their framing says and not a byte further."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

from praxis_sdk.jobs.egress.heads import BadHead

Write = Callable[[bytes], Awaitable[None]]

PIECE_BYTES: Final = 64 << 10
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")
_MAX_TRAILERS: Final = 100


async def copy_to_end(reader: asyncio.StreamReader, write: Write) -> None:
    """Copy until the sender closes."""
    while piece := await reader.read(PIECE_BYTES):
        await write(piece)


async def copy_length(reader: asyncio.StreamReader, write: Write, length: int) -> None:
    """Copy so many bytes; raises ConnectionError when the sender closes before."""
    while length:
        piece = await reader.read(min(PIECE_BYTES, length))
        if not piece:
            raise ConnectionError("closed before the end of a body")
        length -= len(piece)
        await write(piece)


async def copy_chunked(reader: asyncio.StreamReader, write: Write) -> None:
    """Copy a chunked body; extensions and trailers are left out.

    Raises:
        BadHead: the framing is malformed.
        ConnectionError: the sender closes before the end.
    """
    while True:
        match = _CHUNK_SIZE.fullmatch(await _line(reader))
        if match is None:
            raise BadHead("malformed chunk")
        size = int(match[1], 16)
        if size == 0:
            break
        await write(b"%x\r\n" % size)
        await copy_length(reader, write, size)
        if await _line(reader) != b"\r\n":
            raise BadHead("malformed chunk")
        await write(b"\r\n")
    for _ in range(_MAX_TRAILERS):
        if await _line(reader) == b"\r\n":
            await write(b"0\r\n\r\n")
            return
    raise BadHead("too many trailers")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError as error:
        raise BadHead("malformed chunk") from error
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("closed before the end of a body") from error
