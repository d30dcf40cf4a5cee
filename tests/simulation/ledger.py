"""The ledger: what must hold after every single commit, checked against a second account of what happened.

It looks at the rows that a commit says it touched, remembers how they were before, and knows nothing of how the
store or the control plane come to their changes.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from praxis_sdk.model import MAX_PREEMPTIONS, Execution, Worker, WorkerState
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import HELD, ExecutionStatus
from praxis_sdk.store import rows
from praxis_sdk.store.sqlite.statements import SQL
from praxis_sdk.store.sqlite.transaction import whole
from tests.simulation.loop import LIFE

if TYPE_CHECKING:
    from tests.simulation.process import Process

S = ExecutionStatus
ENDS = frozenset(status for status in S if status.final)
# Only what waits or is being cancelled ends cancelled; what is being cancelled ends in no other way.
MOVES: dict[ExecutionStatus | None, frozenset[ExecutionStatus]] = {
    None: frozenset({S.SUBMITTED, S.QUEUED}),
    S.SUBMITTED: frozenset({S.QUEUED, S.CANCELLED, S.FAILED}),
    S.QUEUED: frozenset({S.RUNNING, S.CANCELLED, S.FAILED}),
    S.RUNNING: frozenset({S.SUBMITTED, S.QUEUED, S.CANCELLING}) | (ENDS - {S.CANCELLED}),
    S.CANCELLING: frozenset({S.CANCELLED}),
}
# An execution that has ended may still get lines of its log, and a flag that says that it took too long.
MAY_COME_LATE = frozenset({"next_seq", "chain", "flags"})


def differences(one: Execution, other: Execution) -> dict[str, str]:
    """Return the fields that differ."""
    pairs = (
        (field.name, getattr(one, field.name), getattr(other, field.name)) for field in fields(Execution)
    )
    return {name: f"{before!r} -> {after!r}"[:200] for name, before, after in pairs if before != after}


class Ledger:
    """A second account of all executions and workers.

    Args:
        connection: the store's own, looked at between its transactions.
        fail: called with what does not hold.
        tell: called with each move, for the trace.
        now: the time that no process has set wrong.
        processes: those there are.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        fail: Callable[[str], None],
        tell: Callable[[str], None],
        now: Callable[[], float],
        processes: "list[Process]",
    ) -> None:
        self._connection = connection
        self._fail = fail
        self._tell = tell
        self._now = now
        self._processes = processes
        self.known: dict[str, Execution] = {}
        self.unfinished: set[str] = set()
        self.moves: Counter[str] = Counter()
        self.longest_stop_s = 0.0
        self._names: dict[str, str] = {}
        self._stop_at: dict[str, float] = {}

    def look(self, topics: Iterable[str]) -> None:
        """Look at what a commit touched."""
        moved = False
        for topic in topics:
            what, _, execution_id = topic.partition(":")
            if what == "execution":
                row = self._connection.execute(SQL["by_id"], (execution_id,)).fetchone()
                if row is None:
                    self._fail(f"execution {execution_id} is gone")
                    continue
                moved |= self._note(rows.execution_of(row))
        if moved:
            self._weigh()

    def name(self, execution_id: str) -> str:
        """Return a short name of an execution, by the order in which they came."""
        return self._names.setdefault(execution_id, f"x{len(self._names)}")

    def _note(self, after: Execution) -> bool:
        before = self.known.get(after.id)
        self.known[after.id] = after
        name = self.name(after.id)
        if before is not None and before.next_seq > after.next_seq:
            self._fail(f"{name}: its stream became shorter")
        if before is not None and not set(before.flags) <= set(after.flags):
            self._fail(f"{name}: lost flags: {before.flags} {after.flags}")
        if before is not None and before.token == after.token and before.status is after.status:
            self._asked(name, before, after)
            changed = set(differences(before, after)) - MAY_COME_LATE
            if before.status.final and changed:
                self._fail(f"{name}: had ended, and changed: {differences(before, after)}")
            return before.worker_id != after.worker_id
        self._move(name, before, after)
        if after.status.final:
            self.unfinished.discard(after.id)
        else:
            self.unfinished.add(after.id)
        return True

    def _move(self, name: str, before: Execution | None, after: Execution) -> None:
        was = before.status if before is not None else None
        self.moves[f"{was or 'new'} {after.status}"] += 1
        self._tell(
            f"{name} {was or 'new'} -> {after.status} #{after.token} {after.worker_id} {after.reason[:60]}"
        )
        if was is not None and was.final:
            self._fail(f"{name}: was {was} and is {after.status} now")
            return
        if after.status not in MOVES[was]:
            self._fail(f"{name}: went from {was or 'nothing'} to {after.status}")
        if before is not None:
            self._compare(name, before, after)
        if after.status is S.RUNNING and after.attempt_at is None:
            self._fail(f"{name}: runs since nobody knows when")
        if after.retries > after.terms.retry.max_retries:
            self._fail(f"{name}: {after.retries} retries, and {after.terms.retry.max_retries} are allowed")
        if after.preemptions > MAX_PREEMPTIONS:
            self._fail(f"{name}: preempted {after.preemptions} times")
        if after.status.succeeded:
            self._accepted(name, after)

    def _asked(self, name: str, before: Execution, after: Execution) -> None:
        """Take note of when the end of an attempt was first wanted."""
        if after.stop is not None and before.stop is None:
            self._stop_at[after.id] = self._now()
            self._tell(f"{name} shall stop: {after.stop}")

    def _stopped(self, before: Execution) -> None:
        asked_at = self._stop_at.pop(before.id, None)
        if asked_at is not None:
            self.longest_stop_s = max(self.longest_stop_s, self._now() - asked_at)

    def _compare(self, name: str, before: Execution, after: Execution) -> None:
        starts = after.status is S.RUNNING
        if after.token != before.token + starts:
            self._fail(
                f"{name}: token {after.token} after {before.token}, {after.status} after {before.status}"
            )
        if after.attempt != before.attempt + starts:
            self._fail(f"{name}: attempt {after.attempt} after {before.attempt}")
        for field in ("retries", "preemptions"):
            if not 0 <= getattr(after, field) - getattr(before, field) <= 1:
                self._fail(f"{name}: {field} from {getattr(before, field)} to {getattr(after, field)}")
        if (after.status in HELD) != bool(after.worker_id):
            self._fail(f"{name}: is {after.status} with worker {after.worker_id!r}")
        if before.status in HELD and after.status not in HELD:
            self._freed(name, before)
            self._stopped(before)
        if before.status not in HELD or after.status in HELD:
            self._asked(name, before, after)

    def _freed(self, name: str, before: Execution) -> None:
        """A process that gives room back must have ended the work that filled it, unless its lease ran out."""
        process = LIFE.get()
        if process is None or (before.id, before.token) not in getattr(process, "running", ()):
            return
        if all(one.state is not WorkerState.LOST for one in self.workers() if one.id == before.worker_id):
            self._fail(f"{name}: its room was given back, and its work still runs in {process.name}")

    def _accepted(self, name: str, after: Execution) -> None:
        """What was accepted must be the word of the attempt that held the execution."""
        kept = whole(self._connection, after.id)
        assert kept is not None
        if kept.outputs != {"id": after.id, "token": after.token}:
            self._fail(f"{name}: attempt {after.token} was accepted with the outputs {kept.outputs}")

    # -- room

    def workers(self) -> list[Worker]:
        """Return all workers there ever were."""
        found = self._connection.execute(SQL["workers"], {"active_only": False})
        return [rows.worker_of(row) for row in found]

    def _weigh(self) -> None:
        held: dict[str, Resources] = {}
        count: Counter[str] = Counter()
        for execution_id in self.unfinished:
            execution = self.known[execution_id]
            if execution.status in HELD:
                held[execution.worker_id] = held.get(execution.worker_id, ZERO) + execution.granted
                count[execution.worker_id] += 1
        for worker in self.workers():
            wanted = held.pop(worker.id, ZERO)
            same = wanted.fits_in(worker.reserved) and worker.reserved.fits_in(wanted)
            if not same or worker.running != count[worker.id]:
                self._fail(
                    f"{worker.id}: {worker.running} with {worker.reserved} are reserved, "
                    f"and {count[worker.id]} with {wanted} are held"
                )
            if not worker.reserved.fits_in(worker.capacity) or worker.running > worker.slots:
                self._fail(f"{worker.id}: {worker.reserved} is reserved of {worker.capacity}")
        if held:
            self._fail(f"held by workers that nobody knows: {held}")
