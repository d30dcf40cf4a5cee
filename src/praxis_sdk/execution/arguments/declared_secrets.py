"""Which parts of an argument its schema declares secret (`format: password`, as OpenAPI has it).

The declaration may stand at any depth: a token in an object, each item of a list, a number that is a PIN.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

FORMAT: Final = "password"
_ONE_SCHEMA: Final = ("items", "additionalProperties", "contains")
_LISTS: Final = ("prefixItems", "anyOf", "oneOf", "allOf")
_MAPPINGS: Final = ("properties", "patternProperties")


def declares_secret(schema: object) -> bool:
    """Tell whether a JSON Schema declares a value, or a part of it, secret."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("format") == FORMAT or any(map(declares_secret, _inner(schema)))


def replace_secrets(schema: object, value: Any, replace: Callable[[str], str]) -> Any:
    """Return a JSON value with all that its schema declares secret replaced.

    Args:
        schema: the JSON Schema of the value.
        value: the value; nothing of it is changed.
        replace: is given each secret as text, numbers as JSON writes them, and returns what to put in its place.
    """
    if not isinstance(schema, Mapping):
        return value
    if schema.get("format") == FORMAT:
        return _replace_all(value, replace)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for choice in _listed(schema, keyword):
            value = replace_secrets(choice, value, replace)
    if isinstance(value, list | tuple):
        first = _listed(schema, "prefixItems")
        value = [
            replace_secrets(first[place] if place < len(first) else schema.get("items"), item, replace)
            for place, item in enumerate(value)
        ]
        value = [replace_secrets(schema.get("contains"), item, replace) for item in value]
    elif isinstance(value, Mapping):
        value = {name: _replace_entry(schema, name, item, replace) for name, item in value.items()}
    return value


def secret_texts(schema: object, value: Any) -> list[str]:
    """Return all that a JSON Schema declares secret in a value, as text."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    replace_secrets(schema, value, keep)
    return found


def _replace_entry(schema: Mapping[str, Any], name: str, item: Any, replace: Callable[[str], str]) -> Any:
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return replace_secrets(properties[name], item, replace)
    patterns = schema.get("patternProperties")
    for inner in patterns.values() if isinstance(patterns, Mapping) else ():
        item = replace_secrets(
            inner, item, replace
        )  # whatever the name: rather one too many than one too few
    return replace_secrets(schema.get("additionalProperties"), item, replace)


def _replace_all(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return replace(value) if value else value
    if isinstance(value, Mapping):
        return {name: _replace_all(item, replace) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_all(item, replace) for item in value]
    return value if value is None or isinstance(value, bool) else replace(json.dumps(value))


def _inner(schema: Mapping[str, Any]) -> Iterator[object]:
    yield from (schema.get(keyword) for keyword in _ONE_SCHEMA)
    for keyword in _LISTS:
        yield from _listed(schema, keyword)
    for keyword in _MAPPINGS:
        below = schema.get(keyword)
        yield from below.values() if isinstance(below, Mapping) else ()


def _listed(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    listed = schema.get(keyword)
    return listed if isinstance(listed, list) else []
