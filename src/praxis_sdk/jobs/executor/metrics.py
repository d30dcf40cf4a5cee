"""What is counted of jobs, for the page that Prometheus reads.

Labels are statuses, categories and phases, which are few, and versions of environments, of which the first so many
are told apart: a label never takes as many values as there are jobs, users or hosts.
"""

from __future__ import annotations

from typing import Any, Final

from praxis_sdk.errors import MissingExtra
from praxis_sdk.jobs.executor.result import JobResult

MAX_ENV_VERSIONS: Final = 50
OTHER: Final = "other"
NONE: Final = "none"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_DURATIONS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_PHASES: Final = ("prepare", "run", "collect")


def prometheus_client() -> Any:
    """Return the library, which is imported when it is first used.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import prometheus_client as library
    except ImportError as error:
        raise MissingExtra("prometheus_client", "jobs") from error
    return library


class JobMetrics:
    """Counts jobs for Prometheus.

    Args:
        registry: where the counters are registered; None: in one of its own.
        max_env_versions: how many versions of environments are told apart; the rest is 'other'.

    Raises:
        MissingExtra: the library is not installed.
    """

    def __init__(self, registry: Any = None, *, max_env_versions: int = MAX_ENV_VERSIONS) -> None:
        prometheus = self._library = prometheus_client()
        self._env_versions: set[str] = set()
        self._max_env_versions = max_env_versions
        self._registry = registry if registry is not None else prometheus.CollectorRegistry()

        def made(kind: Any, name: str, help_: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            return kind(name, help_, labels, registry=self._registry, **options)

        counter, histogram = prometheus.Counter, prometheus.Histogram
        of = ("status", "category", "env_version")
        self._jobs = made(counter, "praxis_jobs", "Jobs that ended.", of)
        self._phases = made(
            histogram,
            "praxis_job_duration_seconds",
            "How long the phases of jobs took.",
            ("phase",),
            buckets=_DURATIONS_S,
        )
        self._sandboxes = made(counter, "praxis_sandbox_starts", "Sandboxes in which work was started.")
        self._artifacts = made(counter, "praxis_artifacts", "Artifacts that jobs left behind.")
        self._artifact_bytes = made(counter, "praxis_artifact_bytes", "Their bytes.")
        self._cpu = made(counter, "praxis_job_cpu_seconds", "Processor time of jobs.")
        self._cached = made(counter, "praxis_job_cache_hits", "Jobs answered by the result of an equal one.")
        self._network = made(
            counter, "praxis_job_network_bytes", "Bytes that jobs exchanged with hosts.", ("direction",)
        )
        self._refused = made(counter, "praxis_job_network_refusals", "Uses of the network that were refused.")

    def ended(self, result: JobResult) -> None:
        """Tell a job that ended."""
        category = str(result.failure.category) if result.failure else NONE
        self._jobs.labels(str(result.status), category, self._env_version(result.env_version)).inc()
        if result.from_cache:
            self._cached.inc()
            return  # the rest is the account of the job that ran
        for phase in _PHASES:
            seconds = getattr(result.timings, f"{phase}_s")
            if seconds is not None:
                self._phases.labels(phase).observe(seconds)
        if result.timings.started_at is not None:
            self._sandboxes.inc()
        self._artifacts.inc(len(result.artifacts))
        self._artifact_bytes.inc(sum(artifact.size_bytes for artifact in result.artifacts))
        self._cpu.inc(result.usage.cpu_s or 0.0)
        for use in result.network:
            self._network.labels("sent").inc(use.sent_bytes)
            self._network.labels("received").inc(use.received_bytes)
            self._refused.inc(not use.allowed)

    def render(self) -> bytes:
        """Return the page, in the text format of Prometheus (`CONTENT_TYPE`)."""
        page: bytes = self._library.generate_latest(self._registry)
        return page

    def _env_version(self, version: str | None) -> str:
        if version is None:
            return NONE
        if version not in self._env_versions:
            if len(self._env_versions) >= self._max_env_versions:
                return OTHER
            self._env_versions.add(version)
        return version
