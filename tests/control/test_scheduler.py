"""The scheduler: who starts, who waits, who is told, and that nobody waits for ever."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.lifecycle.transitions import AGEING_STEP_S, rank_of
from praxis_sdk.control.scheduling.packing import fits, minus, need_of, room_of
from praxis_sdk.control.scheduling.scheduler import NO_WORKER, POLICY, TOO_LARGE, SchedulerPolicy, decide
from praxis_sdk.model import EventType, Execution, Level, Worker
from praxis_sdk.states import ExecutionStatus, Priority, ServiceClass
from praxis_sdk.store.protocol import Round
from tests.control.rounds import (
    BATCH,
    NOW,
    REAL_TIME,
    World,
    cores,
    fleets,
    in_order,
    queued,
    queues,
    running,
    started,
    stopped,
    worker,
)

PATIENT = SchedulerPolicy(patience_s=1e9)  # no worker is kept for anybody
LONG = POLICY.patience_s + 1


def see(waiting: list[Execution], workers: list[Worker], now: float = NOW) -> Round:
    return Round(now, (), in_order(waiting), tuple(workers))


# -- order, backfill, patience


def test_the_first_in_rank_order_gets_the_room() -> None:
    waiting = [
        queued("low", cores(1), priority=Priority.LOW),
        queued("critical", cores(1), priority=Priority.CRITICAL),
        queued("batch", cores(1), priority=Priority.CRITICAL, service_class=BATCH),
    ]
    assert started(decide(see(waiting, [worker("w", cores(1))]))) == {"critical": "w"}


def test_waiting_lifts_an_execution_over_a_higher_priority() -> None:
    waiting = [
        queued("high", cores(1), priority=Priority.HIGH),
        queued("normal", cores(1), at=NOW - AGEING_STEP_S - 1),
    ]
    assert started(decide(see(waiting, [worker("w", cores(1))]))) == {"normal": "w"}


def test_smaller_work_passes_a_head_that_does_not_fit() -> None:
    waiting = [queued("large", cores(4), at=NOW - 10), queued("small", cores(1))]
    assert started(decide(see(waiting, [worker("w", cores(4), held=cores(2))]))) == {"small": "w"}


def test_a_head_that_waited_long_has_a_worker_kept_for_it() -> None:
    waiting = [queued("large", cores(4), at=NOW - LONG), queued("small", cores(1))]
    assert not started(decide(see(waiting, [worker("w", cores(4), held=cores(2))])))


def test_the_worker_that_is_kept_is_the_nearest_to_having_room() -> None:
    workers = [worker("far", cores(4), held=cores(3)), worker("near", cores(4), held=cores(1))]
    waiting = [queued("large", cores(4), at=NOW - LONG), queued("a", cores(1)), queued("b", cores(1))]
    assert started(decide(see(waiting, workers))) == {"a": "far"}


def test_a_decision_says_when_patience_ends() -> None:
    waiting = [queued("large", cores(4), at=NOW - 10)]
    decision = decide(see(waiting, [worker("w", cores(4), held=cores(2))]))
    assert decision.look_again_at == NOW - 10 + POLICY.patience_s


def test_only_few_workers_are_kept() -> None:
    workers = [worker(f"w{number:02}", cores(4), held=cores(3)) for number in range(40)]
    waiting = [queued(f"large{number:02}", cores(4), at=NOW - LONG) for number in range(40)]
    waiting += [queued(f"small{number:02}", cores(1)) for number in range(40)]
    assert len(started(decide(see(waiting, workers)))) == 38  # 5 % of 40 are kept


def test_a_decision_says_whether_room_is_left() -> None:
    assert decide(see([queued("a", cores(1))], [worker("w", cores(2))])).has_room
    assert not decide(see([queued("a", cores(1))], [worker("w", cores(2), slots=1)])).has_room


def test_room_for_other_shapes_than_those_seen_is_room() -> None:
    """Behind what needs a graphics processor there may be work that needs none."""
    waiting = [queued("gpu", cores(1, 256, gpus=1))]
    workers = [
        worker("plain", cores(4, 1024)),
        worker("gpus", cores(4, 1024, gpus=1), slots=1, held=cores(1)),
    ]
    decision = decide(see(waiting, workers))
    assert not decision.started
    assert decision.has_room


def test_nothing_is_said_while_there_is_no_worker() -> None:
    decision = decide(see([queued("a", cores(99))], []))
    assert not decision.changes
    assert not decision.unplaceable


# -- what fits nowhere


def test_what_fits_no_worker_is_told_once_and_waits_on() -> None:
    world = World([worker("w", cores(4))])
    world.submit(queued("huge", cores(5)), queued("fine", cores(4)))
    first = world.dispatch()
    assert first[0].unplaceable == ("huge",)
    world.run(1000)
    world.dispatch()
    told = [event for event in world.stream if event.type is EventType.DECISION]
    assert [(event.execution_id, event.message, event.level) for event in told] == [
        ("huge", TOO_LARGE, Level.WARN)
    ]
    assert told[0].data == {"requirements": {"cpu_cores": 5}, "kind": "job"}
    assert world.executions["huge"].status is ExecutionStatus.QUEUED
    assert world.executions["huge"].reason == TOO_LARGE
    assert world.standing(ExecutionStatus.COMPLETED) == {"fine"}


def test_it_starts_when_a_worker_comes_that_can_hold_it() -> None:
    world = World([worker("w", cores(4))])
    world.submit(queued("huge", cores(5)))
    world.dispatch()
    world.workers["big"] = worker("big", cores(8))
    world.dispatch()
    assert world.executions["huge"].worker_id == "big"
    assert world.executions["huge"].reason == ""


def test_it_is_told_too_that_such_a_worker_has_come_and_is_busy() -> None:
    huge = queued("huge", cores(5)).but(reason=TOO_LARGE)
    decision = decide(see([huge], [worker("big", cores(8), held=cores(8))]))
    (change,) = decision.changes
    assert change.update == {"reason": ""}
    assert change.events[0].message == "a worker that can hold it has come"


def test_a_kind_that_no_worker_runs_is_told_as_such() -> None:
    decision = decide(see([queued("t", cores(1), kind="tool")], [worker("w", cores(4))]))
    assert decision.unplaceable == ("t",)
    assert decision.changes[0].update == {"reason": NO_WORKER}


def test_nothing_gives_way_for_what_could_never_fit() -> None:
    seen = Round(
        NOW,
        (),
        (queued("huge", cores(9)),),
        (worker("w", cores(4), held=cores(4)),),
        (running("batch", "w", cores(4)),),
    )
    assert not stopped(decide(seen))


# -- properties


@settings(max_examples=200, deadline=None)
@given(fleets(), queues(most=40))
def test_property_17_what_finds_no_room_is_queued_and_starts_when_there_is(workers, waiting) -> None:
    """Feature: execution-engine, Property 17: Execution Queuing on Resource Exhaustion.

    No worker ever holds more than it has; what finds no room stays queued, in rank order; and all of it ends
    as others make room.
    """
    world = World(workers, policy=PATIENT, lasts_s=lambda one: 5.0 + one.rank % 17)
    world.submit(*waiting)
    decision = decide(world.seen(), PATIENT)
    assert 1 <= decision.started <= len(waiting)
    world.apply(decision.changes)
    left = world.seen().waiting
    assert len(left) == len(waiting) - decision.started
    assert list(left) == sorted(left, key=lambda one: (one.rank, one.id))
    world.run(1_000_000)
    assert world.standing(ExecutionStatus.COMPLETED) == {one.id for one in waiting}


@settings(max_examples=200, deadline=None)
@given(fleets(), queues(most=40))
def test_property_18_nobody_is_passed_by_who_ranks_behind_and_takes_its_room(workers, waiting) -> None:
    """Feature: execution-engine, Property 18: Priority-Based Scheduling.

    Whoever stays queued had no room left by those before it: with all room given in rank order, it fits
    nowhere at its turn; and whoever fits somewhere at its turn starts.
    """
    seen = see(waiting, workers)
    places = started(decide(seen, PATIENT))
    assert places
    rooms = {one.id: room_of(one) for one in workers}
    for one in seen.waiting:
        need = need_of(one.granted)
        able = [name for name, room in rooms.items() if fits(need, room)]
        assert (one.id in places) == bool(able)
        if one.id in places:
            assert places[one.id] in able
            rooms[places[one.id]] = minus(rooms[places[one.id]], need)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(Priority), min_size=2, max_size=20),
    st.integers(1, 19),
    st.sampled_from(ServiceClass),
)
def test_property_18_higher_priorities_start_first(priorities, room, service_class) -> None:
    """Feature: execution-engine, Property 18: Priority-Based Scheduling.

    Of executions that were queued together, none starts while one of a higher priority waits.
    """
    waiting = [
        queued(f"e{number:02}", cores(1), priority=priority, service_class=service_class)
        for number, priority in enumerate(priorities)
    ]
    places = started(decide(see(waiting, [worker("w", cores(room))])))
    assert len(places) == min(room, len(waiting))
    order = list(Priority)
    first = [order.index(one.terms.priority) for one in waiting if one.id in places]
    rest = [order.index(one.terms.priority) for one in waiting if one.id not in places]
    assert not rest or max(first) <= min(rest)


@settings(max_examples=200, deadline=None)
@given(fleets(), queues(most=20, service_class=BATCH), queues(least=1, most=1, service_class=REAL_TIME))
def test_property_36_real_time_work_starts_in_the_round_that_sees_it(workers, batch, urgent) -> None:
    """Feature: execution-engine, Property 36: Real-Time Immediate Execution (what scheduling decides of it).

    Where there is room, real-time work starts in the first round after its submission, before any batch work
    that was submitted within the last hour's share of ageing; the time of the round adds nothing.
    """
    fresh = urgent[0].but(rank=rank_of(urgent[0].terms.priority, REAL_TIME, NOW), queued_at=NOW)
    young = [one for one in batch if one.submitted_at > NOW - AGEING_STEP_S]
    decision = decide(see([fresh, *young], workers))
    change = next(one for one in decision.changes if one.execution_id == fresh.id)
    assert change.update["status"] is ExecutionStatus.RUNNING
    assert change.update["started_at"] == NOW
    assert decision.changes.index(change) == 0
    assert not decision.blocked


@settings(max_examples=150, deadline=None)
@given(fleets(), queues(most=40))
def test_equal_rounds_get_equal_decisions(workers, waiting) -> None:
    seen = see(waiting, workers)
    first = decide(seen)
    assert first == decide(seen)
    assert first.started >= 1


# -- time


def test_nothing_starves_while_small_work_keeps_coming() -> None:
    """A whole-machine batch job of the lowest priority, under a stream of small work that never ceases."""
    draw = random.Random(7)
    world = World([worker("w", cores(8)), worker("v", cores(4))], lasts_s=lambda one: 20 + one.rank % 60)
    world.submit(*(queued(f"first{number:02}", cores(1), at=NOW - number) for number in range(12)))
    world.dispatch()
    world.submit(queued("whole", cores(8), priority=Priority.LOW, service_class=BATCH))
    steps = len(Priority) + list(Priority).index(Priority.LOW)
    bound_s = steps * AGEING_STEP_S + POLICY.patience_s + 200
    number = 0
    while world.executions["whole"].started_at is None:
        assert world.now < NOW + bound_s, "it starves"
        number += 1
        service_class, priority = draw.choice([BATCH, REAL_TIME]), draw.choice(list(Priority))
        needs = cores(draw.choice([1, 2, 3]))  # a little more than there is room for
        world.submit(
            queued(f"s{number:06}", needs, priority=priority, service_class=service_class, at=world.now)
        )
        world.dispatch()
        world.move(world.now + 6)
        for name in world.standing(ExecutionStatus.COMPLETED):
            del world.executions[name]  # so that the test stays fast
    assert number > 50
    assert len(world.starts) > 50


@settings(max_examples=30, deadline=None)
@given(fleets(most=3), queues(least=5, most=30), st.integers(0, 10_000))
def test_nobody_waits_longer_than_rank_and_patience_explain(workers, waiting, seed) -> None:
    """With a stream of fresh critical work beside it, whatever was queued first starts within a bound."""
    draw = random.Random(seed)
    world = World(workers, lasts_s=lambda one: 30.0)
    world.submit(*waiting)
    names = {one.id for one in waiting}
    bound_s = 7 * AGEING_STEP_S + POLICY.patience_s + 60 * len(waiting)
    for number in range(int(bound_s // 60)):
        open_ = [name for name in names if world.executions[name].started_at is None]
        if not open_:
            break
        needs = cores(draw.choice([0.25, 1, 2]))
        world.submit(queued(f"fresh{number:04}", needs, priority=Priority.CRITICAL, at=world.now))
        for _ in range(2):  # half of the time of a single slot is left for the others
            world.dispatch()
            world.move(world.now + 30)
    assert all(world.executions[name].started_at is not None for name in names)
