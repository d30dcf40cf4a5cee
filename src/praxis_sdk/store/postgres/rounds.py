"""Rounds of scheduling: what a round holds nobody else can start, and it waits for no execution.

Several dispatchers may run rounds at once. A round takes the workers that nobody holds, then what waits and
nobody holds. If it got no worker although there are some, it waits for them before it takes anything else;
if others hold some of them, it may have missed a pair of work and room, so it asks for another round.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from praxis_sdk.store.changes import AppliedChange
from praxis_sdk.store.hub import QUEUE
from praxis_sdk.store.postgres.changing import settle_locked, unknown, writing
from praxis_sdk.store.postgres.connection import PostgresConnection
from praxis_sdk.store.postgres.statements import statement
from praxis_sdk.store.postgres.transactions import TransactionResult
from praxis_sdk.store.postgres.values import RowCache
from praxis_sdk.store.protocol import Decide, Round, RoundScope
from praxis_sdk.store.rows import WORKER, worker_of

_WORKER: Final = slice(2, 2 + len(WORKER))
_EXECUTION: Final = slice(2 + len(WORKER), None)


async def run_round(
    connection: PostgresConnection, scope: RoundScope, decide: Decide, now: float, memory: RowCache
) -> TransactionResult[list[AppliedChange]]:
    """Look, decide and write, in the connection's transaction.

    Args:
        connection: in a transaction.
        scope: what is looked at.
        decide: pure.
        now: seconds since 1970.
        memory: what was read lately.

    Returns:
        What came of the changes that held, and what it is news for.

    Raises:
        UnknownExecution: a change names an execution that there is not.
    """
    kinds = sorted(scope.kinds) or None
    look = partial(connection.fetch, statement("round_look"), now, kinds, scope.candidates)
    workers, due, waiting, missed = _parts(await look())
    if not workers and await connection.fetch(statement("wait_for_workers")):
        workers, due, waiting, missed = _parts(await look())
    if not workers:
        due = await connection.fetch(statement("round_due"), now, kinds, scope.candidates)
        waiting = await connection.fetch(statement("round_waiting_unlocked"), kinds, scope.candidates)
    running = []
    if scope.batch_running:
        running = await connection.fetch(statement("round_running"), kinds, scope.batch_running)
    seen = Round(
        now,
        tuple(map(memory.execution_from, due)),
        tuple(map(memory.execution_from, waiting)),
        tuple(map(worker_of, workers)),
        tuple(map(memory.execution_from, running)),
    )
    changes = decide(seen)
    locked = {one.id: one for one in (*seen.due, *(seen.waiting if workers else ()), *seen.running)}
    missing = sorted({change.execution_id for change in changes} - locked.keys())
    if missing:
        there_are = {row[0] for row in await connection.fetch(statement("executions_there"), missing)}
        for execution_id in missing:
            if execution_id not in there_are:
                raise unknown(execution_id)
        rows = await connection.fetch(statement("lock_free_executions"), missing)
        locked |= {row[0]: memory.execution_from(row) for row in rows}
    writes = settle_locked(changes, locked, now)
    topics = writes.topics(scope.local_workers)
    if missed:
        topics.add(QUEUE)
    return TransactionResult(writes.settled, frozenset(topics), bool(writes.settled), writing(writes))


_Rows = list[Any]


def _parts(rows: _Rows) -> tuple[_Rows, _Rows, _Rows, bool]:
    """Return the workers, what is due and what waits of `round_look`, and whether others hold some workers."""
    parts: tuple[_Rows, _Rows, _Rows] = ([], [], [])
    for row in rows:
        parts[row[0]].append(row[_WORKER] if row[0] == 0 else row[_EXECUTION])
    return *parts, bool(parts[0]) and rows[0][1] > len(parts[0])
