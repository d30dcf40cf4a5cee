"""What the tests of jobs share: a home with the environment `base`, and an executor on it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.jobs.payload.payload import JobPayload, parse_payload

_numbers = itertools.count(1)


def payload(**fields: Any) -> JobPayload:
    """Make a payload; a Python job unless the fields say otherwise."""
    return parse_payload(
        {"schema_version": "1.0", "job_id": f"job-{next(_numbers)}", "runtime": "python", **fields}
    )


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentStore:
    """Build `base` once."""
    store = EnvironmentStore(tmp_path_factory.mktemp("environments"))
    store.ensure("base")
    return store


@pytest.fixture
async def executor(environments: EnvironmentStore, tmp_path: Path) -> AsyncIterator[JobExecutor]:
    """Make an executor with stores of its own."""
    made = JobExecutor(ArtifactStore.open(tmp_path / "artifacts"), environments, ResultStore(tmp_path))
    yield made
    await made.close()
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)


@pytest.fixture
def run(executor: JobExecutor) -> Callable[..., Awaitable[JobResult]]:
    """Run a job by its payload's fields."""

    async def run_one(code: str | None = None, **fields: Any) -> JobResult:
        work = fields if code is None else {"code": code, **fields}
        return await executor.run(payload(**work), on_progress=lambda _: None)

    return run_one
