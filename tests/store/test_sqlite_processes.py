"""Several processes on one file: they share its work, and wake each other by the doorbell."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from pathlib import Path

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.store.doorbell import MAX_RING_BYTES, Doorbell
from praxis_sdk.store.protocol import ExecutionFilter
from praxis_sdk.store.sqlite import SqliteStore
from tests.store.conformance import WAKE_S, execution, ids, queued, worker
from tests.store.test_sqlite_durability import child, nothing_is_half_done


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout
    words: list[str] = json.loads(process.stdout.readline())
    return words


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


async def test_two_processes_never_start_the_same_execution(tmp_path: Path) -> None:
    path = tmp_path / "praxis.db"
    store = await SqliteStore.open(path)
    await store.put_worker(worker("one"))
    await store.put_worker(worker("two"))
    await store.submit([execution(id="shared", due_at=4e9)])
    waiting = await queued(store, *(execution() for _ in range(60)))
    with child("compete", path, "one") as one, child("compete", path, "two") as two:
        assert said(one) == said(two) == ["ready"]
        go_on(one)
        go_on(two)
        outputs = await asyncio.gather(*(asyncio.to_thread(each.communicate) for each in (one, two)))
    started = [name for output, _ in outputs for line in output.splitlines() for name in json.loads(line)]
    assert sorted(started) == ids(waiting)
    rounds = sum(len(output.splitlines()) for output, _ in outputs)
    assert (await store.get("shared")).next_seq == 1 + rounds
    held = [len(await store.held(name)) for name in ("one", "two")]
    assert sum(held) == len(waiting)
    await nothing_is_half_done(store)
    await store.close()


async def test_another_process_wakes_who_waits_here(tmp_path: Path) -> None:
    path = tmp_path / "praxis.db"
    store = await SqliteStore.open(path, look_s=1e6)
    with child("tell", path) as other:
        async with asyncio.timeout(WAKE_S):
            for count in (1, 2):
                assert await asyncio.to_thread(said, other) == ["ready"]
                seen = await store.changed("queue", 0)
                waiting = asyncio.create_task(store.changed("queue", seen))
                go_on(other)
                await waiting
                assert len(await store.find(ExecutionFilter())) == count
        assert await asyncio.to_thread(said, other) == ["done"]
        go_on(other)
        other.wait()
    bells = list((tmp_path / "praxis.db-bells").iterdir())
    assert len(bells) == 1, "a process takes its bell down"
    await store.close()
    assert list((tmp_path / "praxis.db-bells").iterdir()) == []


async def test_a_commit_whose_ring_was_lost_is_found_by_looking(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "praxis.db", look_s=0.01)
    other = await SqliteStore.open(tmp_path / "praxis.db", look_s=1e6)
    for bell in (tmp_path / "praxis.db-bells").iterdir():
        bell.unlink()
    async with asyncio.timeout(WAKE_S):
        for _ in range(3):
            seen = await store.changed("queue", 0)
            await other.submit([execution()])
            await store.changed("queue", seen)
    await store.close()
    await other.close()


async def test_a_bell_that_nobody_hears_is_taken_down(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "praxis.db")
    dead = tmp_path / "praxis.db-bells" / "dead"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(dead))
    assert dead.exists()
    await store.submit([execution()])
    assert not dead.exists()
    await store.close()


async def test_a_bell_that_is_rung_too_often_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "praxis.db")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as slow:
        slow.bind(str(tmp_path / "praxis.db-bells" / "slow"))
        (one,) = await store.submit([execution()])
        for _ in range(600):
            await store.apply([transitions.note(one.id, [], progress=0.5)])
        assert slow.recv(MAX_RING_BYTES + 1)
    await store.close()


async def test_a_ring_tells_its_topics_or_that_there_are_many(tmp_path: Path) -> None:
    heard: asyncio.Queue[list[str] | None] = asyncio.Queue()
    mine = Doorbell(tmp_path / "bells", lambda _: None)
    other = Doorbell(
        tmp_path / "bells", lambda topics: heard.put_nowait(None if topics is None else list(topics))
    )
    async with asyncio.timeout(WAKE_S):
        mine.ring(["queue", "execution:ä"])
        assert await heard.get() == ["queue", "execution:ä"]
        mine.ring(f"execution:{number}" for number in range(10_000))
        assert await heard.get() is None
    for bell in (mine, other, mine):
        bell.close()
    assert os.listdir(tmp_path / "bells") == []


async def test_a_bell_hangs_in_a_folder_however_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    store = await SqliteStore.open(deep / "praxis.db")
    await store.submit([execution()])
    await store.close()
