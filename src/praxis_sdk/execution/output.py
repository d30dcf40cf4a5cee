"""Capture of what a tool writes: bounded, live, and drained without blocking anything.

Theory of operation. Every piece is counted, hashed and handed to a listener at once; in memory stays only the beginning
and the end of each stream (`KeptStream`), however much a tool writes. A listener whose reader is slow returns a future:
until it is done the pipe is not read, so that the tool waits as it would for any slow reader, while its limits hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.execution.context import OutputListener, StreamName
from praxis_sdk.secrets import Mask, StreamMask

CHUNK_BYTES: Final = 64 << 10  # the largest piece of output that is read, and kept, as one
HEAD_BYTES: Final = 16 << 20  # of each stream this much of its beginning is kept
TAIL_BYTES: Final = 1 << 20  # and this much of its end
_AGAIN_S: Final = 0.05  # after a descriptor could not be watched again
GAP: Final = "\n[... {} bytes left out ...]\n"


class KeptStream:
    """The beginning and the end of a stream, as bytes; what is between them is only counted.

    Args:
        head_bytes: most bytes of the beginning.
        tail_bytes: most bytes of the end.
    """

    def __init__(self, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self.room = head_bytes
        self._tail_bytes = tail_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        rest = self.feed_head(data)
        if rest:
            self.feed_tail(rest)

    def feed_head(self, data: bytes) -> bytes:
        """Take what belongs to the beginning, and return the rest."""
        part = data[: self.room]
        self._head += part
        self.room -= len(part)
        return data[len(part) :]

    def feed_tail(self, data: bytes) -> None:
        """Take bytes that come after the beginning; nothing of the beginning may follow them."""
        self.room = 0
        self._tail += data
        if len(self._tail) > 2 * self._tail_bytes:
            self._trim()

    def pieces(self) -> tuple[bytes, int, bytes]:
        """Return the beginning, how many bytes are left out after it, and the end."""
        self._trim()
        return bytes(self._head), self._left_out, bytes(self._tail)

    def joined(self) -> bytes:
        """Return the beginning and the end, with a line between them that says how much is left out."""
        return joined(*self.pieces())

    def last(self) -> bytes:
        """Return the end, as much as is kept of the end of a long stream."""
        self._trim()
        missing = self._tail_bytes - len(self._tail)
        head = self._head[-missing:] if missing and not self._left_out else b""
        return bytes(head + self._tail)

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_bytes
        if excess > 0:
            del self._tail[:excess]
            self._left_out += excess


def joined(head: bytes, left_out: int, tail: bytes) -> bytes:
    """Join what is kept of a stream; a line in place of what is left out says how much that is."""
    gap = GAP.format(left_out).encode() if left_out else b""
    return head + gap + tail


class OutputCapture:
    """The two output streams of one run.

    Args:
        limit_bytes: most bytes taken of each stream.
        listener: called with each piece that is taken as it arrives; where it returns a future, it wants no more
            before that is done.
        stderr_limit_bytes: another limit for stderr.
        head_bytes, tail_bytes: how much of the beginning and the end of each stream is kept here.
        mask: replaces secrets before anything is kept, counted against a limit, or handed to the listener.

    Attributes:
        overflow: done as soon as a stream exceeds its limit.
    """

    def __init__(
        self,
        limit_bytes: int,
        listener: OutputListener | None = None,
        *,
        stderr_limit_bytes: int | None = None,
        head_bytes: int = HEAD_BYTES,
        tail_bytes: int = TAIL_BYTES,
        mask: Mask | None = None,
    ) -> None:
        self.overflow: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limits: dict[StreamName, int] = {
            "stdout": limit_bytes,
            "stderr": stderr_limit_bytes or limit_bytes,
        }
        self._listener = listener
        self._kept: dict[StreamName, KeptStream] = {
            "stdout": KeptStream(head_bytes, tail_bytes),
            "stderr": KeptStream(head_bytes, tail_bytes),
        }
        self._seen: dict[StreamName, int] = {"stdout": 0, "stderr": 0}
        self._taken: dict[StreamName, int] = {"stdout": 0, "stderr": 0}
        self._masks: dict[StreamName, StreamMask] = (
            {"stdout": StreamMask(mask), "stderr": StreamMask(mask)} if mask else {}
        )
        self._hashes: dict[StreamName, hashlib._Hash] = {}
        self._room: asyncio.Future[None] | None = None
        self._released = False

    def feed(self, stream: StreamName, data: bytes) -> None:
        """Take a piece of output; what exceeds the limit is counted, not taken."""
        self._take(stream, self._masks[stream].feed(data) if self._masks else data)

    def end(self) -> None:
        """Take what was held back as the possible beginning of a secret; all has been read."""
        for stream, mask in self._masks.items():
            self._take(stream, mask.end())

    def _take(self, stream: StreamName, data: bytes) -> None:
        self._seen[stream] += len(data)
        room = self._limits[stream] - self._taken[stream]
        if len(data) > room:
            data = data[:room]
            if not self.overflow.done():
                self.overflow.set_result(None)
        if not data:
            return
        self._taken[stream] += len(data)
        self._kept[stream].feed(data)
        if stream not in self._hashes:
            self._hashes[stream] = hashlib.sha256()
        self._hashes[stream].update(data)
        if self._listener is not None:
            self._room = self._listener(stream, data)

    @property
    def full(self) -> asyncio.Future[None] | None:
        """What must be done before more is fed; None: nothing."""
        room = self._room
        if isinstance(room, asyncio.Future) and not room.done() and not self._released:
            return room
        return None

    async def has_room(self) -> None:
        """Wait until whoever listens wants more, or until nothing is waited for any longer."""
        while (full := self.full) is not None:
            await asyncio.wait({full}, timeout=_AGAIN_S)

    def release(self) -> None:
        """Wait for no listener any longer: the tool has ended, and little can be left to read."""
        self._released = True

    def last_text(self, stream: StreamName) -> str:
        """Return the end of a stream, at most a MiB of it; bytes that are not UTF-8 are replaced."""
        return self._kept[stream].last().decode("utf-8", errors="replace")

    def kept(self, stream: StreamName) -> bytes:
        """Return what is kept of a stream, with a line in place of what is left out of its middle."""
        return self._kept[stream].joined()

    def seen_bytes(self, stream: StreamName) -> int:
        """Return how much was written, taken or not."""
        return self._seen[stream]

    def sha256(self, stream: StreamName) -> str:
        """Return the digest of all that was taken of a stream, kept or not; empty where that is nothing."""
        found = self._hashes.get(stream)
        return "" if found is None else found.hexdigest()

    def left_out_bytes(self, stream: StreamName) -> int:
        """Return how much of a stream is not kept."""
        return self._seen[stream] - self._taken[stream] + self._kept[stream].pieces()[1]


class PipeReader:
    """Reads one end of a pipe until the last writer is gone; owns the descriptor and closes it.

    Args:
        fd: the reading end.
        sink: called with each piece that arrives.
        capture: where the pieces go: while it is full, nothing is read.

    Raises:
        PlatformError: this host cannot watch one more descriptor; it is closed.
    """

    def __init__(
        self, fd: int, sink: Callable[[bytes], object], capture: OutputCapture | None = None
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._sink = sink
        self._capture = capture
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        try:
            self._loop.add_reader(fd, self._read)
        except OSError as error:  # the user's epoll watches are used up, say
            os.close(fd)
            raise _unreadable(error) from error

    @classmethod
    def open_pipe(cls, stream: StreamName, capture: OutputCapture) -> tuple[PipeReader, int]:
        """Make a pipe into a capture; returns its reader and the writer's end, which the caller closes.

        Raises:
            PlatformError: this host has no descriptor left, or cannot watch one more.
        """
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(error) from error
        try:
            return cls(reading, lambda data: capture.feed(stream, data), capture), writing
        except BaseException:
            os.close(writing)
            raise

    async def wait(self) -> None:
        """Wait until everything that was written has been read; called when no writer is left."""
        if self._capture is not None:
            self._capture.release()
        self._resume()
        if not self._ended.done():
            await asyncio.shield(self._ended)

    def close(self) -> None:
        """Stop reading, whether or not writers are left; repeatable."""
        if self._fd >= 0:
            if not self._paused:
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if not self._ended.done():
            self._ended.set_result(None)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._sink(data)
        full = None if self._capture is None else self._capture.full
        if full is not None and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._paused = True
            full.add_done_callback(self._resume)

    def _resume(self, _: object = None) -> None:
        if not self._paused or self._fd < 0:
            return
        try:
            self._loop.add_reader(self._fd, self._read)
        except OSError:  # somebody else took the watch: it is tried again until the pipe is closed
            self._loop.call_later(_AGAIN_S, self._resume)
            return
        self._paused = False


def _unreadable(error: OSError) -> PlatformError:
    return PlatformError(
        f"output cannot be read: {error.strerror}",
        remedy="this host is short of descriptors or epoll watches (fs.epoll.max_user_watches); try again later",
    )
