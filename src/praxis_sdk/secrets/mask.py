"""Masking: exact values replaced by a mark, in the forms in which programs usually write them.

Nothing more is promised: a tool that wants to write a secret in a form of its own can.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any, Final

MARK: Final = "[secret]"
MIN_CHARS: Final = 4  # shorter values are words of every text; masking them would only say what they are
_MIN_LINE_CHARS: Final = 8  # a line of a longer secret, such as a key file, that is masked by itself


class Mask:
    """Replaces secrets.

    Args:
        values: the exact values; also their URL, JSON, escaped and base64 forms are replaced.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms = sorted(forms_of(values), key=lambda form: (-len(form), form))
        self._longest = len(self._forms[0]) if self._forms else 0
        self._pattern = re.compile(b"|".join(map(re.escape, self._forms))) if self._forms else None
        self._first = {form[0] for form in self._forms}

    def __bool__(self) -> bool:
        return self._pattern is not None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._pattern is None:
            return text
        masked = self._pattern.sub(MARK.encode(), text.encode("utf-8", "surrogatepass"))
        return masked.decode("utf-8", "surrogatepass")

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets, in keys and items."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def cut(self, data: bytes, *, final: bool) -> tuple[bytes, bytes]:
        """Return what can be passed on of the start of a stream, masked, and the rest to be kept for later."""
        if self._pattern is None:
            return data, b""
        hold = len(data) if final else self._hold(data)
        passed, end = [], 0
        for match in self._pattern.finditer(data):
            if match.start() >= hold:
                break
            passed += [data[end : match.start()], MARK.encode()]
            end = match.end()
        if end < hold:
            passed.append(data[end:hold])
            end = hold
        return b"".join(passed), data[end:]

    def _hold(self, data: bytes) -> int:
        """Return where the longest end of some data begins that may be the start of a secret."""
        for start in range(max(0, len(data) - self._longest + 1), len(data)):
            if data[start] in self._first:
                tail = data[start:]
                if any(len(form) > len(tail) and form.startswith(tail) for form in self._forms):
                    return start
        return len(data)


class StreamMask:
    """Masks one stream that arrives in pieces; a secret that two pieces share is found, too.

    Args:
        mask: what to replace.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take a piece, and return what can be passed on."""
        passed, self._held = self._mask.cut(self._held + data, final=False)
        return passed

    def end(self) -> bytes:
        """Return what is left at the end of the stream."""
        passed, self._held = self._mask.cut(self._held, final=True)
        return passed


def forms_of(values: Iterable[str]) -> set[bytes]:
    """Return the forms in which programs write some secrets, as UTF-8; without those that are too short."""
    forms: set[bytes] = set()
    for secret in values:
        lines = [line.strip() for line in secret.split("\n") if len(line.strip()) >= _MIN_LINE_CHARS]
        for text in {secret, secret.strip(), *lines}:
            if len(text) >= MIN_CHARS:
                forms |= _written(text)
    return forms


def _written(text: str) -> set[bytes]:
    raw = text.encode("utf-8", "surrogatepass")
    quoted = (urllib.parse.quote(raw, safe=""), urllib.parse.quote(raw), urllib.parse.quote_plus(raw))
    escaped = (
        repr(text)[1:-1],
        ascii(text)[1:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
    )
    return {raw, *(form.encode("utf-8", "surrogatepass") for form in (*quoted, *escaped)), *_base64(raw)}


def _base64(raw: bytes) -> set[bytes]:
    """Return what base64 makes of some bytes inside a longer text, such as `user:password`, at each alignment."""
    forms = set()
    for before in range(3):
        # The first and last characters depend on the neighbours; those between are the secret's own.
        encoded = base64.b64encode(b"\0" * before + raw)
        first = -(-before * 8 // 6)
        last = (before + len(raw)) * 8 // 6
        if last - first >= 2 * MIN_CHARS:
            forms |= {encoded[first:last], encoded[first:last].translate(bytes.maketrans(b"+/", b"-_"))}
    return forms
