"""Direct runs: kept like every execution, run by whoever submits them, and never by anybody else."""

import asyncio
from collections.abc import Sequence

import pytest

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.direct import DirectRun
from praxis_sdk.control.lifecycle.failure_policy import after_loss
from praxis_sdk.control.lifecycle.submission import Submission
from praxis_sdk.errors import EngineUnavailable, PlatformError
from praxis_sdk.model import Execution
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import AppliedChange, Change, ExecutionFilter, Store
from tests.control.scripted import ScriptedKind


async def only(store: Store) -> Execution:
    (found,) = await store.find(ExecutionFilter())
    return await store.get(found.id)


def scripted(act: str, **request: object) -> Submission:
    return Submission("scripted", {"act": act, **request})


async def test_a_direct_run_returns_what_its_kind_returned(store: Store, kind: ScriptedKind) -> None:
    execution, ending = await DirectRun(store, kind).run(scripted("return", value=42))
    assert ending == 42
    assert execution.status is ExecutionStatus.COMPLETED
    assert (await only(store)).outputs == 42
    assert await store.workers() == []


async def test_what_its_kind_raised_is_raised_and_not_tried_again(store: Store, kind: ScriptedKind) -> None:
    with pytest.raises(EngineUnavailable):
        await DirectRun(store, kind).run(scripted("unavailable"))
    kept = await only(store)
    assert (kept.status, kept.retries) == (ExecutionStatus.FAILED, 0)


async def test_one_that_is_interrupted_ends_cancelled(store: Store, kind: ScriptedKind) -> None:
    running = asyncio.create_task(DirectRun(store, kind).run(scripted("wait")))
    await kind.begun_count(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await only(store)).status is ExecutionStatus.CANCELLED


async def test_one_that_others_cancel_says_so(store: Store, kind: ScriptedKind) -> None:
    running = asyncio.create_task(DirectRun(store, kind).run(scripted("wait")))
    await kind.begun_count(1)
    await ExecutionCoordinator(store, Kinds(kind)).cancel_execution(kind.begun[0], "no longer needed")
    with pytest.raises(PlatformError, match="has no result: cancelled: no longer needed"):
        await running


async def test_one_that_others_took_for_lost_ends_all_the_same(store: Store, kind: ScriptedKind) -> None:
    """As where its process was stopped past its lease; what it returns then does not count."""
    running = asyncio.create_task(DirectRun(store, kind).run(scripted("wait", gate="late")))
    await kind.begun_count(1)
    now = await store.get(kind.begun[0])
    assert (await store.apply([after_loss(now, now.submitted_at).change]))[0] is not None
    kind.open("late")
    with pytest.raises(PlatformError, match="has no result: failed: worker lost"):
        await asyncio.wait_for(running, 10)
    assert (await only(store)).status is ExecutionStatus.FAILED


async def test_one_that_is_interrupted_before_it_began_is_left_to_nobody(
    store: Store, kind: ScriptedKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, reached = store.apply, asyncio.Event()

    async def never(changes: Sequence[Change]) -> list[AppliedChange | None]:
        monkeypatch.setattr(store, "apply", apply)
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(store, "apply", never)
    running = asyncio.create_task(DirectRun(store, kind).run(scripted("return")))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await only(store)).status is ExecutionStatus.CANCELLED
    assert kind.begun == []
