"""Praxis as a program that is measured: `python -m benchmarks.subject noop|job STORE FOLDER`.

STORE is the path of a SQLite file or the address of a PostgreSQL database; what lines on the input say is done as
by the peers' programs (`benchmarks/peers/serve.py`), in a whole embedded control plane with its usual options.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from benchmarks.noop_kind import WORK, NoopKind
from benchmarks.peers.serve import answer, claim_output, end_with_parent
from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.kinds.job import JobKind
from praxis_sdk.control.plane import ControlPlane, PlaneOptions, offer_of_this_host
from praxis_sdk.execution.context import StreamName
from praxis_sdk.model import Execution
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import ExecutionFilter, Store

CACHE = Path(__file__).parent.parent / ".cache" / "bench-home"
# Each in a fresh sandbox of its own, with all limits; small, so that many run at once.
JOB: dict[str, Any] = {
    "kind": "job",
    "request": {
        "schema_version": "1.0",
        "runtime": "python",
        "env": "base",
        "code": "pass",
        "fresh": True,
        "limits": {"memory_bytes": "64M", "scratch_bytes": "8M"},
    },
    "requirements": {"cpu_cores": 0.1, "memory_mb": 64, "storage_mb": 8},
}


@contextlib.asynccontextmanager
async def store_at(place: str) -> AsyncIterator[Store]:
    """Open a store for as long as the context lasts.

    Args:
        place: the path of a SQLite file, or the address of a PostgreSQL database.
    """
    store: Store
    if place.startswith("postgresql:"):
        from praxis_sdk.store.postgres import PostgresStore

        store = await PostgresStore.open(place)
    else:
        from praxis_sdk.store.sqlite import SqliteStore

        store = await SqliteStore.open(place)
    try:
        yield store
    finally:
        await store.close()


def job_kind(home: Path, listen: Callable[[str, StreamName, bytes], None] | None = None) -> JobKind:
    """Return the kind of sandboxed jobs, with the environments of the cache and its own results.

    Args:
        home: where results are kept.
        listen: hears what they print.
    """
    from praxis_sdk.jobs.artifacts import ArtifactStore
    from praxis_sdk.jobs.environments.store import EnvironmentStore
    from praxis_sdk.jobs.executor.executor import JobExecutor
    from praxis_sdk.jobs.executor.results import ResultStore

    return JobKind(
        lambda: JobExecutor(
            ArtifactStore.open(home / "artifacts"), EnvironmentStore(CACHE), ResultStore(home)
        ),
        listen=listen,
    )


def completed(execution: Execution) -> None:
    """Refuse to measure what does not work."""
    if execution.status is not ExecutionStatus.COMPLETED:
        raise RuntimeError(f"{execution.id} is {execution.status}: {execution.failure}")


class Commands:
    """What is measured, by name.

    Args:
        plane: the control plane.
        work: what is submitted.
    """

    def __init__(self, plane: ControlPlane, work: dict[str, Any]) -> None:
        self._run = plane.coordinator.run
        self._coordinator = plane.coordinator
        self._work = work

    async def burst(self, count: int) -> float:
        """Submit each by itself, all at the same time, and be told of each end."""
        began = time.perf_counter()
        for ended in await asyncio.gather(*(self._run(self._work) for _ in range(count))):
            completed(ended)
        return time.perf_counter() - began

    async def bulk(self, count: int) -> float:
        """Submit all together, and be told of each end."""
        began = time.perf_counter()
        ids = await self._coordinator.submit_many([self._work] * count)
        for ended in await asyncio.gather(*map(self._coordinator.wait, ids)):
            completed(ended)
        return time.perf_counter() - began

    async def singles(self, count: int) -> list[float]:
        """Submit one after another, each when the one before has ended."""

        async def one(number: int) -> None:
            completed(await self._run(self._work))

        return await _each(count, one)

    async def statuses(self, count: int) -> list[float]:
        """Ask how executions stand."""
        ids = [one.execution_id for one in await self._coordinator.find(ExecutionFilter(), limit=100)]
        return await _each(
            count, lambda number: self._coordinator.get_execution_status(ids[number % len(ids)])
        )

    async def lists(self, count: int) -> list[float]:
        """Ask for the hundred youngest."""
        return await _each(count, lambda number: self._coordinator.find(ExecutionFilter(), limit=100))


async def _each(count: int, ask: Callable[[int], Awaitable[Any]]) -> list[float]:
    """Ask so often, and return the milliseconds of each answer."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        await ask(number)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def serve(what: str, place: str, folder: Path) -> None:
    """Do what the lines of the standard input say until it ends."""
    answers = claim_output()
    kinds = Kinds(NoopKind() if what == "noop" else job_kind(folder))
    options = PlaneOptions(worker=offer_of_this_host())
    async with store_at(place) as store, ControlPlane(store, kinds, options) as plane:
        commands = Commands(plane, WORK if what == "noop" else JOB)
        answer(answers, "ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, number = line.split()
            command: Callable[[int], Awaitable[Any]] = getattr(commands, word)
            answer(answers, await command(int(number)))


def main() -> None:
    """Be the program."""
    end_with_parent()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))


if __name__ == "__main__":
    main()
