"""SIGKILL before and after every commit of the control plane: nothing acknowledged is lost, nothing happens twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import ExecutionFilter
from tests.faults import load
from tests.faults.conftest import Survive
from tests.faults.deadly import MOMENTS, POINTS
from tests.faults.ledger import drained, lines_of_last_attempt, prove
from tests.faults.processes import worker_child
from tests.faults.worker import Config, open_store

LEASE_S = 1.0
ON_POSTGRES = ("submit", "start", "log", "finish", "retry", "fire")
AT = [point for point in POINTS if point != "bury"]  # which needs somebody who died before


async def killed_at(config: Config) -> list[dict[str, Any]]:
    """Run the load in a process until it dies where it shall; returns what it acknowledged."""
    async with worker_child(config) as child:
        assert await child.ended() == -signal.SIGKILL, child.said
    return child.said


async def see_through(survive: Survive, address: str, locks: Path | None, said: list[dict[str, Any]]) -> None:
    """Submit everything again as a client would, see it through, and check what came of it."""
    known = {line["key"]: line["submitted"] for line in said if "key" in line}
    async with survive(address, locks, lease_s=LEASE_S) as survivor:
        plane, store = survivor.plane, survivor.store
        for gate in load.GATES:
            survivor.kind.open(gate)
        again = {}
        for key, work in load.ALL.items():
            again[key] = await plane.coordinator.submit_execution(work, idempotency_key=key)
        assert {key: again[key] for key in known} == known, "the same key, the same execution"
        planned = [schedule.id for schedule in await plane.schedules.list()]
        if "planned" in (said[-1] if said else ()):
            assert planned == [load.SCHEDULE]
        for schedule_id in planned:
            await plane.schedules.remove(schedule_id)
        await drained(plane, store)
    store = await open_store(address)
    try:
        account = await prove(store, again.values())
        assert account.completed >= len(load.ALL) - 1
        for line in said:
            if "cancelled" in line:
                assert (await store.get(line["cancelled"])).status is ExecutionStatus.CANCELLED
            if "batch" in line:
                assert await store.batch(line["batch"]) is not None
        for batch in await store.batches():
            members = await store.find(ExecutionFilter(batch_id=batch.id))
            assert len(members) == batch.size == load.BATCH_SIZE, "a batch is submitted as a whole"
        for key in load.PLAIN:
            one = await store.get(again[key])
            assert one.status is ExecutionStatus.COMPLETED, one.failure
            children = await store.find(ExecutionFilter(parent_id=one.id))
            assert len(children) == (2 if key == "parent" else 0)
            if key.startswith("log"):
                lines = [f"line {number}" for number in range(load.LINES)]
                assert await lines_of_last_attempt(store, one.id) == lines
    finally:
        await store.close()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("point", AT)
async def test_a_kill_at_any_commit_loses_and_doubles_nothing(
    tmp_path: Path, survive: Survive, point: str, moment: str
) -> None:
    config = Config(
        str(tmp_path / "praxis.db"), str(tmp_path / "locks"), load=True, point=point, moment=moment
    )
    said = await killed_at(config)
    await see_through(survive, config.store, tmp_path / "locks", said)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_kill_while_the_dead_are_buried_loses_and_doubles_nothing(
    tmp_path: Path, survive: Survive, moment: str
) -> None:
    """The one who takes back what a dead worker held dies of it."""
    config = Config(
        str(tmp_path / "praxis.db"), str(tmp_path / "locks"), load=True, point="log", moment="after"
    )
    said = await killed_at(config)
    gravedigger = Config(config.store, config.locks, point="bury", moment=moment)
    assert await killed_at(gravedigger) == []
    await see_through(survive, config.store, tmp_path / "locks", said)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("point", ON_POSTGRES)
async def test_a_kill_at_a_commit_to_postgres_loses_and_doubles_nothing(
    postgres_url: str, survive: Survive, point: str, moment: str
) -> None:
    """Without locks: only the lease tells that the worker is dead."""
    config = Config(postgres_url, lease_s=LEASE_S, load=True, point=point, moment=moment)
    said = await killed_at(config)
    await see_through(survive, config.store, None, said)
