"""What the control plane needs of a store: one protocol, one conformance suite, a package per implementation.

Every method that changes something is one transaction and durable when it returns: what was acknowledged
survives SIGKILL and a power cut. Executions change through `apply` and `schedule` alone, by guarded changes
(`store.changes`). After each commit the store rings: whoever waits in `changed` wakes, in this process at
once, in other processes by what the store has for that (a socket, LISTEN/NOTIFY).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from praxis_sdk.clock import Clock
from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.model import (
    Attempt,
    Batch,
    CronSchedule,
    Event,
    EventType,
    Execution,
    Level,
    Usage,
    Worker,
)
from praxis_sdk.states import ExecutionMode, ExecutionStatus
from praxis_sdk.store.changes import AppliedChange, Change


class StoreUnavailable(PlatformError):
    """The store cannot be read or written now."""


class StoreGone(StoreUnavailable):
    """The store that was opened is not there any more, and it will not come back: whoever used it must end."""


class StoreOutdated(PlatformError):
    """The store was written by another version of Praxis; the message says which and what to do."""


class UnknownExecution(ValidationError):
    """There is no execution of this id."""


class StoreConflict(ValidationError):
    """The idempotency key, or the id, is taken by something else."""


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions are wanted; every condition that is given must hold.

    Args:
        statuses: any of these; empty: any at all.
        kind, control, batch_id, parent_id, worker_id, schedule_id: exactly this.
        labels: all of these.
        since, until: submitted at or after, before; seconds since 1970.
        ended_since, ended_until: ended at or after, before.
        flagged: has any flag.
    """

    statuses: frozenset[ExecutionStatus] = frozenset()
    kind: str | None = None
    control: str | None = None
    batch_id: str | None = None
    parent_id: str | None = None
    worker_id: str | None = None
    schedule_id: str | None = None
    labels: Mapping[str, str] | None = None
    since: float | None = None
    until: float | None = None
    ended_since: float | None = None
    ended_until: float | None = None
    flagged: bool | None = None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted, over all executions (spec 4, property 25); every condition must hold.

    Args:
        execution_id: of this execution.
        control: of executions of this control (a SOP, a tool, a job's runtime).
        component: told by it, such as an agent.
        types, levels: any of these; empty: any at all.
        since, until: at or after, before; seconds since 1970.
        statuses: of executions that stand so.
    """

    execution_id: str | None = None
    control: str | None = None
    component: str | None = None
    types: frozenset[EventType] = frozenset()
    levels: frozenset[Level] = frozenset()
    since: float | None = None
    until: float | None = None
    statuses: frozenset[ExecutionStatus] = frozenset()


@dataclass(frozen=True, slots=True)
class RoundScope:
    """What a round of scheduling looks at.

    Args:
        candidates: at most so many that wait, the first in rank order.
        kinds: of these kinds only; empty: of all.
        batch_running: also the batch executions that run or are being ended, for preemption; at most so many,
            0 for none.
        local_workers: the caller hands these workers their new attempts itself, so they are not rung for them.
    """

    candidates: int = 256
    kinds: frozenset[str] = frozenset()
    batch_running: int = 0
    local_workers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of scheduling sees, locked until its changes are written.

    Args:
        now: the store's time, seconds since 1970.
        earliest: the earliest that the time can be, where the clock may have been set ahead; None: `now`.
        due: submitted executions whose time has come, oldest first.
        waiting: queued executions in rank order; without request.
        workers: those that are active, with what they have reserved.
        running: batch executions that run, where the scope asks for them.
    """

    now: float
    due: tuple[Execution, ...] = ()
    waiting: tuple[Execution, ...] = ()
    workers: tuple[Worker, ...] = ()
    running: tuple[Execution, ...] = ()
    earliest: float | None = None

    @property
    def certain(self) -> float:
        """The time by which is decided what cannot be taken back."""
        return self.now if self.earliest is None else self.earliest


@dataclass(frozen=True, slots=True)
class Counts:
    """How many executions stand where.

    Args:
        by_status: per status that is not final; final ones are counted by `Store.ended`.
        oldest_queued_at: since when the longest has waited.
    """

    by_status: Mapping[ExecutionStatus, int]
    oldest_queued_at: float | None = None


@dataclass(frozen=True, slots=True)
class FinishedExecution:
    """An execution that ended, as metrics need it.

    Args:
        control, kind, status, error_type: what and how.
        submitted_at, started_at, ended_at: when.
        usage: of its last attempt.
        retries: spent.
        mode: how a procedure was executed; None for other kinds.
    """

    kind: str
    control: str
    status: ExecutionStatus
    error_type: str | None
    submitted_at: float
    started_at: float | None
    ended_at: float
    usage: Usage | None
    retries: int
    mode: ExecutionMode | None = None


Decide = Callable[[Round], Sequence[Change]]


class Store(Protocol):
    """Where executions live. Times are seconds since 1970; lists are in the order that each method says."""

    @property
    def clock(self) -> Clock:
        """The time that all who share the store go by, where it has one of its own; else this machine's."""

    async def close(self) -> None:
        """Write what is under way and let go; repeatable."""

    # -- executions

    async def submit(self, executions: Sequence[Execution]) -> list[Execution]:
        """Add executions, all or none.

        Returns:
            Each as it is kept: with its first events; or the one that was submitted earlier under the same
            idempotency key with an equal request, kind and control.

        Raises:
            StoreConflict: the key was used for something else, or the id is taken.
        """

    async def get(self, execution_id: str) -> Execution:
        """Return an execution with its request and context.

        Raises:
            UnknownExecution: there is none.
        """

    async def find(
        self, wanted: ExecutionFilter, *, limit: int = 100, before: str | None = None
    ) -> list[Execution]:
        """Return executions without request, outputs and result, the youngest first.

        Args:
            wanted: which.
            limit: at most so many.
            before: only those submitted before this one (its id), to go on from there.
        """

    async def apply(self, changes: Sequence[Change]) -> list[AppliedChange | None]:
        """Change executions, in one transaction; None for each change that does not hold.

        Raises:
            UnknownExecution: a change names an execution that there is not; nothing was changed.
        """

    async def schedule(self, scope: RoundScope, decide: Decide) -> list[AppliedChange]:
        """Look at what waits and at the workers, ask what to do, and do it, in one transaction.

        What another round or change holds under a lock right now is not seen.

        Args:
            scope: what is looked at.
            decide: pure; called once, with what was seen.

        Returns:
            What came of the changes that held.
        """

    async def next_due(self) -> float | None:
        """Return when the first submitted execution is due; None where none waits for a time."""

    async def held(self, worker_id: str) -> list[Execution]:
        """Return what a worker holds, with requests."""

    async def attempts(self, execution_id: str) -> list[Attempt]:
        """Return the attempts that ended, the first first."""

    async def counts(self) -> Counts:
        """Return how many executions wait and run."""

    async def ended(
        self,
        since: float,
        until: float,
        *,
        kind: str | None = None,
        control: str | None = None,
        limit: int = 0,
    ) -> list[FinishedExecution]:
        """Return what ended in a time, the latest first; at most `limit` where that is not 0."""

    # -- events

    async def events(
        self,
        execution_id: str,
        *,
        after: int = -1,
        limit: int = 1000,
        types: frozenset[EventType] = frozenset(),
    ) -> list[Event]:
        """Return events of one execution in order, from the sequence number after `after`."""

    async def query_events(self, wanted: EventFilter, *, limit: int = 1000) -> list[Event]:
        """Return events of any execution, the latest first."""

    async def prune(self, *, noise_before: float, all_before: float, limit: int = 10_000) -> tuple[int, int]:
        """Remove what need not be kept any longer, at most `limit` executions' worth.

        Args:
            noise_before: log lines and progress of executions that ended before are removed.
            all_before: executions that ended before are removed, with all that is kept of them.

        Returns:
            How many events and how many executions were removed.
        """

    # -- workers

    async def put_worker(self, worker: Worker) -> None:
        """Add a worker, or change its capacity, slots, kinds, state and lease; what it reserves stays."""

    async def beat(self, worker_id: str, lease_until: float) -> bool:
        """Renew a worker's lease; False where it counts as lost or gone, so that it must give up its work."""

    async def workers(self, *, active_only: bool = True) -> list[Worker]:
        """Return workers, the first to come first."""

    async def living_workers(self) -> list[Worker]:
        """Return the workers that hold a lease, those that take no more work included, the first to come first."""

    async def expire_workers(self, expired: Mapping[str, float]) -> list[str]:
        """Mark workers lost whose lease expired, and return the ids of all lost ones that hold work.

        Args:
            expired: workers, each with its `lease_until` as it was seen; one that was renewed since is left alone.
        """

    # -- schedules and batches

    async def put_schedule(self, schedule: CronSchedule) -> None:
        """Add a schedule or replace it."""

    async def schedules(self) -> list[CronSchedule]:
        """Return all schedules by id."""

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule; False where there is none."""

    async def fire(self, before: CronSchedule, after: CronSchedule, execution: Execution) -> bool:
        """Submit a schedule's execution and move the schedule on, once: False where somebody else did.

        Args:
            before: as it was read; it fires only if its `next_at` is still the same.
            after: as it shall be.
            execution: what is submitted.
        """

    async def put_batch(self, batch: Batch, executions: Sequence[Execution]) -> list[Execution]:
        """Add a batch with its executions, all or none; raises as `submit` does."""

    async def batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""

    async def batches(self, *, limit: int = 100) -> list[Batch]:
        """Return batches, the youngest first."""

    # -- settings that all processes share

    async def get_setting(self, name: str) -> Any:
        """Return a JSON value; None where it was never put."""

    async def put_setting(self, name: str, value: Any) -> None:
        """Keep a JSON value."""

    # -- being told

    async def changed(self, topic: str, seen: int) -> int:
        """Wait until something happened to a topic since `seen`, and return what to pass next time.

        Topics: 'queue' (something may be started), 'worker:ID' (it was given work, or work of it shall stop),
                'execution:ID' (a change or an event), 'ended:ID' (it ended). The first call, with 0, returns at once.
        Wakes may come without need; one that is needed always comes.
        """
