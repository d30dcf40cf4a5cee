"""The journal: what running work tells, written to its stream in batches and in order.

Lines and pieces of output are gathered for a moment and written together, each execution's in the order in which they
came. What an attempt told is written before its end is, so a stream never ends before its last line.

What is kept is bounded by what it costs: bytes, and for each row what a row takes beside them. Of output the beginning
and the end of each stream are kept, as bytes, in pieces of up to 64 KiB; where something is left out between them, an
entry says how much. The end is written when the attempt has ended. Of lines, the first are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.lifecycle.transitions import note
from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.execution.output import CHUNK_BYTES, HEAD_BYTES, TAIL_BYTES, KeptStream
from praxis_sdk.log import get_logger
from praxis_sdk.model import WORK, EventType, Level, NewEvent
from praxis_sdk.store import Change, Store

GATHER_S: Final = 0.05
MAX_BYTES: Final = HEAD_BYTES  # of one attempt's lines, and of the beginning of each of its streams
ROW_BYTES: Final = 256  # what a row costs beside what it holds
MAX_INTERLEAVED: Final = 32  # pieces of one attempt in one gathering that keep the order between its streams
MAX_UNWRITTEN: Final = 10_000  # changes kept while the store cannot take them
MAX_UNWRITTEN_BYTES: Final = 32 << 20
MAX_CHANGE_BYTES: Final = 1 << 20  # of the pieces in one change
MAX_WRITE_BYTES: Final = (
    4 << 20
)  # of the pieces in one transaction, so that others wait for milliseconds only
MAX_LINE_CHARS: Final = 64 << 10
AGAIN_S: Final = 0.5  # after the store could not take something
REFUSED: Final = (TypeError, ValueError, ValidationError)  # what the store will not take later either

events = get_logger("praxis.control")


@dataclass(eq=False, slots=True)
class Piece:
    """A piece of output that still grows.

    Args:
        stream: which one.
        at: when it began.
        data: so far.
    """

    stream: str
    at: float
    data: bytearray


@dataclass(eq=False)
class AttemptBuffer:
    """What one attempt told and is not written yet.

    Args:
        execution_id: of which execution.
        token, number: of which attempt.
        max_bytes: how much it may tell in lines, and in the beginning of each stream.
    """

    execution_id: str
    token: int
    number: int = 1
    max_bytes: int = MAX_BYTES
    entries: list[NewEvent | Piece] = field(default_factory=list)
    entries_bytes: int = 0
    told_bytes: int = 0
    truncated: bool = False
    progress: float | None = None
    checkpoint_at: float | None = None
    _streams: dict[str, KeptStream] = field(default_factory=dict)
    _growing: dict[str, Piece] = field(
        default_factory=dict
    )  # the last piece of each stream among the entries
    _pieces: int = 0  # among the entries

    def add(self, draft: NewEvent) -> None:
        """Take an entry that is no output; one line more than it may tell says so, and the rest is dropped."""
        if draft.type is EventType.LOG:
            self.told_bytes += ROW_BYTES + len(draft.message.encode("utf-8", "surrogatepass"))
            if self.told_bytes > self.max_bytes:
                if self.truncated:
                    return
                self.truncated = True
                draft = _truncated(self.max_bytes, draft.at or 0.0)
        self.entries.append(draft)

    def add_output(self, stream: str, data: bytes, at: float) -> None:
        """Take bytes of a stream: to the piece that grows, to a new one, or to the end that is kept apart."""
        kept = self._streams.get(stream)
        if kept is None:
            kept = self._streams[stream] = KeptStream(self.max_bytes, TAIL_BYTES)
        while data and kept.room:
            piece = self._open_piece(stream, kept, at)
            part = data[: min(CHUNK_BYTES - len(piece.data), kept.room)]
            piece.data += part
            kept.room -= len(part)
            self.entries_bytes += len(part)
            data = data[len(part) :]
        if data:
            kept.feed_tail(data)

    def _open_piece(self, stream: str, kept: KeptStream, at: float) -> Piece:
        piece = self._growing.get(stream)
        last = self.entries[-1] if self.entries else None
        # Streams that take turns byte by byte would make a row of each byte.
        joins = piece is last or self._pieces >= MAX_INTERLEAVED
        if piece is not None and joins and len(piece.data) < CHUNK_BYTES:
            return piece
        piece = self._growing[stream] = Piece(stream, at, bytearray())
        kept.room = max(1, kept.room - ROW_BYTES)
        self.entries.append(piece)
        self._pieces += 1
        return piece

    def take(self, *, final_at: float | None = None) -> list[Change]:
        """Return the changes that write it, and begin anew.

        Args:
            final_at: the attempt has ended, at this time: also the ends of its streams are written.
        """
        if final_at is not None:
            self._end_streams(final_at)
        if not self.entries:
            return []
        update: dict[str, Any] = {}
        if self.progress is not None:
            update["progress"] = self.progress
        if self.checkpoint_at is not None:
            update["checkpoint_at"] = self.checkpoint_at
        entries, self.entries = self.entries, []
        self.entries_bytes = self._pieces = 0
        self._growing.clear()
        self.progress = self.checkpoint_at = None
        # Lines count whoever holds the execution by now; how far it is, only the attempt that holds it can say.
        changes = [note(self.execution_id, drafts) for drafts in _parts(map(self._draft, entries))]
        if update:
            changes.append(note(self.execution_id, (), token=self.token, **update))
        return changes

    def _end_streams(self, at: float) -> None:
        for stream, kept in self._streams.items():
            _, left_out, tail = kept.pieces()
            if left_out:
                message = (
                    f"{left_out} bytes of {stream} are left out here: its beginning and its end are kept"
                )
                data = {"stream": stream, "left_out_bytes": left_out, "attempt": self.number}
                self.entries.append(NewEvent(EventType.LOG, message, data, Level.WARN, "control", at))
            for begin in range(0, len(tail), CHUNK_BYTES):
                self.entries.append(Piece(stream, at, bytearray(tail[begin : begin + CHUNK_BYTES])))
        self._streams.clear()

    def _draft(self, entry: NewEvent | Piece) -> NewEvent:
        if isinstance(entry, NewEvent):
            return entry
        data: dict[str, Any] = {"stream": entry.stream}
        if self.number > 1:
            data["attempt"] = self.number
        return NewEvent(EventType.LOG, "", data, Level.INFO, WORK, entry.at, bytes(entry.data))


def _parts(drafts: Iterator[NewEvent]) -> Iterator[list[NewEvent]]:
    """Split drafts where their pieces become too much for one change."""
    part: list[NewEvent] = []
    size = 0
    for draft in drafts:
        part.append(draft)
        size += len(draft.chunk)
        if size >= MAX_CHANGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


class EventWriter:
    """Gathers and writes what all attempts of one worker tell.

    Args:
        store: where to.
        clock: the time.
        gather_s: how long lines are gathered, in seconds.
    """

    def __init__(self, store: Store, clock: Clock, *, gather_s: float = GATHER_S) -> None:
        self._store = store
        self._clock = clock
        self._gather_s = gather_s
        self._open: dict[AttemptBuffer, None] = {}  # those with something to write, in order
        self._unwritten: list[Change] = []  # what the store could not take, older than all that is open
        self._being_written: frozenset[str] = frozenset()  # the executions
        self._told = asyncio.Event()
        self._writing = asyncio.Lock()

    def tell(self, notebook: AttemptBuffer, draft: NewEvent) -> None:
        """Take a draft; it is written soon, and with the end of the attempt at the latest."""
        now = self._clock.time()
        if draft.chunk:
            notebook.add_output(draft.data["stream"], draft.chunk, now)
        else:
            if draft.type is EventType.PROGRESS:
                if draft.data.get("checkpoint"):
                    notebook.checkpoint_at = now
                else:
                    notebook.progress = draft.data["progress"]
            notebook.add(_timed(draft, now))
        self._open[notebook] = None
        self._told.set()

    async def take(self, notebook: AttemptBuffer) -> list[Change]:
        """Return what is still to be written of an attempt that has ended, to be written with its end."""
        if notebook.entries_bytes > MAX_CHANGE_BYTES:
            await self.flush()
        if notebook.execution_id in self._being_written:
            async with self._writing:
                pass
        self._open.pop(notebook, None)
        left = [one for one in self._unwritten if one.execution_id == notebook.execution_id]
        if left:
            self._unwritten = [one for one in self._unwritten if one.execution_id != notebook.execution_id]
        return [*left, *notebook.take(final_at=self._clock.time())]

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
            changes, self._unwritten = self._unwritten, []
            # While the store is away little is taken from the notebooks, which are bounded.
            if sum(map(_size, changes)) < MAX_UNWRITTEN_BYTES:
                open_, self._open = self._open, {}
                changes += [one for book in open_ for one in book.take()]
            else:
                self._told.set()
            self._being_written = frozenset(one.execution_id for one in changes)
            try:
                for done, batch in _batches(changes):
                    if not await self._write(batch, changes[done:]):
                        break
            finally:
                self._being_written = frozenset()

    async def _write(self, changes: list[Change], rest: Sequence[Change]) -> bool:
        """Write changes; where the store cannot take them they are kept, and the rest of what is to be written."""
        # To the end, also when cancelled: it must not stay open whether lines were written.
        task = asyncio.ensure_future(self._store.apply(changes))
        try:
            await asyncio.shield(task)
        except REFUSED:
            await self.write_each(changes)
        except PraxisError as error:
            # What the store cannot take now it may take with the next ones.
            self.keep([*changes, *rest])
            events.warning("journal.not_written", changes=len(changes), detail=str(error))
            return False
        except asyncio.CancelledError:
            await asyncio.wait([task])
            self.keep([*(changes if task.exception() is not None else ()), *rest])
            raise
        return True

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


def _size(change: Change) -> int:
    return sum(len(draft.chunk) for draft in change.events)


def _batches(changes: Sequence[Change]) -> Iterator[tuple[int, list[Change]]]:
    """Split changes for transactions of bounded size, each with how many changes there are up to its end."""
    batch: list[Change] = []
    size = 0
    for number, change in enumerate(changes, 1):
        batch.append(change)
        size += _size(change)
        if size >= MAX_WRITE_BYTES or number == len(changes):
            yield number, batch
            batch, size = [], 0


def _timed(draft: NewEvent, at: float) -> NewEvent:
    message = draft.message
    if len(message) > MAX_LINE_CHARS:
        message = message[:MAX_LINE_CHARS] + " [line truncated]"
    return NewEvent(draft.type, message, draft.data, draft.level, draft.component, draft.at or at)


def _truncated(max_bytes: int, at: float) -> NewEvent:
    message = f"the log of this attempt is full ({max_bytes} bytes); its further lines are not kept"
    return NewEvent(EventType.LOG, message, {"truncated": True}, Level.WARN, "control", at)
