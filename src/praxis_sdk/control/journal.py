"""The journal: what running work tells, written to its stream in batches and in order.

Lines are gathered for a moment and written together, each execution's in the order in which they came. What an
attempt told is written before its end is, so a stream never ends before its last line. An attempt may write
so much and no more; then one line says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.transitions import note
from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.log import get_logger
from praxis_sdk.model import Draft, EventType, Level
from praxis_sdk.store import Change, Store

GATHER_S: Final = 0.05
MAX_BYTES: Final = 16 << 20  # of one attempt's lines
MAX_UNWRITTEN: Final = 10_000  # changes kept while the store cannot take them
MAX_LINE_CHARS: Final = 64 << 10
AGAIN_S: Final = 0.5  # after the store could not take something
REFUSED: Final = (TypeError, ValueError, ValidationError)  # what the store will not take later either

events = get_logger("praxis.control")


@dataclass(eq=False)
class Notebook:
    """What one attempt told and is not written yet.

    Args:
        execution_id: of which execution.
        token: of which attempt.
    """

    execution_id: str
    token: int
    drafts: list[Draft] = field(default_factory=list)
    bytes_told: int = 0
    truncated: bool = False
    progress: float | None = None
    checkpoint_at: float | None = None

    def take(self) -> list[Change]:
        """Return the changes that write it, and begin anew."""
        if not self.drafts:
            return []
        update: dict[str, Any] = {}
        if self.progress is not None:
            update["progress"] = self.progress
        if self.checkpoint_at is not None:
            update["checkpoint_at"] = self.checkpoint_at
        drafts, self.drafts = self.drafts, []
        self.progress = self.checkpoint_at = None
        # Lines count whoever holds the execution by now; how far it is, only the attempt that holds it can say.
        changes = [note(self.execution_id, drafts)]
        if update:
            changes.append(note(self.execution_id, (), token=self.token, **update))
        return changes


class Journal:
    """Gathers and writes what all attempts of one worker tell.

    Args:
        store: where to.
        clock: the time.
        gather_s: how long lines are gathered, in seconds.
        max_bytes: how much one attempt may tell.
    """

    def __init__(
        self, store: Store, clock: Clock, *, gather_s: float = GATHER_S, max_bytes: int = MAX_BYTES
    ) -> None:
        self._store = store
        self._clock = clock
        self._gather_s = gather_s
        self._max_bytes = max_bytes
        self._open: dict[Notebook, None] = {}  # those with something to write, in order
        self._unwritten: list[Change] = []  # what the store could not take, older than all that is open
        self._being_written: frozenset[str] = frozenset()  # the executions
        self._told = asyncio.Event()
        self._writing = asyncio.Lock()

    def tell(self, notebook: Notebook, draft: Draft) -> None:
        """Take a draft; it is written soon, and with the end of the attempt at the latest."""
        if draft.type is EventType.LOG:
            size = len(draft.message)
            if notebook.bytes_told + size > self._max_bytes:
                if not notebook.truncated:
                    notebook.truncated = True
                    self._add(notebook, _truncated(self._max_bytes, self._clock.time()))
                return
            notebook.bytes_told += size
        elif draft.type is EventType.PROGRESS:
            if draft.data.get("checkpoint"):
                notebook.checkpoint_at = self._clock.time()
            else:
                notebook.progress = draft.data["progress"]
        self._add(notebook, _timed(draft, self._clock.time()))

    def _add(self, notebook: Notebook, draft: Draft) -> None:
        notebook.drafts.append(draft)
        self._open[notebook] = None
        self._told.set()

    async def take(self, notebook: Notebook) -> list[Change]:
        """Return what is still to be written of an attempt, to be written with its end."""
        if notebook.execution_id in self._being_written:
            async with self._writing:
                pass
        self._open.pop(notebook, None)
        left = [one for one in self._unwritten if one.execution_id == notebook.execution_id]
        if left:
            self._unwritten = [one for one in self._unwritten if one.execution_id != notebook.execution_id]
        return [*left, *notebook.take()]

    def keep(self, changes: Sequence[Change]) -> None:
        """Take back what was taken and could not be written; it is written when the store takes it."""
        if changes:
            self._unwritten = [*changes, *self._unwritten][-MAX_UNWRITTEN:]
            self._told.set()

    async def run(self) -> None:
        """Write until cancelled; what is left then is written with the ends of the attempts."""
        while True:
            await self._told.wait()
            await self._clock.sleep(self._gather_s)
            await self.flush()
            if self._unwritten:
                await self._clock.sleep(AGAIN_S)

    async def flush(self) -> None:
        """Write all that was told so far."""
        async with self._writing:
            self._told.clear()
            open_, self._open = self._open, {}
            changes = self._unwritten + [one for book in open_ for one in book.take()]
            self._unwritten = []
            self._being_written = frozenset(one.execution_id for one in changes)
            try:
                if changes:
                    await self._write(changes)
            finally:
                self._being_written = frozenset()

    async def _write(self, changes: list[Change]) -> None:
        # To the end, also when cancelled: it must not stay open whether lines were written.
        task = asyncio.ensure_future(self._store.apply(changes))
        try:
            await asyncio.shield(task)
        except REFUSED:
            await self.write_each(changes)
        except PraxisError as error:
            # What the store cannot take now it may take with the next ones.
            self.keep(changes)
            events.warning("journal.not_written", changes=len(changes), detail=str(error))
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if task.exception() is not None:
                self.keep(changes)
            raise

    async def write_each(self, changes: Sequence[Change]) -> None:
        """Write changes one by one, so that one which the store refuses takes none of the others with it."""
        for number, change in enumerate(changes):
            try:
                await self._store.apply([change])
            except REFUSED as error:
                events.warning("journal.refused", execution_id=change.execution_id, detail=str(error))
            except PraxisError:
                self.keep(changes[number:])
                return


def _timed(draft: Draft, at: float) -> Draft:
    message = draft.message
    if len(message) > MAX_LINE_CHARS:
        message = message[:MAX_LINE_CHARS] + " [line truncated]"
    return Draft(draft.type, message, draft.data, draft.level, draft.component, draft.at or at)


def _truncated(max_bytes: int, at: float) -> Draft:
    message = f"the log of this attempt is full ({max_bytes} characters); the rest is not kept"
    return Draft(EventType.LOG, message, {"truncated": True}, Level.WARN, "control", at)
