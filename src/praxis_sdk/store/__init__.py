"""The store: every execution, its events and everything that must survive the process."""

from praxis_sdk.store.changes import AppliedChange, Change
from praxis_sdk.store.protocol import (
    EventFilter,
    ExecutionFilter,
    Round,
    RoundScope,
    Store,
    StoreConflict,
    UnknownExecution,
)

__all__ = [
    "AppliedChange",
    "Change",
    "EventFilter",
    "ExecutionFilter",
    "Round",
    "RoundScope",
    "Store",
    "StoreConflict",
    "UnknownExecution",
]
