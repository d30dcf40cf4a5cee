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

from praxis_sdk.store import ExecutionFilter
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


ACTS = (delete, replace, lose_the_log, move_the_home)


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
