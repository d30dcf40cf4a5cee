"""The SQL, by name: files that hold statements, with the columns of `store.rows` filled in."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from praxis_sdk.store import rows

FILES: Final = ("executions", "rounds", "events", "workers", "schedules", "transactions")
# What changes come to, beside the rows that are inserted.
MOVED: Final = ("id", *rows.MOVING, "noisy")
RESULTED: Final = (*rows.RESULT, "with_outputs", "with_result")
RESERVING: Final = ("worker_id", "running", *rows.RESERVED)
_LISTS: Final = {
    "EXECUTION": rows.EXECUTION,
    "DOCUMENT": rows.DOCUMENT,
    "RESULT": rows.RESULT,
    "EVENT": rows.EVENT,
    "ATTEMPT": rows.ATTEMPT,
    "WORKER": rows.WORKER,
    "SCHEDULE": rows.SCHEDULE,
    "BATCH": rows.BATCH,
    "ENDED": rows.ENDED,
    "MOVING": rows.MOVING,
    "MOVED": MOVED,
    "RESULTED": RESULTED,
    "RESERVING": RESERVING,
}
# The types of columns that are no text, as arrays of them are passed to `unnest`.
_TYPES: Final = {
    "labels": "jsonb",
    **dict.fromkeys(("rank", "token", *rows.RESERVED), "int8"),
    **dict.fromkeys(("attempt", "retries", "preemptions", "next_seq", "seq", "number", "running"), "int4"),
    **dict.fromkeys(
        ("submitted_at", "due_at", "ended_at", "queued_at", "started_at", "attempt_at"), "float8"
    ),
    **dict.fromkeys(("progress", "checkpoint_at", "at", "reserved_cpu_cores"), "float8"),
    **dict.fromkeys(("noisy", "with_outputs", "with_result"), "bool"),
    "chunk": "bytea",
}
_TOKEN: Final = re.compile(r"\{([A-Z]+)(?:([:=@$!])(\w+))?\}")
_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def statement(name: str) -> str:
    """Return a statement of the folder `sql`."""
    return _statements()[name]


def names() -> list[str]:
    """Return the names of all statements."""
    return list(_statements())


@cache
def _statements() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in FILES:
        text = (files(__package__) / "sql" / f"{file}.sql").read_text(encoding="utf-8")
        _, *parts = _NAME.split(text)
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            assert name not in found, f"two statements are called {name}"
            found[name] = _TOKEN.sub(_filled, body).strip()
    return found


def _filled(token: re.Match[str]) -> str:
    """Return a list of columns.

    `{EVENT}` names them, `{EVENT:e}` with their table, `{EVENT=new}` sets each from another table, `{EVENT$3}` is
    a parameter for each from the third on, `{EVENT@3}` an array for each, and `{EVENT!NULL}` has NULL for each.
    """
    names, form, word = _LISTS[token[1]], token[2], token[3]
    if form == ":":
        return rows.columns(names, word)
    if form == "=":
        return ", ".join(f"{name} = {word}.{name}" for name in names)
    if form == "$":
        return ", ".join(f"${number}" for number, _ in enumerate(names, int(word)))
    if form == "@":
        arrays = (f"${number}::{_TYPES.get(name, 'text')}[]" for number, name in enumerate(names, int(word)))
        return ", ".join(arrays)
    if form == "!":
        return ", ".join([word] * len(names))
    return rows.columns(names)
