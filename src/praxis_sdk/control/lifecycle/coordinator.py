"""The coordinator: the one door for submitting, asking about and cancelling executions (spec 4, section 1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import CancellationRequested, Kinds
from praxis_sdk.control.lifecycle.info import ExecutionContext, ExecutionInfo
from praxis_sdk.control.lifecycle.submission import (
    RETRY_OF,
    Submission,
    Window,
    make_execution,
    read_mode,
    read_priority,
)
from praxis_sdk.control.lifecycle.transitions import cancel_running, cancel_unconfirmed, cancel_waiting
from praxis_sdk.control.scheduling.usage_history import UsageHistory
from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.ids import new_id
from praxis_sdk.log import get_logger
from praxis_sdk.model import Batch, Event, EventType, Execution, Stop
from praxis_sdk.states import PENDING, ExecutionMode, ExecutionStatus, Priority, ServiceClass
from praxis_sdk.store import AppliedChange, ExecutionFilter, Store

MAX_WAITING: Final = 1_000_000
_COUNTS_ARE_GOOD_FOR_S: Final = 1.0
_PAGE: Final = 1000
_EVENTS: Final = 128  # read at once; each may have a piece of output of 64 KiB
_CANCELLED: Final = frozenset({ExecutionStatus.CANCELLING, ExecutionStatus.CANCELLED})

events = get_logger("praxis.control")


class QueueFull(PlatformError):
    """No more executions are taken for now."""


class ExecutionCoordinator:
    """Accepts executions, says how they stand, and ends them.

    Args:
        store: where executions live.
        kinds: the kinds of work that are accepted.
        clock: the time.
        max_pending: most executions that may wait; then submissions are refused (backpressure).
        stopping: told of each attempt whose end is wanted, for workers in this process.
    """

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        *,
        clock: Clock | None = None,
        max_pending: int = MAX_WAITING,
        stopping: Callable[[AppliedChange], None] = lambda settled: None,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._clock = clock or store.clock
        self._max_waiting = max_pending
        self._stopping = stopping
        self._experience = UsageHistory(store, self._clock)
        self._waiting_known = (0.0, 0)  # when it was counted, and what came of it
        self._counting: asyncio.Task[None] | None = None
        self._requests: dict[str, Execution] = {}
        self._awaited: Counter[str] = Counter()
        self._ended: dict[str, Execution] = {}

    # -- submitting

    async def submit_execution(
        self,
        work: Submission | Mapping[str, Any],
        mode: ExecutionMode | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        schedule: Window | None = None,
        idempotency_key: str | None = None,
        *,
        parent: Execution | None = None,
    ) -> str:
        """Submit work for execution; durable when this returns.

        Args:
            work: what shall run, and under which terms.
            mode: how a procedure is executed; None for other kinds, or for the kind's choice.
            priority: how much it matters.
            schedule: the window of batch work; None: as soon as there is room.
            idempotency_key: a second submission under it returns the first one's id.
            parent: the execution that submits it, and with which it is cancelled.

        Returns:
            The id of the execution.

        Raises:
            ValidationError: the request or a term is not acceptable; nothing was submitted.
            StoreConflict: the key was used for something else.
            QueueFull: too many wait.
            StoreUnavailable: it may not have been kept.
        """
        execution = await self.prepare(
            work, mode, priority, schedule, idempotency_key=idempotency_key, parent=parent
        )
        return (await self._submit([execution]))[0].id

    async def submit_child(
        self,
        parent: Execution,
        allowed: frozenset[str],
        kind: str,
        request: Mapping[str, Any],
        terms: Mapping[str, Any],
    ) -> str:
        """Submit a child of a running execution: of its class and priority, and once per attempt's word.

        Args:
            parent: the execution that submits it.
            allowed: the kinds that it may submit.
            kind, request: as in `Work`.
            terms: further fields of `Work`, and `key`: under the same key a later attempt finds the same child.

        Raises:
            ValidationError: the parent's kind may not submit such children, or the request is wrong.
            CancellationRequested: the parent's end is wanted, and so the child's.
        """
        if kind not in allowed:
            raise ValidationError(f"kind: a '{parent.kind}' may not submit a '{kind}'")
        fields = dict(terms)
        key = fields.pop("key", None)
        child_id = await self.submit_execution(
            Submission.of({"kind": kind, "request": request, **fields}),
            priority=parent.terms.priority,
            idempotency_key=None if key is None else f"child:{parent.id}:{key}",
            parent=parent,
        )
        # Whoever cancelled the parent before this child was there has not found it among its children.
        if await self.get_execution_status(parent.id) in _CANCELLED:
            await self.cancel_execution(child_id, f"its parent {parent.id} was cancelled")
            raise CancellationRequested(
                f"execution {parent.id} is cancelled, and submits no children any more"
            )
        return child_id

    async def submit_many(
        self,
        works: Sequence[Submission | Mapping[str, Any]],
        mode: ExecutionMode | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        schedule: Window | None = None,
    ) -> list[str]:
        """Submit many pieces of work, all or none; as `submit_execution`."""
        executions = [await self.prepare(work, mode, priority, schedule) for work in works]
        return [kept.id for kept in await self._submit(executions)]

    async def submit_batch(
        self,
        name: str,
        works: Sequence[Submission | Mapping[str, Any]],
        *,
        schedule: Window | None = None,
        priority: Priority | str = Priority.NORMAL,
        mode: ExecutionMode | str | None = None,
    ) -> Batch:
        """Submit work that belongs together, all or none, to run in one window (spec 4, properties 37-40).

        Raises:
            ValidationError: there is none, or a piece of it is not acceptable; the message says which.
        """
        if not works:
            raise ValidationError("batch: holds no work", remedy="submit at least one piece")
        now = self._clock.time()
        batch = Batch(
            id=new_id(),
            name=name,
            created_at=now,
            size=len(works),
            opens_at=schedule.opens_at if schedule else None,
            closes_at=schedule.closes_at if schedule else None,
        )
        executions: list[Execution] = []
        for number, work in enumerate(works, start=1):
            try:
                prepared = await self.prepare(work, mode, priority, schedule or Window(), batch_id=batch.id)
            except ValidationError as error:
                raise ValidationError(
                    f"batch, piece {number}: {error.message}", remedy=error.remedy
                ) from error
            executions.append(prepared)
        await self._room_for(len(executions))
        self._remember(await self._store.put_batch(batch, executions))
        return batch

    async def prepare(
        self,
        work: Submission | Mapping[str, Any],
        mode: ExecutionMode | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        schedule: Window | None = None,
        **belonging: Any,
    ) -> Execution:
        """Make the execution that a submission asks for, and submit nothing.

        Raises:
            ValidationError: the request or a term is not acceptable.
        """
        wanted = work if isinstance(work, Submission) else Submission.of(work)
        plan = self._kinds.get(wanted.kind).validate(wanted.request, read_mode(mode))
        learned = await self._experience.of(wanted.kind, plan)
        return make_execution(
            wanted,
            plan,
            self._clock.time(),
            priority=read_priority(priority),
            schedule=schedule,
            requirements=learned.requirements,
            expected_s=learned.expected_s,
            **belonging,
        )

    async def create_context(
        self,
        work: Submission | Mapping[str, Any],
        mode: ExecutionMode | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        schedule: Window | None = None,
    ) -> ExecutionContext:
        """Return the context that an execution of this work would have (spec 4, property 1)."""
        return ExecutionContext.of(await self.prepare(work, mode, priority, schedule))

    async def _submit(self, executions: Sequence[Execution]) -> list[Execution]:
        await self._room_for(len(executions))
        kept = await self._store.submit(executions)
        self._remember(kept)
        return kept

    async def _room_for(self, count: int) -> None:
        counted_at, _ = self._waiting_known
        if self._clock.monotonic() - counted_at >= _COUNTS_ARE_GOOD_FOR_S or counted_at == 0.0:
            if self._counting is None or self._counting.done():  # a thousand who submit at once count once
                self._counting = asyncio.create_task(self._count_waiting())
            await asyncio.shield(self._counting)
        counted_at, waiting = self._waiting_known
        if waiting + count > self._max_waiting:
            raise QueueFull(
                f"{waiting} executions wait, and at most {self._max_waiting} may (max_pending)",
                remedy="submit again when some have ended",
            )
        self._waiting_known = counted_at, waiting + count

    async def _count_waiting(self) -> None:
        counts = (await self._store.counts()).by_status
        waiting = sum(number for status, number in counts.items() if status in PENDING)
        self._waiting_known = self._clock.monotonic(), waiting

    def _remember(self, executions: Sequence[Execution]) -> None:
        """Keep requests for the dispatcher of this process, which would have to read them back."""
        for execution in executions:
            if execution.status in PENDING:
                self._requests[execution.id] = execution
        while len(self._requests) > _PAGE:
            del self._requests[next(iter(self._requests))]

    async def with_request(self, execution: Execution) -> Execution:
        """Return an execution with its request, which lists leave out."""
        known = self._requests.pop(execution.id, None) or await self._store.get(execution.id)
        return execution.but(request=known.request, context=known.context)

    # -- asking

    async def get_execution(self, execution_id: str) -> ExecutionInfo:
        """Return how an execution stands; raises UnknownExecution."""
        return ExecutionInfo.of(await self._store.get(execution_id), self._clock.time())

    async def get_execution_status(self, execution_id: str) -> ExecutionStatus:
        """Return the status of an execution; raises UnknownExecution."""
        return (await self._store.get(execution_id)).status

    async def wait(self, execution_id: str, *, seen: int = 0) -> Execution:
        """Wait for the end of an execution and return it, without asking again and again.

        Args:
            execution_id: which one.
            seen: what the topic of its end said when it was certain not to have ended; 0: nothing is certain.

        Raises:
            UnknownExecution: there is none.
        """
        topic = f"ended:{execution_id}"
        self._awaited[execution_id] += 1
        try:
            while True:
                seen = await self._store.changed(topic, seen)
                known = self._ended.get(execution_id) or await self._store.get(execution_id)
                if known.status.final:
                    return known
        finally:
            self._awaited[execution_id] -= 1
            if not self._awaited[execution_id]:
                del self._awaited[execution_id]
                self._ended.pop(execution_id, None)

    async def run(
        self,
        work: Submission | Mapping[str, Any],
        mode: ExecutionMode | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        schedule: Window | None = None,
        idempotency_key: str | None = None,
    ) -> Execution:
        """Submit work and wait for its end; as `submit_execution`."""
        execution = await self.prepare(work, mode, priority, schedule, idempotency_key=idempotency_key)
        seen = await self._store.changed(f"ended:{execution.id}", 0)
        kept = (await self._submit([execution]))[0]
        return await self.wait(kept.id, seen=seen if kept.id == execution.id else 0)

    def told(self, settled: AppliedChange) -> None:
        """Take note of an end that a worker of this process reported."""
        after = settled.after
        if after.status.final and after.id in self._awaited:
            self._ended[after.id] = after

    async def find(
        self, wanted: ExecutionFilter, *, limit: int = 100, before: str | None = None
    ) -> list[ExecutionInfo]:
        """Return executions, the youngest first."""
        now = self._clock.time()
        return [
            ExecutionInfo.of(one, now) for one in await self._store.find(wanted, limit=limit, before=before)
        ]

    async def tail(
        self,
        execution_id: str,
        *,
        after: int = -1,
        types: frozenset[EventType] = frozenset(),
        follow: bool = True,
    ) -> AsyncIterator[Event]:
        """Go through the events of an execution in order, from any place, and on until it ends.

        Args:
            execution_id: whose.
            after: the sequence number after which to begin; -1: from the first.
            types: only these; empty: all.
            follow: wait for more until the execution has ended.

        Raises:
            UnknownExecution: there is none.
        """
        topic, seen = f"execution:{execution_id}", 0
        while True:
            if follow:
                seen = await self._store.changed(topic, seen)
            # Asked before the events are read: what comes after the answer has another sequence number.
            ended = (await self._store.get(execution_id)).status.final
            while page := await self._store.events(execution_id, after=after, limit=_EVENTS, types=types):
                for event in page:
                    yield event
                after = page[-1].seq
            if ended or not follow:
                return

    # -- ending

    async def cancel_execution(
        self, execution_id: str, reason: str = "", *, actor: str = "submitter"
    ) -> bool:
        """Ask for the end of an execution and of those that it submitted: at once where they wait.

        Returns:
            False when it had ended before.

        Raises:
            UnknownExecution: there is none.
        """
        why = reason or "its cancellation was asked for"
        cancelled = await self._cancel(execution_id, why, actor)
        for child in await self._open_children(execution_id):
            await self.cancel_execution(child, f"its parent {execution_id} was cancelled", actor=actor)
        return cancelled

    async def _cancel(self, execution_id: str, reason: str, actor: str) -> bool:
        while True:
            execution = await self._store.get(execution_id)
            if execution.status.final:
                return False
            if execution.status is ExecutionStatus.CANCELLING and execution.stop is Stop.CANCEL:
                return True
            if execution.status is ExecutionStatus.CANCELLING:
                change = cancel_unconfirmed(execution, reason, actor)
            elif execution.status in PENDING:
                change = cancel_waiting(execution, reason, self._clock.time(), actor)
            else:
                change = cancel_running(execution, reason, actor)
            settled = (await self._store.apply([change]))[0]
            if settled is not None:
                self._stopping(settled)
                self.told(settled)
                return True
            await asyncio.sleep(0)  # it moved on meanwhile: look again

    async def _open_children(self, parent_id: str) -> list[str]:
        open_ = frozenset(status for status in ExecutionStatus if not status.final)
        wanted = ExecutionFilter(parent_id=parent_id, statuses=open_)
        return [child.id for child in await self._store.find(wanted, limit=10_000)]

    async def retry_execution(self, execution_id: str, *, actor: str = "submitter") -> str:
        """Submit an execution that ended again, as a new one; the old one stays as it is.

        Returns:
            The id of the new execution, whose label `praxis.retry_of` names the old one.

        Raises:
            UnknownExecution: there is none.
            ValidationError: it has not ended.
        """
        old = await self._store.get(execution_id)
        if not old.status.final:
            raise ValidationError(
                f"execution {execution_id}: is {old.status}, and only what has ended is tried again",
                remedy="wait for its end, or cancel it",
            )
        assert old.request is not None
        work = Submission(
            kind=old.kind,
            request=old.request,
            requirements=old.terms.requirements,
            timeout_s=old.terms.timeout_s,
            retry=old.terms.retry,
            batch=old.terms.service_class is ServiceClass.BATCH,
            labels={**old.labels, RETRY_OF: old.id},
        )
        new = await self.submit_execution(work, old.mode, old.terms.priority)
        events.info("execution.retried", execution_id=new, retry_of=old.id, actor=actor)
        return new
