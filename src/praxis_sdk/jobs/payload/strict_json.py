"""JSON from strangers: read with every bound checked, written in one canonical form.

Stricter than the `json` module, which takes NaN, duplicate keys, lone surrogates, numbers of any length and
any nesting. What passes here can be hashed, stored and sent on by every other part of Praxis.

The canonical form is UTF-8 without spaces, keys sorted by code point. Strings stay as they are (no Unicode
normalisation: other code points are other data to the work). Integers and floats stay apart, as they do in
the languages that read them: 1 and 1.0, 0.0 and -0.0 are four values.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_CONTAINERS: Final = 1_000_000
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1
_MAX_INTEGER_CHARS: Final = 400
_HARMLESS: Final = frozenset({bool, type(None)})  # whatever their value is
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


class UnsoundJson(ValueError):
    """A document is not plain, bounded JSON data.

    Args:
        message: one line; repeats nothing of the document but the names of keys.
        path: keys and indexes that lead to the place; empty where that cannot be said.
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


def parse(data: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """Read one JSON document.

    Args:
        data: UTF-8, without a byte order mark.
        max_bytes: most bytes accepted; looked at before anything else.
        max_depth: deepest nesting accepted.

    Returns:
        Plain JSON values.

    Raises:
        UnsoundJson: it is no acceptable document.
    """
    if len(data) > max_bytes:
        raise UnsoundJson(f"larger than the limit of {max_bytes} bytes")
    # Each bracket may become an object many times its size, so they are counted before there are any.
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise UnsoundJson(f"more than {MAX_CONTAINERS} brackets; hand large data over by digest")
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            raise UnsoundJson("not JSON: begins with a byte order mark")
        value = _READER.decode(text)
    except UnicodeDecodeError as error:
        raise UnsoundJson(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise UnsoundJson(f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise UnsoundJson(_too_deep(max_depth)) from error
    check(value, max_depth=max_depth)
    return value


def check(value: Any, *, max_depth: int = MAX_DEPTH) -> None:
    """Refuse what is not plain, bounded JSON data; for values that did not come through `parse`.

    Raises:
        UnsoundJson: a type JSON does not have, a number or text it cannot carry, or too much nesting.
    """
    level: list[Any] = [value]
    containers = 0
    for _ in range(max_depth + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind in _HARMLESS or (kind is str and item.isascii()):
                continue
            fault = _fault(item)
            if fault:
                raise UnsoundJson(fault, _path_to_fault(value))
            if kind is dict or isinstance(item, Mapping):
                below.extend(item.values())
                containers += 1
            elif isinstance(item, list | tuple):
                below.extend(item)
                containers += 1
        if containers > MAX_CONTAINERS:
            raise UnsoundJson(f"more than {MAX_CONTAINERS} lists and objects")
        if not below:
            return
        level = below
    raise UnsoundJson(_too_deep(max_depth))


def canonical(value: Any, *, checked: bool = False) -> bytes:
    """Write a value in the canonical form.

    Args:
        value: the value.
        checked: `check` has seen it, or the parts of it that are a stranger's.

    Raises:
        UnsoundJson: it is not plain, bounded JSON data.
    """
    if not checked:
        check(value)
    return _CANONICAL.encode(value).encode("utf-8")


def _too_deep(max_depth: int) -> str:
    return f"nested deeper than {max_depth} levels"


def _fault(item: Any) -> str:
    """Say what is wrong with an item itself, not with what it contains; '' where nothing is."""
    if isinstance(item, str):
        return _text_fault(item)
    if item is None or isinstance(item, bool | list | tuple):
        return ""
    if isinstance(item, int):
        fits = MIN_INTEGER <= item <= MAX_INTEGER
        return "" if fits else "an integer does not fit in 64 bits; write it as text"
    if isinstance(item, float):
        return "" if math.isfinite(item) else "not a finite number, which JSON does not have"
    if not isinstance(item, Mapping):
        return f"{type(item).__name__} is not JSON data"
    for key in item:
        if not (type(key) is str and key.isascii()) and _key_fault(key):
            return _key_fault(key)
    return ""


def _key_fault(key: Any) -> str:
    return _text_fault(key) if isinstance(key, str) else f"a key is {type(key).__name__} and not text"


def _text_fault(text: str) -> str:
    # An escape such as `\ud800` in a document makes one, and no UTF-8 can carry it.
    return "text holds half of a surrogate pair" if _SURROGATE.search(text) else ""


def _path_to_fault(value: Any) -> tuple[str | int, ...]:
    """Find the first item with a fault; the search goes as deep as `check` has been, which found one."""
    level: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while level:
        for path, item in level:
            if _fault(item):
                return path
        level = [((*path, key), child) for path, item in level for key, child in _children(item)]
    return ()


def _children(item: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(item, Mapping):
        return item.items()
    return enumerate(item) if isinstance(item, list | tuple) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise UnsoundJson(f"key {key[:40]!a} is given twice")
    return result


# What is no acceptable number becomes one that `check` refuses, because it can say where that stands.
def _read_integer(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_INTEGER_CHARS else MAX_INTEGER + 1


_READER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=float, parse_int=_read_integer)
