"""How a PostgreSQL database gets its tables, and who may change them."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from devservices.postgres import PostgresServer
from praxis_sdk.store.postgres import PostgresStore
from praxis_sdk.store.postgres.connection import connect
from praxis_sdk.store.postgres.schema import migrate, newest, version_of
from praxis_sdk.store.postgres.statements import names, statement
from praxis_sdk.store.protocol import StoreOutdated
from tests.store.conformance import execution


async def test_migrations_one_by_one_equal_a_fresh_schema(
    postgres_server: PostgresServer, postgres_url: str, empty_postgres_url: str
) -> None:
    for version in range(1, newest() + 1):
        connection = await connect(empty_postgres_url)
        assert await migrate(connection, version) == version
        connection.terminate()
    fresh, migrated = _dump(postgres_server, postgres_url), _dump(postgres_server, empty_postgres_url)
    assert "CREATE TABLE public.executions" in fresh
    assert migrated == fresh


async def test_an_older_schema_is_refused_with_the_command_that_upgrades_it(empty_postgres_url: str) -> None:
    connection = await connect(empty_postgres_url)
    await migrate(connection, 1)
    with pytest.raises(StoreOutdated, match="praxis db upgrade"):
        await PostgresStore.open(empty_postgres_url)
    assert await version_of(connection) == 1
    connection.terminate()


async def test_an_older_schema_is_upgraded_where_that_is_wanted(empty_postgres_url: str) -> None:
    connection = await connect(empty_postgres_url)
    await migrate(connection, 1)
    connection.terminate()
    store = await PostgresStore.open(empty_postgres_url, upgrade=True)
    await store.submit([execution()])
    await store.close()
    store = await PostgresStore.open(empty_postgres_url)
    assert await store.workers() == []
    await store.close()


async def test_a_newer_schema_is_refused(postgres_url: str) -> None:
    connection = await connect(postgres_url)
    await connection.execute("UPDATE schema_version SET version = version + 1")
    connection.terminate()
    for upgrade in (False, True):
        with pytest.raises(StoreOutdated, match="newer Praxis"):
            await PostgresStore.open(postgres_url, upgrade=upgrade)


async def test_stores_that_open_an_empty_database_at_once_all_succeed(empty_postgres_url: str) -> None:
    stores = await asyncio.gather(*(PostgresStore.open(empty_postgres_url) for _ in range(4)))
    await stores[0].submit([one := execution()])
    assert (await stores[-1].get(one.id)).id == one.id
    for store in stores:
        await store.close()


async def test_every_statement_is_one_that_the_database_takes(postgres_url: str) -> None:
    connection = await connect(postgres_url)
    for number, name in enumerate(names()):
        await connection.execute(f"PREPARE s{number} AS {statement(name)}")
    connection.terminate()


def _dump(server: PostgresServer, url: str) -> str:
    """Return the schema of a database as SQL, without what differs each time."""
    dumped = server.run("pg_dump", "--schema-only", "--no-owner", urlsplit(url).path.removeprefix("/"))
    return "\n".join(line for line in dumped.splitlines() if not line.startswith(("\\", "--")))
