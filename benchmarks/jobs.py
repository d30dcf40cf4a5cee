"""What a job costs in a fresh sandbox, beside a bare interpreter, bwrap and `docker run`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, available, bwrap, docker_run, spawn
from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import Environment, EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.jobs.payload.payload import parse_payload

TITLE = "a job in a fresh sandbox with all limits, from payload to kept result"

PLOT = """
import numpy as np, matplotlib.pyplot as plt
figure = plt.figure(figsize=(2, 2), dpi=50)
figure.add_subplot().plot(np.sin(np.linspace(0, 6, 50)))
figure.savefig("plot.png")
"""

_numbers = itertools.count()


async def run(executor: JobExecutor, code: str, env: str, artifacts: int = 0) -> None:
    """Run a job anew, and refuse to measure what does not work."""
    fields: dict[str, Any] = {
        "schema_version": "1.0",
        "runtime": "python",
        "code": code,
        "env": env,
        "fresh": True,
    }
    result = await executor.run(
        parse_payload({**fields, "job_id": f"bench-{next(_numbers)}"}), on_progress=print
    )
    if not result.succeeded or len(result.artifacts) != artifacts:
        raise RuntimeError(f"the job did not do well: {result.failure}")


def host_python(environment: Environment) -> list[str]:
    """Return the interpreter of an environment, as a host process with nothing around it."""
    return [str(environment.python), "-I", "-c"]


def served(name: str, call: Callable[[], Awaitable[None]], peer: str, at_least: float) -> Case:
    """Make the case of 8 callers, compared by rate."""
    return Case(name, call, peer=peer, calls=400, callers=8, at_least=at_least)


@contextlib.asynccontextmanager
async def cases() -> AsyncIterator[tuple[list[Case], list[str]]]:
    """Make the cases of this machine; yields them and what could not be measured, with the reason."""
    notes: list[str] = []
    cache = Path(__file__).parent.parent / ".cache" / "bench-home"
    environments = EnvironmentStore(cache)
    base = await asyncio.to_thread(environments.ensure, "base", say=print)
    science = await asyncio.to_thread(environments.ensure, "science", say=print)
    with tempfile.TemporaryDirectory(prefix="praxis-bench-") as folder:
        home = Path(folder)
        began = time.monotonic()
        executor = JobExecutor(ArtifactStore.open(home / "artifacts"), environments, ResultStore(home))
        try:
            await run(executor, "1", "base")
            notes.append(
                f"first result {time.monotonic() - began:.2f} s after the start of the service (aim: under 2 s)"
            )
            python = [sys.executable, "-I", "-c", "pass"]
            plot = [
                *host_python(science),
                f"import matplotlib; matplotlib.use('Agg'); import os; os.chdir({folder!r}){PLOT}",
            ]

            async def no_op() -> None:
                await run(executor, "pass", "base")

            found, missing = available(
                Case("python -I -c pass", lambda: spawn(*python)),
                Case("praxis job, no-op", no_op, peer="python -I -c pass", aim=0.35),
                Case("plot, cold host process", lambda: spawn(*plot), calls=5),
                Case(
                    "praxis job, plot",
                    lambda: run(executor, PLOT, "science", artifacts=1),
                    peer="plot, cold host process",
                    aim=0.12,
                    calls=5,
                ),
                bwrap(
                    "bwrap + python, 8 callers",
                    *host_python(base),
                    "pass",
                    shown=base.bind_paths,
                    calls=80,
                    callers=8,
                ),
                served("praxis jobs against bwrap", no_op, "bwrap + python, 8 callers", at_least=8),
                docker_run("docker run python, 8 callers", "python", "-I", "-c", "pass", calls=16, callers=8),
                served("praxis jobs against docker run", no_op, "docker run python, 8 callers", at_least=60),
            )
            yield found, [*notes, *missing]
        finally:
            await executor.close()
