"""Errors as people and programs are told of them: one line, or one JSON object."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import Any, Final

import typer

from praxis_sdk.cli.terminal.interrupts import Interrupted
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import PlatformError, PraxisError, ValidationError

EXIT_USAGE: Final = ValidationError.exit_status
EXIT_PLATFORM: Final = PlatformError.exit_status

# "args.count: not an integer", "--timeout: ...": by convention a message names its field first.
_FIELD: Final = re.compile(r"(-{0,2}[A-Za-z][\w.\[\]-]*): ")


class UsageError(ValidationError):
    """The command line cannot be understood."""


def report(error: BaseException, streams: Streams, *, as_json: bool, debug: bool) -> int:
    """Tell of an error and return the exit status that it means.

    Args:
        error: what ended the command.
        streams: where to tell.
        as_json: on stdout for a program, not on stderr for people.
        debug: where the platform is to blame, with the traceback, on stderr.
    """
    document = describe(error)
    if debug and document["exit_status"] == EXIT_PLATFORM:
        streams.explain("".join(traceback.format_exception(error)))
    lines = _lines(error, document)
    if as_json:
        try:
            streams.emit_json({"error": document})
        except PlatformError as lost:
            lines.append(str(lost))
        else:
            lines = []
    for line in lines:
        streams.say(line, "bad")
    return int(document["exit_status"])


def describe(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON values: type, message, field where known, remedy, exit_status."""
    if isinstance(error, typer.TyperException):
        error = _usage_error(error)
    if isinstance(error, Interrupted):
        return _document("Cancelled", str(error), "", error.exit_status)
    if not isinstance(error, PraxisError):
        message = f"internal error: {type(error).__name__}: {error}".rstrip(": ")
        return _document(
            "InternalError", message, "set PRAXIS_DEBUG=1 and run again for the traceback", EXIT_PLATFORM
        )
    document = _document(type(error).__name__, error.message, error.remedy, error.exit_status)
    problems = getattr(error, "problems", ())
    field = problems[0].field if problems else _field(error)
    if field:
        document["field"] = field
    if problems:
        document["problems"] = [problem_document(problem) for problem in problems]
        document["warnings"] = [problem_document(warning) for warning in getattr(error, "warnings", ())]
    return document


def problem_document(problem: Any) -> dict[str, Any]:
    """Return a contract's problem as JSON values."""
    return {
        "file": problem.source,
        "line": problem.line,
        "field": problem.field,
        "message": problem.message,
        "remedy": problem.remedy,
    }


def _lines(error: BaseException, document: Mapping[str, Any]) -> list[str]:
    problems = getattr(error, "problems", ())
    if problems:
        warnings = getattr(error, "warnings", ())
        return [*map(str, problems), *(f"warning: {warning}" for warning in warnings)]
    remedy = document["remedy"]
    return [f"{document['message']} ({remedy})" if remedy else str(document["message"])]


def _document(name: str, message: str, remedy: str, exit_status: int) -> dict[str, Any]:
    return {"type": name, "message": message, "remedy": remedy, "exit_status": exit_status}


def _field(error: PraxisError) -> str:
    match = _FIELD.match(error.message) if isinstance(error, ValidationError) else None
    return match[1] if match else ""


def _usage_error(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "praxis"
    message = " ".join(error.format_message().split()).rstrip(".")
    return UsageError(message[:1].lower() + message[1:], remedy=f"see '{command} --help'")
