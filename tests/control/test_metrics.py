"""The numbers of a time window, and the same for Prometheus."""

from __future__ import annotations

import builtins
import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.observe.metrics import ExecutionMetrics, percentile, summarise
from praxis_sdk.control.observe.prometheus import OTHER, ControlMetrics
from praxis_sdk.control.workers.breaker import BreakerState
from praxis_sdk.errors import MissingExtra
from praxis_sdk.model import Usage, Worker, WorkerState
from praxis_sdk.resources import Resources
from praxis_sdk.states import FINAL, ErrorType, ExecutionStatus
from praxis_sdk.store.changes import AppliedChange
from praxis_sdk.store.protocol import Counts, FinishedExecution
from tests.control.failure_samples import NOW, Life, execution, failure

SINCE, UNTIL = NOW, NOW + 100.0
LIVE = [status for status in ExecutionStatus if not status.final]
BAD = {ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT}

usages = st.builds(
    Usage,
    wall_s=st.floats(0, 50),
    cpu_s=st.none() | st.floats(0, 100),
    peak_memory_bytes=st.none() | st.integers(0, 1 << 34),
    network_bytes=st.none() | st.integers(0, 1 << 34),
)


@st.composite
def endings(draw: st.DrawFn) -> FinishedExecution:
    submitted_at = draw(st.floats(SINCE - 50, UNTIL))
    ended_at = draw(st.floats(max(SINCE, submitted_at), UNTIL))
    began = draw(st.booleans())
    status = draw(st.sampled_from(sorted(FINAL)))
    return FinishedExecution(
        kind=draw(st.sampled_from(["job", "tool"])),
        control=draw(st.sampled_from(["a", "b", "c"])),
        status=status,
        error_type=draw(st.sampled_from([*map(str, ErrorType)])) if status in BAD else None,
        submitted_at=submitted_at,
        started_at=draw(st.floats(submitted_at, ended_at)) if began else None,
        ended_at=ended_at,
        usage=draw(st.none() | usages),
        retries=draw(st.integers(0, 3)),
    )


workers_of = st.lists(
    st.builds(
        lambda number, cores, taken, state: Worker(
            id=f"w{number}",
            capacity=Resources(cores, cores * 1024, cores * 100),
            slots=8,
            kinds=frozenset({"job"}),
            reserved=Resources(cores * taken / 4, cores * 256 * taken, cores * 25 * taken),
            state=state,
        ),
        st.integers(0, 99),
        st.integers(1, 64),
        st.integers(0, 4),
        st.sampled_from(WorkerState),
    ),
    max_size=5,
)
counts_of = st.builds(
    Counts,
    st.dictionaries(st.sampled_from(LIVE), st.integers(0, 10_000)),
    st.none() | st.floats(SINCE - 100, UNTIL),
)


@given(st.lists(endings(), max_size=40), counts_of, workers_of)
@settings(max_examples=300)
def test_a_window_has_all_its_numbers(
    ended: list[FinishedExecution], counts: Counts, workers: list[Worker]
) -> None:
    """Feature: execution-engine, Property 24: Complete Metrics Collection

    For any time window, the Execution_Monitor should expose metrics including: execution count (total, running,
    completed, failed), success rate, average duration, p95 duration, p99 duration, resource utilization (CPU, memory,
    network), error rate, and queue depth.
    """
    metrics = summarise(ended, counts, workers, SINCE, UNTIL)
    live = counts.by_status
    assert metrics.total_executions == len(ended) + sum(live.values()) == sum(metrics.by_status.values())
    assert set(metrics.by_status) == set(ExecutionStatus)
    assert metrics.running_executions == live.get(LIVE[2], 0) + live.get(LIVE[3], 0)
    assert metrics.queue_depth == live.get(ExecutionStatus.QUEUED, 0)
    assert metrics.scheduled_executions == live.get(ExecutionStatus.SUBMITTED, 0)
    good = [one for one in ended if one.status in ("completed", "completed_with_errors")]
    bad = [one for one in ended if one.status in BAD]
    partial = [one for one in ended if one.status == "partially_completed"]
    judged = len(good) + len(bad) + len(partial)
    assert (metrics.completed_executions, metrics.failed_executions) == (len(good), len(bad))
    if judged:
        assert metrics.success_rate == pytest.approx(100 * len(good) / judged)
        assert metrics.error_rate == pytest.approx(100 * len(bad) / judged)
        assert sum(metrics.errors_by_type.values()) == pytest.approx(metrics.error_rate)
        assert set(metrics.errors_by_type) == {one.error_type for one in bad}
    else:
        assert metrics.success_rate is metrics.error_rate is None
    durations = [one.ended_at - one.started_at for one in ended if one.started_at is not None]
    if durations:
        assert metrics.average_duration_s == pytest.approx(sum(durations) / len(durations))
        for rank, value in ((95, metrics.p95_duration_s), (99, metrics.p99_duration_s)):
            assert value in durations
            assert 100 * sum(one <= value for one in durations) >= rank * len(durations)
            assert 100 * sum(one < value for one in durations) < rank * len(durations)
    else:
        assert metrics.average_duration_s is metrics.p95_duration_s is metrics.p99_duration_s is None
    by_control = Counter(one.control for one in ended if one.started_at is not None)
    assert {name: average.count for name, average in metrics.by_control.items()} == by_control
    assert sum(one.count * one.mean_s for one in metrics.by_kind.values()) == pytest.approx(sum(durations))
    active = [worker for worker in workers if worker.state in ("active", "draining")]
    assert metrics.workers == len(active)
    reserved = metrics.resource_utilization
    if active:
        cores = sum(worker.capacity.cpu_cores for worker in active)
        taken = 100 * sum(worker.reserved.cpu_cores for worker in active) / cores
        assert reserved.cpu_usage == reserved.memory_usage == reserved.network_usage == pytest.approx(taken)
        known = [one.usage.cpu_s for one in ended if one.usage and one.usage.cpu_s is not None]
        assert (metrics.resource_usage.cpu_usage is None) == (not known)
        assert (metrics.resource_usage.cpu_usage or 0) <= 100 * sum(known) / (cores * 100) * 1.001
    else:
        assert reserved.cpu_usage is reserved.memory_usage is reserved.network_usage is None
    assert metrics.throughput_per_s == pytest.approx(len(ended) / 100)
    assert metrics.retries == sum(one.retries for one in ended)
    json.dumps(metrics.to_json())


def ended(**fields: Any) -> FinishedExecution:
    given_: dict[str, Any] = {
        "kind": "job",
        "control": "a",
        "status": ExecutionStatus.COMPLETED,
        "error_type": None,
        "submitted_at": SINCE,
        "started_at": SINCE + 1,
        "ended_at": SINCE + 11,
        "usage": None,
        "retries": 0,
    }
    return FinishedExecution(**{**given_, **fields})


def worker(**fields: Any) -> Worker:
    given_: dict[str, Any] = {"slots": 4, "kinds": frozenset({"job"}), "capacity": Resources(4, 1000, 80)}
    return Worker("w1", **{**given_, **fields})


def test_what_was_used_is_measured_against_what_there_was() -> None:
    usage = Usage(wall_s=10, cpu_s=20, peak_memory_bytes=500 << 20, network_bytes=100_000_000)
    metrics = summarise([ended(usage=usage)], Counts({}), [worker()], SINCE, UNTIL)
    used = metrics.resource_usage
    assert used.cpu_usage == pytest.approx(100 * 20 / (4 * 100))
    assert used.memory_usage == pytest.approx(100 * (500 * 10) / (1000 * 100))
    assert used.network_usage == pytest.approx(100 * 800 / (80 * 100))


def test_only_the_part_inside_the_window_counts() -> None:
    usage = Usage(wall_s=20, cpu_s=20)
    metrics = summarise([ended(ended_at=SINCE + 10, usage=usage)], Counts({}), [worker()], SINCE, UNTIL)
    assert metrics.resource_usage.cpu_usage == pytest.approx(100 * 10 / 400)


def test_a_cancelled_execution_is_neither_success_nor_error() -> None:
    everything = [ended(), ended(status=ExecutionStatus.CANCELLED), ended(status=ExecutionStatus.TIMED_OUT)]
    metrics = summarise(everything, Counts({}), [], SINCE, UNTIL)
    assert (metrics.success_rate, metrics.error_rate) == (50.0, 50.0)
    assert metrics.errors_by_type == {"unknown": 50.0}


def test_waiting_counts_from_submission() -> None:
    some = [ended(started_at=SINCE + wait, ended_at=SINCE + 50) for wait in range(1, 11)]
    metrics = summarise(some, Counts({}, oldest_queued_at=UNTIL - 7), [], SINCE, UNTIL)
    assert (metrics.p50_wait_s, metrics.p95_wait_s, metrics.oldest_wait_s) == (5.0, 10.0, 7.0)


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([15, 20, 35, 40, 50], 30) == 20
    assert percentile([15, 20, 35, 40, 50], 40) == 20
    assert percentile([15, 20, 35, 40, 50], 50) == 35
    assert percentile([15, 20, 35, 40, 50], 100) == 50
    assert percentile(range(1, 101), 95) == 95
    assert percentile([], 50) is None


# -- Prometheus


def samples(metrics: ControlMetrics) -> dict[str, float]:
    found = {}
    for family in metrics._registry.collect():
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_life_is_counted() -> None:
    metrics = ControlMetrics()
    life = Life.of(execution())
    keep = life._keep

    def counted(settled: Any) -> Any:
        metrics.settled(settled)
        return keep(settled)

    life._keep = counted  # type: ignore[method-assign]
    life.run([failure(ErrorType.CRASH), failure(ErrorType.TRANSIENT)])
    found = samples(metrics)
    assert found["praxis_executions_ended_total{error_type=none,kind=job,status=completed}"] == 1
    assert found["praxis_attempts_ended_total{ending=failed,kind=job}"] == 2
    assert found["praxis_attempts_ended_total{ending=completed,kind=job}"] == 1
    assert found["praxis_execution_retries_total{error_type=crash,kind=job}"] == 1
    assert found["praxis_execution_duration_seconds_count{kind=job}"] == 1
    assert found["praxis_execution_wait_seconds_sum{kind=job}"] == pytest.approx(0.5)


def test_the_page_tells_the_numbers_of_the_window() -> None:
    metrics = ControlMetrics()
    counts = Counts({ExecutionStatus.QUEUED: 7, ExecutionStatus.RUNNING: 2}, UNTIL - 3)
    numbers: ExecutionMetrics = summarise(
        [ended(), ended(status=ExecutionStatus.FAILED, error_type="crash")],
        counts,
        [worker(reserved=Resources(1))],
        SINCE,
        UNTIL,
    )
    metrics.update(numbers)
    metrics.breakers({"mcp": BreakerState.OPEN})
    metrics.alerted("worker_lost")
    metrics.notified("log", "delivered")
    found = samples(metrics)
    assert found["praxis_executions{status=queued}"] == 7
    assert found["praxis_executions{status=submitted}"] == 0
    assert found["praxis_execution_success_ratio"] == 0.5
    assert found["praxis_execution_window_duration_seconds{quantile=0.95}"] == 10
    assert found["praxis_resources_reserved_ratio{resource=cpu}"] == 0.25
    assert math.isnan(found["praxis_resources_used_ratio{resource=cpu}"])
    assert found["praxis_breaker_state{dependency=mcp}"] == 2
    assert found["praxis_alerts_total{alert=worker_lost}"] == 1
    assert found["praxis_notifications_total{notifier=log,outcome=delivered}"] == 1
    assert b"praxis_queue_oldest_wait_seconds 3.0" in metrics.render()


def test_labels_take_few_values_whatever_comes() -> None:
    metrics = ControlMetrics(max_names=3)
    for number in range(20):
        life = Life.of(execution(f"e{number}", kind=f"kind{number}"))
        life.start()
        before = life.execution
        life.succeed()
        metrics.settled(AppliedChange(before, life.execution))
    kinds = [name for name in samples(metrics) if name.startswith("praxis_executions_ended_total")]
    assert len(kinds) == 4
    assert sum(OTHER in name for name in kinds) == 1


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"praxis-sdk\[jobs\]"):
        ControlMetrics()
