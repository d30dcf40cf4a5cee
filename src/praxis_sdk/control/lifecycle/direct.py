"""Direct runs: an execution that whoever submits it runs himself, at once.

It is kept, watched, cancelled and accounted for like every other, but never queued: no other worker gets it, and
its worker gets nothing else. What fails is not tried again, since somebody is there to see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import AttemptHandle, Grace, Kind, Kinds, Outcome, Plan
from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.submission import Submission, make_execution
from praxis_sdk.control.lifecycle.transitions import begin_at_once, cancel_running
from praxis_sdk.control.observe.tracing import Tracing
from praxis_sdk.control.workers.leases import LEASE_S
from praxis_sdk.control.workers.liveness import Liveness
from praxis_sdk.control.workers.worker import WorkerCapacity, WorkerProcess
from praxis_sdk.errors import PlatformError, PraxisError, TerminationUnconfirmed
from praxis_sdk.model import NO_RETRIES, Execution
from praxis_sdk.states import ExecutionMode, ExecutionStatus
from praxis_sdk.store import AppliedChange, Store, StoreConflict
from praxis_sdk.termination import Termination


class DirectRun:
    """Runs one piece of work in this process, as an execution.

    Args:
        store: where it is kept.
        kind: the kind of work; the caller closes it.
        clock: the time.
        liveness: the locks by which others know that this process is alive; None: its lease tells.
        tracing: told of the execution when it has ended; None: nobody traces.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind,
        *,
        clock: Clock | None = None,
        liveness: Liveness | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._store = store
        self._kind = _Observed(kind)
        self._clock = clock or store.clock
        self._liveness = liveness
        self._tracing = tracing
        self._names: list[str] = []  # of the worker, which takes another one when it was lost
        self._ended: Execution | None = None

    async def run(self, work: Submission, mode: ExecutionMode | None = None) -> tuple[Execution, Any]:
        """Run work to its end; when this returns or raises, also when cancelled, nothing of it is alive.

        Returns:
            The execution, and what its kind's `run` returned.

        Raises:
            ValidationError: the request is not acceptable; nothing was started.
            PraxisError: what the kind's `run` raised.
            PlatformError: it has no result: it was cancelled, or this process was held up past its lease.
            StoreUnavailable: the store cannot be written.
        """
        execution = self._execution(work, mode)
        worker = WorkerProcess(
            self._store,
            Kinds(self._kind),
            WorkerCapacity(execution.granted, slots=1, kinds=frozenset()),
            clock=self._clock,
            told=self._told,
            registered=self._registered,
        )
        await worker.start()
        try:
            return await self._perform(worker, execution)
        finally:
            await worker.stop()
            while self._names and self._liveness is not None:
                self._liveness.release(self._names.pop())
            if self._ended is None:
                await self._withdraw(execution.id)

    def _execution(self, work: Submission, mode: ExecutionMode | None) -> Execution:
        work = dataclasses.replace(work, retry=NO_RETRIES)
        plan = self._kind.validate(work.request, mode)
        made = make_execution(work, plan, self._clock.time())
        # Nobody else shall begin it, unless this process dies before it does.
        due_at = made.submitted_at + LEASE_S
        return made.but(status=ExecutionStatus.SUBMITTED, due_at=due_at, queued_at=None)

    async def _perform(self, worker: WorkerProcess, execution: Execution) -> tuple[Execution, Any]:
        (kept,) = await self._store.submit([execution])
        change = begin_at_once(kept, worker.id, self._clock.time())
        (begun,) = await self._store.apply([change])
        if begun is None:
            raise StoreConflict(f"execution {kept.id}: was cancelled before it began")
        await worker.confirm()
        worker.accept(begun.after.but(request=execution.request, context=execution.context))
        try:
            await worker.idle()
        except asyncio.CancelledError:
            (asked,) = await self._store.apply([cancel_running(begun.after, "interrupted", "submitter")])
            if asked is not None:
                worker.ask_to_stop(asked)
                await worker.idle()
                left = self._kind.termination
                if left is not None and not left.confirmed:
                    raise _unconfirmed(left) from None
            raise
        if self._kind.error is not None:
            raise self._kind.error
        # Not told of an end where another has ended it: what a worker reports past its lease does not count.
        ended = self._ended or await self._store.get(kept.id)
        # One whose end is not confirmed has an outcome that says so; whoever has the kind pursues it.
        counts = self._ended is not None or ended.status is ExecutionStatus.CANCELLING
        if not counts or not self._kind.returned:
            why = f": {ended.reason}" if ended.reason else ""
            raise PlatformError(f"execution {ended.id} has no result: {ended.status}{why}")
        return ended, self._kind.ending

    async def _withdraw(self, execution_id: str) -> None:
        """Cancel what did not end here: nobody waits for it any more, so nobody shall begin it."""
        with contextlib.suppress(PraxisError):  # it was never kept, or the store is away
            if (await self._store.get(execution_id)).status is ExecutionStatus.CANCELLING:
                return  # it is over, and what it came to counts once its end is confirmed
            coordinator = ExecutionCoordinator(self._store, Kinds(self._kind), clock=self._clock)
            await coordinator.cancel_execution(execution_id, "interrupted")

    def _registered(self, worker_id: str) -> None:
        if self._liveness is not None:
            self._liveness.hold(worker_id)
            if worker_id not in self._names:
                self._names.append(worker_id)

    def _told(self, settled: AppliedChange) -> None:
        if settled.after.status.final:
            self._ended = settled.after
            if self._tracing is not None:
                self._tracing.ended(settled.after)


def _unconfirmed(left: Termination) -> TerminationUnconfirmed:
    if left.pursued is not None:
        remedy = f"a worker pursues it; or end it yourself: docker rm -f {left.pursued.name}"
        return TerminationUnconfirmed(left.known, remedy=remedy)
    return TerminationUnconfirmed(left.known)


class _Observed:
    """A kind that remembers how its one attempt ended."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.returned = False
        self.ending: Any = None
        self.error: Exception | None = None
        self.termination: Termination | None = None

    @property
    def name(self) -> str:
        return self._kind.name

    @property
    def children(self) -> frozenset[str]:
        return frozenset()

    @property
    def grace(self) -> Grace:
        return self._kind.grace

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        return self._kind.validate(request, mode)

    async def run(self, attempt: AttemptHandle) -> Any:
        try:
            self.ending = await self._kind.run(attempt)
        except Exception as error:
            self.error = error
            raise
        finally:
            self.termination = attempt.termination
        self.returned = True
        return self.ending

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        return self._kind.collect(attempt, ending)

    def dependency(self, execution: Execution) -> str | None:
        return None  # a breaker for one call would break nothing

    async def close(self) -> None:
        await self._kind.close()
