"""Trouble of the platform while a job's artifacts are kept: it is nobody's fault who submitted the job."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from praxis_sdk.control.lifecycle.failure_policy import of_error
from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.artifacts import ArtifactStore, ArtifactStoreUnavailable
from praxis_sdk.jobs.artifacts.backends.folder import Folder
from praxis_sdk.jobs.artifacts.body import Body
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.states import ErrorType, FailureCategory
from tests.jobs.conftest import payload

ROOT = Path(__file__).resolve().parents[2]
TRANSIENT = (FailureCategory.INTERNAL_ERROR, ErrorType.TRANSIENT)


def meaning(error: BaseException) -> tuple[FailureCategory, ErrorType]:
    """Who must act, and whether trying again can help."""
    failure = of_error(error)
    return failure.category, failure.error_type


async def test_a_store_that_is_away_fails_the_attempt_and_no_other_job(
    environments: EnvironmentStore, tmp_path: Path
) -> None:
    class Away(Folder):
        async def create(self, key: str, body: Body) -> bool:
            raise ArtifactStoreUnavailable("the object storage does not answer")

    executor = JobExecutor(
        ArtifactStore(Away(tmp_path / "artifacts", time.time)), environments, ResultStore(tmp_path)
    )
    try:
        leaves = "for n in range(9): open(f'{n}', 'w').write(f'{n}')"
        with pytest.raises(ArtifactStoreUnavailable):
            await executor.run(payload(code=leaves))
        before = os.listdir("/proc/self/fd")
        failed, honest = await asyncio.gather(
            executor.run(payload(code=leaves)),
            executor.run(payload(code="40 + 2")),
            return_exceptions=True,
        )
        assert isinstance(failed, PlatformError)
        assert meaning(failed) == TRANSIENT
        assert not isinstance(honest, BaseException)
        assert honest.outputs == 42
        assert len(os.listdir("/proc/self/fd")) <= len(before)
    finally:
        await executor.close()


FULL_DISK = """
import asyncio, json, os, sys, time
from pathlib import Path
from praxis_sdk.control.lifecycle.failure_policy import of_error
from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.payload.payload import parse_payload
from praxis_sdk.jobs.executor.results import ResultStore

def payload(name, code):
    return parse_payload({"schema_version": "1.0", "job_id": name, "runtime": "python", "code": code})

async def main(home, disk, results):
    executor = JobExecutor(ArtifactStore.open(disk), EnvironmentStore(Path(home)), ResultStore(Path(results)))
    large = payload("large", "open('large', 'wb').write(bytes(range(256)) * 20_000)")
    failed, honest = await asyncio.gather(
        executor.run(large), executor.run(payload("honest", "1")), return_exceptions=True
    )
    failure = of_error(failed)
    left = os.listdir(f"{disk}/tmp")
    small = await executor.run(payload("small", "open('small', 'w').write('x')"))
    await executor.close()
    print(json.dumps([isinstance(failed, PlatformError), failure.category, failure.error_type, left,
                      honest.outputs, [one.name for one in small.artifacts]]))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_full_disk_is_transient_and_leaves_nothing_behind(
    environments: EnvironmentStore, tmp_path: Path
) -> None:
    """In a process of its own, on a small file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=2m none "{disk}" && exec "$@"'
    home, results = environments.folder.parent, tmp_path / "results"
    run = [sys.executable, "-c", FULL_DISK, str(home), str(disk), str(results)]
    spaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    done = await asyncio.to_thread(
        subprocess.run,
        ["unshare", *spaces, "sh", "-c", mount, "sh", *run],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [True, "INTERNAL_ERROR", "transient", [], 1, ["small"]]


async def test_without_descriptors_a_job_is_the_platforms_failure_and_the_next_one_runs(
    executor: JobExecutor,
) -> None:
    await executor.run(payload(code="open('a', 'w').write('a')"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    for more in range(1, 12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
        try:
            await executor.run(payload(code=f"open('b', 'w').write('b'); {more}"))
        except PlatformError as error:
            assert meaning(error) == TRANSIENT, error  # noqa: PT017 - more descriptors may be enough
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    result = await executor.run(payload(code="open('c', 'w').write('c'); 'after'"))
    assert (result.outputs, [one.name for one in result.artifacts]) == ("after", ["c"])


async def test_artifacts_need_no_thread_that_others_hold(executor: JobExecutor) -> None:
    """Whatever blocks the threads that everybody shares, what a job leaves is read and stored."""
    await executor.execute(payload(code="1"))
    release = threading.Event()
    blocked = [asyncio.ensure_future(asyncio.to_thread(release.wait)) for _ in range(64)]
    try:
        code = "open('a', 'w').write('a'); 'x' * 100_000"
        result = await asyncio.wait_for(executor.execute(payload(code=code, fresh=True)), 60)
    finally:
        release.set()
        await asyncio.gather(*blocked)
    assert [one.name for one in result.artifacts] == ["a"]
    assert result.outputs == "x" * 100_000


@pytest.mark.parametrize(
    "problem", [KeyError("x"), RuntimeError("can't start new thread"), OSError(24, "too many")]
)
async def test_what_nobody_foresaw_is_never_blamed_on_the_job(
    environments: EnvironmentStore, tmp_path: Path, problem: Exception
) -> None:
    class Broken(Folder):
        async def create(self, key: str, body: Body) -> bool:
            raise problem

    executor = JobExecutor(
        ArtifactStore(Broken(tmp_path / "artifacts", time.time)), environments, ResultStore(tmp_path)
    )
    try:
        with pytest.raises(PlatformError) as raised:
            await executor.run(payload(code="open('a', 'w').write('a')"))
        assert meaning(raised.value) == TRANSIENT
    finally:
        await executor.close()
