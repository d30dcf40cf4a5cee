"""Capture of what a tool writes: bounded, live, and drained without blocking anything."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from praxis_sdk.execution.context import OutputListener, StreamName

_CHUNK_BYTES: Final = 1 << 16


class OutputCapture:
    """The two output streams of one run, each kept up to a limit.

    Args:
        limit_bytes: most bytes kept of each stream.
        listener: called with each kept piece as it arrives.
        stderr_limit_bytes: another limit for stderr.

    Attributes:
        overflow: done as soon as a stream exceeds its limit.
    """

    def __init__(
        self,
        limit_bytes: int,
        listener: OutputListener | None = None,
        *,
        stderr_limit_bytes: int | None = None,
    ) -> None:
        self.overflow: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limits: dict[StreamName, int] = {
            "stdout": limit_bytes,
            "stderr": stderr_limit_bytes or limit_bytes,
        }
        self._listener = listener
        self._kept: dict[StreamName, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._seen: dict[StreamName, int] = {"stdout": 0, "stderr": 0}

    def feed(self, stream: StreamName, data: bytes) -> None:
        """Take a piece of output; what exceeds the limit is counted, not kept."""
        self._seen[stream] += len(data)
        kept = self._kept[stream]
        room = self._limits[stream] - len(kept)
        if len(data) > room:
            data = data[:room]
            if not self.overflow.done():
                self.overflow.set_result(None)
        if data:
            kept += data
            if self._listener is not None:
                self._listener(stream, bytes(data))

    def text(self, stream: StreamName) -> str:
        """Return what was kept of a stream; bytes that are not UTF-8 are replaced."""
        return self._kept[stream].decode("utf-8", errors="replace")

    def kept(self, stream: StreamName) -> bytes:
        """Return what was kept of a stream."""
        return bytes(self._kept[stream])

    def seen_bytes(self, stream: StreamName) -> int:
        """Return how much was written, kept or not."""
        return self._seen[stream]


class PipeReader:
    """Reads one end of a pipe until the last writer is gone; owns the descriptor and closes it.

    Args:
        fd: the reading end.
        sink: called with each piece that arrives.
    """

    def __init__(self, fd: int, sink: Callable[[bytes], object]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._loop.add_reader(fd, self._read)

    @classmethod
    def open_pipe(cls, stream: StreamName, capture: OutputCapture) -> tuple[PipeReader, int]:
        """Make a pipe into a capture; returns its reader and the writer's end, which the caller closes."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        return cls(reading, lambda data: capture.feed(stream, data)), writing

    async def wait(self) -> None:
        """Wait until everything that was written has been read."""
        if not self._ended.done():
            await asyncio.shield(self._ended)

    def close(self) -> None:
        """Stop reading, whether or not writers are left; repeatable."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if not self._ended.done():
            self._ended.set_result(None)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._sink(data)
        else:
            self.close()
