"""A transaction that is kept exactly once, also when the server goes away.

Theory of operation. What fails before COMMIT is sent was not kept, and is done again. When the connection is
lost during COMMIT nobody knows: the server may have kept it, may have not, or may be about to. Therefore each
transaction ends by writing its number into its writer's row (table `writers`), which no other transaction uses
at the same time; where it can, its last statement does that beside its own work. Before such a transaction is
done again, that row is read under a lock: the lock waits for a server process that is still at it, and the
number then tells. The row is part of the data, so the answer is also right after a failover to a standby, where
the transaction is there with its number, or neither is.

A caller who is told `StoreUnavailable` may not know whether the operation was kept. It may repeat it: what is
submitted has an id or an idempotency key, and a change holds once (`store.changes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from uuid import uuid4

from praxis_sdk.clock import Clock
from praxis_sdk.errors import PraxisError
from praxis_sdk.store.postgres.connection import ConnectionPool, Patience, PostgresConnection
from praxis_sdk.store.postgres.statements import statement

MAX_NEWS_BYTES: Final = 7000  # PostgreSQL takes 7999 in one notification
MAX_COLLISIONS: Final = 20
_FORGET_WRITERS_AFTER_S: Final = 30 * 86400.0

T = TypeVar("T")


class Collision(PraxisError):
    """Somebody else took an id or a key at the same moment: the transaction is done again, and sees it then."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A statement that writes, and that can mark its transaction at the same time.

    Args:
        name: its last four parameters are those of `mark`.
        arguments: the others.
        rows: what its first column must say; anything else is a collision.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    rows: int | None = None

    async def run(self, connection: PostgresConnection, *mark: Any) -> bool:
        """Do it, and mark the transaction where `mark` is given; returns whether it is marked now.

        Raises:
            Collision: it wrote fewer rows than it should have.
        """
        arguments = (*self.arguments, *(mark or _NO_MARK))
        written, marked, _ = (await connection.fetch(statement(self.name), *arguments))[0]
        if self.rows is not None and written != self.rows:
            raise Collision("an id or an idempotency key is being taken by others again and again")
        return bool(marked)


_MARK: Final = Writing("mark")
_NO_MARK: Final = (None, 0, 0.0, ())


@dataclass(frozen=True, slots=True)
class TransactionResult(Generic[T]):
    """What a transaction came to, once it is kept.

    Args:
        result: for the caller.
        topics: what it is news for.
        wrote: whether there is anything to keep; where there is not, nobody waits for the disk.
        last: what is still to be written, so that it shares its round trip with the mark.
    """

    result: T
    topics: frozenset[str] = frozenset()
    wrote: bool = True
    last: Writing | None = None


Work = Callable[[PostgresConnection], Awaitable[TransactionResult[T]]]


@dataclass(slots=True)
class Writer:
    """One that has at most one transaction under way.

    Args:
        id: its row.
        commits: the number of its last transaction.
        known: whether its row is there.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    commits: int = 0
    known: bool = False


class Transactions:
    """Does transactions, each exactly once.

    Args:
        pool: where connections come from.
        clock: the time.
        origin: names this store to itself among those who notify.
        ring: is told the topics of what was kept.
    """

    def __init__(
        self, pool: ConnectionPool, clock: Clock, origin: str, ring: Callable[[Iterable[str]], None]
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._origin = origin
        self._ring = ring

    async def do(self, writer: Writer, work: Work[T]) -> T:
        """Run a transaction and return its result when it is durable.

        Args:
            writer: whose transaction; one that is not in use.
            work: does it all on the connection; runs again where the server was away.

        Raises:
            StoreUnavailable: the server stayed away; whether the transaction was kept is not known.
            PraxisError: what `work` raised; nothing was kept.
        """
        patience = Patience(self._pool.patience_s)
        writer.commits += 1
        doubtful: TransactionResult[T] | None = None
        collisions = 0
        while True:
            failed: PraxisError | None = None
            kept: TransactionResult[T] | None = None
            try:
                async with self._pool.connection() as connection:
                    if doubtful is not None and await self._kept(connection, writer):
                        return self._told(doubtful)
                    doubtful = None
                    if not writer.known:
                        now = self._clock.time()
                        await connection.execute(statement("add_writer"), writer.id, now)
                        writer.known = True
                    transaction = connection.transaction()
                    await transaction.start()
                    try:
                        outcome = await work(connection)
                        if outcome.wrote:
                            await self._mark(connection, writer, outcome)
                    except PraxisError as error:
                        await transaction.rollback()
                        failed = error
                    else:
                        if outcome.wrote:
                            doubtful = outcome
                            await transaction.commit()
                        else:
                            await transaction.rollback()
                        kept = outcome
            except Exception as error:  # noqa: BLE001 patience raises what does not pass
                await patience.spend(error)
            if kept is not None:
                return self._told(kept)
            if isinstance(failed, Collision) and collisions < MAX_COLLISIONS:
                collisions += 1
            elif failed is not None:
                raise failed

    def _told(self, outcome: TransactionResult[T]) -> T:
        """Ring for what is kept, right after its caller: whoever wakes may find in memory what that one knows now."""
        asyncio.get_running_loop().call_soon(self._ring, outcome.topics)
        return outcome.result

    async def forget(self, writers: Iterable[Writer]) -> None:
        """Remove the rows of writers that are done, and those that nobody has used for long."""
        ids = [writer.id for writer in writers if writer.known]
        with suppress(Exception):  # rows that are left are removed by the next store that closes
            async with self._pool.connection() as connection:
                long_ago = self._clock.time() - _FORGET_WRITERS_AFTER_S
                await connection.execute(statement("remove_writers"), ids, long_ago)

    async def _kept(self, connection: PostgresConnection, writer: Writer) -> bool:
        number = await connection.fetchval(statement("marked"), writer.id)
        return number is not None and number >= writer.commits

    async def _mark(
        self, connection: PostgresConnection, writer: Writer, outcome: TransactionResult[Any]
    ) -> None:
        news = list(packed(self._origin, outcome.topics))
        last = outcome.last or _MARK
        marked = await last.run(connection, writer.id, writer.commits, self._clock.time(), news)
        if not marked:  # it was idle for very long, and its row was removed
            writer.known = False
            raise ConnectionResetError("the writer's row is gone")


def packed(origin: str, topics: Iterable[str]) -> Iterable[str]:
    """Return topics as notifications of bounded length, each with its origin in the first line."""
    lines, length = [origin], len(origin)
    for topic in topics:
        size = len(topic.encode()) + 1
        if length + size > MAX_NEWS_BYTES and len(lines) > 1:
            yield "\n".join(lines)
            lines, length = [origin], len(origin)
        lines.append(topic)
        length += size
    if len(lines) > 1:
        yield "\n".join(lines)


def unpacked(payload: str) -> tuple[str, list[str]]:
    """Return the origin and the topics of a notification."""
    origin, *topics = payload.split("\n")
    return origin, topics
