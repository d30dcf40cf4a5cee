"""Windows: starts inside them, ends inside them, and the least peak that does it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.scheduling.scheduler import SchedulerPolicy, decide
from praxis_sdk.control.scheduling.windows import Committed, Item, WindowPlan, plan
from praxis_sdk.model import EventType
from praxis_sdk.resources import Resources, total
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.protocol import Round
from tests.control.rounds import BATCH, NOW, World, cores, queued, running, worker

EPS = 1e-6


def item(name: str, opens: float, closes: float, lasts: float, count: float = 1) -> Item:
    return Item(name, NOW + opens, NOW + closes, lasts, cores(count))


def peak_of(made: WindowPlan, items: list[Item]) -> float:
    """Return the most cores in use at once."""
    spans = [(made.starts[one.id], made.starts[one.id] + one.duration_s, one.requirements) for one in items]
    return max(
        total(needs for start, end, needs in spans if start <= at < end - EPS).cpu_cores for at, _, _ in spans
    )


def test_work_is_spread_over_its_window() -> None:
    items = [item(f"i{number}", 0, 100, 10) for number in range(10)]
    made = plan(items, NOW, capacity=cores(10))
    assert sorted(made.starts.values()) == [NOW + 10 * number for number in range(10)]
    assert made.peak == pytest.approx(0.1)
    assert not made.late


def test_the_earliest_deadline_comes_first() -> None:
    made = plan([item("later", 0, 100, 10), item("sooner", 0, 10, 10)], NOW, capacity=cores(1))
    assert made.starts == {"sooner": NOW, "later": NOW + 10}


def test_without_room_for_all_it_says_who_is_late() -> None:
    items = [item(f"i{number}", 0, 20, 10) for number in range(3)]
    made = plan(items, NOW, capacity=cores(1))
    assert sorted(made.starts.values()) == [NOW, NOW + 10, NOW + 20]
    assert len(made.late) == 1


def test_what_cannot_end_in_time_starts_at_once_and_spoils_nothing_for_others() -> None:
    items = [item("hopeless", 0, 5, 10), item("a", 0, 40, 10), item("b", 0, 40, 10)]
    made = plan(items, NOW, capacity=cores(4))
    assert made.late == {"hopeless"}
    assert made.starts["hopeless"] == NOW
    assert made.peak == pytest.approx(0.25)


def test_what_is_larger_than_the_whole_is_left_to_the_queue() -> None:
    made = plan([item("huge", 0, 50, 10, 9), item("a", 0, 50, 10)], NOW, capacity=cores(8))
    assert made.starts["huge"] == NOW
    assert made.peak > 1


def test_a_plan_goes_around_what_is_committed() -> None:
    busy = [Committed(NOW + 10, NOW + 30, cores(4))]
    made = plan([item("long", 0, 100, 15, 2)], NOW, capacity=cores(5), committed=busy)
    assert made.starts["long"] == NOW + 30


def test_slots_are_a_resource_too() -> None:
    items = [item(f"i{number}", 0, 40, 10, 0) for number in range(4)]
    made = plan(items, NOW, capacity=cores(8), slots=2)
    assert len(set(made.starts.values())) == 4


def test_nothing_planned_is_an_empty_plan() -> None:
    assert plan([], NOW) == WindowPlan({}, frozenset(), 0.0)


@st.composite
def windowed(draw: st.DrawFn) -> list[Item]:
    """Items that each can end in their window alone."""
    made = draw(
        st.lists(
            st.tuples(st.integers(0, 200), st.integers(1, 50), st.integers(0, 300), st.integers(1, 4)),
            min_size=1,
            max_size=20,
        )
    )
    return [
        item(f"i{number}", opens, opens + lasts + slack, lasts, count)
        for number, (opens, lasts, slack, count) in enumerate(made)
    ]


@settings(max_examples=200, deadline=None)
@given(windowed())
def test_property_37_every_start_lies_inside_its_window(items: list[Item]) -> None:
    """Feature: execution-engine, Property 37: Batch Execution Scheduling.

    With room for all, each starts after its window opens and ends before it closes.
    """
    made = plan(items, NOW)
    assert set(made.starts) == {one.id for one in items}
    assert not made.late
    for one in items:
        assert one.opens_at <= made.starts[one.id] <= one.latest_start + EPS


@settings(max_examples=200, deadline=None)
@given(windowed(), st.integers(4, 40))
def test_property_37_and_what_is_late_is_named(items: list[Item], available: int) -> None:
    """Feature: execution-engine, Property 37: Batch Execution Scheduling (with little room).

    Nothing starts before its window, exactly what ends after it is named, and no plan takes more than there
    is.
    """
    made = plan(items, NOW, capacity=cores(available), slots=100)
    for one in items:
        assert made.starts[one.id] >= one.opens_at
        assert (made.starts[one.id] > one.latest_start + EPS) == (one.id in made.late)
    assert peak_of(made, items) <= available + EPS
    assert made.peak <= 1 + EPS


@settings(max_examples=200, deadline=None)
@given(windowed())
def test_property_38_the_peak_is_no_higher_than_it_must_be(items: list[Item]) -> None:
    """Feature: execution-engine, Property 38: Batch Resource Optimization.

    All end inside their windows, with a peak at most that of starting everything at once, at least what the
    work in any span must take, and for work that is alike and shares a window exactly the least.
    """
    whole = total(one.requirements for one in items)
    made = plan(items, NOW, capacity=whole, slots=1000)
    eager = WindowPlan({one.id: one.opens_at for one in items}, frozenset(), 0.0)
    assert not made.late
    peak = peak_of(made, items)
    assert peak <= peak_of(eager, items) + EPS
    assert made.peak == pytest.approx(peak / whole.cpu_cores, rel=1e-6)
    opens, closes = min(one.opens_at for one in items), max(one.closes_at for one in items)
    work = sum(one.duration_s * one.requirements.cpu_cores for one in items)
    assert peak >= max(work / (closes - opens), *(one.requirements.cpu_cores for one in items), 0) - EPS
    alike = [item(f"a{number}", 0, 60, 10) for number in range(len(items))]
    least = -(-len(alike) // 6)
    assert peak_of(plan(alike, NOW, capacity=cores(len(alike))), alike) == least


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(5, 60), st.integers(1, 4)), min_size=2, max_size=12),
    st.integers(0, 500),
)
def test_property_37_and_38_the_scheduler_releases_by_the_plan(shapes, opens_in) -> None:
    """Feature: execution-engine, Property 37: Batch Execution Scheduling (through rounds of scheduling).

    Executions of one window start and end inside it, and use less at once than if they had all begun when it
    opened, where there is time for that.
    """
    world = World([worker("w", cores(64), slots=64)], lasts_s=lambda one: one.terms.expected_s or 0)
    opens_at = NOW + opens_in
    closes_at = opens_at + 2 * 1.25 * sum(lasts for lasts, _ in shapes) + 10
    world.submit(
        *(
            queued(
                f"e{number}",
                cores(count),
                service_class=BATCH,
                window=(opens_at, closes_at),
                expected_s=lasts,
            )
            for number, (lasts, count) in enumerate(shapes)
        )
    )
    world.run(10_000)
    assert len(world.starts) == len(shapes)
    for one in world.executions.values():
        assert one.status is ExecutionStatus.COMPLETED
        assert one.started_at is not None
        assert one.ended_at is not None
        assert opens_at <= one.started_at
        assert one.ended_at <= closes_at
    spans = [(one.started_at, one.ended_at, one.granted.cpu_cores) for one in world.executions.values()]
    peak = max(sum(count for start, end, count in spans if start <= at < end) for at, _, _ in spans)
    assert peak == max(count for _, count in shapes)  # there is time to do them one after the other


def test_what_waits_for_its_plan_is_postponed_once_and_keeps_its_place() -> None:
    world = World([worker("w", cores(1))], lasts_s=lambda one: 10.0)
    for name in ("a", "b"):
        world.submit(queued(name, cores(1), service_class=BATCH, window=(NOW, NOW + 100), expected_s=10))
    world.dispatch()
    waits = world.executions["b"]
    assert waits.status is ExecutionStatus.SUBMITTED
    assert waits.due_at == NOW + 12.5
    world.run(1000)
    told = [event for event in world.stream if event.type is EventType.DECISION]
    assert [event.message for event in told] == ["planned inside its window"]
    assert world.executions["b"].rank == world.executions["a"].rank


def test_what_will_be_late_is_told_and_starts_at_once() -> None:
    late = queued("late", cores(1), service_class=BATCH, window=(NOW, NOW + 5), expected_s=10)
    decision = decide(Round(NOW, (late,), (), (worker("w", cores(1)),)))
    assert decision.released == 1
    assert [event.message for event in decision.changes[0].events] == [
        "is not expected to end inside its window"
    ]


def test_a_tight_window_is_no_reason_to_call_work_late() -> None:
    tight = queued("tight", cores(1), service_class=BATCH, window=(NOW, NOW + 11), expected_s=10)
    decision = decide(Round(NOW, (tight,), (), (worker("w", cores(1)),)))
    assert decision.released == 1
    assert not decision.changes[0].events


def test_only_so_many_are_planned_in_one_round() -> None:
    world = World([worker("w", cores(64), slots=64)], policy=SchedulerPolicy(planned_at_once=3))
    window = (NOW, NOW + 1000)
    world.submit(
        *(queued(f"e{n}", cores(1), service_class=BATCH, window=window, expected_s=10) for n in range(10))
    )
    first = decide(world.seen(), world.policy)
    assert len(first.changes) == 3
    world.run(2000)
    assert world.standing(ExecutionStatus.COMPLETED) == set(world.executions)


def test_work_of_unknown_length_is_released_when_its_window_opens() -> None:
    world = World([worker("w", cores(1))])
    world.submit(queued("a", cores(1), service_class=BATCH, window=(NOW + 50, NOW + 100)))
    world.run(1000)
    assert world.starts == [(NOW + 50, "a")]


def test_what_runs_in_a_window_counts_for_the_next_plan() -> None:
    runs = running("r", "w", cores(1), began=NOW - 5)
    runs = runs.but(
        terms=queued("x", cores(1), service_class=BATCH, window=(NOW - 5, NOW + 100), expected_s=20).terms
    )
    due = queued("e", cores(1), service_class=BATCH, window=(NOW, NOW + 100), expected_s=10)
    decision = decide(Round(NOW, (due,), (), (worker("w", cores(2), held=cores(1)),), (runs,)))
    assert decision.changes[0].update["due_at"] == NOW + 20


def test_a_plan_of_many_is_made_fast() -> None:
    items = [
        Item(f"i{n}", NOW + n % 97, NOW + 4000 + n % 31, 5 + n % 50, Resources(1 + n % 4, 256 * (n % 5)))
        for n in range(1000)
    ]
    made = plan(items, NOW, capacity=Resources(4000, 10**7), slots=4000)
    assert not made.late
    assert made.peak < 0.05
