"""Leases that are lost, or only look lost: who is cut off stops in time and comes back, who is healthy stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.control.lifecycle import completion
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.heartbeat import Heartbeat, StallWatch
from praxis_sdk.control.workers.leases import Lease, LeaseWatch
from praxis_sdk.control.workers.liveness import Liveness
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.model import AttemptEnd, Worker, WorkerState
from praxis_sdk.resources import ZERO
from praxis_sdk.states import ErrorType, ExecutionStatus
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from tests.faults.acts import FaultKind
from tests.faults.load import work
from tests.faults.processes import worker_child
from tests.faults.worker import CAPACITY, Config, make_kinds

LEASE_S = 2.0
SOON_S = 30.0
BACK_WITHIN_S = 15.0  # promised are 5 on a machine that has nothing else to do


class CutStore:
    """A store that a process is cut off from: calls hang, or fail at once.

    Args:
        store: the real one.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._reachable = asyncio.Event()
        self._reachable.set()
        self.hangs = False
        self.refused = 0

    def cut(self, *, hangs: bool) -> None:
        """Be away from now on."""
        self.hangs = hangs
        self._reachable.clear()

    def mend(self) -> None:
        """Be there again."""
        self._reachable.set()

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(self._store, name)
        if name in ("changed", "clock"):
            return real

        async def call(*positional: Any, **named: Any) -> Any:
            if not self._reachable.is_set():
                self.refused += 1
                if not self.hangs:
                    raise StoreUnavailable("cut off")
                await self._reachable.wait()
            return await real(*positional, **named)

        return call


@contextlib.asynccontextmanager
async def cut_off(folder: Path) -> AsyncIterator[tuple[ControlPlane, CutStore, SqliteStore, FaultKind]]:
    """A plane whose store can be cut off, and the store as others see it."""
    real = await SqliteStore.open(folder / "praxis.db")
    store, kind = CutStore(real), FaultKind()
    try:
        options = PlaneOptions(worker=WorkerCapacity(CAPACITY, 8, LEASE_S))
        liveness = Liveness(folder / "locks")
        async with ControlPlane(store, make_kinds(kind), options, liveness=liveness) as plane:
            yield plane, store, real, kind
    finally:
        await real.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that rings no bell."""
    async with asyncio.timeout(SOON_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)


def open_locks(folder: Path) -> int:
    """Count the descriptors of this process that are open on lock files."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(folder / "locks"))
    return found


@pytest.mark.parametrize("hangs", [False, True], ids=("refuses", "hangs"))
async def test_a_worker_whose_store_was_away_for_longer_than_its_lease_serves_again(
    tmp_path: Path, *, hangs: bool
) -> None:
    async with cut_off(tmp_path) as (plane, store, real, kind):
        worker = plane.worker
        assert worker is not None
        name = worker.id
        one = await plane.coordinator.submit_execution(work("wait", gate="gate"))
        await kind.begun_one(one)
        store.cut(hangs=hangs)
        cut_at = time.monotonic()
        await until(lambda: not kind.running)
        stopped_after_s = time.monotonic() - cut_at
        assert stopped_after_s < Lease(LEASE_S).expires_after_s, "nobody else may have begun it by then"
        (known,) = await real.living_workers()
        assert await real.expire_workers({name: known.lease_until}) == [name], "others took over meanwhile"
        refused = store.refused
        await until(lambda: hangs or store.refused >= refused + 10)
        store.mend()
        kind.open("gate")
        mended_at = time.monotonic()
        async with asyncio.timeout(SOON_S):
            fresh = await plane.coordinator.run(work(value="again"))
        assert fresh.outputs == "again"
        assert time.monotonic() - mended_at < BACK_WITHIN_S
        assert (await plane.coordinator.wait(one)).status is ExecutionStatus.COMPLETED
        assert worker.id != name
        assert open_locks(tmp_path) == 1
        states = {one.id: one.state for one in await real.workers(active_only=False)}
        assert states == {name: WorkerState.LOST, worker.id: WorkerState.ACTIVE}
    assert open_locks(tmp_path) == 0


async def test_attempts_that_were_stopped_go_back_to_the_queue_without_a_retry(tmp_path: Path) -> None:
    async with cut_off(tmp_path) as (plane, store, _, kind):
        assert plane.worker is not None
        name = plane.worker.id
        one = await plane.coordinator.submit_execution(work("wait", gate="gate"))
        await kind.begun_one(one)
        store.cut(hangs=False)
        await until(lambda: not kind.running)
        store.mend()
        kind.open("gate")
        async with asyncio.timeout(SOON_S):
            done = await plane.coordinator.wait(one)
        assert (done.status, done.attempt, done.retries) == (ExecutionStatus.COMPLETED, 2, 0)
        assert plane.worker.id == name, "nobody took over: it kept its name"


async def test_what_ended_while_the_store_was_away_is_reported_when_it_is_back(tmp_path: Path) -> None:
    async with cut_off(tmp_path) as (plane, store, _, kind):
        one = await plane.coordinator.submit_execution(work("wait", gate="gate", value="kept"))
        await kind.begun_one(one)
        store.cut(hangs=False)
        kind.open("gate")
        await until(lambda: plane.worker is not None and not plane.worker._heartbeat.trusted)
        store.mend()
        done = await plane.coordinator.wait(one)
        assert (done.outputs, done.attempt) == ("kept", 1)


def test_the_lease_leaves_time_to_stop_before_others_start() -> None:
    for lease in (Lease(), Lease(1.0)):
        moments = [
            lease.heartbeat_s + 2 * lease.answer_s,  # a heartbeat that failed has had another chance
            lease.stop_after_s,
            lease.kill_after_s,
            lease.duration_s,
            lease.expires_after_s,
        ]
        assert moments == sorted(set(moments))
        assert lease.stop_after_s == lease.duration_s / 2
        assert lease.expires_after_s == lease.duration_s + lease.margin_s
        # Whoever watches is silent for a gap at most, and a worker that is back renews soon after it.
        assert lease.gap_s + lease.heartbeat_s + lease.answer_s < lease.expires_after_s


def seen(**leases: float) -> list[Worker]:
    return [Worker(name, ZERO, 1, frozenset(), lease_until=until) for name, until in leases.items()]


def test_a_lease_is_judged_by_watching_alone() -> None:
    watch = LeaseWatch(Lease(10.0))
    assert watch.expired(seen(stale=-1e9, fresh=1e9), 100.0, 100.0) == {}, "a newcomer knows nothing"
    for at in (102.0, 104.0, 106.0, 108.0, 110.0):
        assert watch.expired(seen(stale=-1e9, fresh=at), at, at) == {}
    assert watch.expired(seen(stale=-1e9, fresh=110.0), 110.9, 110.9) == {}
    assert watch.expired(seen(stale=-1e9, fresh=110.0), 111.0, 111.0) == {"stale": -1e9}


def test_a_watch_that_could_not_look_begins_anew() -> None:
    watch = LeaseWatch(Lease(10.0))
    watch.expired(seen(one=1.0), 100.0, 100.0)
    assert watch.expired(seen(one=1.0), 160.0, 160.0) == {}, "the store was away for all of them"
    for at in (163.0, 166.0, 169.0):
        assert watch.expired(seen(one=1.0), at, at) == {}
    assert watch.expired(seen(one=1.0), 160.5, 172.0) == {}, "this process stood still while it asked"
    assert watch.expired(seen(one=1.0), 172.0, 172.0) == {"one": 1.0}


async def test_a_command_whose_clock_is_an_hour_ahead_leaves_a_healthy_worker_alone(tmp_path: Path) -> None:
    database, locks = tmp_path / "praxis.db", tmp_path / "workers"
    async with worker_child(Config(str(database), str(locks), lease_s=600.0)) as child:
        name = (await child.hear("ready"))["ready"]
        store = await SqliteStore.open(database)
        try:
            # To a clock that is an hour ahead, every lease looks like this one.
            assert await store.beat(name, time.time() - 3600.0)
            command = [sys.executable, "-m", "praxis_sdk.cli", "ps"]
            environment = {**os.environ, "PRAXIS_HOME": str(tmp_path)}
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, check=True
            )
            assert "no such execution" in done.stdout
            assert [worker.id for worker in await store.workers()] == [name]
        finally:
            await store.close()
        assert await child.close() == 0


async def test_an_event_loop_that_stands_still_is_noticed_by_a_thread(tmp_path: Path) -> None:
    async with cut_off(tmp_path) as (plane, _, _, _):
        assert plane.worker is not None
        heartbeat: Heartbeat = plane.worker._heartbeat
        stalled, ages = threading.Event(), []

        def note(age_s: float) -> None:
            ages.append(age_s)
            stalled.set()

        watch = StallWatch(heartbeat, lambda: True, Lease(LEASE_S), note)
        watch.start()
        stalled.wait(SOON_S)  # nothing else runs in this loop meanwhile
        watch.stop()
        assert stalled.is_set()
        assert Lease(LEASE_S).kill_after_s <= ages[0] < SOON_S


async def test_work_whose_worker_loses_its_lease_again_and_again_spends_retries_in_the_end(
    tmp_path: Path,
) -> None:
    """It may be the work itself that makes its worker miss its heartbeats."""
    async with cut_off(tmp_path) as (plane, store, real, kind):
        attempts = completion.MOST_FREE_REQUEUES + 1
        asked = {**work("wait", gate="never"), "retry": {"max_retries": 0}}
        one = await plane.coordinator.submit_execution(asked)
        for number in range(attempts):
            await kind.begun_count(number + 1)
            store.cut(hangs=False)
            await until(lambda: not kind.running)
            store.mend()
        async with asyncio.timeout(SOON_S):
            done = await plane.coordinator.wait(one)
        assert (done.status, done.attempt) == (ExecutionStatus.FAILED, attempts)
        assert done.failure is not None
        assert (done.failure.code, done.failure.error_type) == ("lease_lost", ErrorType.CRASH)
        assert [attempt.ending for attempt in await real.attempts(one)] == [
            *[AttemptEnd.RELEASED] * completion.MOST_FREE_REQUEUES,
            AttemptEnd.LOST,
        ]
