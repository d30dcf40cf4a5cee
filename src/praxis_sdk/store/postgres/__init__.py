"""The store beyond one machine, on PostgreSQL (extra: `postgres`).

`store`         the Store protocol, put together from what follows
`connection`    the one module that knows asyncpg: the pool, and which errors pass when one waits
`transactions`  a transaction that is kept exactly once, also when the server goes away during COMMIT
`writer`        merges what callers write at the same time into one transaction
`changing`      submissions and changes in SQL
`rounds`        rounds of scheduling: what is locked, and in which order
`lists`         reading: what is found by filters
`listener`      news from other processes, by LISTEN
`schema`        the numbered migrations
`statements`    the SQL, by name

Locks are taken in one order: executions by id, then workers by id. A round takes workers first, but then waits
for nothing: it passes over every execution that somebody else holds. So no two transactions wait for each other.
"""

from praxis_sdk.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
