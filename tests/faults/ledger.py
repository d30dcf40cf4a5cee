"""What must hold of a store after any fault: nothing lost, nothing twice, nothing half done."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from praxis_sdk.control.plane import ControlPlane
from praxis_sdk.model import AttemptEnd, EventType, Execution
from praxis_sdk.resources import total
from praxis_sdk.states import SUCCEEDED, ExecutionStatus
from praxis_sdk.store import ExecutionFilter, Store
from praxis_sdk.store.changes import verify_chain

OPEN = frozenset(status for status in ExecutionStatus if not status.final)
DRAINED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Account:
    """What a store holds in the end.

    Args:
        by_status: how many executions ended so.
        attempts: how many attempts were made.
    """

    by_status: Counter[ExecutionStatus]
    attempts: int

    @property
    def completed(self) -> int:
        """How many succeeded."""
        return self.by_status[ExecutionStatus.COMPLETED]


async def drained(plane: ControlPlane, store: Store) -> None:
    """Wait until everything that is kept has ended."""
    async with asyncio.timeout(DRAINED_WITHIN_S):
        while waiting := await store.find(ExecutionFilter(statuses=OPEN), limit=1000):
            await asyncio.gather(*(plane.coordinator.wait(one.id) for one in waiting))


async def prove(store: Store, acknowledged: Iterable[str]) -> Account:
    """Check everything that is kept against everything else, once all of it has ended.

    Args:
        store: what is checked.
        acknowledged: ids that a submitter was told of.
    """
    kept = [await store.get(one.id) for one in await store.find(ExecutionFilter(), limit=100_000)]
    lost = set(acknowledged) - {one.id for one in kept}
    assert not lost, f"acknowledged and lost: {lost}"
    keys = Counter(one.idempotency_key for one in kept if one.idempotency_key)
    assert not [key for key, count in keys.items() if count > 1], "one key, two executions"
    attempts = 0
    for one in kept:
        attempts += await _prove_one(store, one)
    for worker in await store.workers(active_only=False):
        held = await store.held(worker.id)
        assert held == [], f"{worker.id} ({worker.state}) holds what has ended"
        assert worker.running == 0, f"{worker.id} has a slot that was not given back"
        assert worker.reserved.amounts() == pytest.approx(total(()).amounts())
    return Account(Counter(one.status for one in kept), attempts)


async def _prove_one(store: Store, one: Execution) -> int:
    assert one.status.final, f"{one.id} stands at {one.status}: {one.reason}"
    events = await store.events(one.id, limit=100_000)
    assert [event.seq for event in events] == list(range(one.next_seq))
    assert verify_chain(events, one.chain) == ""
    moves = [event for event in events if event.type is EventType.STATUS]
    assert [event.data["to"] for event in moves if ExecutionStatus(event.data["to"]).final] == [one.status]
    assert moves[-1].data["to"] == one.status
    for earlier, later in itertools.pairwise(moves):
        assert later.data["from"] == earlier.data["to"]
    attempts = await store.attempts(one.id)
    assert [attempt.number for attempt in attempts] == list(range(1, one.attempt + 1))
    assert len({attempt.token for attempt in attempts}) == len(attempts)
    completions = [attempt for attempt in attempts if attempt.ending is AttemptEnd.COMPLETED]
    assert len(completions) == (one.status in SUCCEEDED), "accepted completions: exactly one"
    assert one.worker_id == ""
    return len(attempts)


async def lines_of_last_attempt(store: Store, execution_id: str) -> list[str]:
    """Return the log lines of the last attempt, which all stand before the end."""
    lines: list[str] = []
    ended = False
    for event in await store.events(execution_id, limit=100_000):
        if event.type is EventType.STATUS:
            if event.data["to"] == "running":
                lines = []
            ended = ExecutionStatus(event.data["to"]).final
        elif event.type is EventType.LOG:
            assert not ended, f"a line after the end: {event.message}"
            lines.append(event.message)
    return lines
