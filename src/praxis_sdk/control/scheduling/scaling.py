"""Scaling: how much there should be of what runs work, judged by how much of it is in use.

More than 80 % in use for five minutes means more, less than 30 % means less (spec 4, property 31). Scaling
never touches running work (property 19): it never asks for less than what runs, and a `Scaler` only changes
what may start.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from praxis_sdk.errors import ValidationError
from praxis_sdk.model import Worker
from praxis_sdk.resources import total

LOW: Final = 0.3
HIGH: Final = 0.8
SUSTAINED_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class ScalingBounds:
    """When is scaled, and how far.

    Args:
        least, most: how few and how many slots there may be.
        low, high: below and above which share in use is scaled.
        wanted: the share in use that scaling aims at; between the two, so that one step leads into calm.
        sustained_s: for how long use must be beyond a bound, in seconds.
        gap_s: after so long without an observation nobody knows what was, and the time counts anew.
        step: by at most which factor at once.

    Raises:
        ValidationError: they contradict each other.
    """

    least: int = 1
    most: int = 1 << 20
    low: float = LOW
    high: float = HIGH
    wanted: float = 0.6
    sustained_s: float = SUSTAINED_S
    gap_s: float = 120.0
    step: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValidationError(f"scaling: {self.least} to {self.most} slots", remedy="1 <= least <= most")
        if not 0 <= self.low < self.wanted < self.high <= 1:
            raise ValidationError("scaling: bounds cross", remedy="0 <= low < wanted < high <= 1")
        if self.step <= 1:
            raise ValidationError(f"scaling: a step of {self.step}", remedy="more than 1")


@dataclass(frozen=True, slots=True)
class Load:
    """How much is in use at a moment.

    Args:
        utilisation: the share in use of whatever is scarcest, from 0 to 1.
        slots: how many slots there are.
        running: how many of them are taken.
    """

    utilisation: float
    slots: int
    running: int


@dataclass(frozen=True, slots=True)
class Scale:
    """A decision to scale.

    Args:
        slots: how many there shall be.
        reason: why, in one line.
    """

    slots: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """What was seen of the load so far.

    Args:
        bounds: when is scaled, and how far.
        above_since, below_since: since when use is beyond a bound; None: it is not.
        seen_at: when the load was last seen.
    """

    bounds: ScalingBounds = ScalingBounds()
    above_since: float | None = None
    below_since: float | None = None
    seen_at: float | None = None

    def observe(self, now: float, load: Load) -> tuple[Scaling, Scale | None]:
        """Take account of the load as it is now.

        Args:
            now: seconds since 1970.
            load: how much is in use.

        Returns:
            What to observe with next time, and what to do, if anything.
        """
        bounds = self.bounds
        known = self.seen_at is not None and 0 <= now - self.seen_at <= bounds.gap_s
        above = below = None
        if load.utilisation > bounds.high:
            above = self.above_since if known and self.above_since is not None else now
        elif load.utilisation < bounds.low:
            below = self.below_since if known and self.below_since is not None else now
        seen = dataclasses.replace(self, above_since=above, below_since=below, seen_at=now)
        if above is not None and now - above >= bounds.sustained_s:
            slots = min(bounds.most, self._towards(load, load.slots * bounds.step))
            if slots > load.slots:
                return self._settled(now), Scale(slots, self._reason(load, "above", bounds.high))
        if below is not None and now - below >= bounds.sustained_s:
            slots = max(bounds.least, load.running, self._towards(load, load.slots / bounds.step))
            if slots < load.slots:
                return self._settled(now), Scale(slots, self._reason(load, "below", bounds.low))
        return seen, None

    def _settled(self, now: float) -> Scaling:
        """Return this with the time counting anew: what a step does must show before the next."""
        return dataclasses.replace(self, above_since=None, below_since=None, seen_at=now)

    def _towards(self, load: Load, furthest: float) -> int:
        """Return the slots at which as much would be in use as is wanted, at most one step away."""
        slots = load.slots * load.utilisation / self.bounds.wanted
        if furthest > load.slots:
            return max(load.slots + 1, math.ceil(min(slots, furthest)))
        return math.ceil(max(slots, furthest))

    def _reason(self, load: Load, side: str, bound: float) -> str:
        return (
            f"{load.utilisation:.0%} in use, {side} {bound:.0%} for {self.bounds.sustained_s / 60:g} minutes"
        )


def load_of(workers: Iterable[Worker], *, slots_only: bool = False) -> Load:
    """Return how much of what active workers have is in use; the scarcest resource counts, slots among them.

    Args:
        workers: those whose load counts.
        slots_only: scaling adds slots and nothing else: where processors are used up, more of them would not help.
    """
    active = list(workers)
    whole = total(worker.capacity for worker in active).amounts()
    held = total(worker.reserved for worker in active).amounts()
    slots = sum(worker.slots for worker in active)
    running = sum(worker.running for worker in active)
    pairs = [(running, slots)] if slots_only else [*zip(held, whole, strict=True), (running, slots)]
    return Load(min(1.0, max((one / most for one, most in pairs if most), default=0.0)), slots, running)


class Scaler(Protocol):
    """What there can be more or less of: slots on this machine, workers of a cluster."""

    @property
    def slots(self) -> int:
        """How many slots there are, or will be once scaling is through."""

    @property
    def slots_only(self) -> bool:
        """Whether scaling adds no processors, memory or disk."""

    def covers(self, worker: Worker) -> bool:
        """Whether the slots of a worker are among them, so that its load counts."""

    async def scale_to(self, slots: int) -> int:
        """Ask for so many slots, and return how many there will be; what runs goes on undisturbed."""


class LocalSlots:
    """The slots of this process: a limit on what may start, so running work never notices.

    Args:
        slots: how many there are at first.
        most: how many this machine can take.
    """

    def __init__(self, slots: int, most: int) -> None:
        if not 1 <= slots <= most:
            raise ValidationError(f"scaling: {slots} slots of at most {most}", remedy="1 <= slots <= most")
        self._slots = slots
        self._most = most

    @property
    def slots(self) -> int:
        """How many attempts may be under way; more may be just after it was lowered."""
        return self._slots

    @property
    def slots_only(self) -> bool:
        """Whether scaling adds no processors, memory or disk: they are this machine's."""
        return True

    def covers(self, worker: Worker) -> bool:
        """Whether a worker counts: as far as this knows, all are of this process."""
        return True

    async def scale_to(self, slots: int) -> int:
        """Change the limit, within what this machine can take."""
        self._slots = max(1, min(slots, self._most))
        return self._slots
