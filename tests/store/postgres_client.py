"""A process of its own that uses a store, for tests that need several, or one that is killed.

python -m tests.store.postgres_client dispatch URL      starts what waits; prints what it started
python -m tests.store.postgres_client submit URL KEY    submits under a key; prints each id once it is kept
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.model import Execution, Options
from praxis_sdk.store.changes import Change
from praxis_sdk.store.postgres import PostgresStore
from praxis_sdk.store.protocol import Round, RoundScope

AT_ONCE = 3  # executions in one round, so that it takes many


def work(execution_id: str, key: str | None = None) -> Execution:
    """Return an execution as clients submit it."""
    return Execution(
        id=execution_id,
        kind="job",
        control="python",
        request={"code": "1"},
        terms=Options(),
        submitted_at=1.0,
        idempotency_key=key,
    )


async def dispatch(url: str) -> None:
    """Run rounds until nothing waits."""
    store = await PostgresStore.open(url)
    started: list[str] = []

    def decide(shown: Round) -> Sequence[Change]:
        pairs = zip(shown.waiting[:AT_ONCE], itertools.cycle(shown.workers), strict=False)
        return [transitions.start(one, worker.id, 5.0) for one, worker in pairs]

    while (await store.counts()).by_status[transitions.ExecutionStatus.QUEUED]:
        started += [settled.after.id for settled in await store.schedule(RoundScope(50), decide)]
    await store.close()
    sys.stdout.write(json.dumps(started))


async def submit(url: str, key: str) -> None:
    """Submit one under the key, then others without end."""
    store = await PostgresStore.open(url)
    for number in itertools.count():
        (kept,) = await store.submit([work(f"{key}-{number:06}", key if number == 0 else None)])
        sys.stdout.write(f"{kept.id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    asyncio.run({"dispatch": dispatch, "submit": submit}[command](*rest))
