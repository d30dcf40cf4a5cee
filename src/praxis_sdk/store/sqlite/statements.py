"""The statements of the SQL files beside this module, by name.

A section `-- name: X` is one statement. `{EXECUTION}` stands for the columns that `store.rows` lists under that
name, `{EXECUTION:e}` for those of table `e`, `{EXECUTION?}` for as many parameters, `{REST=}` for assignments.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

from praxis_sdk.store import rows

_COLUMNS: Final = re.compile(r"\{([A-Z]+)(?::(\w+)|([?=]))?\}")
_SECTION: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def text_of(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def statements_of(name: str) -> dict[str, str]:
    """Return the statements of a file by name."""
    _, *parts = _SECTION.split(text_of(name))
    return {title: _filled(sql.strip()) for title, sql in zip(parts[::2], parts[1::2], strict=True)}


def _filled(sql: str) -> str:
    return _COLUMNS.sub(_columns, sql)


def _columns(match: re.Match[str]) -> str:
    names: tuple[str, ...] = getattr(rows, match[1])
    if match[3] == "?":
        return ", ".join("?" * len(names))
    if match[3] == "=":
        return ", ".join(f"{name} = ?" for name in names)
    return rows.columns(names, match[2] or "")


FILES: Final = ("executions", "rounds", "events", "pruning", "workers", "schedules", "batches", "settings")
SQL: Final = {name: sql for file in FILES for name, sql in statements_of(f"{file}.sql").items()}
