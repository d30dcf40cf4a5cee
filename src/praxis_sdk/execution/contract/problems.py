"""What is wrong with a contract, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.errors import ValidationError

DocumentPath = tuple[str | int, ...]

_MAX_NAME_CHARS: Final = 80
_MAX_LINE_CHARS: Final = 400
_SECRETS: Final = frozenset({"env", "headers", "auth_token", "authToken"})


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a contract, or (as a warning) doubtful in it.

    Args:
        source: the file, as people call it.
        line: line in it, counted from 1; None where the file as a whole is meant.
        field: the field as its author spelled it, for example 'engineSpec.image'; may be empty.
        message: what is wrong; never holds a value of `env`, `headers` or `auth_token`.
        remedy: what to do about it; may be empty.
    """

    source: str
    line: int | None
    field: str
    message: str
    remedy: str = ""

    @property
    def summary(self) -> str:
        """The problem as one line without the remedy: 'FILE:LINE: field: what is wrong'."""
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return one_line(": ".join(part for part in (place, self.field, self.message) if part))

    def __str__(self) -> str:
        return f"{self.summary} ({one_line(self.remedy)})" if self.remedy else self.summary


class ContractError(ValidationError):
    """A contract cannot be used.

    Args:
        problems: everything found, at least one thing; the message is that of the first.
        warnings: what is doubtful besides; it may be the cause of a problem.
    """

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> None:
        first = problems[0]
        super().__init__(first.summary, remedy=one_line(first.remedy))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)

    def __str__(self) -> str:
        more = len(self.problems) - 1
        return super().__str__() + (f"; and {more} more problem{'s' if more > 1 else ''}" if more else "")


def field_name(path: DocumentPath) -> str:
    """Write a path as people do: ('params', 0, 'type') -> 'params[0].type'."""
    text = ""
    for depth, part in enumerate(path):
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        if is_secret(path[:depth]):
            part = part.split("=", 1)[0].split(":", 1)[0]
        name = part if len(part) <= _MAX_NAME_CHARS else part[:_MAX_NAME_CHARS] + "..."
        text += f".{name}" if text else name
    return one_line(text)


def is_secret(path: DocumentPath) -> bool:
    """Tell whether what stands at a path may be a secret, which no message repeats."""
    return any(part in _SECRETS for part in path)


def one_line(text: str) -> str:
    """Make a text safe to print as one line: no control characters, no endless names."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= _MAX_LINE_CHARS else text[: _MAX_LINE_CHARS - 3] + "..."
