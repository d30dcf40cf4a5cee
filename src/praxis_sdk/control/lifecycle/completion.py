"""What the end of an attempt means for its execution; pure.

The kind says what its work came to, this module what an exception or a forced end is, and the failure policy
whether there is another attempt. What comes out is one change.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import replace
from typing import Final

from praxis_sdk.control.kinds import CancellationRequested, Kind, Outcome
from praxis_sdk.control.lifecycle import failure_policy
from praxis_sdk.control.lifecycle.transitions import (
    confirm,
    finish,
    finish_cancelled,
    give_back,
    hold_unconfirmed,
    requeue_preempted,
)
from praxis_sdk.control.observe import alerts
from praxis_sdk.control.workers.supervision import LEASE_LOST, RunningAttempt, SupervisedEnd, account_of
from praxis_sdk.errors import EngineUnavailable, PraxisError
from praxis_sdk.model import AttemptEnd, Execution, Failure, Stop, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionStatus, FailureCategory
from praxis_sdk.store import Change
from praxis_sdk.termination import Remains, Termination

_NOT_CONFIRMED: Final = "is not confirmed to be gone"
CUT_OFF: Final = "its worker was cut off from its store, or stood still"
# So often it is requeued for that without spending a retry: then the work itself may be what makes its worker miss
# its heartbeats.
MOST_FREE_REQUEUES: Final = 3


def dependency_held(ended: SupervisedEnd) -> bool:
    """Whether an attempt says that the service that it stands on works."""
    return not isinstance(ended.error, EngineUnavailable)


def outcome_of(ended: SupervisedEnd, kind: Kind, held: RunningAttempt, wall_s: float) -> Outcome:
    """Say what an attempt came to.

    Args:
        ended: how its work ended.
        kind: its kind.
        held: the attempt.
        wall_s: how long it took, in seconds.
    """
    if ended.error is None:
        try:
            outcome = kind.collect(held.handle, ended.ending)
        except Exception as error:  # noqa: BLE001 - a kind that cannot read its own end fails its execution
            outcome = _failed(failure_of(error))
    elif ended.timed_out:
        outcome = _timed_out(held)
    else:
        outcome = _failed(failure_of(ended.error))
    usage = outcome.usage or Usage(wall_s=wall_s)
    if ended.timed_out and outcome.status is not ExecutionStatus.TIMED_OUT:
        outcome = _timed_out(held)  # what it came to after its time does not count
    return replace(outcome, usage=usage, events=(*outcome.events, *ended.proof))


def change_of(
    held: RunningAttempt, ended: SupervisedEnd, outcome: Outcome, now: float, largest: Resources | None = None
) -> Change:
    """Say how the execution changes.

    Args:
        held: the attempt, with the reason why it was stopped.
        ended: how its work ended.
        outcome: what it came to.
        now: seconds since 1970.
        largest: what an execution can be granted at most; None: unknown.
    """
    execution = held.execution
    if ended.remains is not None:
        return unconfirmed(held, ended.remains, outcome, now)
    if held.stop == Stop.CANCEL:
        return finish_cancelled(execution, now, outcome.events, outcome.usage)
    ended_itself = outcome.failure is None and not ended.forced
    if held.stop == Stop.PREEMPT and not ended_itself:
        return requeue_preempted(execution, outcome.events, outcome.usage)
    if held.stop is not None and not ended_itself:
        if held.stop != LEASE_LOST:
            return give_back(execution, "its worker ended", outcome.events)
        if _free_requeues(execution) < MOST_FREE_REQUEUES:
            return give_back(execution, CUT_OFF, outcome.events)
        lost = failure_policy.lease_lost(execution)
        return failure_policy.after_failure(
            execution, lost, now, usage=outcome.usage, events=outcome.events, ending=AttemptEnd.LOST
        ).change
    if outcome.failure is None:
        return finish(
            execution,
            now,
            outcome.status,
            outputs=outcome.outputs,
            result=outcome.result,
            usage=outcome.usage,
            events=outcome.events,
        )
    return failure_policy.after_failure(
        execution,
        outcome.failure,
        now,
        usage=outcome.usage,
        events=outcome.events,
        timed_out=outcome.status is ExecutionStatus.TIMED_OUT,
        result=outcome.result,
        outputs=outcome.outputs,
        largest=largest,
    ).change


def _free_requeues(execution: Execution) -> int:
    """Return how many earlier attempts neither spent a retry nor were preempted."""
    return execution.attempt - 1 - execution.retries - execution.preemptions


def unconfirmed(held: RunningAttempt, remains: Remains, outcome: Outcome, now: float) -> Change:
    """Say how an execution changes whose attempt is over, and of which something may still run.

    Args:
        held: the attempt, with the reason why it was stopped.
        remains: what may still run.
        outcome: what it came to; it counts once its end is confirmed.
        now: seconds since 1970.
    """
    execution = held.execution
    counts = held.stop is None  # else what it came to does not count, as after any forced end
    failure = outcome.failure if counts else None
    if held.stop == LEASE_LOST and _free_requeues(execution) >= MOST_FREE_REQUEUES:
        failure = failure_policy.lease_lost(execution)
    alert = alerts.draft_of(alerts.termination_unconfirmed(execution, remains, now))
    return hold_unconfirmed(
        execution,
        f"{remains} {_NOT_CONFIRMED}",
        (*outcome.events, alert),
        failure=failure,
        usage=outcome.usage,
        outputs=outcome.outputs if counts else None,
        result=outcome.result if counts else None,
    )


def lost_unconfirmed(execution: Execution, remains: Remains, now: float) -> Change:
    """Say how a cancelled execution changes whose worker was lost before it could confirm the end."""
    alert = alerts.draft_of(alerts.termination_unconfirmed(execution, remains, now))
    return hold_unconfirmed(execution, f"its worker was lost; {remains} {_NOT_CONFIRMED}", (alert,))


def confirmed(execution: Execution, termination: Termination, now: float) -> Change:
    """Say how an execution changes whose end is confirmed at last: it ends as it would have then.

    Args:
        execution: `cancelling`, with what its attempt came to.
        termination: the evidence.
        now: seconds since 1970.
    """
    proof = account_of(termination, "its end was pursued", {"means": "pursuit", "reason": execution.stop})
    if execution.stop is Stop.CANCEL:
        change = finish_cancelled(execution, now, (), execution.usage)
        if execution.reason.endswith(_NOT_CONFIRMED):  # else it is why somebody cancelled it
            reason = execution.reason.removesuffix(_NOT_CONFIRMED) + "was confirmed later to be gone"
            change = replace(change, update={"reason": reason, **change.update})
        return confirm(change, proof)
    if execution.stop is Stop.PREEMPT:
        return confirm(requeue_preempted(execution, (), execution.usage), proof)
    if execution.failure is None:
        return confirm(give_back(execution, "its worker ended"), proof)
    running = execution.but(status=ExecutionStatus.RUNNING)
    verdict = failure_policy.after_failure(
        running,
        execution.failure,
        now,
        usage=execution.usage,
        timed_out=execution.failure.code == failure_policy.TIMED_OUT,
        outputs=execution.outputs,
        result=execution.result,
    )
    return confirm(verdict.change, proof)


def requeued(execution: Execution, now: float) -> Change:
    """Say how an execution changes that a worker holds as it ends, and of which nothing runs any more.

    Args:
        execution: as the store has it.
        now: seconds since 1970.
    """
    if execution.status is ExecutionStatus.CANCELLING:
        return finish_cancelled(execution, now, (), None)
    return give_back(execution, "its worker ended")


def unkeepable(outcome: Outcome, error: BaseException) -> Outcome:
    """Return what an attempt came to whose account the store refuses: it is to blame, and the rest is dropped.

    Args:
        outcome: what it would have come to.
        error: why it was refused.
    """
    message = f"what it returned cannot be kept: {type(error).__name__}: {error}"
    failure = Failure(FailureCategory.USER_CODE_ERROR, ErrorType.PERMANENT, "outputs_not_json", message)
    return replace(_failed(failure_policy.bounded(failure)), usage=outcome.usage)


def failure_of(error: BaseException) -> Failure:
    """Say what an exception of an attempt means (DESIGN, table of failures)."""
    if isinstance(error, PraxisError | OSError) and not isinstance(error, CancellationRequested):
        return failure_policy.of_error(error)
    if isinstance(error, CancellationRequested | asyncio.CancelledError):
        message = "its attempt was ended from outside"
        return Failure(FailureCategory.INTERNAL_ERROR, ErrorType.CRASH, "interrupted", message)
    # A kind's code raised: what ran in it is to blame, and would raise again.
    detail = "".join(traceback.format_exception(error))
    message = f"{type(error).__name__}: {error}"
    return failure_policy.bounded(
        Failure(FailureCategory.USER_CODE_ERROR, ErrorType.PERMANENT, "exception", message, detail)
    )


def _failed(failure: Failure) -> Outcome:
    return Outcome(ExecutionStatus.FAILED, failure=failure)


def _timed_out(held: RunningAttempt) -> Outcome:
    message = f"ran longer than its {held.execution.terms.timeout_s:g} s and was killed"
    terms = held.execution.terms
    error_type = failure_policy.classify(FailureCategory.RESOURCE_LIMIT, timed_out=True, retry=terms.retry)
    failure = Failure(FailureCategory.RESOURCE_LIMIT, error_type, failure_policy.TIMED_OUT, message)
    return Outcome(ExecutionStatus.TIMED_OUT, failure=failure)
