"""SIGKILL of a worker with work in sandboxes and processes: nothing of it survives, and nobody waits for a lease."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from praxis_sdk.cli.home import Home
from praxis_sdk.model import AttemptEnd, EventType, Flag
from praxis_sdk.states import ExecutionStatus
from tests.faults.conftest import Survive
from tests.faults.ledger import prove
from tests.faults.processes import worker_child
from tests.faults.programs import HOSTILE, NEXT, alive, marked, new_mark, on
from tests.faults.worker import Config

FOR_EVER_S = 3600.0
BOUND_S = 10.0
LOG = frozenset({EventType.LOG})


async def gone(mark: str) -> None:
    """Wait until the kernel has no process with a mark any more."""
    async with asyncio.timeout(BOUND_S):
        while found := alive(mark):
            await asyncio.gather(*(_ended(int(one.split()[0])) for one in found))


async def _ended(pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(process, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process)
        os.close(process)


@pytest.mark.parametrize("name", ["fork_tree", "c_loop"])
async def test_nothing_of_a_killed_worker_survives_and_its_work_goes_on_at_once(
    tmp_path: Path, home: Home, survive: Survive, name: str
) -> None:
    address, locks = str(tmp_path / "praxis.db"), tmp_path / "locks"
    surfaces = ("python-job", "command-job", "sandbox", "local")
    marks = {surface: new_mark() for surface in surfaces}
    config = Config(address, str(locks), lease_s=FOR_EVER_S, home=str(home.path))
    async with (
        worker_child(config) as child,
        survive(address, locks, home=str(home.path), works=False) as door,
    ):
        await child.hear("ready")
        ids = {}
        for surface in surfaces:
            program = on(surface, marked(HOSTILE[name], marks[surface]))
            ids[surface] = await door.plane.coordinator.submit_execution(program)
        for execution_id in ids.values():
            async for event in door.plane.coordinator.tail(execution_id, types=LOG):
                if b"ready\n" in event.chunk:
                    break
        assert all(alive(mark) for mark in marks.values()), "they run, and bear their marks"
        child.send(signal.SIGKILL)
        assert await child.ended() == -signal.SIGKILL
        # Tools may have done something outside: they fail. Jobs are tried again in a fresh sandbox.
        async with asyncio.timeout(BOUND_S):
            for surface in ("sandbox", "local"):
                ended = await door.plane.coordinator.wait(ids[surface])
                assert ended.status is ExecutionStatus.FAILED
                assert ended.failure is not None
                assert ended.failure.code == "worker_lost"
        for mark in marks.values():
            await gone(mark)

    async with survive(address, locks, home=str(home.path)) as survivor:
        coordinator = survivor.plane.coordinator
        for surface in ("python-job", "command-job"):
            async with asyncio.timeout(2 * BOUND_S):
                async for event in coordinator.tail(ids[surface], types=LOG):
                    if b"ready\n" in event.chunk and alive(marks[surface]):
                        break
            again = await survivor.store.get(ids[surface])
            assert (again.status, again.attempt, again.retries) == (ExecutionStatus.RUNNING, 2, 1)
            assert Flag.CRASHED in again.flags
            await coordinator.cancel_execution(ids[surface])
            assert (await coordinator.wait(ids[surface])).status is ExecutionStatus.CANCELLED
            assert alive(marks[surface]) == []
            endings = [attempt.ending for attempt in await survivor.store.attempts(ids[surface])]
            assert endings == [AttemptEnd.LOST, AttemptEnd.CANCELLED]
        following = [await coordinator.run(on(surface, NEXT)) for surface in surfaces]
        assert {one.status for one in following} == {ExecutionStatus.COMPLETED}
        await prove(survivor.store, [*ids.values(), *(one.id for one in following)])


async def test_a_container_of_a_killed_worker_is_removed_by_the_next_one(
    tmp_path: Path, home: Home, survive: Survive, docker_environment: str
) -> None:
    """The daemon keeps containers alive whoever started them; so whoever comes next clears them away."""
    address, locks, mark = str(tmp_path / "praxis.db"), tmp_path / "locks", new_mark()
    config = Config(address, str(locks), lease_s=FOR_EVER_S, home=str(home.path))
    async with survive(address, locks, home=str(home.path), works=False) as door:
        async with worker_child(config) as child:
            await child.hear("ready")
            program = on("docker", marked(HOSTILE["fork_tree"], mark))
            lost = await door.plane.coordinator.submit_execution(program)
            async for event in door.plane.coordinator.tail(lost, types=LOG):
                if b"ready\n" in event.chunk:
                    break
            assert alive(mark)
            child.send(signal.SIGKILL)
            assert await child.ended() == -signal.SIGKILL
        async with asyncio.timeout(BOUND_S):
            assert (await door.plane.coordinator.wait(lost)).status is ExecutionStatus.FAILED
    async with survive(address, locks, home=str(home.path)) as survivor:
        following = await survivor.plane.coordinator.run(on("docker", NEXT))
        assert following.status is ExecutionStatus.COMPLETED, following.failure
        await gone(mark)
        await prove(survivor.store, [lost, following.id])
