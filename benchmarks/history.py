"""Whether an execution costs more after a million others than after none.

A few real no-ops are run, and their rows are copied in SQL with new ids and earlier times until there are a
million executions that ended; running so many would only take longer. Then the same is measured on this store
and on an empty one in turn.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import RESULTS, conditions
from benchmarks.programs import Program, database, disk_folder, postgres, program

TITLE = "what an execution costs after 1,000,000 others"
FINISHED = 1_000_000
MOST_DEARER = 1.2
_TEMPLATES = 100
_CHUNK = 100_000
_SPACING_S = 0.05
_TABLES = {"executions": "id", "documents": "execution_id", "results": "execution_id"} | {
    "attempts": "execution_id",
    "events": "execution_id",
}
_MOMENTS = ("submitted_at", "queued_at", "started_at", "attempt_at", "ended_at", "at", "checkpoint_at")
# What is measured, of how much, and how much of it before.
_COMMANDS = (("burst", 1000, 300), ("singles", 100, 10), ("statuses", 300, 20), ("lists", 50, 5))

Say = Callable[[str], None]
Do = Callable[[str], object]


def copies(columns: dict[str, list[str]], count: int, numbers: str) -> Iterator[str]:
    """Go through the statements that copy the executions there are until there are `count` more.

    Args:
        columns: of each table.
        count: how many.
        numbers: the query of the numbers from {first} to {last}, in the store's own SQL.
    """
    yield (
        "CREATE TEMP TABLE templates AS SELECT id AS template, row_number() OVER (ORDER BY id) - 1 AS place"
        " FROM executions"
    )
    for first in range(0, count, _CHUNK):
        last = min(count, first + _CHUNK) - 1
        yield "DROP TABLE IF EXISTS copied"
        yield (
            f"CREATE TEMP TABLE copied AS SELECT template, i, {_PADDED} AS copy FROM templates JOIN"
            f" ({numbers.format(first=first, last=last)}) AS numbers ON place = i % {_TEMPLATES}"
        )
        for table, key in _TABLES.items():
            shift = f"((({count} - i) * {_SPACING_S}) + 60)"
            values = ", ".join(
                "copy" if name == key else f"{name} - {shift}" if name in _MOMENTS else name
                for name in columns[table]
            )
            yield (
                f"INSERT INTO {table} ({', '.join(columns[table])}) SELECT {values}"
                f" FROM copied JOIN {table} ON {key} = template ORDER BY i"
            )


_PADDED = "'00000000' || substr('000000000000000000' || i, -18)"  # as long as an id, and before all real ones


def fill_sqlite(path: Path, count: int) -> None:
    """Copy what is in a SQLite store."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in _TABLES
        }
        counted = "SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}"
        numbers = f"WITH RECURSIVE n(i) AS ({counted}) SELECT i FROM n"
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        for statement in copies(columns, count, numbers):
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def fill_postgres(do: Do, columns_of: Callable[[str], list[str]], count: int) -> None:
    """Copy what is in a PostgreSQL store, and let it be tidied up as it is over time."""
    columns = {table: columns_of(table) for table in _TABLES}
    numbers = "SELECT i FROM generate_series({first}, {last}) AS i"
    statements = list(copies(columns, count, numbers))
    do("; ".join(one.replace(_PADDED, "'00000000' || lpad(i::text, 18, '0')") for one in statements))
    do("VACUUM (ANALYZE)")
    do("CHECKPOINT")


def _subject(place: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.subject", "noop", place, str(folder)]


async def _measured(place: str, folder: Path, taken: dict[str, list[float]]) -> None:
    async with program(*_subject(place, folder)) as one:
        for command, count, warm_up in _COMMANDS:
            taken.setdefault(command, []).append(await _cost_ms(one, command, count, warm_up))


async def _cost_ms(one: Program, command: str, count: int, warm_up: int) -> float:
    await one.ask(command, warm_up)
    taken = await one.ask(command, count)
    return statistics.median(taken) if isinstance(taken, list) else taken * 1000 / count


async def _templates(place: str, folder: Path) -> None:
    async with program(*_subject(place, folder)) as one:
        await one.ask("burst", _TEMPLATES)


async def _compare(
    say: Say, name: str, rounds: int, full: str, folder: Path, empty: Callable[[ExitStack], str]
) -> dict[str, object]:
    after: dict[str, list[float]] = {}
    before: dict[str, list[float]] = {}
    await _measured(full, folder, {})  # what was just written is read once: a store of this age is in memory
    for number in range(rounds):
        with ExitStack() as stack:
            await _measured(empty(stack), folder, before)
        await _measured(full, folder, after)
        say(f"{name}, round {number + 1} of {rounds}")
    figures: dict[str, object] = {}
    for command in after:
        ratios = [late / early for late, early in zip(after[command], before[command], strict=True)]
        figures[command] = {
            "after_none_ms": round(statistics.median(before[command]), 3),
            "after_all_ms": round(statistics.median(after[command]), 3),
            "ratio": round(statistics.median(ratios), 3),
            "range": [round(min(ratios), 3), round(max(ratios), 3)],
            "reached": statistics.median(ratios) < MOST_DEARER,
        }
        say(f"{name}, {command}: {figures[command]}")
    return figures


async def run(say: Say, rounds: int = 5, finished: int = FINISHED) -> dict[str, object]:
    """Measure on both kinds of store; keeps the figures."""
    setting = conditions()
    figures: dict[str, object] = {"finished": finished}
    with disk_folder() as folder:
        path = folder / "full.db"
        await _templates(str(path), folder)
        began = time.perf_counter()
        await asyncio.to_thread(fill_sqlite, path, finished)
        say(f"SQLite filled in {time.perf_counter() - began:.0f} s: {path.stat().st_size >> 20} MiB")

        def empty_file(stack: ExitStack) -> str:
            return str(stack.enter_context(disk_folder()) / "empty.db")

        figures["sqlite"] = await _compare(say, "SQLite", rounds, str(path), folder, empty_file)
    _keep(setting, figures)
    with disk_folder() as folder, postgres() as server, database(server, "history") as name:
        await _templates(server.url(name), folder)
        began = time.perf_counter()

        def columns_of(table: str) -> list[str]:
            query = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
            return server.sql(query, name).split()

        await asyncio.to_thread(fill_postgres, lambda sql: server.sql(sql, name), columns_of, finished)
        size = server.sql(f"SELECT pg_database_size('{name}') >> 20")
        say(f"PostgreSQL filled in {time.perf_counter() - began:.0f} s: {size} MiB")
        numbers = iter(range(1_000_000))

        def empty_database(stack: ExitStack) -> str:
            return server.url(stack.enter_context(database(server, f"empty{next(numbers)}")))

        figures["postgresql"] = await _compare(
            say, "PostgreSQL", rounds, server.url(name), folder, empty_database
        )
    _keep(setting, figures)
    return figures


def _keep(setting: dict[str, object], figures: dict[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    kept = {"conditions": setting, "figures": figures}
    (RESULTS / "history.json").write_text(json.dumps(kept, indent=1) + "\n")
