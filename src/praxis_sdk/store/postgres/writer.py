"""Merges what callers write at the same time into one transaction.

While a transaction is under way, what arrives waits; the next transaction then takes it all. So the cost of a
round trip and of the disk's flush is shared, the more the more callers there are, and a single caller waits
for nobody. An operation that fails leaves the others alone: what can be foreseen fails by itself inside the
transaction, and when the whole transaction fails for any other reason, its operations are done one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from praxis_sdk.errors import PraxisError
from praxis_sdk.store.postgres.transactions import Transactions, Work, Writer
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.supervisor import Supervisor

MAX_MERGED: Final = 512  # executions and changes in one transaction, beyond the first operation's own
MAX_WAITING: Final = 4096  # operations; further callers wait before the queue

T = TypeVar("T")


class Mergeable(Protocol):
    """What can share a transaction with others of its kind."""

    @property
    def weight(self) -> int:
        """How many executions it is about."""


Merge = Callable[[Sequence[Any]], Work[list[Any]]]


@dataclass(slots=True)
class _Waiting:
    """An operation and who waits for it: either `work` of its own, or something to merge."""

    future: asyncio.Future[Any]
    work: Work[Any] | None = None
    merged: Any = None
    weight: int = 1


class GroupCommit:
    """Does operations, several in one transaction where they can share one.

    Args:
        transactions: does transactions.
        merge: makes of mergeable operations a transaction; its result has for each a result or a `PraxisError`.
        lanes: how many transactions may be under way at once.
    """

    def __init__(self, transactions: Transactions, merge: Merge, *, lanes: int) -> None:
        self._transactions = transactions
        self._merge = merge
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._closing = False
        self._writers = [Writer() for _ in range(lanes)]
        self.tasks = Supervisor()
        for number, writer in enumerate(self._writers):
            self.tasks.start(f"store.writer {number}", partial(self._lane, writer))

    async def merged(self, operation: Mergeable) -> Any:
        """Do an operation together with others.

        Raises:
            PraxisError: what it failed with.
        """
        return await self._put(merged=operation, weight=operation.weight)

    async def alone(self, work: Work[T]) -> T:
        """Do a transaction of its own, in its turn.

        Raises:
            PraxisError: what it failed with.
        """
        result: T = await self._put(work=work)
        return result

    async def close(self) -> None:
        """Do what waits, then end; repeatable."""
        self._closing = True
        self._arrived.set()
        await self.tasks.finished()
        await self._transactions.forget(self._writers)

    async def _put(self, *, work: Work[Any] | None = None, merged: Any = None, weight: int = 1) -> Any:
        async with self._room:
            if self._closing:
                raise StoreUnavailable("the store is closed")
            future = asyncio.get_running_loop().create_future()
            self._queue.append(_Waiting(future, work, merged, weight))
            self._arrived.set()
            # A caller who is cancelled goes away; what it began is finished all the same.
            return await future

    async def _lane(self, writer: Writer) -> None:
        while True:
            while not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            group = self._take()
            try:
                if group and group[0].work is not None:
                    await self._one(writer, group[0])
                elif group:
                    await self._group(writer, group)
            finally:  # where this lane itself fails, nobody waits for it for ever
                for waiting in group:
                    _fail(
                        waiting,
                        StoreUnavailable("the store's writer failed; whether this was kept is not known"),
                    )

    def _take(self) -> list[_Waiting]:
        """Take the first operation, and with it those right behind it that can share its transaction."""
        group: list[_Waiting] = []
        weight = 0
        while self._queue:
            first = self._queue[0]
            if first.future.cancelled():
                self._queue.popleft()
                continue
            if group and (first.work is not None or weight + first.weight > MAX_MERGED):
                break
            group.append(self._queue.popleft())
            weight += first.weight
            if first.work is not None:
                break
        return group

    async def _one(self, writer: Writer, waiting: _Waiting) -> None:
        assert waiting.work is not None
        try:
            result = await self._transactions.do(writer, waiting.work)
        except Exception as error:  # noqa: BLE001 the caller gets it
            _fail(waiting, error)
        else:
            _succeed(waiting, result)

    async def _group(self, writer: Writer, group: list[_Waiting]) -> None:
        operations = [waiting.merged for waiting in group]
        try:
            results = await self._transactions.do(writer, self._merge(operations))
        except StoreUnavailable as error:
            for waiting in group:
                _fail(waiting, error)
        except Exception as error:  # noqa: BLE001 the caller gets it
            if len(group) == 1:
                _fail(group[0], error)
                return
            for waiting in group:
                await self._group(writer, [waiting])
        else:
            for waiting, result in zip(group, results, strict=True):
                if isinstance(result, PraxisError):
                    _fail(waiting, result)
                else:
                    _succeed(waiting, result)


def _succeed(waiting: _Waiting, result: Any) -> None:
    if not waiting.future.done():
        waiting.future.set_result(result)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
