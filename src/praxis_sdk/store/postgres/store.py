"""The store on PostgreSQL, put together: writing goes through the group commit, reading through the pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from praxis_sdk.clock import Clock
from praxis_sdk.model import Attempt, Batch, CronSchedule, Event, EventType, Execution, Worker
from praxis_sdk.resources import ZERO
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import rows
from praxis_sdk.store.changes import AppliedChange, Change
from praxis_sdk.store.encoding import STATUS, from_json, to_json
from praxis_sdk.store.hub import QUEUE, Hub, execution_topic, worker_topic
from praxis_sdk.store.postgres import lists
from praxis_sdk.store.postgres.changing import Application, NewExecution, merging, submit_or_raise, unknown
from praxis_sdk.store.postgres.clock import ServerClock
from praxis_sdk.store.postgres.connection import (
    WRITING,
    ConnectionPool,
    OwnConnection,
    Patience,
    PostgresConnection,
)
from praxis_sdk.store.postgres.listener import Listener
from praxis_sdk.store.postgres.rounds import run_round
from praxis_sdk.store.postgres.schema import prepare
from praxis_sdk.store.postgres.statements import statement
from praxis_sdk.store.postgres.transactions import TransactionResult, Transactions, Work
from praxis_sdk.store.postgres.values import RowCache, execution_from, whole_execution
from praxis_sdk.store.postgres.writer import GroupCommit
from praxis_sdk.store.protocol import (
    Counts,
    Decide,
    EventFilter,
    ExecutionFilter,
    FinishedExecution,
    RoundScope,
    StoreConflict,
)

POOL_SIZE = 8
LANES = 1
PATIENCE_S = 30.0
PRUNED_AT_ONCE = 500  # executions in one transaction, so that others wait for milliseconds only


class PostgresStore:
    """A `Store` in a PostgreSQL database, which many processes share; made by `open`."""

    def __init__(self, url: str, clock: Clock | None, pool_size: int, lanes: int, patience_s: float) -> None:
        origin = uuid4().hex
        self._url = url
        server_clock = ServerClock()
        self.clock: Clock = clock or server_clock
        self._lanes = lanes
        self._hub = Hub()
        self._memory = RowCache()
        self._pool = ConnectionPool(url, size=max(1, pool_size - lanes), patience_s=patience_s)
        self._writing = ConnectionPool(url, size=lanes, patience_s=patience_s, session=WRITING)
        self._transactions = Transactions(self._writing, self.clock, origin, self._hub.ring)
        # Heartbeats wait for nobody: neither for a place in a transaction, nor for a connection of the pool.
        self._line = OwnConnection(url, renewed=self._renew)
        self._listener = Listener(url, origin, self._hub, server_clock, renewed=self._renew)
        self._writer: GroupCommit

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Clock | None = None,
        upgrade: bool = False,
        pool_size: int = POOL_SIZE,
        lanes: int = LANES,
        patience_s: float = PATIENCE_S,
    ) -> PostgresStore:
        """Open a store; an empty database gets its tables.

        Args:
            url: `postgresql://user:password@host:port/database`.
            clock: its time; unless given, the server's.
            upgrade: whether an older schema is brought up to date.
            pool_size: at most so many connections, one per lane and at least one to read; one more listens.
            lanes: how many transactions of this store may be under way at once.
            patience_s: for how long the server may be away, in seconds, before `StoreUnavailable`.

        Raises:
            StoreOutdated: its schema is older and shall not be changed, or newer.
            StoreUnavailable: there is no server, or it does not let us in.
            MissingExtra: asyncpg is not installed.
        """
        store = cls(url, clock, pool_size, lanes, patience_s)
        patience = Patience(patience_s)
        while True:
            try:
                await prepare(url, upgrade=upgrade)
                await store._pool.open()
                await store._writing.open()
                await store._listener.open()
                break
            except Exception as error:  # noqa: BLE001 patience raises what does not pass
                await store._close_pools()
                await patience.spend(error)
        store._writer = GroupCommit(store._transactions, store._merging, lanes=lanes)
        return store

    async def close(self) -> None:
        """Write what is under way and let go; repeatable."""
        await self._writer.close()
        await self._listener.close()
        await self._close_pools()
        self._hub.close()

    def _renew(self) -> None:
        """Let go of every connection that may have died while the server was away, and of what waits on it."""
        self._pool.renew()
        self._writing.renew()

    async def _close_pools(self) -> None:
        self._line.close()
        await self._pool.close()
        await self._writing.close()

    def _merging(self, operations: Sequence[Any]) -> Work[list[Any]]:
        return merging(operations, self.clock)

    # -- executions

    async def submit(self, executions: Sequence[Execution]) -> list[Execution]:
        """Add executions, all or none."""
        kept: list[Execution] = await self._writer.merged(NewExecution(tuple(executions)))
        return kept

    async def get(self, execution_id: str) -> Execution:
        """Return an execution with its request and context."""
        found = await self._pool.read(statement("get_executions"), [execution_id], [])
        if not found:
            raise unknown(execution_id)
        return whole_execution(found[0])

    async def find(
        self, wanted: ExecutionFilter, *, limit: int = 100, before: str | None = None
    ) -> list[Execution]:
        """Return executions without request, outputs and result, the youngest first."""
        query, arguments = lists.find(wanted, limit, before)
        return list(map(execution_from, await self._pool.read(query, *arguments)))

    async def apply(self, changes: Sequence[Change]) -> list[AppliedChange | None]:
        """Change executions, in one transaction; None for each change that does not hold."""
        settled: list[AppliedChange | None] = await self._writer.merged(Application(tuple(changes)))
        return settled

    async def schedule(self, scope: RoundScope, decide: Decide) -> list[AppliedChange]:
        """Look at what waits and at the workers, ask what to do, and do it, in one transaction.

        Where the server goes away amid the round, the next try is a round of its own, with another decision.
        """
        return await self._writer.alone(
            lambda connection: run_round(connection, scope, decide, self.clock.time(), self._memory)
        )

    async def next_due(self) -> float | None:
        """Return when the first submitted execution is due; None where none waits for a time."""
        found = await self._pool.read(statement("next_due"))
        return found[0][0] if found else None

    async def held(self, worker_id: str) -> list[Execution]:
        """Return what a worker holds, with requests."""
        found = await self._pool.read(statement("held"), worker_id)
        return [execution_from(row, *row[-2:]) for row in found]

    async def attempts(self, execution_id: str) -> list[Attempt]:
        """Return the attempts that ended, the first first."""
        return list(map(rows.attempt_of, await self._pool.read(statement("attempts"), execution_id)))

    async def counts(self) -> Counts:
        """Return how many executions wait and run."""
        counted = await self._pool.read(statement("counts"))
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
        found = await self._pool.read(statement("ended"), since, until, kind, control, limit or None)
        return list(map(rows.ended_of, found))

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
        chosen = sorted(map(str, types)) or None
        found = await self._pool.read(statement("events"), execution_id, after, limit, chosen)
        return list(map(rows.event_of, found))

    async def query_events(self, wanted: EventFilter, *, limit: int = 1000) -> list[Event]:
        """Return events of any execution, the latest first."""
        query, arguments = lists.query_events(wanted, limit)
        return list(map(rows.event_of, await self._pool.read(query, *arguments)))

    async def prune(self, *, noise_before: float, all_before: float, limit: int = 10_000) -> tuple[int, int]:
        """Remove what need not be kept any longer, in several transactions, so that others are not kept waiting."""
        events = executions = 0
        while limit > 0:
            wanted = min(limit, PRUNED_AT_ONCE)
            work = partial(_prune, noise_before=noise_before, all_before=all_before, limit=wanted)
            removed, gone, seen = await self._writer.alone(work)
            events, executions, limit = events + removed, executions + gone, limit - seen
            if seen < wanted:
                await self._change("prune_batches", all_before)
                await self._change("prune_workers", all_before)
                break
        return events, executions

    # -- workers

    async def put_worker(self, worker: Worker) -> None:
        """Add a worker, or change its capacity, slots, kinds, state and lease; what it reserves stays."""
        row = rows.worker_row(dataclasses.replace(worker, reserved=ZERO, running=0))
        await self._change("put_worker", *row, topics=(QUEUE, worker_topic(worker.id)))

    async def beat(self, worker_id: str, lease_until: float) -> bool:
        """Renew a worker's lease; False where it counts as lost or gone."""
        return bool(await self._line.fetch(statement("beat"), worker_id, lease_until))

    async def workers(self, *, active_only: bool = True) -> list[Worker]:
        """Return workers, the first to come first."""
        return list(map(rows.worker_of, await self._pool.read(statement("workers"), active_only)))

    async def living_workers(self) -> list[Worker]:
        """Return the workers that hold a lease, the first to come first."""
        return list(map(rows.worker_of, await self._pool.read(statement("living_workers"))))

    async def expire_workers(self, expired: Mapping[str, float]) -> list[str]:
        """Mark the workers lost whose lease is as it was seen, and return the ids of all lost ones that hold work."""
        seen = list(expired), list(expired.values())

        async def lose(connection: PostgresConnection) -> TransactionResult[list[str]]:
            lost = (
                [row[0] for row in await connection.fetch(statement("expire_workers"), *seen)]
                if expired
                else []
            )
            topics = {QUEUE, *map(worker_topic, lost)} if lost else set()
            return TransactionResult(
                [row[0] for row in await connection.fetch(statement("lost_workers"))], frozenset(topics)
            )

        return await self._writer.alone(lose)

    # -- schedules and batches

    async def put_schedule(self, schedule: CronSchedule) -> None:
        """Add a schedule or replace it."""
        await self._change("put_schedule", *rows.schedule_row(schedule), topics=(QUEUE,))

    async def schedules(self) -> list[CronSchedule]:
        """Return all schedules by id."""
        return list(map(rows.schedule_of, await self._pool.read(statement("schedules"))))

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule; False where there is none."""
        return bool(await self._change("remove_schedule", schedule_id))

    async def fire(self, before: CronSchedule, after: CronSchedule, execution: Execution) -> bool:
        """Submit a schedule's execution and move the schedule on, once."""
        moved = after.next_at, after.last_at, after.last_execution_id
        guard = before.next_at, int(before.paused)

        async def move_and_submit(connection: PostgresConnection) -> TransactionResult[bool]:
            if not await connection.fetch(statement("fire"), before.id, *moved, *guard):
                return TransactionResult(False)
            submitted = await submit_or_raise(connection, [execution], self.clock.time())
            return TransactionResult(True, submitted.topics, last=submitted.last)

        return await self._writer.alone(move_and_submit)

    async def put_batch(self, batch: Batch, executions: Sequence[Execution]) -> list[Execution]:
        """Add a batch with its executions, all or none; raises as `submit` does."""

        async def add(connection: PostgresConnection) -> TransactionResult[list[Execution]]:
            if not await connection.fetch(statement("add_batch"), *rows.batch_row(batch)):
                raise StoreConflict(f"the batch id {batch.id!r} is taken")
            return await submit_or_raise(connection, executions, self.clock.time())

        return await self._writer.alone(add)

    async def batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""
        found = await self._pool.read(statement("batch"), batch_id)
        return rows.batch_of(found[0]) if found else None

    async def batches(self, *, limit: int = 100) -> list[Batch]:
        """Return batches, the youngest first."""
        return list(map(rows.batch_of, await self._pool.read(statement("batches"), limit)))

    # -- settings that all processes share

    async def get_setting(self, name: str) -> Any:
        """Return a JSON value; None where it was never put."""
        found = await self._pool.read(statement("get_setting"), name)
        return from_json(found[0][0]) if found else None

    async def put_setting(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        await self._change("put_setting", name, to_json(value))

    # -- being told

    async def changed(self, topic: str, seen: int) -> int:
        """Wait until something happened to a topic since `seen`, and return what to pass next time."""
        return await self._hub.changed(topic, seen)

    async def _change(self, name: str, *arguments: Any, topics: Sequence[str] = ()) -> list[Any]:
        """Run one statement in a transaction of its own; return the rows that it returns."""

        async def change(connection: PostgresConnection) -> TransactionResult[list[Any]]:
            return TransactionResult(await connection.fetch(statement(name), *arguments), frozenset(topics))

        return await self._writer.alone(change)


async def _prune(
    connection: PostgresConnection, *, noise_before: float, all_before: float, limit: int
) -> TransactionResult[tuple[int, int, int]]:
    """Remove events and executions; returns how many, and how many executions were looked at."""
    removed = await connection.fetch(statement("prune_executions"), all_before, limit)
    gone = [row[0] for row in removed]
    events: int = sum(row[1] for row in removed)
    quiet = await connection.fetch(statement("prune_noise"), noise_before, limit - len(gone))
    events += sum(row[1] for row in quiet)
    topics = frozenset(map(execution_topic, gone))
    return TransactionResult((events, len(gone), len(gone) + len(quiet)), topics)
