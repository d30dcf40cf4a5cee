"""What is told of an execution: its context, how it stands, and what came of it (spec 4, "Data Models")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from praxis_sdk.control.lifecycle.submission import Window
from praxis_sdk.model import Execution, Failure
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionMode, ExecutionStatus, Priority
from praxis_sdk.store.changes import failure_to_json, usage_to_json


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """Everything that an execution is carried out with (spec 4, property 1).

    Args:
        execution_id: its id.
        kind: the kind of work.
        work: what runs, as its kind keeps it.
        execution_mode: how a procedure is executed; None for other kinds.
        priority: how much it matters.
        data_sources: what it reads from outside.
        agent_config: how its agent is made, where it has one.
        resource_requirements: what is reserved for it.
        schedule: its window, where it has one.
        created_at: when it was submitted.
    """

    execution_id: str
    kind: str
    work: Mapping[str, Any]
    execution_mode: ExecutionMode | None
    priority: Priority
    data_sources: tuple[str, ...]
    agent_config: Mapping[str, Any] | None
    resource_requirements: Resources
    schedule: Window | None
    created_at: datetime

    @classmethod
    def of(cls, execution: Execution) -> ExecutionContext:
        """Return the context of an execution that has its request."""
        terms, context = execution.terms, execution.context or {}
        windowed = terms.opens_at is not None or terms.closes_at is not None
        return cls(
            execution_id=execution.id,
            kind=execution.kind,
            work=execution.request or {},
            execution_mode=execution.mode,
            priority=terms.priority,
            data_sources=tuple(context.get("data_sources", ())),
            agent_config=context.get("agent_config"),
            resource_requirements=terms.requirements,
            schedule=Window(terms.opens_at, terms.closes_at) if windowed else None,
            created_at=moment(execution.submitted_at),
        )


@dataclass(frozen=True, slots=True)
class ExecutionInfo:
    """How an execution stands (spec 4, "Execution Status").

    Args:
        execution: the record, for whatever is not here.
        elapsed_s: for how long it has run since its first attempt began, in seconds.
    """

    execution: Execution
    elapsed_s: float

    @classmethod
    def of(cls, execution: Execution, now: float) -> ExecutionInfo:
        """Tell how an execution stands at a time."""
        return cls(execution, execution.elapsed_s(now))

    @property
    def execution_id(self) -> str:
        """Its id."""
        return self.execution.id

    @property
    def status(self) -> ExecutionStatus:
        """Where it stands."""
        return self.execution.status

    @property
    def progress(self) -> float:
        """How far it is, 0.0 to 1.0."""
        return self.execution.progress

    @property
    def started_at(self) -> datetime | None:
        """When its first attempt began."""
        return moment_or_none(self.execution.started_at)

    @property
    def completed_at(self) -> datetime | None:
        """When it ended."""
        return moment_or_none(self.execution.ended_at)

    @property
    def duration(self) -> float | None:
        """From its first attempt to its end, in seconds; None before."""
        return self.elapsed_s if self.execution.ended_at is not None else None

    @property
    def error(self) -> Failure | None:
        """Why it failed."""
        return self.execution.failure

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, for `--json`."""
        return execution_to_json(self.execution, self.elapsed_s)


def execution_to_json(execution: Execution, elapsed_s: float) -> dict[str, Any]:
    """Return an execution as JSON: times in ISO 8601, what is not known as null."""
    terms = execution.terms
    return {
        "id": execution.id,
        "kind": execution.kind,
        "control": execution.control,
        "mode": execution.mode,
        "status": execution.status,
        "reason": execution.reason,
        "priority": terms.priority,
        "class": terms.service_class,
        "progress": execution.progress,
        "elapsed_s": round(elapsed_s, 6),
        "submitted_at": iso(execution.submitted_at),
        "opens_at": iso(terms.opens_at),
        "closes_at": iso(terms.closes_at),
        "due_at": iso(execution.due_at),
        "queued_at": iso(execution.queued_at),
        "started_at": iso(execution.started_at),
        "ended_at": iso(execution.ended_at),
        "attempt": execution.attempt,
        "retries": execution.retries,
        "preemptions": execution.preemptions,
        "worker": execution.worker_id or None,
        "requirements": execution.granted.to_json(),
        "outputs": execution.outputs,
        "failure": failure_to_json(execution.failure) if execution.failure else None,
        "usage": usage_to_json(execution.usage) if execution.usage else None,
        "flags": list(execution.flags),
        "labels": dict(execution.labels),
        "batch": execution.batch_id,
        "parent": execution.parent_id,
        "schedule": execution.schedule_id,
        "idempotency_key": execution.idempotency_key,
    }


def moment(seconds: float) -> datetime:
    """Return a time that records keep as a date and time, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """Return a time as a date and time; None where there is none."""
    return None if seconds is None else moment(seconds)


def iso(seconds: float | None) -> str | None:
    """Return a time as ISO 8601 text with milliseconds; None where there is none."""
    return None if seconds is None else moment(seconds).isoformat(timespec="milliseconds")
