"""SIGSTOP of a worker past its lease: another takes over; what it says when it goes on is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from praxis_sdk.model import AttemptEnd, EventType, WorkerState
from praxis_sdk.states import ExecutionStatus
from tests.faults.acts import TALK
from tests.faults.conftest import Survive, Survivor
from tests.faults.ledger import prove
from tests.faults.load import work
from tests.faults.processes import worker_child
from tests.faults.worker import Config, open_store

LEASE_S = 3.0
STORES = ("sqlite", "postgres")


@pytest.fixture(params=STORES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "praxis.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


async def test_a_worker_that_was_stopped_too_long_is_not_believed(
    address: str, tmp_path: Path, survive: Survive
) -> None:
    locks = tmp_path / "locks"  # they say that it lives, which is true: only the lease can tell
    async with worker_child(Config(address, str(locks), lease_s=LEASE_S)) as child:
        name = (await child.hear("ready"))["ready"]
        async with survive(address, locks, lease_s=LEASE_S, works=False) as door:
            coordinator = door.plane.coordinator
            talks = await coordinator.submit_execution(work(TALK, gate="late", value="green"))
            holds = await coordinator.submit_execution(work(TALK, gate="never"))
            for one in (talks, holds):
                async for event in coordinator.tail(one, types=frozenset({EventType.LOG})):
                    assert event.message == "before"
                    break
        child.stop(address)
        child.order(open="late")  # the first thing that it learns when it goes on: its work is done

        async with survive(address, locks, lease_s=LEASE_S) as other:
            assert other.plane.worker is not None
            taker = other.plane.worker.id
            for one in (talks, holds):
                await other.kind.begun_one(one)
            child.send(
                signal.SIGCONT
            )  # while the other's attempts run, which only the token tells from its own
            for one in (talks, holds):
                assert await _refusal(other, one)
                assert (await other.store.get(one)).worker_id == taker
            for gate in ("late", "never"):
                other.kind.open(gate)
            done = [await other.plane.coordinator.wait(one) for one in (talks, holds)]
            assert [one.status for one in done] == [ExecutionStatus.COMPLETED] * 2

        async with survive(address, locks, lease_s=LEASE_S, works=False) as door:
            fresh = await door.plane.coordinator.submit_execution(work(value="again"))
            began = await child.hear("began", fresh)
            assert began["worker"] != name, "it comes back under another name"
            assert (await door.plane.coordinator.wait(fresh)).outputs == "again"
        assert await child.close() == 0

    store = await open_store(address)
    try:
        account = await prove(store, [talks, holds, fresh])
        assert account.completed == 3
        for one in (talks, holds):
            attempts = await store.attempts(one)
            assert [(attempt.worker_id, attempt.ending) for attempt in attempts] == [
                (name, AttemptEnd.LOST),
                (taker, AttemptEnd.COMPLETED),
            ]
        # The line that the late attempt wrote is kept, whoever holds the execution by then.
        logged = [event.message for event in await store.events(talks, types=frozenset({EventType.LOG}))]
        assert sorted(logged) in (["after"] * count + ["before"] * 2 for count in (1, 2))
        states = {worker.id: worker.state for worker in await store.workers(active_only=False)}
        assert states[name] is WorkerState.LOST
    finally:
        await store.close()


async def _refusal(door: Survivor, execution_id: str) -> str:
    """Wait until the stream says what became of the word of the first attempt."""
    seen = 0
    while True:
        seen = await door.store.changed(f"execution:{execution_id}", seen)
        for event in await door.store.events(execution_id, types=frozenset({EventType.DECISION})):
            if event.component == "worker":
                assert event.data["token"] == 1
                assert "discarded" in event.message or "was given up" in event.message
                return event.message


async def test_a_worker_that_was_stopped_for_less_than_its_lease_goes_on(
    address: str, tmp_path: Path, survive: Survive
) -> None:
    async with worker_child(Config(address, str(tmp_path / "locks"), lease_s=60.0)) as child:
        name = (await child.hear("ready"))["ready"]
        async with survive(address, tmp_path / "locks", works=False) as door:
            one = await door.plane.coordinator.submit_execution(work(TALK, gate="gate", value=7))
            await child.hear("began", one)
            child.stop(address)
            child.order(open="gate")
            await door.plane.keeper.bury()
            child.send(signal.SIGCONT)
            done = await door.plane.coordinator.wait(one)
            assert (done.status, done.outputs, done.attempt) == (ExecutionStatus.COMPLETED, 7, 1)
            assert [worker.id for worker in await door.store.workers()] == [name]
        assert await child.close() == 0
