"""Submissions and changes in SQL: several operations in one transaction, each with a fate of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.errors import PraxisError
from praxis_sdk.model import AUDITED, Execution
from praxis_sdk.states import PENDING, ExecutionStatus
from praxis_sdk.store.changes import AppliedChange, Change, Reservations, apply_change, created
from praxis_sdk.store.encoding import canonical_json
from praxis_sdk.store.hub import QUEUE, topics_of
from praxis_sdk.store.postgres.connection import PostgresConnection, columns_of
from praxis_sdk.store.postgres.statements import MOVED, RESERVING, RESULTED, statement
from praxis_sdk.store.postgres.transactions import TransactionResult, Work, Writing
from praxis_sdk.store.postgres.values import execution_from, row_of, whole_execution
from praxis_sdk.store.protocol import StoreConflict, UnknownExecution
from praxis_sdk.store.rows import (
    ATTEMPT,
    DOCUMENT,
    EVENT,
    EXECUTION,
    attempt_row,
    document_row,
    event_row,
    moves,
    moving_row,
    result_row,
)

_RESULTS: Final = frozenset({"outputs", "result"})


@dataclass(frozen=True, slots=True)
class NewExecution:
    """Executions to add, all or none."""

    executions: Sequence[Execution]

    @property
    def weight(self) -> int:
        """How many executions it is about."""
        return len(self.executions)


@dataclass(frozen=True, slots=True)
class Application:
    """Changes to apply, all or none; one that does not hold is none of the failures."""

    changes: Sequence[Change]

    @property
    def weight(self) -> int:
        """How many executions it is about."""
        return len(self.changes)


@dataclass(slots=True)
class Writes:
    """What changes came to, before it is written.

    Args:
        settled: in order.
        results: per execution, which of outputs and result changed.
    """

    settled: list[AppliedChange] = field(default_factory=list)
    results: dict[str, frozenset[str]] = field(default_factory=dict)

    def note(self, change: Change, settled: AppliedChange) -> None:
        """Take a change that held."""
        moves(change.update)  # raises where it sets what never changes
        self.settled.append(settled)
        self._result(settled.after.id, _RESULTS.intersection(change.update))

    def take(self, other: Writes) -> None:
        """Take what another operation came to."""
        self.settled += other.settled
        for execution_id, names in other.results.items():
            self._result(execution_id, names)

    def _result(self, execution_id: str, names: frozenset[str]) -> None:
        if names:
            self.results[execution_id] = self.results.get(execution_id, frozenset()) | names

    def topics(self, local_workers: frozenset[str] = frozenset()) -> set[str]:
        """Return what it is news for; `local_workers` as in `RoundScope`."""
        topics: set[str] = set()
        for settled in self.settled:
            topics |= topics_of(settled, local_workers)
            if settled.after.status in PENDING:
                topics.add(QUEUE)  # a round may have passed over it while it was locked here
        return topics


def merging(operations: Sequence[Any], clock: Clock) -> Work[list[Any]]:
    """Return what does submissions and applications in one transaction.

    Ids are new as a rule: only when one turned out to be taken it is looked which are.

    Args:
        operations: `Submission`s and `Application`s.
        clock: the time.
    """
    tries = count()

    async def work(connection: PostgresConnection) -> TransactionResult[list[Any]]:
        return await _merge(connection, operations, clock.time(), look=next(tries) > 0)

    return work


async def _merge(
    connection: PostgresConnection, operations: Sequence[Any], now: float, *, look: bool
) -> TransactionResult[list[Any]]:
    """Do operations; for each its result, or the `PraxisError` that it failed with."""
    results: list[Any] = [None] * len(operations)
    topics: set[str] = set()
    last: Writing | None = None
    submissions = [(at, one) for at, one in enumerate(operations) if isinstance(one, NewExecution)]
    if submissions:
        done, news, last = await submit(connection, [one for _, one in submissions], now, look=look)
        for (at, _), result in zip(submissions, done, strict=True):
            results[at] = result
        topics |= news
    applications = [(at, one) for at, one in enumerate(operations) if isinstance(one, Application)]
    if applications:
        if last is not None:
            await last.run(connection)
        done, news, last = await apply(connection, [one for _, one in applications], now)
        for (at, _), result in zip(applications, done, strict=True):
            results[at] = result
        topics |= news
    return TransactionResult(results, frozenset(topics), bool(topics), last)  # whatever is written is news


# -- submissions


async def submit(
    connection: PostgresConnection, submissions: Sequence[NewExecution], now: float, *, look: bool = True
) -> tuple[list[Any], set[str], Writing | None]:
    """Add the executions of submissions, but for what is to be written last.

    Args:
        connection: in a transaction.
        submissions: what to add.
        now: seconds since 1970.
        look: whether an id may be taken; keys are looked for in any case.

    Returns:
        A result or a `PraxisError` for each, what it is news for, and what is still to be written.

    Raises:
        Collision: an id or a key was taken meanwhile.
    """
    wanted = [execution for one in submissions for execution in one.executions]
    ids = [execution.id for execution in wanted]
    keys = [execution.idempotency_key for execution in wanted if execution.idempotency_key is not None]
    found = await connection.fetch(statement("get_executions"), ids, keys) if look or keys else []
    there = [whole_execution(row) for row in found]
    taken = {execution.id for execution in there}
    by_key = {execution.idempotency_key: execution for execution in there if execution.idempotency_key}
    results: list[Any] = []
    added: list[AppliedChange] = []
    for one in submissions:
        try:
            kept, new = _resolve(one, taken, by_key, now)
        except StoreConflict as conflict:
            results.append(conflict)
            continue
        results.append(kept)
        added += new
        for settled in new:
            taken.add(settled.after.id)
            if settled.after.idempotency_key is not None:
                by_key[settled.after.idempotency_key] = settled.after
    last: Writing | None = None
    if added:
        last = _inserting(added)
        reserving = _reserving(added)
        if reserving is not None:
            await last.run(connection)
            last = reserving
    topics: set[str] = set()
    for settled in added:
        topics |= topics_of(settled)
    return results, topics, last


async def submit_or_raise(
    connection: PostgresConnection, executions: Sequence[Execution], now: float
) -> TransactionResult[list[Execution]]:
    """Add executions as the last part of a larger transaction.

    Raises:
        StoreConflict: as `Store.submit`.
    """
    (result,), topics, last = await submit(connection, [NewExecution(tuple(executions))], now)
    if isinstance(result, PraxisError):
        raise result
    return TransactionResult(result, frozenset(topics), last=last)


def _resolve(
    one: NewExecution, taken: set[str], by_key: dict[str, Execution], now: float
) -> tuple[list[Execution], list[AppliedChange]]:
    """Tell what of a submission is new, and what was submitted earlier."""
    kept: list[Execution] = []
    new: list[AppliedChange] = []
    own_ids: set[str] = set()
    own_keys: dict[str, Execution] = {}
    for execution in one.executions:
        key = execution.idempotency_key
        earlier = None if key is None else by_key.get(key) or own_keys.get(key)
        if earlier is not None:
            if not _same(earlier, execution):
                raise StoreConflict(f"the idempotency key {key!r} was used for something else ({earlier.id})")
            kept.append(earlier)
            continue
        if execution.id in taken or execution.id in own_ids:
            raise StoreConflict(f"the id {execution.id!r} is taken")
        settled = created(execution, now)
        new.append(settled)
        kept.append(settled.after)
        own_ids.add(execution.id)
        if key is not None:
            own_keys[key] = settled.after
    return kept, new


def _same(earlier: Execution, execution: Execution) -> bool:
    return (
        earlier.kind == execution.kind
        and earlier.control == execution.control
        and canonical_json(earlier.request) == canonical_json(execution.request)
    )


def _inserting(added: Sequence[AppliedChange]) -> Writing:
    executions = [settled.after for settled in added]
    arguments = (
        *columns_of([row_of(execution) for execution in executions], len(EXECUTION)),
        *columns_of([document_row(execution) for execution in executions], len(DOCUMENT)),
        *columns_of([event_row(event) for settled in added for event in settled.events], len(EVENT)),
    )
    return Writing("insert_executions", arguments, rows=len(executions))


def _reserving(added: Sequence[AppliedChange]) -> Writing | None:
    """Reserve what those need that come with a worker already."""
    reservations = Reservations()
    for settled in added:
        reservations.note(AppliedChange(settled.before.but(status=ExecutionStatus.SUBMITTED), settled.after))
    return _writing(Writes(), reservations) if reservations.held else None


# -- changes


async def apply(
    connection: PostgresConnection, applications: Sequence[Application], now: float
) -> tuple[list[Any], set[str], Writing | None]:
    """Settle changes; returns for each application a result or a `PraxisError`, then as `submit`."""
    ids = sorted({change.execution_id for one in applications for change in one.changes})
    rows = await connection.fetch(statement("lock_executions"), ids)
    current = {row[0]: execution_from(row) for row in rows}
    writes = Writes()
    results: list[Any] = []
    for one in applications:
        try:
            settled, own = _settle(one.changes, current, now)
        except PraxisError as error:
            results.append(error)
            continue
        results.append(settled)
        writes.take(own)
    return results, writes.topics(), writing(writes)


def _settle(
    changes: Sequence[Change], current: dict[str, Execution], now: float
) -> tuple[list[AppliedChange | None], Writes]:
    """Settle the changes of one operation, and make `current` what it is after them; all or none."""
    for change in changes:
        if change.execution_id not in current:
            raise unknown(change.execution_id)
    results: list[AppliedChange | None] = []
    writes = Writes()
    for change in changes:
        settled = apply_change(current[change.execution_id], change, now)
        results.append(settled)
        if settled is not None:
            writes.note(change, settled)
            current[change.execution_id] = settled.after
    return results, writes


def unknown(execution_id: str) -> UnknownExecution:
    """Return the error that says that there is no such execution."""
    return UnknownExecution(
        f"there is no execution {execution_id!r}", remedy="'praxis ps --all' shows those there are"
    )


def settle_locked(changes: Iterable[Change], current: dict[str, Execution], now: float) -> Writes:
    """Settle changes of executions that are locked; those of others do not hold."""
    locked = [change for change in changes if change.execution_id in current]
    return _settle(locked, current, now)[1]


def writing(writes: Writes) -> Writing | None:
    """Return what writes what changes came to; the executions are locked."""
    if not writes.settled:
        return None
    reservations = Reservations()
    for settled in writes.settled:
        reservations.note(settled)
    return _writing(writes, reservations)


def _writing(writes: Writes, reservations: Reservations) -> Writing:
    last = {settled.after.id: settled.after for settled in writes.settled}
    events = [event for settled in writes.settled for event in settled.events]
    noisy = {event.execution_id for event in events if event.type not in AUDITED}
    results = [
        (*result_row(last[one]), "outputs" in names, "result" in names)
        for one, names in writes.results.items()
    ]
    attempts = [attempt_row(settled.attempt) for settled in writes.settled if settled.attempt is not None]
    held = [
        (worker_id, count, *amount.amounts())
        for worker_id, (amount, count) in sorted(reservations.held.items())
        if count or any(amount.amounts())
    ]
    arguments = (
        *columns_of([(one.id, *moving_row(one), one.id in noisy) for one in last.values()], len(MOVED)),
        *columns_of(results, len(RESULTED)),
        *columns_of([event_row(event) for event in events], len(EVENT)),
        *columns_of(attempts, len(ATTEMPT)),
        *columns_of(held, len(RESERVING)),
    )
    return Writing("update_executions", arguments)
