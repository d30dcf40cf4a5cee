"""What tests run in a process of its own, to kill it, to fill its disk, or to have two of them on one file.

It prints one JSON line per thing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.model import EventType, Execution, NewEvent, Options
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.changes import Change
from praxis_sdk.store.protocol import ExecutionFilter, Round, RoundScope, StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from tests.store.conformance import NEEDS, worker


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


def execution(name: str, size: int = 100) -> Execution:
    request = {"code": "x" * size}
    return Execution(name, "job", "python", request, Options(requirements=NEEDS), 1.0, granted=NEEDS)


_deadly: list[tuple[int, str]] = []


class Counting(sqlite3.Connection):
    """A connection that kills its process at a commit, once that is wanted."""

    commits = 0

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if sql != "COMMIT" or not _deadly:
            return super().execute(sql, *rest)
        ((number, moment),) = _deadly
        Counting.commits += 1
        if (Counting.commits, "before") == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)
        cursor = super().execute(sql, *rest)
        if (Counting.commits, "after") == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)
        return cursor


async def live(path: str, number: str, moment: str) -> None:
    """Lead two executions through their life, one commit after another."""
    store = await SqliteStore.open(path, look_s=1e6)
    _deadly.append((int(number), moment))
    await store.put_worker(worker())
    for name in ("a", "b"):
        await store.submit([execution(name)])
        say(name, "submitted")
    for name in ("a", "b"):
        await store.apply([transitions.release(execution(name), 1.0)])
        say(name, "queued")
        (started,) = await store.schedule(RoundScope(candidates=1), _start_first)
        say(name, "running")
        log = NewEvent(EventType.LOG, "line")
        finish = transitions.finish(started.after, 2.0, ExecutionStatus.COMPLETED, outputs=1, events=[log])
        await store.apply([finish])
        say(name, "completed")
    await store.close()


def _start_first(shown: Round) -> Sequence[Change]:
    return [transitions.start(shown.waiting[0], "w", shown.now)]


async def flood(path: str) -> None:
    """Submit without end, with many callers, until killed."""
    store = await SqliteStore.open(path)

    async def caller(number: int) -> None:
        for count in range(1_000_000):
            name = f"{number}-{count}"
            await store.submit([execution(name), execution(f"{name}-twin")])
            say(name)

    await asyncio.gather(*(caller(number) for number in range(32)))


async def fill(path: str, way: str) -> None:
    """Fill the disk until the store refuses, make room, and go on."""
    make_room = _limit_files() if way == "limit" else _fill_disk(Path(path).parent)
    store = await SqliteStore.open(path)
    kept, refused = [], []
    for number in range(10_000):
        names = [f"{number}-{caller}" for caller in range(4)]
        submitted = (store.submit([execution(name, 20_000)]) for name in names)
        results = await asyncio.gather(*submitted, return_exceptions=True)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, StoreUnavailable):
                refused.append(name)
            elif isinstance(result, BaseException):
                raise result
            else:
                kept.append(name)
        if refused:
            break
    assert refused, "the disk was never full"
    assert kept
    assert (await store.get(kept[-1])).request
    make_room()
    await store.submit([execution("afterwards", 20_000)])
    await store.close()
    store = await SqliteStore.open(path)
    there = {one.id for one in await store.find(ExecutionFilter(), limit=100_000)}
    assert there == {*kept, "afterwards"}
    await store.close()
    connection = sqlite3.connect(path)
    say(connection.execute("PRAGMA integrity_check").fetchone()[0], len(kept), len(refused))


def _limit_files() -> Callable[[], None]:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _fill_disk(folder: Path) -> Callable[[], None]:
    (folder / "filler").write_bytes(b"x" * 4_000_000)
    return (folder / "filler").unlink


async def compete(path: str, worker_id: str) -> None:
    """Start what waits, three at a time, until nothing waits; on the word of the parent."""
    store = await SqliteStore.open(path)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)

    def decide(shown: Round) -> Sequence[Change]:
        return [transitions.start(one, worker_id, shown.now) for one in shown.waiting[:3]]

    while settled := await store.schedule(RoundScope(candidates=5), decide):
        say(*(one.after.id for one in settled))
        await store.apply([transitions.note("shared", [NewEvent(EventType.LOG, worker_id)])])
    await store.close()


async def tell(path: str) -> None:
    """Submit an execution on the word of the parent, twice."""
    store = await SqliteStore.open(path)
    for name in ("first", "second"):
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        await store.submit([execution(name)])
    say("done")
    await asyncio.to_thread(sys.stdin.readline)
    await store.close()


if __name__ == "__main__":
    sqlite3.connect = partial(sqlite3.connect, factory=Counting)  # type: ignore[assignment]
    does: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "live": live,
        "flood": flood,
        "fill": fill,
        "compete": compete,
        "tell": tell,
    }
    asyncio.run(does[sys.argv[1]](*sys.argv[2:]))
