"""Filters as SQL: which index leads, and what is then checked row by row; values are always parameters."""

# ruff: noqa: S608 - what is put together here are column names and statuses of this package, never values

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from praxis_sdk.model import EventType, Level
from praxis_sdk.states import FINAL, HELD, ExecutionStatus
from praxis_sdk.store import rows
from praxis_sdk.store.encoding import to_json, to_text
from praxis_sdk.store.protocol import EventFilter, ExecutionFilter

# What the partial indexes cover, in the very words of the schema: only so does the planner use them.
_SUBMITTED: Final = "SELECT id FROM executions WHERE status = 'submitted'"
_QUEUED: Final = "SELECT id FROM executions WHERE status = 'queued'"
_HELD: Final = "SELECT id FROM executions WHERE status IN ('running', 'cancelling') AND status IN ({})"
_UNSUCCESSFUL: Final = (
    "SELECT id FROM executions WHERE status IN ('completed_with_errors', 'partially_completed', 'failed',"
    " 'timed_out', 'cancelled') AND status IN ({})"
)

RARE_TYPES: Final = frozenset({EventType.ALERT, EventType.DATA_ACCESS, EventType.DECISION, EventType.RETRY})
TROUBLES: Final = frozenset({Level.WARN, Level.ERROR})
_RARE: Final = "v.type IN ('alert', 'data_access', 'decision', 'retry')"
_TROUBLES: Final = "v.level IN ('warn', 'error')"


def find_executions(wanted: ExecutionFilter, limit: int, before: str | None) -> tuple[str, dict[str, Any]]:
    """Return the query of a list of executions, the youngest first, with its parameters."""
    where: list[str] = []
    values: dict[str, Any] = {"limit": limit}
    for name in ("kind", "control", "batch_id", "parent_id", "worker_id", "schedule_id"):
        value = getattr(wanted, name)
        if value is not None:
            # A plus keeps the planner from an index that would lead badly.
            where.append(f"{'+' if name == 'kind' else ''}{name} = :{name}")
            values[name] = value
    if wanted.worker_id:  # nothing else has a worker
        where.append("status IN ('running', 'cancelling')")
    if wanted.statuses:
        where.append(_status_condition(wanted.statuses))
    for number, (name, value) in enumerate((wanted.labels or {}).items()):
        where.append(
            f"id IN (SELECT execution_id FROM labels WHERE name = :name{number} AND value = :value{number})"
        )
        values |= {f"name{number}": name, f"value{number}": value}
    for column, operator, value, name in (
        ("submitted_at", ">=", wanted.since, "since"),
        ("submitted_at", "<", wanted.until, "until"),
        ("ended_at", ">=", wanted.ended_since, "ended_since"),
        ("ended_at", "<", wanted.ended_until, "ended_until"),
    ):
        if value is not None:
            where.append(f"{column} {operator} :{name}")
            values[name] = value
    if wanted.flagged is not None:
        where.append("flags <> ''" if wanted.flagged else "flags = ''")
    if before is not None:
        where.append("id < :before")
        values["before"] = before
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    columns = rows.columns(rows.EXECUTION)
    return f"SELECT {columns} FROM executions{condition} ORDER BY id DESC LIMIT :limit", values


def executions_of_events(wanted: EventFilter) -> tuple[str, dict[str, Any]] | None:
    """Return the query of the executions whose events are wanted, where the filter says so by their fields."""
    where: list[str] = []
    values: dict[str, Any] = {}
    if wanted.control is not None:
        where.append("control = :control")
        values["control"] = wanted.control
    if wanted.statuses:
        where.append(_status_condition(wanted.statuses))
    return (f"SELECT id FROM executions WHERE {' AND '.join(where)}", values) if where else None


def find_events(wanted: EventFilter, limit: int, *, few: bool) -> tuple[str, dict[str, Any]]:
    """Return the query of a list of events, the latest first, with its parameters.

    Args:
        wanted: which.
        limit: at most so many.
        few: few executions match, so that it is better to go through theirs than through all events.
    """
    where: list[str] = []
    values: dict[str, Any] = {"limit": limit}
    if wanted.execution_id is not None:
        where.append("v.execution_id = :execution_id")
        values["execution_id"] = wanted.execution_id
    if wanted.component is not None:
        where.append("v.component = :component")
        values["component"] = to_text(wanted.component)
    for name, members, kept, index in (
        ("type", wanted.types, RARE_TYPES, _RARE),
        ("level", wanted.levels, TROUBLES, _TROUBLES),
    ):
        if members:
            where.append(f"v.{name} IN (SELECT value FROM json_each(:{name}s))")
            values[f"{name}s"] = to_json(sorted(members))
            if members <= kept:
                where.append(index)
    for operator, moment, name in ((">=", wanted.since, "since"), ("<", wanted.until, "until")):
        if moment is not None:
            where.append(f"v.at {operator} :{name}")
            values[name] = moment
    if (of := executions_of_events(wanted)) is not None:
        query, more = of
        where.append(f"v.execution_id IN ({query})" if few else f"EXISTS ({query} AND id = v.execution_id)")
        values |= more
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    columns = rows.columns(rows.EVENT, "v")
    order = "v.at DESC, v.execution_id DESC, v.seq DESC"
    return f"SELECT {columns} FROM events v{condition} ORDER BY {order} LIMIT :limit", values


def _status_condition(statuses: frozenset[ExecutionStatus]) -> str:
    """Return a condition that reaches rare statuses by the indexes that hold them alone."""
    if ExecutionStatus.COMPLETED in statuses:
        return f"+status IN ({_listed(statuses)})"  # what is common is found by looking from the youngest on
    parts = []
    if ExecutionStatus.SUBMITTED in statuses:
        parts.append(_SUBMITTED)
    if ExecutionStatus.QUEUED in statuses:
        parts.append(_QUEUED)
    if held := statuses & HELD:
        parts.append(_HELD.format(_listed(held)))
    if unsuccessful := statuses & FINAL:
        parts.append(_UNSUCCESSFUL.format(_listed(unsuccessful)))
    return f"id IN ({' UNION ALL '.join(parts)})"


def _listed(statuses: Collection[ExecutionStatus]) -> str:
    """Return statuses as literals, which the planner can compare with those of the partial indexes."""
    return ", ".join(f"'{status}'" for status in sorted(statuses))
