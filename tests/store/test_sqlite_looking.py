"""A store in a folder that cannot be written to: all that was acknowledged is seen, and nothing is left there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from praxis_sdk.store import ExecutionFilter
from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore
from tests.store.conformance import execution


@pytest.mark.parametrize("in_log", [False, True], ids=("closed", "left with its log"))
async def test_what_was_acknowledged_is_seen(tmp_path: Path, *, in_log: bool) -> None:
    home, seen = tmp_path / "home", tmp_path / "seen"
    home.mkdir()
    seen.mkdir()
    store = await SqliteStore.open(home / "praxis.db")
    (kept,) = await store.submit([execution()])
    if not in_log:
        await store.close()
    shutil.copy(home / "praxis.db", seen)
    if in_log:
        shutil.copy(home / "praxis.db-wal", seen)
        await store.close()
    before = sorted(os.listdir(seen))
    looked = await SqliteStore.look(seen / "praxis.db")
    try:
        assert [one.id for one in await looked.find(ExecutionFilter())] == [kept.id]
        assert await looked.get(kept.id) == kept
        with pytest.raises(StoreUnavailable, match="can only be looked at"):
            await looked.submit([execution()])
    finally:
        await looked.close()
    assert sorted(os.listdir(seen)) == before


async def test_what_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "praxis.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable, match="is damaged or is no database"):
        await SqliteStore.look(tmp_path / "praxis.db")
