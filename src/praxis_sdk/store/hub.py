"""The hub: who waits for news of a topic in this process is woken here.

Every ring gets a number that only grows. The hub remembers the last ring of each topic for a limited number of
topics; of the others it knows only that their last ring is not after `floor`. So memory is bounded, a wake that
is needed always comes, and one that is not needed comes at most once for a topic that was forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from praxis_sdk.states import HELD, PENDING
from praxis_sdk.store.changes import AppliedChange
from praxis_sdk.store.protocol import StoreUnavailable

MAX_TOPICS: Final = 4096
QUEUE: Final = "queue"


def worker_topic(worker_id: str) -> str:
    """Return the topic that tells a worker of its work."""
    return f"worker:{worker_id}"


def execution_topic(execution_id: str) -> str:
    """Return the topic of all that happens to an execution."""
    return f"execution:{execution_id}"


def ended_topic(execution_id: str) -> str:
    """Return the topic of an execution's end alone, for those who wait for nothing else."""
    return f"ended:{execution_id}"


def topics_of(settled: AppliedChange, local_workers: frozenset[str] = frozenset()) -> set[str]:
    """Return the topics that a change is news for; for a new execution too (`changes.created`).

    Args:
        settled: the change.
        local_workers: workers that learn of new attempts without being rung (`RoundScope.local_workers`).
    """
    before, after = settled.before, settled.after
    topics = {execution_topic(after.id)}
    if after.status.final and not before.status.final:
        topics.add(ended_topic(after.id))
    new = before.next_seq == 0
    moved = new or after.status is not before.status or after.worker_id != before.worker_id
    if after.status in PENDING:
        if moved or after.due_at != before.due_at or after.rank != before.rank:
            topics.add(QUEUE)
    elif moved and after.status not in HELD:
        topics.add(QUEUE)  # there is room again, or less to do
    given = moved and after.worker_id not in local_workers
    if after.worker_id and after.status in HELD and (given or after.stop is not before.stop):
        topics.add(f"worker:{after.worker_id}")
    return topics


class Hub:
    """Wakes those who wait, within one event loop.

    Args:
        max_topics: of so many topics the last ring is remembered exactly.
    """

    def __init__(self, max_topics: int = MAX_TOPICS) -> None:
        self._max_topics = max_topics
        self._now = 1
        self._floor = 1
        self._last: dict[str, int] = {}  # the topic that was rung longest ago first
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed: StoreUnavailable | None = None

    def ring(self, topics: Iterable[str]) -> None:
        """Tell that something happened to topics."""
        last = self._last
        for topic in topics:
            self._now += 1
            last.pop(topic, None)
            last[topic] = self._now
            if self._waiting:
                self._wake(topic)
        while len(last) > self._max_topics:
            oldest = next(iter(last))
            self._floor = last.pop(oldest)

    def ring_all(self) -> None:
        """Tell that anything may have happened."""
        self._now += 1
        self._floor = self._now
        self._last.clear()
        for topic in list(self._waiting):
            self._wake(topic)

    async def changed(self, topic: str, seen: int) -> int:
        """Wait until a topic was rung since `seen`, and return what to pass next time; 0 returns at once.

        Raises:
            StoreUnavailable: the store is closed.
        """
        while True:
            if self._closed is not None:
                raise self._closed
            if seen < max(self._last.get(topic, 0), self._floor) or seen == 0:
                return self._now
            await self._rung(topic)

    def close(self, reason: StoreUnavailable | None = None) -> None:
        """Let nobody wait any longer; repeatable.

        Args:
            reason: what those who wait are told; None: that the store is closed.
        """
        self._closed = self._closed or reason or StoreUnavailable("the store is closed")
        for topic in list(self._waiting):
            self._wake(topic)

    async def _rung(self, topic: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(topic, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(topic) is waiting:
                del self._waiting[topic]

    def _wake(self, topic: str) -> None:
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)
