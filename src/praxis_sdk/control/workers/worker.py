"""The worker: takes the attempts that it is given, runs them, reports their ends, and can be drained.

What it holds is its own until its lease runs out. A worker that cannot renew its lease stops its attempts before
others take them over (`leases`), and goes on once the store is back, under a new name where the store counts it as
lost; what it reports too late is discarded by the guards of the store. No status is decided here: how an attempt
ended goes to the failure policy, and what the policy says is written as one guarded change.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import AttemptHandle, Kinds, Outcome
from praxis_sdk.control.lifecycle import completion
from praxis_sdk.control.lifecycle.transitions import note
from praxis_sdk.control.offer import WorkerCapacity
from praxis_sdk.control.workers.breaker import BreakerOpen, Breakers, Permit
from praxis_sdk.control.workers.event_writer import REFUSED, AttemptBuffer, EventWriter
from praxis_sdk.control.workers.heartbeat import Heartbeat, StallWatch
from praxis_sdk.control.workers.leases import LEASE_S, Lease
from praxis_sdk.control.workers.supervision import LEASE_LOST, RunningAttempt, SupervisedEnd, supervise
from praxis_sdk.errors import PraxisError
from praxis_sdk.ids import new_id
from praxis_sdk.log import get_logger
from praxis_sdk.model import EventType, Execution, Level, NewEvent, Stop, Worker, WorkerState
from praxis_sdk.resources import total
from praxis_sdk.states import HELD
from praxis_sdk.store import AppliedChange, Change, ExecutionFilter, Store
from praxis_sdk.store.protocol import StoreGone
from praxis_sdk.supervisor import Supervisor

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_LEAVE: Final = "worker_ends"
_MOST_REPORTED: Final = 10_000
_MOST_LOOKS: Final = 10

__all__ = ["LEASE_S", "WorkerCapacity", "WorkerProcess"]

events = get_logger("praxis.control")

Children = Callable[[Execution, str, Mapping[str, Any], Mapping[str, Any]], Awaitable[str]]
Await = Callable[[str], Awaitable[Execution]]
Told = Callable[[AppliedChange], None]


class WorkerProcess:
    """Runs attempts of all kinds, as many at once as it has slots.

    Args:
        store: where executions live.
        kinds: what it can run.
        offer: what it has.
        clock: the time.
        breakers: of the services that attempts stand on.
        told: called with every end that the store accepted.
        registered: called with this worker's name before the store knows it.
        left: called with its earlier name when nothing of it is left.
        stalled: called in a thread, with the age of the last heartbeat in seconds, when the event loop stands
            still and attempts run that others may take over soon; None: nobody looks.
        children: submits a child execution of an attempt.
        wait: waits for the end of an execution.
        host: the machine's name, for people.
    """

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        offer: WorkerCapacity,
        *,
        clock: Clock | None = None,
        breakers: Breakers | None = None,
        told: Told = lambda settled: None,
        registered: Callable[[str], None] = lambda worker_id: None,
        left: Callable[[str], None] = lambda worker_id: None,
        stalled: Callable[[float], None] | None = None,
        children: Children | None = None,
        wait: Await | None = None,
        host: str = "",
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._offer = offer
        self._clock = clock or Clock()
        self._breakers = breakers or Breakers(monotonic=self._clock.monotonic)
        self._told = told
        self._registered = registered
        self._left = left
        self._children = children
        self._wait = wait
        self._host = host or socket.gethostname()
        self._journal = EventWriter(store, self._clock)
        self._held: dict[str, tuple[RunningAttempt, asyncio.Task[None]]] = {}
        self._reported: dict[str, None] = {}  # the attempts that ended here, the first first
        self._idle = asyncio.Event()
        self._idle.set()
        self._state = WorkerState.ACTIVE
        self._leaving = False
        self._recalling = False  # between the loss of the lease and another name
        self._short_by = 0  # how many attempts that could not be killed the store knows of
        self.given_up: asyncio.Future[StoreGone] = asyncio.get_running_loop().create_future()
        self._again = asyncio.Event()  # look again without being rung
        self._lease = Lease(offer.lease_s)
        self._heartbeat = Heartbeat(
            store,
            self._clock,
            self._lease,
            name=lambda: self.id,
            renewed=self._again.set,
            overdue=self._stop_attempts,
            lost=self._come_back,
            gone=self._give_up,
        )
        self._stall_watch: StallWatch | None = None
        if stalled is not None:
            self._stall_watch = StallWatch(self._heartbeat, lambda: bool(self._held), self._lease, stalled)
        self.tasks = Supervisor(self._clock.sleep, self._clock.monotonic)
        self.id = _new_id(self._host)

    # -- life

    async def start(self) -> None:
        """Tell the store that this worker takes work.

        Raises:
            StoreUnavailable: the store cannot be written.
        """
        await self._register()
        # What is there before work begins stays: the collector need not go through all of it again and again.
        if not gc.get_freeze_count():
            gc.freeze()
        self.tasks.start("worker.journal", self._journal.run)
        self.tasks.start("worker.news", self._watch)
        self.tasks.start("worker.look", self._look_again)
        self.tasks.start("worker.lease", self._heartbeat.watch)
        self.tasks.start("worker.heartbeat", self._heartbeat.beat)
        if self._stall_watch is not None:
            self._stall_watch.start()

    async def drain(self) -> None:
        """Take no more work, and return when all that it holds has ended."""
        await self._tell_state(WorkerState.DRAINING)
        await self._idle.wait()

    async def idle(self) -> None:
        """Return when it holds no attempt."""
        await self._idle.wait()

    async def stop(self) -> None:
        """End: what still runs is killed and given back to the queue; repeatable."""
        self._leaving = True
        draining = self._state is WorkerState.GONE or await self._leave()
        for held, _ in list(self._held.values()):
            held.end(_LEAVE)
        await self._idle.wait()
        if self._stall_watch is not None:
            self._stall_watch.stop()
        await self.tasks.stop()
        await self._journal.flush()
        if self._state is WorkerState.GONE:
            return
        if not draining:
            await self._tell_state(WorkerState.DRAINING)
        await self._give_back(self.id)
        await self._tell_state(WorkerState.GONE)

    async def _leave(self) -> bool:
        """Have no round of any process give more work; False where the store cannot be told now."""
        try:
            await self._tell_state(WorkerState.DRAINING)
        except PraxisError as error:
            events.warning("worker.cannot_leave", worker_id=self.id, detail=str(error))
            return False
        return True

    async def _give_back(self, worker_id: str) -> None:
        """Give back what the store holds under a name of this worker: who is gone is not looked after any more.

        A round may have given it work that it never began, and an end may not have been written.
        """
        for _ in range(
            _MOST_LOOKS
        ):  # one that is cancelled between the look and the change takes another look
            held = await self._store.held(worker_id)
            if not held:
                return
            await self._store.apply([completion.requeued(one, self._clock.time()) for one in held])

    async def resize(self, slots: int) -> None:
        """Change how many attempts it runs at once; those that run go on (spec 4, property 19)."""
        self._offer = replace(self._offer, slots=slots)
        await self._store.put_worker(self._record())

    @property
    def state(self) -> WorkerState:
        """Whether it takes work."""
        return self._state

    @property
    def running(self) -> int:
        """How many attempts it holds."""
        return len(self._held)

    @property
    def held(self) -> list[RunningAttempt]:
        """The attempts that it holds."""
        return [held for held, _ in self._held.values()]

    async def _register(self) -> None:
        self._registered(self.id)
        sent_at = self._clock.boottime()
        await self._store.put_worker(self._record())
        self._heartbeat.confirm(sent_at)
        self._log("worker.started", slots=self._offer.slots)

    async def _tell_state(self, state: WorkerState) -> None:
        self._state = state
        await self._store.put_worker(self._record())
        self._log("worker.state", state=str(state))

    def _log(self, event: str, **fields: Any) -> None:
        if self._offer.kinds != frozenset():  # a direct run's is nobody's business
            events.info(event, worker_id=self.id, **fields)

    def _record(self) -> Worker:
        now = self._clock.time()
        stuck = self._stuck()
        self._short_by = len(stuck)
        return Worker(
            id=self.id,
            capacity=self._offer.capacity - total(held.execution.granted for held in stuck),
            slots=max(0, self._offer.slots - len(stuck)),
            kinds=self._kinds.names if self._offer.kinds is None else self._offer.kinds,
            state=self._state,
            started_at=now,
            lease_until=now + self._offer.lease_s,
            host=self._host,
        )

    # -- the lease

    async def confirm(self) -> None:
        """Make sure that the lease holds before an attempt begins, where that took long."""
        if not self._heartbeat.trusted:
            await self._heartbeat.once()

    def _stop_attempts(self) -> None:
        """Stop what runs here, since others may take it over soon; what has ended is reported all the same."""
        self._stop_within(max(0.0, self._lease.kill_after_s - self._heartbeat.age_s))

    def _stop_within(self, seconds: float) -> None:
        running = [held for held, _ in self._held.values() if not (held.overdue or held.ended)]
        for held in running:
            held.overdue = True
            held.end(LEASE_LOST, within_s=seconds)
        if running:
            age_s = round(self._heartbeat.age_s, 1)
            events.warning("worker.attempts_stopped", worker_id=self.id, stopped=len(running), age_s=age_s)

    async def _come_back(self) -> None:
        """Come back under another name: the store counts this one as lost, and its work is for others."""
        before, self._recalling = self.id, True
        events.warning("worker.lease_lost", worker_id=before, running=self.running)
        try:
            self._stop_within(0.0)
            await self._clock.wait(self._idle.wait(), self._lease.expires_after_s)
            self.id = _new_id(self._host)
            for pause_s in _pauses():
                try:
                    await self._register()
                    break
                except (PraxisError, OSError) as error:  # OSError: its lock file, on a disk that is full
                    events.warning("worker.not_registered", worker_id=self.id, detail=str(error))
                await self._clock.sleep(pause_s)
        finally:
            self._recalling = False
        self.tasks.restart("worker.news")  # it waits for news of a name that is nobody's any more
        self._left(before)

    def _give_up(self, error: StoreGone) -> None:
        """Stop at once: the store is gone, and with it the right to run anything."""
        self._stop_within(0.0)
        self._leaving = True
        if not self.given_up.done():
            self.given_up.set_result(error)

    def _stuck(self) -> list[RunningAttempt]:
        """Return the attempts of earlier names that could not be killed yet: their room stays taken."""
        return [held for held, _ in self._held.values() if held.execution.worker_id != self.id]

    # -- being given work

    def accept(self, execution: Execution) -> None:
        """Begin an attempt that the store has given to this worker; once is enough, and later does no harm.

        Args:
            execution: as it was started, with its request.
        """
        key = f"{execution.id}/{execution.token}"
        known = key in self._held or key in self._reported
        if self._leaving or self._recalling or known or execution.worker_id != self.id:
            return
        if not self._heartbeat.trusted:
            return  # after the next heartbeat it looks again
        assert execution.request is not None, "an attempt needs its request"
        notebook = AttemptBuffer(execution.id, execution.token, execution.attempt)
        handle = AttemptHandle(
            execution,
            _tell=lambda draft: self._journal.tell(notebook, draft),
            _submit=self._child_submitter(execution),
            _await=self._wait,
        )
        held = RunningAttempt(execution, handle, notebook, self._clock.monotonic())
        if execution.stop is not None:
            held.end(str(execution.stop))
        self._idle.clear()
        task = asyncio.create_task(self._attempt(held))
        self._held[key] = held, task
        task.add_done_callback(lambda _: self._let_go(key))

    def _let_go(self, key: str) -> None:
        _, task = self._held.pop(key)
        if not task.cancelled() and task.exception() is not None:
            events.error("attempt.failed_here", key=key, detail=repr(task.exception()))
        else:  # news of it may still be under way, and it must not begin once more
            self._reported[key] = None
            if len(self._reported) > _MOST_REPORTED:
                del self._reported[next(iter(self._reported))]
        if not self._held:
            self._idle.set()

    def _child_submitter(self, parent: Execution) -> Any:
        children = self._children
        if children is None:
            return None

        async def submit(kind: str, request: Mapping[str, Any], terms: Mapping[str, Any]) -> str:
            return await children(parent, kind, request, terms)

        return submit

    async def _watch(self) -> None:
        """Look at what the store has for this worker whenever it rings: new work, and ends that are wanted."""
        seen = 0
        while True:
            seen = await self._store.changed(f"worker:{self.id}", seen)
            try:
                await self._look()
            except PraxisError as error:
                events.warning("worker.cannot_look", worker_id=self.id, detail=str(error))
                await self._clock.sleep(_FIRST_PAUSE_S)
                seen = 0

    async def _look_again(self) -> None:
        """Look after each heartbeat, in case that somebody was cut off between giving work and telling so."""
        while True:
            await self._again.wait()
            self._again.clear()
            with contextlib.suppress(PraxisError):
                if self._short_by != len(self._stuck()):
                    await self._store.put_worker(self._record())
                await self._look()

    async def _look(self) -> None:
        wanted = ExecutionFilter(worker_id=self.id, statuses=HELD)
        for found in await self._store.find(wanted, limit=2 * self._offer.slots + 100):
            known = self._held.get(f"{found.id}/{found.token}")
            if known is None:
                execution = await self._store.get(found.id)
                if execution.worker_id == self.id and execution.status in HELD:
                    self.accept(execution)
            elif found.stop is not None and known[0].stop != str(found.stop):
                known[0].end(str(found.stop))

    def ask_to_stop(self, settled: AppliedChange) -> None:
        """Have an attempt end whose end somebody in this process has asked for; the store rings for others."""
        after = settled.after
        known = self._held.get(f"{after.id}/{after.token}")
        if known is not None and after.stop is not None:
            known[0].end(str(after.stop))

    # -- one attempt

    async def _attempt(self, held: RunningAttempt) -> None:
        execution = held.execution
        kind = self._kinds.get(execution.kind)
        dependency = kind.dependency(execution)
        try:
            permit = self._breakers.of(dependency).admit() if dependency is not None else None
        except BreakerOpen as error:
            ended = SupervisedEnd(error=error)
        else:
            work = asyncio.create_task(kind.run(held.handle))
            ended = await supervise(held, work, kind.grace, self._clock)
            if dependency is not None and permit is not None:
                self._answer(dependency, permit, ended)
        outcome = completion.outcome_of(ended, kind, held, self._clock.monotonic() - held.began)
        await self._report(held, ended, outcome)

    def _answer(self, dependency: str, permit: Permit, ended: SupervisedEnd) -> None:
        breaker = self._breakers.of(dependency)
        if ended.forced:
            breaker.forget(permit)  # it had no chance to answer
        else:
            breaker.record(permit, succeeded=completion.dependency_held(ended))

    async def _report(self, held: RunningAttempt, ended: SupervisedEnd, outcome: Outcome) -> None:
        held.ended = True
        self._heartbeat.look()  # whoever was stopped for a while asks before it reports
        try:
            settled = await self._write(held, self._change_of(held, ended, outcome))
        except REFUSED as error:  # it would be refused for ever, and so the execution would never end
            outcome = completion.unkeepable(outcome, error)
            settled = await self._write(held, self._change_of(held, ended, outcome))
        if settled is None:
            settled = await self._write_late(held, ended, outcome)
        if settled is not None:
            self._told(settled)

    def _change_of(self, held: RunningAttempt, ended: SupervisedEnd, outcome: Outcome) -> Change:
        # More than this worker has may be more than anybody has, and would wait for ever.
        return completion.change_of(held, ended, outcome, self._clock.time(), self._offer.capacity)

    async def _write(self, held: RunningAttempt, change: Change) -> AppliedChange | None:
        """Write an end; while the store is away, try for as long as this worker holds the attempt.

        An end that is not written leaves an execution that seems to run: this worker would begin it again.
        """
        until = self._clock.monotonic() + self._offer.lease_s
        told = await self._journal.take(held.notebook)
        for pause_s in _pauses():
            try:
                return (await self._store.apply([*told, change]))[-1]
            except REFUSED:
                if not told:
                    raise  # the store will not take it later either
                await self._journal.write_each(told)
                told = []
                continue
            except PraxisError as error:
                events.warning("attempt.not_reported", execution_id=change.execution_id, detail=str(error))
                if isinstance(error, StoreGone) or (self._leaving and self._clock.monotonic() >= until):
                    self._journal.keep(told)
                    raise
            await self._clock.sleep(pause_s)
        raise AssertionError("pauses never end")

    async def _get(self, execution_id: str) -> Execution:
        """Return how an execution stands; while the store is away, ask for as long as `_write` does."""
        until = self._clock.monotonic() + self._offer.lease_s
        for pause_s in _pauses():
            try:
                return await self._store.get(execution_id)
            except REFUSED:
                raise  # there is none
            except PraxisError as error:
                if isinstance(error, StoreGone) or (self._leaving and self._clock.monotonic() >= until):
                    raise
            await self._clock.sleep(pause_s)
        raise AssertionError("pauses never end")

    async def _write_late(
        self, held: RunningAttempt, ended: SupervisedEnd, outcome: Outcome
    ) -> AppliedChange | None:
        """Report an end that did not hold: the execution was cancelled meanwhile, or belongs to another."""
        now = await self._get(held.execution.id)
        if now.token == held.execution.token and now.status in HELD:
            held.execution = now
            held.end(str(now.stop or Stop.CANCEL))
            return await self._write(held, self._change_of(held, ended, outcome))
        message = f"late result of attempt {held.execution.attempt} discarded: {outcome.status}"
        draft = NewEvent(EventType.DECISION, message, {"token": held.execution.token}, Level.WARN, "worker")
        with contextlib.suppress(PraxisError):  # the end is what counts, and it is kept
            await self._store.apply([note(now.id, [draft])])
        events.warning("attempt.discarded", execution_id=now.id, status=str(now.status))
        return None


def _new_id(host: str) -> str:
    return f"{host[:40]}-{os.getpid()}-{new_id()[-8:]}"


def _pauses() -> Any:
    """Go through the pauses between attempts to write, in seconds, each twice the one before."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
