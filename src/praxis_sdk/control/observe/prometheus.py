"""The control plane's page for Prometheus: what it counts as it goes, and the numbers of `control.metrics`.

Labels are kinds, statuses and error types, which are few, and names of dependencies and notifiers, which somebody
configured; what may take as many values as there are controls or executions is no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from praxis_sdk.control.observe.metrics import ExecutionMetrics, ResourceUtilization
from praxis_sdk.control.workers.breaker import BreakerState
from praxis_sdk.jobs.executor.metrics import JobMetrics, prometheus_client
from praxis_sdk.states import HELD, PENDING
from praxis_sdk.store.changes import AppliedChange

MAX_NAMES: Final = 50
OTHER: Final = "other"
NONE: Final = "none"

_DURATIONS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_BREAKER_LEVEL: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class ControlMetrics:
    """Counts for Prometheus, in a registry of its own.

    Args:
        max_names: how many kinds, dependencies and notifiers are told apart, each; the rest is 'other'.

    Raises:
        MissingExtra: the library is not installed.
    """

    def __init__(self, *, max_names: int = MAX_NAMES) -> None:
        library = self._library = prometheus_client()
        self._registry = library.CollectorRegistry()
        self.jobs = JobMetrics(self._registry)
        self._max_names = max_names
        self._names: dict[str, set[str]] = {}

        def made(kind: Any, name: str, help_: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            return kind(f"praxis_{name}", help_, labels, registry=self._registry, **options)

        counter, gauge, histogram = library.Counter, library.Gauge, library.Histogram
        buckets = {"buckets": _DURATIONS_S}
        # What this process counts.
        self._ended = made(
            counter, "executions_ended", "Executions that ended.", ("kind", "status", "error_type")
        )
        self._durations = made(
            histogram,
            "execution_duration_seconds",
            "From the first attempt to the end.",
            ("kind",),
            **buckets,
        )
        self._waits = made(
            histogram,
            "execution_wait_seconds",
            "From submission to the first attempt.",
            ("kind",),
            **buckets,
        )
        self._attempts = made(counter, "attempts_ended", "Attempts that ended.", ("kind", "ending"))
        self._retries = made(counter, "execution_retries", "Retries.", ("kind", "error_type"))
        self._alerts = made(counter, "alerts", "Alerts that were raised.", ("alert",))
        self._notices = made(
            counter, "notifications", "Alerts passed on to notifiers.", ("notifier", "outcome")
        )
        self._breakers = made(gauge, "breaker_state", "0: closed, 1: half-open, 2: open.", ("dependency",))
        # What the store knows, of all processes.
        self._live = made(gauge, "executions", "Executions that wait or run.", ("status",))
        self._oldest = made(gauge, "queue_oldest_wait_seconds", "How long the first in the queue has waited.")
        self._workers = made(gauge, "workers", "Active workers.")
        self._success = made(gauge, "execution_success_ratio", "Of those that ended in the window, 0 to 1.")
        self._error = made(gauge, "execution_error_ratio", "Of those that ended in the window, 0 to 1.")
        self._window = made(
            gauge, "execution_window_duration_seconds", "Durations in the window.", ("quantile",)
        )
        self._throughput = made(
            gauge, "executions_ended_per_second", "Executions that ended in the window, per second."
        )
        self._reserved = made(gauge, "resources_reserved_ratio", "Of the workers' capacity.", ("resource",))
        self._used = made(gauge, "resources_used_ratio", "Of the workers' capacity.", ("resource",))

    def settled(self, settled: AppliedChange) -> None:
        """Count a change that held."""
        before, after, attempt = settled.before, settled.after, settled.attempt
        kind = self._bounded("kind", after.kind)
        error_type = str(after.failure.error_type) if after.failure else NONE
        if attempt is not None:
            self._attempts.labels(kind, str(attempt.ending)).inc()
        if after.retries > before.retries:
            self._retries.labels(kind, error_type).inc()
        if before.started_at is None and after.started_at is not None:
            self._waits.labels(kind).observe(max(0.0, after.started_at - after.submitted_at))
        if after.status.final and not before.status.final:
            self._ended.labels(kind, str(after.status), error_type).inc()
            if after.started_at is not None:
                self._durations.labels(kind).observe(after.elapsed_s(after.ended_at or 0.0))

    def alerted(self, alert: str) -> None:
        """Count an alert by its kind."""
        self._alerts.labels(alert).inc()

    def notified(self, notifier: str, outcome: str) -> None:
        """Count what became of an alert on its way to people."""
        self._notices.labels(self._bounded("notifier", notifier), outcome).inc()

    def breakers(self, states: Mapping[str, BreakerState]) -> None:
        """Tell where the breakers stand."""
        for name, state in states.items():
            self._breakers.labels(self._bounded("dependency", name)).set(_BREAKER_LEVEL[state])

    def update(self, metrics: ExecutionMetrics) -> None:
        """Tell the numbers of a window; what is not known is not a number on the page."""
        for status in sorted(PENDING | HELD):
            self._live.labels(str(status)).set(metrics.by_status.get(status, 0))
        self._oldest.set(metrics.oldest_wait_s or 0.0)
        self._workers.set(metrics.workers)
        self._success.set(_ratio(metrics.success_rate))
        self._error.set(_ratio(metrics.error_rate))
        self._window.labels("mean").set(_known(metrics.average_duration_s))
        self._window.labels("0.95").set(_known(metrics.p95_duration_s))
        self._window.labels("0.99").set(_known(metrics.p99_duration_s))
        self._throughput.set(metrics.throughput_per_s)
        for gauge, amounts in (
            (self._reserved, metrics.resource_utilization),
            (self._used, metrics.resource_usage),
        ):
            for name, value in _resources(amounts).items():
                gauge.labels(name).set(_ratio(value))

    def render(self) -> bytes:
        """Return the page, in the text format of Prometheus (`jobs.metrics.CONTENT_TYPE`)."""
        page: bytes = self._library.generate_latest(self._registry)
        return page

    def _bounded(self, label: str, name: str) -> str:
        names = self._names.setdefault(label, set())
        if name not in names:
            if len(names) >= self._max_names:
                return OTHER
            names.add(name)
        return name


def _resources(amounts: ResourceUtilization) -> dict[str, float | None]:
    return {"cpu": amounts.cpu_usage, "memory": amounts.memory_usage, "network": amounts.network_usage}


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _ratio(value: float | None) -> float:
    return _known(value) / 100.0
