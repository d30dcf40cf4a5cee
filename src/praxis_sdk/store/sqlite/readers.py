"""Readers: threads with a connection each, so that reading waits neither for a commit nor for the loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite.connection import FileWatch, connect, explained

MAX_WAITING: Final = 1024

Result = TypeVar("Result")
Question = Callable[[sqlite3.Connection], Result]


class InlineReader:
    """Answers in the task that asks, on the writer's connection.

    Args:
        connection: where it looks.
        path: what messages call the database.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    async def ask(self, question: Question[Result]) -> Result:
        """Return the answer to a question."""
        try:
            return question(self._connection)
        except (sqlite3.Error, UnicodeError) as error:
            raise explained(error, self._path) from error

    async def close(self) -> None:
        """Do nothing: the connection is the writer's."""


class ThreadReader:
    """Answers questions in a thread; each answer is of one moment, after all that was acknowledged before.

    Args:
        path: the database's file.
        name: what kind of questions it answers, for people who look at threads.
        file: notices that the file is another by now.
    """

    def __init__(self, path: str, name: str, file: FileWatch) -> None:
        self._path = path
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._asked: queue.SimpleQueue[tuple[Question[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"praxis-store-{name}", daemon=True)
        self._thread.start()

    async def ask(self, question: Question[Result]) -> Result:
        """Return the answer to a question.

        Raises:
            StoreUnavailable: the database cannot be read, or the store is closed.
        """
        async with self._room:
            if self._closing:
                raise StoreUnavailable("the store is closed")
            future: asyncio.Future[Result] = self._loop.create_future()
            self._asked.put((question, future))
            return await future

    async def close(self) -> None:
        """Answer what was asked and end the thread; repeatable."""
        if not self._closing:
            self._closing = True
            self._asked.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (asked := self._asked.get()) is not None:
            question, future = asked
            answer: Any = None
            failure: BaseException | None = None
            try:
                self._file.begin()
                if connection is None:
                    connection = connect(self._path, read_only=True)
                answer = question(connection)
                self._file.glance()
                self._file.used()
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                failure = explained(self._file.reason(error), self._path)
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who asked
                self._loop.call_soon_threadsafe(_deliver, future, answer, failure)
        if connection is not None:
            connection.close()


def _deliver(future: asyncio.Future[Any], answer: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(answer)
