"""The monitor: answers to what people and programs ask of all executions (spec 4, sections 6 and 8)."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.observe.metrics import ExecutionMetrics, summarise
from praxis_sdk.control.observe.output import with_output
from praxis_sdk.control.observe.reports import BatchReport, report_batch
from praxis_sdk.errors import ValidationError
from praxis_sdk.model import AUDITED, Attempt, Event, Execution
from praxis_sdk.store import EventFilter, ExecutionFilter, Store
from praxis_sdk.store.changes import verify_chain, verify_record

_PAGE: Final = 1000
_AT_ONCE: Final = 16
_REPORTED_BYTES: Final = 64 << 10  # of each stream, in a report


class ExecutionMonitor:
    """Asks the store; changes nothing.

    Args:
        store: where executions live.
        clock: the time.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or store.clock

    async def get_metrics(self, since: float | None = None, until: float | None = None) -> ExecutionMetrics:
        """Return the metrics of a time window (spec 4, property 24).

        Args:
            since, until: seconds since 1970; the last hour, up to now, where they are missing.
        """
        end = self._clock.time() if until is None else until
        begin = end - 3600.0 if since is None else since
        if begin >= end:
            raise ValidationError("window: ends before it begins", remedy="give an earlier beginning")
        ended = await self._store.ended(begin, end)
        counts = await self._store.counts()
        workers = await self._store.workers()
        return summarise(ended, counts, workers, begin, end)

    async def query_logs(self, wanted: EventFilter, *, limit: int = _PAGE) -> list[Event]:
        """Return events of any execution that match all filters, the latest first (spec 4, property 25).

        The message of a piece of output is its text.
        """
        return [
            dataclasses.replace(event, message=event.chunk.decode(errors="replace")) if event.chunk else event
            for event in await self._store.query_events(wanted, limit=limit)
        ]

    async def batch_report(self, batch_id: str) -> BatchReport:
        """Return the report of a batch, as far as it has come (spec 4, property 40).

        Raises:
            ValidationError: there is no such batch.
        """
        batch = await self._store.batch(batch_id)
        if batch is None:
            raise ValidationError(
                f"batch: there is no '{batch_id[:128]}'", remedy="'praxis batch list' shows them"
            )
        ids: list[str] = []
        while page := await self._store.find(
            ExecutionFilter(batch_id=batch.id), limit=_PAGE, before=ids[-1] if ids else None
        ):
            ids += [member.id for member in page]
        executions: list[Execution] = []
        attempts: dict[str, list[Attempt]] = {}
        for first in range(0, len(ids), _AT_ONCE):
            some = ids[first : first + _AT_ONCE]
            executions += await asyncio.gather(*map(self._with_output, some))
            made = await asyncio.gather(*map(self._store.attempts, some))
            attempts.update(zip(some, made, strict=True))
        return report_batch(batch, executions, attempts, self._clock.time())

    async def _with_output(self, execution_id: str) -> Execution:
        execution = await self._store.get(execution_id)
        return await with_output(self._store, execution, max_bytes=_REPORTED_BYTES)

    async def verify_audit(self, execution_id: str) -> str:
        """Check that nothing in an execution's audit trail was altered or removed, and that the record agrees.

        Returns:
            What is wrong, in one line; empty: nothing.

        Raises:
            UnknownExecution: there is none.
        """
        execution = await self._store.get(execution_id)
        entries: list[Event] = []
        after = -1
        while page := await self._store.events(execution_id, after=after, limit=_PAGE, types=AUDITED):
            entries += page
            after = page[-1].seq
        # What was appended since the execution was read is covered by a later chain.
        known = [event for event in entries if event.seq < execution.next_seq]
        return verify_chain(known, execution.chain) or verify_record(execution, known)
