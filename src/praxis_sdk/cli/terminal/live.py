"""A tool's output, passed on as it arrives.

Whoever reads our stdout may be slow (`| less`). The event loop must not wait for them, for it enforces the
tool's limits, so a thread does the writing. What it has not written yet is bounded: each time a MiB was fed, `feed`
returns a future that is done when all of that is written, and whoever feeds waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Final

from praxis_sdk.cli.terminal.streams import STDERR, Streams, Tone, lost_output, write_fully
from praxis_sdk.cli.terminal.untrusted_text import TerminalFilter
from praxis_sdk.execution.context import StreamName

_AT_ONCE_BYTES: Final = 1 << 20  # may be fed before whoever reads is waited for
_BREAK_OFF_S: Final = 1.0  # whoever has not read by then misses the rest

_Job = Callable[[], None]


class LiveOutput:
    """Writes output and lines for people in the order of their arrival; made inside an event loop.

    Args:
        streams: where it goes: bytes as they are, made safe where a terminal would obey them.
        on_failure: called in the event loop when output cannot be written.
    """

    def __init__(self, streams: Streams, on_failure: Callable[[], object]) -> None:
        self._streams = streams
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._fds: dict[StreamName, int] = {"stdout": streams.result_fd, "stderr": STDERR}
        self._filters = {
            stream: TerminalFilter(sys.stdout.encoding or "utf-8")
            for stream, fd in self._fds.items()
            if os.isatty(fd)
        }
        self._fed_bytes = 0  # since the future before
        self._room: asyncio.Future[None] | None = None
        self._unfinished: set[StreamName] = set()  # streams that stand in the middle of a line
        threading.Thread(target=self._work, name="praxis-output", daemon=True).start()

    @property
    def failure(self) -> Exception | None:
        """Why output was lost, or None."""
        return self._failure

    def feed(self, stream: StreamName, data: bytes) -> asyncio.Future[None] | None:
        """Pass on a piece of a tool's output; returns at once what to wait for before more is fed, if anything."""
        self._jobs.put(functools.partial(self._write, stream, data))
        self._fed_bytes += len(data)
        if self._fed_bytes >= _AT_ONCE_BYTES and (self._room is None or self._room.done()):
            self._fed_bytes = 0
            self._room = self._all_written()
        return self._room

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Tell people a line on stderr, after what was fed before, at the start of a line."""
        self._jobs.put(self._start_line)
        self._jobs.put(functools.partial(self._streams.say, text, tone))

    def end(self) -> None:
        """Show what an unfinished character still held back; nothing is fed afterwards."""
        for stream in self._filters:
            self._jobs.put(functools.partial(self._write, stream, b"", final=True))

    async def drain(self) -> None:
        """Wait until everything has been written."""
        await self._all_written()

    async def break_off(self) -> None:
        """Write what can be written in a moment, and leave stderr at the start of a line."""
        self._jobs.put(self._start_line)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drain(), _BREAK_OFF_S)

    def _all_written(self) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put(lambda: self._call(lambda: None if done.done() else done.set_result(None)))
        return done

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _write(self, stream: StreamName, data: bytes, *, final: bool = False) -> None:
        filter_ = self._filters.get(stream)
        if filter_ is not None:
            data = filter_.feed(data, final=final)
        if not data or self._failure is not None:
            return
        try:
            write_fully(self._fds[stream], data)
        except OSError as error:
            self._failure = lost_output(error, stream)
            self._call(self._on_failure)
        (self._unfinished.discard if data.endswith(b"\n") else self._unfinished.add)(stream)

    def _start_line(self) -> None:
        """Go to a new line on stderr if it, or the terminal that it shares with stdout, is in the middle of one."""
        shared = len(self._filters) == len(self._fds)
        if "stderr" in self._unfinished or (shared and self._unfinished):
            self._unfinished.clear()
            with contextlib.suppress(OSError):
                write_fully(STDERR, b"\n")

    def _call(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback)
