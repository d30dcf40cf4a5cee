"""Rounds of scheduling: what a round holds nobody else can start, and it waits for no execution.

Several dispatchers may run rounds at once. A round takes the workers that nobody holds, then what waits and
nobody holds. If it got no worker although there are some, it waits for them before it takes anything else;
if others hold some of them, it may have missed a pair of work and room, so it asks for another round.
"""

from __future__ import annotations

from praxis_sdk.store.changes import Settled
from praxis_sdk.store.hub import QUEUE
from praxis_sdk.store.postgres.changing import settle_locked, unknown, write
from praxis_sdk.store.postgres.connection import Connection
from praxis_sdk.store.postgres.statements import statement
from praxis_sdk.store.postgres.transactions import Outcome
from praxis_sdk.store.postgres.values import Memory
from praxis_sdk.store.protocol import Decide, Round, RoundScope
from praxis_sdk.store.rows import worker_of


async def run_round(
    connection: Connection, scope: RoundScope, decide: Decide, now: float, memory: Memory
) -> Outcome[list[Settled]]:
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
    workers = await connection.fetch(statement("round_workers"))
    if not workers and await connection.fetch(statement("wait_for_workers")):
        workers = await connection.fetch(statement("round_workers"))
    missed = bool(workers) and workers[0]["there"] > len(workers)
    kinds = sorted(scope.kinds) or None
    limit = scope.candidates
    due = await connection.fetch(statement("round_due"), now, kinds, limit)
    waiting = await connection.fetch(
        statement("round_waiting" if workers else "round_waiting_unlocked"), kinds, limit
    )
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
    await write(connection, writes)
    topics = writes.topics(scope.local_workers)
    if missed:
        topics.add(QUEUE)
    return Outcome(writes.settled, frozenset(topics), wrote=bool(writes.settled))
