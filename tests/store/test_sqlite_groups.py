"""Group commit: many callers share a commit, and each has its own fate."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.model import EventType, NewEvent
from praxis_sdk.store.changes import verify_chain
from praxis_sdk.store.protocol import ExecutionFilter, StoreConflict, StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from praxis_sdk.store.sqlite.transaction import SqliteTransaction
from praxis_sdk.store.sqlite.writer import MAX_GROUP, MAX_QUEUED, GroupWriter
from tests.store.conformance import execution


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "praxis.db", look_s=1e6)
    yield store
    await store.close()


class Held:
    """Holds the writer's thread inside a transaction, so that callers gather behind it."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._started = asyncio.Event()
        self._go_on = threading.Event()

    async def __aenter__(self) -> Held:
        loop = asyncio.get_running_loop()

        def hold(transaction: SqliteTransaction) -> None:
            loop.call_soon_threadsafe(self._started.set)
            self._go_on.wait()

        self._task = asyncio.create_task(self._store._writer.run(hold))
        await self._started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._go_on.set()
        await self._task


async def gathered(tasks: int) -> None:
    """Let as many tasks come to their first wait."""
    for _ in range(tasks // 100 + 3):
        await asyncio.sleep(0)


async def test_those_who_come_during_a_commit_share_the_next(store: SqliteStore) -> None:
    async with Held(store):
        before = store.commits
        tasks = [asyncio.create_task(store.submit([execution()])) for _ in range(100)]
        await gathered(100)
        assert not any(task.done() for task in tasks)
    kept = [(await task)[0] for task in tasks]
    assert store.commits == before + 2
    assert [await store.get(one.id) for one in kept] == kept


async def test_one_that_fails_takes_nobody_with_it(store: SqliteStore) -> None:
    (taken,) = await store.submit([execution()])
    half = execution()
    async with Held(store):
        before = store.commits
        submissions = [[execution()], [half, execution(id=taken.id)], [execution()]]
        tasks = [asyncio.create_task(store.submit(each)) for each in submissions]
        late = asyncio.create_task(store.apply([transitions.release(taken, 5.0)]))
        await gathered(4)
    with pytest.raises(StoreConflict):
        await tasks[1]
    for task in (tasks[0], tasks[2]):
        (kept,) = await task
        assert await store.get(kept.id) == kept
    assert (await late)[0] is not None
    assert half.id not in [one.id for one in await store.find(_all())]
    assert store.commits == before + 2


async def test_who_gives_up_waiting_disturbs_nobody(store: SqliteStore) -> None:
    async with Held(store):
        tasks = [asyncio.create_task(store.submit([execution()])) for _ in range(3)]
        await gathered(3)
        tasks[1].cancel()
    assert await tasks[0]
    assert await tasks[2]
    assert tasks[1].cancelled()
    assert await store.submit([execution()])


async def test_more_callers_than_the_queue_holds_wait_for_their_turn(store: SqliteStore) -> None:
    async with Held(store):
        before = store.commits
        tasks = [asyncio.create_task(store.put_setting(str(n), n)) for n in range(MAX_QUEUED * 2)]
        await gathered(MAX_QUEUED * 2)
        assert isinstance(store._writer, GroupWriter)
        assert store._writer._asked.qsize() < MAX_QUEUED
    await asyncio.gather(*tasks)
    assert store.commits - before >= MAX_QUEUED * 2 // MAX_GROUP
    assert await store.get_setting(str(MAX_QUEUED * 2 - 1)) == MAX_QUEUED * 2 - 1


async def test_reading_does_not_wait_for_writing(store: SqliteStore) -> None:
    (kept,) = await store.submit([execution()])
    async with Held(store):
        task = asyncio.create_task(store.apply([transitions.release(kept, 5.0)]))
        await gathered(1)
        assert await store.get(kept.id) == kept, "as it was acknowledged last"
        assert len(await store.find(_all())) == 1
    await task


class Failing(sqlite3.Connection):
    """A connection on which statements fail once, as on a broken disk."""

    statements: frozenset[str] = frozenset()

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if sql in Failing.statements:
            Failing.statements -= {sql}
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *rest)


@pytest.mark.parametrize("inline", [False, True], ids=["threads", "inline"])
@pytest.mark.parametrize("failing", [{"BEGIN IMMEDIATE"}, {"COMMIT"}, {"COMMIT", "ROLLBACK"}])
async def test_a_commit_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: set[str], inline: bool
) -> None:
    if inline and "ROLLBACK" in failing:
        failing = {"COMMIT"}  # what is in memory is not opened again
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Failing))
    store = await SqliteStore.open(tmp_path / "praxis.db", look_s=1e6, inline=inline)
    kept, other = await store.submit([execution(), execution()])
    Failing.statements = frozenset(failing)
    both = [transitions.release(kept, 5.0), transitions.release(other, 5.0)]
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        await store.apply(both)
    assert not Failing.statements
    assert await store.get(kept.id) == kept
    await store.apply(both)
    (settled,) = await store.apply([transitions.start(await store.get(kept.id), "w", 6.0)])
    assert settled is not None
    assert [event.seq for event in await store.events(kept.id)] == [0, 1, 2]
    assert verify_chain(await store.events(kept.id), settled.after.chain) == ""
    await store.close()


async def test_what_was_not_committed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Failing))
    store = await SqliteStore.open(tmp_path / "praxis.db", look_s=1e6)
    other = await SqliteStore.open(tmp_path / "praxis.db", look_s=1e6)
    (kept,) = await store.submit([execution()])
    Failing.statements = frozenset({"COMMIT"})
    with pytest.raises(StoreUnavailable):
        await store.apply([transitions.release(kept, 5.0)])
    await other.apply([transitions.note(kept.id, [NewEvent(EventType.LOG, "another's first change")])])
    (settled,) = await store.apply([transitions.release(kept, 6.0)])
    assert settled is not None
    assert settled.before.next_seq == 2
    await store.close()
    await other.close()


async def test_what_waits_is_written_before_the_store_closes(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "praxis.db")
    tasks = [asyncio.create_task(store.submit([execution()])) for _ in range(50)]
    await gathered(50)
    await store.close()
    kept = [(await task)[0] for task in tasks]
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.submit([execution()])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get(kept[0].id)
    again = await SqliteStore.open(tmp_path / "praxis.db")
    assert len(await again.find(_all())) == 50
    await again.close()


def _all() -> ExecutionFilter:
    return ExecutionFilter()
