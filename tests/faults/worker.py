"""A process of its own that works on a store, to be stopped, killed and cut off by tests.

    python -m tests.faults.worker '{"store": "/path/or/postgresql://..."}'

It prints what happens as lines of JSON and obeys lines of JSON on its standard input; at its end, it closes
in good order.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers import maintenance
from praxis_sdk.control.workers.liveness import Liveness
from praxis_sdk.control.workers.worker import LEASE_S, WorkerCapacity
from praxis_sdk.model import Execution
from praxis_sdk.resources import Resources
from praxis_sdk.store.postgres import PostgresStore
from praxis_sdk.store.sqlite import SqliteStore
from tests.faults import load
from tests.faults.acts import FaultKind
from tests.faults.deadly import DeadlyStore, Failpoint

CAPACITY = Resources(cpu_cores=4, memory_mb=16_384, network_mbps=1000, storage_mb=100_000)
ROUND_S = 0.2  # of the keeper, so that no test waits for it


@dataclass(frozen=True)
class Config:
    """What the process is.

    Args:
        store: a file, or the address of a PostgreSQL database.
        locks: the folder of the locks of one machine's workers; empty: only leases tell.
        lease_s: for how long a sign of life counts.
        slots: attempts at once.
        load: whether it submits the load of `load` itself.
        home: a Praxis home: it runs jobs and tools, too; empty: the scripted kind alone.
        point, moment, number: where it dies; an empty point: nowhere.
    """

    store: str
    locks: str = ""
    lease_s: float = LEASE_S
    slots: int = 64
    load: bool = False
    home: str = ""
    point: str = ""
    moment: str = "before"
    number: int = 1

    def to_json(self) -> str:
        """Return it as the argument of the process."""
        return json.dumps(asdict(self))


async def open_store(address: str, **options: Any) -> Any:
    """Open a store by its address."""
    if address.startswith("postgresql:"):
        return await PostgresStore.open(address, **options)
    return await SqliteStore.open(address, **options)


def make_kinds(kind: FaultKind, home: str = "") -> Kinds:
    """Return the scripted kind, and beside it jobs and tools where there is a home."""
    if not home:
        return Kinds(kind)
    from praxis_sdk.cli.home import Home
    from praxis_sdk.control.kinds.job import JobKind
    from praxis_sdk.control.kinds.tool import ToolKind
    from praxis_sdk.execution.engine import builtin_engines

    return Kinds(kind, JobKind(Home(Path(home)).executor), ToolKind(builtin_engines))


def say(**words: Any) -> None:
    """Print what happened; whoever reads it can rely on it."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def main(config: Config) -> None:
    """Work until told to end."""
    maintenance.ROUND_S = ROUND_S  # type: ignore[misc]
    kind = FaultKind(_began)
    async with AsyncExitStack() as stack:
        store = await open_store(config.store)
        stack.push_async_callback(store.close)
        if config.point:
            store = DeadlyStore(store, Failpoint(config.point, config.moment, config.number))
        options = PlaneOptions(worker=WorkerCapacity(CAPACITY, config.slots, config.lease_s))
        liveness = Liveness(Path(config.locks)) if config.locks else None
        made = ControlPlane(store, make_kinds(kind, config.home), options, liveness=liveness)
        plane = await stack.enter_async_context(made)
        assert plane.worker is not None
        say(ready=plane.worker.id)
        if config.load:
            await load.run(plane, kind, say)
            return
        await _obey(plane, kind)


async def _obey(plane: ControlPlane, kind: FaultKind) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        if "open" in order:
            kind.open(order["open"])
        elif "submit" in order:
            submitted = await plane.coordinator.submit_execution(
                order["submit"], idempotency_key=order.get("key")
            )
            say(submitted=submitted)


def _began(execution: Execution) -> None:
    say(began=execution.id, attempt=execution.attempt, worker=execution.worker_id)


if __name__ == "__main__":
    asyncio.run(main(Config(**json.loads(sys.argv[1]))))
