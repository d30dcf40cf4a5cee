"""Whoever only looks waits for nobody who writes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from praxis_sdk.model import Worker
from praxis_sdk.resources import Resources
from praxis_sdk.store.sqlite import SqliteStore
from praxis_sdk.store.sqlite.turn import Turns
from tests.store.conformance import execution

LONG_S = 25.0  # less than writers wait for their turn


@pytest.mark.parametrize("dead_worker", [False, True], ids=("plain", "with a dead worker to take back from"))
async def test_looking_does_not_wait_for_the_turn_to_write(tmp_path: Path, *, dead_worker: bool) -> None:
    path = tmp_path / "praxis.db"
    store = await SqliteStore.open(path)
    (kept,) = await store.submit([execution()])
    if dead_worker:
        await store.put_worker(Worker("dead", Resources(1, 1), 1, frozenset({"k"}), lease_until=0.0))
        (tmp_path / "workers").mkdir()
        (tmp_path / "workers" / "dead.lock").touch()
    await store.close()
    turns = Turns(f"{path}-turn", 1.0)
    writes = sqlite3.connect(path, isolation_level=None)
    try:
        with turns.taken():
            writes.execute("BEGIN IMMEDIATE")
            for words in (["ps", "--all"], ["show", kept.id], ["logs", kept.id]):
                command = [sys.executable, "-m", "praxis_sdk.cli", *words]
                environment = {**os.environ, "PRAXIS_HOME": str(tmp_path), "COLUMNS": "300"}
                done = await asyncio.to_thread(
                    subprocess.run,
                    command,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LONG_S,
                    check=True,
                )
                assert not done.stderr, words
                if words[0] != "logs":
                    assert kept.id in done.stdout
            writes.execute("ROLLBACK")
    finally:
        writes.close()
        turns.close()
