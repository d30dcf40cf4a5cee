"""`JsonText`: a JSON value that is carried as text, and becomes Python objects only where someone reads it.

What untrusted work returns may be megabytes of short numbers: a value of 16 MiB takes seconds and a gigabyte as Python
objects, and microseconds as the text that it will be stored as anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

SMALL_CHARS: Final = 32 << 10  # a value of this length is read in less than two milliseconds
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_decode: Final = json.JSONDecoder().decode
_UNREAD: Final = object()


class JsonText:
    """One JSON value, as text, as a Python value, or as both.

    Args:
        text: compact ASCII JSON, names in their order, as stores keep it.
        size_bytes: its length in the canonical form (UTF-8).
        members: where the values of a JSON object's names stand in the text, and their canonical sizes; empty where it
            is not an object, or has many names.
    """

    __slots__ = ("_members", "_size_bytes", "_text", "_value")

    def __init__(
        self,
        text: str | None,
        size_bytes: int | None,
        members: Mapping[str, tuple[int, int, int]] | None = None,
        value: Any = _UNREAD,
    ) -> None:
        self._text = text
        self._size_bytes = size_bytes
        self._members = members or {}
        self._value = value

    @classmethod
    def of(cls, value: Any) -> JsonText:
        """Return a value as `JsonText`; one that is `JsonText` stays as it is.

        Args:
            value: JSON data that has been checked.
        """
        return value if isinstance(value, cls) else cls(None, None, value=value)

    @property
    def text(self) -> str:
        """Compact ASCII JSON, names in their order."""
        if self._text is None:
            self._text = _encode(self._value)
        return self._text

    @property
    def value(self) -> Any:
        """The value as Python objects: for whoever reads it, not for whoever passes it on."""
        if self._value is _UNREAD:
            assert self._text is not None
            self._value = _decode(self._text)
        return self._value

    @property
    def carried(self) -> Any:
        """What to pass on without work: the value where it has been read, else this text."""
        return self if self._value is _UNREAD else self._value

    @property
    def size_bytes(self) -> int:
        """Length of the canonical form (UTF-8), in bytes; 0 for null, which stands for nothing returned."""
        if self._value is None:
            return 0
        if self._size_bytes is None:
            self._size_bytes = canonical_size(self._value, self.text)
        return self._size_bytes

    @property
    def places(self) -> Mapping[str, tuple[int, int, int]]:
        """Where the values of an object's names stand: start, end, canonical size in bytes."""
        return self._members

    def members(self) -> dict[str, Any]:
        """Return an object's values by their names, long ones as `JsonText`; {} where it is not an object."""
        found: dict[str, Any] = {}
        for name, (start, end, size_bytes) in self._members.items():
            assert self._text is not None
            text = self._text[start:end]
            found[name] = _decode(text) if len(text) <= SMALL_CHARS else JsonText(text, size_bytes)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonText) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"JsonText({self.text[:80]!r})"


def text_of(value: Any, encode: Any = _encode) -> str:
    """Return a value as compact ASCII JSON; what is text already is not read for it.

    Args:
        value: JSON data, or `JsonText`.
        encode: what encodes JSON data.
    """
    text: str = value.text if isinstance(value, JsonText) else encode(value)
    return text


def plain(value: Any) -> Any:
    """Return what `JsonText` says as Python objects; anything else as it is."""
    return value.value if isinstance(value, JsonText) else value


def canonical_size(value: Any, text: str) -> int:
    """Return the length in UTF-8 of a value whose ASCII text is known, in bytes."""
    if "\\u" not in text:  # then nothing is written in another way
        return len(text)
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
