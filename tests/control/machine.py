"""The life cycle as a Hypothesis state machine: what the store does against what a few dozen lines say it should.

The machine drives the real store, scheduler, transitions and failure policy by hand, one step at a time; the model
beside it knows only where each execution stands, which token counts, and what was promised to whom.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Plan
from praxis_sdk.control.lifecycle import failure_policy
from praxis_sdk.control.lifecycle.submission import Submission, make_execution
from praxis_sdk.control.lifecycle.transitions import (
    cancel_running,
    cancel_waiting,
    finish,
    finish_cancelled,
    give_back,
    note,
    requeue_preempted,
)
from praxis_sdk.control.scheduling.scheduler import decide
from praxis_sdk.model import EventType, Execution, Failure, NewEvent, RetryPolicy, Worker, WorkerState
from praxis_sdk.resources import Resources, total
from praxis_sdk.states import HELD, PENDING, ErrorType, ExecutionStatus, FailureCategory, Priority
from praxis_sdk.store import Change, ExecutionFilter, RoundScope, Store
from praxis_sdk.store.changes import verify_chain

MAX_RETRIES = 2
CAPACITY = Resources(cpu_cores=3.0, memory_mb=300)
LEASE_S = 10.0


class ManualClock(Clock):
    """A time that only tests move."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@dataclass
class Expected:
    """What the model knows of one execution."""

    status: ExecutionStatus
    token: int = 0
    retries: int = 0
    key: str | None = None
    completions: int = 0
    logged: int = 0
    attempts: list[tuple[int, str]] = field(default_factory=list)  # token and worker of each that was begun


class LifeCycle(RuleBasedStateMachine):
    """Submits, dispatches, ends, cancels, loses and lies, in any order."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop, clock: ManualClock) -> None:
        super().__init__()
        self.store = store
        self.loop = loop
        self.clock = clock
        self.model: dict[str, Expected] = {}
        self.keys: dict[str, str] = {}
        self.workers: set[str] = set()
        self.accepted = 0
        self.number = 0
        clock.at += 1.0
        self.began = clock.at

    executions = Bundle("executions")

    def await_(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    # -- submitting

    @initialize()
    def first_worker(self) -> None:
        self.worker_comes()

    @rule(
        target=executions,
        priority=st.sampled_from(Priority),
        cpu=st.sampled_from([0.5, 1.0, 3.0]),
        batch=st.booleans(),
        key=st.sampled_from([None, None, "a", "b"]),
        at_once=st.booleans(),
    )
    def submit(self, priority: Priority, cpu: float, batch: bool, key: str | None, at_once: bool) -> str:
        plan = Plan("control", {"key": key}, Resources(cpu_cores=cpu, memory_mb=10))
        work = Submission("machine", {"key": key}, retry=RetryPolicy(MAX_RETRIES, 1.0), batch=batch)
        scoped = None if key is None else f"{id(self)}:{key}"
        execution = make_execution(work, plan, self.clock.time(), priority=priority, idempotency_key=scoped)
        (kept,) = self.await_(self.store.submit([execution]))
        if key is not None and key in self.keys:
            assert kept.id == self.keys[key], "a key stands for one execution"
            return kept.id
        assert kept.id == execution.id
        self.model[kept.id] = Expected(ExecutionStatus.QUEUED, key=key)
        if key is not None:
            self.keys[key] = kept.id
        if at_once:
            self.dispatch()
        return kept.id

    # -- workers

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def worker_comes(self) -> None:
        self.number += 1
        worker_id = f"w{id(self)}-{self.number}"
        until = self.clock.time() + LEASE_S
        worker = Worker(worker_id, CAPACITY, 8, frozenset({"machine"}), lease_until=until)
        self.await_(self.store.put_worker(worker))
        self.workers.add(worker_id)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_beats(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        assert self.await_(self.store.beat(worker_id, self.clock.time() + LEASE_S))

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule()
    def lost_workers_are_buried(self) -> None:
        living = self.await_(self.store.living_workers())
        expired = {one.id: one.lease_until for one in living if one.lease_until <= self.clock.time()}
        for worker_id in self.await_(self.store.expire_workers(expired)):
            self.workers.discard(worker_id)
            held = self.await_(self.store.held(worker_id))
            changes = [failure_policy.after_loss(one, self.clock.time()).change for one in held]
            for one, settled in zip(held, self.await_(self.store.apply(changes)), strict=True):
                assert settled is not None
                expected = self.model[one.id]
                if expected.status is ExecutionStatus.CANCELLING:
                    expected.status = ExecutionStatus.CANCELLED
                else:
                    self.fails(expected, retryable=True)
        self.workers -= {worker for worker in self.workers if not self.is_active(worker)}

    def is_active(self, worker_id: str) -> bool:
        return any(worker.id == worker_id for worker in self.await_(self.store.workers()))

    # -- running

    @rule()
    def dispatch(self) -> None:
        started: list[Execution] = []
        settled = self.await_(self.store.schedule(RoundScope(64), lambda seen: decide(seen).changes))
        for one in settled:
            expected = self.model[one.after.id]
            if one.after.status is ExecutionStatus.QUEUED and one.before.status is ExecutionStatus.SUBMITTED:
                assert expected.status is ExecutionStatus.SUBMITTED
                expected.status = ExecutionStatus.QUEUED
            if one.after.status is ExecutionStatus.RUNNING:
                assert expected.status is ExecutionStatus.QUEUED
                expected.status = ExecutionStatus.RUNNING
                assert one.after.token > expected.token, "fencing tokens grow"
                expected.token = one.after.token
                expected.attempts.append((one.after.token, one.after.worker_id))
                started.append(one.after)
        ranks = [one.rank for one in started if one.granted.cpu_cores == 0.5]
        assert ranks == sorted(ranks), "of equals, the first in rank order starts first"

    @rule(execution_id=executions)
    def goes_through(self, execution_id: str) -> None:
        self.dispatch()
        self.completes(execution_id, late=False)

    def held(self, execution_id: str, *, late: bool) -> Execution:
        """The execution as an attempt knows it: the current one, or an earlier one that does not know better."""
        execution: Execution = self.await_(self.store.get(execution_id))
        attempts = self.model[execution_id].attempts
        token, worker = attempts[0] if late and attempts else (execution.token, execution.worker_id)
        return execution.but(token=token, worker_id=worker, status=ExecutionStatus.RUNNING)

    @rule(execution_id=executions, late=st.sampled_from([False, False, True]))
    def completes(self, execution_id: str, late: bool) -> None:
        expected = self.model[execution_id]
        held = self.held(execution_id, late=late)
        holds = self.holds(expected, held)
        change = finish(held, self.clock.time(), ExecutionStatus.COMPLETED, outputs={"token": held.token})
        assert self.accepts(change) is holds
        if holds:
            expected.status = ExecutionStatus.COMPLETED
            expected.completions += 1
            self.accepted += 1

    @rule(execution_id=executions, late=st.booleans(), error_type=st.sampled_from(ErrorType))
    def fails_somehow(self, execution_id: str, late: bool, error_type: ErrorType) -> None:
        expected = self.model[execution_id]
        held = self.held(execution_id, late=late)
        holds = self.holds(expected, held)
        failure = Failure(FailureCategory.INTERNAL_ERROR, error_type, "asked", "as asked")
        verdict = failure_policy.after_failure(held, failure, self.clock.time())
        assert self.accepts(verdict.change) is holds
        if holds:
            self.fails(expected, retryable=error_type is not ErrorType.PERMANENT)

    @rule(execution_id=executions)
    def is_given_back(self, execution_id: str) -> None:
        expected = self.model[execution_id]
        held = self.held(execution_id, late=False)
        holds = self.holds(expected, held)
        assert self.accepts(give_back(held, "its worker ends")) is holds
        if holds:
            expected.status = ExecutionStatus.QUEUED

    @rule(execution_id=executions)
    def is_preempted(self, execution_id: str) -> None:
        expected = self.model[execution_id]
        held = self.held(execution_id, late=False)
        holds = self.holds(expected, held)
        assert self.accepts(requeue_preempted(held, (), None)) is holds
        if holds:
            expected.status = ExecutionStatus.QUEUED

    @rule(execution_id=executions)
    def logs(self, execution_id: str) -> None:
        draft = NewEvent(EventType.LOG, "a line")
        assert self.accepts(note(execution_id, [draft, draft]))
        self.model[execution_id].logged += 2

    # -- cancelling

    @rule(execution_id=executions)
    def is_cancelled(self, execution_id: str) -> None:
        expected = self.model[execution_id]
        execution = self.await_(self.store.get(execution_id))
        if expected.status in PENDING:
            assert self.accepts(cancel_waiting(execution, "asked", self.clock.time(), "test"))
            expected.status = ExecutionStatus.CANCELLED
        else:
            running = expected.status is ExecutionStatus.RUNNING
            assert self.accepts(cancel_running(execution, "asked", "test")) is running
            if running:
                expected.status = ExecutionStatus.CANCELLING

    @rule(execution_id=executions, late=st.booleans())
    def is_proven_dead(self, execution_id: str, late: bool) -> None:
        expected = self.model[execution_id]
        held = self.held(execution_id, late=late)
        holds = expected.status is ExecutionStatus.CANCELLING and held.token == expected.token
        assert self.accepts(finish_cancelled(held, self.clock.time(), (), None)) is holds
        if holds:
            expected.status = ExecutionStatus.CANCELLED

    # -- the model

    def holds(self, expected: Expected, held: Execution) -> bool:
        return expected.status is ExecutionStatus.RUNNING and held.token == expected.token

    def fails(self, expected: Expected, *, retryable: bool) -> None:
        if retryable and expected.retries < MAX_RETRIES and self.may_grow(expected):
            expected.retries += 1
            expected.status = ExecutionStatus.SUBMITTED
        else:
            expected.status = ExecutionStatus.FAILED

    def may_grow(self, expected: Expected) -> bool:
        return expected.retries < MAX_RETRIES  # two doublings stay below the cap of eight

    def accepts(self, change: Change) -> bool:
        (settled,) = self.await_(self.store.apply([change]))
        return settled is not None

    @invariant()
    def every_execution_stands_where_the_model_says(self) -> None:
        found = self.await_(self.store.find(ExecutionFilter(since=self.began), limit=1000))
        assert {execution.id for execution in found} == set(self.model)
        for execution in found:
            expected = self.model[execution.id]
            assert execution.status is expected.status
            assert execution.token == expected.token
            assert execution.retries == expected.retries
            assert expected.completions <= 1

    @invariant()
    def what_is_reserved_is_what_is_held(self) -> None:
        for worker in self.await_(self.store.workers()):
            if worker.id not in self.workers:
                continue
            held = self.await_(self.store.held(worker.id))
            assert {one.status for one in held} <= HELD
            assert worker.reserved == total(one.granted for one in held)
            assert worker.running == len(held)
            assert worker.reserved.fits_in(worker.capacity)

    def teardown(self) -> None:
        for execution_id, expected in self.model.items():
            events = self.await_(self.store.events(execution_id))
            assert [event.seq for event in events] == list(range(len(events)))
            assert sum(event.type is EventType.LOG for event in events) == expected.logged
            execution = self.await_(self.store.get(execution_id))
            assert verify_chain(events, execution.chain) == ""
            self.leave(execution)
        for worker in self.await_(self.store.workers()):
            gone = Worker(worker.id, worker.capacity, worker.slots, worker.kinds, state=WorkerState.GONE)
            self.await_(self.store.put_worker(gone))

    def leave(self, execution: Execution) -> None:
        """Leave nothing behind that a later example would run."""
        if execution.status in PENDING:
            self.accepts(cancel_waiting(execution, "over", self.clock.time(), "test"))
        elif execution.status in HELD:
            self.accepts(cancel_running(execution, "over", "test"))
            self.accepts(finish_cancelled(execution, self.clock.time(), (), None))
