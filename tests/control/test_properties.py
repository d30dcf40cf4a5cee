"""Properties of spec 4 that take a whole plane to show: each with at least 100 examples, on the embedded store."""

import asyncio
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.lifecycle.info import ExecutionContext
from praxis_sdk.control.lifecycle.submission import Window
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.model import EventType
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionMode, ExecutionStatus, Priority
from praxis_sdk.store import ExecutionFilter, Store
from praxis_sdk.store.changes import verify_chain
from praxis_sdk.store.sqlite import SqliteStore
from tests.control.conftest import OFFER, work
from tests.control.scripted import ScriptedKind

EXAMPLES = settings(max_examples=100, deadline=None)
names = st.text("abcdefgh_", min_size=1, max_size=8)
sources = st.lists(names, max_size=4, unique=True)
agents = st.fixed_dictionaries(
    {"model": names, "temperature": st.floats(0, 2), "max_tokens": st.integers(1, 9999), "tools": sources}
)
modes = st.none() | st.sampled_from(ExecutionMode)


async def with_plane(test: Any, **options: Any) -> Any:
    store = await SqliteStore.open(":memory:", inline=True)
    kind = ScriptedKind(first_pause_s=0.001)
    try:
        async with ControlPlane(store, Kinds(kind), PlaneOptions(**{"worker": OFFER, **options})) as plane:
            return await test(plane, store, kind)
    finally:
        await store.close()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@EXAMPLES
@given(
    sources=sources,
    agent=st.none() | agents,
    mode=modes,
    priority=st.sampled_from(Priority),
    cpu=st.floats(0, 64),
    memory=st.integers(0, 1 << 20),
    window=st.none() | st.tuples(st.floats(1, 100), st.floats(1, 100)),
)
def test_property_1_execution_context_creation(
    sources: list[str],
    agent: dict[str, Any] | None,
    mode: ExecutionMode | None,
    priority: Priority,
    cpu: float,
    memory: int,
    window: tuple[float, float] | None,
) -> None:
    """Feature: execution-engine, Property 1: creating an Execution_Context should produce a context containing the
    SOP, all required data sources and agent configuration matching the SOP requirements."""

    async def test(plane: ControlPlane, store: Store, kind: ScriptedKind) -> None:
        now = 4_000_000_000.0
        schedule = None if window is None else Window(now + window[0], now + sum(window))
        needs = {"cpu_cores": cpu, "memory_mb": memory}
        wanted = work("return", sources=sources, agent=agent, needs=needs)
        execution_id = await plane.coordinator.submit_execution(wanted, mode, priority, schedule)
        context = ExecutionContext.of(await store.get(execution_id))
        assert context.execution_id == execution_id
        assert context.work == wanted["request"]
        assert context.data_sources == tuple(sources)
        assert context.agent_config == agent
        assert context.execution_mode == mode
        assert context.priority is priority
        assert context.resource_requirements == Resources(cpu_cores=cpu, memory_mb=memory)
        assert context.schedule == schedule
        again = await plane.coordinator.create_context(wanted, mode, priority, schedule)
        assert (again.work, again.data_sources, again.agent_config) == (
            context.work,
            context.data_sources,
            context.agent_config,
        )

    run(with_plane(test, worker=None, dispatch=False, keep=False))


@EXAMPLES
@given(
    act=st.sampled_from(["log", "raise", "return"]),
    lines=st.integers(1, 20),
    version=names,
    agent=names,
    mode=modes,
)
def test_property_3_complete_execution_audit_trail(
    act: str, lines: int, version: str, agent: str, mode: ExecutionMode | None
) -> None:
    """Feature: execution-engine, Property 3: the audit log should contain a start entry with execution ID, SOP
    version, agent ID, timestamp and mode, all actions, decisions and data accesses, and a completion entry with
    results, duration and final status."""

    async def test(plane: ControlPlane, store: Store, kind: ScriptedKind) -> None:
        wanted = work(act, lines=lines, version=version, agent_id=agent)
        execution = await plane.coordinator.run(wanted, mode)
        events = await store.events(execution.id, limit=10_000)
        begin, *_ = events
        assert begin.execution_id == execution.id
        assert begin.at > 0
        assert begin.data["version"] == version
        assert begin.data["agent"] == agent
        assert begin.data["mode"] == (str(mode) if mode else None)
        (started,) = [event for event in events if event.data.get("to") == "running"]
        assert started.data["worker"] == plane.worker.id
        told = [event.type for event in events]
        if act == "log":
            assert told.count(EventType.LOG) == lines
            assert {EventType.DECISION, EventType.DATA_ACCESS} <= set(told)
            assert (
                next(event.message for event in events if event.type is EventType.ACTION) == "wrote a letter"
            )
        (ended,) = [event for event in events if event.data.get("to") == str(execution.status)]
        assert execution.status is (ExecutionStatus.FAILED if act == "raise" else ExecutionStatus.COMPLETED)
        assert ended.data["duration_s"] >= 0
        assert (ended.data["failure"] is None) is (act != "raise")
        assert verify_chain(events, execution.chain) == ""

    run(with_plane(test))


@EXAMPLES
@given(acts=st.lists(st.sampled_from(["log", "return", "raise", "flaky", "fail"]), min_size=1, max_size=6))
def test_property_22_comprehensive_status_tracking_and_event_emission(acts: list[str]) -> None:
    """Feature: execution-engine, Property 22: track status, progress percentage and elapsed time continuously, and
    emit status change events with timestamps and context whenever status changes."""

    async def test(plane: ControlPlane, store: Store, kind: ScriptedKind) -> None:
        runs = (plane.coordinator.run(work(act, failures=2, type="transient")) for act in acts)
        for execution in await asyncio.gather(*runs):
            info = await plane.coordinator.get_execution(execution.id)
            moves = await store.events(execution.id, types=frozenset({EventType.STATUS}))
            assert [one.data["to"] for one in moves][-1] == str(info.status)
            for earlier, later in itertools.pairwise(moves):
                assert later.data["from"] == earlier.data["to"]
                assert later.at >= earlier.at
                assert "actor" in later.data
            assert 0.0 <= info.progress <= 1.0
            assert (info.progress == 1.0) is info.status.succeeded
            assert info.duration is not None
            assert info.elapsed_s == info.duration >= 0

    run(with_plane(test))


@EXAMPLES
@given(
    priority=st.sampled_from(Priority),
    busy=st.integers(0, 3),
)
def test_property_36_real_time_immediate_execution(priority: Priority, busy: int) -> None:
    """Feature: execution-engine, Property 36: a real-time request, when resources are available, should start
    within 1 second of request submission."""

    async def test(plane: ControlPlane, store: Store, kind: ScriptedKind) -> None:
        for _ in range(busy):
            await plane.coordinator.submit_execution(work("wait", needs={"cpu_cores": 1.0}))
        await kind.begun_count(busy)
        execution = await plane.coordinator.run(work(needs={"cpu_cores": 1.0}), priority=priority)
        assert execution.started_at is not None
        assert execution.started_at - execution.submitted_at < 1.0

    run(with_plane(test))


@EXAMPLES
@given(opens_in=st.sampled_from([-5.0, 0.0, 0.02]), count=st.integers(1, 5), lasts=st.floats(0.5, 60))
def test_property_37_batch_execution_scheduling(opens_in: float, count: int, lasts: float) -> None:
    """Feature: execution-engine, Property 37: a batch request with a time window should start within it."""

    async def test(plane: ControlPlane, store: Store, kind: ScriptedKind) -> None:
        import time

        now = time.time()
        window = Window(now + opens_in, now + opens_in + 5.0 + lasts)
        batch = await plane.coordinator.submit_batch("nightly", [work()] * count, schedule=window)
        for member in await store.find(ExecutionFilter(batch_id=batch.id)):
            done = await plane.coordinator.wait(member.id)
            assert done.started_at is not None
            assert window.opens_at <= done.started_at < window.closes_at

    run(with_plane(test))


@EXAMPLES
@given(acts=st.lists(st.sampled_from(["return", "raise", "log"]), min_size=1, max_size=12))
def test_property_40_batch_result_aggregation_and_reporting(acts: list[str]) -> None:
    """Feature: execution-engine, Property 40: on completion of a batch, aggregate the results of all its executions
    and generate a report containing summary statistics and individual execution results."""

    async def test(plane: ControlPlane, store: Store, kind: ScriptedKind) -> None:
        batch = await plane.coordinator.submit_batch("nightly", [work(act) for act in acts])
        for member in await store.find(ExecutionFilter(batch_id=batch.id)):
            await plane.coordinator.wait(member.id)
        report = (await plane.monitor.batch_report(batch.id)).to_json()
        failed = acts.count("raise")
        assert report["summary"]["by_status"].get("failed", 0) == failed
        assert report["summary"]["by_status"].get("completed", 0) == len(acts) - failed
        assert len(report["executions"]) == len(acts)

    run(with_plane(test))


def test_the_store_of_these_tests_is_the_real_one(tmp_path: Path) -> None:
    """The inline store runs the same statements as the one with threads; only who executes them differs."""

    async def both() -> None:
        for path, inline in ((":memory:", True), (tmp_path / "p.db", False)):
            store = await SqliteStore.open(path, inline=inline)
            async with ControlPlane(store, Kinds(ScriptedKind()), PlaneOptions(worker=OFFER)) as plane:
                done = await plane.coordinator.run(work(value=1))
                assert done.status is ExecutionStatus.COMPLETED
            await store.close()

    run(both())
