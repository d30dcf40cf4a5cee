"""The numbered migrations: what the database must look like, and how it gets there."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from praxis_sdk.store.postgres.connection import PostgresConnection, connect
from praxis_sdk.store.protocol import StoreOutdated

# Whoever migrates holds this advisory lock; the number means nothing but "Praxis".
_LOCK: Final = 0x507261786973
_NUMBER: Final = re.compile(r"^(\d{4})_\w+\.sql$")


@cache
def migrations() -> dict[int, str]:
    """Return the migrations by number: the version that each leads to."""
    found: dict[int, str] = {}
    for file in (files(__package__) / "migrations").iterdir():
        if matched := _NUMBER.match(file.name):
            found[int(matched[1])] = file.read_text(encoding="utf-8")
    numbers = sorted(found)
    assert numbers == list(range(1, len(numbers) + 1)), "migrations are numbered without gaps"
    return {number: found[number] for number in numbers}


def newest() -> int:
    """Return the version that this Praxis works with."""
    return max(migrations())


async def prepare(url: str, *, upgrade: bool) -> None:
    """See to it that the database has the schema of this Praxis; an empty database gets it.

    Args:
        url: where the database is.
        upgrade: whether an older schema may be changed.

    Raises:
        StoreOutdated: the schema is older and `upgrade` is not given, or it is newer.
    """
    connection = await connect(url, command_timeout_s=None)
    try:
        version = await version_of(connection)
        if 0 < version < newest() and not upgrade:
            raise StoreOutdated(
                f"the store has schema version {version}, this Praxis works with {newest()}",
                remedy="stop what uses the store, then run: praxis db upgrade",
            )
        if version < newest():
            version = await migrate(connection, newest())
        if version > newest():
            raise StoreOutdated(
                f"the store has schema version {version}, this Praxis works with {newest()}",
                remedy="use the newer Praxis that wrote it",
            )
    finally:
        connection.terminate()  # and with it go the lock and a transaction that failed


async def version_of(connection: PostgresConnection) -> int:
    """Return the version of the schema; 0 where there is none."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        return 0
    return int(await connection.fetchval("SELECT version FROM schema_version"))


async def migrate(connection: PostgresConnection, to: int) -> int:
    """Apply the migrations that are missing up to a version, in one transaction; one process at a time does.

    Args:
        connection: is in no transaction; keeps the lock until it is closed.
        to: the version.

    Returns:
        The version that the schema has now.
    """
    # Before the transaction begins: one that waits amid it would not see the tables that another made meanwhile.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    transaction = connection.transaction()
    await transaction.start()
    version = await version_of(connection)
    if version == 0:
        await connection.execute("CREATE TABLE schema_version (version integer NOT NULL)")
        await connection.execute("INSERT INTO schema_version VALUES (0)")
    for number, sql in migrations().items():
        if version < number <= to:
            await connection.execute(sql)
            await connection.execute("UPDATE schema_version SET version = $1", number)
            version = number
    await transaction.commit()
    return version
