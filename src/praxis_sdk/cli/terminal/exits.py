"""The exit status of a command that waited for an execution: the work's own where it has one."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.states import ExecutionStatus, FailureCategory

if TYPE_CHECKING:
    from praxis_sdk.model import Execution

_TIMED_OUT: Final = 124
_CANCELLED: Final = 130
_KILLED: Final = 128 + signal.SIGKILL
_PARTLY: Final = 1
_OF_CODE: Final = {"unknown_runtime": 2, "environment_missing": 2, "secret_unavailable": 3}
_OF_CATEGORY: Final = {
    FailureCategory.VALIDATION_ERROR: 2,
    FailureCategory.RESOURCE_LIMIT: _KILLED,
    FailureCategory.SANDBOX_VIOLATION: _KILLED,
    FailureCategory.DEPENDENCY_ERROR: 127,
    FailureCategory.INTERNAL_ERROR: 3,
}


def exit_status_of(execution: Execution) -> int:
    """Return the exit status that an ended execution means, as `praxis exec` and `praxis run` have it."""
    status, failure = execution.status, execution.failure
    if status.succeeded:
        return 0
    if status is ExecutionStatus.TIMED_OUT:
        return _TIMED_OUT
    if status is ExecutionStatus.CANCELLED:
        return _CANCELLED
    result: Mapping[str, Any] = execution.result if isinstance(execution.result, Mapping) else {}
    if isinstance(code := result.get("exit_code"), int):
        return code or 1
    if failure is None:
        return _PARTLY
    if isinstance(number := result.get("signal"), int) and result.get("limit") is None:
        return 128 + number
    return _OF_CODE.get(failure.code, _OF_CATEGORY.get(failure.category, 1))
