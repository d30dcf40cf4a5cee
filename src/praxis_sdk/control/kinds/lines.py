"""Output as lines: bytes as they arrive become log lines, cut where a line is too long."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

MAX_LINE_CHARS: Final = 16 << 10


class Lines:
    """Cuts two streams of bytes into lines of text; bytes that are no UTF-8 are replaced.

    Args:
        emit: called with the stream's name and each line, without its end.
        max_chars: a longer line is cut into pieces of this length.
    """

    def __init__(self, emit: Callable[[str, str], None], *, max_chars: int = MAX_LINE_CHARS) -> None:
        self._emit = emit
        self._max_chars = max_chars
        self._rest: dict[str, str] = {}
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def feed(self, stream: str, data: bytes) -> None:
        """Take bytes of a stream."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        self._take(stream, decoder.decode(data))

    def end(self) -> None:
        """Emit what has no end of line."""
        for stream, decoder in self._decoders.items():
            self._take(stream, decoder.decode(b"", final=True))
            rest = self._rest.pop(stream, "")
            if rest:
                self._emit(stream, rest)
        self._decoders.clear()

    def _take(self, stream: str, text: str) -> None:
        *lines, rest = (self._rest.get(stream, "") + text).split("\n")
        for line in lines:
            self._pass_on(stream, line.removesuffix("\r"))
        while len(rest) > self._max_chars:
            self._emit(stream, rest[: self._max_chars])
            rest = rest[self._max_chars :]
        self._rest[stream] = rest

    def _pass_on(self, stream: str, line: str) -> None:
        while len(line) > self._max_chars:
            self._emit(stream, line[: self._max_chars])
            line = line[self._max_chars :]
        self._emit(stream, line)
