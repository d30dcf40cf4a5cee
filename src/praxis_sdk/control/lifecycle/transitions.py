"""The transitions of an execution's life cycle: each a named function that returns a guarded change.

    submit --> submitted --release--> queued --start--> running --finish--> completed, failed, timed_out ...
                   ^                    ^                 | |
                   |'------- retry -----|-----------------' |--give_back, requeue_preempted--> queued
                   '--------------------'                   '--cancel--> cancelling --finish--> cancelled
                                        running, cancelling --hold_unconfirmed--> cancelling, held by no worker
                                                   --confirm--> cancelled, or what its attempt came to
    submitted, queued --miss_window--> failed

Nothing else changes a status. A change that comes too late does not hold, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from praxis_sdk.model import AttemptEnd, EventType, Execution, Failure, Flag, Level, NewEvent, Stop, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import (
    HELD,
    PENDING,
    ErrorType,
    ExecutionStatus,
    FailureCategory,
    Priority,
    ServiceClass,
)
from praxis_sdk.store.changes import Change, failure_to_json, usage_to_json

# How much later an execution stands in the queue for each step down, in seconds: so waiting that long lifts
# an execution by one step (ageing), nothing starves, and the order needs no recomputation as time passes.
AGEING_STEP_S: Final = 600.0
WINDOW_MISSED: Final = "window_missed"
_STEPS: Final = {Priority.CRITICAL: 0, Priority.HIGH: 1, Priority.NORMAL: 2, Priority.LOW: 3}
_BATCH_STEPS: Final = len(_STEPS)  # all batch work stands behind all real-time work of its time


def rank_of(priority: Priority, service_class: ServiceClass, at: float) -> int:
    """Return a place in the queue, smaller first: real-time before batch, then priority, then age.

    Args:
        at: since when it waits, seconds since 1970.

    Returns:
        Milliseconds; two executions that differ by one step of priority swap places when one has waited
        `AGEING_STEP_S` longer (spec 4, property 18; DESIGN, scheduler).
    """
    steps = _STEPS[priority] + (_BATCH_STEPS if service_class is ServiceClass.BATCH else 0)
    return round((at + steps * AGEING_STEP_S) * 1000)


def release(execution: Execution, now: float) -> Change:
    """Queue an execution whose time has come."""
    update: dict[str, Any] = {
        "status": ExecutionStatus.QUEUED,
        "queued_at": now,
        "due_at": None,
        "reason": "",
    }
    if execution.attempt == 0:  # one that is tried again keeps its place
        update["rank"] = rank_of(execution.terms.priority, execution.terms.service_class, now)
    return Change(execution.id, frozenset({ExecutionStatus.SUBMITTED}), execution.token, update)


def postpone(execution: Execution, due_at: float, reason: str) -> Change:
    """Let a submitted execution wait until another time, inside its window."""
    decision = NewEvent(EventType.DECISION, reason, {"due_at": due_at}, component="scheduler")
    update = {"due_at": due_at}
    return Change(execution.id, frozenset({ExecutionStatus.SUBMITTED}), execution.token, update, (decision,))


def miss_window(execution: Execution, now: float) -> Change:
    """End an execution that waits and whose window has closed: it never starts outside (spec 4, property 37)."""
    closes_at = execution.terms.closes_at
    again = f" again after attempt {execution.attempt}" if execution.attempt else ""
    message = f"its window closed before it could start{again}"
    failure = Failure(
        FailureCategory.INTERNAL_ERROR,
        ErrorType.PERMANENT,
        WINDOW_MISSED,
        message,
        execution.failure.message if execution.failure else execution.reason,
    )
    data = {"alert": WINDOW_MISSED, "closes_at": closes_at, "failure": failure_to_json(failure)}
    update: dict[str, Any] = {
        "status": ExecutionStatus.FAILED,
        "reason": message,
        "ended_at": now,
        "due_at": None,
        "failure": failure,
        "flags": (*execution.flags, Flag.WINDOW_MISSED),
    }
    told = NewEvent(EventType.ALERT, message, data, Level.ERROR, "scheduler")
    return Change(execution.id, PENDING, execution.token, update, (told,))


def window_closed(execution: Execution, now: float) -> bool:
    """Whether it is too late for an execution to start."""
    closes_at = execution.terms.closes_at
    return closes_at is not None and closes_at <= now


def start(execution: Execution, worker_id: str, now: float) -> Change:
    """Begin an attempt on a worker, and reserve what the execution needs there."""
    update: dict[str, Any] = {
        "status": ExecutionStatus.RUNNING,
        "reason": "",
        "worker_id": worker_id,
        "token": execution.token + 1,
        "attempt": execution.attempt + 1,
        "attempt_at": now,
        "stop": None,
    }
    if execution.started_at is None:
        update["started_at"] = now
    return Change(execution.id, frozenset({ExecutionStatus.QUEUED}), execution.token, update)


def begin_at_once(execution: Execution, worker_id: str, now: float) -> Change:
    """Begin an attempt of a submitted execution without queueing it: its submitter runs it himself."""
    change = start(execution, worker_id, now)
    update = {**change.update, "due_at": None}
    return replace(change, when=frozenset({ExecutionStatus.SUBMITTED}), update=update, actor="submitter")


def preempt(execution: Execution, for_id: str) -> Change:
    """Have a running batch attempt stopped, because its room is needed for a real-time execution."""
    message = f"preempted by {for_id}"
    decision = NewEvent(EventType.DECISION, message, {"for": for_id}, component="scheduler")
    return Change(
        execution.id,
        frozenset({ExecutionStatus.RUNNING}),
        execution.token,
        {"stop": Stop.PREEMPT},
        (decision,),
    )


def requeue_preempted(execution: Execution, events: Sequence[NewEvent], usage: Usage | None) -> Change:
    """Queue a preempted execution again, at its old place, without spending a retry."""
    update: dict[str, Any] = {
        "status": ExecutionStatus.QUEUED,
        "reason": "preempted",
        "worker_id": "",
        "stop": None,
        "preemptions": execution.preemptions + 1,
        "usage": usage,
    }
    running = frozenset({ExecutionStatus.RUNNING})
    return Change(execution.id, running, execution.token, update, tuple(events), AttemptEnd.PREEMPTED)


def give_back(execution: Execution, reason: str, events: Sequence[NewEvent] = ()) -> Change:
    """Queue an execution again whose worker ends in good order, without spending a retry."""
    update: dict[str, Any] = {
        "status": ExecutionStatus.QUEUED,
        "reason": reason,
        "worker_id": "",
        "stop": None,
    }
    running = frozenset({ExecutionStatus.RUNNING})
    return Change(execution.id, running, execution.token, update, tuple(events), AttemptEnd.RELEASED)


def cancel_waiting(execution: Execution, reason: str, now: float, actor: str) -> Change:
    """End an execution that no worker holds."""
    update = {"status": ExecutionStatus.CANCELLED, "reason": reason, "ended_at": now, "due_at": None}
    return Change(execution.id, PENDING, execution.token, update, actor=actor)


def cancel_running(execution: Execution, reason: str, actor: str) -> Change:
    """Ask for the end of a running attempt; whatever it says from now on, the execution ends cancelled."""
    update = {"status": ExecutionStatus.CANCELLING, "reason": reason, "stop": Stop.CANCEL}
    running = frozenset({ExecutionStatus.RUNNING})
    return Change(execution.id, running, execution.token, update, actor=actor)


def finish_cancelled(
    execution: Execution,
    now: float,
    events: Sequence[NewEvent],
    usage: Usage | None,
    failure: Failure | None = None,
) -> Change:
    """End an execution whose cancellation was asked for, once its attempt is dead."""
    update: dict[str, Any] = {
        "status": ExecutionStatus.CANCELLED,
        "ended_at": now,
        "worker_id": "",
        "stop": None,
        "usage": usage,
        "failure": failure,
    }
    cancelling = frozenset({ExecutionStatus.CANCELLING})
    return Change(execution.id, cancelling, execution.token, update, tuple(events), AttemptEnd.CANCELLED)


def hold_unconfirmed(
    execution: Execution,
    reason: str,
    events: Sequence[NewEvent],
    *,
    failure: Failure | None = None,
    usage: Usage | None = None,
    outputs: Any = None,
    result: Any = None,
) -> Change:
    """Keep an execution `cancelling`, held by no worker, whose attempt is over and not confirmed to be gone."""
    update: dict[str, Any] = {
        "status": ExecutionStatus.CANCELLING,
        "reason": reason,
        "worker_id": "",
        "failure": failure,
        "usage": usage,
        "outputs": outputs,
        "result": result,
    }
    return Change(execution.id, HELD, execution.token, update, tuple(events))


def cancel_unconfirmed(execution: Execution, reason: str, actor: str) -> Change:
    """Have an execution end cancelled, whatever its attempt came to, once that is confirmed to be gone."""
    cancelling = frozenset({ExecutionStatus.CANCELLING})
    update = {"reason": reason, "stop": Stop.CANCEL}
    return Change(execution.id, cancelling, execution.token, update, actor=actor)


def confirm(change: Change, proof: NewEvent) -> Change:
    """Let a change hold for an execution whose attempt is now confirmed to be gone, and write the proof.

    Args:
        change: what becomes of it, computed as if its attempt had just ended.
        proof: the proof of termination.
    """
    when = frozenset({ExecutionStatus.CANCELLING})
    update = {"outputs": None, "result": None, **change.update}  # of an attempt that does not count after all
    return replace(change, when=when, update=update, events=(proof, *change.events), actor="pursuit")


def finish(
    execution: Execution,
    now: float,
    status: ExecutionStatus,
    *,
    outputs: Any = None,
    result: Any = None,
    failure: Failure | None = None,
    usage: Usage | None = None,
    events: Sequence[NewEvent] = (),
    flags: Sequence[Flag] = (),
    ending: AttemptEnd | None = None,
) -> Change:
    """End an execution by what its attempt came to."""
    assert status.final, "only a final status ends an execution"
    update: dict[str, Any] = {
        "status": status,
        "reason": failure.message if failure else "",
        "ended_at": now,
        "worker_id": "",
        "stop": None,
        "outputs": outputs,
        "result": result,
        "failure": failure,
        "usage": usage,
    }
    if status.succeeded:
        update["progress"] = 1.0
    if flags:
        update["flags"] = (*execution.flags, *(flag for flag in flags if flag not in execution.flags))
    if usage is not None:
        events = (*events, NewEvent(EventType.ACTION, "usage", usage_to_json(usage)))
    running = frozenset({ExecutionStatus.RUNNING})
    ended = _ending_of(status) if ending is None else ending
    return Change(execution.id, running, execution.token, update, tuple(events), ended)


def retry(
    execution: Execution,
    failure: Failure,
    due_at: float,
    *,
    granted: Resources | None = None,
    usage: Usage | None = None,
    events: Sequence[NewEvent] = (),
    ending: AttemptEnd = AttemptEnd.FAILED,
) -> Change:
    """Have a failed execution tried again after a pause, with more resources where `granted` says so."""
    number = execution.retries + 1
    pause_until = {"due_at": due_at, "retry": number, "failure": failure_to_json(failure)}
    message = f"retry {number} of {execution.terms.retry.max_retries}: {failure.message}"
    told = NewEvent(EventType.RETRY, message, pause_until, Level.WARN, "failure-policy")
    update: dict[str, Any] = {
        "status": ExecutionStatus.SUBMITTED,
        "reason": f"waits for retry {number}: {failure.message}",
        "due_at": due_at,
        "worker_id": "",
        "stop": None,
        "retries": number,
        "failure": failure,
        "usage": usage,
    }
    if granted is not None:
        update["granted"] = granted
    running = frozenset({ExecutionStatus.RUNNING})
    return Change(execution.id, running, execution.token, update, (*events, told), ending)


def note(execution_id: str, events: Sequence[NewEvent], *, token: int | None = None, **update: Any) -> Change:
    """Append events, and tell progress, a checkpoint or flags beside them; a status does not change so."""
    assert "status" not in update, "a status changes by a transition of its own"
    return Change(execution_id, HELD if token is not None else frozenset(), token, update, tuple(events))


def _ending_of(status: ExecutionStatus) -> AttemptEnd:
    if status is ExecutionStatus.TIMED_OUT:
        return AttemptEnd.TIMED_OUT
    return AttemptEnd.FAILED if status is ExecutionStatus.FAILED else AttemptEnd.COMPLETED
