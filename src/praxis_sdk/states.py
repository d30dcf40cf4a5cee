"""How an execution can end and who must act on a failure (DESIGN: statuses, failures)."""

from __future__ import annotations

from enum import StrEnum


class ExecutionStatus(StrEnum):
    """Where an execution stands; the values here are final and never change again."""

    COMPLETED = "completed"  # ended by itself with exit code 0
    FAILED = "failed"  # ended by itself otherwise, or was killed by a limit
    TIMED_OUT = "timed_out"  # its wall-clock time was used up and Praxis killed it
    CANCELLED = "cancelled"  # somebody asked for its end and Praxis killed it


class FailureCategory(StrEnum):
    """Who must act when an execution did not succeed (spec 3, section 8.1)."""

    USER_CODE_ERROR = "USER_CODE_ERROR"  # the work raised or exited non-zero
    VALIDATION_ERROR = "VALIDATION_ERROR"  # the request was unacceptable
    RESOURCE_LIMIT = "RESOURCE_LIMIT"  # a limit ended it
    SANDBOX_VIOLATION = "SANDBOX_VIOLATION"  # a forbidden act was stopped
    DEPENDENCY_ERROR = "DEPENDENCY_ERROR"  # a program or runtime it needs is missing
    INTERNAL_ERROR = "INTERNAL_ERROR"  # Praxis, its host or a service failed
