"""Scaling: when, how far, and never at the cost of what runs."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.schedules import Schedules
from praxis_sdk.control.scheduling.scaling import Load, LocalSlots, Scale, Scaling, ScalingBounds, load_of
from praxis_sdk.control.scheduling.scheduler import decide
from praxis_sdk.control.workers.maintenance import Maintenance
from praxis_sdk.errors import ValidationError
from praxis_sdk.model import Worker
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import Store
from tests.control.rounds import BATCH, NOW, World, cores, queued, worker
from tests.control.scripted import ScriptedKind

MINUTE_S = 60.0
BOUNDS = ScalingBounds(least=2, most=1000)


def observe(*loads: tuple[float, float], slots: int = 100, bounds: ScalingBounds = BOUNDS) -> list[Scale]:
    """Return what is decided over loads, each a time in minutes and the share in use."""
    scaling = Scaling(bounds)
    decided = []
    for minutes, utilisation in loads:
        load = Load(utilisation, slots, int(slots * utilisation))
        scaling, scale = scaling.observe(NOW + minutes * MINUTE_S, load)
        if scale is not None:
            decided.append(scale)
            slots = scale.slots
    return decided


def test_high_use_for_five_minutes_means_more() -> None:
    assert not observe(*((minute, 0.9) for minute in range(5)))
    (scale,) = observe(*((minute, 0.9) for minute in range(6)))
    assert scale == Scale(150, "90% in use, above 80% for 5 minutes")


def test_low_use_for_five_minutes_means_less() -> None:
    (scale,) = observe(*((minute, 0.1) for minute in range(6)))
    assert scale == Scale(50, "10% in use, below 30% for 5 minutes")


def test_a_single_calm_moment_begins_the_five_minutes_anew() -> None:
    assert not observe(*((minute, 0.5 if minute == 3 else 0.9) for minute in range(8)))


def test_use_at_the_bounds_is_calm() -> None:
    assert not observe(*((minute, 0.8) for minute in range(20)))
    assert not observe(*((minute, 0.3) for minute in range(20)))


def test_after_a_step_its_effect_is_awaited() -> None:
    assert len(observe(*((minute, 1.0) for minute in range(10)))) == 1
    assert len(observe(*((minute, 1.0) for minute in range(12)))) == 2


def test_what_was_not_seen_was_not_sustained() -> None:
    assert not observe((0, 0.9), (1, 0.9), (9, 0.9), (10, 0.9))


def test_a_clock_that_goes_back_begins_anew() -> None:
    assert not observe((10, 0.9), (11, 0.9), (4, 0.9), (5, 0.9), (6, 0.9), (7, 0.9), (8, 0.9))


def test_bounds_hold() -> None:
    tight = ScalingBounds(least=90, most=110)
    assert [one.slots for one in observe(*((m, 1.0) for m in range(30)), bounds=tight)] == [110]
    assert [one.slots for one in observe(*((m, 0.0) for m in range(30)), bounds=tight)] == [90]


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError):
        ScalingBounds(least=5, most=4)
    with pytest.raises(ValidationError):
        ScalingBounds(low=0.9)
    with pytest.raises(ValidationError):
        ScalingBounds(step=1)
    with pytest.raises(ValidationError):
        LocalSlots(0, 4)


def test_the_scarcest_resource_is_the_load() -> None:
    half = worker("a", Resources(4, 1000), slots=10, held=Resources(2, 900))
    assert load_of([half]) == Load(0.9, 10, 1)
    assert load_of([]) == Load(0.0, 0, 0)


async def test_a_worker_scales_by_its_own_load_alone(store: Store, kind: ScriptedKind) -> None:
    asked: list[int] = []

    class Slots(LocalSlots):
        def covers(self, worker: Worker) -> bool:
            return worker.id == "here"

        async def scale_to(self, slots: int) -> int:
            asked.append(slots)
            return await super().scale_to(slots)

    class Hurried(Clock):
        def time(self) -> float:
            return NOW + 60 * len(rounds)

    rounds: list[int] = []
    clock = Hurried()
    coordinator = ExecutionCoordinator(store, Kinds(kind), clock=clock)
    looking = Maintenance(
        store, clock, Schedules(store, coordinator, clock), running=list, scaler=Slots(4, 100), lease_s=1e9
    )
    for name, slots in (("here", 4), ("elsewhere", 1000)):
        alive = Worker(name, Resources(), slots, frozenset({"scripted"}), lease_until=NOW + 1e9)
        await store.put_worker(alive)
    for _ in range(10):
        await looking.round()
        rounds.append(1)
    assert asked == [2], "half of its own 4, which nobody uses, and not half of 1004"


async def test_local_slots_stay_within_what_the_machine_takes() -> None:
    scaler = LocalSlots(4, most=8)
    assert await scaler.scale_to(100) == 8
    assert await scaler.scale_to(0) == 1
    assert scaler.slots == 1


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(2, 900), st.integers(30, 90), st.lists(st.floats(0, 1)))
def test_property_31_sustained_use_scales_both_ways(calm, use, slots, every_s, noise) -> None:
    """Feature: execution-engine, Property 31: Bidirectional Scaling Based on Utilization.

    More than five minutes above 80 % scale up, below 30 % down, anything between neither; whatever went
    before; and one step leads no further than into calm.
    """
    scaling, now = Scaling(BOUNDS), NOW
    running = int(use * slots)
    for one in noise:
        scaling, _ = scaling.observe(now, Load(one, slots, 0))
        now += every_s
    calm = 0.3 + calm / 2  # a calm moment, so that what went before counts no more
    scaling, scale = scaling.observe(now, Load(calm, slots, running))
    assert scale is None
    decided = []
    since = now + every_s
    while not decided and now < since + 400:
        now += every_s
        scaling, scale = scaling.observe(now, Load(use, slots, running))
        if scale is not None:
            decided.append((now - since, scale))
    if use > 0.8:
        ((after_s, scale),) = decided
        assert 300 <= after_s < 300 + every_s
        assert slots < scale.slots <= min(BOUNDS.most, 2 * slots + 1)
        assert use * slots / scale.slots >= 0.3
    elif use < 0.3:
        assert bool(decided) == (slots > 2)
        for after_s, scale in decided:
            assert 300 <= after_s < 300 + every_s
            assert max(BOUNDS.least, running) <= scale.slots < slots
            assert use * slots / scale.slots <= 0.8
    else:
        assert not decided


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=30),
    st.lists(st.integers(0, 20), min_size=1, max_size=10),
    st.integers(1, 12),
)
def test_property_19_scaling_disturbs_nothing_that_runs(sizes, wishes, slots) -> None:
    """Feature: execution-engine, Property 19: Non-Disruptive Scaling.

    Whatever the limit is set to and whenever, all that runs goes on to its end: no attempt is stopped, lost or
    begun again; and nothing more starts than the limit allows.
    """
    world = World([worker("w", cores(8), slots=slots)], lasts_s=lambda one: 10 + 40 * one.granted.cpu_cores)
    world.submit(
        *(queued(f"e{number:02}", cores(size), service_class=BATCH) for number, size in enumerate(sizes))
    )
    world.dispatch()
    assert world.standing(ExecutionStatus.RUNNING)
    for wish in wishes:
        before = world.workers["w"]
        runs = world.standing(ExecutionStatus.RUNNING)
        scale = Scale(max(1, before.running, wish), "")
        # A worker that runs more than its slots only starts nothing: so the limit may be below what runs, too.
        limit = wish if wish % 2 else scale.slots
        seen = world.seen()
        limited = dataclasses.replace(before, slots=limit)
        decision = decide(dataclasses.replace(seen, workers=(limited,)))
        assert decision.started <= max(0, limit - before.running)
        assert not any(change.execution_id in runs for change in decision.changes)
        world.workers["w"] = dataclasses.replace(before, slots=max(limit, before.running, 1))
        world.apply(decision.changes)
        assert runs <= world.standing(ExecutionStatus.RUNNING)
        world.move(world.now + 7)
    world.run(100_000)
    assert world.standing(ExecutionStatus.COMPLETED) == set(world.executions)
    assert all(one.attempt == 1 for one in world.executions.values())
    assert not world.preempted
