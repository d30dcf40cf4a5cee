"""Submissions and changes in SQL: several operations in one transaction, each with a fate of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.errors import PraxisError
from praxis_sdk.model import AUDITED, Execution
from praxis_sdk.states import WAITING, ExecutionStatus
from praxis_sdk.store.changes import Change, Reservations, Settled, created, settle
from praxis_sdk.store.encoding import canonical_json
from praxis_sdk.store.hub import QUEUE, topics_of
from praxis_sdk.store.postgres.connection import Connection, columns_of
from praxis_sdk.store.postgres.statements import MOVED, RESERVING, RESULTED, statement
from praxis_sdk.store.postgres.transactions import Collision, Outcome
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
class Submission:
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

    settled: list[Settled] = field(default_factory=list)
    results: dict[str, frozenset[str]] = field(default_factory=dict)

    def note(self, change: Change, settled: Settled) -> None:
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
            if settled.after.status in WAITING:
                topics.add(QUEUE)  # a round may have passed over it while it was locked here
        return topics


async def merge(connection: Connection, operations: Sequence[Any], now: float) -> Outcome[list[Any]]:
    """Do submissions and applications in one transaction.

    Args:
        connection: in a transaction.
        operations: `Submission`s and `Application`s.
        now: seconds since 1970.

    Returns:
        For each operation its result, or the `PraxisError` that it failed with.
    """
    results: list[Any] = [None] * len(operations)
    topics: set[str] = set()
    submissions = [(at, one) for at, one in enumerate(operations) if isinstance(one, Submission)]
    if submissions:
        done, news = await submit(connection, [one for _, one in submissions], now)
        for (at, _), result in zip(submissions, done, strict=True):
            results[at] = result
        topics |= news
    applications = [(at, one) for at, one in enumerate(operations) if isinstance(one, Application)]
    if applications:
        done, news = await apply(connection, [one for _, one in applications], now)
        for (at, _), result in zip(applications, done, strict=True):
            results[at] = result
        topics |= news
    return Outcome(results, frozenset(topics), wrote=bool(topics))  # whatever is written is news


# -- submissions


async def submit(
    connection: Connection, submissions: Sequence[Submission], now: float
) -> tuple[list[Any], set[str]]:
    """Add the executions of submissions; returns a result or a `PraxisError` for each, and what it is news for.

    Raises:
        Collision: an id or a key was taken meanwhile.
    """
    wanted = [execution for one in submissions for execution in one.executions]
    ids = [execution.id for execution in wanted]
    keys = [execution.idempotency_key for execution in wanted if execution.idempotency_key is not None]
    there = [whole_execution(row) for row in await connection.fetch(statement("get_executions"), ids, keys)]
    taken = {execution.id for execution in there}
    by_key = {execution.idempotency_key: execution for execution in there if execution.idempotency_key}
    results: list[Any] = []
    added: list[Settled] = []
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
    if added:
        await _insert(connection, added)
        await _reserve(connection, added)
    topics: set[str] = set()
    for settled in added:
        topics |= topics_of(settled)
    return results, topics


async def submit_or_raise(
    connection: Connection, executions: Sequence[Execution], now: float
) -> Outcome[list[Execution]]:
    """Add executions as a part of a larger transaction.

    Raises:
        StoreConflict: as `Store.submit`.
    """
    (result,), topics = await submit(connection, [Submission(tuple(executions))], now)
    if isinstance(result, PraxisError):
        raise result
    return Outcome(result, frozenset(topics))


def _resolve(
    one: Submission, taken: set[str], by_key: dict[str, Execution], now: float
) -> tuple[list[Execution], list[Settled]]:
    """Tell what of a submission is new, and what was submitted earlier."""
    kept: list[Execution] = []
    new: list[Settled] = []
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


async def _insert(connection: Connection, added: Sequence[Settled]) -> None:
    executions = [settled.after for settled in added]
    number = await connection.fetchval(
        statement("insert_executions"),
        *columns_of([row_of(execution) for execution in executions], len(EXECUTION)),
        *columns_of([document_row(execution) for execution in executions], len(DOCUMENT)),
        *columns_of([event_row(event) for settled in added for event in settled.events], len(EVENT)),
    )
    if number != len(executions):
        raise Collision("an id or an idempotency key is being taken by others again and again")


async def _reserve(connection: Connection, added: Sequence[Settled]) -> None:
    """Reserve what those need that come with a worker already."""
    reservations = Reservations()
    for settled in added:
        reservations.note(Settled(settled.before.but(status=ExecutionStatus.SUBMITTED), settled.after))
    if reservations.held:
        await _write(connection, Writes(), reservations)


# -- changes


async def apply(
    connection: Connection, applications: Sequence[Application], now: float
) -> tuple[list[Any], set[str]]:
    """Apply changes; returns a result or a `PraxisError` for each application, and what it is news for."""
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
    await write(connection, writes)
    return results, writes.topics()


def _settle(
    changes: Sequence[Change], current: dict[str, Execution], now: float
) -> tuple[list[Settled | None], Writes]:
    """Settle the changes of one operation, and make `current` what it is after them; all or none."""
    for change in changes:
        if change.execution_id not in current:
            raise unknown(change.execution_id)
    results: list[Settled | None] = []
    writes = Writes()
    for change in changes:
        settled = settle(current[change.execution_id], change, now)
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


async def write(connection: Connection, writes: Writes) -> None:
    """Write what changes came to; the executions are locked."""
    if not writes.settled:
        return
    reservations = Reservations()
    for settled in writes.settled:
        reservations.note(settled)
    await _write(connection, writes, reservations)


async def _write(connection: Connection, writes: Writes, reservations: Reservations) -> None:
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
    await connection.fetchval(
        statement("update_executions"),
        *columns_of([(one.id, *moving_row(one), one.id in noisy) for one in last.values()], len(MOVED)),
        *columns_of(results, len(RESULTED)),
        *columns_of([event_row(event) for event in events], len(EVENT)),
        *columns_of(attempts, len(ATTEMPT)),
        *columns_of(held, len(RESERVING)),
    )
