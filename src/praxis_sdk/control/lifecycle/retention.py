"""Retention: how long is kept what happened; a setting of the store, so that all processes keep to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.store import Store

AUDIT_DAYS: Final = 90.0
LONGEST_DAYS: Final = 36_500.0
_SETTING: Final = "retention"


@dataclass(frozen=True, slots=True)
class Retention:
    """How long is kept what happened (spec 4, section 8).

    Args:
        audit_days: executions with all that is kept of them, after their end; 90 at least.
        noise_days: their log lines and progress.

    Raises:
        ValidationError: audit entries would go too early, or noise would outlive its execution.
    """

    audit_days: float = AUDIT_DAYS
    noise_days: float = AUDIT_DAYS

    def __post_init__(self) -> None:
        if not AUDIT_DAYS <= self.audit_days <= LONGEST_DAYS:
            raise ValidationError(
                f"retention.audit_days: {self.audit_days:g} is not a number from {AUDIT_DAYS:g} to {LONGEST_DAYS:g}",
                remedy=f"audit entries are kept for {AUDIT_DAYS:g} days at least",
            )
        if not 0 < self.noise_days <= self.audit_days:
            raise ValidationError(
                f"retention.noise_days: {self.noise_days:g} is not above 0 and at most audit_days",
                remedy="log lines go with their execution at the latest",
            )

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Retention:
        """Return what was kept as a setting; a field of a newer version is passed over."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: float(value) for name, value in document.items() if name in known})


async def retention_of(store: Store) -> Retention:
    """Return what a store was told to keep; the defaults where it was told nothing."""
    return Retention.of(await store.get_setting(_SETTING) or {})


async def set_retention(store: Store, retention: Retention) -> None:
    """Tell a store how long to keep what happened; keepers heed it when they next remove something."""
    await store.put_setting(_SETTING, dataclasses.asdict(retention))
