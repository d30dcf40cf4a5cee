"""Records as PostgreSQL keeps them, where that differs from `store.rows`: labels, which an index looks into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from praxis_sdk.model import Execution
from praxis_sdk.store.encoding import from_json, from_text, to_json, to_text
from praxis_sdk.store.rows import STILL, Row, execution_of, execution_row

MAX_REMEMBERED: Final = 2048
_LABELS: Final = STILL.index("labels")
_ESCAPED: Final = "\\u0001"  # how jsonb prints what `to_text` begins an escape with


def labels_to_jsonb(labels: Mapping[str, str]) -> str:
    """Return labels as JSON that jsonb takes, which knows neither NUL nor half a surrogate pair."""
    return to_json({to_text(name): to_text(value) for name, value in labels.items()})


def row_of(execution: Execution) -> Row:
    """Return the values of `EXECUTION`."""
    row = execution_row(execution)
    if not execution.labels:
        return row
    return (*row[:_LABELS], labels_to_jsonb(execution.labels), *row[_LABELS + 1 :])


def execution_from(
    row: Sequence[Any],
    request: str | None = None,
    context: str | None = None,
    outputs: str | None = None,
    result: str | None = None,
) -> Execution:
    """Return the execution of a row; arguments as `rows.execution_of`."""
    execution = execution_of(row, request, context, outputs, result)
    if _ESCAPED not in row[_LABELS]:
        return execution
    labels = from_json(row[_LABELS])
    return execution.but(labels={from_text(name): from_text(value) for name, value in labels.items()})


class RowCache:
    """Executions that were read lately, by row: most rows of a round were in the round before it.

    Making a record of a row costs much more than comparing it. What is remembered is used only if the row is
    still the same to the last value, so it is never out of date.

    Args:
        limit: at most so many.
    """

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._known: dict[str, tuple[Sequence[Any], Execution]] = {}

    def execution_from(self, row: Sequence[Any]) -> Execution:
        """Return the execution of a row, without request and result."""
        known = self._known.get(row[0])
        if known is not None and known[0] == row:
            return known[1]
        execution = execution_from(row)
        if len(self._known) >= self._limit:
            self._known.clear()
        self._known[execution.id] = row, execution
        return execution


def whole_execution(row: Sequence[Any]) -> Execution:
    """Return the execution of a row of `EXECUTION` with request, context, outputs and result behind."""
    return execution_from(row, *row[-4:])
