"""What was acknowledged survives SIGKILL and a full disk, and nothing is ever half done; real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.model import EventType
from praxis_sdk.resources import total
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.changes import verify_chain
from praxis_sdk.store.protocol import ExecutionFilter, UnknownExecution
from praxis_sdk.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
COMMITS = 9  # of `live`: the worker, two submissions, and three for each life
LIFE = ["submitted", "queued", "running", "completed"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.store.sqlite_child", *map(str, arguments)]


@contextlib.contextmanager
def child(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a child; it is gone afterwards, whatever happens."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*arguments), cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(text: str) -> list[list[Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def nothing_is_half_done(store: SqliteStore) -> dict[str, ExecutionStatus]:
    """Check all that is kept against each other, and return where each execution stands."""
    kept = await store.find(ExecutionFilter(), limit=100_000)
    for one in kept:
        whole, events = await store.get(one.id), await store.events(one.id)
        assert whole.request is not None
        assert [event.seq for event in events] == list(range(one.next_seq))
        assert verify_chain(events, one.chain) == ""
        moves = [event.message for event in events if event.type is EventType.STATUS]
        assert moves == LIFE[: len(moves)]
        assert moves[-1] == one.status
        assert len(await store.attempts(one.id)) == one.status.final
        assert (whole.outputs == 1) == one.status.final
    for worker in await store.workers():
        held = await store.held(worker.id)
        assert worker.running == len(held)
        assert worker.reserved.amounts() == pytest.approx(total(one.granted for one in held).amounts())
    return {one.id: one.status for one in kept}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(1, COMMITS + 1))
async def test_a_kill_at_any_commit_leaves_what_was_acknowledged(
    tmp_path: Path, number: int, moment: str
) -> None:
    path = tmp_path / "praxis.db"
    with child("live", path, number, moment) as process:
        output, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == -signal.SIGKILL
    acknowledged = lines(output)

    store = await SqliteStore.open(path)
    standing = await nothing_is_half_done(store)
    await store.close()
    # The worker is the first commit; then each step is one.
    steps = [("a", 0), ("b", 0), *(("a", step) for step in (1, 2, 3)), *(("b", step) for step in (1, 2, 3))]
    done = number - 1 if moment == "after" else number - 2
    expected: dict[str, str] = {}
    for name, step in steps[: max(0, done)]:
        expected[name] = LIFE[step]
    assert standing == expected
    for name, status in acknowledged:
        assert LIFE.index(standing[name]) >= LIFE.index(status)


async def test_a_kill_under_load_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "praxis.db"
    with child("flood", path) as process:
        assert process.stdout
        told = [json.loads(process.stdout.readline())[0] for _ in range(500)]
        process.kill()
        rest = process.stdout.read()
    told += [json.loads(line)[0] for line in rest.splitlines() if line.endswith("]")]
    store = await SqliteStore.open(path)
    standing = await nothing_is_half_done(store)
    assert set(told) <= set(standing)
    for name in standing:
        twin = name.removesuffix("-twin") if name.endswith("-twin") else f"{name}-twin"
        assert twin in standing, "submitted together, kept together"
    with pytest.raises(UnknownExecution):
        await store.get("never submitted")
    await store.close()


@pytest.mark.parametrize("way", ["limit", "disk"])
def test_a_full_disk_is_told_and_the_store_goes_on_when_there_is_room(tmp_path: Path, way: str) -> None:
    """By a limit of the file's size, which is an I/O error, and by a disk that is full."""
    (tmp_path / "disk").mkdir()
    path = tmp_path / "disk" / "praxis.db"
    fill = command("fill", path, way)
    if way == "disk":
        mount = f'mount -t tmpfs -o size=8m none "{path.parent}" && exec "$@"'
        fill = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *fill]
    ran = subprocess.run(fill, cwd=ROOT, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    ((integrity, kept, refused),) = lines(ran.stdout)
    assert integrity == "ok"
    assert kept > 0
    assert refused > 0
