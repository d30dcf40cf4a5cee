"""Retention: how long is kept what happened, as the store says, and that all of it is removed in the end."""

import pytest

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.retention import Retention, retention_of, set_retention
from praxis_sdk.control.lifecycle.schedules import Schedules
from praxis_sdk.control.plane import ControlPlane
from praxis_sdk.control.workers.maintenance import DAY_S, Maintenance
from praxis_sdk.errors import ValidationError
from praxis_sdk.store import Store
from tests.control.scripted import ScriptedKind


class _Later(Clock):
    """A clock that is ahead."""

    def __init__(self, by_s: float) -> None:
        self.by_s = by_s

    def time(self) -> float:
        return super().time() + self.by_s


async def test_a_store_that_was_told_nothing_keeps_for_90_days(store: Store) -> None:
    assert await retention_of(store) == Retention(audit_days=90, noise_days=90)


async def test_what_a_store_was_told_is_what_it_says(store: Store) -> None:
    await set_retention(store, Retention(audit_days=365, noise_days=14))
    assert await retention_of(store) == Retention(audit_days=365, noise_days=14)


@pytest.mark.parametrize(
    ("audit_days", "noise_days", "field"),
    [(89.0, 1.0, "audit_days"), (90.0, 91.0, "noise_days"), (90.0, 0.0, "noise_days")],
)
def test_audit_entries_are_kept_for_90_days_at_least(
    audit_days: float, noise_days: float, field: str
) -> None:
    with pytest.raises(ValidationError, match=f"retention.{field}") as caught:
        Retention(audit_days, noise_days)
    assert caught.value.remedy


def keeper(store: Store, clock: Clock) -> Maintenance:
    coordinator = ExecutionCoordinator(store, Kinds(ScriptedKind()), clock=clock)
    return Maintenance(store, clock, Schedules(store, coordinator, clock), running=list)


async def test_a_keeper_removes_what_is_older_than_the_store_says(plane: ControlPlane, store: Store) -> None:
    execution = await plane.coordinator.run({"kind": "scripted", "request": {"act": "return"}})
    await set_retention(store, Retention(audit_days=100))
    await keeper(store, _Later(99 * DAY_S)).round()
    assert (await store.get(execution.id)).status.final
    await keeper(store, _Later(101 * DAY_S)).round()
    with pytest.raises(ValidationError):
        await store.get(execution.id)


async def test_a_keeper_goes_on_with_the_next_round_while_there_is_more_to_remove(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [(0, 10_000), (0, 10_000), (0, 0)]

    async def prune(*, noise_before: float, all_before: float, limit: int = 10_000) -> tuple[int, int]:
        return left.pop(0)

    monkeypatch.setattr(store, "prune", prune)
    looking = keeper(store, Clock())
    for _ in range(5):
        await looking.round()
    assert left == []
