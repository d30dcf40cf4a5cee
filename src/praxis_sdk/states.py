"""Where an execution stands, what came of it and who must act (DESIGN: statuses, failures).

submitted --> queued --> running --> completed | completed_with_errors | partially_completed
|           |  ^        |------> failed | timed_out
|           |  '--------|        (a retry, a preemption)
|           |           v
|           |       cancelling --> cancelled
'-----------'------------------> cancelled | failed (its window closed)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ExecutionStatus(StrEnum):
    """Where an execution stands; the last six are final and never change again."""

    SUBMITTED = "submitted"  # accepted; waits for its time: a window, a retry's pause
    QUEUED = "queued"  # may start as soon as a worker has room
    RUNNING = "running"  # an attempt is under way on a worker
    CANCELLING = "cancelling"  # its end is wanted and not yet proven
    COMPLETED = "completed"  # ended by itself and well
    COMPLETED_WITH_ERRORS = "completed_with_errors"  # gave its result, and reported errors beside it
    PARTIALLY_COMPLETED = "partially_completed"  # some of its parts succeeded, others did not
    FAILED = "failed"  # ended by itself otherwise, or was killed by a limit
    TIMED_OUT = "timed_out"  # its wall-clock time was used up and Praxis killed it
    CANCELLED = "cancelled"  # somebody asked for its end and Praxis killed it

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self in FINAL

    @property
    def succeeded(self) -> bool:
        """Whether it ended with a result that can be used."""
        return self in SUCCEEDED


SUCCEEDED: Final = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.COMPLETED_WITH_ERRORS})
FINAL: Final = SUCCEEDED | {
    ExecutionStatus.PARTIALLY_COMPLETED,
    ExecutionStatus.FAILED,
    ExecutionStatus.TIMED_OUT,
    ExecutionStatus.CANCELLED,
}
# A worker holds it: room is reserved for it, and its attempt has a fencing token.
HELD: Final = frozenset({ExecutionStatus.RUNNING, ExecutionStatus.CANCELLING})
PENDING: Final = frozenset({ExecutionStatus.SUBMITTED, ExecutionStatus.QUEUED})


class FailureCategory(StrEnum):
    """Who must act when an execution did not succeed (spec 3, section 8.1)."""

    USER_CODE_ERROR = "USER_CODE_ERROR"  # the work raised or exited non-zero
    VALIDATION_ERROR = "VALIDATION_ERROR"  # the request was unacceptable
    RESOURCE_LIMIT = "RESOURCE_LIMIT"  # a limit ended it
    SANDBOX_VIOLATION = "SANDBOX_VIOLATION"  # a forbidden act was stopped
    DEPENDENCY_ERROR = "DEPENDENCY_ERROR"  # a program or runtime it needs is missing
    INTERNAL_ERROR = "INTERNAL_ERROR"  # Praxis, its host or a service failed


class ErrorType(StrEnum):
    """Whether trying again can help (spec 4, section 7, "Error Classification")."""

    TRANSIENT = "transient"  # a network, a service: the same again, after a pause
    PERMANENT = "permanent"  # the same again would fail again
    RESOURCE = "resource"  # again with more, up to a cap
    CRASH = "crash"  # again in a fresh sandbox


class Priority(StrEnum):
    """How much an execution matters; the first is the highest (spec 4, section 1)."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class ServiceClass(StrEnum):
    """Whether somebody waits for an execution (spec 4, properties 36-39)."""

    REAL_TIME = "real_time"  # starts at once where there is room, and may preempt batch work for it
    BATCH = "batch"  # starts when it fits, inside its window where it has one


class ExecutionMode(StrEnum):
    """How a standard operating procedure is executed (spec 4, overview); other kinds of work have none."""

    SYSTEM_DESIGN_RUN = "system_design_run"  # centrally orchestrated, task by task
    AGENT_CENTRIC_RUN = "agent_centric_run"  # by one autonomous agent
