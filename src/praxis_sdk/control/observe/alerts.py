"""What people are told of: pure functions from what is seen to alerts, each of which is raised once.

The caller writes an alert of an execution to its stream, hands every alert to the notifiers, and keeps the two
small records that remember what was told already: the execution's flags, and `Raised` for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from praxis_sdk.control.lifecycle.failure_policy import RETRIES_EXHAUSTED
from praxis_sdk.control.lifecycle.transitions import WINDOW_MISSED
from praxis_sdk.control.workers.breaker import BreakerChange, BreakerState
from praxis_sdk.model import EventType, Execution, Failure, Flag, Level, NewEvent
from praxis_sdk.states import FINAL, HELD
from praxis_sdk.store.changes import Change
from praxis_sdk.termination import Remains

LONG_RUNNING_FACTOR: Final = 2.0
QUEUE_DEPTH: Final = 1000
QUEUE_CLEARED: Final = 0.8
REPEAT_S: Final = 3600.0
MAX_RAISED: Final = 10_000


class AlertKind(StrEnum):
    """What an alert is about."""

    LONG_RUNNING = "long_running"  # an execution takes more than twice as long as its control usually does
    RETRIES_EXHAUSTED = RETRIES_EXHAUSTED  # an execution failed for good although it was tried again
    WINDOW_MISSED = WINDOW_MISSED  # the window of an execution closed before it could start
    QUEUE_DEPTH = "queue_depth"  # more waits than the workers can be expected to clear
    WORKER_LOST = "worker_lost"  # a worker gave no sign of life
    TERMINATION_UNCONFIRMED = "termination_unconfirmed"  # what was ended may still run
    BREAKER_OPEN = "breaker_open"  # a dependency fails too often and is left alone


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody should look at.

    Args:
        kind: what it is about.
        subject: the execution, worker or dependency; what is told once is told once per kind and subject.
        message: one line for people; no arguments of the work, no secrets.
        at: when it was noticed, seconds since 1970.
        level: how much it matters.
        execution_id: whose stream it belongs in; empty: nobody's.
        data: more, for programs; JSON.
    """

    kind: AlertKind
    subject: str
    message: str
    at: float
    level: Level = Level.WARN
    execution_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells it from others: the same key is the same trouble."""
        return f"{self.kind}:{self.subject}"

    def to_json(self) -> dict[str, Any]:
        """Return the alert as JSON."""
        return {
            "kind": str(self.kind),
            "key": self.key,
            "subject": self.subject,
            "message": self.message,
            "at": self.at,
            "level": str(self.level),
            "execution_id": self.execution_id,
            "data": dict(self.data),
        }


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When an alert is raised.

    Args:
        long_running_factor: times the expected duration (spec 4, property 23).
        long_running_least_s: what runs for less than this is not looked at, in seconds: where milliseconds are
            expected, twice as many are the machine's doing.
        queue_depth: more queued executions than this are too many.
        queue_cleared: the part of `queue_depth` that the queue must fall to before it can raise another alert.
        repeat_s: the same trouble is told again after so many seconds.
    """

    long_running_factor: float = LONG_RUNNING_FACTOR
    long_running_least_s: float = 0.0
    queue_depth: int = QUEUE_DEPTH
    queue_cleared: float = QUEUE_CLEARED
    repeat_s: float = REPEAT_S


DEFAULT_POLICY: Final = AlertPolicy()


def draft_of(alert: Alert) -> NewEvent:
    """Return an alert as an event of an execution's stream."""
    data = {"alert": str(alert.kind), **alert.data}
    return NewEvent(EventType.ALERT, alert.message, data, alert.level, "monitor", alert.at)


# -- executions


def long_running(
    executions: Iterable[Execution], now: float, policy: AlertPolicy = DEFAULT_POLICY
) -> list[tuple[Alert, Change]]:
    """Find executions that take, or took, too long (spec 4, property 23).

    Args:
        executions: running or ended ones; those that wait, are flagged already, or of whose control nothing is
            known, are passed over.
        now: seconds since 1970.
        policy: when it is too long.

    Returns:
        Each alert with the change that flags the execution and writes the alert to its stream. The alert is to
        be passed on where the change holds and the execution it met was not flagged by another monitor.
    """
    found = []
    for execution in executions:
        expected_s = execution.terms.expected_s
        counts = execution.status in HELD or execution.status.final
        if not counts or execution.started_at is None or expected_s is None:
            continue
        elapsed_s = execution.elapsed_s(now)
        longest_s = max(policy.long_running_least_s, policy.long_running_factor * expected_s)
        if Flag.LONG_RUNNING in execution.flags or elapsed_s <= longest_s:
            continue
        took = "took" if execution.status.final else "has run for"
        alert = Alert(
            AlertKind.LONG_RUNNING,
            execution.id,
            f"{execution.control}: {took} {elapsed_s:.1f} s, expected were {expected_s:.1f} s",
            now,
            execution_id=execution.id,
            data={
                "control": execution.control,
                "elapsed_s": round(elapsed_s, 3),
                "expected_s": expected_s,
                "progress": execution.progress,
            },
        )
        found.append((alert, _flag(execution, Flag.LONG_RUNNING, alert)))
    return found


def _flag(execution: Execution, flag: Flag, alert: Alert) -> Change:
    # Flags change as an attempt ends only, so the token and the status guard them against a lost update.
    when = FINAL if execution.status.final else HELD
    flags = (*execution.flags, flag)
    return Change(execution.id, when, execution.token, {"flags": flags}, (draft_of(alert),), actor="monitor")


def retries_exhausted(execution: Execution, failure: Failure, now: float) -> Alert:
    """Return the alert of an escalation; the failure policy writes it to the stream itself.

    Args:
        execution: as it ended.
        failure: why.
        now: seconds since 1970.
    """
    return Alert(
        AlertKind.RETRIES_EXHAUSTED,
        execution.id,
        f"{execution.control}: failed for good after {execution.retries} retries: {failure.message}",
        now,
        Level.ERROR,
        execution.id,
        {
            "control": execution.control,
            "kind": execution.kind,
            "attempts": execution.attempt,
            "retries": execution.retries,
            "category": str(failure.category),
            "error_type": str(failure.error_type),
            "code": failure.code,
        },
    )


def termination_unconfirmed(execution: Execution, remains: Remains, now: float) -> Alert:
    """Return the alert of an attempt that is over and not confirmed to be gone.

    Args:
        execution: of which.
        remains: what may still run.
        now: seconds since 1970.
    """
    data = {"control": execution.control, "token": execution.token, "remains": remains.to_json()}
    message = (
        f"{execution.control}: {remains} was told to end and is not confirmed to be gone; this is pursued"
    )
    return Alert(
        AlertKind.TERMINATION_UNCONFIRMED, execution.id, message, now, Level.ERROR, execution.id, data
    )


def window_missed(execution: Execution, now: float) -> Alert:
    """Return the alert of an execution whose window closed; the transition writes it to the stream itself.

    Args:
        execution: as it ended.
        now: seconds since 1970.
    """
    return Alert(
        AlertKind.WINDOW_MISSED,
        execution.id,
        f"{execution.control}: {execution.reason}",
        now,
        Level.ERROR,
        execution.id,
        {"control": execution.control, "kind": execution.kind, "closes_at": execution.terms.closes_at},
    )


# -- the platform


def worker_lost(worker_id: str, held: Sequence[str], now: float) -> Alert:
    """Return the alert of a worker that gave no sign of life.

    Args:
        worker_id: which.
        held: the executions that it held.
        now: seconds since 1970.
    """
    message = f"worker {worker_id} gave no sign of life; it held {len(held)} executions"
    data = {"executions": list(held[:100]), "count": len(held)}
    return Alert(AlertKind.WORKER_LOST, worker_id, message, now, Level.ERROR, data=data)


def breaker_opened(change: BreakerChange, now: float) -> Alert | None:
    """Return the alert of a breaker that opened; None for any other change, and for a probe that failed."""
    if change.after is not BreakerState.OPEN or change.before is not BreakerState.CLOSED:
        return None
    message = (
        f"{change.name}: {change.failures} of the last {change.calls} calls failed; left alone for a while"
    )
    data = {"failures": change.failures, "calls": change.calls}
    return Alert(AlertKind.BREAKER_OPEN, change.name, message, now, Level.ERROR, data=data)


@dataclass(frozen=True, slots=True)
class QueueWatch:
    """Whether the queue is too deep, with hysteresis: one that hovers around the threshold tells once.

    Args:
        too_deep: it was, when it was looked at last.
    """

    too_deep: bool = False

    def look(
        self, depth: int, now: float, policy: AlertPolicy = DEFAULT_POLICY
    ) -> tuple[QueueWatch, Alert | None]:
        """Look at the queue.

        Args:
            depth: how many executions are queued.
            now: seconds since 1970.
            policy: what is too deep.

        Returns:
            What to look with next time, and the alert where it has just become too deep.
        """
        if self.too_deep:
            return QueueWatch(depth > policy.queue_depth * policy.queue_cleared), None
        if depth <= policy.queue_depth:
            return self, None
        message = f"{depth} executions wait in the queue, more than {policy.queue_depth}"
        data = {"depth": depth, "threshold": policy.queue_depth}
        return QueueWatch(True), Alert(AlertKind.QUEUE_DEPTH, "queue", message, now, data=data)


# -- once only


@dataclass(frozen=True, slots=True)
class Raised:
    """What was told already, so that the same trouble is not told again and again.

    Args:
        at: per key, when it was told last, seconds since 1970; the latest last.
    """

    at: Mapping[str, float] = field(default_factory=dict)

    def fresh(
        self, alerts: Iterable[Alert], policy: AlertPolicy = DEFAULT_POLICY
    ) -> tuple[Raised, list[Alert]]:
        """Pick the alerts that were not told within the last `repeat_s`.

        Args:
            alerts: what was noticed.
            policy: when the same is told again.

        Returns:
            What to remember, and the alerts to tell, in their order.
        """
        told = dict(self.at)
        fresh = []
        for alert in alerts:
            last = told.get(alert.key)
            if last is not None and alert.at < last + policy.repeat_s:
                continue
            told.pop(alert.key, None)
            told[alert.key] = alert.at
            fresh.append(alert)
        if fresh:
            latest = max(told.values())
            told = {key: at for key, at in told.items() if at + policy.repeat_s > latest}
        forgotten = len(told) - MAX_RAISED
        if forgotten > 0:
            told = dict(list(told.items())[forgotten:])
        return Raised(told), fresh
