"""The writer: one thread that commits what callers want written, in groups.

A commit waits for the disk, which costs the same for one operation as for a hundred. So whoever comes while a
commit is under way waits for the next one, and shares it with all who came meanwhile:

    callers --> queue (bounded) --> BEGIN, [SAVEPOINT, operation, RELEASE] ..., COMMIT --> all results at once

An operation that fails is rolled back alone, and only its caller learns of it. A group whose commit fails (a
full disk) fails as a whole, nothing of it is kept, and the next group is tried afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from praxis_sdk.clock import Clock
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite.connection import FileWatch, connect, explained
from praxis_sdk.store.sqlite.earliest import EarliestTime
from praxis_sdk.store.sqlite.transaction import RevisionCache, SqliteTransaction
from praxis_sdk.store.sqlite.turn import Turns

MAX_GROUP: Final = 256  # operations in one commit: so long waits who comes first
MAX_QUEUED: Final = 1024  # operations that wait; more callers wait for their turn to queue

_WAKE: Final = object()  # something urgent is there

Result = TypeVar("Result")
Operation = Callable[[SqliteTransaction], Result]


@dataclass(slots=True)
class _Asked:
    """One operation with its caller, and what came of it."""

    operation: Operation[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    topics: frozenset[str] | set[str] = frozenset()


class InlineWriter:
    """Runs each operation in a transaction of its own, in the task that asks: nothing happens by itself.

    Args:
        connection: it is used by nothing else.
        path: what messages call the database.
        clock: the time that transactions see.
        told: called after each commit with the topics that have news.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: str, clock: Clock, told: Callable[[Iterable[str]], None]
    ) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock
        self._told = told
        self._memory = RevisionCache()
        self._earliest = EarliestTime(clock)
        self.commits = 0

    async def run(self, operation: Operation[Result], *, urgent: bool = False) -> Result:
        """Run an operation and commit it."""
        transaction = SqliteTransaction(
            self._connection, float(self._clock.time()), self._memory, self._earliest
        )
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._earliest.note(self._connection)
            result = operation(transaction)
            transaction.finish()
            self._connection.execute("COMMIT")
            self.commits += 1
        except BaseException as error:
            self._memory.clear()
            self._earliest.forget()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            meaning = explained(error, self._path)
            if meaning is error:
                raise
            raise meaning from error
        self._told(transaction.topics)
        return result

    async def close(self) -> None:
        """Let go of the connection; repeatable."""
        self._connection.close()


class RefusingWriter:
    """Writes nothing: the store is only looked at.

    Args:
        connection: is closed with it.
        path: what messages call the database.
    """

    commits = 0

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    async def run(self, operation: Operation[Result], *, urgent: bool = False) -> Result:
        """Refuse an operation.

        Raises:
            StoreUnavailable: always.
        """
        raise StoreUnavailable(
            f"the folder of the store {self._path} cannot be written to: it can only be looked at",
            remedy="set PRAXIS_HOME to a folder of yours",
        )

    async def close(self) -> None:
        """Close the connection; repeatable."""
        self._connection.close()


class GroupWriter:
    """Runs operations in groups, in a thread of its own.

    Args:
        connection: it is used by nothing else.
        path: the database's file.
        turns: this process' way to its turn among others; closed with the writer.
        file: notices that the file is another by now.
        clock: the time that transactions see.
        told: called in the event loop after each commit with the topics that have news.
        committed: called in the writer's thread after each commit, with the same.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        turns: Turns,
        file: FileWatch,
        clock: Clock,
        told: Callable[[Iterable[str]], None],
        committed: Callable[[set[str]], None],
    ) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._path = path
        self._file = file
        self._turns = turns
        self._clock = clock
        self._told = told
        self._committed = committed
        self._memory = RevisionCache()
        self._earliest = EarliestTime(clock)
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(MAX_QUEUED)
        self._asked: queue.SimpleQueue[_Asked | object | None] = queue.SimpleQueue()
        self._urgent: deque[_Asked] = deque()
        self._closing = False
        self.commits = 0
        self._thread = threading.Thread(target=self._work, name="praxis-store-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Operation[Result], *, urgent: bool = False) -> Result:
        """Have an operation run, and return its result once it is committed.

        Args:
            operation: what is done.
            urgent: whether it goes before all that waits.

        Raises:
            StoreUnavailable: it could not be committed, or the store is closed.
        """
        if urgent and not self._closing:
            asked = _Asked(operation, self._loop.create_future())
            self._urgent.append(asked)
            self._asked.put(_WAKE)
            answer: Result = await asked.future
            return answer
        async with self._room:
            if self._closing:
                raise StoreUnavailable("the store is closed")
            asked = _Asked(operation, self._loop.create_future())
            self._asked.put(asked)
            result: Result = await asked.future
            return result

    async def close(self) -> None:
        """Commit what was asked for and end the thread; repeatable."""
        if not self._closing:
            self._closing = True
            self._asked.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- in the writer's thread

    def _work(self) -> None:
        ending = False
        while not ending:
            group, ending = self._next_group()
            if group:
                self._run_group(group)
        if self._connection is not None:
            self._connection.close()
        self._turns.close()

    def _next_group(self) -> tuple[list[_Asked], bool]:
        """Wait for an operation, and take with it all that wait already; and whether it is the last group."""
        group: list[_Asked] = []
        ending = False
        first = self._asked.get()
        with contextlib.suppress(queue.Empty):
            while not (ending := first is None) and len(group) < MAX_GROUP:
                if isinstance(first, _Asked):
                    group.append(first)
                if len(group) < MAX_GROUP:
                    first = self._asked.get_nowait()
        urgent: list[_Asked] = []
        while self._urgent:
            urgent.append(self._urgent.popleft())
        return urgent + group, ending

    def _run_group(self, group: list[_Asked]) -> None:
        try:
            self._file.begin()
            with self._turns.taken(lambda: not all(asked.future.cancelled() for asked in group)):
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE")
                self._earliest.note(connection)
                for asked in group:
                    self._run_one(connection, asked)
                connection.execute("COMMIT")
                self._file.check()  # what went into a file that nobody finds any more is not kept
                self._file.used()
            self.commits += 1
        except Exception as error:  # noqa: BLE001 - the thread outlives it, and all callers are told
            self._fail(group, self._file.reason(error))
        topics = set().union(*(asked.topics for asked in group))
        if topics:
            with contextlib.suppress(OSError):  # the others look by themselves, too
                self._committed(topics)
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it all who waited
            self._loop.call_soon_threadsafe(self._deliver, group, topics)

    def _run_one(self, connection: sqlite3.Connection, asked: _Asked) -> None:
        """Run one operation in a savepoint.

        Raises:
            sqlite3.Error: the whole transaction is lost.
        """
        if asked.future.cancelled():
            return
        transaction = SqliteTransaction(connection, float(self._clock.time()), self._memory, self._earliest)
        connection.execute("SAVEPOINT operation")
        try:
            asked.result = asked.operation(transaction)
            transaction.finish()
        except Exception as error:
            if not connection.in_transaction:  # SQLite gave the transaction up: a full disk, an I/O error
                raise
            connection.execute("ROLLBACK TO operation")
            asked.error = explained(self._file.reason(error), self._path)
        else:
            asked.topics = transaction.topics
        connection.execute("RELEASE operation")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path)
        return self._connection

    def _fail(self, group: list[_Asked], error: BaseException) -> None:
        """Give up a transaction; those whose operation failed by itself keep their own error."""
        self._memory.clear()
        self._earliest.forget()
        for asked in group:
            asked.result, asked.topics = None, frozenset()
            asked.error = asked.error or explained(error, self._path)
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop_connection()

    def _drop_connection(self) -> None:
        """Forget a connection that cannot even roll back; the next group opens another."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        self._file.closed()

    # -- in the event loop

    def _deliver(self, group: list[_Asked], topics: set[str]) -> None:
        for asked in group:
            if asked.future.done():
                continue
            if asked.error is not None:
                asked.future.set_exception(asked.error)
            else:
                asked.future.set_result(asked.result)
        self._told(topics)
