"""The records of the control plane: what an execution is, and everything that is kept of it.

Whatever runs (a tool, a job, later a workflow or an agent) is an `Execution`; its tries are `Attempt`s, and
what happened to it is its stream of `Event`s. Records are frozen; times are seconds since 1970.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import (
    ErrorType,
    ExecutionMode,
    ExecutionStatus,
    FailureCategory,
    Priority,
    ServiceClass,
)

MAX_RETRIES: Final = 3
FIRST_PAUSE_S: Final = 1.0
MAX_PREEMPTIONS: Final = 3
RETRYABLE: Final = frozenset({ErrorType.TRANSIENT, ErrorType.RESOURCE, ErrorType.CRASH})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or the execution, did not succeed.

    Args:
        category: who must act.
        error_type: whether trying again can help.
        code: a stable word for programs.
        message: one line for people.
        detail: a bounded traceback or crash log; may be empty.
    """

    category: FailureCategory
    error_type: ErrorType
    code: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt consumed; None where nobody can know.

    Args:
        wall_s: from its start to its end, in seconds.
        cpu_s: processor time of all its processes, in seconds.
        peak_memory_bytes: most memory in use at once.
        network_bytes: sent and received.
        storage_bytes: disk space at its end.
    """

    wall_s: float = 0.0
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    network_bytes: int | None = None
    storage_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after what pauses a failed execution is tried again (spec 4, property 26).

    Args:
        max_retries: attempts beyond the first.
        first_pause_s: pause before the first retry, in seconds; each later one is twice the one before.
        retry_on: the types of failure that are retried.
        resource_factor: by how much a failure for want of resources raises them.
        resource_cap: how much it can raise them to, times what was asked for first.
        retry_timeouts: whether an attempt whose time was up counts as transient.
        exit_codes: exit codes by which the work itself asks to be tried again, such as 75 of sysexits.h.
    """

    max_retries: int = MAX_RETRIES
    first_pause_s: float = FIRST_PAUSE_S
    retry_on: frozenset[ErrorType] = RETRYABLE
    resource_factor: float = 2.0
    resource_cap: float = 8.0
    retry_timeouts: bool = False
    exit_codes: frozenset[int] = frozenset()


NO_RETRIES: Final = RetryPolicy(max_retries=0)


@dataclass(frozen=True, slots=True)
class Options:
    """Under which terms an execution runs; they never change.

    Args:
        requirements: what is reserved for it.
        priority: how much it matters.
        service_class: whether somebody waits for it.
        opens_at: it does not start before; None: at once.
        closes_at: it should have ended by then; None: whenever.
        timeout_s: wall-clock limit of one attempt, in seconds; None: the work's own.
        expected_s: how long work of this control takes, in seconds; None where nothing is known.
        retry: what happens when it fails.
    """

    requirements: Resources = ZERO
    priority: Priority = Priority.NORMAL
    service_class: ServiceClass = ServiceClass.REAL_TIME
    opens_at: float | None = None
    closes_at: float | None = None
    timeout_s: float | None = None
    expected_s: float | None = None
    retry: RetryPolicy = RetryPolicy()


class Stop(StrEnum):
    """Why a running attempt shall end."""

    CANCEL = "cancel"  # somebody wants the execution's end
    PREEMPT = "preempt"  # its room is needed; the execution goes back to the queue


class Flag(StrEnum):
    """What somebody should look at."""

    LONG_RUNNING = "long_running"  # took more than twice as long as its control usually does
    ESCALATED = "escalated"  # its retries are used up
    CRASHED = "crashed"  # an attempt of it was lost with its worker or crashed
    WINDOW_MISSED = "window_missed"  # its window closed before it could start


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution: what was asked for, and where it stands.

    Args:
        id: its name, ordered by the time of its submission.
        kind: the kind of work, such as 'job'.
        control: what of that kind it runs; expectations and requirements are learned per control.
        request: what the kind runs; None where a list left it out.
        context: what the kind gathered for it: data sources, agent configuration; None as with `request`.
        terms: the terms it runs under.
        submitted_at: when it was accepted.
        mode: how a procedure is executed; None for other kinds.
        idempotency_key: a second submission under this key finds this execution.
        batch_id, parent_id, schedule_id: what it belongs to.
        labels: the submitter's own, to find it by.
        traceparent: the W3C trace that it belongs to; empty: one of its own.

        status: where it stands.
        reason: why, in one line.
        rank: its place in the queue, smaller first, in milliseconds.
        due_at: when a submitted one may be queued.
        queued_at: when it was last queued.
        started_at: when its first attempt began.
        attempt_at: when its current or last attempt began.
        ended_at: when it ended.
        worker_id: who holds it; empty where nobody does.
        token: fencing token of the last attempt, greater than all before it.
        granted: what is reserved for its attempts.
        attempt: attempts begun.
        retries: retries spent.
        preemptions: how often it was sent back to the queue for another's sake.
        stop: why its attempt shall end; None: it shall not.
        progress: 0.0 to 1.0, as the work tells.
        checkpoint_at: when the work last saved what it has; None: never.
        outputs: what it returned, JSON.
        result: the kind's whole account of the end, JSON.
        failure: why it failed, or why its last attempt did.
        usage: of its last attempt.
        flags: what somebody should look at.
        next_seq: sequence number of its next event.
        chain: hash of its last audit entry.
    """

    id: str
    kind: str
    control: str
    request: Mapping[str, Any] | None = field(repr=False)
    terms: Options
    submitted_at: float
    context: Mapping[str, Any] | None = field(default=None, repr=False)
    mode: ExecutionMode | None = None
    idempotency_key: str | None = None
    batch_id: str | None = None
    parent_id: str | None = None
    schedule_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    traceparent: str = ""

    status: ExecutionStatus = ExecutionStatus.SUBMITTED
    reason: str = ""
    rank: int = 0
    due_at: float | None = None
    queued_at: float | None = None
    started_at: float | None = None
    attempt_at: float | None = None
    ended_at: float | None = None
    worker_id: str = ""
    token: int = 0
    granted: Resources = ZERO
    attempt: int = 0
    retries: int = 0
    preemptions: int = 0
    stop: Stop | None = None
    progress: float = 0.0
    checkpoint_at: float | None = None
    outputs: Any = field(default=None, repr=False)
    result: Any = field(default=None, repr=False)
    failure: Failure | None = None
    usage: Usage | None = None
    flags: tuple[Flag, ...] = ()
    next_seq: int = 0
    chain: str = ""

    def but(self, **changes: Any) -> Execution:
        """Return this execution with some fields changed."""
        # By position: `dataclasses.replace` takes several times as long, and every change of state is one.
        values = list(_VALUES(self))
        for name, value in changes.items():
            values[_POSITIONS[name]] = value
        return Execution(*values)

    def elapsed_s(self, now: float) -> float:
        """Return for how long it has run since its first attempt began, in seconds."""
        return 0.0 if self.started_at is None else max(0.0, (self.ended_at or now) - self.started_at)


_FIELDS: Final = tuple(each.name for each in dataclasses.fields(Execution))
_VALUES: Final = attrgetter(*_FIELDS)
_POSITIONS: Final = {name: position for position, name in enumerate(_FIELDS)}


class AttemptEnd(StrEnum):
    """How one attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    RELEASED = "released"  # its worker ended in good order and gave it back
    LOST = "lost"  # its worker gave no sign of life


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at an execution.

    Args:
        execution_id: of which.
        number: 1 for the first.
        token: its fencing token.
        worker_id: who made it.
        started_at, ended_at: from when to when.
        ending: how it ended.
        failure: why it did not succeed.
        usage: what it consumed.
    """

    execution_id: str
    number: int
    token: int
    worker_id: str
    started_at: float
    ended_at: float
    ending: AttemptEnd
    failure: Failure | None = None
    usage: Usage | None = None


class EventType(StrEnum):
    """What an event tells."""

    STATUS = "status"  # the execution stands elsewhere now
    LOG = "log"  # a line, or a piece of output that the work wrote
    PROGRESS = "progress"  # how far it is
    ACTION = "action"  # something that the work or an agent did
    DECISION = "decision"  # a choice, with its reason
    DATA_ACCESS = "data_access"  # something outside was read or written
    RETRY = "retry"  # it is tried again
    ALERT = "alert"  # somebody should look
    PROOF = "proof"  # an attempt's processes are gone


WORK: Final = "work"  # the component of what the work itself wrote
# Kept for audit and chained by hash; the others are told apart as noise and may go earlier.
AUDITED: Final = frozenset(EventType) - {EventType.LOG, EventType.PROGRESS}


class Level(StrEnum):
    """How much an event matters (spec 4, "Log Entry Structure")."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before it has its place in a stream.

    Args:
        type: what it tells.
        message: one line for people.
        data: more, for programs; JSON.
        level: how much it matters.
        component: who tells it.
        at: when it happened; None: when it is written.
        chunk: a piece of output as it was written, of a log entry whose `data` names the stream; else empty.
    """

    type: EventType
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    level: Level = Level.INFO
    component: str = "control"
    at: float | None = None
    chunk: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of an execution's stream, which is append-only and numbered without gaps from 0.

    Args:
        execution_id: whose stream.
        seq: its place there.
        at: when it happened.
        type, message, data, level, component: as in `Draft`.
        hash: of this entry and the audit entry before it; empty where it is no audit entry.
        chunk: as in `Draft`.
    """

    execution_id: str
    seq: int
    at: float
    type: EventType
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    level: Level = Level.INFO
    component: str = "control"
    hash: str = ""
    chunk: bytes = field(default=b"", repr=False)


class WorkerState(StrEnum):
    """Whether a worker takes work."""

    ACTIVE = "active"
    DRAINING = "draining"  # ends when its work has ended
    GONE = "gone"  # ended in good order
    LOST = "lost"  # gave no sign of life for a lease


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    Args:
        id: its name; a worker that comes back after it was lost takes a new one.
        capacity: what it has.
        slots: how many attempts it runs at once at most.
        kinds: the kinds of work it can run.
        reserved: what its attempts hold.
        running: how many attempts it holds.
        state: whether it takes work.
        started_at: when it came.
        lease_until: when it counts as lost unless it gives a sign of life.
        host: the machine, for people.
    """

    id: str
    capacity: Resources
    slots: int
    kinds: frozenset[str]
    reserved: Resources = ZERO
    running: int = 0
    state: WorkerState = WorkerState.ACTIVE
    started_at: float = 0.0
    lease_until: float = 0.0
    host: str = ""

    @property
    def room(self) -> Resources:
        """What it has left."""
        return self.capacity - self.reserved


@dataclass(frozen=True, slots=True)
class CronSchedule:
    """Work that is submitted again and again.

    Args:
        id: its name, given by whoever adds it.
        cron: when, as five cron fields.
        timezone: where those count, such as 'Europe/Berlin'.
        work: what is submitted: kind, request and terms, as `submit` takes them.
        next_at: when it is due next; None: never again.
        last_at: when it was last submitted.
        last_execution_id: as what.
        created_at: when it was added.
        paused: nothing is submitted meanwhile.
    """

    id: str
    cron: str
    timezone: str
    work: Mapping[str, Any]
    next_at: float | None
    created_at: float
    last_at: float | None = None
    last_execution_id: str | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Executions that were submitted together.

    Args:
        id: its name.
        name: for people.
        created_at: when it was submitted.
        size: how many executions it has.
        opens_at, closes_at: its window.
    """

    id: str
    name: str
    created_at: float
    size: int
    opens_at: float | None = None
    closes_at: float | None = None
