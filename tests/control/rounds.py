"""What the tests of scheduling share: records made short, and a world in which rounds are run."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Sequence

from hypothesis import strategies as st

from praxis_sdk.control.lifecycle.transitions import finish, rank_of, requeue_preempted
from praxis_sdk.control.scheduling.scheduler import POLICY, Decision, SchedulerPolicy, decide
from praxis_sdk.control.scheduling.windows import Committed
from praxis_sdk.model import Event, Execution, Options, Stop, Worker
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import ExecutionStatus, Priority, ServiceClass
from praxis_sdk.store.changes import AppliedChange, Change, Reservations, apply_change
from praxis_sdk.store.protocol import Round

NOW = 1_000_000.0
KIND = "job"
REAL_TIME, BATCH = ServiceClass.REAL_TIME, ServiceClass.BATCH


def cores(count: float, memory_mb: int = 0, gpus: int = 0) -> Resources:
    return Resources(cpu_cores=count, memory_mb=memory_mb, gpus=gpus)


def worker(
    name: str, capacity: Resources, *, slots: int = 64, kinds: Iterable[str] = (KIND,), held: Resources = ZERO
) -> Worker:
    return Worker(name, capacity, slots, frozenset(kinds), held, running=1 if held != ZERO else 0)


def queued(
    name: str,
    needs: Resources = ZERO,
    *,
    priority: Priority = Priority.NORMAL,
    service_class: ServiceClass = REAL_TIME,
    at: float = NOW,
    kind: str = KIND,
    window: tuple[float, float] | None = None,
    expected_s: float | None = None,
) -> Execution:
    """Return an execution that waits, or one that is submitted where it has a window."""
    opens_at, closes_at = window or (None, None)
    terms = Options(needs, priority, service_class, opens_at, closes_at, expected_s=expected_s)
    return Execution(
        id=name,
        kind=kind,
        control="c",
        request=None,
        terms=terms,
        submitted_at=at,
        status=ExecutionStatus.SUBMITTED if window else ExecutionStatus.QUEUED,
        rank=rank_of(priority, service_class, at),
        due_at=max(at, opens_at or at) if window else None,
        queued_at=None if window else at,
        granted=needs,
    )


def running(
    name: str,
    on: str,
    needs: Resources,
    *,
    priority: Priority = Priority.NORMAL,
    began: float = NOW - 100,
    saved: float | None = None,
    preemptions: int = 0,
    stop: Stop | None = None,
) -> Execution:
    """Return a batch execution that runs."""
    return queued(name, needs, priority=priority, service_class=BATCH, at=began).but(
        status=ExecutionStatus.RUNNING,
        worker_id=on,
        attempt_at=began,
        started_at=began,
        attempt=1,
        token=1,
        checkpoint_at=saved,
        preemptions=preemptions,
        stop=stop,
    )


def in_order(executions: Iterable[Execution]) -> tuple[Execution, ...]:
    return tuple(sorted(executions, key=lambda one: (one.rank, one.id)))


def started(decision: Decision) -> dict[str, str]:
    """Return where a decision starts what."""
    return {
        change.execution_id: change.update["worker_id"]
        for change in decision.changes
        if change.update.get("status") is ExecutionStatus.RUNNING
    }


def stopped(decision: Decision) -> set[str]:
    """Return what a decision preempts."""
    return {one.execution_id for one in decision.changes if one.update.get("stop") is Stop.PREEMPT}


class World:
    """Executions and workers in memory, changed as a store changes them; time moves when told.

    Args:
        workers: who runs work.
        lasts_s: how long an attempt of an execution takes.
        stops_s: how long a stopped attempt takes to end.
    """

    def __init__(
        self,
        workers: Iterable[Worker],
        lasts_s: Callable[[Execution], float] = lambda one: 10.0,
        stops_s: Callable[[Execution], float] = lambda one: 1.0,
        policy: SchedulerPolicy = POLICY,
    ) -> None:
        self.now = NOW
        self.workers = {one.id: one for one in workers}
        self.executions: dict[str, Execution] = {}
        self.stream: list[Event] = []
        self.starts: list[tuple[float, str]] = []
        self.preempted: list[str] = []
        self.policy = policy
        self._lasts_s = lasts_s
        self._stops_s = stops_s
        self._ends: list[tuple[float, str, int]] = []

    def submit(self, *executions: Execution) -> None:
        for one in executions:
            self.executions[one.id] = one

    def seen(self, *, with_running: bool = False) -> Round:
        every = self.executions.values()
        due = [
            one for one in every if one.status is ExecutionStatus.SUBMITTED and (one.due_at or 0) <= self.now
        ]
        runs = [
            one for one in every if one.status is ExecutionStatus.RUNNING and one.terms.service_class is BATCH
        ]
        return Round(
            self.now,
            tuple(sorted(due, key=lambda one: (one.due_at or 0, one.id))),
            in_order(one for one in every if one.status is ExecutionStatus.QUEUED),
            tuple(self.workers.values()),
            tuple(sorted(runs, key=lambda one: (-one.rank, one.id))) if with_running else (),
        )

    def apply(self, changes: Sequence[Change]) -> list[AppliedChange]:
        """Settle changes, and check that no worker ever holds more than it has."""
        reservations = Reservations()
        settled = []
        for change in changes:
            one = apply_change(self.executions[change.execution_id], change, self.now)
            assert one is not None, f"a decision does not hold: {change}"
            self.executions[change.execution_id] = one.after
            self.stream += one.events
            reservations.note(one)
            settled.append(one)
            if "worker_id" in change.update and one.after.status is ExecutionStatus.RUNNING:
                self.starts.append((self.now, one.after.id))
                ends_at = self.now + self._lasts_s(one.after)
                heapq.heappush(self._ends, (ends_at, one.after.id, one.after.token))
            if change.update.get("stop") is Stop.PREEMPT:
                self.preempted.append(one.after.id)
                ends_at = self.now + self._stops_s(one.after)
                heapq.heappush(self._ends, (ends_at, one.after.id, one.after.token))
        for name, (amount, count) in reservations.held.items():
            before = self.workers[name]
            after = dataclasses.replace(
                before, reserved=before.reserved + amount, running=before.running + count
            )
            self.workers[name] = after
            assert after.reserved.fits_in(after.capacity), f"{name} holds more than it has"
            assert 0 <= after.running <= after.slots, f"{name} runs more than it has slots"
        return settled

    def dispatch(self) -> list[Decision]:
        """Run rounds as a dispatcher does, until nothing more comes of them."""
        decisions = []
        with_running = False
        for _ in range(100):
            decision = decide(self.seen(with_running=with_running), self.policy)
            self.apply(decision.changes)
            decisions.append(decision)
            if decision.started or decision.released:
                with_running = False
            elif decision.blocked and not with_running:
                with_running = True
            else:
                return decisions
        raise AssertionError("rounds do not come to rest")

    def next_end(self) -> float | None:
        """Return when the next attempt ends."""
        while self._ends:
            at, name, token = self._ends[0]
            one = self.executions[name]
            if one.status is ExecutionStatus.RUNNING and one.token == token:
                return at
            heapq.heappop(self._ends)
        return None

    def move(self, until: float) -> None:
        """Let time pass, and let end what ends until then."""
        while (at := self.next_end()) is not None and at <= until:
            _, name, _ = heapq.heappop(self._ends)
            self.now = max(self.now, at)
            one = self.executions[name]
            if one.stop is Stop.PREEMPT:
                self.apply([requeue_preempted(one, (), None)])
            else:
                self.apply([finish(one, self.now, ExecutionStatus.COMPLETED)])
        self.now = max(self.now, until)

    def run(self, most_s: float) -> None:
        """Dispatch and let time pass from one event to the next, until nothing is left or time is up."""
        until = self.now + most_s
        while self.now < until:
            again = [one.look_again_at for one in self.dispatch() if one.look_again_at is not None]
            due = [
                one.due_at
                for one in self.executions.values()
                if one.status is ExecutionStatus.SUBMITTED and one.due_at is not None
            ]
            moments = [at for at in (*again, *due, self.next_end()) if at is not None and at > self.now]
            if not moments:
                return
            self.move(min(until, *moments))

    def standing(self, status: ExecutionStatus) -> set[str]:
        return {one.id for one in self.executions.values() if one.status is status}

    def committed(self) -> list[Committed]:
        """Return what was planned and has not begun."""
        return [
            Committed(one.due_at, one.due_at + (one.terms.expected_s or 0) * 1.25, one.granted)
            for one in self.executions.values()
            if one.status is ExecutionStatus.SUBMITTED and one.due_at is not None and one.due_at > self.now
        ]


# -- strategies


def resources(most: int = 4) -> st.SearchStrategy[Resources]:
    """Requirements in all five dimensions, that a worker of `capacities` mostly can hold."""
    return st.builds(
        Resources,
        cpu_cores=st.integers(0, 4 * most).map(lambda quarters: quarters / 4),
        memory_mb=st.integers(0, most).map(lambda count: count * 256),
        network_mbps=st.sampled_from([0, 0, 0, 10, 40]),
        gpus=st.sampled_from([0, 0, 0, 0, 1]),
        storage_mb=st.sampled_from([0, 64, 512]),
    )


def capacities() -> st.SearchStrategy[Resources]:
    return st.builds(
        Resources,
        cpu_cores=st.sampled_from([2.0, 4.0, 8.0]),
        memory_mb=st.sampled_from([1024, 2048, 4096]),
        network_mbps=st.sampled_from([100, 1000]),
        gpus=st.sampled_from([0, 0, 1, 2]),
        storage_mb=st.sampled_from([2048, 8192]),
    )


@st.composite
def fleets(draw: st.DrawFn, most: int = 5) -> list[Worker]:
    """Workers of which the first can hold anything that `resources` makes."""
    first = worker("w0", Resources(8.0, 4096, 1000, 2, 8192), slots=draw(st.integers(1, 8)))
    others = draw(st.lists(st.tuples(capacities(), st.integers(1, 8)), max_size=most - 1))
    return [
        first,
        *(
            worker(f"w{number}", capacity, slots=slots)
            for number, (capacity, slots) in enumerate(others, start=1)
        ),
    ]


@st.composite
def queues(
    draw: st.DrawFn, *, least: int = 1, most: int = 30, service_class: ServiceClass | None = None
) -> list[Execution]:
    """Executions that wait, submitted within the last hour."""
    made = draw(
        st.lists(
            st.tuples(
                resources(),
                st.sampled_from(Priority),
                st.sampled_from(ServiceClass) if service_class is None else st.just(service_class),
                st.integers(0, 3600),
            ),
            min_size=least,
            max_size=most,
        )
    )
    return [
        queued(f"e{number:03}", needs, priority=priority, service_class=kind, at=NOW - ago)
        for number, (needs, priority, kind, ago) in enumerate(made)
    ]
