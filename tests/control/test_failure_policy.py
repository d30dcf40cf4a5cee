"""What a failure means: the table of DESIGN, and the properties of retries (spec 4)."""

from __future__ import annotations

import dataclasses
import signal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.lifecycle import failure_policy, transitions
from praxis_sdk.control.lifecycle.failure_policy import (
    CRASH_LOG,
    MAX_DETAIL_CHARS,
    MAX_PAUSE_S,
    WORKER_LOST,
    after_failure,
    after_loss,
    classify,
    of_error,
    of_job,
    of_tool,
    pause_s,
)
from praxis_sdk.control.workers.breaker import BreakerOpen
from praxis_sdk.errors import (
    EngineUnavailable,
    ExecutionError,
    IsolationUnavailable,
    MissingExtra,
    ValidationError,
)
from praxis_sdk.execution.outcome import Exit, Isolation, Limit, ToolOutcome
from praxis_sdk.execution.outcome import classify as tool_end
from praxis_sdk.jobs.executor.result import JobFailure, JobResult
from praxis_sdk.model import NO_RETRIES, AttemptEnd, EventType, Flag, Options, RetryPolicy, Usage
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import ErrorType, ExecutionStatus, FailureCategory
from praxis_sdk.store.changes import apply_change, verify_chain
from praxis_sdk.store.protocol import StoreOutdated, StoreUnavailable
from tests.control.failure_samples import ASKED, NOW, Life, execution, failure, failures

RETRYABLE = (ErrorType.TRANSIENT, ErrorType.CRASH)


# -- classification


@pytest.mark.parametrize(
    ("category", "facts", "error_type"),
    [
        ("VALIDATION_ERROR", {}, "permanent"),
        ("USER_CODE_ERROR", {}, "permanent"),
        ("USER_CODE_ERROR", {"code": "exception"}, "permanent"),
        ("USER_CODE_ERROR", {"signal": signal.SIGABRT}, "permanent"),
        ("USER_CODE_ERROR", {"signal": signal.SIGSEGV}, "crash"),
        ("DEPENDENCY_ERROR", {}, "permanent"),
        ("SANDBOX_VIOLATION", {}, "permanent"),
        ("SANDBOX_VIOLATION", {"signal": signal.SIGSYS}, "permanent"),
        ("RESOURCE_LIMIT", {}, "resource"),
        ("RESOURCE_LIMIT", {"signal": signal.SIGKILL}, "resource"),
        ("RESOURCE_LIMIT", {"timed_out": True}, "permanent"),
        ("RESOURCE_LIMIT", {"timed_out": True, "retry": RetryPolicy(retry_timeouts=True)}, "transient"),
        ("INTERNAL_ERROR", {"signal": signal.SIGKILL}, "crash"),
        ("INTERNAL_ERROR", {"code": "worker_lost"}, "crash"),
        ("INTERNAL_ERROR", {"code": "killed_from_outside"}, "crash"),
        ("INTERNAL_ERROR", {"code": "storage_unavailable"}, "transient"),
        ("INTERNAL_ERROR", {"code": "authentication_failed"}, "permanent"),
        ("INTERNAL_ERROR", {}, "transient"),
    ],
)
def test_facts_have_the_type_of_the_table(category: str, facts: dict[str, Any], error_type: str) -> None:
    assert classify(FailureCategory(category), **facts) == error_type


@pytest.mark.parametrize(
    ("error", "category", "error_type"),
    [
        (EngineUnavailable("docker is away"), "INTERNAL_ERROR", "transient"),
        (StoreUnavailable("locked"), "INTERNAL_ERROR", "transient"),
        (BreakerOpen("mcp", 12.0), "INTERNAL_ERROR", "transient"),
        (ConnectionResetError("gone"), "INTERNAL_ERROR", "transient"),
        (TimeoutError(), "INTERNAL_ERROR", "transient"),
        (IsolationUnavailable("no namespaces"), "INTERNAL_ERROR", "transient"),
        (StoreOutdated("from the future"), "INTERNAL_ERROR", "permanent"),
        (PermissionError("not yours"), "INTERNAL_ERROR", "permanent"),
        (MissingExtra("aiodocker", "docker"), "DEPENDENCY_ERROR", "permanent"),
        (ValidationError("no such tool"), "VALIDATION_ERROR", "permanent"),
        (ExecutionError("exited with 3", 3), "USER_CODE_ERROR", "permanent"),
        (KeyError("nobody foresaw this"), "INTERNAL_ERROR", "crash"),
    ],
)
def test_exceptions_of_the_platform_are_classified(error: Exception, category: str, error_type: str) -> None:
    found = of_error(error)
    assert (found.category, found.error_type) == (category, error_type)
    assert found.message
    assert "\n" not in found.message


def test_an_unforeseen_error_brings_its_traceback() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        found = of_error(error)
    assert "test_an_unforeseen_error_brings_its_traceback" in found.detail


@pytest.mark.parametrize(
    ("exit_", "timed_out", "error_type", "code"),
    [
        (Exit(exit_code=1), False, "permanent", "exit_nonzero"),
        (Exit(limit=Limit.MEMORY, signal=9), False, "resource", "memory_exceeded"),
        (Exit(limit=Limit.CPU_TIME), False, "resource", "cpu_time_exceeded"),
        (Exit(limit=Limit.OUTPUT), False, "resource", "output_exceeded"),
        (Exit(signal=9), True, "permanent", "wall_clock_exceeded"),
        (Exit(signal=9), False, "crash", "crashed"),
        (Exit(signal=11), False, "crash", "crashed"),
        (Exit(signal=31), False, "permanent", "sandbox_violation"),
    ],
)
def test_a_tools_end_is_classified(exit_: Exit, timed_out: bool, error_type: str, code: str) -> None:
    status, why = tool_end(exit_, timeout_s=5, timed_out=timed_out)
    outcome = ToolOutcome(
        "t",
        "e1",
        "sandbox",
        Isolation.NAMESPACES,
        status,
        exit_.exit_code,
        exit_.signal,
        exit_.limit,
        stderr="last words",
        failure=why,
    )
    found = of_tool(outcome)
    assert found is not None
    assert (found.error_type, found.code, found.detail) == (error_type, code, "last words")


def test_what_succeeded_has_no_failure() -> None:
    assert of_tool(ToolOutcome("t", "e", "local", Isolation.NONE, ExecutionStatus.COMPLETED)) is None
    assert of_job(JobResult(job_id="j", status=ExecutionStatus.COMPLETED)) is None


@pytest.mark.parametrize(
    ("status", "category", "code", "signal_", "error_type"),
    [
        ("failed", "USER_CODE_ERROR", "exception", None, "permanent"),
        ("failed", "USER_CODE_ERROR", "killed_by_signal", 11, "permanent"),
        ("failed", "INTERNAL_ERROR", "killed_from_outside", 9, "crash"),
        ("failed", "RESOURCE_LIMIT", "memory_exceeded", 9, "resource"),
        ("timed_out", "RESOURCE_LIMIT", "wall_clock_exceeded", 9, "permanent"),
        ("failed", "INTERNAL_ERROR", "worker_lost", None, "crash"),
        ("failed", "INTERNAL_ERROR", "storage_unavailable", None, "transient"),
    ],
)
def test_a_jobs_end_is_classified(
    status: str, category: str, code: str, signal_: int | None, error_type: str
) -> None:
    why = JobFailure(category=FailureCategory(category), code=code, message="m", traceback="Traceback ...")
    found = of_job(JobResult(job_id="j", status=ExecutionStatus(status), signal=signal_, failure=why))
    assert found is not None
    assert (found.error_type, found.code, found.detail) == (error_type, code, "Traceback ...")


# -- retries


@given(st.lists(failures(ErrorType.TRANSIENT), max_size=6), st.integers(0, 5))
@settings(max_examples=200)
def test_transient_failures_are_retried_three_times(whys: list[Any], max_retries: int) -> None:
    """Feature: execution-engine, Property 26: Transient Error Retry with Exponential Backoff

    For any execution failure classified as transient, the Failure_Handler should retry up to 3 times with
    exponential backoff (1s, 2s, 4s), and mark the execution as successful if any retry succeeds, recording the
    retry count.
    """
    policy = RetryPolicy(max_retries=max_retries)
    life = Life.of(execution(terms=Options(ASKED, retry=policy))).run(whys)
    retried = min(len(whys), max_retries)
    assert life.pauses == pytest.approx([2.0**number for number in range(retried)])
    assert life.execution.retries == retried
    assert [event.type for event in life.events].count(EventType.RETRY) == retried
    succeeded = len(whys) <= max_retries
    assert life.execution.status == ("completed" if succeeded else "failed")
    assert life.execution.attempt == len(life.attempts) == retried + 1
    assert all(why is not None for why in (attempt.failure for attempt in life.attempts[:-1]))
    if succeeded:
        assert life.execution.outputs == {"answer": 42}
        assert life.execution.failure is None


def test_by_default_there_are_four_attempts_after_1_2_and_4_seconds() -> None:
    life = Life.of(execution()).run([failure()] * 9)
    assert life.pauses == [1.0, 2.0, 4.0]
    assert len(life.attempts) == 4
    assert life.execution.status is ExecutionStatus.FAILED


@given(st.lists(failures(*RETRYABLE), max_size=3), failures(ErrorType.PERMANENT), st.booleans())
@settings(max_examples=200)
def test_permanent_failures_end_at_once(before: list[Any], why: Any, asks_for_all: bool) -> None:
    """Feature: execution-engine, Property 27: Permanent Error Immediate Failure

    For any execution failure classified as permanent, the Failure_Handler should immediately mark the execution as
    FAILED, record error details, and not attempt any retries.
    """
    policy = RetryPolicy(retry_on=frozenset(ErrorType)) if asks_for_all else RetryPolicy()
    life = Life.of(execution(terms=Options(ASKED, retry=policy))).run([*before, why])
    assert life.execution.status is ExecutionStatus.FAILED
    assert life.execution.retries == len(before)
    assert life.execution.due_at is None
    assert life.execution.failure == dataclasses.replace(why, message=" ".join(why.message.split()))
    assert not life.verdicts[-1].escalate
    end = [event for event in life.events if event.type is EventType.STATUS][-1]
    assert end.data["failure"]["code"] == why.code


@given(
    st.lists(failures(*RETRYABLE), min_size=6, max_size=6),
    st.integers(0, 5),
    st.floats(0.01, 100),
)
@settings(max_examples=200)
def test_used_up_retries_escalate(whys: list[Any], max_retries: int, first_pause_s: float) -> None:
    """Feature: execution-engine, Property 28: Retry Exhaustion Escalation

    For any execution where all retries are exhausted, the Failure_Handler should escalate the failure and notify the
    operations team.
    """
    policy = RetryPolicy(max_retries=max_retries, first_pause_s=first_pause_s)
    life = Life.of(execution(terms=Options(ASKED, retry=policy))).run(whys)
    alerts = [event for event in life.events if event.type is EventType.ALERT]
    assert life.execution.status is ExecutionStatus.FAILED
    assert [verdict.escalate for verdict in life.verdicts] == [False] * max_retries + [max_retries > 0]
    assert len(alerts) == (max_retries > 0)  # where no retries were wanted none are used up
    assert (Flag.ESCALATED in life.execution.flags) == (max_retries > 0)
    assert len(life.attempts) == max_retries + 1
    assert [attempt.failure.code for attempt in life.attempts if attempt.failure] == [
        why.code for why in whys[: max_retries + 1]
    ]
    for alert in alerts:
        assert alert.data["alert"] == "retries_exhausted"
        assert alert.data["retries"] == max_retries
    assert verify_chain(life.events, life.execution.chain) == ""


@given(
    st.text(max_size=3 * MAX_DETAIL_CHARS),
    st.integers(0, 3),
    st.sampled_from(["worker_lost", "crashed", "x"]),
)
@settings(max_examples=100)
def test_a_crash_is_recorded_and_tried_again_in_a_fresh_sandbox(detail: str, before: int, code: str) -> None:
    """Feature: execution-engine, Property 29: Container Crash Recovery

    For any container crash, the Failure_Handler should: (1) capture crash logs, and (2) restart the container with a
    fresh instance if retries remain.
    """
    life = Life.of(execution())
    for _ in range(before):
        life.start()
        life.fail(failure())
    life.start()
    token = life.execution.token
    seen = len(life.events)
    life.fail(failure(ErrorType.CRASH, detail=detail, code=code))
    new = life.events[seen:]
    logs = [event for event in new if event.message == CRASH_LOG]
    assert len(logs) == 1
    assert logs[0].data["detail"] == detail[-MAX_DETAIL_CHARS:]
    assert logs[0].data["attempt"] == before + 1
    assert Flag.CRASHED in life.execution.flags
    if before == 3:
        assert life.execution.status is ExecutionStatus.FAILED
        return
    assert [event.type for event in new if event.message != "submitted"] == [
        EventType.ACTION,
        EventType.RETRY,
    ]
    assert life.execution.worker_id == ""
    life.start(worker="another")
    assert life.execution.token > token  # what the crashed attempt still says is discarded
    assert life.execution.attempt == before + 2


@given(
    st.floats(1.0, 4.0),
    st.floats(1.0, 16.0),
    st.integers(0, 6),
    st.integers(1, 4096),
)
@settings(max_examples=200)
def test_resources_grow_up_to_the_cap_and_no_further(
    factor: float, cap: float, max_retries: int, memory_mb: int
) -> None:
    asked = Resources(1.0, memory_mb, 10, 1, 64)
    policy = RetryPolicy(max_retries=max_retries, resource_factor=factor, resource_cap=cap)
    life = Life.of(execution(terms=Options(asked, retry=policy)))
    granted = [life.execution.granted]
    for _ in range(max_retries + 2):
        life.start()
        life.fail(failure(ErrorType.RESOURCE, code="memory_exceeded"))
        if life.execution.status.final:
            break
        granted.append(life.execution.granted)
    assert life.execution.status is ExecutionStatus.FAILED
    assert life.execution.retries <= max_retries
    most = asked.scaled(cap)
    for less, more in pairwise(granted):
        assert less.fits_in(more)
        assert not more.fits_in(less)
        assert more.fits_in(most)
        assert (more.cpu_cores, more.network_mbps, more.gpus, more.storage_mb) == (1.0, 10, 1, 64), (
            "not lacking"
        )
    if life.execution.retries < max_retries:
        assert (
            life.execution.granted.scaled(factor).at_most(most).memory_mb <= life.execution.granted.memory_mb
        )


def test_resources_double_and_reach_eight_times_what_was_asked_for() -> None:
    life = Life.of(execution())
    memory = []
    for _ in range(4):
        life.start()
        life.fail(failure(ErrorType.RESOURCE))
        memory.append(life.execution.granted.memory_mb)
    assert memory == [1024, 2048, 4096, 4096]
    assert life.verdicts[-1].escalate


def test_a_retry_asks_for_no_more_than_the_largest_worker_has() -> None:
    largest = Resources(cpu_cores=2, memory_mb=768, network_mbps=10, storage_mb=64)
    life = Life.of(execution())
    life.start()
    life.fail(failure(ErrorType.RESOURCE), largest=largest)
    assert life.execution.granted == largest
    life.start()
    verdict = life.fail(failure(ErrorType.RESOURCE), largest=largest)
    assert life.execution.status is ExecutionStatus.FAILED
    assert verdict.escalate  # it was tried again, and there is no more to give


def test_a_smaller_largest_worker_takes_nothing_away() -> None:
    one = execution(granted=ASKED.scaled(2))
    wanted = failure_policy.raised(one, ASKED)
    assert wanted is None


def test_work_that_reserved_nothing_cannot_be_given_more() -> None:
    life = Life.of(execution(terms=Options(ZERO)))
    life.start()
    verdict = life.fail(failure(ErrorType.RESOURCE))
    assert life.execution.status is ExecutionStatus.FAILED
    assert not verdict.escalate


def test_without_retries_a_failure_ends_and_pages_nobody() -> None:
    for error_type in ErrorType:
        life = Life.of(execution(terms=Options(ASKED, retry=NO_RETRIES)))
        life.start()
        verdict = life.fail(failure(error_type))
        assert life.execution.status is ExecutionStatus.FAILED
        assert not verdict.escalate


def test_a_timeout_ends_timed_out_and_keeps_what_was_done() -> None:
    life = Life.of(execution())
    life.start()
    usage = Usage(wall_s=5, cpu_s=4.5)
    life.fail(failure(ErrorType.PERMANENT), timed_out=True, usage=usage, result={"stdout": "so far"})
    assert life.execution.status is ExecutionStatus.TIMED_OUT
    assert life.execution.result == {"stdout": "so far"}
    assert life.execution.usage == usage
    assert life.attempts[-1].ending is AttemptEnd.TIMED_OUT


def test_a_timeout_is_retried_where_it_is_asked_for() -> None:
    life = Life.of(execution())
    life.start()
    error_type = classify(
        FailureCategory.RESOURCE_LIMIT, timed_out=True, retry=RetryPolicy(retry_timeouts=True)
    )
    life.fail(failure(error_type), timed_out=True)
    assert life.execution.status is ExecutionStatus.SUBMITTED
    assert life.attempts[-1].ending is AttemptEnd.TIMED_OUT
    for _ in range(3):
        life.start()
        life.fail(failure(error_type), timed_out=True)
    assert life.execution.status is ExecutionStatus.TIMED_OUT
    assert Flag.ESCALATED in life.execution.flags


def test_a_lost_worker_is_a_crash() -> None:
    life = Life.of(execution())
    life.start(worker="w7")
    life.judge(after_loss(life.execution, life.now, detail="no sign of life for 30 s"))
    assert life.execution.status is ExecutionStatus.SUBMITTED
    assert life.execution.failure is not None
    assert life.execution.failure.code == WORKER_LOST
    assert life.attempts[-1].ending is AttemptEnd.LOST
    assert life.attempts[-1].worker_id == "w7"
    assert life.execution.flags == (Flag.CRASHED,)


@pytest.mark.parametrize("lost", [True, False])
def test_a_cancelled_execution_ends_cancelled_whatever_its_attempt_says(lost: bool) -> None:
    life = Life.of(execution())
    life.start()
    life.apply(transitions.cancel_running(life.execution, "asked for", "someone"))
    now = life.now + 1
    verdict = (
        after_loss(life.execution, now)
        if lost
        else after_failure(life.execution, failure(ErrorType.CRASH), now)
    )
    life.judge(verdict)
    assert life.execution.status is ExecutionStatus.CANCELLED
    assert not verdict.escalate
    assert life.execution.due_at is None


def test_the_word_of_a_lost_attempt_is_discarded() -> None:
    life = Life.of(execution())
    life.start()
    late = after_failure(life.execution, failure(), life.now)
    life.judge(after_loss(life.execution, life.now))
    life.start()
    assert apply_change(life.execution, late.change, life.now) is None


def test_a_flag_is_set_once() -> None:
    life = Life.of(execution()).run([failure(ErrorType.CRASH)] * 4)
    assert sorted(life.execution.flags) == ["crashed", "escalated"]


@given(st.floats(0, 1e6), st.integers(0, 10_000))
@settings(max_examples=200)
def test_pauses_are_bounded(first_pause_s: float, retries: int) -> None:
    policy = RetryPolicy(first_pause_s=first_pause_s)
    pause = pause_s(policy, retries)
    assert 0 <= pause <= MAX_PAUSE_S
    if retries <= 3:
        assert pause == pytest.approx(min(first_pause_s * 2**retries, MAX_PAUSE_S))


def test_messages_are_one_line_and_bounded() -> None:
    life = Life.of(execution(submitted_at=NOW))
    life.start()
    life.fail(failure(ErrorType.PERMANENT, message="a\nb " + "x" * 5000, detail="y" * 100_000))
    why = life.execution.failure
    assert why is not None
    assert why.message.startswith("a b ")
    assert len(why.message) == failure_policy.MAX_MESSAGE_CHARS
    assert len(why.detail) == MAX_DETAIL_CHARS
