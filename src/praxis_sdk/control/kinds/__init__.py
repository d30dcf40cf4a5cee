"""The kinds of work that Praxis runs."""

from praxis_sdk.control.kinds.base import (
    AttemptHandle,
    CancellationRequested,
    Grace,
    Kind,
    Kinds,
    LeavesRemains,
    Outcome,
    Plan,
)

__all__ = [
    "AttemptHandle",
    "CancellationRequested",
    "Grace",
    "Kind",
    "Kinds",
    "LeavesRemains",
    "Outcome",
    "Plan",
]
