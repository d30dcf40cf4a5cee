"""What one transaction does to executions: submissions, changes, rounds of scheduling.

A transaction lives in the writer's thread, on a connection that holds the write lock. It gathers the topics
that are rung once it is committed, and by how much the reservations of workers change, which are written at its end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from praxis_sdk.model import Event, EventType, Execution
from praxis_sdk.store import rows
from praxis_sdk.store.changes import AppliedChange, Change, Reservations, apply_change, created
from praxis_sdk.store.encoding import canonical_json, to_json
from praxis_sdk.store.hub import QUEUE, execution_topic, topics_of, worker_topic
from praxis_sdk.store.protocol import Decide, Round, RoundScope, StoreConflict, UnknownExecution
from praxis_sdk.store.sqlite.earliest import EarliestTime
from praxis_sdk.store.sqlite.statements import SQL

NOISE: Final = frozenset({EventType.LOG, EventType.PROGRESS})
MAX_REMEMBERED: Final = 4096

_BY_ID: Final = SQL["by_id"]
_REVISION: Final = SQL["revision"]
_MOVE: Final = SQL["move"]
_NOTE: Final = SQL["note"]
_INSERT_EVENT: Final = SQL["insert_event"]


class RevisionCache:
    """Executions as they were read or written last, without request and result.

    Most of what a round sees was in the round before it, and reading a whole row costs many times as much as
    asking for its revision. Nothing is taken from here without asking for that.

    Args:
        limit: so many executions; those not used for longest are forgotten.
    """

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._known: dict[str, tuple[int, Execution]] = {}

    def get(self, execution_id: str, revision: int) -> Execution | None:
        """Return an execution of this revision; None where it is not remembered."""
        known = self._known.pop(execution_id, None)
        if known is None or known[0] != revision:
            return None
        self._known[execution_id] = known
        return known[1]

    def put(self, execution_id: str, revision: int, execution: Execution) -> None:
        """Remember an execution, unless it has ended: then nobody asks for it often."""
        self._known.pop(execution_id, None)
        if execution.status.final:
            return
        if len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
        self._known[execution_id] = revision, execution

    def clear(self) -> None:
        """Forget everything, since what was written is not there after all."""
        self._known.clear()


class SqliteTransaction:
    """One operation's part of a transaction.

    Args:
        connection: holds the write lock.
        now: seconds since 1970.
        memory: what was read lately on this connection.
        earliest: knows the earliest that the time can be.
    """

    __slots__ = ("_earliest", "_loaded", "_memory", "_reservations", "connection", "now", "topics")

    def __init__(
        self, connection: sqlite3.Connection, now: float, memory: RevisionCache, earliest: EarliestTime
    ) -> None:
        self.connection = connection
        self.now = now
        self.topics: set[str] = set()
        self._memory = memory
        self._earliest = earliest
        self._loaded: dict[str, tuple[int, Execution]] = {}  # by revision; nobody else can change them now
        self._reservations = Reservations()

    def execute(self, name: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Run a statement by name."""
        return self.connection.execute(SQL[name], parameters)

    def finish(self) -> None:
        """Write what was gathered, and remember what was loaded; called once, at the end of the operation."""
        for worker_id, (amount, count) in self._reservations.held.items():
            self.execute("reserve", (*amount.amounts(), count, worker_id))
        for execution_id, (revision, execution) in self._loaded.items():
            self._memory.put(execution_id, revision, execution)

    # -- submitting

    def submit(self, executions: Iterable[Execution]) -> list[Execution]:
        """Add executions, or find those that were submitted under the same key."""
        return [self._submit_one(execution) for execution in executions]

    def _submit_one(self, execution: Execution) -> Execution:
        if execution.idempotency_key is not None:
            kept = self._kept_under(execution.idempotency_key)
            if kept is not None:
                if _same_work(kept, execution):
                    return kept
                raise StoreConflict(
                    f"the idempotency key {execution.idempotency_key!r} was used for something else",
                    remedy="use a new key for new work",
                )
        settled = created(execution, self.now)
        try:
            self.execute("insert_execution", rows.execution_row(settled.after))
        except sqlite3.IntegrityError as error:
            raise StoreConflict(f"the execution id {execution.id!r} is taken") from error
        self.execute("insert_document", rows.document_row(execution))
        if execution.labels:
            labels = [(name, value, execution.id) for name, value in execution.labels.items()]
            self.connection.executemany(SQL["insert_label"], labels)
        self._append(settled.events)
        self.topics |= topics_of(settled)
        self._loaded[execution.id] = 0, settled.after.but(request=None, context=None)
        return settled.after

    def _kept_under(self, key: str) -> Execution | None:
        found = self.execute("by_key", (key,)).fetchone()
        return None if found is None else whole(self.connection, found[0])

    # -- changing

    def apply(self, changes: Iterable[Change]) -> list[AppliedChange | None]:
        """Change executions by guarded changes."""
        return [self._change(change) for change in changes]

    def schedule(self, scope: RoundScope, decide: Decide) -> list[AppliedChange]:
        """Let a round be decided, and do what was decided."""
        results: list[AppliedChange] = []
        for change in decide(self._round(scope)):
            settled = self._change(change, scope.local_workers)
            if settled is not None:
                results.append(settled)
        return results

    def _round(self, scope: RoundScope) -> Round:
        kinds = to_json(sorted(scope.kinds)) if scope.kinds else None
        wanted = {"now": self.now, "kinds": kinds, "limit": scope.candidates}
        running: tuple[Execution, ...] = ()
        if scope.batch_running:
            running = self._executions("batch_running", wanted | {"limit": scope.batch_running})
        workers = self.execute("workers", {"active_only": True})
        return Round(
            now=self.now,
            due=self._executions("due", wanted),
            waiting=self._executions("waiting", wanted),
            workers=tuple(map(rows.worker_of, workers)),
            running=running,
            earliest=self._earliest.of(self.connection, self.now),
        )

    def _executions(self, name: str, parameters: Mapping[str, Any]) -> tuple[Execution, ...]:
        return tuple(self._recall(*row) for row in self.execute(name, parameters).fetchall())

    def _load(self, execution_id: str) -> tuple[int, Execution]:
        loaded = self._loaded.get(execution_id)
        if loaded is None:
            row = self.connection.execute(_REVISION, (execution_id,)).fetchone()
            if row is None:
                raise unknown(execution_id)
            self._recall(execution_id, row[0])
            loaded = self._loaded[execution_id]
        return loaded

    def _recall(self, execution_id: str, revision: int) -> Execution:
        execution = self._memory.get(execution_id, revision)
        if execution is None:
            execution = rows.execution_of(self.connection.execute(_BY_ID, (execution_id,)).fetchone())
        self._loaded[execution_id] = revision, execution
        return execution

    def _change(self, change: Change, local_workers: frozenset[str] = frozenset()) -> AppliedChange | None:
        revision, execution = self._load(change.execution_id)
        settled = apply_change(execution, change, self.now)
        if settled is None:
            return None
        after, update = settled.after, change.update
        if rows.moves(update):
            self.connection.execute(_MOVE, (*rows.moving_row(after), revision + 1, after.id))
            self._reservations.note(settled)
        elif update or settled.events:
            self.connection.execute(_NOTE, (*rows.rest_row(after), revision + 1, after.id))
        else:
            revision -= 1  # there is nothing to write
        kept = after
        if "outputs" in update or "result" in update:
            self._put_result(after, update)
            kept = after if after.status.final else after.but(outputs=None, result=None)
        self._loaded[after.id] = revision + 1, kept
        self._append(settled.events)
        if settled.attempt is not None:
            self.execute("insert_attempt", rows.attempt_row(settled.attempt))
        self.topics |= topics_of(settled, local_workers)
        return settled

    def _put_result(self, after: Execution, update: Mapping[str, Any]) -> None:
        """Write what came of an execution; most that fail leave nothing, and need no row for it."""
        of_outputs, of_result = "outputs" in update, "result" in update
        if of_outputs and of_result and after.outputs is None and after.result is None:
            self.execute("delete_results", (to_json([after.id]),))
        else:
            self.execute("put_result", (*rows.result_row(after), of_outputs, of_result))

    def _append(self, events: Sequence[Event]) -> None:
        if not events:
            return
        if len(events) == 1:
            self.connection.execute(_INSERT_EVENT, rows.event_row(events[0]))
        else:
            self.connection.executemany(_INSERT_EVENT, map(rows.event_row, events))
        if any(event.type in NOISE for event in events):
            self.execute("mark_noisy", (events[0].execution_id,))

    # -- workers

    def expire_workers(self, expired: Mapping[str, float]) -> list[str]:
        """Mark workers lost whose lease is as it was seen, and return all lost ones that hold work."""
        for worker_id, lease_until in expired.items():
            if self.execute("lose", (worker_id, lease_until)).rowcount:
                self.topics |= {QUEUE, worker_topic(worker_id)}
        return [worker_id for (worker_id,) in self.execute("lost")]

    # -- forgetting

    def prune(self, noise_before: float, all_before: float, limit: int) -> tuple[int, int, int]:
        """Remove what need not be kept.

        Returns:
            How many events and executions were removed, and how many executions were looked at.
        """
        doubted_s = self.now - self._earliest.of(self.connection, self.now)
        noise_before, all_before = noise_before - doubted_s, all_before - doubted_s
        gone = [row[0] for row in self.execute("ended_before", (all_before, limit))]
        events = 0
        if gone:
            ids = to_json(gone)
            events = self.execute("delete_events", (ids,)).rowcount
            for table in ("documents", "results", "attempts", "labels", "executions"):
                self.execute(f"delete_{table}", (ids,))
            self.topics.update(map(execution_topic, gone))
        noisy = [row[0] for row in self.execute("noisy_before", (noise_before, limit - len(gone)))]
        if noisy:
            ids = to_json(noisy)
            events += self.execute("delete_noise", (ids,)).rowcount
            self.execute("mark_quiet", (ids,))
        return events, len(gone), len(gone) + len(noisy)


def whole(connection: sqlite3.Connection, execution_id: str) -> Execution | None:
    """Return an execution with its request, context, outputs and result; None where there is none."""
    row = connection.execute(SQL["whole"], (execution_id,)).fetchone()
    return None if row is None else rows.execution_of(row[:-4], *row[-4:])


def unknown(execution_id: str) -> UnknownExecution:
    """Return the error that says that there is no such execution."""
    return UnknownExecution(
        f"there is no execution {execution_id!r}", remedy="'praxis ps --all' shows those there are"
    )


def _same_work(kept: Execution, wanted: Execution) -> bool:
    return (
        kept.kind == wanted.kind
        and kept.control == wanted.control
        and canonical_json(kept.request) == canonical_json(wanted.request)
    )
