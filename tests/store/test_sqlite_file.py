"""The file of an SQLite store: its schema, its versions, its plans, and what happens when it is damaged."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.protocol import ExecutionFilter, StoreOutdated, StoreUnavailable
from praxis_sdk.store.sqlite import SqliteStore, schema
from praxis_sdk.store.sqlite.finding import find_executions
from praxis_sdk.store.sqlite.statements import SQL, text_of
from tests.store.conformance import execution

CURRENT = max(schema.migrations())


def described(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY 1, 2")
    return [(kind, name, " ".join(sql.split())) for kind, name, sql in rows]


def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def test_migrations_one_by_one_lead_to_the_schema_of_a_new_database() -> None:
    migrated, fresh = memory(), memory()
    for number, script in schema.migrations().items():
        schema.migrate(migrated, number, script)
    schema.prepare(fresh, "fresh", upgrade=False)
    assert described(migrated) == described(fresh)
    assert schema.version_of(migrated) == schema.version_of(fresh) == CURRENT


def test_migrations_are_numbered_without_gaps() -> None:
    assert list(schema.migrations()) == list(range(1, CURRENT + 1))


def newer(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    steps = schema.migrations() | {CURRENT + 1: script}
    monkeypatch.setattr(schema, "migrations", lambda: steps)


async def test_an_older_store_is_opened_only_to_upgrade_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "praxis.db"
    store = await SqliteStore.open(path)
    (kept,) = await store.submit([execution()])
    await store.close()

    newer(
        monkeypatch, "CREATE TABLE added (x TEXT);\n-- and a column\nALTER TABLE batches ADD COLUMN y TEXT;"
    )
    with pytest.raises(StoreOutdated, match=r"praxis db upgrade") as raised:
        await SqliteStore.open(path)
    assert f"schema {CURRENT}" in str(raised.value)
    store = await SqliteStore.open(path, upgrade=True)
    assert await store.get(kept.id) == kept
    await store.close()
    connection = sqlite3.connect(path)
    assert schema.version_of(connection) == CURRENT + 1
    assert connection.execute("SELECT count(*) FROM added").fetchone() == (0,)
    connection.close()

    monkeypatch.undo()
    with pytest.raises(StoreOutdated, match=f"schema {CURRENT + 1}, and this Praxis knows {CURRENT}"):
        await SqliteStore.open(path, upgrade=True)


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "praxis.db"
    await (await SqliteStore.open(path)).close()
    newer(monkeypatch, "CREATE TABLE added (x TEXT);\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await SqliteStore.open(path, upgrade=True)
    monkeypatch.undo()
    await (await SqliteStore.open(path)).close()
    connection = sqlite3.connect(path)
    assert "added" not in [name for _, name, _ in described(connection)]
    connection.close()


async def test_the_file_is_its_owners_alone_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "praxis.db"
    store = await SqliteStore.open(path)
    await store.submit([execution()])
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    await store.close()
    assert modes.pop("praxis.db-bells") == 0o700
    assert set(modes.values()) == {0o600}


async def test_many_may_make_the_same_new_store_at_once(tmp_path: Path) -> None:
    opening = (SqliteStore.open(tmp_path / "praxis.db") for _ in range(8))
    stores = await asyncio.gather(*opening)
    await asyncio.gather(*(store.submit([execution()]) for store in stores))
    assert len(await stores[0].find(ExecutionFilter())) == len(stores)
    for store in stores:
        await store.close()


async def test_a_second_store_of_a_process_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """Closing any descriptor of a file lets go of all POSIX locks that the process has on it."""

    def locks() -> list[str]:
        inode = f":{(tmp_path / 'praxis.db').stat().st_ino} "
        entries = Path("/proc/locks").read_text().splitlines()
        return [line.split(maxsplit=1)[1] for line in entries if inode in line]

    first = await SqliteStore.open(tmp_path / "praxis.db")
    await first.submit([execution()])
    before = locks()
    assert before
    second = await SqliteStore.open(tmp_path / "praxis.db")
    assert locks() == before
    await second.close()
    assert locks() == before
    await first.close()


async def test_a_file_that_is_no_database_gives_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "praxis.db"
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(StoreUnavailable, match=r"praxis\.db is damaged or is no database"):
        await SqliteStore.open(path)
    assert path.read_bytes() == b"something else " * 1000


async def test_a_folder_that_cannot_be_used_gives_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"file/praxis\.db cannot be opened"):
        await SqliteStore.open(tmp_path / "file" / "praxis.db")


async def test_a_damaged_database_gives_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "praxis.db"
    store = await SqliteStore.open(path)
    (kept, *_) = await store.submit([execution(request={"code": "x" * 1000}) for _ in range(400)])
    await store.close()
    connection = sqlite3.connect(path)
    of_executions = "SELECT rootpage FROM sqlite_master WHERE tbl_name IN ('executions', 'documents')"
    roots = [root for (root,) in connection.execute(of_executions)]
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    for root in roots:
        content[(root - 1) * page_size : root * page_size] = b"\xa5" * page_size
    path.write_bytes(content)

    store = await SqliteStore.open(path)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.get(kept.id)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.submit([execution()])
    await store.close()


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("due", "executions_due"),
        ("waiting", "executions_queued"),
        ("next_due", "executions_due"),
        ("held", "executions_held"),
        ("batch_running", "executions_held"),
        ("ended", "executions_ended"),
        ("noisy_before", "executions_noisy"),
        ("ended_before", "executions_ended"),
        ("by_key", "executions_key"),
    ],
)
def test_hot_statements_use_the_index_that_is_made_for_them(name: str, index: str) -> None:
    plan = plan_of(SQL[name])
    assert index in plan
    if name != "batch_running" and name != "held":
        assert "TEMP B-TREE" not in plan


def test_counting_what_is_active_never_looks_at_what_has_ended() -> None:
    plan = plan_of(SQL["counts"])
    for index in ("executions_due", "executions_queued", "executions_held"):
        assert index in plan
    assert plan.count("COVERING INDEX") == 3, plan


@pytest.mark.parametrize("status", sorted(set(ExecutionStatus) - {ExecutionStatus.COMPLETED}))
def test_rare_statuses_are_found_without_a_search_of_all(status: ExecutionStatus) -> None:
    query, _ = find_executions(ExecutionFilter(statuses=frozenset({status})), 100, None)
    assert "SCAN executions" not in plan_of(query).replace("SCAN executions USING", "")


def plan_of(query: str) -> str:
    connection = memory()
    schema.run_script(connection, text_of("schema.sql"))
    names = ["now", "kinds", "limit", "since", "until", "kind", "control"]
    values: Any = dict.fromkeys(names, 1)
    if "?" in query:
        values = (1,) * query.count("?")
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values))
