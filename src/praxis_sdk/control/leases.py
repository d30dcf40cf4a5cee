"""Whose lease ran out: judged by the time of day while that can be trusted, and by watching where it cannot.

Leases are times of day, written by the clock of each worker and read by the clock of each keeper. Where the two
agree, a lease that lies in the past has run out. Where somebody's clock was set, it tells nothing; then a worker
counts as silent whose lease has stayed the same for as long as a lease lasts, by monotonic time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.model import Worker

JUMP_S: Final = 2.0  # by how much time of day and monotonic time may come apart between two looks


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease as it was seen.

    Args:
        lease_until: until when it holds.
        since: when it was first seen so, on the monotonic clock.
        trusted: whether the time of day can tell when it runs out.
    """

    lease_until: float
    since: float
    trusted: bool


class LeaseWatch:
    """Watches the leases of all workers.

    Args:
        lease_s: how long a lease lasts, in seconds.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._seen: dict[str, _Seen] | None = None
        self._offset: float | None = None  # of the time of day against monotonic time
        self._jumped = False

    def jumped(self, time: float, monotonic: float) -> float:
        """Return by how much the clock of this process was set since the last look, in seconds; 0.0: it was not."""
        before, self._offset = self._offset, time - monotonic
        by_s = 0.0 if before is None else self._offset - before
        if abs(by_s) < JUMP_S:
            return 0.0
        self._jumped = True  # for good: what others write and what is read here may differ from now on
        known = self._seen or {}
        self._seen = {name: _Seen(one.lease_until, monotonic, False) for name, one in known.items()}
        return by_s

    def silent(self, workers: Sequence[Worker], time: float, monotonic: float) -> list[str] | None:
        """Look at the workers that should be alive.

        Args:
            workers: all of them.
            time: the time of day.
            monotonic: monotonic time.

        Returns:
            Those that gave no sign of life for a lease; None where the time of day says that of all of them.
        """
        known, cold = self._seen or {}, self._seen is None
        seen: dict[str, _Seen] = {}
        for worker in workers:
            earlier = known.get(worker.id)
            if earlier is not None and earlier.lease_until == worker.lease_until:
                seen[worker.id] = earlier
                continue
            # Who wrote it a moment ago is alive. If it has run out already, the two clocks differ.
            trusted = not self._jumped and (cold or worker.lease_until > time)
            seen[worker.id] = _Seen(worker.lease_until, monotonic, trusted)
        self._seen = seen
        if all(one.trusted for one in seen.values()):
            return None
        return [
            name
            for name, one in seen.items()
            if (one.trusted and one.lease_until <= time)
            or (not one.trusted and monotonic - one.since >= self._lease_s)
        ]
