"""The scheduler: pure decisions on what is queued, started, kept waiting or stopped.

A round goes through what waits in rank order (`transitions.rank_of`: real-time before batch, then priority,
then age). What fits starts where it fits best. What does not fit lets smaller work behind it pass; but once it
has waited for `patience_s`, the worker that is nearest to having room for it is kept for it, so that it cannot
starve. Real-time work that finds no room stops batch work, where the round shows what runs (`preemption`).

The scheduler remembers nothing between rounds: what it must know again stands in the execution's `reason`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.control.lifecycle.transitions import (
    miss_window,
    postpone,
    preempt,
    rank_of,
    release,
    start,
    window_closed,
)
from praxis_sdk.control.scheduling import preemption, windows
from praxis_sdk.control.scheduling.packing import (
    Amounts,
    Fleet,
    capacity_of,
    fits,
    minus,
    need_of,
    plus,
    room_of,
)
from praxis_sdk.model import EventType, Execution, Level, NewEvent, Worker
from praxis_sdk.resources import total
from praxis_sdk.states import ExecutionStatus, ServiceClass
from praxis_sdk.store.changes import Change
from praxis_sdk.store.protocol import Round

TOO_LARGE: Final = "fits no worker, even an idle one"
NO_WORKER: Final = "no worker runs this kind of work"
CLOCK_IN_DOUBT: Final = "its window has closed by a clock that was set ahead: waits until that is certain"
WAITS_FOR: Final = "waits for room on worker "


@dataclass(frozen=True, slots=True)
class SchedulerPolicy:
    """How is decided.

    Args:
        patience_s: after so long a worker is kept for an execution that does not fit, in seconds.
        kept_share: of at most this share of the workers are any kept, and one at least.
        most_kept: and at most so many.
        most_blocked: room is made for at most so many real-time executions per round.
        window_margin: how much longer than expected windowed work is given in a plan, as a share.
        planned_at_once: at most so many executions that are due are looked at in a round.
        soon_s: what is planned to start within this time starts now, in seconds.
    """

    patience_s: float = 300.0
    kept_share: float = 0.05
    most_kept: int = 4
    most_blocked: int = 64
    window_margin: float = 0.25
    planned_at_once: int = 256
    soon_s: float = 1.0


POLICY: Final = SchedulerPolicy()


@dataclass(frozen=True, slots=True)
class Decision:
    """What a round of scheduling comes to.

    Args:
        changes: what is to be written.
        started: how many of them start an execution.
        released: how many queue one; these can start in another round.
        blocked: real-time executions for which stopping batch work could make room: ask for a round that
            shows what runs. Empty in such a round.
        unplaceable: executions that fit no worker, even an idle one.
        has_room: whether what stands further back could still fit somewhere: if so, and the scope cut the queue
            off, look at more.
        look_again_at: when waiting alone will change a decision; None where it will not.
    """

    changes: tuple[Change, ...] = ()
    started: int = 0
    released: int = 0
    blocked: tuple[str, ...] = ()
    unplaceable: tuple[str, ...] = ()
    has_room: bool = False
    look_again_at: float | None = None


def decide(
    seen: Round,
    policy: SchedulerPolicy = POLICY,
    committed: Sequence[windows.Committed] = (),
) -> Decision:
    """Decide what happens in a round (DESIGN, scheduler; spec 4, properties 17, 18, 30, 36 to 39).

    Args:
        seen: what waits and who could run it; with `running`, batch work may be stopped.
        policy: how is decided.
        committed: when windowed work runs that was planned before, so that a new plan goes around it.

    Returns:
        The decision; equal rounds get equal ones.
    """
    due, released = _due(seen, policy, committed)
    filled = _Filling(seen, policy)
    filled.fill()
    changes = [*due, *filled.changes]
    blocked = filled.blocked
    if seen.running and blocked:
        changes += _make_room(seen, filled)
        blocked = []
    return Decision(
        changes=tuple(changes),
        started=filled.started,
        released=released,
        blocked=tuple(execution.id for execution in blocked),
        unplaceable=tuple(filled.unplaceable),
        has_room=filled.fleet.has_room,
        look_again_at=filled.look_again_at,
    )


# -- what is due


def planned_s(execution: Execution, policy: SchedulerPolicy = POLICY) -> float | None:
    """Return how long a plan gives to an execution, in seconds; None where it cannot be planned.

    A plan needs an end to plan for and a duration to plan with.
    """
    terms = execution.terms
    if terms.service_class is not ServiceClass.BATCH or terms.closes_at is None:
        return None
    return None if terms.expected_s is None else terms.expected_s * (1 + policy.window_margin)


def _due(
    seen: Round, policy: SchedulerPolicy, committed: Sequence[windows.Committed]
) -> tuple[list[Change], int]:
    items = []
    looked_at = seen.due[: policy.planned_at_once]
    due = [execution for execution in looked_at if not window_closed(execution, seen.certain)]
    missed = [
        miss_window(execution, seen.now) for execution in looked_at if window_closed(execution, seen.certain)
    ]
    for execution in due:
        lasts_s, closes_at = planned_s(execution, policy), execution.terms.closes_at
        if lasts_s is None or closes_at is None or _had_its_turn(execution, policy):
            continue
        if window_closed(execution, seen.now):
            continue  # whether it has closed is not certain: it waits among what is queued
        expected_s = execution.terms.expected_s or 0.0
        lasts_s = max(expected_s, min(lasts_s, closes_at - seen.now))  # a tight window has no margin
        items.append(windows.Item(execution.id, seen.now, closes_at, lasts_s, execution.granted))
    plan = _plan(seen, policy, items, committed) if items else windows.WindowPlan({}, frozenset(), 0.0)
    changes = missed
    released = 0
    for execution in due:
        start_at = plan.starts.get(execution.id, seen.now)
        closes_at = execution.terms.closes_at
        if start_at > seen.now + policy.soon_s and (closes_at is None or start_at < closes_at):
            changes.append(postpone(execution, start_at, "planned inside its window"))
            continue
        change = _released(execution, seen.now)
        if execution.id in plan.late:
            told = NewEvent(
                EventType.DECISION,
                "is not expected to end inside its window",
                {"closes_at": execution.terms.closes_at, "expected_s": execution.terms.expected_s},
                Level.WARN,
                "scheduler",
            )
            change = dataclasses.replace(change, events=(*change.events, told))
        changes.append(change)
        released += 1
    return changes, released


def _had_its_turn(execution: Execution, policy: SchedulerPolicy) -> bool:
    """Whether an execution was planned already, or tried: it is planned once, so that its waiting ends."""
    if execution.attempt:
        return True
    first = max(execution.submitted_at, execution.terms.opens_at or 0.0)
    return execution.due_at is not None and execution.due_at > first + policy.soon_s / 2


def _released(execution: Execution, now: float) -> Change:
    """Queue an execution; what a plan made it wait does not cost it its place."""
    change = release(execution, now)
    if execution.attempt == 0 and execution.terms.closes_at is not None:
        since = min(now, max(execution.submitted_at, execution.terms.opens_at or 0.0))
        rank = rank_of(execution.terms.priority, execution.terms.service_class, since)
        change = dataclasses.replace(change, update={**change.update, "rank": rank})
    return change


def _plan(
    seen: Round,
    policy: SchedulerPolicy,
    items: Sequence[windows.Item],
    committed: Sequence[windows.Committed],
) -> windows.WindowPlan:
    busy = list(committed)
    for execution in (*seen.waiting, *seen.running):
        lasts_s = planned_s(execution, policy)
        if lasts_s is not None:
            began = execution.attempt_at if execution.status is ExecutionStatus.RUNNING else None
            start_at = seen.now if began is None else began
            busy.append(windows.Committed(start_at, start_at + lasts_s, execution.granted))
    capacity = total(worker.capacity for worker in seen.workers) if seen.workers else None
    slots = sum(worker.slots for worker in seen.workers)
    return windows.plan(items, seen.now, capacity=capacity, slots=slots, committed=busy)


# -- what waits


class _Filling:
    """The room of all workers being filled with what waits, in rank order."""

    def __init__(self, seen: Round, policy: SchedulerPolicy) -> None:
        self.seen = seen
        self.policy = policy
        self.needs = [need_of(execution.granted) for execution in seen.waiting]
        self.fleet = Fleet(seen.workers, self.needs)
        self.changes: list[Change] = []
        self.started = 0
        self.blocked: list[Execution] = []
        self.unplaceable: list[str] = []
        self.look_again_at: float | None = None
        self.kept: dict[str, list[Execution]] = {}  # worker, and for which executions
        self._patient = 0  # how many of them are kept for who has waited long
        self._shared: set[str] = set()  # those of them that several may wait for, since room is made there
        self._placed: list[tuple[str, Amounts]] = []  # worker, and what was given away there in this round
        self._given: dict[str, Amounts] = {}  # the same summed up, as far as it was needed
        self._summed = 0
        self._keepable = max(1, min(policy.most_kept, int(len(seen.workers) * policy.kept_share)))
        self._holdable: dict[tuple[str, Amounts], str] = {}
        self._workers: dict[str, Worker] | None = None
        self._stock: list[tuple[Worker, Amounts, Amounts]] = []  # worker, its room, all that it has
        self._shapes: dict[str, list[Amounts]] = {}  # per kind, the capacities of who runs it

    def fill(self) -> None:
        """Start what fits, the first in rank order first."""
        now, place, changes, placed = self.seen.now, self.fleet.place, self.changes, self._placed
        for execution, need in zip(self.seen.waiting, self.needs, strict=True):
            if execution.terms.closes_at is not None and window_closed(execution, now):
                self._close(execution, execution.terms.closes_at)
                continue
            worker_id = place(execution.kind, need)
            if worker_id is None:
                self._cannot_start(execution, need)
                continue
            changes.append(start(execution, worker_id, now))
            placed.append((worker_id, need))
        self.started = len(placed)

    def _close(self, execution: Execution, closes_at: float) -> None:
        """End what missed its window; where the clock may have been set ahead, neither start nor end it."""
        left_s = closes_at - self.seen.certain
        if left_s <= 0:
            self.changes.append(miss_window(execution, self.seen.now))
            return
        if execution.reason != CLOCK_IN_DOUBT:
            self._tell(execution, CLOCK_IN_DOUBT)
        self._look_again(self.seen.now + left_s)

    def _look_again(self, at: float) -> None:
        self.look_again_at = at if self.look_again_at is None else min(at, self.look_again_at)

    def _cannot_start(self, execution: Execution, need: Amounts) -> None:
        seen, policy = self.seen, self.policy
        if not seen.workers:
            return  # nobody is there yet: nothing can be said of what will fit
        problem = self._holdable.get((execution.kind, need))
        if problem is None:
            problem = self._problem(execution.kind, need)
            self._holdable[execution.kind, need] = problem
        if problem:
            self.unplaceable.append(execution.id)
            if execution.reason != problem:
                self._tell(execution, problem)
            return
        if execution.reason in (TOO_LARGE, NO_WORKER):
            self._tell(execution, "a worker that can hold it has come")
        real_time = execution.terms.service_class is ServiceClass.REAL_TIME
        if real_time and len(self.blocked) < policy.most_blocked:
            self.blocked.append(execution)
        if execution.reason.startswith(WAITS_FOR):
            worker_id = execution.reason.removeprefix(WAITS_FOR)
            if self._may_hold(worker_id, execution.kind, need):
                self._keep(worker_id, execution)
                self._shared.add(worker_id)
                return
        if self._patient >= self._keepable:
            return
        since = seen.now if execution.queued_at is None else execution.queued_at
        if seen.now - since >= policy.patience_s:
            nearest = self._nearest(execution.kind, need)
            if nearest is not None:
                self._keep(nearest, execution)
                self._patient += 1
        else:
            self._look_again(since + policy.patience_s)

    def _tell(self, execution: Execution, reason: str) -> None:
        """Say once, in its stream, why an execution waits."""
        told = reason if reason in (TOO_LARGE, NO_WORKER, CLOCK_IN_DOUBT) else ""
        level = Level.WARN if told else Level.INFO
        data = {"requirements": execution.granted.to_json(), "kind": execution.kind}
        draft = NewEvent(EventType.DECISION, reason, data, level, "scheduler")
        self.changes.append(_reasoned(execution, told, draft))

    def _keep(self, worker_id: str, execution: Execution) -> None:
        self.kept.setdefault(worker_id, []).append(execution)
        self.fleet.keep(self.workers[worker_id], self.room(worker_id))

    def room(self, worker_id: str) -> Amounts:
        """Return what a worker has left after what starts in this round."""
        for place, need in self._placed[self._summed :]:
            known = self._given.get(place)
            self._given[place] = need if known is None else plus(known, need)
        self._summed = len(self._placed)
        room = room_of(self.workers[worker_id])
        given = self._given.get(worker_id)
        return room if given is None else minus(room, given)

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The workers by id."""
        if self._workers is None:
            self._workers = {worker.id: worker for worker in self.seen.workers}
        return self._workers

    def _problem(self, kind: str, need: Amounts) -> str:
        """Return why no worker could ever hold an execution; empty: one could."""
        shapes = self._shapes.get(kind)
        if shapes is None:
            shapes = [*dict.fromkeys(capacity_of(one) for one in self.seen.workers if kind in one.kinds)]
            self._shapes[kind] = shapes
        if not shapes:
            return NO_WORKER
        for whole in shapes:
            if fits(need, whole):
                return ""
        return TOO_LARGE

    def _may_hold(self, worker_id: str, kind: str, need: Amounts) -> bool:
        worker = self.workers.get(worker_id)
        if worker is None or (worker_id in self.kept and worker_id not in self._shared):
            return False
        return kind in worker.kinds and fits(need, capacity_of(worker))

    def _nearest(self, kind: str, need: Amounts) -> str | None:
        """Return the worker that lacks the least to have room; it stays the nearest, since nobody takes its."""
        if not self._stock:
            self._stock = [(one, self.room(one.id), capacity_of(one)) for one in self.seen.workers]
        best: tuple[float, str] | None = None
        for worker, room, whole in self._stock:
            if worker.id in self.kept or kind not in worker.kinds or not fits(need, whole):
                continue
            lacking = 0.0
            for wanted, left, most in zip(need, room, whole, strict=True):
                if wanted > left:
                    lacking += (wanted - left) / most
            if best is None or (lacking, worker.id) < best:
                best = lacking, worker.id
        return best[1] if best is not None else None


def _reasoned(execution: Execution, reason: str, draft: NewEvent) -> Change:
    queued = frozenset({ExecutionStatus.QUEUED})
    return Change(execution.id, queued, execution.token, {"reason": reason}, (draft,))


# -- making room


def _make_room(seen: Round, filled: _Filling) -> list[Change]:
    hosts = {execution.worker_id for execution in seen.running}  # nowhere else can room be made
    workers = [worker for worker in seen.workers if worker.id in hosts]
    rooms = {worker.id: filled.room(worker.id) for worker in workers}
    evictions = preemption.choose(filled.blocked, workers, rooms, seen.running, seen.now, kept=filled.kept)
    changes = []
    for eviction in evictions:
        changes += [preempt(victim, eviction.execution.id) for victim in eviction.victims]
        reason = WAITS_FOR + eviction.worker_id
        if eviction.execution.reason != reason:
            stopped = [victim.id for victim in eviction.victims]
            data = {"worker": eviction.worker_id, "preempts": stopped}
            told = NewEvent(EventType.DECISION, reason, data, component="scheduler")
            changes.append(_reasoned(eviction.execution, reason, told))
    return changes
