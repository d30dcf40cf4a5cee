"""The two pipes to an MCP server that was started here: what it writes, in bounded lines, and what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final

from praxis_sdk.errors import PraxisError
from praxis_sdk.execution.engines.mcp.answer import CallRefusedError
from praxis_sdk.states import FailureCategory

_SHOWN_CHARS: Final = 120


class ServerPipe:
    """What an MCP server writes and is sent; belongs to one event loop.

    Args:
        command: the server's program, for people.
        stdin: the end of its standard input that is written to; the pipe closes it.
        line_limit_bytes: most bytes of one message.
    """

    def __init__(self, command: str, stdin: int, line_limit_bytes: int) -> None:
        self.place = f"the MCP server '{command}'"
        self.too_large = False
        self.failure: PraxisError | None = None
        self.notified = False  # no server is told: its process ends
        self._stdin = stdin
        self._limit_bytes = line_limit_bytes
        self._rest = bytearray()
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        os.set_blocking(stdin, False)

    @property
    def failed(self) -> bool:
        """Whether the latest message got no MCP answer, for a reason that was seen here."""
        return self.too_large or self.failure is not None

    def feed(self, data: bytes) -> None:
        """Take what the server wrote to its stdout."""
        if self.failed:
            return
        self._rest += data
        if b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.strip() and len(line) <= self._limit_bytes:
                    self._lines.put_nowait(bytes(line))
                self.too_large |= len(line) > self._limit_bytes
        if self.too_large or len(self._rest) > self._limit_bytes:
            self.too_large = True
            self._rest.clear()
            self.end()

    def end(self) -> None:
        """Say that the server writes no more."""
        self._lines.put_nowait(None)

    def refuse(self, line: bytes) -> None:
        """Say that a line is no message of MCP."""
        text = line[:_SHOWN_CHARS].decode("utf-8", errors="replace")
        shown = "".join(char if char.isprintable() else " " for char in text)
        self.failure = CallRefusedError(
            FailureCategory.USER_CODE_ERROR,
            f"{self.place} wrote to its stdout what is not an MCP message: {shown!r}",
            remedy="have it log to stderr",
        )

    async def line(self) -> bytes | None:
        """Wait for the next line; None at the end."""
        return await self._lines.get()

    async def send(self, data: bytes) -> None:
        """Write to the server's stdin; what a server that has ended would have read is lost."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view and self._stdin >= 0:
            try:
                view = view[os.write(self._stdin, view) :]
            except BrokenPipeError:
                return
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._stdin, writable.set)
                try:
                    await writable.wait()
                finally:
                    if self._stdin >= 0:
                        loop.remove_writer(self._stdin)

    def close(self) -> None:
        """Close the server's stdin, by which it learns that it is to end; repeatable."""
        stdin, self._stdin = self._stdin, -1
        if stdin >= 0:
            with contextlib.suppress(OSError):
                asyncio.get_running_loop().remove_writer(stdin)
                os.close(stdin)
