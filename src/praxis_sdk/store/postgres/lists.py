"""Reading: what is found by filters. A filter becomes those conditions that it has, so that plans fit it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from praxis_sdk.states import FINAL
from praxis_sdk.store.encoding import to_text
from praxis_sdk.store.postgres.statements import statement
from praxis_sdk.store.postgres.values import labels_to_jsonb
from praxis_sdk.store.protocol import EventFilter, ExecutionFilter


@dataclass(slots=True)
class Conditions:
    """Conditions of a statement with their parameters; what is None is no condition."""

    texts: list[str] = field(default_factory=list)
    arguments: list[Any] = field(default_factory=list)

    def add(self, text: str, argument: Any) -> None:
        """Add a condition with one parameter, `?`."""
        if argument is not None:
            self.texts.append(text.replace("?", self.parameter(argument)))

    def equal(self, **columns: Any) -> None:
        """Add that each column is exactly so."""
        for column, argument in columns.items():
            self.add(f"e.{column} = ?", argument)

    def among(self, column: str, wanted: Iterable[Any]) -> None:
        """Add that a column is any of some; none at all is no condition."""
        if found := sorted(map(str, wanted)):
            self.add(f"{column} = ANY (?::text[])", found)

    def parameter(self, argument: Any) -> str:
        """Add a parameter; return how the statement calls it."""
        self.arguments.append(argument)
        return f"${len(self.arguments)}"

    def where(self) -> str:
        """Return the WHERE of the statement."""
        return f" WHERE {' AND '.join(self.texts)}" if self.texts else ""


def find(wanted: ExecutionFilter, limit: int, before: str | None) -> tuple[str, list[Any]]:
    """Return the statement and arguments that find executions, the youngest first."""
    conditions = Conditions()
    conditions.equal(
        kind=wanted.kind,
        control=wanted.control,
        batch_id=wanted.batch_id,
        parent_id=wanted.parent_id,
        schedule_id=wanted.schedule_id,
    )
    conditions.among("e.status", wanted.statuses)
    if wanted.statuses and wanted.statuses <= FINAL:
        finals = ", ".join(f"'{status}'" for status in FINAL)
        conditions.texts.append(f"e.status IN ({finals})")  # what the index of final ones is limited to
    conditions.add("e.worker_id = ?", wanted.worker_id)
    if wanted.worker_id:
        conditions.texts.append("e.worker_id <> ''")  # what its index is limited to
    if wanted.labels:
        conditions.add("e.labels @> ?::text::jsonb", labels_to_jsonb(wanted.labels))
        conditions.texts.append("e.labels <> '{}'")
    conditions.add("e.submitted_at >= ?", wanted.since)
    conditions.add("e.submitted_at < ?", wanted.until)
    conditions.add("e.ended_at >= ?", wanted.ended_since)
    conditions.add("e.ended_at < ?", wanted.ended_until)
    if wanted.flagged is not None:
        conditions.texts.append("e.flags <> ''" if wanted.flagged else "e.flags = ''")
    conditions.add("e.id < ?", before)
    number = conditions.parameter(limit)
    return f"{_base('find')}{conditions.where()} ORDER BY e.id DESC LIMIT {number}", conditions.arguments


def query_events(wanted: EventFilter, limit: int) -> tuple[str, list[Any]]:
    """Return the statement and arguments that find events, the latest first."""
    conditions = Conditions()
    conditions.equal(control=wanted.control)
    conditions.among("e.status", wanted.statuses)
    base = "query_events_of" if conditions.texts else "query_events"
    conditions.add("event.execution_id = ?", wanted.execution_id)
    if wanted.component is not None:
        conditions.add("event.component = ?", to_text(wanted.component))
    conditions.among("event.type", wanted.types)
    conditions.among("event.level", wanted.levels)
    conditions.add("event.at >= ?", wanted.since)
    conditions.add("event.at < ?", wanted.until)
    number = conditions.parameter(limit)
    order = "event.at DESC, event.execution_id DESC, event.seq DESC"
    return f"{_base(base)}{conditions.where()} ORDER BY {order} LIMIT {number}", conditions.arguments


def _base(name: str) -> str:
    return statement(name).removesuffix(";")
