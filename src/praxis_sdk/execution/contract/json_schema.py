"""JSON Schema validation; the one place that knows which library does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class SchemaFault:
    """One thing wrong with a document.

    Args:
        path: keys and indexes that lead to the place.
        message: what is wrong there, one line.
        keyword: the keyword of the schema that is not satisfied.
        wanted: what the keyword asks for: the bound, the choices, the type.
        value: what stands there.
    """

    path: tuple[str | int, ...]
    message: str
    keyword: str
    wanted: Any = None
    value: Any = None


def faults(schema: dict[str, Any], document: Any, *, formats: bool = False) -> Iterator[SchemaFault]:
    """Go through what is wrong with a document.

    Args:
        schema: the schema; it can refer to itself and to the published drafts, nothing else.
        document: plain JSON data, nested no deeper than `arguments.MAX_DEPTH`.
        formats: whether 'format' is a rule, and not only a description.

    Raises:
        ValueError: the schema itself is unsound.
    """
    import json

    try:
        schema_json = json.dumps(schema, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise ValueError(f"not a JSON Schema: {problem}") from problem
    for error in _validator(schema_json, formats).iter_errors(document):
        message = " ".join(error.message.split())
        if len(message) > 300:
            message = message[:297] + "..."
        keyword = str(error.schema_path[-1]) if error.schema_path else ""
        yield SchemaFault(
            path=tuple(error.instance_path),
            message=message,
            keyword=keyword,
            wanted=getattr(error.kind, "value", None),
            value=error.instance,
        )


def first_fault(schema: dict[str, Any], document: Any, *, formats: bool = False) -> SchemaFault | None:
    """Return the first thing wrong with a document, or None; see `faults`.

    Raises:
        ValueError: the schema itself is unsound.
    """
    return next(faults(schema, document, formats=formats), None)


@lru_cache(maxsize=256)
def _validator(schema_json: str, formats: bool) -> Any:
    import json

    import jsonschema_rs

    try:
        # Offline: a '$ref' in somebody's contract must not make Praxis read files or talk to the network.
        return jsonschema_rs.validator_for(json.loads(schema_json), offline=True, validate_formats=formats)
    except jsonschema_rs.ValidationError as error:
        raise ValueError(f"not a JSON Schema: {' '.join(error.message.split())[:200]}") from error
