"""Preemption: what gives way, and that it comes to an end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.scheduling.packing import fits, need_of, plus, room_of
from praxis_sdk.control.scheduling.preemption import Eviction, choose, lost_s, preemptible
from praxis_sdk.control.scheduling.scheduler import WAITS_FOR, decide
from praxis_sdk.model import MAX_PREEMPTIONS, Execution, Stop, Worker
from praxis_sdk.states import ExecutionStatus, Priority
from praxis_sdk.store.protocol import Round
from tests.control.rounds import (
    BATCH,
    NOW,
    REAL_TIME,
    World,
    cores,
    fleets,
    queued,
    queues,
    running,
    started,
    stopped,
    worker,
)

ONE = [worker("w", cores(4), held=cores(4))]


def victims(
    blocked: Execution, runs: list[Execution], workers: list[Worker] = ONE, **kept: Execution
) -> list[str] | None:
    """Return what gives way to one execution; None where no room can be made."""
    rooms = {one.id: room_of(one) for one in workers}
    evictions = choose(
        [blocked], workers, rooms, runs, NOW, {name: [keeper] for name, keeper in kept.items()}
    )
    return [one.id for one in evictions[0].victims] if evictions else None


def test_the_lowest_priority_gives_way_even_if_more_work_is_lost() -> None:
    runs = [
        running("normal", "w", cores(2), began=NOW - 1),
        running("low", "w", cores(2), priority=Priority.LOW, began=NOW - 9999),
    ]
    assert victims(queued("rt", cores(2)), runs) == ["low"]


def test_of_one_priority_what_loses_least_work_gives_way() -> None:
    runs = [running("old", "w", cores(2), began=NOW - 900), running("young", "w", cores(2), began=NOW - 60)]
    assert victims(queued("rt", cores(2)), runs) == ["young"]


def test_work_since_the_last_checkpoint_is_what_counts_as_lost() -> None:
    runs = [
        running("saved", "w", cores(2), began=NOW - 9000, saved=NOW - 5),
        running("young", "w", cores(2), began=NOW - 60),
    ]
    assert victims(queued("rt", cores(2)), runs) == ["saved"]


def test_a_checkpoint_of_an_earlier_attempt_saves_nothing_of_this_one() -> None:
    assert lost_s(running("e", "w", cores(1), began=NOW - 50, saved=NOW - 500), NOW) == 50


def test_no_more_gives_way_than_is_needed() -> None:
    runs = [
        running("small", "w", cores(1), began=NOW - 10),
        running("large", "w", cores(3), began=NOW - 20),
    ]
    assert victims(queued("rt", cores(3)), runs) == ["large"]


def test_several_give_way_where_one_is_not_enough() -> None:
    runs = [running(f"b{number}", "w", cores(1), began=NOW - number) for number in range(4)]
    assert victims(queued("rt", cores(2)), runs) == ["b0", "b1"]


def test_nothing_gives_way_where_that_would_not_make_room() -> None:
    runs = [running("batch", "w", cores(1))]  # real-time work holds the other three
    assert victims(queued("rt", cores(2)), runs) is None


def test_what_is_stopping_already_counts_as_room() -> None:
    runs = [
        running("stopping", "w", cores(2), stop=Stop.PREEMPT),
        running("other", "w", cores(2), priority=Priority.LOW),
    ]
    assert victims(queued("rt", cores(2)), runs) == []


def test_what_is_being_cancelled_counts_as_room() -> None:
    cancelled = running("c", "w", cores(2), stop=Stop.CANCEL).but(status=ExecutionStatus.CANCELLING)
    assert victims(queued("rt", cores(2)), [cancelled, running("other", "w", cores(2))]) == []


def test_room_that_is_coming_is_promised_once() -> None:
    runs = [running("stopping", "w", cores(2), stop=Stop.PREEMPT), running("other", "w", cores(2))]
    blocked = [queued("a", cores(2)), queued("b", cores(2))]
    evictions = choose(blocked, ONE, {"w": room_of(ONE[0])}, runs, NOW)
    assert [(one.execution.id, [victim.id for victim in one.victims]) for one in evictions] == [
        ("a", []),
        ("b", ["other"]),
    ]


def test_what_gave_way_often_enough_is_left_alone() -> None:
    spared = running("spared", "w", cores(2), priority=Priority.LOW, preemptions=MAX_PREEMPTIONS)
    assert victims(queued("rt", cores(2)), [spared, running("other", "w", cores(2))]) == ["other"]
    assert victims(queued("rt", cores(4)), [spared, running("other", "w", cores(2))]) is None


def test_real_time_work_never_gives_way() -> None:
    busy = running("rt0", "w", cores(4))
    busy = busy.but(terms=queued("x", cores(4), service_class=REAL_TIME).terms)
    assert not preemptible(busy)
    assert victims(queued("rt", cores(2)), [busy]) is None


def test_a_worker_that_is_kept_for_who_ranks_before_is_left_alone() -> None:
    runs = [running("batch", "w", cores(4))]
    earlier, later = queued("a", cores(2), at=NOW - 9), queued("b", cores(2), at=NOW + 9)
    assert victims(queued("rt", cores(2)), runs, w=earlier) is None
    assert victims(queued("rt", cores(2)), runs, w=queued("rt", cores(2))) == ["batch"]
    assert victims(queued("rt", cores(2)), runs, w=later) == ["batch"]


def test_room_made_for_real_time_work_is_not_taken_by_smaller_work_meanwhile() -> None:
    """Two victims end one after the other; what the first leaves must wait for the second."""
    lasting = {"b1": 1.0, "b2": 30.0}
    world = World(
        [worker("w", cores(4))], lasts_s=lambda one: 1000.0, stops_s=lambda one: lasting.get(one.id, 1.0)
    )
    world.submit(*(queued(name, cores(2), service_class=BATCH) for name in lasting))
    world.dispatch()
    world.submit(queued("rt", cores(4)))
    world.dispatch()
    assert set(world.preempted) == {"b1", "b2"}
    assert world.executions["rt"].reason == f"{WAITS_FOR}w"
    world.submit(*(queued(f"s{number}", cores(1), service_class=BATCH) for number in range(4)))
    world.move(NOW + 2)
    world.dispatch()
    assert world.standing(ExecutionStatus.RUNNING) == {"b2"}
    world.move(NOW + 31)
    world.dispatch()
    assert world.standing(ExecutionStatus.RUNNING) == {"rt"}
    assert len(world.preempted) == 2


@st.composite
def full(draw: st.DrawFn) -> tuple[Worker, list[Execution], Execution]:
    """A worker that batch work fills, and a real-time execution that needs room there."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    runs = [
        running(
            f"b{number}",
            "w",
            cores(size),
            priority=draw(st.sampled_from(Priority)),
            began=NOW - draw(st.integers(1, 1000)),
            preemptions=draw(st.integers(0, MAX_PREEMPTIONS)),
        )
        for number, size in enumerate(sizes)
    ]
    whole = cores(sum(sizes))
    return (
        worker("w", whole, held=whole),
        runs,
        queued("rt", cores(draw(st.integers(1, sum(sizes))))),
    )


@settings(max_examples=300)
@given(full())
def test_property_39_the_lowest_priority_batch_work_makes_room(given_) -> None:
    """Feature: execution-engine, Property 39: Real-Time Preemption of Batch Executions.

    Room is made wherever it can be; nothing needless gives way; and nothing does while enough work of lower
    priorities is spared.
    """
    host, runs, blocked = given_
    decision = decide(Round(NOW, (), (blocked,), (host,), tuple(runs)))
    need, gave = need_of(blocked.granted), stopped(decision)
    may = [one for one in runs if preemptible(one)]
    reachable = sum(one.granted.cpu_cores for one in may) >= blocked.granted.cpu_cores
    assert bool(gave) == reachable
    chosen = [one for one in runs if one.id in gave]
    assert all(preemptible(one) for one in chosen)
    if not chosen:
        return
    room = room_of(host)
    for one in chosen:
        room = plus(room, need_of(one.granted))
    assert fits(need, room)
    for one in chosen:
        assert sum(o.granted.cpu_cores for o in chosen if o is not one) < blocked.granted.cpu_cores
    order = list(Priority)
    highest = min(order.index(one.terms.priority) for one in chosen)
    lower = [one for one in may if order.index(one.terms.priority) > highest]
    assert sum(one.granted.cpu_cores for one in lower) < blocked.granted.cpu_cores


def waits(world: World) -> set[str]:
    return world.standing(ExecutionStatus.QUEUED)


@settings(max_examples=150, deadline=None)
@given(
    fleets(most=3),
    queues(least=3, most=15, service_class=BATCH),
    queues(least=1, most=10, service_class=REAL_TIME),
    st.lists(st.floats(0.1, 50), min_size=1, max_size=7),
)
def test_property_39_preemption_comes_to_an_end(workers, batch, urgent, delays) -> None:
    """Feature: execution-engine, Property 39: Real-Time Preemption of Batch Executions (it converges).

    However slowly what is stopped ends, each execution gives way at most `MAX_PREEMPTIONS` times, and all
    of them end in the end.
    """
    world = World(
        workers,
        lasts_s=lambda one: 20.0 + 10 * delays[one.rank % len(delays)],
        stops_s=lambda one: delays[(len(one.id) + one.attempt) % len(delays)],
    )
    world.submit(*batch)
    world.dispatch()
    assert world.standing(ExecutionStatus.RUNNING)
    for number, one in enumerate(urgent):
        world.move(NOW + 5 * number)
        fresh = queued(f"rt{number}", one.granted, priority=one.terms.priority, at=world.now)
        world.submit(fresh)
        for asked in range(len(urgent) + 2):
            before = len(world.preempted)
            world.dispatch()
            if len(world.preempted) == before:
                break
            alone = sum(name.startswith("rt") for name in waits(world)) == 1
            assert not (asked and alone), "asking again for one execution must not stop more"
        else:
            raise AssertionError("asking again and again stops more and more")
    world.run(1_000_000)
    assert world.standing(ExecutionStatus.COMPLETED) == set(world.executions)
    assert all(one.preemptions <= MAX_PREEMPTIONS for one in world.executions.values())
    assert len(world.preempted) == sum(one.preemptions for one in world.executions.values())


def test_an_eviction_names_who_where_and_what() -> None:
    runs = [running("batch", "w", cores(4))]
    blocked = queued("rt", cores(1))
    (eviction,) = choose([blocked], ONE, {"w": room_of(ONE[0])}, runs, NOW)
    assert eviction == Eviction(blocked, "w", (runs[0],))


def test_a_round_that_does_not_show_what_runs_asks_for_one_that_does() -> None:
    first = decide(Round(NOW, (), (queued("rt", cores(2)),), tuple(ONE)))
    assert first.blocked == ("rt",)
    assert not first.changes
    second = decide(Round(NOW, (), (queued("rt", cores(2)),), tuple(ONE), (running("batch", "w", cores(4)),)))
    assert stopped(second) == {"batch"}
    assert not second.blocked
    assert not started(second)
