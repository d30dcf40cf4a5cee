"""The simulator notices what it is made to notice: each bug that is planted here makes some seed fail."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from praxis_sdk import supervisor
from praxis_sdk.control.lifecycle import coordinator, failure_policy
from praxis_sdk.control.scheduling import preemption, scheduler
from praxis_sdk.control.workers import heartbeat, leases, worker
from praxis_sdk.model import Execution
from praxis_sdk.resources import ZERO
from praxis_sdk.store import changes
from praxis_sdk.store.sqlite import transaction
from praxis_sdk.store.sqlite.store import SqliteStore
from tests.simulation.faults import Faults
from tests.simulation.loop import EPOCH_S, LIFE
from tests.simulation.world import run

MOST_SEEDS = 150
Plant = Callable[[pytest.MonkeyPatch], None]


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    """The word of any attempt counts."""
    holds = changes.holds

    def without_token(execution: Execution, change: changes.Change) -> bool:
        blind = changes.Change(change.execution_id, change.when, None, change.update)
        return holds(execution, blind)

    patch.setattr(changes, "holds", without_token)


def no_guard_at_all(patch: pytest.MonkeyPatch) -> None:
    """Every change holds, also of what has ended."""
    patch.setattr(changes, "holds", lambda execution, change: True)


def room_is_not_given_back(patch: pytest.MonkeyPatch) -> None:
    note = changes.Reservations.note

    def keep(self: changes.Reservations, settled: changes.AppliedChange) -> None:
        if not settled.after.status.final:
            note(self, settled)

    patch.setattr(transaction.Reservations, "note", keep)


def retries_without_end(patch: pytest.MonkeyPatch) -> None:
    after_failure = failure_policy.after_failure

    def again(execution: Execution, *positional: Any, **named: Any) -> Any:
        verdict = after_failure(execution.but(retries=0), *positional, **named)
        update = dict(verdict.change.update)
        if "retries" in update:
            update["retries"] = execution.retries + 1
        return failure_policy.FailureDecision(replace(verdict.change, update=update))

    patch.setattr(failure_policy, "after_failure", again)


def preemption_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(preemption, "MAX_PREEMPTIONS", 1000)


def nobody_looks_for_the_lost(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: SqliteStore, now: float) -> list[str]:
        return []

    patch.setattr(SqliteStore, "expire_workers", nothing)


def starts_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A scheduler that believes that every worker is idle."""
    patch.setattr(scheduler, "Fleet", lambda workers, needs: FLEET([one_idle(w) for w in workers], needs))


FLEET = scheduler.Fleet


def one_idle(one: Any) -> Any:
    return replace(one, reserved=ZERO, running=0)


def nobody_is_kept_for_the_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scheduler._Filling, "_keep", lambda self, worker_id, execution: None)


def an_attempt_begins_once_more(patch: pytest.MonkeyPatch) -> None:
    """News of an attempt that come after its end begin it again."""
    patch.setattr(worker, "_MOST_REPORTED", 0)


def who_leaves_gives_nothing_back(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: worker.WorkerProcess, worker_id: str) -> None:
        return

    patch.setattr(worker.WorkerProcess, "_give_back", nothing)


def cancelled_and_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A cancellation is acknowledged and not written."""

    async def nothing(self: Any, execution_id: str, reason: str, actor: str) -> bool:
        return True

    patch.setattr(coordinator.ExecutionCoordinator, "_cancel", nothing)


def nobody_looks_at_its_own_lease(patch: pytest.MonkeyPatch) -> None:
    """A worker that is cut off goes on as if nothing were."""
    patch.setattr(heartbeat.Heartbeat, "look", lambda self: True)


def leases_go_by_the_time_of_day(patch: pytest.MonkeyPatch) -> None:
    def expired(self: Any, workers: list[Any], asked: float, answered: float) -> dict[str, float]:
        life = LIFE.get()
        assert life is not None
        now = EPOCH_S + life.loop.time() + life.skew_s
        return {one.id: one.lease_until for one in workers if one.lease_until <= now}

    patch.setattr(leases.LeaseWatch, "expired", expired)


def lasting_tasks_die_silently(patch: pytest.MonkeyPatch) -> None:
    async def once(self: Any, name: str, run: Callable[[], Any]) -> None:
        with contextlib.suppress(Exception):
            await run()

    patch.setattr(supervisor.Supervisor, "_keep", once)


# Where a bug shows only when certain things go wrong, they go wrong often.
SLOW = Faults(slow=0.2, slow_s=3.0, lost_rings=0.5)
UNHEARD = Faults(slow=0.2, slow_s=3.0, unheard=0.05, fails=0.05)
ZOMBIES = Faults(slow=0.05, slow_s=12.0, freezes=10, cuts=5)
LEAVING = Faults(slow=0.2, slow_s=3.0, lost_rings=0.5, leaves=10)
DYING = Faults(kills=5)
CUT_OFF = Faults(cuts=10, outages=2)
WRONG_CLOCKS = Faults(skews=6, newcomers=6)
ODD = Faults(odd=0.2)
SUSPENDED = Faults(suspends=10)


@pytest.mark.parametrize(
    ("plant", "faults", "noticed"),
    [
        (no_fencing, ZOMBIES, "was accepted with|still runs|more than it has room"),
        (no_guard_at_all, UNHEARD, "had ended|went from|was .* and is"),
        (room_is_not_given_back, None, "are reserved"),
        (retries_without_end, None, "retries"),
        (preemption_without_end, None, "preempted"),
        (nobody_looks_for_the_lost, DYING, "not ended"),
        (starts_are_not_counted, None, "is reserved of"),
        (nobody_is_kept_for_the_large, None, "starved"),
        (an_attempt_begins_once_more, SLOW, "more than it has room for|twice at once"),
        (who_leaves_gives_nothing_back, LEAVING, "not ended"),
        (cancelled_and_forgotten, None, "acknowledged"),
        (nobody_looks_at_its_own_lease, CUT_OFF, "side effects are doubled"),
        (leases_go_by_the_time_of_day, WRONG_CLOCKS, "nothing was wrong but clocks"),
        (lasting_tasks_die_silently, ODD, "has ended, and nobody"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_bug_is_noticed(
    plant: Plant, faults: Faults | None, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in range(MOST_SEEDS):
        problems = run(seed, faults=faults).problems
        if problems:
            assert any(re.search(noticed, problem) for problem in problems), problems
            return
    pytest.fail(f"{MOST_SEEDS} seeds, and nothing was noticed")


@pytest.mark.parametrize(
    "faults",
    [SLOW, UNHEARD, ZOMBIES, LEAVING, DYING, CUT_OFF, WRONG_CLOCKS, ODD, SUSPENDED],
    ids=("slow", "unheard", "zombies", "leaving", "dying", "cut off", "wrong clocks", "odd", "suspended"),
)
def test_without_a_planted_bug_nothing_is_noticed(faults: Faults) -> None:
    assert [(seed, run(seed, faults=faults).problems) for seed in range(4)] == [
        (seed, []) for seed in range(4)
    ]
