"""A store whose process dies by SIGKILL at a commit: failpoints of the control plane, by what is committed."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from praxis_sdk.model import AttemptEnd, Execution, Stop
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import AppliedChange, Change, Round, RoundScope

POINTS = (
    *("register", "submit", "child", "batch", "plan", "fire"),
    *("release", "start", "log", "finish", "retry"),
    *("cancel", "cancelled", "preempt", "preempted", "bury"),
)
MOMENTS = ("before", "after")


@dataclass(frozen=True)
class Failpoint:
    """Where a process dies.

    Args:
        point: at which commit, one of `POINTS`.
        moment: 'before' it or 'after' it.
        number: at the how-manyth.
    """

    point: str
    moment: str
    number: int = 1


class DeadlyStore:
    """A store with a failpoint; all else it passes on.

    Args:
        store: the real one.
        failpoint: where this process dies.
    """

    def __init__(self, store: Any, failpoint: Failpoint) -> None:
        assert failpoint.point in POINTS
        assert failpoint.moment in MOMENTS
        self._store = store
        self._failpoint = failpoint
        self._seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put_worker(self, worker: Any) -> None:
        with self._commit({"register"}):
            await self._store.put_worker(worker)

    async def submit(self, executions: Sequence[Execution]) -> list[Execution]:
        with self._commit({"child" if one.parent_id else "submit" for one in executions}):
            kept: list[Execution] = await self._store.submit(executions)
        return kept

    async def put_batch(self, batch: Any, executions: Sequence[Execution]) -> Any:
        with self._commit({"batch"}):
            return await self._store.put_batch(batch, executions)

    async def put_schedule(self, schedule: Any) -> None:
        with self._commit({"plan"}):
            await self._store.put_schedule(schedule)

    async def fire(self, before: Any, after: Any, execution: Execution) -> bool:
        with self._commit({"fire"}):
            fired: bool = await self._store.fire(before, after, execution)
        return fired

    async def apply(self, changes: Sequence[Change]) -> list[AppliedChange | None]:
        with self._commit(_points_of(changes)):
            settled: list[AppliedChange | None] = await self._store.apply(changes)
        return settled

    async def schedule(self, scope: RoundScope, decide: Any) -> list[AppliedChange]:
        dying = False

        def ask(seen: Round) -> Sequence[Change]:
            nonlocal dying
            changes: Sequence[Change] = decide(seen)
            dying = self._reached({_point_of_round(one) for one in changes})
            if dying and self._failpoint.moment == "before":
                _die()  # in the midst of the transaction
            return changes

        settled: list[AppliedChange] = await self._store.schedule(scope, ask)
        if dying:
            _die()
        return settled

    @contextlib.contextmanager
    def _commit(self, points: set[str]) -> Iterator[None]:
        dying = self._reached(points)
        if dying and self._failpoint.moment == "before":
            _die()
        yield
        if dying:
            _die()

    def _reached(self, points: set[str]) -> bool:
        if self._failpoint.point not in points:
            return False
        self._seen += 1
        return self._seen == self._failpoint.number


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _points_of(changes: Sequence[Change]) -> set[str]:
    points = {_point_of(one) for one in changes if "status" in one.update}
    return points or {"log"}


def _point_of(change: Change) -> str:
    status = change.update["status"]
    if change.ending is AttemptEnd.LOST:
        return "bury"
    match status:
        case ExecutionStatus.CANCELLING:
            return "cancel"
        case ExecutionStatus.CANCELLED:
            return "cancelled"
        case ExecutionStatus.SUBMITTED:
            return "retry"
        case ExecutionStatus.QUEUED:
            return "preempted" if change.ending is AttemptEnd.PREEMPTED else "given back"
        case _:
            return "finish"


def _point_of_round(change: Change) -> str:
    if change.update.get("stop") is Stop.PREEMPT:
        return "preempt"
    names = {ExecutionStatus.QUEUED: "release", ExecutionStatus.RUNNING: "start"}
    return names.get(change.update.get("status", ExecutionStatus.SUBMITTED), "postpone")
