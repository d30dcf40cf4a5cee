"""References to secrets inside JSON values: found, and replaced by values."""

from __future__ import annotations

import re
import secrets as tokens
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from praxis_sdk.errors import ValidationError

SCHEME: Final = "secret://"
GIVEN_PREFIX: Final = "given."  # of a value that a command was given, which lives as long as the command
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_NAMELESS: Final = re.compile(rf"secret://(?!{_NAME})", re.IGNORECASE)
_REFERENCE: Final = re.compile(rf"secret://({_NAME})|\$\{{env:([A-Za-z_][A-Za-z0-9_]{{0,127}})\}}")


def check_name(name: str) -> str:
    """Return a secret's name.

    Raises:
        ValidationError: it is not a valid name.
    """
    if not re.fullmatch(_NAME, name):
        raise ValidationError(
            f"{name[:64]!r} is not a valid name of a secret",
            remedy="use up to 128 letters, digits, '_', '.', '-', the first a letter or digit",
        )
    return name


def given_name() -> str:
    """Return a fresh name for a value that was given and is not stored."""
    return GIVEN_PREFIX + tokens.token_hex(8)


def is_given(name: str) -> bool:
    """Tell whether a name is one of those that `given_name` makes; it cannot be guessed."""
    return name.startswith(GIVEN_PREFIX)


def references(value: Any) -> list[str]:
    """Return the names of all secrets that a JSON value refers to, each once."""
    return list(dict.fromkeys(match[1] for match in _matches(value) if match[1]))


def variables(value: Any) -> list[str]:
    """Return the worker's variables that a JSON value refers to (`${env:NAME}`), each once."""
    return list(dict.fromkeys(match[2] for match in _matches(value) if match[2]))


def names_no_secret(value: Any) -> bool:
    """Tell whether a JSON value holds a `secret://` that no valid name follows, so that it refers to nothing."""
    return any(_NAMELESS.search(text) for text in _texts(value))


def replace_references(
    value: Any, secret: Callable[[str], str], variable: Callable[[str], str] | None = None
) -> Any:
    """Return a JSON value with its references replaced.

    Args:
        value: the value.
        secret: returns the value of a secret by its name.
        variable: returns the value of a variable; None leaves such references alone.
    """

    def one(match: re.Match[str]) -> str:
        if match[1]:
            return secret(match[1])
        return match[0] if variable is None else variable(match[2])

    if isinstance(value, str):
        return _REFERENCE.sub(one, value)
    if isinstance(value, Mapping):
        return {key: replace_references(item, secret, variable) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_references(item, secret, variable) for item in value]
    return value


def _matches(value: Any) -> Iterator[re.Match[str]]:
    for text in _texts(value):
        yield from _REFERENCE.finditer(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
