"""What the executions of a time came to, in numbers (spec 4, property 24): pure.

Rates and utilisations are percentages, 0.0 to 100.0, as the specification gives them. A number of which nothing
is known, such as the average duration where nothing ran, is None: it is not 0.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.model import Worker, WorkerState
from praxis_sdk.resources import Resources, total
from praxis_sdk.states import HELD, ExecutionStatus
from praxis_sdk.store.protocol import Counts, FinishedExecution

MAX_CONTROLS: Final = 1000  # told apart in averages, those with the most executions

_ERRORS: Final = frozenset({ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT})
_MEBI: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ResourceUtilization:
    """How much of the workers' capacity is taken (spec 4, "Execution Metrics").

    Args:
        cpu_usage, memory_usage, network_usage: in percent; None where the workers have nothing of it, or nobody
            could measure it.
    """

    cpu_usage: float | None = None
    memory_usage: float | None = None
    network_usage: float | None = None


@dataclass(frozen=True, slots=True)
class Average:
    """How long executions of one sort took.

    Args:
        count: how many there were.
        mean_s: their average duration, in seconds.
    """

    count: int
    mean_s: float


@dataclass(frozen=True, slots=True)
class ExecutionMetrics:
    """The numbers of a time window (spec 4, property 24).

    Args:
        since, until: the window, seconds since 1970.
        total_executions: those that wait or run now, and those that ended in the window.
        running_executions: those that a worker holds now.
        completed_executions: those that ended with a result that can be used.
        failed_executions: those that failed or ran out of time.
        by_status: all, per status.
        success_rate: of those that ended other than by being cancelled, percent with a usable result.
        error_rate: of the same, percent that failed or ran out of time.
        errors_by_type: of the same, percent per error type.
        average_duration_s, p95_duration_s, p99_duration_s: from the first attempt's beginning to the end, of those
            that began; percentiles are exact, by nearest rank.
        by_control, by_kind, by_mode: the same average per control, kind, and mode of execution.
        queue_depth: executions that would start now if there were room.
        scheduled_executions: executions that wait for their time.
        oldest_wait_s: for how long the first in the queue has waited; None where nothing waits.
        p50_wait_s, p95_wait_s: from submission to the first attempt.
        throughput_per_s: executions that ended, per second.
        retries: retries that those needed.
        workers: active workers.
        resource_utilization: what is reserved now, of what the active workers have.
        resource_usage: what was used over the window, on average, of what the active workers have now; above 100
            where there were more workers then.
    """

    since: float
    until: float
    total_executions: int
    running_executions: int
    completed_executions: int
    failed_executions: int
    by_status: Mapping[ExecutionStatus, int]
    success_rate: float | None
    error_rate: float | None
    errors_by_type: Mapping[str, float]
    average_duration_s: float | None
    p95_duration_s: float | None
    p99_duration_s: float | None
    by_control: Mapping[str, Average]
    by_kind: Mapping[str, Average]
    by_mode: Mapping[str, Average]
    queue_depth: int
    scheduled_executions: int
    oldest_wait_s: float | None
    p50_wait_s: float | None
    p95_wait_s: float | None
    throughput_per_s: float
    retries: int
    workers: int
    resource_utilization: ResourceUtilization
    resource_usage: ResourceUtilization

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON, for dashboards."""
        document = dataclasses.asdict(self)
        document["by_status"] = {str(status): count for status, count in self.by_status.items()}
        return document


def summarise(
    ended: Sequence[FinishedExecution], counts: Counts, workers: Iterable[Worker], since: float, until: float
) -> ExecutionMetrics:
    """Return the numbers of a window.

    Args:
        ended: the executions that ended in it.
        counts: those that wait and run now.
        workers: the workers of now.
        since, until: the window, seconds since 1970; `until` is now.
    """
    active = [worker for worker in workers if worker.state in (WorkerState.ACTIVE, WorkerState.DRAINING)]
    capacity = total(worker.capacity for worker in active)
    by_status = Counter(execution.status for execution in ended)
    by_status.update(counts.by_status)
    judged = [execution for execution in ended if execution.status is not ExecutionStatus.CANCELLED]
    completed = sum(execution.status.succeeded for execution in judged)
    failed = [execution for execution in judged if execution.status in _ERRORS]
    errors = Counter(execution.error_type or "unknown" for execution in failed)
    began = [(one.submitted_at, one.started_at, one.ended_at) for one in ended if one.started_at is not None]
    durations = sorted(max(0.0, ended_at - started_at) for _, started_at, ended_at in began)
    waits = sorted(max(0.0, started_at - submitted_at) for submitted_at, started_at, _ in began)
    oldest = counts.oldest_queued_at
    return ExecutionMetrics(
        since=since,
        until=until,
        total_executions=sum(by_status.values()),
        running_executions=sum(counts.by_status.get(status, 0) for status in HELD),
        completed_executions=completed,
        failed_executions=len(failed),
        by_status={status: by_status[status] for status in ExecutionStatus},
        success_rate=percent(completed, len(judged)),
        error_rate=percent(len(failed), len(judged)),
        errors_by_type={name: 100.0 * count / len(judged) for name, count in sorted(errors.items())},
        average_duration_s=sum(durations) / len(durations) if durations else None,
        p95_duration_s=percentile(durations, 95),
        p99_duration_s=percentile(durations, 99),
        by_control=_averages(ended, lambda execution: execution.control),
        by_kind=_averages(ended, lambda execution: execution.kind),
        by_mode=_averages(ended, _mode_of),
        queue_depth=counts.by_status.get(ExecutionStatus.QUEUED, 0),
        scheduled_executions=counts.by_status.get(ExecutionStatus.SUBMITTED, 0),
        oldest_wait_s=None if oldest is None else max(0.0, until - oldest),
        p50_wait_s=percentile(waits, 50),
        p95_wait_s=percentile(waits, 95),
        throughput_per_s=len(ended) / (until - since) if until > since else 0.0,
        retries=sum(execution.retries for execution in ended),
        workers=len(active),
        resource_utilization=_reserved(active, capacity),
        resource_usage=_used(ended, capacity, since, until),
    )


def percentile(ordered: Sequence[float], percent_: int) -> float | None:
    """Return the smallest value that at least so many percent of the values do not exceed (nearest rank).

    Args:
        ordered: the values, ascending.
        percent_: 1 to 100.

    Returns:
        One of the values; None where there is none.
    """
    return ordered[-(-percent_ * len(ordered) // 100) - 1] if ordered else None


def percent(part: float, whole: float) -> float | None:
    """Return a part in percent; None where there is no whole."""
    return 100.0 * part / whole if whole > 0 else None


def _averages(
    ended: Iterable[FinishedExecution], key: Callable[[FinishedExecution], str]
) -> dict[str, Average]:
    durations: defaultdict[str, list[float]] = defaultdict(list)
    for execution in ended:
        name = key(execution)
        if execution.started_at is not None and name:
            durations[name].append(max(0.0, execution.ended_at - execution.started_at))
    most = sorted(durations.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_CONTROLS]
    return {name: Average(len(seconds), sum(seconds) / len(seconds)) for name, seconds in sorted(most)}


def _reserved(workers: Iterable[Worker], capacity: Resources) -> ResourceUtilization:
    reserved = total(worker.reserved for worker in workers)
    return ResourceUtilization(
        percent(reserved.cpu_cores, capacity.cpu_cores),
        percent(reserved.memory_mb, capacity.memory_mb),
        percent(reserved.network_mbps, capacity.network_mbps),
    )


def _used(
    ended: Iterable[FinishedExecution], capacity: Resources, since: float, until: float
) -> ResourceUtilization:
    """What the last attempts of executions used: their share of it that lies in the window.

    Of memory only the peak is known, which is taken for the whole of the attempt: an upper bound.
    """
    cpu_s = memory_mb_s = network_mbit = 0.0
    known_cpu = known_memory = known_network = False
    for execution in ended:
        usage = execution.usage
        if usage is None:
            continue
        began = execution.ended_at - usage.wall_s
        inside_s = max(0.0, min(execution.ended_at, until) - max(began, since))
        share = inside_s / usage.wall_s if usage.wall_s > 0 else 1.0
        if usage.cpu_s is not None:
            known_cpu, cpu_s = True, cpu_s + usage.cpu_s * share
        if usage.peak_memory_bytes is not None:
            known_memory, memory_mb_s = True, memory_mb_s + usage.peak_memory_bytes / _MEBI * inside_s
        if usage.network_bytes is not None:
            known_network, network_mbit = True, network_mbit + usage.network_bytes * 8e-6 * share
    window_s = until - since
    return ResourceUtilization(
        percent(cpu_s, capacity.cpu_cores * window_s) if known_cpu else None,
        percent(memory_mb_s, capacity.memory_mb * window_s) if known_memory else None,
        percent(network_mbit, capacity.network_mbps * window_s) if known_network else None,
    )


def _mode_of(execution: FinishedExecution) -> str:
    return str(execution.mode) if execution.mode else ""
