"""What a tool reads on standard input: bytes, or a descriptor of the caller's that is passed on as data comes.

A tool never gets the caller's descriptor itself: from one of a file it could open the file again for writing.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from typing import Final

Source = bytes | int
_PIECE_BYTES: Final = 1 << 16


async def pieces(source: Source) -> AsyncIterator[bytes]:
    """Go through what a source holds as it comes; a descriptor stays the caller's, and keeps its mode."""
    if isinstance(source, bytes):
        for start in range(0, len(source), _PIECE_BYTES):
            yield source[start : start + _PIECE_BYTES]
        return
    if stat.S_ISREG(os.fstat(source).st_mode):
        # The caller's place in the file stays, so that a loop over the same file goes on.
        offset = os.lseek(source, 0, os.SEEK_CUR)
        while data := os.pread(source, _PIECE_BYTES, offset):
            offset += len(data)
            yield data
        return
    while True:
        await _ready(source, write=False)
        try:
            data = os.read(source, _PIECE_BYTES)
        except BlockingIOError:  # another reader of the same pipe was faster
            continue
        if not data:
            return
        yield data


async def whole(source: Source, limit_bytes: int) -> bytes | None:
    """Read a source to its end; None where it holds more than a limit."""
    data = bytearray()
    async for piece in pieces(source):
        data += piece
        if len(data) > limit_bytes:
            return None
    return bytes(data)


class InputPipe:
    """A pipe into a tool's standard input; owns the writing end and the task that fills it.

    Args:
        source: what the tool is to read; None for nothing.
    """

    def __init__(self, source: Source | None) -> None:
        self._task: asyncio.Task[None] | None = None
        self.reading_fd = -1
        if source is None:
            self.reading_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            return
        self.reading_fd, writing_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing_fd, False)
        self._task = asyncio.ensure_future(_fill(writing_fd, source))

    def release(self) -> None:
        """Close the reading end here, once the tool has it; repeatable."""
        if self.reading_fd >= 0:
            os.close(self.reading_fd)
            self.reading_fd = -1

    async def close(self) -> None:
        """Stop filling the pipe; repeatable."""
        self.release()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


async def _fill(writing_fd: int, source: Source) -> None:
    try:
        async for piece in pieces(source):
            left = memoryview(piece)
            while left:
                try:
                    left = left[os.write(writing_fd, left) :]
                except BlockingIOError:
                    await _ready(writing_fd, write=True)
    except BrokenPipeError:
        pass  # the tool reads no more, which is its right
    finally:
        os.close(writing_fd)


async def _ready(fd: int, *, write: bool) -> None:
    """Wait until a descriptor can be read or written; one that cannot be watched, of a file, always can."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        (loop.add_writer if write else loop.add_reader)(fd, tell)
    except PermissionError:
        return
    try:
        await ready
    finally:
        (loop.remove_writer if write else loop.remove_reader)(fd)
