"""The store in an SQLite file: the conformance suite, threaded and inline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from praxis_sdk.store.sqlite import SqliteStore
from tests.store.conformance import StoreConformance


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteStore]:
        store = await SqliteStore.open(tmp_path / "praxis.db")
        yield store
        await store.close()

    @pytest.fixture
    async def peer(self, store: SqliteStore, tmp_path: Path) -> AsyncIterator[SqliteStore]:
        peer = await SqliteStore.open(tmp_path / "praxis.db")
        yield peer
        await peer.close()


class TestInlineSqliteStore(StoreConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[SqliteStore]:
        store = await SqliteStore.open(":memory:", inline=True)
        yield store
        await store.close()

    @pytest.fixture
    def peer(self, store: SqliteStore) -> SqliteStore:
        return store
