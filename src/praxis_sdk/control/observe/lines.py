"""Lines, derived from pieces of output as they are read: a line is named by its piece and its place there.

A piece ends anywhere, within a line or a character, so what follows its last line end waits for the next piece of the
same stream. The name of a line, (sequence number of the piece in which it begins, index), orders all lines.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.model import Event

MAX_LINE_BYTES: Final = 1 << 20  # a longer line comes in parts


@dataclass(frozen=True, slots=True)
class Line:
    """A line that the work wrote, or any other event.

    Args:
        event: with the line as its message; `data` says where the line goes on in another one (`continues`), and has
            the bytes where they are not UTF-8 (`base64`).
        index: which of the lines that begin in this event.
    """

    event: Event
    index: int = 0


@dataclass(slots=True)
class _Begun:
    """A line whose end has not come."""

    event: Event
    index: int
    data: bytearray


class LineReader:
    """Cuts pieces of output into lines, whatever their borders; other events pass through."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, str], _Begun] = {}

    def feed(self, event: Event) -> Iterator[Line]:
        """Take the next event, and return the lines that it ends."""
        if not event.chunk:
            yield Line(event)
            return
        stream = (event.data.get("attempt", 1), event.data.get("stream", ""))
        yield from self._of_earlier_attempts(stream)
        *ended, rest = event.chunk.split(b"\n")
        index = 0
        begun = self._begun.pop(stream, None)
        if begun is not None and ended:
            yield from _parts(begun.event, begun.index, bytes(begun.data) + ended[0])
            del ended[0]
            begun = None
        for index, line in enumerate(ended):
            yield from _parts(event, index, line)
        if begun is not None:
            begun.data += rest
        elif rest:
            begun = _Begun(event, len(ended), bytearray(rest))
        if begun is None:
            return
        while len(begun.data) > MAX_LINE_BYTES:
            yield _line(begun.event, begun.index, bytes(begun.data[:MAX_LINE_BYTES]), continues=True)
            del begun.data[:MAX_LINE_BYTES]
        self._begun[stream] = begun

    def end(self) -> Iterator[Line]:
        """Return what has no end of line; no more events come."""
        for begun in self._begun.values():
            yield from _parts(begun.event, begun.index, bytes(begun.data))
        self._begun.clear()

    def _of_earlier_attempts(self, stream: tuple[int, str]) -> Iterator[Line]:
        for other in [one for one in self._begun if one[1] == stream[1] and one[0] < stream[0]]:
            begun = self._begun.pop(other)
            yield from _parts(begun.event, begun.index, bytes(begun.data))


async def lines_of(events: AsyncIterator[Event]) -> AsyncIterator[Line]:
    """Go through events with each piece of output cut into its lines."""
    reader = LineReader()
    async for event in events:
        for line in reader.feed(event):
            yield line
    for line in reader.end():
        yield line


def _parts(event: Event, index: int, data: bytes) -> Iterator[Line]:
    while len(data) > MAX_LINE_BYTES:
        yield _line(event, index, data[:MAX_LINE_BYTES], continues=True)
        data = data[MAX_LINE_BYTES:]
    yield _line(event, index, data)


def _line(event: Event, index: int, data: bytes, *, continues: bool = False) -> Line:
    more: dict[str, Any] = {}
    try:
        message = data.decode()
    except UnicodeDecodeError:
        message = data.decode(errors="replace")
        more["base64"] = base64.b64encode(data).decode("ascii")
    if continues:
        more["continues"] = True
    fields = {**event.data, **more} if more else event.data
    return Line(dataclasses.replace(event, message=message, data=fields, chunk=b""), index)
