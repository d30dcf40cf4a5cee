"""Windows: when work that has a time window starts, so that all of it ends inside and the peak is least.

The peak is the largest share of the whole that is in use at any time, over all resources. The smallest one is
found by bisection: for a limit on the share, list scheduling in the order of the deadlines says whether all
of it ends in time (spec 4, properties 37 and 38). Ends at the windows come first, then the peak.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.control.scheduling.packing import Amounts, fits, minus, need_of, plus
from praxis_sdk.resources import Resources

_STEPS: Final = 12  # bisection down to 1/4096 of the way
_UNBOUNDED: Final = 1 << 40
_NOTHING: Final[Amounts] = (0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Item:
    """Work with a window.

    Args:
        id: its name.
        opens_at: it does not start before, seconds since 1970.
        closes_at: it shall have ended by then.
        duration_s: how long it is expected to take, in seconds.
        requirements: what it needs meanwhile.
    """

    id: str
    opens_at: float
    closes_at: float
    duration_s: float
    requirements: Resources

    @property
    def latest_start(self) -> float:
        """When it must start to end in time."""
        return self.closes_at - self.duration_s


@dataclass(frozen=True, slots=True)
class Committed:
    """Work that was planned before, or runs: its time stands.

    Args:
        start_at, end_at: from when to when, seconds since 1970.
        requirements: what it needs meanwhile.
    """

    start_at: float
    end_at: float
    requirements: Resources


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """When work with windows starts.

    Args:
        starts: per item, seconds since 1970.
        late: the items that cannot end in their windows; they start as early as they can.
        peak: the largest share of the whole that is in use at any time; above 1 where there is too little.
    """

    starts: dict[str, float]
    late: frozenset[str]
    peak: float


def plan(
    items: Sequence[Item],
    now: float,
    *,
    capacity: Resources | None = None,
    slots: int = 0,
    committed: Sequence[Committed] = (),
) -> WindowPlan:
    """Find start times inside the windows, with the least peak (spec 4, properties 37 and 38).

    Args:
        items: what is planned.
        now: nothing starts before.
        capacity: what there is in all, so that no plan takes more; None: a plan may take anything, and the
            peak is a share of what all items need together.
        slots: how many can run at once in all, beside `capacity`; 0: any number.
        committed: what is in use whatever is planned now.

    Returns:
        The plan. Where not everything can end in time, everything starts as early as there is room, in the
        order of the deadlines; work that is larger than the whole starts when its window opens.
    """
    if not items:
        return WindowPlan({}, frozenset(), 0.0)
    jobs = [_Job(item, now) for item in items]
    bounded = capacity is not None
    if capacity is None:
        whole = _NOTHING
        for need in (*(job.need for job in jobs), *(need_of(one.requirements) for one in committed)):
            whole = plus(whole, need)
    else:
        *amounts, _ = need_of(capacity)
        whole = amounts[0], amounts[1], amounts[2], amounts[3], amounts[4], slots or _UNBOUNDED
    # What is larger than the whole cannot be planned: it waits in the queue for a worker that can hold it.
    small = [job for job in jobs if _share(job.need, whole) <= 1.0]
    starts = {job.item.id: job.opens_at for job in jobs if _share(job.need, whole) > 1.0}
    busy = [(one.start_at, one.end_at, need_of(one.requirements)) for one in committed if one.end_at > now]
    found, peak = _least_peak(small, whole, busy, now)
    starts |= found
    late = frozenset(job.item.id for job in jobs if starts[job.item.id] > job.latest_start + 1e-6)
    if bounded and len(small) < len(jobs):
        peak = max(peak, *(_share(job.need, whole) for job in jobs))
    return WindowPlan(starts, late, peak)


class _Job:
    """An item as the search needs it."""

    __slots__ = ("duration_s", "item", "latest_start", "need", "opens_at")

    def __init__(self, item: Item, now: float) -> None:
        self.item = item
        self.need = need_of(item.requirements)
        self.opens_at = max(now, item.opens_at)
        self.duration_s = max(0.0, item.duration_s)
        self.latest_start = item.latest_start


_Busy = tuple[float, float, Amounts]


def _least_peak(
    jobs: Sequence[_Job], whole: Amounts, busy: Sequence[_Busy], now: float
) -> tuple[dict[str, float], float]:
    if not jobs:
        return {}, 0.0
    # What cannot end in time even alone must not make every plan for the others look impossible.
    hopeless = frozenset(job.item.id for job in jobs if job.opens_at > job.latest_start + 1e-6)
    best = _listed(jobs, whole, busy, now, hopeless)
    if best is None:
        every = frozenset(job.item.id for job in jobs)
        starts = _listed(jobs, whole, busy, now, every)
        assert starts is not None, "nothing is refused where everything may be late"
        return starts, _peak(jobs, starts, whole, busy)
    high = min(1.0, _peak(jobs, best, whole, busy))
    low = max(_share(job.need, whole) for job in jobs)
    for _ in range(_STEPS):
        if high - low <= 1e-3 * high:
            break
        middle = (low + high) / 2
        found = _listed(jobs, _scaled(whole, middle), busy, now, hopeless)
        if found is None:
            low = middle
        else:
            peak = _peak(jobs, found, whole, busy)
            best, high = found, min(middle, max(peak, low))
    lowest = _listed(jobs, _scaled(whole, low), busy, now, hopeless)
    if lowest is not None:
        best = lowest
    return best, _peak(jobs, best, whole, busy)


def _listed(
    jobs: Sequence[_Job],
    limit: Amounts,
    busy: Sequence[_Busy],
    now: float,
    may_be_late: frozenset[str],
) -> dict[str, float] | None:
    """Start each as soon as there is room below a limit, the earliest deadline first; None: one is late."""
    ready: dict[Amounts, list[tuple[float, int]]] = {}  # per shape, since a shape fits as a whole or not
    coming = sorted(range(len(jobs)), key=lambda index: jobs[index].opens_at, reverse=True)
    moments = [job.opens_at for job in jobs]
    changes: list[tuple[float, int, Amounts]] = []  # when, a number to keep order, what is taken then
    for start_at, end_at, need in busy:
        changes.append((max(now, start_at), len(changes), need))
        changes.append((end_at, len(changes), minus(_NOTHING, need)))
        moments.extend((max(now, start_at), end_at))
    heapq.heapify(changes)
    heapq.heapify(moments)
    used, beginning = _NOTHING, len(busy)
    starts: dict[str, float] = {}
    number = len(changes)
    while len(starts) < len(jobs):
        assert moments, "every job starts at the latest when all others have ended"
        at = heapq.heappop(moments)
        while changes and changes[0][0] <= at:
            taken = heapq.heappop(changes)[2]
            beginning -= taken[5] > 0
            used = plus(used, taken)
        while coming and jobs[coming[-1]].opens_at <= at:
            index = coming.pop()
            heapq.heappush(ready.setdefault(jobs[index].need, []), (jobs[index].latest_start, index))
        heads = [(queue[0], need) for need, queue in ready.items()]
        heapq.heapify(heads)
        while heads:
            (latest, index), need = heapq.heappop(heads)
            job = jobs[index]
            if at > latest + 1e-6 and job.item.id not in may_be_late:
                return None
            if not _stays_below(job, at, used, limit, changes if beginning else ()):
                continue
            starts[job.item.id] = at
            queue = ready[need]
            heapq.heappop(queue)
            if queue:
                heapq.heappush(heads, (queue[0], need))
            else:
                del ready[need]
            if job.duration_s > 0:
                used = plus(used, need)
                heapq.heappush(changes, (at + job.duration_s, number, minus(_NOTHING, need)))
                heapq.heappush(moments, at + job.duration_s)
                number += 1
    return starts


def _stays_below(
    job: _Job, at: float, used: Amounts, limit: Amounts, changes: Sequence[tuple[float, int, Amounts]]
) -> bool:
    """Whether there is room for a job as long as it takes, committed work that begins meanwhile included."""
    level = plus(used, job.need)
    if not fits(level, limit):
        return False
    until = at + job.duration_s
    for when, _, taken in sorted(changes):
        if when >= until:
            break
        level = plus(level, taken)
        if not fits(level, limit):
            return False
    return True


def _scaled(whole: Amounts, share: float) -> Amounts:
    """Return a share of the whole, rounded so that what is exactly the share fits."""
    cores, memory, network, gpus, storage, slots = (
        min(amount, int(amount * share * (1 + 1e-9) + 1e-6)) for amount in whole
    )
    return cores, memory, network, gpus, storage, slots


def _share(level: Amounts, whole: Amounts) -> float:
    """Return the largest share of the whole, over all resources; infinite where there is none of one."""
    return max(
        (one / most if most else float("inf")) if one > 0 else 0.0
        for one, most in zip(level, whole, strict=True)
    )


def _peak(jobs: Sequence[_Job], starts: dict[str, float], whole: Amounts, busy: Sequence[_Busy]) -> float:
    changes = [(start, 1, need) for start, _, need in busy]
    changes += [(end, 0, minus(_NOTHING, need)) for _, end, need in busy]
    for job in jobs:
        if job.duration_s > 0:
            start = starts[job.item.id]
            changes.append((start, 1, job.need))
            changes.append((start + job.duration_s, 0, minus(_NOTHING, job.need)))
    changes.sort(key=lambda one: one[:2])  # what ends makes room before what starts takes it
    used, peak = _NOTHING, 0.0
    for _, _, amounts in changes:
        used = plus(used, amounts)
        peak = max(peak, _share(used, whole))
    return peak
