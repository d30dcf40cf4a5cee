"""What a worker has to offer."""

from __future__ import annotations

from dataclasses import dataclass

from praxis_sdk.control.workers.leases import LEASE_S
from praxis_sdk.resources import Resources


@dataclass(frozen=True, slots=True)
class WorkerCapacity:
    """What a worker has to offer.

    Args:
        capacity: its resources.
        slots: how many attempts it runs at once at most.
        lease_s: for how long a heartbeat counts, in seconds.
        kinds: the kinds of work that it takes; None: all that it can run.
    """

    capacity: Resources
    slots: int
    lease_s: float = LEASE_S
    kinds: frozenset[str] | None = None
