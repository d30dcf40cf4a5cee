"""Packing: where work goes, and that no search is wrong for being fast."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.scheduling.packing import Fleet, capacity_of, fits, minus, need_of, room_of
from praxis_sdk.control.scheduling.scheduler import SchedulerPolicy, decide
from praxis_sdk.model import Worker
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.protocol import Round
from tests.control.rounds import (
    NOW,
    World,
    cores,
    fleets,
    in_order,
    queued,
    queues,
    resources,
    started,
    worker,
)

PATIENT = SchedulerPolicy(patience_s=1e9)  # no worker is kept for anybody


def place(workers: list[Worker], *needs: Resources, kind: str = "job") -> list[str | None]:
    amounts = [need_of(one) for one in needs]
    fleet = Fleet(workers, amounts)
    return [fleet.place(kind, one) for one in amounts]


def test_work_goes_where_it_leaves_the_least() -> None:
    workers = [worker("big", cores(8)), worker("tight", cores(3)), worker("small", cores(1))]
    assert place(workers, cores(2)) == ["tight"]


def test_what_was_given_away_is_gone() -> None:
    assert place([worker("one", cores(3))], cores(2), cores(2), cores(1)) == ["one", None, "one"]


def test_a_slot_is_needed_even_where_nothing_else_is() -> None:
    assert place([worker("one", cores(3), slots=2)], cores(0), cores(0), cores(0)) == ["one", "one", None]


def test_work_goes_to_workers_of_its_kind_alone() -> None:
    workers = [worker("jobs", cores(1)), worker("tools", cores(8), kinds=["tool"])]
    assert place(workers, cores(1), kind="tool") == ["tools"]
    assert place(workers, cores(2), kind="job") == [None]


def test_work_without_need_of_a_gpu_leaves_it_to_others() -> None:
    workers = [worker("gpu", cores(2, gpus=1)), worker("plain", cores(16))]
    assert place(workers, cores(2), cores(2, gpus=1)) == ["plain", "gpu"]


def test_work_without_need_of_a_gpu_still_runs_where_there_are_only_such() -> None:
    assert place([worker("gpu", cores(2, gpus=1))], cores(2)) == ["gpu"]


def test_three_thirds_fit_into_one() -> None:
    third = cores(1 / 3)
    assert place([worker("one", cores(1))], third, third, third) == ["one", "one", "one"]


def test_a_kept_worker_takes_nothing() -> None:
    need = need_of(cores(1))
    one = worker("one", cores(8))
    fleet = Fleet([one, worker("two", cores(9))], [need])
    fleet.keep(one, room_of(one))
    assert fleet.place("job", need) == "two"


def test_a_worker_whose_capacity_was_lowered_takes_nothing() -> None:
    assert place([worker("one", cores(1, 10), held=cores(2, 5))], cores(0.5)) == [None]


@settings(max_examples=300)
@given(fleets(), st.lists(resources(), min_size=1, max_size=60))
def test_a_search_finds_room_exactly_where_there_is_some(
    workers: list[Worker], wanted: list[Resources]
) -> None:
    needs = [need_of(one) for one in wanted]
    fleet = Fleet(workers, needs)
    rooms = {one.id: room_of(one) for one in workers}
    found = 0
    for need in needs:
        able = {name for name, room in rooms.items() if fits(need, room)}
        name = fleet.place("job", need)
        assert (name is not None) == bool(able)
        if name is not None:
            assert name in able
            rooms[name] = minus(rooms[name], need)
            found += 1
    assert found >= 1


@settings(max_examples=200)
@given(fleets(), queues(most=60))
def test_property_30_work_is_packed_and_its_room_is_free_again_at_once(workers, waiting) -> None:
    """Feature: execution-engine, Property 30: Resource Lifecycle Management.

    What is started fits; nothing is left waiting that would fit; and when all has ended, all room is free.
    """
    world = World(workers, policy=PATIENT)
    world.submit(*waiting)
    decision = decide(world.seen(), PATIENT)
    assert decision.started >= 1
    world.apply(decision.changes)
    rooms = {one.id: room_of(one) for one in world.workers.values()}
    for one in world.seen().waiting:
        assert not any(fits(need_of(one.granted), room) for room in rooms.values())
    world.run(10_000)
    assert world.standing(ExecutionStatus.COMPLETED) == {one.id for one in waiting}
    for one in world.workers.values():
        assert room_of(one) == capacity_of(one)
        assert one.reserved.cpu_cores == 0.0


@settings(max_examples=100)
@given(st.lists(st.integers(1, 8), min_size=8, max_size=60))
def test_property_30_best_fit_needs_few_workers(sizes: list[int]) -> None:
    """Feature: execution-engine, Property 30: Resource Lifecycle Management (bin-packing).

    Work that comes one after the other opens at most 1.7 times the workers that it must open, and one more:
    the known bound of best fit (Johnson et al., 1974).
    """
    workers = [worker(f"w{number:03}", cores(8)) for number in range(len(sizes))]
    waiting = in_order(queued(f"e{number:03}", cores(size)) for number, size in enumerate(sizes))
    places = started(decide(Round(NOW, (), waiting, tuple(workers))))
    assert len(places) == len(sizes)
    assert len(set(places.values())) <= 1.7 * -(-sum(sizes) // 8) + 1
