"""What does not want to end is ended within the bound; the kernel confirms it, and the record says by which means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.cli.home import Home
from praxis_sdk.control.kinds import Grace
from praxis_sdk.control.kinds.job import JobKind
from praxis_sdk.control.kinds.tool import ToolKind
from praxis_sdk.model import AttemptEnd, EventType, Execution
from praxis_sdk.states import ExecutionStatus, Priority
from tests.faults import programs
from tests.faults.conftest import Survive, Survivor
from tests.faults.ledger import drained, prove
from tests.faults.load import WHOLE, work
from tests.faults.programs import HOSTILE, SURFACES, alive, marked, new_mark, on

BOUND_S = 10.0
LOG = frozenset({EventType.LOG})
PROOF = frozenset({EventType.PROOF})


@pytest.fixture
async def survivor(tmp_path: Path, home: Home, survive: Survive) -> AsyncIterator[Survivor]:
    """A whole plane that runs jobs and tools."""
    async with survive(str(tmp_path / "praxis.db"), tmp_path / "locks", home=str(home.path)) as made:
        yield made


@pytest.fixture(params=SURFACES)
def surface(request: pytest.FixtureRequest) -> str:
    """Where programs run."""
    if request.param == "docker":
        request.getfixturevalue("docker_environment")
    name: str = request.param
    return name


async def ready(survivor: Survivor, execution_id: str) -> None:
    """Wait until a program says that it is ready."""
    async for event in survivor.plane.coordinator.tail(execution_id, types=LOG):
        if b"ready\n" in event.chunk:
            return
    ended = await survivor.store.get(execution_id)
    pytest.fail(f"it ended before it was ready: {ended.failure}")


async def begun(survivor: Survivor, submission: dict[str, Any], mark: str, **terms: Any) -> str:
    """Submit a program and wait until the kernel has its processes."""
    execution_id = await survivor.plane.coordinator.submit_execution(submission, **terms)
    await ready(survivor, execution_id)
    assert alive(mark), "it bears its mark"
    return execution_id


async def cancelled(survivor: Survivor, execution_id: str, mark: str) -> Execution:
    """Cancel an execution and check that it is dead within the bound."""
    began = time.monotonic()
    assert await survivor.plane.coordinator.cancel_execution(execution_id)
    async with asyncio.timeout(BOUND_S):
        ended = await survivor.plane.coordinator.wait(execution_id)
    assert alive(mark) == [], "nothing of it is left when the record says so"
    assert ended.status is ExecutionStatus.CANCELLED
    proof = await proof_of(survivor, execution_id)
    assert proof["reason"] == "cancel"
    assert proof["after_s"] <= time.monotonic() - began
    return ended


async def proof_of(survivor: Survivor, execution_id: str) -> dict[str, Any]:
    """Return the proof that an attempt's processes are gone; there is one."""
    (proof,) = await survivor.store.events(execution_id, types=PROOF)
    assert proof.data["means"] in ("SIGTERM", "SIGKILL")
    assert proof.data["means"] in proof.message
    return dict(proof.data)


async def free_and_well(survivor: Survivor, surface: str, ids: list[str]) -> None:
    """Check that all slots are free and that the next execution runs."""
    (worker,) = await survivor.store.workers()
    assert worker.running == 0
    following = await survivor.plane.coordinator.run(on(surface, programs.NEXT))
    assert following.status is ExecutionStatus.COMPLETED, following.failure
    await drained(survivor.plane, survivor.store)
    await prove(survivor.store, [*ids, following.id])


async def test_hostile_programs_are_cancelled_all_at_once(survivor: Survivor, surface: str) -> None:
    marks = {name: new_mark() for name in HOSTILE}
    submissions = {name: on(surface, marked(program, marks[name])) for name, program in HOSTILE.items()}
    if surface == "command-job":
        marks["shell_loop"] = new_mark()
        submissions["shell_loop"] = programs.shell_loop(marks["shell_loop"])
    ids = dict(
        zip(
            submissions,
            await asyncio.gather(*(begun(survivor, submissions[name], marks[name]) for name in submissions)),
            strict=True,
        )
    )
    assert len(alive(marks["fork_tree"])) >= 7
    await asyncio.gather(*(cancelled(survivor, ids[name], marks[name]) for name in ids))
    for name, execution_id in ids.items():
        assert (await proof_of(survivor, execution_id))["means"] == "SIGKILL", name
    await free_and_well(survivor, surface, list(ids.values()))


async def test_a_program_that_hears_sigterm_ends_by_itself_and_its_log_is_kept(
    survivor: Survivor, surface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = Grace(cooperative_s=0.0, terminate_s=BOUND_S)  # others keep this machine busy meanwhile
    for kind in (JobKind, ToolKind):
        monkeypatch.setattr(kind, "grace", patient)
    mark = new_mark()
    execution_id = await begun(survivor, on(surface, marked(programs.HONEST, mark)), mark)
    await cancelled(survivor, execution_id, mark)
    assert (await proof_of(survivor, execution_id))["means"] == "SIGTERM"
    logged = b"".join(event.chunk for event in await survivor.store.events(execution_id, types=LOG))
    assert logged.splitlines() == [b"ready", b"saved what there was"]
    await free_and_well(survivor, surface, [execution_id])


@pytest.mark.parametrize("name", ["c_loop", "fork_tree"])
@pytest.mark.parametrize("where", ["python-job", "local"])
async def test_a_hostile_program_is_ended_when_its_time_is_up(
    survivor: Survivor, where: str, name: str
) -> None:
    mark = new_mark()
    submission = {**on(where, marked(HOSTILE[name], mark)), "timeout_s": 3.0}
    execution_id = await begun(survivor, submission, mark)
    async with asyncio.timeout(3.0 + BOUND_S):
        ended = await survivor.plane.coordinator.wait(execution_id)
    assert alive(mark) == []
    assert ended.status is ExecutionStatus.TIMED_OUT
    assert (await proof_of(survivor, execution_id))["reason"] == "timeout"
    await free_and_well(survivor, where, [execution_id])


@pytest.mark.parametrize("where", ["python-job", "sandbox", "local"])
async def test_a_hostile_program_makes_room_for_who_may_not_wait(survivor: Survivor, where: str) -> None:
    mark = new_mark()
    submission = {**on(where, marked(HOSTILE["fork_tree"], mark)), "batch": True, "requirements": WHOLE}
    victim = await begun(survivor, submission, mark, priority=Priority.LOW)
    seen: list[list[str]] = []
    gate = await survivor.plane.coordinator.submit_execution(work("wait", gate="gate", needs=WHOLE))
    async with asyncio.timeout(BOUND_S):
        await survivor.kind.begun_one(gate)
        seen.append(alive(mark))
    assert seen == [[]], "its room is given to others when nothing of it is left"
    assert (await proof_of(survivor, victim))["reason"] == "preempt"
    assert await survivor.plane.coordinator.cancel_execution(victim)
    survivor.kind.open("gate")
    assert (await survivor.plane.coordinator.wait(gate)).status is ExecutionStatus.COMPLETED
    assert [attempt.ending for attempt in await survivor.store.attempts(victim)] == [AttemptEnd.PREEMPTED]
    assert alive(mark) == []
    following = await survivor.plane.coordinator.run(on(where, programs.NEXT))
    assert following.status is ExecutionStatus.COMPLETED
