"""Ids of executions as people type them: whole, or so much of the beginning or the end that only one fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.model import Execution
    from praxis_sdk.store import Store

SHORTEST: Final = 4
MAX_LOOKED_AT: Final = 20_000  # the youngest ones; older ones are named in full
_PAGE: Final = 1000
_SHOWN: Final = 3


async def named(store: Store, text: str) -> Execution:
    """Return the execution that a text names.

    Args:
        store: where it is.
        text: its id, or the beginning or end of it.

    Raises:
        ValidationError: there is none, or more than one.
    """
    from praxis_sdk.store import ExecutionFilter, UnknownExecution

    try:
        return await store.get(text)
    except UnknownExecution as error:
        if len(text) < SHORTEST:
            raise _unknown(text) from error
    found: list[str] = []
    before: str | None = None
    for _ in range(MAX_LOOKED_AT // _PAGE):
        page = await store.find(ExecutionFilter(), limit=_PAGE, before=before)
        found += [one.id for one in page if one.id.startswith(text) or one.id.endswith(text)]
        if len(page) < _PAGE:
            break
        before = page[-1].id
    if not found:
        raise _unknown(text)
    if len(found) > 1:
        some = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        raise ValidationError(
            f"ID: {len(found)} executions begin or end with '{text[:64]}': {some}", remedy="write more of it"
        )
    return await store.get(found[0])


def _unknown(text: str) -> ValidationError:
    return ValidationError(
        f"ID: there is no execution '{text[:128]}'", remedy="'praxis ps --all' shows them with their ids"
    )
