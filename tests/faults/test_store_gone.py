"""A database file that is deleted, replaced or loses its log under running processes: each ends with one clear line."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from praxis_sdk.store import ExecutionFilter, RoundScope
from praxis_sdk.store.protocol import StoreGone
from praxis_sdk.store.sqlite import SqliteStore
from tests.store.conformance import execution

SOON_S = 60.0


def delete(database: Path) -> None:
    database.unlink()


def replace(database: Path) -> None:
    copy = database.with_suffix(".copy")
    shutil.copy(database, copy)
    copy.rename(database)


def lose_the_log(database: Path) -> None:
    Path(f"{database}-wal").unlink()


def move_the_home(database: Path) -> None:
    database.parent.rename(database.parent.with_name("elsewhere"))
    database.parent.mkdir()


def put_a_file_in_the_place_of_the_home(database: Path) -> None:
    database.parent.rename(database.parent.with_name("elsewhere"))
    database.parent.write_text("not a folder")


ACTS = (put_a_file_in_the_place_of_the_home, delete, replace, lose_the_log, move_the_home)


@pytest.mark.parametrize("act", ACTS)
async def test_nothing_is_acknowledged_or_answered_any_more(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    store = await SqliteStore.open(home / "praxis.db", look_s=0.1)
    try:
        await store.submit([execution()])
        (kept,) = await store.find(ExecutionFilter())
        waiting = asyncio.ensure_future(store.changed("nothing", await store.changed("nothing", 0)))
        act(home / "praxis.db")
        with pytest.raises(StoreGone, match=r"praxis\.db was"):
            await store.submit([execution()])
        with pytest.raises(StoreGone):
            await store.get(kept.id)
        with pytest.raises(StoreGone):
            await asyncio.wait_for(waiting, SOON_S)
    finally:
        await store.close()


@pytest.mark.parametrize("act", ACTS)
async def test_a_worker_ends_with_one_line(tmp_path: Path, act: Callable[[Path], None]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "PRAXIS_HOME": str(home)}
    command = [sys.executable, "-m", "praxis_sdk.cli", "worker", "--quiet"]
    ready = [sys.executable, "-m", "praxis_sdk.cli", "submit", "-r", "command", "--wait", "--", "true"]
    worker = await asyncio.create_subprocess_exec(*command, env=environment, stderr=PIPE)
    try:
        await asyncio.to_thread(
            subprocess.run, ready, env=environment, capture_output=True, timeout=SOON_S, check=False
        )
        act(home / "praxis.db")
        _, said = await asyncio.wait_for(worker.communicate(), SOON_S)
        assert worker.returncode not in (0, None)
        (line,) = said.decode().splitlines()
        assert "praxis.db was" in line
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


async def damaged(home: Path) -> Path:
    """Return a database with executions, of which only the first pages are whole."""
    database = home / "praxis.db"
    store = await SqliteStore.open(database)
    await store.submit([execution() for _ in range(500)])
    await store.close()
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size - size // 2))
    return database


async def test_a_damaged_store_is_neither_written_nor_believed_any_more(tmp_path: Path) -> None:
    store = await SqliteStore.open(await damaged(tmp_path), look_s=0.1)
    try:
        waiting = asyncio.ensure_future(store.changed("nothing", await store.changed("nothing", 0)))
        with pytest.raises(StoreGone, match="is damaged"):
            await store.schedule(RoundScope(), lambda seen: [])
        for again in (store.submit([execution()]), store.get("any"), store.beat("any", 0.0)):
            with pytest.raises(StoreGone, match="is damaged"):
                await again
        with pytest.raises(StoreGone):
            await asyncio.wait_for(waiting, SOON_S)
    finally:
        await store.close()


async def test_a_worker_whose_store_is_damaged_ends_with_one_line(tmp_path: Path) -> None:
    await damaged(tmp_path)
    command = [sys.executable, "-m", "praxis_sdk.cli", "worker", "--quiet"]
    ran = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, "PRAXIS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )
    assert ran.returncode not in (0, None)
    (line,) = ran.stderr.splitlines()
    assert "is damaged" in line
    assert ".recover" in line


@pytest.mark.parametrize(
    "words", [("submit", "-r", "command", "--", "true"), ("worker", "--drain", "--quiet")]
)
async def test_a_store_that_may_only_be_read_is_told_in_one_line(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    database = tmp_path / "praxis.db"
    await (await SqliteStore.open(database)).close()
    database.chmod(0o400)
    # Root writes what may only be read, unless it gives that right up.
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    ran = await asyncio.to_thread(
        subprocess.run,
        [*plain, sys.executable, "-m", "praxis_sdk.cli", *words],
        env={**os.environ, "PRAXIS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (3, "")
    line = ran.stderr.splitlines()[-1]
    assert "may only be read" in line
    assert "to the user who runs this" in line
