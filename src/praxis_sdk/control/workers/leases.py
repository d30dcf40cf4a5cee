"""Leases: until when a worker may run its attempts, and when others may take them over.

    0          1/6         1/2                    3/4                    1            1.1
    |- renewed -|- again -..|- attempts are stopped -|- what is left is killed -|  ..  |- others take over
    '-- the worker's own watch, from when it sent the last heartbeat that was confirmed --'

A worker judges its lease by its own clock, suspended time included, from the moment at which it *sent* a heartbeat;
whoever takes over judges it by watching, from the moment at which it *saw* that heartbeat, which is later. So the
worker has stopped its attempts before anybody else may start them, whatever clocks and stores do. Times of day tell
nothing here: they are set, and differ between machines. `lease_until` only shows that a heartbeat came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.model import Worker

LEASE_S: Final = 30.0
JUMP_S: Final = 2.0  # by how much time of day and monotonic time may come apart between two looks


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a worker may go on without a confirmed heartbeat.

    Args:
        duration_s: how long it lasts, in seconds.
    """

    duration_s: float = LEASE_S

    @property
    def heartbeat_s(self) -> float:
        """How often it is renewed, in seconds."""
        return self.duration_s / 6

    @property
    def answer_s(self) -> float:
        """How long a heartbeat may take before it counts as failed, in seconds."""
        return self.duration_s / 10

    @property
    def look_s(self) -> float:
        """How often the worker looks at its own lease, in seconds."""
        return min(1.0, self.duration_s / 20)

    @property
    def stop_after_s(self) -> float:
        """After how long without a confirmed heartbeat the worker begins to stop its attempts, in seconds."""
        return self.duration_s / 2

    @property
    def kill_after_s(self) -> float:
        """After how long those that have not ended by then are killed, in seconds."""
        return self.duration_s * 3 / 4

    @property
    def margin_s(self) -> float:
        """What others wait beyond the lease: for clocks that run at different speeds, and for kills that take time."""
        return self.duration_s / 10

    @property
    def expires_after_s(self) -> float:
        """For how long others must have seen no heartbeat before they take over, in seconds."""
        return self.duration_s + self.margin_s

    @property
    def watch_s(self) -> float:
        """How often others look at it at least, in seconds."""
        return self.duration_s / 4

    @property
    def gap_s(self) -> float:
        """After so long without a look a watch begins anew: what happened meanwhile was not seen, in seconds."""
        return self.duration_s / 2


class LeaseWatch:
    """Watches the leases of all workers.

    Args:
        lease: of each of them.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._seen: dict[str, tuple[float, float]] = {}  # the lease as it was seen, and since when
        self._looked_at: float | None = None

    def expired(self, workers: Sequence[Worker], asked: float, answered: float) -> dict[str, float]:
        """Look at the workers that should be alive.

        A watch that could not look for a while, since the store was away or this process stood still, knows
        nothing of that time: the workers may have been cut off as well. It begins anew.

        Args:
            workers: all of them.
            asked: when the store was asked for them, in monotonic seconds.
            answered: when it had answered.

        Returns:
            Those without a heartbeat for longer than a lease and its margin, with the lease as it was seen: it
            counts only if it is still the same.
        """
        if self._looked_at is None or answered - self._looked_at > self._lease.gap_s:
            self._seen = {}
        self._looked_at = answered
        seen: dict[str, tuple[float, float]] = {}
        for worker in workers:
            earlier = self._seen.get(worker.id)
            same = earlier is not None and earlier[0] == worker.lease_until
            seen[worker.id] = earlier if same and earlier else (worker.lease_until, answered)
        self._seen = seen
        patience_s = self._lease.expires_after_s
        return {name: lease for name, (lease, since) in seen.items() if asked - since >= patience_s}


class ClockWatch:
    """Notices that the clock of this process was set."""

    def __init__(self) -> None:
        self._offset: float | None = None  # of the time of day against monotonic time

    def jumped(self, time: float, monotonic: float) -> float:
        """Return by how much the clock was set since the last look, in seconds; 0.0: it was not."""
        before, self._offset = self._offset, time - monotonic
        by_s = 0.0 if before is None else self._offset - before
        return by_s if abs(by_s) >= JUMP_S else 0.0
