"""What a failure means for an execution: pure, from facts to a guarded change.

    facts of an attempt --classify--> Failure --after_failure--> retry, or the end, or the end and an escalation

`category` says who must act and `error_type` whether trying again can help (DESIGN, table of failures). Nothing
here waits or writes: a retry is a change that makes the execution due later, and whoever holds the store applies
it. Every attempt and its failure stay in the list of attempts and in the event stream, so the history is complete.
"""

from __future__ import annotations

import dataclasses
import signal as signals
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.errors import (
    ExecutionError,
    IsolationUnavailable,
    MissingExtra,
    PlatformError,
    ValidationError,
)
from praxis_sdk.model import (
    AttemptEnd,
    EventType,
    Execution,
    Failure,
    Flag,
    Level,
    NewEvent,
    RetryPolicy,
    Usage,
)
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.secrets import SecretUnavailable
from praxis_sdk.states import ErrorType, ExecutionStatus, FailureCategory
from praxis_sdk.store.changes import Change, failure_to_json
from praxis_sdk.store.protocol import StoreOutdated

if TYPE_CHECKING:  # a job's result brings a whole library of validation, which most callers do not need
    from praxis_sdk.execution.outcome import ToolOutcome
    from praxis_sdk.jobs.executor.result import JobResult

COMPONENT: Final = "failure-policy"
WORKER_LOST: Final = "worker_lost"
LEASE_LOST: Final = "lease_lost"
CRASHED: Final = "crashed"
TIMED_OUT: Final = "wall_clock_exceeded"
# What an attempt lacked, by the code of its failure.
_LACKED: Final = {"memory_exceeded": "memory_mb", "scratch_exceeded": "storage_mb"}
RETRIES_EXHAUSTED: Final = "retries_exhausted"
CRASH_LOG: Final = "crash log"

MAX_DETAIL_CHARS: Final = 16 << 10
MAX_MESSAGE_CHARS: Final = 1000
MAX_PAUSE_S: Final = 3600.0

_CRASH_CODES: Final = frozenset({WORKER_LOST, LEASE_LOST, CRASHED, "killed_from_outside", "internal"})
_PERMANENT_CODES: Final = frozenset({"authentication_failed", "permission_denied", "store_outdated"})
# Signals that a program sends itself (abort) or earns by what it writes to: its own way to fail, as an
# exception is. SIGSYS is the sandbox's answer to a forbidden call.
_OWN_SIGNALS: Final = frozenset({signals.SIGABRT, signals.SIGPIPE, signals.SIGSYS})


_PLAIN: Final = RetryPolicy()


@dataclass(frozen=True, slots=True)
class FailureDecision:
    """What becomes of an execution.

    Args:
        change: to be applied to the store.
        escalate: its retries are used up, so people must be told; `change` says so in the stream.
    """

    change: Change
    escalate: bool = False


def classify(
    category: FailureCategory,
    *,
    code: str = "",
    signal: int | None = None,
    exit_code: int | None = None,
    timed_out: bool = False,
    retry: RetryPolicy = _PLAIN,
) -> ErrorType:
    """Decide whether trying again can help (DESIGN, table of failures; spec 4, "Error Classification").

    Args:
        category: who must act.
        code: the stable word of the failure; empty where there is none.
        signal: the signal that ended the work, if nobody here sent it.
        exit_code: the exit code of the work.
        timed_out: whether the wall-clock limit ended it.
        retry: the terms, which may ask for another try after a timeout or an exit code.
    """
    if timed_out:
        return ErrorType.TRANSIENT if retry.retry_timeouts else ErrorType.PERMANENT
    if category is FailureCategory.RESOURCE_LIMIT:
        return ErrorType.RESOURCE
    if category is FailureCategory.INTERNAL_ERROR:
        if code in _PERMANENT_CODES:
            return ErrorType.PERMANENT
        return ErrorType.CRASH if signal is not None or code in _CRASH_CODES else ErrorType.TRANSIENT
    if category is FailureCategory.USER_CODE_ERROR and exit_code in retry.exit_codes:
        return ErrorType.TRANSIENT
    # A segmentation fault is a crash (spec 4), whoever wrote the program; an exception that nobody caught
    # is the program's answer, and the same again would give the same.
    if category is FailureCategory.USER_CODE_ERROR and signal is not None and signal not in _OWN_SIGNALS:
        return ErrorType.CRASH
    return ErrorType.PERMANENT


def of_tool(outcome: ToolOutcome, *, retry: RetryPolicy = _PLAIN) -> Failure | None:
    """Return the failure of a tool's run; None where it succeeded.

    Args:
        outcome: the account of the run.
        retry: as in `classify`.
    """
    failure = outcome.failure
    if failure is None:
        return None
    timed_out = outcome.status is ExecutionStatus.TIMED_OUT
    error_type = classify(
        failure.category,
        signal=outcome.signal,
        exit_code=outcome.exit_code,
        timed_out=timed_out,
        retry=retry,
    )
    if timed_out:
        code = TIMED_OUT
    elif outcome.limit is not None:
        code = f"{outcome.limit}_exceeded"
    elif error_type is ErrorType.CRASH:
        code = CRASHED
    elif outcome.exit_code is not None:
        code = "exit_nonzero"
    else:
        code = str(failure.category).lower()
    return bounded(Failure(failure.category, error_type, code, failure.message, outcome.stderr))


def of_job(result: JobResult, *, retry: RetryPolicy = _PLAIN) -> Failure | None:
    """Return the failure of a job; None where it succeeded.

    Args:
        result: the account of the job.
        retry: as in `classify`.
    """
    failure = result.failure
    if failure is None:
        return None
    # A job is alone in its sandbox: a signal that it got there is its own doing, and the same again would do the same.
    by_itself = failure.category is FailureCategory.USER_CODE_ERROR
    error_type = classify(
        failure.category,
        code=failure.code,
        signal=None if by_itself else result.signal,
        exit_code=result.exit_code,
        timed_out=result.status is ExecutionStatus.TIMED_OUT,
        retry=retry,
    )
    detail = failure.traceback or result.stderr.text
    return bounded(Failure(failure.category, error_type, failure.code, failure.message, detail))


def of_error(error: BaseException) -> Failure:
    """Return the failure that an exception of the platform stands for.

    A service or daemon that is away is transient. What nobody foresaw is a crash of Praxis, with its traceback.
    """
    message = str(error) or type(error).__name__
    match error:
        case ValidationError():
            category, code = FailureCategory.VALIDATION_ERROR, "invalid_request"
        case ExecutionError():
            category, code = FailureCategory.USER_CODE_ERROR, "tool_failed"
        case MissingExtra():
            category, code = FailureCategory.DEPENDENCY_ERROR, "missing_extra"
        case SecretUnavailable():
            category, code = FailureCategory.DEPENDENCY_ERROR, "secret_unavailable"
        case StoreOutdated():
            category, code = FailureCategory.INTERNAL_ERROR, "store_outdated"
        case IsolationUnavailable():
            # Another host may well build it; and a broken one must not fail all work for good.
            category, code = FailureCategory.INTERNAL_ERROR, "sandbox_unavailable"
        case PermissionError():
            category, code = FailureCategory.INTERNAL_ERROR, "permission_denied"
        case PlatformError() | OSError():  # OSError: connections, names, timeouts
            category, code = FailureCategory.INTERNAL_ERROR, "unavailable"
        case _:
            category, code = FailureCategory.INTERNAL_ERROR, "internal"
            message = f"{type(error).__name__}: {message}"
    error_type = classify(category, code=code)
    detail = "".join(traceback.format_exception(error)) if error_type is ErrorType.CRASH else ""
    return bounded(Failure(category, error_type, code, message, detail))


def bounded(failure: Failure) -> Failure:
    """Return a failure whose texts are bounded: one line, and the end of the detail, where the cause stands."""
    message = " ".join(failure.message.split())
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS - 1] + "…"
    return dataclasses.replace(failure, message=message, detail=failure.detail[-MAX_DETAIL_CHARS:])


def pause_s(policy: RetryPolicy, retries: int) -> float:
    """Return the pause before the next retry, in seconds: 1, 2, 4, ... by default (spec 4, property 26).

    Args:
        policy: whose first pause counts.
        retries: retries spent so far.
    """
    doublings = min(retries, 1000)  # 2.0**1024 is no float
    return min(policy.first_pause_s * 2.0**doublings, MAX_PAUSE_S)


def raised(execution: Execution, largest: Resources | None = None, *, code: str = "") -> Resources | None:
    """Return what a retry after a failure for want of resources shall be granted (spec 4, section 7).

    Args:
        execution: as its attempt failed.
        code: of its failure, which says what it lacked: only that is raised; empty or another: all.
        largest: what the largest worker has; more would never be placed. None: unknown.

    Returns:
        More than it had, up to the cap of its terms; None where there is no more.
    """
    terms = execution.terms
    had = execution.granted if execution.granted != ZERO else terms.requirements
    wanted = had.scaled(terms.retry.resource_factor).at_most(
        terms.requirements.scaled(terms.retry.resource_cap)
    )
    if largest is not None:
        wanted = wanted.at_most(largest)
    lacked = _LACKED.get(code)
    if lacked is not None:
        wanted = dataclasses.replace(had, **{lacked: getattr(wanted, lacked)})
    wanted = wanted.at_least(had)  # whatever the caps say, it keeps what it had
    return None if wanted.fits_in(had) else wanted


def after_failure(
    execution: Execution,
    failure: Failure,
    now: float,
    *,
    usage: Usage | None = None,
    events: Sequence[NewEvent] = (),
    ending: AttemptEnd | None = None,
    timed_out: bool = False,
    outputs: Any = None,
    result: Any = None,
    largest: Resources | None = None,
) -> FailureDecision:
    """Decide what becomes of an execution whose attempt failed (spec 4, properties 26 to 29).

    Args:
        execution: as its attempt left it, running or cancelling.
        failure: why.
        now: seconds since 1970.
        usage: what the attempt consumed.
        events: what is appended to the stream before the decision.
        ending: how the attempt ended; unless given: failed, or timed out.
        timed_out: whether the wall-clock limit ended it; the execution then ends `timed_out`.
        outputs, result: what the attempt left behind, kept where the execution ends.
        largest: as in `raised`.

    Returns:
        A retry after a pause, or the end; a cancelled execution ends cancelled whatever its attempt says.
    """
    failure = bounded(failure)
    crashed = failure.error_type is ErrorType.CRASH
    told = (*events, _crash_log(execution, failure)) if crashed else tuple(events)
    if execution.status is ExecutionStatus.CANCELLING:
        return FailureDecision(transitions.finish_cancelled(execution, now, told, usage))
    ended = ending or (AttemptEnd.TIMED_OUT if timed_out else AttemptEnd.FAILED)
    policy = execution.terms.retry
    retryable = failure.error_type is not ErrorType.PERMANENT and failure.error_type in policy.retry_on
    granted = (
        raised(execution, largest, code=failure.code) if failure.error_type is ErrorType.RESOURCE else None
    )
    possible = failure.error_type is not ErrorType.RESOURCE or granted is not None
    flags = [Flag.CRASHED] if crashed else []
    if retryable and possible and execution.retries < policy.max_retries:
        due_at = now + pause_s(policy, execution.retries)
        change = transitions.retry(
            execution, failure, due_at, granted=granted, usage=usage, events=told, ending=ended
        )
        return FailureDecision(_flagged(change, execution, flags))
    # Where nothing was tried again nothing is used up: no retries were wanted, or none was possible.
    escalate = retryable and execution.retries > 0
    if escalate:
        flags.append(Flag.ESCALATED)
        told = (*told, _escalation(execution, failure))
    change = transitions.finish(
        execution,
        now,
        ExecutionStatus.TIMED_OUT if timed_out else ExecutionStatus.FAILED,
        outputs=outputs,
        result=result,
        failure=failure,
        usage=usage,
        events=told,
        flags=flags,
        ending=ended,
    )
    return FailureDecision(change, escalate)


def after_loss(execution: Execution, now: float, *, detail: str = "") -> FailureDecision:
    """Decide what becomes of an execution whose worker was lost: a crash, unless its end was wanted anyway.

    Args:
        execution: as the lost worker held it.
        now: seconds since 1970.
        detail: what is known of the loss.
    """
    worker = execution.worker_id or "its worker"
    failure = Failure(
        FailureCategory.INTERNAL_ERROR,
        ErrorType.CRASH,
        WORKER_LOST,
        f"worker lost: {worker} gave no sign of life",
        detail,
    )
    return after_failure(execution, failure, now, ending=AttemptEnd.LOST)


def lease_lost(execution: Execution) -> Failure:
    """Return the failure of an execution that was stopped again and again since its worker's lease had run out."""
    message = (
        f"attempt {execution.attempt} was stopped, as others before it: its worker was cut off from its store, "
        "or stood still"
    )
    return Failure(FailureCategory.INTERNAL_ERROR, ErrorType.CRASH, LEASE_LOST, message)


def _crash_log(execution: Execution, failure: Failure) -> NewEvent:
    """The account of a crash, an audit entry: it must outlive the attempt's log lines (spec 4, property 29)."""
    data = {
        "attempt": execution.attempt,
        "worker": execution.worker_id,
        "code": failure.code,
        "message": failure.message,
        "detail": failure.detail,
    }
    return NewEvent(EventType.ACTION, CRASH_LOG, data, Level.ERROR, COMPONENT)


def _escalation(execution: Execution, failure: Failure) -> NewEvent:
    """The alert that tells people that the retries are used up (spec 4, property 28)."""
    data = {
        "alert": RETRIES_EXHAUSTED,
        "attempts": execution.attempt,
        "retries": execution.retries,
        "failure": failure_to_json(failure),
    }
    message = (
        f"failed after {execution.retries} of {execution.terms.retry.max_retries} retries: {failure.message}"
    )
    return NewEvent(EventType.ALERT, message, data, Level.ERROR, COMPONENT)


def _flagged(change: Change, execution: Execution, flags: Sequence[Flag]) -> Change:
    flagged = dict.fromkeys((*execution.flags, *flags))
    return dataclasses.replace(change, update={**change.update, "flags": tuple(flagged)}) if flags else change
