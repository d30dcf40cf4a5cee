"""What comes of a call to an MCP server, free of the SDK: an answer, a refusal, or too much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from praxis_sdk.errors import ValidationError
from praxis_sdk.states import FailureCategory


class CallRefusedError(ValidationError):
    """The server cannot be called as the contract asks; whoever wrote the contract must act.

    Args:
        category: what kind of failure that is.
        message, remedy: as in `PraxisError`.
    """

    def __init__(self, category: FailureCategory, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.category = category


class AnswerTooLargeError(Exception):
    """A server sent more bytes in one response than the run may produce."""


@dataclass(frozen=True)
class RemoteTool:
    """A tool that a server offers.

    Args:
        name: how it is called there.
        description: what the server says that it does.
        input_schema: JSON Schema of its arguments.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a tool answered.

    Args:
        failed: whether the tool reports an error.
        contents: the content objects of MCP, as JSON values.
        structured: the structured content; meaningful where `has_structure`.
        has_structure: whether there is structured content at all (it may be null).
    """

    failed: bool
    contents: tuple[Mapping[str, Any], ...]
    structured: Any = None
    has_structure: bool = False

    @classmethod
    def error(cls, message: str) -> Answer:
        """Make the answer of a tool that failed with a message."""
        return cls(failed=True, contents=({"type": "text", "text": message},))

    @property
    def text(self) -> str:
        """What a program would have written: plain text as it is, everything else as JSON.

        Structured content goes before contents, which repeat it for people; in a failure the contents
        go first, for they say what is wrong.
        """
        if self.has_structure and not (self.failed and self.contents):
            return _written(_unwrapped(self.structured, self.contents))
        if all(content.get("type") == "text" for content in self.contents):
            return "\n".join(str(content.get("text", "")) for content in self.contents)
        return _written(list(self.contents))


def _unwrapped(structured: Any, contents: tuple[Mapping[str, Any], ...]) -> Any:
    """Take a bare value out of the `{"result": ...}` that SDKs put around it; a tool's own object stays.

    A server repeats the structure in the contents (MCP specification, "Structured Content"): the object
    itself where the tool made the object, the value alone where it was wrapped.
    """
    if not isinstance(structured, dict) or set(structured) != {"result"}:
        return structured
    repeated = any(_parsed(content.get("text")) == structured for content in contents)
    return structured if repeated else structured["result"]


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
