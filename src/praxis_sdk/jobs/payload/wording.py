"""What is wrong with a payload or a result, as one line in our words: the field, the fault, what would be right."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any, Final

import pydantic

from praxis_sdk.execution.contract.problems import field_name, one_line
from praxis_sdk.units import format_bytes

MAJOR: Final = 1

SCHEMA_VERSION_PATTERN: Final = rf"^{MAJOR}\.[0-9]{{1,6}}$"
JOB_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"
RUNTIME_PATTERN: Final = r"^[a-z][a-z0-9_-]{0,63}$"
ENVIRONMENT_PATTERN: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
ENVIRONMENT_VERSION_PATTERN: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*-[0-9a-f]{12}$"
INPUT_NAME_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}$"
DEDUPE_KEY_PATTERN: Final = r"^[0-9a-f]{64}$"
CODE_WORD_PATTERN: Final = r"^[a-z][a-z0-9_]{0,63}$"
MODULE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
NO_NUL_PATTERN: Final = r"^[^\x00]*$"

# What a text must be that does not match.
_FORMS: Final[Mapping[str, str]] = {
    SCHEMA_VERSION_PATTERN: f"'{MAJOR}.' and a number, such as '{MAJOR}.0'",
    JOB_ID_PATTERN: "1 to 128 letters, digits and any of '_.:-', beginning with a letter or a digit",
    RUNTIME_PATTERN: "1 to 64 lower-case letters, digits, '_' and '-', such as 'python'",
    ENVIRONMENT_PATTERN: "lower-case letters and digits, in parts joined by '-', such as 'base'",
    ENVIRONMENT_VERSION_PATTERN: "a name, '-' and 12 hexadecimal digits, as 'praxis env list' shows it",
    INPUT_NAME_PATTERN: "1 to 128 letters, digits and any of '_.-', beginning with a letter, a digit or '_'",
    DIGEST_PATTERN: "'sha256:' and 64 hexadecimal digits in lower case",
    DEDUPE_KEY_PATTERN: "64 hexadecimal digits in lower case",
    CODE_WORD_PATTERN: "up to 64 lower-case letters, digits and '_', beginning with a letter",
    MODULE_PATTERN: "the dotted name of a module, such as 'package.main'",
    NO_NUL_PATTERN: "text without NUL characters",
}


def first_problem(document: str, error: pydantic.ValidationError) -> str:
    """Write what is wrong first as one line: 'payload.limits.files: must be a whole number'.

    Args:
        document: 'payload' or 'result'.
        error: everything that pydantic found.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    path = tuple("''" if part == "" else part for part in first["loc"] if part != "[key]")
    message = _message(first["type"], first["msg"], first.get("ctx", {}), str(path[-1]) if path else "")
    if "[key]" in first["loc"] and not message.startswith("'"):
        message = f"the name {message}"
    more = error.error_count() - 1
    counted = f"; and {more} more problem{'s' if more > 1 else ''}" if more else ""
    return f"{field_name((document, *path))}: {one_line(message)}{counted}"


def _message(kind: str, text: str, facts: Mapping[str, Any], field: str) -> str:
    if kind == "value_error":  # of a validator of ours
        return text.removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        form = _FORMS.get(facts["pattern"])
        return f"must be {form}" if form else "is not in the form that this field has"
    words = _WORDS.get(kind, "is not what this field holds; see the schema in docs/reference")
    return words if isinstance(words, str) else words(facts, field)


def _bound(what: str, fact: str) -> Callable[[Mapping[str, Any], str], str]:
    def write(facts: Mapping[str, Any], field: str) -> str:
        number = facts[fact]
        if field.endswith("_bytes"):
            return f"must be {what} {number} bytes ({format_bytes(number)})"
        return f"must be {what} {number:g} seconds" if field.endswith("_s") else f"must be {what} {number}"

    return write


def _one_of(facts: Mapping[str, Any], _: str) -> str:
    return f"must be one of {facts['expected']}" if "<" not in facts["expected"] else "is none of its values"


# What must be, by the kind of a problem; those that no field of ours can have are left out.
_WORDS: Final[Mapping[str, str | Callable[[Mapping[str, Any], str], str]]] = {
    "missing": "is missing, and must be given",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "too_long": lambda facts, _: f"must have at most {facts['max_length']} entries",
    "string_too_long": lambda facts, _: f"must have at most {facts['max_length']} characters",
    "literal_error": _one_of,
    "enum": _one_of,
    "timezone_aware": "must have a time zone, such as the 'Z' of '2026-01-31T12:00:00Z'",
    "datetime_parsing": "must be a date and time with its zone, such as '2026-01-31T12:00:00Z'",
    "datetime_from_date_parsing": "must be a date and time with its zone, such as '2026-01-31T12:00:00Z'",
    "datetime_object_invalid": "must be a date and time with its zone, such as '2026-01-31T12:00:00Z'",
}


def signal_name(number: int) -> str:
    """Return what a signal is called, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
