"""What a value becomes in JSON; nothing of it is lost without a word (docs/explanation/python-jobs.md has the table).

What has no form in JSON is refused with its place where the job returned it (`main`), and kept as its `repr` where it
is merely what the last line happened to be.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import math
import os
import sys

from praxis_sdk.jobs.harness import figures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MAX_DEPTH = 64
MAX_INTEGER, MIN_INTEGER = 2**64 - 1, -(2**63)
MAX_REPR_CHARS = 10_000
MAX_NAME_CHARS = 100
_MARK_CHARS = 60  # of the words that say how much is left out
_SLICED: frozenset[type] = frozenset({str, bytes, bytearray, list, tuple, range})
_TEXTS = frozenset(
    {("decimal", "Decimal"), ("fractions", "Fraction"), ("uuid", "UUID"), ("ipaddress", "IPv4Address")}
    | {("ipaddress", "IPv6Address"), ("ipaddress", "IPv4Network"), ("ipaddress", "IPv6Network")}
    | {("zoneinfo", "ZoneInfo"), ("pandas", "Period"), ("pandas", "Interval")}
)
_VIEWS: frozenset[type] = frozenset({type({}.keys()), type({}.values()), type({}.items())})


class BadValue(Exception):
    """The job returned something that has no form in JSON."""


class Converter:
    """Turns one value into JSON; tables become files, and the value names them.

    Args:
        strict: refuse what has no form in JSON; otherwise its `repr` takes its place.
        room_bytes: about how long the JSON may get where the converter is not strict; beyond it stands the `repr`.
    """

    def __init__(self, *, strict: bool, room_bytes: float = math.inf) -> None:
        self.strict = strict
        self._room = math.inf if strict else room_bytes

    def convert(self, value: Any, where: str = "result") -> Any:
        """Return the JSON of a value.

        Raises:
            BadValue: it has none, and this converter is strict.
        """
        if self.strict:
            try:
                return self._convert(value, where, 0)
            except _TooDeep as problem:
                raise BadValue(f"{_abridged(str(problem))} is nested deeper than {MAX_DEPTH}") from None
        try:
            return self._convert(value, where, 0)
        except BaseException:  # what is asked of a value is the job's own code, and decides nothing here
            return shown(value)

    def _convert(self, value: Any, where: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _TooDeep(where)
        self._take(1)
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self._text(value, where)
        if isinstance(value, int):
            return self._integer(value, where)
        if isinstance(value, float):
            return _number(value)
        if isinstance(value, (dict, _mapping_proxy)):
            return self._mapping(value, where, depth)
        if isinstance(value, (list, tuple, range)) or type(value) in _VIEWS:
            return self._items(value, where, depth)
        if isinstance(value, (set, frozenset)):
            return sorted(self._items(value, where, depth), key=repr)
        return self._other(value, where, depth)

    def _take(self, size: int) -> None:
        """Use up some of the room."""
        self._room -= size
        if self._room < 0:
            raise _TooLong

    def _items(self, values: Iterable[Any], where: str, depth: int) -> list[Any]:
        return [self._convert(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(values)]

    def _text(self, value: str, where: str) -> Any:
        self._take(len(value))
        try:
            value.encode()
        except UnicodeEncodeError:
            return self._without_form(value, f"{where} holds half of a surrogate pair")
        return str.__str__(value)

    def _integer(self, value: int, where: str) -> Any:
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return int(value)
        why = f"{where} is an integer of {value.bit_length()} bits, and readers of JSON have 64 bits"
        return self._without_form(value, f"{why}; return str() of it")

    def _mapping(self, value: Any, where: str, depth: int) -> Any:
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = self._key(key)
            self._take(len(name or ""))
            if name is None:
                why = f"{where} has a key of type {_name(key)}: {_short(key)}"
                return self._without_form(value, why)
            if name in found:
                return self._without_form(value, f"{where} has two keys that read {_short(name)} in JSON")
            found[name] = self._convert(item, f"{where}.{name[:80]}", depth + 1)
        return found

    def _key(self, key: Any) -> str | None:
        """Return a key as JSON wants it; None where that would not say all of it."""
        if isinstance(key, str):
            return key if self._text_is_whole(key) else None
        if key is None or isinstance(key, (bool, float)):
            return str(key)
        if isinstance(key, int):
            return str(int(key)) if MIN_INTEGER <= key <= MAX_INTEGER else None
        if isinstance(key, (dt.date, dt.time, dt.timedelta)) or _is_text(key):
            text = Converter(strict=True).convert(key)
            return text if isinstance(text, str) else None
        if type(key).__module__ == "numpy":
            item = _numpy_scalar(key)
            return None if item is key else self._key(item)
        enum = sys.modules.get("enum")
        return self._key(key.value) if enum is not None and isinstance(key, enum.Enum) else None

    @staticmethod
    def _text_is_whole(text: str) -> bool:
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
        return True

    def _other(self, value: Any, where: str, depth: int) -> Any:
        """Turn what the library, numpy, pandas and matplotlib make into JSON or a file."""
        if isinstance(value, (bytes, bytearray)):
            self._take(len(value))
            try:
                return value.decode()
            except UnicodeDecodeError:
                text = base64.b64encode(value).decode()
                return {"base64": text}
        if isinstance(value, dt.timedelta):
            return _duration(value)
        if isinstance(value, (dt.date, dt.time)):
            text = value.isoformat()
            return None if text == "NaT" else text
        if _is_text(value):
            return str(value)
        numpy, pandas, enum = (sys.modules.get(name) for name in ("numpy", "pandas", "enum"))
        if pandas is not None:
            if isinstance(value, (pandas.DataFrame, pandas.Series)):
                return _table(value, where)
            if value is pandas.NA or value is pandas.NaT:
                return None
            if isinstance(value, (pandas.Index, pandas.api.extensions.ExtensionArray)):
                return self._items(list(value), where, depth)
        if numpy is not None and isinstance(value, numpy.generic):
            item = _numpy_scalar(value)
            if item is value:
                return self._without_form(value, f"{where} is a {_name(value)}")
            return self._convert(item, where, depth + 1)
        if numpy is not None and isinstance(value, numpy.ndarray):
            if value is sys.modules["numpy"].ma.masked:
                return None
            return self._array(value, where, depth)
        if type(value).__module__.startswith("matplotlib."):
            return _drawn(value)
        if enum is not None and isinstance(value, enum.Enum):
            return self._convert(value.value, where, depth + 1)
        path = sys.modules.get("pathlib")
        if path is not None and isinstance(value, path.PurePath):
            return self._text(str(value), where)
        fields = getattr(type(value), "__dataclass_fields__", None)
        if isinstance(fields, dict):
            return {
                name: self._convert(getattr(value, name, None), f"{where}.{name}", depth + 1)
                for name, field in fields.items()
                if field._field_type.name == "_FIELD"  # noqa: SLF001 - as `dataclasses.fields`, without its import
            }
        collections = sys.modules.get("collections.abc")
        if collections is not None and isinstance(value, collections.Mapping):
            return self._mapping(value, where, depth)
        if type(value).__module__ in ("collections", "array") and hasattr(value, "__iter__"):
            return self._items(list(value), where, depth)
        return self._without_form(value, f"{where} is a {_name(value)}")

    def _array(self, value: Any, where: str, depth: int) -> Any:
        if value.size > self._room:
            raise _TooLong
        if value.dtype.names:  # a list of tuples would lose the names
            if value.ndim:
                return [self._array(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
            return self._record(value[()], where, depth)
        if value.dtype.kind in "OSU" or (value.dtype.kind in "biuf" and value.dtype.itemsize <= 8):
            return self._convert(value.tolist(), where, depth)
        if not value.ndim:
            return self._convert(value[()], where, depth)
        return self._items(list(value), where, depth)

    def _record(self, value: Any, where: str, depth: int) -> Any:
        return {name: self._convert(value[name], f"{where}.{name}", depth + 1) for name in value.dtype.names}

    def _without_form(self, value: Any, why: str) -> Any:
        if self.strict:
            raise BadValue(why)
        return shown(value)


class _TooDeep(Exception):
    """Something is nested too deep."""


class _TooLong(Exception):
    """There is no room for all of it."""


_mapping_proxy = type(type.__dict__)


def shown(value: Any, most_chars: int = MAX_REPR_CHARS) -> dict[str, str]:
    """Return what a notebook would show of a value, bounded."""
    try:
        whole = type(value) not in _SLICED or len(value) <= most_chars
        text = repr(value) if whole else _begun(value, most_chars)
    except ValueError as error:
        text = f"<an integer of {value.bit_length()} bits>" if isinstance(value, int) else _unshown(error)
    except BaseException as error:  # what is shown of a value is the job's own code
        text = _unshown(error)
    if len(text) > most_chars + _MARK_CHARS:
        text = f"{text[:most_chars]} [... {len(text) - most_chars} characters left out ...]"
    return {"repr": text.encode("utf-8", "backslashreplace").decode(), "type": _name(value)[:MAX_NAME_CHARS]}


def _begun(value: Any, most_chars: int) -> str:
    """Return how a long value begins, without making the text of all of it."""
    begun = repr(value[:most_chars])[:most_chars]
    return f"{begun} [... {len(value)} {'characters' if type(value) is str else 'items'} in all ...]"


def _abridged(where: str) -> str:
    """Return a place within a bound: where a value holds itself, its place is long and says little."""
    return where if len(where) <= 80 else f"{where[:40]}...{where[-37:]}"


def _unshown(error: BaseException) -> str:
    return f"<repr() failed: {type(error).__name__}>"


def _number(value: float) -> float | str | None:
    """Return a float; JSON knows no infinity, and a number that is none is no value."""
    if math.isfinite(value):
        return float(value)
    return None if value != value else "Infinity" if value > 0 else "-Infinity"


def _duration(value: dt.timedelta) -> str:
    """Return a time span as ISO 8601 writes it."""
    total = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    seconds, rest = divmod(abs(total), 1_000_000)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    nanoseconds = getattr(value, "nanoseconds", 0)
    if nanoseconds:
        return str(value.isoformat())  # type: ignore[attr-defined]
    return f"{'-' if total < 0 else ''}PT{seconds}{fraction}S"


def _is_text(value: Any) -> bool:
    """Tell whether a value's text says all of it."""
    kind = type(value)
    return (kind.__module__.partition(".")[0], kind.__name__) in _TEXTS


def _numpy_scalar(value: Any) -> Any:
    """Return a scalar of numpy as Python's; itself where Python has none that says the same."""
    kind = value.dtype.kind
    if kind in "mM":
        text = str(value)
        return None if text == "NaT" else text
    if kind == "f" and value.dtype.itemsize > 8:
        number = float(value)
        return number if number == value or value != value else value
    if value.dtype.names:
        return {name: value[name] for name in value.dtype.names}
    if kind == "V":
        return bytes(value)
    return value if kind == "c" else value.item()


def _table(value: Any, where: str) -> dict[str, str]:
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in where).strip("-")[:80]
    name = figures.free_name(stem, "csv")
    try:
        value.to_csv(name, lineterminator="\n")
    except BaseException:  # half of a table would look like all of it
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return {"artifact": name}


def _drawn(value: Any) -> dict[str, str] | None:
    """Save a figure that nobody else manages; what else draws is nothing, as the figure is an artifact."""
    if type(value).__name__ != "Figure" or not hasattr(value, "savefig"):
        return None
    name = figures.save_one(value)
    return {"artifact": name} if name else None


def _name(value: Any) -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _short(value: Any) -> str:
    text = shown(value)["repr"]
    return text if len(text) <= 80 else f"{text[:80]}..."
