"""Values of arguments: brought into the form of their type, and what is wrong with them in plain words."""

from __future__ import annotations

import decimal
import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from praxis_sdk.execution.contract.json_schema import SchemaFault

_NUMBER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")
_MAX_NUMBER_CHARS: Final = 60
_MAX_INTEGER_DIGITS: Final = 40
_BOOLEANS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MAX_SHOWN_CHARS: Final = 60
_MAX_CHOICES: Final = 30
_TYPES: Final = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a JSON object",
    "null": "null",
}
_FORMATS: Final = {
    "date": "a date, for example 2024-05-31",
    "time": "a time with its zone, for example 17:30:00Z",
    "date-time": "a date and time with its zone, for example 2024-05-31T17:30:00Z",
    "duration": "a duration, for example P1DT12H",
    "email": "an e-mail address",
    "hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "uri": "a URI with its scheme, for example https://example.org/",
    "uuid": "a UUID",
    "regex": "a regular expression",
    "json-pointer": "a JSON pointer, for example /a/b",
}
# Keywords whose bound stands in one sentence.
_BOUNDS: Final = {
    "minimum": "must be at least {wanted}",
    "maximum": "must be at most {wanted}",
    "exclusiveMinimum": "must be above {wanted}",
    "exclusiveMaximum": "must be below {wanted}",
    "multipleOf": "must be a multiple of {wanted}",
    "const": "must be {wanted}",
}
_SIZES: Final = {
    "minLength": ("at least", "character"),
    "maxLength": ("at most", "character"),
    "minItems": ("at least", "item"),
    "maxItems": ("at most", "item"),
    "minProperties": ("at least", "entry"),
    "maxProperties": ("at most", "entry"),
}


def normalised(schema: Mapping[str, Any], value: Any) -> Any:
    """Bring a value into the form of its type, where it means a value of that type beyond doubt.

    A whole number may be written as 3.0, 1e3 or "3"; a number as "1.5"; a boolean as "true", "yes" or
    "off". Items of lists and properties of objects are brought into the form of theirs. Everything
    else stays as it is, for the schema to judge.

    Args:
        schema: the JSON Schema of the value.
        value: plain JSON data, no deeper than a schema validator goes.
    """
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is not None:
            value = read(schema, value)
        elif kind == "string" and isinstance(value, str):
            return value
    return value


def _whole_number(_: Mapping[str, Any], value: Any) -> Any:
    text = value if isinstance(value, str) else repr(value) if isinstance(value, float) else ""
    number = _decimal(text)
    if number is None or number.adjusted() > _MAX_INTEGER_DIGITS or number != number.to_integral_value():
        return value
    return int(number)


def _number(schema: Mapping[str, Any], value: Any) -> Any:
    number = _decimal(value) if isinstance(value, str) else None
    if number is None:
        return value
    if re.fullmatch(r"[-+]?[0-9]+", value):
        return _whole_number(schema, value)
    read = float(value)
    return read if abs(read) != float("inf") else value


def _boolean(_: Mapping[str, Any], value: Any) -> Any:
    return _BOOLEANS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _list(schema: Mapping[str, Any], value: Any) -> Any:
    items = schema.get("items")
    if not isinstance(value, list) or not isinstance(items, Mapping):
        return value
    return [normalised(items, item) for item in value]


def _object(schema: Mapping[str, Any], value: Any) -> Any:
    properties = schema.get("properties")
    if not isinstance(value, dict) or not isinstance(properties, Mapping):
        return value
    return {
        name: normalised(properties[name], item) if isinstance(properties.get(name), Mapping) else item
        for name, item in value.items()
    }


_READERS: Final = {
    "integer": _whole_number,
    "number": _number,
    "boolean": _boolean,
    "array": _list,
    "object": _object,
}


def _decimal(text: str) -> decimal.Decimal | None:
    """Read a number as JSON writes it; None where the text is something else (`0x10`, `1_000`, `007`, `nan`)."""
    if len(text) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    return decimal.Decimal(text)


def explain(fault: SchemaFault, *, hidden: bool = False) -> tuple[str, str]:
    """Say in plain words what is wrong with a value.

    Args:
        fault: what the schema found.
        hidden: whether the value is a secret, which no message repeats.

    Returns:
        What is wrong, naming the choices or the bound; and what to do about it, or empty text.
    """
    wanted, value = fault.wanted, fault.value
    but = "" if hidden else f", not {shown(value)}"
    if fault.keyword == "type":
        kinds = wanted if isinstance(wanted, list) else [wanted]
        return f"must be {' or '.join(words for kind, words in _TYPES.items() if kind in kinds)}{but}", ""
    if fault.keyword == "enum" and isinstance(wanted, list):
        return _choices(wanted, value, but)
    if fault.keyword in _BOUNDS:
        return _BOUNDS[fault.keyword].format(wanted=shown(wanted)) + but, ""
    if fault.keyword in _SIZES and hasattr(value, "__len__"):
        bound, noun = _SIZES[fault.keyword]
        plural = noun if wanted == 1 else "entries" if noun == "entry" else f"{noun}s"
        return f"must have {bound} {wanted} {plural}, not {len(value)}", ""
    if fault.keyword == "pattern":
        return f"must match the pattern {shown(wanted, 200)}{but}", ""
    if fault.keyword == "format":
        return f"must be {_FORMATS.get(str(wanted), f'in the format {wanted!r}')}{but}", ""
    if fault.keyword == "uniqueItems":
        return "must not hold an item twice", ""
    if fault.keyword == "required":
        return f"lacks the entry {shown(wanted)}", ""
    if fault.keyword in ("additionalProperties", "unevaluatedProperties") and isinstance(wanted, list):
        return f"has the unknown entry {shown(wanted[0])}", "remove it"
    if fault.keyword in ("anyOf", "oneOf", "not", "contains"):
        return f"does not fit the rule {fault.keyword!r} of its schema{but}", "see the contract"
    return ("does not fit its schema", "see the contract") if hidden else (fault.message, "")


def _choices(wanted: list[Any], value: Any, but: str) -> tuple[str, str]:
    listed = ", ".join(shown(choice) for choice in wanted[:_MAX_CHOICES])
    more = f" (and {len(wanted) - _MAX_CHOICES} more)" if len(wanted) > _MAX_CHOICES else ""
    texts = [choice for choice in wanted if isinstance(choice, str)]
    near = difflib.get_close_matches(value, texts, n=1) if isinstance(value, str) and but else []
    return f"must be one of {listed}{more}{but}", f"did you mean {shown(near[0])}?" if near else ""


def shown(value: Any, limit: int = _MAX_SHOWN_CHARS) -> str:
    """Show a value in one short line: text in single quotes, everything else as JSON."""
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in value)
        return f"'{text}'" if len(text) <= limit else f"'{text[: limit - 3]}...'"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
