"""The life cycle of executions through the whole plane: submitted, run, retried, cancelled, waited for."""

import asyncio
from pathlib import Path

import pytest

from praxis_sdk.control.kinds import Plan
from praxis_sdk.control.lifecycle.coordinator import QueueFull
from praxis_sdk.control.lifecycle.submission import Submission, make_execution
from praxis_sdk.control.observe.notifiers.log import LogNotifier
from praxis_sdk.control.observe.telemetry import traceparent_of
from praxis_sdk.control.plane import ControlPlane
from praxis_sdk.errors import ValidationError
from praxis_sdk.model import AttemptEnd, EventType, Flag, Worker
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionStatus, Priority
from praxis_sdk.store import ExecutionFilter, Store, StoreConflict, UnknownExecution
from praxis_sdk.store.changes import verify_chain
from praxis_sdk.store.protocol import StoreUnavailable
from tests.control.conftest import MakePlane, work
from tests.control.scripted import ScriptedKind

STATUSES = frozenset({EventType.STATUS})


async def moves(store: Store, execution_id: str) -> list[str]:
    return [event.data["to"] for event in await store.events(execution_id, types=STATUSES)]


async def test_work_is_run_and_its_outputs_are_kept(plane: ControlPlane, store: Store) -> None:
    execution = await plane.coordinator.run(work(value={"answer": 42}))
    kept = await store.get(execution.id)
    assert kept.status is ExecutionStatus.COMPLETED
    assert kept.outputs == {"answer": 42}
    assert kept.progress == 1.0
    assert await moves(store, execution.id) == ["queued", "running", "completed"]
    assert verify_chain(await store.events(execution.id), kept.chain) == ""


async def test_the_same_key_runs_once(plane: ControlPlane, kind: ScriptedKind) -> None:
    first = await plane.coordinator.submit_execution(work(value=1), idempotency_key="invoice-7")
    again = await plane.coordinator.submit_execution(work(value=1), idempotency_key="invoice-7")
    await plane.coordinator.wait(first)
    later = await plane.coordinator.submit_execution(work(value=1), idempotency_key="invoice-7")
    assert first == again == later
    assert len(kind.begun) == 1


async def test_a_key_that_means_something_else_is_refused(plane: ControlPlane) -> None:
    await plane.coordinator.submit_execution(work(value=1), idempotency_key="invoice-7")
    with pytest.raises(StoreConflict, match="invoice-7"):
        await plane.coordinator.submit_execution(work(value=2), idempotency_key="invoice-7")


@pytest.mark.parametrize(
    ("submission", "field"),
    [
        ({"kind": "nothing", "request": {}}, "kind"),
        ({"request": {}}, "kind"),
        ({"kind": "scripted"}, "request"),
        ({"kind": "scripted", "request": {"act": "fly"}}, "request.act"),
        ({"kind": "scripted", "request": {}, "speed": 3}, "speed"),
        ({"kind": "scripted", "request": {}, "timeout_s": -1}, "timeout_s"),
        ({"kind": "scripted", "request": {}, "requirements": {"cpu": 1}}, "resources.cpu"),
        ({"kind": "scripted", "request": {}, "requirements": {"cpu_cores": -1}}, "resources.cpu_cores"),
        ({"kind": "scripted", "request": {}, "retry": {"max_retries": -1}}, "retry.max_retries"),
        ({"kind": "scripted", "request": {}, "retry": {"resource_cap": 0.5}}, "retry.resource_cap"),
        ({"kind": "scripted", "request": {}, "retry": {"resource_factor": "2"}}, "retry.resource_factor"),
        ({"kind": "scripted", "request": {}, "retry": {"speed": 2}}, "retry.speed"),
        ({"kind": "scripted", "request": {}, "labels": {"a": 1}}, "labels.a"),
        ({"kind": "scripted", "request": {}, "traceparent": "x"}, "traceparent"),
        ({"kind": "scripted", "request": {}, "id": "no/slash"}, "id"),
    ],
)
async def test_what_is_wrong_with_a_submission_is_named(
    plane: ControlPlane, submission: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        await plane.coordinator.submit_execution(submission)
    assert caught.value.message.startswith(field)


async def test_user_failure_is_a_result_and_is_not_retried(plane: ControlPlane, store: Store) -> None:
    execution = await plane.coordinator.run(work("raise", message="no such column"))
    assert execution.status is ExecutionStatus.FAILED
    assert execution.failure is not None
    assert execution.failure.message == "RuntimeError: no such column"
    assert execution.attempt == 1
    assert execution.retries == 0


async def test_three_retries_are_four_attempts_and_then_it_is_escalated(
    plane: ControlPlane, store: Store, kind: ScriptedKind
) -> None:
    execution = await plane.coordinator.run(work("fail", type="transient"))
    assert execution.status is ExecutionStatus.FAILED
    assert len(kind.begun) == 4
    assert [attempt.ending for attempt in await store.attempts(execution.id)] == [AttemptEnd.FAILED] * 4
    assert Flag.ESCALATED in execution.flags


async def test_a_retry_that_succeeds_makes_it_complete(plane: ControlPlane, store: Store) -> None:
    execution = await plane.coordinator.run(work("flaky", failures=2, value="at last"))
    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.outputs == "at last"
    assert execution.retries == 2
    assert await moves(store, execution.id) == [
        *["queued", "running", "submitted"] * 2,
        *["queued", "running", "completed"],
    ]


async def test_a_waiting_execution_is_cancelled_at_once(make_plane: MakePlane, kind: ScriptedKind) -> None:
    async with make_plane(worker=None) as plane:
        execution_id = await plane.coordinator.submit_execution(work())
        assert await plane.coordinator.cancel_execution(execution_id, "not wanted any more")
        execution = await plane.coordinator.wait(execution_id)
        assert execution.status is ExecutionStatus.CANCELLED
        assert execution.reason == "not wanted any more"
        assert not await plane.coordinator.cancel_execution(execution_id)
    assert kind.begun == []


@pytest.mark.parametrize(("act", "means"), [("listen", "flag"), ("wait", "SIGKILL"), ("stubborn", "SIGKILL")])
async def test_a_running_execution_is_ended_and_the_proof_is_kept(
    plane: ControlPlane, store: Store, kind: ScriptedKind, act: str, means: str
) -> None:
    execution_id = await plane.coordinator.submit_execution(work(act))
    await kind.begun_count(1)
    assert await plane.coordinator.cancel_execution(execution_id)
    execution = await plane.coordinator.wait(execution_id)
    assert execution.status is ExecutionStatus.CANCELLED
    assert execution.outputs is None
    (proof,) = await store.events(execution_id, types=frozenset({EventType.PROOF}))
    assert proof.data["means"] == means
    assert kind.running == 0
    (worker,) = await store.workers()
    assert worker.running == 0
    assert await moves(store, execution_id) == ["queued", "running", "cancelling", "cancelled"]


async def test_a_cancelled_execution_is_not_resurrected(plane: ControlPlane, store: Store) -> None:
    execution_id = await plane.coordinator.submit_execution(work("fail", type="transient"))
    await plane.coordinator.cancel_execution(execution_id)
    execution = await plane.coordinator.wait(execution_id)
    again = await plane.coordinator.retry_execution(execution_id)
    assert again != execution_id
    await plane.coordinator.wait(again)
    assert (await store.get(execution_id)).status is execution.status


async def test_a_time_limit_ends_the_attempt(plane: ControlPlane, kind: ScriptedKind) -> None:
    execution = await plane.coordinator.run({**work("stubborn"), "timeout_s": 0.05})
    assert execution.status is ExecutionStatus.TIMED_OUT
    assert execution.outputs is None
    assert kind.running == 0


async def test_children_belong_to_their_parent_and_are_cancelled_with_it(
    plane: ControlPlane, store: Store, kind: ScriptedKind
) -> None:
    done = await plane.coordinator.run(
        work("children", requests=[{"act": "return"}, {"act": "raise"}, {"act": "log"}])
    )
    assert done.outputs == ["completed", "failed", "completed"]
    parent = await plane.coordinator.submit_execution(work("children", requests=[{"act": "wait"}]))
    await kind.begun_count(6)
    await plane.coordinator.cancel_execution(parent)
    assert (await plane.coordinator.wait(parent)).status is ExecutionStatus.CANCELLED
    child = kind.begun[-1]
    assert (await plane.coordinator.wait(child)).status is ExecutionStatus.CANCELLED
    assert (await store.get(child)).parent_id == parent


async def test_log_lines_come_in_order_and_before_the_end(plane: ControlPlane, store: Store) -> None:
    execution = await plane.coordinator.run(work("log", lines=500))
    events = [event async for event in plane.coordinator.tail(execution.id)]
    assert [event.seq for event in events] == list(range(len(events)))
    lines = [event.message for event in events if event.type is EventType.LOG]
    assert lines == [f"line {number}" for number in range(500)]
    ends = [event.seq for event in events if event.data.get("to") == "completed"]
    assert ends[0] > max(event.seq for event in events if event.type is EventType.LOG)


async def test_a_tail_goes_on_from_any_place_until_the_end(plane: ControlPlane, kind: ScriptedKind) -> None:
    execution_id = await plane.coordinator.submit_execution(work("wait"))
    await kind.begun_count(1)
    seen: list[int] = []

    async def follow() -> None:
        seen.extend([event.seq async for event in plane.coordinator.tail(execution_id, after=0)])

    following = asyncio.create_task(follow())
    kind.open("gate")
    await plane.coordinator.wait(execution_id)
    await asyncio.wait_for(following, 10)
    assert seen == list(range(1, seen[-1] + 1))


async def test_unknown_executions_are_named(plane: ControlPlane) -> None:
    for ask in (plane.coordinator.get_execution, plane.coordinator.cancel_execution, plane.coordinator.wait):
        with pytest.raises(UnknownExecution, match="nobody"):
            await ask("nobody")


async def test_too_many_waiting_are_refused(make_plane: MakePlane) -> None:
    async with make_plane(worker=None, max_pending=3) as plane:
        for _ in range(3):
            await plane.coordinator.submit_execution(work())
        with pytest.raises(QueueFull, match="max_pending"):
            await plane.coordinator.submit_execution(work())


async def test_what_a_worker_gives_back_is_run_by_the_next(make_plane: MakePlane, kind: ScriptedKind) -> None:
    async with make_plane() as plane:
        execution_id = await plane.coordinator.submit_execution(work("wait", value=7))
        await kind.begun_count(1)
    kind.open("gate")
    async with make_plane() as plane:
        execution = await plane.coordinator.wait(execution_id)
    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.outputs == 7
    assert (execution.attempt, execution.retries) == (2, 0)


async def test_real_time_work_preempts_batch_work_which_goes_on_later(
    plane: ControlPlane, store: Store, kind: ScriptedKind
) -> None:
    whole = {"cpu_cores": 4.0}
    batch = await plane.coordinator.submit_execution(
        {**work("wait", gate="batch", value="batch", needs=whole), "batch": True}, priority=Priority.LOW
    )
    await kind.begun_count(1)
    urgent = await plane.coordinator.run(work(value="urgent", needs=whole))
    assert urgent.status is ExecutionStatus.COMPLETED
    kind.open("batch")
    done = await plane.coordinator.wait(batch)
    assert done.status is ExecutionStatus.COMPLETED
    assert (done.preemptions, done.retries) == (1, 0)
    endings = [attempt.ending for attempt in await store.attempts(batch)]
    assert endings == [AttemptEnd.PREEMPTED, AttemptEnd.COMPLETED]


async def test_an_open_circuit_fails_fast(plane: ControlPlane, kind: ScriptedKind) -> None:
    broken = {**work("unavailable", dependency="orders"), "retry": {"max_retries": 0}}
    for _ in range(10):
        await plane.coordinator.run(broken)
    tried = len(kind.begun)
    execution = await plane.coordinator.run(broken)
    assert execution.status is ExecutionStatus.FAILED
    assert len(kind.begun) == tried
    assert execution.failure is not None
    assert "left alone" in execution.failure.message


async def test_capacity_is_never_exceeded(plane: ControlPlane, kind: ScriptedKind, store: Store) -> None:
    runs = [plane.coordinator.run(work("log", lines=200, needs={"cpu_cores": 1.0})) for _ in range(40)]
    done = await asyncio.gather(*runs)
    assert {execution.status for execution in done} == {ExecutionStatus.COMPLETED}
    assert 1 < kind.most_running <= 4
    (worker,) = await store.workers()
    assert worker.reserved.cpu_cores == 0


async def test_a_second_plane_on_the_same_store_shares_the_work(
    make_plane: MakePlane, kind: ScriptedKind
) -> None:
    async with make_plane() as one, make_plane() as other:
        runs = [(one, other)[number % 2].coordinator.run(work(value=number)) for number in range(60)]
        done = await asyncio.gather(*runs)
    assert [execution.outputs for execution in done] == list(range(60))
    assert len(kind.begun) == 60


async def test_batch_reports_hold_every_execution(plane: ControlPlane, tmp_path: Path) -> None:
    batch = await plane.coordinator.submit_batch(
        "nightly", [work(value=n) for n in range(5)] + [work("raise")]
    )
    from praxis_sdk.store import ExecutionFilter

    members = await plane.coordinator.find(ExecutionFilter(batch_id=batch.id))
    assert len(members) == batch.size == 6
    done = [await plane.coordinator.wait(one.execution_id) for one in members]
    assert sum(one.status is ExecutionStatus.COMPLETED for one in done) == 5


async def test_a_submission_says_how_far_a_retry_raises_resources(plane: ControlPlane, store: Store) -> None:
    policy = {"max_retries": 3, "first_pause_s": 0.001, "resource_factor": 3, "resource_cap": 4}
    submission = {
        **work("fail", type="resource"),
        "requirements": {"cpu_cores": 0.5, "memory_mb": 100},
        "retry": policy,
    }
    execution = await plane.coordinator.run(submission)
    assert execution.retries == 2, "three times as much, then four times, then there is no more"
    assert execution.granted.memory_mb == 400


async def test_what_has_as_many_labels_as_can_be_is_tried_again(plane: ControlPlane, store: Store) -> None:
    labels = {f"label-{number}": "x" for number in range(32)}
    old = await plane.coordinator.run({**work("raise"), "labels": labels})
    again = await plane.coordinator.retry_execution(old.id)
    assert (await store.get(again)).labels == {**labels, "praxis.retry_of": old.id}


async def test_a_child_belongs_to_the_trace_of_its_parent(plane: ControlPlane, store: Store) -> None:
    parent = await plane.coordinator.run(work("children", requests=[{"act": "return"}]))
    (child,) = await store.find(ExecutionFilter(parent_id=parent.id))
    assert child.traceparent == str(traceparent_of(parent))


@pytest.mark.parametrize(
    ("given", "learned", "asked"),
    [
        (None, Resources(memory_mb=64), {"memory_mb": 100}),
        (None, Resources(memory_mb=100), None),
        (None, None, None),
        (Resources(memory_mb=500), Resources(memory_mb=64), None),
    ],
)
def test_where_history_decided_what_is_reserved_the_record_says_so(
    given: Resources | None, learned: Resources | None, asked: dict[str, int] | None
) -> None:
    plan = Plan("control", {}, Resources(memory_mb=100))
    made = make_execution(Submission("scripted", {}, requirements=given), plan, 1.0, requirements=learned)
    assert made.granted == (given or learned or plan.requirements)
    assert made.context is not None
    assert made.context.get("requirements_asked") == asked


async def test_a_plane_that_cannot_begin_leaves_nothing_running(
    make_plane: MakePlane, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(worker: Worker) -> None:
        raise StoreUnavailable("the store is away")

    before = asyncio.all_tasks()
    monkeypatch.setattr(store, "put_worker", away)
    with pytest.raises(StoreUnavailable):
        async with make_plane(notifiers=[LogNotifier()]):
            pass
    assert asyncio.all_tasks() == before
