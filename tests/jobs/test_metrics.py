"""What is counted of jobs, and that labels stay few."""

from __future__ import annotations

import builtins
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import MissingExtra
from praxis_sdk.jobs.executor.metrics import OTHER, JobMetrics
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.states import ExecutionStatus, FailureCategory


def result(**fields: Any) -> JobResult:
    return JobResult.model_validate({"job_id": "a", "status": "completed", **fields}, strict=False)


def failure(category: FailureCategory, code: str = "exception") -> dict[str, Any]:
    return {"category": category, "code": code, "message": "it failed"}


def lines(metrics: JobMetrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_what_happened_is_counted() -> None:
    metrics = JobMetrics()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    use = {"at": moment, "host": "data.example.org", "port": 443}
    metrics.ended(
        result(
            env_version="base-0123456789ab",
            timings={"started_at": moment, "prepare_s": 0.01, "run_s": 2.0, "collect_s": 0.1},
            usage={"cpu_s": 1.5},
            network=[
                {**use, "allowed": True, "sent_bytes": 10, "received_bytes": 20},
                {**use, "allowed": False, "reason": "not granted"},
            ],
        )
    )
    found = lines(metrics)
    for line in (
        'praxis_jobs_total{category="none",env_version="base-0123456789ab",status="completed"} 1.0',
        'praxis_job_duration_seconds_count{phase="run"} 1.0',
        'praxis_job_duration_seconds_sum{phase="run"} 2.0',
        "praxis_sandbox_starts_total 1.0",
        "praxis_job_cpu_seconds_total 1.5",
        'praxis_job_network_bytes_total{direction="sent"} 10.0',
        'praxis_job_network_bytes_total{direction="received"} 20.0',
        "praxis_job_network_refusals_total 1.0",
    ):
        assert line in found


def test_a_result_from_the_cache_starts_no_sandbox() -> None:
    metrics = JobMetrics()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    metrics.ended(result(from_cache=True, timings={"started_at": moment, "run_s": 9.0}))
    found = lines(metrics)
    assert "praxis_job_cache_hits_total 1.0" in found
    assert "praxis_sandbox_starts_total 0.0" in found
    assert not any("duration" in line and 'phase="run"' in line for line in found)


versions = st.from_regex(r"[a-z]{1,5}-[0-9a-f]{12}", fullmatch=True)
ends = st.tuples(
    st.none() | versions,
    st.sampled_from([None, *FailureCategory]),
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9]{1,20}", fullmatch=True),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ends, min_size=1, max_size=60))
def test_no_label_takes_unbounded_values(
    jobs: list[tuple[str | None, FailureCategory | None, str, str]],
) -> None:
    metrics = JobMetrics(max_env_versions=3)
    for version, category, code, job_id in jobs:
        status = ExecutionStatus.FAILED if category else ExecutionStatus.COMPLETED
        metrics.ended(
            result(
                job_id=job_id,
                status=status,
                env_version=version,
                failure=failure(category, code) if category else None,
            )
        )
    samples = [sample for family in metrics._registry.collect() for sample in family.samples]
    told = {sample.labels["env_version"] for sample in samples if "env_version" in sample.labels}
    assert len(told - {"none", OTHER}) <= 3
    assert sum(sample.value for sample in samples if sample.name == "praxis_jobs_total") == len(jobs)
    names = {name for sample in samples for name in sample.labels}
    assert names <= {"status", "category", "env_version", "phase", "le", "direction"}


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"praxis-sdk\[jobs\]"):
        JobMetrics()
