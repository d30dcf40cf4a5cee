"""Batches as the store keeps them: found by name, awaited, reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from praxis_sdk.cli.own_worker import OwnWorker
from praxis_sdk.errors import ValidationError
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import ExecutionFilter

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.observe.reports import BatchReport
    from praxis_sdk.model import Batch, Execution
    from praxis_sdk.store import Store

TELL_EVERY_S: Final = 2.0
MAX_BATCHES: Final = 10_000
_PAGE: Final = 1000
_OPEN: Final = frozenset(status for status in ExecutionStatus if not status.final)

Say = Callable[[str], None]


async def named_batch(store: Store, text: str) -> Batch:
    """Return the batch that a text names: its id, one end of it, or its name where only one has it.

    Raises:
        ValidationError: there is none, or more than one.
    """
    found = await store.batch(text)
    if found is not None:
        return found
    batches = await store.batches(limit=MAX_BATCHES)
    fitting = [one for one in batches if one.name == text or one.id.startswith(text) or one.id.endswith(text)]
    if len(fitting) == 1 and text:
        return fitting[0]
    if fitting and text:
        raise ValidationError(
            f"ID: {len(fitting)} batches fit '{text[:64]}'", remedy="'praxis batch list' shows their ids"
        )
    raise ValidationError(f"ID: there is no batch '{text[:128]}'", remedy="'praxis batch list' shows them")


async def executions_of(
    store: Store, batch_id: str, statuses: frozenset[ExecutionStatus] = frozenset()
) -> list[Execution]:
    """Return the executions of a batch, without requests and outputs."""
    wanted = ExecutionFilter(batch_id=batch_id, statuses=statuses)
    found: list[Execution] = []
    before: str | None = None
    while page := await store.find(wanted, limit=_PAGE, before=before):
        found += page
        before = page[-1].id
        if len(page) < _PAGE:
            break
    return found


async def ended(control: Control, batch: Batch, say: Say) -> None:
    """Return when all executions of a batch have ended; where nobody would run them, run them here.

    Args:
        control: what the command works with.
        batch: which.
        say: told how far it is.
    """
    executions = await executions_of(control.store, batch.id)
    async with OwnWorker(control, {one.kind for one in executions}, say):
        telling = asyncio.create_task(_tell(control.store, batch, say))
        try:
            for one in executions:
                if not one.status.final:
                    await control.coordinator.wait(one.id)
        finally:
            telling.cancel()
            await asyncio.wait([telling])


async def _tell(store: Store, batch: Batch, say: Say) -> None:
    last = -1
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        count = batch.size - len(await executions_of(store, batch.id, _OPEN))
        if count != last:
            say(f"{count} of {batch.size} have ended")
        last = count


async def reported(control: Control, batch: Batch, say: Say) -> BatchReport:
    """Return the report of a batch.

    Args:
        control: what the command works with.
        batch: which.
        say: told that it takes a while, where it does.
    """
    from praxis_sdk.control.observe.monitor import ExecutionMonitor

    if batch.size > _PAGE:
        say(f"reading {batch.size} executions")
    return await ExecutionMonitor(control.store, control.clock).batch_report(batch.id)
