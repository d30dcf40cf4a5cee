"""The schema of a database and its migrations, which are numbered and never change once they are released."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from typing import Final

from praxis_sdk.store.protocol import StoreOutdated
from praxis_sdk.store.sqlite.statements import text_of

_NUMBERED: Final = re.compile(r"(\d{4})_\w+\.sql")
_VERSION_TABLE: Final = "CREATE TABLE schema_version (version INTEGER NOT NULL)"


def migrations() -> dict[int, str]:
    """Return the migrations by the version that each leads to, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    found = {
        int(match[1]): match[0] for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name))
    }
    return {version: text_of(f"migrations/{found[version]}") for version in sorted(found)}


def prepare(connection: sqlite3.Connection, path: str, *, upgrade: bool) -> None:
    """Give a new database its schema, and bring an older one up to date where that is wanted.

    Args:
        connection: in autocommit mode; everything happens in one transaction.
        path: what messages call the database.
        upgrade: whether an older schema may be changed.

    Raises:
        StoreOutdated: the schema is older and may not be changed, or it is newer.
    """
    steps = migrations()
    current = max(steps)
    if version_of(connection) == current:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)  # another process may have been first
        if version is None:
            run_script(connection, f"{_VERSION_TABLE};\n{text_of('schema.sql')}")
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (current,))
        elif version < current:
            if not upgrade:
                raise StoreOutdated(
                    f"the store {path} has schema {version}, and this Praxis needs {current}",
                    remedy="stop the other processes that use it and run `praxis db upgrade`",
                )
            for number in range(version + 1, current + 1):
                migrate(connection, number, steps[number])
        elif version > current:
            raise StoreOutdated(
                f"the store {path} has schema {version}, and this Praxis knows {current} at most",
                remedy="use the newer Praxis that wrote it",
            )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def migrate(connection: sqlite3.Connection, number: int, script: str) -> None:
    """Apply one migration within the caller's transaction; the first makes the table of the version too."""
    if version_of(connection) is None:
        connection.execute(_VERSION_TABLE)
        connection.execute("INSERT INTO schema_version (version) VALUES (0)")
    run_script(connection, script)
    connection.execute("UPDATE schema_version SET version = ?", (number,))


def version_of(connection: sqlite3.Connection) -> int | None:
    """Return the version of a database's schema; None where it has none yet."""
    table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
    if connection.execute(table).fetchone() is None:
        return None
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    return None if row is None else int(row[0])


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run statements, each beginning on a line of its own, within the caller's transaction.

    `executescript` would commit it.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
