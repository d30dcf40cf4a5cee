"""The command's own streams: results go to stdout and nothing else does; people are told on stderr."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from praxis_sdk.cli.terminal.untrusted_text import one_line, visible
from praxis_sdk.errors import PlatformError

SCHEMA_VERSION: Final = 1  # of every JSON document that the command prints; raised when a reader would break

STDOUT: Final = 1
STDERR: Final = 2

Tone = Literal["plain", "good", "bad", "doubt"]
_COLOUR: Final[Mapping[Tone, str]] = {"good": "32", "bad": "31", "doubt": "33"}


class OutputClosed(Exception):
    """Whoever read stdout or stderr is gone."""


class Streams:
    """Standard output and standard error of this command."""

    def __init__(self) -> None:
        self._result_fd = STDOUT

    @property
    def result_fd(self) -> int:
        """The descriptor for results: the caller's stdout."""
        return self._result_fd

    def reserve_stdout(self) -> None:
        """Keep stdout for results; repeatable.

        From here on whatever a library or a child process prints to descriptor 1 goes to stderr.
        """
        if self._result_fd == STDOUT:
            sys.stdout.flush()
            self._result_fd = os.dup(STDOUT)
            os.dup2(STDERR, STDOUT)

    def emit(self, text: str) -> None:
        """Write a result to stdout.

        Raises:
            OutputClosed: the reader is gone.
            PlatformError: it cannot be written.
        """
        data = text.encode(sys.stdout.encoding or "utf-8", errors="backslashreplace")
        try:
            write_fully(self._result_fd, data)
        except OSError as error:
            raise lost_output(error, "stdout") from error

    def emit_json(self, document: Mapping[str, Any]) -> None:
        """Write a JSON document to stdout; in ASCII, so it is safe in any encoding and on a terminal."""
        self.emit(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, default=str) + "\n")

    def emit_lines(self, lines: Iterable[str]) -> None:
        """Write lines for people to stdout, made safe."""
        self.emit("".join(f"{one_line(line)}\n" for line in lines))

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Tell people one line on stderr; where nobody can be told, nothing happens."""
        colour = _COLOUR.get(tone) if in_colour(STDERR) else None
        start, end = (f"\x1b[{colour}m", "\x1b[0m") if colour else ("", "")
        self._tell(f"{start}praxis:{end} {one_line(text)}")

    def explain(self, text: str) -> None:
        """Show several lines on stderr as they are, made safe."""
        self._tell(visible(text).rstrip("\n"))

    def _tell(self, text: str) -> None:
        try:
            write_fully(STDERR, f"{text}\n".encode(sys.stderr.encoding or "utf-8", errors="backslashreplace"))
        except OSError:
            return  # there is no place left to complain


def open_missing() -> None:
    """Open /dev/null for standard streams that the caller closed, lest another file takes their numbers."""
    for fd in (0, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    sys.stdout = sys.stdout or open(STDOUT, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(STDERR, "w", closefd=False)  # noqa: SIM115


def in_colour(fd: int) -> bool:
    """Tell whether what is written to a descriptor may have colours (https://no-color.org)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_fully(fd: int, data: bytes) -> None:
    """Write all of it, also where the descriptor is in non-blocking mode.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


def lost_output(error: OSError, stream: str) -> Exception:
    """Say what it means that a stream could not be written to."""
    if isinstance(error, BrokenPipeError):
        return OutputClosed()
    return PlatformError(
        f"{stream}: {error.strerror}, so output is lost", remedy="check where the output is sent to"
    )
