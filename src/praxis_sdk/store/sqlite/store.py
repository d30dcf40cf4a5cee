"""The embedded store: a database file, a thread that writes, and two that read."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.model import Attempt, Batch, CronSchedule, Event, EventType, Execution, Worker
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import rows
from praxis_sdk.store.changes import AppliedChange, Change
from praxis_sdk.store.doorbell import Doorbell
from praxis_sdk.store.encoding import STATUS, from_json, to_json
from praxis_sdk.store.hub import QUEUE, Hub, worker_topic
from praxis_sdk.store.protocol import (
    Counts,
    Decide,
    EventFilter,
    ExecutionFilter,
    FinishedExecution,
    RoundScope,
    StoreConflict,
    StoreGone,
    StoreUnavailable,
)
from praxis_sdk.store.sqlite.connection import (
    BUSY_S,
    MEMORY,
    FileWatch,
    connect,
    connect_to_look,
    create_file,
    explained,
)
from praxis_sdk.store.sqlite.finding import executions_of_events, find_events, find_executions
from praxis_sdk.store.sqlite.readers import InlineReader, ThreadReader
from praxis_sdk.store.sqlite.schema import prepare
from praxis_sdk.store.sqlite.statements import SQL
from praxis_sdk.store.sqlite.transaction import SqliteTransaction, unknown, whole
from praxis_sdk.store.sqlite.turn import Turns
from praxis_sdk.store.sqlite.writer import GroupWriter, InlineWriter, RefusingWriter
from praxis_sdk.supervisor import Supervisor

LOOK_S: Final = 2.0  # how often to look for commits of others whose ring was lost
FEW: Final = 1000  # executions whose events are read faster than all events are searched for theirs
PRUNED_AT_ONCE: Final = 250  # executions in one transaction, so that others wait for milliseconds only


class SqliteStore:
    """A `Store` in one SQLite file, which several processes may share; made by `open`."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self.clock = clock
        self._hub = Hub()
        self._writer: GroupWriter | InlineWriter | RefusingWriter
        # A long list must not keep a question for a status waiting.
        self._reader: ThreadReader | InlineReader
        self._lister: ThreadReader | InlineReader
        self._doorbell: Doorbell | None = None
        self.tasks = Supervisor()

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        clock: Clock | None = None,
        upgrade: bool = False,
        inline: bool = False,
        look_s: float = LOOK_S,
    ) -> SqliteStore:
        """Open a store, and create it where it is missing.

        Args:
            path: its file; ':memory:' for none, which needs `inline`.
            clock: its time.
            upgrade: whether an older schema is brought up to date.
            inline: everything happens in the calling task, without threads: for simulations.
            look_s: how often to look for commits of other processes whose ring was lost, in seconds.

        Raises:
            StoreOutdated: its schema is older and shall not be changed, or newer.
            StoreUnavailable: it cannot be opened, or is no database.
        """
        name = str(path)
        assert inline or name != MEMORY, "a database in memory is used inline"
        store = cls(name, clock or Clock())
        if inline:
            connection = _prepared(name, upgrade)
            store._writer = InlineWriter(connection, name, store.clock, store._hub.ring)
            store._reader = store._lister = InlineReader(connection, name)
            return store
        connection = await asyncio.to_thread(_prepared, name, upgrade)
        try:
            store._doorbell = Doorbell(Path(f"{name}-bells"), store._told_by_others)
            turns = Turns(f"{name}-turn", BUSY_S)
        except OSError as error:
            connection.close()
            if store._doorbell is not None:
                store._doorbell.close()
            raise StoreUnavailable(f"the store {name} cannot be shared: {error}") from error
        told = store._doorbell.ring
        file = FileWatch(name)
        store._writer = GroupWriter(connection, name, turns, file, store.clock, store._hub.ring, told)
        store._reader = ThreadReader(name, "reader", file)
        store._lister = ThreadReader(name, "lister", file)
        store.tasks.start("store.look", functools.partial(store._look, look_s))
        return store

    @classmethod
    async def look(cls, path: Path | str, *, clock: Clock | None = None) -> SqliteStore:
        """Open a store whose folder cannot be written to: it can be read as it is now, and hears of no news.

        Args:
            path: its file, which is there.
            clock: its time.

        Raises:
            StoreOutdated: its schema is older or newer.
            StoreUnavailable: it cannot be opened, or is no database.
        """
        name = str(path)
        store = cls(name, clock or Clock())
        connection = await asyncio.to_thread(_looked_at, name)
        store._writer = RefusingWriter(connection, name)
        store._reader = store._lister = InlineReader(connection, name)
        return store

    @property
    def commits(self) -> int:
        """How many groups were committed since the store was opened."""
        return self._writer.commits

    async def close(self) -> None:
        """Write what is under way and let go; repeatable."""
        await self.tasks.stop()
        await self._writer.close()
        await self._reader.close()
        await self._lister.close()
        if self._doorbell is not None:
            self._doorbell.close()
        self._hub.close()

    # -- executions

    async def submit(self, executions: Sequence[Execution]) -> list[Execution]:
        """Add executions, all or none."""
        return await self._writer.run(lambda transaction: transaction.submit(executions))

    async def get(self, execution_id: str) -> Execution:
        """Return an execution with its request and context."""
        execution = await self._reader.ask(lambda connection: whole(connection, execution_id))
        if execution is None:
            raise unknown(execution_id)
        return execution

    async def find(
        self, wanted: ExecutionFilter, *, limit: int = 100, before: str | None = None
    ) -> list[Execution]:
        """Return executions without request, outputs and result, the youngest first."""
        query, values = find_executions(wanted, limit, before)
        return await self._lister.ask(
            lambda connection: list(map(rows.execution_of, connection.execute(query, values)))
        )

    async def apply(self, changes: Sequence[Change]) -> list[AppliedChange | None]:
        """Change executions, in one transaction; None for each change that does not hold."""
        return await self._writer.run(lambda transaction: transaction.apply(changes))

    async def schedule(self, scope: RoundScope, decide: Decide) -> list[AppliedChange]:
        """Look at what waits and at the workers, ask what to do, and do it, in one transaction."""
        return await self._writer.run(lambda transaction: transaction.schedule(scope, decide))

    async def next_due(self) -> float | None:
        """Return when the first submitted execution is due; 0 where it is already, whatever the time."""
        row = await self._first("next_due")
        return None if row is None else float(row[0])

    async def held(self, worker_id: str) -> list[Execution]:
        """Return what a worker holds, with requests."""
        return [rows.execution_of(row[:-2], *row[-2:]) for row in await self._all("held", (worker_id,))]

    async def attempts(self, execution_id: str) -> list[Attempt]:
        """Return the attempts that ended, the first first."""
        return list(map(rows.attempt_of, await self._all("attempts", (execution_id,))))

    async def counts(self) -> Counts:
        """Return how many executions wait and run."""
        counted = await self._all("counts")
        by_status: dict[ExecutionStatus, int] = {status: 0 for status in ExecutionStatus if not status.final}
        by_status |= {STATUS[status]: number for status, number, _ in counted}
        return Counts(by_status, next((oldest for status, _, oldest in counted if status == "queued"), None))

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
        wanted = {"since": since, "until": until, "kind": kind, "control": control, "limit": limit or -1}
        return await self._lister.ask(
            lambda connection: list(map(rows.ended_of, connection.execute(SQL["ended"], wanted)))
        )

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
        chosen = to_json(sorted(types)) if types else None
        wanted = {"id": execution_id, "after": after, "limit": limit, "types": chosen}
        return await self._reader.ask(
            lambda connection: list(map(rows.event_of, connection.execute(SQL["events"], wanted)))
        )

    async def query_events(self, wanted: EventFilter, *, limit: int = 1000) -> list[Event]:
        """Return events of any execution, the latest first."""
        return await self._lister.ask(lambda connection: _queried(connection, wanted, limit))

    async def prune(self, *, noise_before: float, all_before: float, limit: int = 10_000) -> tuple[int, int]:
        """Remove what need not be kept any longer, in several transactions, so that others are not kept waiting."""
        events = executions = 0
        while limit > 0:
            wanted = min(limit, PRUNED_AT_ONCE)
            operation = functools.partial(
                SqliteTransaction.prune, noise_before=noise_before, all_before=all_before, limit=wanted
            )
            removed, gone, seen = await self._writer.run(operation)
            events, executions, limit = events + removed, executions + gone, limit - seen
            if seen < wanted:
                await self._write("delete_batches", (all_before,))
                await self._write("delete_workers", (all_before,))
                break
        return events, executions

    # -- workers

    async def put_worker(self, worker: Worker) -> None:
        """Add a worker, or change its capacity, slots, kinds, state and lease; what it reserves stays."""
        row = rows.worker_row(dataclasses.replace(worker, reserved=type(worker.reserved)(), running=0))
        await self._write("put_worker", row, QUEUE, worker_topic(worker.id))

    async def beat(self, worker_id: str, lease_until: float) -> bool:
        """Renew a worker's lease; False where it counts as lost or gone."""

        def operation(transaction: SqliteTransaction) -> bool:
            return transaction.execute("beat", (lease_until, worker_id)).rowcount > 0

        return await self._writer.run(operation, urgent=True)

    async def workers(self, *, active_only: bool = True) -> list[Worker]:
        """Return workers, the first to come first."""
        return list(map(rows.worker_of, await self._all("workers", (active_only,))))

    async def living_workers(self) -> list[Worker]:
        """Return the workers that hold a lease, the first to come first."""
        return list(map(rows.worker_of, await self._all("living_workers")))

    async def expire_workers(self, expired: Mapping[str, float]) -> list[str]:
        """Mark the workers lost whose lease is as it was seen, and return the ids of all lost ones that hold work."""
        return await self._writer.run(lambda transaction: transaction.expire_workers(expired))

    # -- schedules and batches

    async def put_schedule(self, schedule: CronSchedule) -> None:
        """Add a schedule or replace it."""
        await self._write("put_schedule", rows.schedule_row(schedule), QUEUE)

    async def schedules(self) -> list[CronSchedule]:
        """Return all schedules by id."""
        return list(map(rows.schedule_of, await self._all("schedules")))

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule; False where there is none."""
        return await self._write("remove_schedule", (schedule_id,)) > 0

    async def fire(self, before: CronSchedule, after: CronSchedule, execution: Execution) -> bool:
        """Submit a schedule's execution and move the schedule on, once."""
        moved = after.next_at, after.last_at, after.last_execution_id
        guard = before.id, before.next_at, int(before.paused)

        def operation(transaction: SqliteTransaction) -> bool:
            if transaction.execute("fire", (*moved, *guard)).rowcount == 0:
                return False
            transaction.submit([execution])
            return True

        return await self._writer.run(operation)

    async def put_batch(self, batch: Batch, executions: Sequence[Execution]) -> list[Execution]:
        """Add a batch with its executions, all or none; raises as `submit` does."""

        def operation(transaction: SqliteTransaction) -> list[Execution]:
            try:
                transaction.execute("insert_batch", rows.batch_row(batch))
            except sqlite3.IntegrityError as error:
                raise StoreConflict(f"the batch id {batch.id!r} is taken") from error
            return transaction.submit(executions)

        return await self._writer.run(operation)

    async def batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""
        row = await self._first("batch", (batch_id,))
        return None if row is None else rows.batch_of(row)

    async def batches(self, *, limit: int = 100) -> list[Batch]:
        """Return batches, the youngest first."""
        return list(map(rows.batch_of, await self._all("batches", (limit,))))

    # -- settings that all processes share

    async def get_setting(self, name: str) -> Any:
        """Return a JSON value; None where it was never put."""
        row = await self._first("get_setting", (name,))
        return None if row is None else from_json(row[0])

    async def put_setting(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        await self._write("put_setting", (name, to_json(value)))

    # -- being told

    async def changed(self, topic: str, seen: int) -> int:
        """Wait until something happened to a topic since `seen`, and return what to pass next time."""
        return await self._hub.changed(topic, seen)

    def _told_by_others(self, topics: Iterable[str] | None) -> None:
        if topics is None:
            self._hub.ring_all()
        else:
            self._hub.ring(topics)

    async def _look(self, look_s: float) -> None:
        """Look now and then whether another process committed, lest a ring was lost."""
        known: int | None = None  # who only reads need not wait for a turn to write
        while True:
            await asyncio.sleep(look_s)
            try:
                version = await self._writer.run(_data_version)
            except StoreGone as error:
                self._hub.close(error)  # whoever waits for news would wait for ever
                return
            except StoreUnavailable:
                continue  # who asks for something is told; here nobody asked
            if version != known:
                self._hub.ring_all()
            known = version

    # -- statements

    async def _write(self, name: str, values: Sequence[Any], *topics: str) -> int:
        """Run one statement, ring topics, and return how many rows it changed."""

        def operation(transaction: SqliteTransaction) -> int:
            transaction.topics.update(topics)
            return transaction.execute(name, values).rowcount

        return await self._writer.run(operation)

    async def _all(self, name: str, values: Sequence[Any] = ()) -> list[rows.Row]:
        return await self._reader.ask(lambda connection: connection.execute(SQL[name], values).fetchall())

    async def _first(self, name: str, values: Sequence[Any] = ()) -> rows.Row | None:
        found = await self._all(name, values)
        return found[0] if found else None


def _looked_at(path: str) -> sqlite3.Connection:
    """Return a connection that reads a database whose schema is this version's."""
    try:
        connection = connect_to_look(path)
        prepare(connection, path, upgrade=False)
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be read: {error.strerror}") from error
    except sqlite3.Error as error:
        raise explained(error, path) from error
    return connection


def _prepared(path: str, upgrade: bool) -> sqlite3.Connection:
    """Return the writer's connection to a database whose schema is this version's."""
    create_file(path)
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path)
        prepare(connection, path, upgrade=upgrade)
    except BaseException as error:
        if connection is not None:
            connection.close()
        meaning = explained(error, path)
        if meaning is error:
            raise
        raise meaning from error
    return connection


def _queried(connection: sqlite3.Connection, wanted: EventFilter, limit: int) -> list[Event]:
    """Return events of any execution, led by whichever is shorter: the few executions that match, or all events."""
    few = False
    if (of := executions_of_events(wanted)) is not None:
        query, values = of
        matching = connection.execute(f"{query} LIMIT {FEW + 1}", values).fetchall()
        few = len(matching) <= FEW
    query, values = find_events(wanted, limit, few=few)
    return list(map(rows.event_of, connection.execute(query, values)))


def _data_version(transaction: SqliteTransaction) -> int:
    """Return a number that grows whenever another connection commits."""
    version: int = transaction.connection.execute("PRAGMA data_version").fetchone()[0]
    return version
