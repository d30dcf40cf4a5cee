"""Submissions: what a submitter says, and the execution that is made of it; pure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.control.kinds import Plan
from praxis_sdk.control.lifecycle.transitions import rank_of
from praxis_sdk.control.observe.telemetry import traceparent_of
from praxis_sdk.errors import ValidationError
from praxis_sdk.ids import new_id
from praxis_sdk.model import Execution, Options, RetryPolicy
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionMode, ExecutionStatus, Priority, ServiceClass
from praxis_sdk.store.changes import request_digest

__all__ = ["Submission", "Window", "make_execution", "read_mode", "read_priority", "read_retry_policy"]

MAX_KEY_CHARS: Final = 256
MAX_LABELS: Final = 32
RETRY_OF: Final = "praxis.retry_of"  # label of an execution that a person asked to try again; beside those
MAX_RAISE: Final = 1000.0  # by how much at most a failure for want of resources raises them
LATEST: Final = 253_402_300_799.0  # the last second of the year 9999, which is as far as dates go
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Window:
    """When batch work may run; it starts inside this window, and ends there where its duration is known.

    Args:
        opens_at: not before, seconds since 1970; None: from now on.
        closes_at: not after; None: whenever.

    Raises:
        ValidationError: the window ends before it begins.
    """

    opens_at: float | None = None
    closes_at: float | None = None

    def __post_init__(self) -> None:
        for name in ("opens_at", "closes_at"):
            moment = getattr(self, name)
            if moment is not None and not (isinstance(moment, int | float) and 0 <= moment <= LATEST):
                raise ValidationError(f"schedule.{name}: {moment!r} is no time", remedy="seconds since 1970")
        if self.opens_at is not None and self.closes_at is not None and self.closes_at <= self.opens_at:
            raise ValidationError(
                "schedule.closes_at: the window ends before it begins", remedy="close it after it opens"
            )


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted.

    Args:
        kind: the kind of work.
        request: what the kind runs, JSON.
        requirements: what is reserved for it; None: what the kind says, or what history teaches.
        timeout_s: wall-clock limit of one attempt, in seconds; None: the kind's.
        retry: what happens when it fails; None: the kind's.
        batch: nobody waits for it.
        labels: to find it by.
        traceparent: the W3C trace that it belongs to.
        id: its id; made up where missing.
    """

    kind: str
    request: Mapping[str, Any] = field(repr=False)
    requirements: Resources | None = None
    timeout_s: float | None = None
    retry: RetryPolicy | None = None
    batch: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    traceparent: str = ""
    id: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Submission:
        """Read a submission as a program or a file writes it.

        Raises:
            ValidationError: a field is unknown or has the wrong form.
        """
        for name in document:
            if name not in _FIELDS:
                raise ValidationError(
                    f"{name}: not a field of a submission", remedy=f"known are {', '.join(_FIELDS)}"
                )
        kind, request = document.get("kind"), document.get("request")
        if not isinstance(kind, str) or not kind:
            raise ValidationError("kind: missing", remedy="say what kind of work it is, such as 'job'")
        if not isinstance(request, Mapping):
            raise ValidationError("request: missing or no object", remedy="give what the kind runs")
        values: dict[str, Any] = {"kind": kind, "request": request}
        if document.get("requirements") is not None:
            values["requirements"] = Resources.of(_object(document, "requirements"))
        if document.get("retry") is not None:
            values["retry"] = read_retry_policy(_object(document, "retry"))
        if document.get("timeout_s") is not None:
            values["timeout_s"] = _positive(document["timeout_s"], "timeout_s")
        for name, form in (("batch", bool), ("labels", Mapping), ("traceparent", str), ("id", str)):
            if document.get(name) is not None:
                if not isinstance(document[name], form):
                    raise ValidationError(f"{name}: {document[name]!r} has the wrong form")
                values[name] = document[name]
        for name, value in values.get("labels", {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise ValidationError(f"labels.{name}: must be text")
        return cls(**values)


_FIELDS: Final = tuple(one.name for one in dataclasses.fields(Submission))


def make_execution(
    work: Submission,
    plan: Plan,
    now: float,
    *,
    priority: Priority = Priority.NORMAL,
    schedule: Window | None = None,
    idempotency_key: str | None = None,
    requirements: Resources | None = None,
    expected_s: float | None = None,
    batch_id: str | None = None,
    parent: Execution | None = None,
    schedule_id: str | None = None,
) -> Execution:
    """Make the execution that a submission asks for (spec 4, property 1).

    Args:
        work: what was submitted.
        plan: what its kind makes of it.
        now: seconds since 1970.
        requirements, expected_s: what history teaches of this control.
        parent: the execution that submits it.

    Raises:
        ValidationError: a term has the wrong form, or the window has passed.
    """
    _check(work, idempotency_key)
    service_class = ServiceClass.BATCH if work.batch or schedule is not None else ServiceClass.REAL_TIME
    opens_at = schedule.opens_at if schedule else None
    closes_at = schedule.closes_at if schedule else None
    if closes_at is not None and closes_at <= now:
        raise ValidationError("schedule.closes_at: the window has passed", remedy="choose a later one")
    terms = Options(
        requirements=work.requirements or requirements or plan.requirements,
        priority=priority,
        service_class=service_class,
        opens_at=opens_at,
        closes_at=closes_at,
        timeout_s=work.timeout_s if work.timeout_s is not None else plan.timeout_s,
        expected_s=expected_s,
        retry=work.retry or plan.retry,
    )
    windowed = schedule is not None and (closes_at is not None or (opens_at is not None and opens_at > now))
    return Execution(
        id=work.id or new_id(),
        kind=work.kind,
        control=plan.control,
        request=plan.request,
        context=_context(plan, now, learned=None if work.requirements else requirements),
        terms=terms,
        submitted_at=now,
        mode=plan.mode,
        idempotency_key=idempotency_key,
        batch_id=batch_id,
        parent_id=parent.id if parent else None,
        schedule_id=schedule_id,
        labels=dict(work.labels),
        traceparent=work.traceparent or (str(traceparent_of(parent)) if parent else ""),
        status=ExecutionStatus.SUBMITTED if windowed else ExecutionStatus.QUEUED,
        rank=rank_of(priority, service_class, now),
        due_at=max(now, opens_at or now) if windowed else None,
        queued_at=None if windowed else now,
        granted=terms.requirements,
    )


def read_retry_policy(document: Mapping[str, Any]) -> RetryPolicy:
    """Read a retry policy as a person writes it, by the fields of `RetryPolicy`.

    Raises:
        ValidationError: a field is unknown or has the wrong form.
    """
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name == "max_retries":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100:
                raise ValidationError(f"retry.max_retries: {value!r} is not a whole number from 0 to 100")
            values[name] = value
        elif name == "retry_timeouts":
            if not isinstance(value, bool):
                raise ValidationError(f"retry.retry_timeouts: {value!r} is neither true nor false")
            values[name] = value
        elif name == "first_pause_s":
            values[name] = _positive(value, "retry.first_pause_s")
        elif name in ("resource_factor", "resource_cap"):
            values[name] = _positive(value, f"retry.{name}")
            if not 1 <= values[name] <= MAX_RAISE:
                raise ValidationError(f"retry.{name}: {value!r} is not a number from 1 to {MAX_RAISE:g}")
        elif name == "exit_codes":
            if not isinstance(value, list | tuple | frozenset) or not all(map(_is_failing_exit, value)):
                raise ValidationError(
                    f"retry.exit_codes: {value!r} is not a list of exit codes",
                    remedy="write numbers from 1 to 255",
                )
            values[name] = frozenset(value)
        elif name == "retry_on":
            try:
                values[name] = frozenset(ErrorType(one) for one in value)
            except (TypeError, ValueError) as error:
                raise ValidationError(
                    f"retry.retry_on: {value!r} is no list of types",
                    remedy=f"choose from {', '.join(ErrorType)}",
                ) from error
        else:
            known = ", ".join(one.name for one in dataclasses.fields(RetryPolicy))
            raise ValidationError(f"retry.{name}: unknown", remedy=f"known are {known}")
    if values.get("exit_codes"):  # an exit code that asks for another try counts as transient
        values["retry_on"] = values.get("retry_on", RetryPolicy().retry_on) | {ErrorType.TRANSIENT}
    return RetryPolicy(**values)


def read_mode(mode: ExecutionMode | str | None) -> ExecutionMode | None:
    """Read an execution mode.

    Raises:
        ValidationError: there is no such mode.
    """
    if mode is None or isinstance(mode, ExecutionMode):
        return mode
    try:
        return ExecutionMode(mode.lower())
    except ValueError as error:
        raise ValidationError(
            f"mode: there is no '{mode[:64]}'", remedy=f"choose from {', '.join(ExecutionMode)}"
        ) from error


def read_priority(priority: Priority | str) -> Priority:
    """Read a priority.

    Raises:
        ValidationError: there is no such priority.
    """
    try:
        return Priority(str(priority).lower())
    except ValueError as error:
        raise ValidationError(
            f"priority: there is no '{str(priority)[:64]}'", remedy=f"choose from {', '.join(Priority)}"
        ) from error


def _context(plan: Plan, now: float, *, learned: Resources | None) -> dict[str, Any]:
    context: dict[str, Any] = {"request_digest": request_digest(plan.request), "created_at": now}
    if learned is not None and learned != plan.requirements:
        context["requirements_asked"] = plan.requirements.to_json()  # what is reserved, history taught
    if plan.version:
        context["version"] = plan.version
    if plan.agent_id:
        context["agent_id"] = plan.agent_id
    if plan.data_sources:
        context["data_sources"] = list(plan.data_sources)
    if plan.agent_config is not None:
        context["agent_config"] = dict(plan.agent_config)
    return context


def _check(work: Submission, idempotency_key: str | None) -> None:
    if work.id is not None and not _ID.fullmatch(work.id):
        raise ValidationError(
            f"id: {work.id[:140]!r} is no id", remedy="use up to 128 letters, digits, '_', '.', ':', '-'"
        )
    if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_KEY_CHARS:
        raise ValidationError(f"idempotency_key: must have 1 to {MAX_KEY_CHARS} characters")
    if len(work.labels.keys() - {RETRY_OF}) > MAX_LABELS:
        raise ValidationError(f"labels: {len(work.labels)}, and at most {MAX_LABELS} are kept")
    for name, value in work.labels.items():
        if len(name) + len(value) > MAX_KEY_CHARS:
            raise ValidationError(f"labels.{name[:64]}: longer than {MAX_KEY_CHARS} characters with its name")
    if work.traceparent and not _TRACEPARENT.fullmatch(work.traceparent):
        raise ValidationError("traceparent: not of the W3C form", remedy="leave it out for a new trace")


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document[name]
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name}: {value!r} is no object")
    return value


def _is_failing_exit(code: object) -> bool:
    return isinstance(code, int) and not isinstance(code, bool) and 1 <= code <= 255


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValidationError(f"{name}: {value!r} is not a number above 0")
    return float(value)
