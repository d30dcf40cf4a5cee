"""Preemption: which batch work gives way to real-time work that finds no room.

Batch work of the lowest priority gives way first; of that, what loses the least work, counted from its last
checkpoint; and no more of it than is needed (spec 4, property 39). It ends: what is stopping already counts
as room to come, so that one blocked execution never stops more and more; and an execution gives way at most
`MAX_PREEMPTIONS` times.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.control.scheduling.packing import Amounts, capacity_of, fits, minus, need_of, plus
from praxis_sdk.model import MAX_PREEMPTIONS, Execution, Worker
from praxis_sdk.states import ExecutionStatus, Priority, ServiceClass

# The later in this list, the less it matters.
_STANDING: Final = {priority: number for number, priority in enumerate(Priority)}


@dataclass(frozen=True, slots=True)
class Eviction:
    """Room that is made on one worker for one execution.

    Args:
        execution: who waits for it.
        worker_id: where.
        victims: what is stopped for it; empty where enough is stopping already.
    """

    execution: Execution
    worker_id: str
    victims: tuple[Execution, ...]


def preemptible(execution: Execution) -> bool:
    """Whether an execution may be stopped for another's sake."""
    return (
        execution.status is ExecutionStatus.RUNNING
        and execution.terms.service_class is ServiceClass.BATCH
        and execution.stop is None
        and execution.preemptions < MAX_PREEMPTIONS
    )


def lost_s(execution: Execution, now: float) -> float:
    """Return how much work is lost when an attempt is stopped now: since its start or last checkpoint, in s."""
    saved_at = execution.attempt_at if execution.attempt_at is not None else now
    if execution.checkpoint_at is not None:
        saved_at = max(saved_at, execution.checkpoint_at)
    return max(0.0, now - saved_at)


def choose(
    blocked: Iterable[Execution],
    workers: Sequence[Worker],
    rooms: Mapping[str, Amounts],
    running: Iterable[Execution],
    now: float,
    kept: Mapping[str, Sequence[Execution]] | None = None,
) -> list[Eviction]:
    """Choose what gives way to executions that found no room.

    Args:
        blocked: the executions, in rank order.
        workers: those that take work.
        rooms: per worker, what it has left.
        running: batch executions that run, those that are stopping among them.
        now: seconds since 1970.
        kept: workers that are kept for executions, with these; who ranks behind them gets no room there.

    Returns:
        Where room is made for each, without those for which none can be made.
    """
    kept = kept or {}
    stands = {one.id: _Stand(one, rooms[one.id], kept.get(one.id, ())) for one in workers}
    for execution in running:
        stand = stands.get(execution.worker_id)
        if stand is None:
            continue
        if execution.stop is not None or execution.status is ExecutionStatus.CANCELLING:
            stand.room = plus(stand.room, need_of(execution.granted))
            stand.awaits_room = True
        elif preemptible(execution):
            standing, lost = -_STANDING[execution.terms.priority], lost_s(execution, now)
            stand.candidates.append((standing, lost, execution.id, need_of(execution.granted), execution))
    for stand in stands.values():
        stand.candidates.sort(key=lambda one: one[:3])
    chosen: list[Eviction] = []
    offers: dict[tuple[str, Amounts], list[_Offer]] = {}
    for execution in blocked:
        need = need_of(execution.granted)
        shape = execution.kind, need
        if shape not in offers:
            offers[shape] = [offer for stand in stands.values() if (offer := _offer(stand, need)) is not None]
            heapq.heapify(offers[shape])
        eviction = _make_room(execution, need, stands, offers[shape])
        if eviction is None:
            continue
        stand = stands[eviction.worker_id]
        stand.promise(need, eviction.victims)
        for (_, other), made in offers.items():
            fresh = _offer(stand, other)
            if fresh is not None:
                heapq.heappush(made, fresh)
        chosen.append(eviction)
    return chosen


# What decides, in this order: the highest priority that gives way, the work lost, how many.
_Cost = tuple[int, float, int]
# Standing of its priority, work lost, id, what it takes up.
_Candidate = tuple[int, float, str, Amounts, Execution]
# What it costs to make room for a shape on a worker, the worker, the state of it that this holds for, who gives way.
_Offer = tuple[_Cost, str, int, tuple[Execution, ...]]


class _Stand:
    """A worker: the room it will have, and what could give way there, the cheapest first."""

    __slots__ = ("awaits_room", "candidates", "capacity", "kept_for", "room", "version", "worker")

    def __init__(self, worker: Worker, room: Amounts, kept_for: Sequence[Execution]) -> None:
        self.worker = worker
        self.room = room
        self.capacity = capacity_of(worker)
        self.kept_for = kept_for
        self.candidates: list[_Candidate] = []
        self.awaits_room = False
        self.version = 0

    def promise(self, need: Amounts, victims: Sequence[Execution]) -> None:
        """Count the room of victims as room to come, and a need as met by it."""
        names = {victim.id for victim in victims}
        for victim in victims:
            self.room = plus(self.room, need_of(victim.granted))
        self.room = minus(self.room, need)
        self.candidates = [one for one in self.candidates if one[2] not in names]
        self.awaits_room = True
        self.version += 1

    def open_to(self, execution: Execution, need: Amounts) -> bool:
        """Whether an execution could ever run here, and may have the room of this worker."""
        if execution.kind not in self.worker.kinds or not fits(need, self.capacity):
            return False
        if not self.kept_for or self.waited_for_by(execution):
            return True
        place = execution.rank, execution.id
        return all(place < (keeper.rank, keeper.id) for keeper in self.kept_for)

    def waited_for_by(self, execution: Execution) -> bool:
        """Whether this worker is kept for an execution."""
        return any(keeper.id == execution.id for keeper in self.kept_for)


def _make_room(
    execution: Execution, need: Amounts, stands: Mapping[str, _Stand], offers: list[_Offer]
) -> Eviction | None:
    coming = [
        stand
        for stand in stands.values()
        if stand.awaits_room and fits(need, stand.room) and stand.open_to(execution, need)
    ]
    if coming:  # enough is stopping; where the execution waits already, if that is one of them
        stand = next((one for one in coming if one.waited_for_by(execution)), coming[0])
        return Eviction(execution, stand.worker.id, ())
    closed: list[_Offer] = []
    eviction = None
    while offers and eviction is None:
        offer = heapq.heappop(offers)
        _, worker_id, version, victims = offer
        stand = stands[worker_id]
        if version != stand.version:
            continue  # others made room there meanwhile, and a new offer stands beside this one
        if stand.open_to(execution, need):
            eviction = Eviction(execution, worker_id, victims)
        else:
            closed.append(offer)
    for offer in closed:
        heapq.heappush(offers, offer)
    return eviction


def _offer(stand: _Stand, need: Amounts) -> _Offer | None:
    """Return the cheaper of two ways to make room: the cheapest single victim, or several without a needless one."""
    if not stand.candidates or not fits(need, stand.capacity) or fits(need, stand.room):
        return None
    best: list[_Candidate] | None = None
    for candidate in stand.candidates:
        if fits(need, plus(stand.room, candidate[3])):
            best = [candidate]
            break
    room, victims = stand.room, []
    for candidate in stand.candidates:
        room = plus(room, candidate[3])
        victims.append(candidate)
        if fits(need, room):
            break
    else:
        return None
    # What came first may have become needless by what came later; the dearest is let go first.
    for candidate in reversed(victims[:]):
        without = minus(room, candidate[3])
        if fits(need, without):
            room = without
            victims.remove(candidate)
    if best is None or _cost(victims) < _cost(best):
        best = victims
    return _cost(best), stand.worker.id, stand.version, tuple(candidate[4] for candidate in best)


def _cost(victims: Sequence[_Candidate]) -> _Cost:
    highest = max(victim[0] for victim in victims)
    return highest, sum(victim[1] for victim in victims), len(victims)
