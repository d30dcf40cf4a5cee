"""The keeper: looks after what nobody else is woken for: lost workers, schedules, alerts, scaling, old events.

Any process may run one beside others; everything it does is guarded, so it happens once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds.base import REMAINS
from praxis_sdk.control.lifecycle import completion, failure_policy
from praxis_sdk.control.lifecycle.retention import Retention, retention_of
from praxis_sdk.control.lifecycle.schedules import Schedules, next_after
from praxis_sdk.control.lifecycle.transitions import postpone
from praxis_sdk.control.observe import alerts
from praxis_sdk.control.observe.alerts import Alert, AlertPolicy, QueueWatch, Raised
from praxis_sdk.control.scheduling.scaling import Scaler, Scaling, load_of
from praxis_sdk.control.workers.leases import JUMP_S, LEASE_S, ClockWatch, Lease, LeaseWatch
from praxis_sdk.control.workers.pursuit import remains_of
from praxis_sdk.errors import PraxisError
from praxis_sdk.log import get_logger
from praxis_sdk.model import Execution, Flag, Worker
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import AppliedChange, Change, ExecutionFilter, Store
from praxis_sdk.termination import Remains

ROUND_S: Final = 5.0
PRUNE_EVERY_S: Final = 3600.0
DAY_S: Final = 86_400.0
_SHORTEST_S: Final = 0.05
_MOST_TOO_SLOW: Final = 1000
_MOST_MENDED: Final = 1000

events = get_logger("praxis.control")

Notify = Callable[[Alert], None]


class Maintenance:
    """Looks after an installation.

    Args:
        store: where executions live.
        clock: the time.
        schedules: what is submitted again and again.
        running: the attempts of this process's workers, as they began.
        notify: passes alerts on; never waits, never fails.
        told: called with every end that came about here.
        unconfirmed: called where executions may wait for the confirmation of their end.
        gone: of the active workers, those whose process is known to be dead.
        scaler: what can be scaled; None: nothing.
        retention: how long is kept what happened; None: as the store says.
        alerting: when an alert is raised.
        lease_s: for how long a worker's heartbeat counts, in seconds.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        schedules: Schedules,
        *,
        running: Callable[[], Sequence[Execution]],
        notify: Notify = lambda alert: None,
        told: Callable[[AppliedChange], None] = lambda settled: None,
        unconfirmed: Callable[[], None] = lambda: None,
        gone: Callable[[Sequence[Worker]], Awaitable[Sequence[Worker]]] | None = None,
        scaler: Scaler | None = None,
        retention: Retention | None = None,
        alerting: AlertPolicy = alerts.DEFAULT_POLICY,
        lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._schedules = schedules
        self._running = running
        self._notify = notify
        self._told = told
        self._unconfirmed = unconfirmed
        self._gone = gone
        self._scaler = scaler
        self._retention = retention
        self._alerting = alerting
        self._queue = QueueWatch()
        self._raised = Raised()
        self._scaling = Scaling()
        self._pruned_at: float | None = None
        self._too_slow: list[Execution] = []
        self._lease = Lease(lease_s)
        self._leases = LeaseWatch(self._lease)
        self._own_clock = ClockWatch()
        self._mended = False

    async def run(self) -> None:
        """Look after everything until cancelled."""
        while True:
            next_at = await self.round()
            longest_s = min(ROUND_S, self._lease.watch_s)
            left_s = longest_s if next_at is None else min(longest_s, next_at - self._clock.time())
            await self._clock.sleep(max(_SHORTEST_S, left_s))

    async def round(self) -> float | None:
        """Look after everything once; returns when a schedule is due next."""
        next_at: float | None = None
        for name, step in (
            ("workers", self.bury),
            ("clock", self._mend),
            ("alerts", self._alert),
            ("scaling", self._scale),
            ("prune", self._prune),
        ):
            try:
                await step()
            except PraxisError as error:
                events.warning("keeper.failed", step=name, detail=str(error))
        try:
            next_at = await self._schedules.fire_due()
        except PraxisError as error:
            events.warning("keeper.failed", step="schedules", detail=str(error))
        return next_at

    # -- lost workers

    async def bury(self) -> None:
        """Take back what lost workers hold: crashed, to be tried again or to fail (spec 4, property 29)."""
        self._look_at_the_clock()
        asked = self._clock.monotonic()
        workers = await self._store.living_workers()
        gone = self._leases.expired(workers, asked, self._clock.monotonic())
        if self._gone is not None:
            gone |= {worker.id: worker.lease_until for worker in await self._gone(workers)}
        for worker_id in await self._store.expire_workers(gone):
            held = await self._store.held(worker_id)
            self._tell(alerts.worker_lost(worker_id, [one.id for one in held], self._clock.time()))
            changes = [await self._after_loss(one) for one in held]
            for settled in await self._store.apply(changes):
                if settled is not None:
                    self.note_end(settled)
            events.warning("worker.lost", worker_id=worker_id, executions=len(held))

    async def _after_loss(self, execution: Execution) -> Change:
        if execution.status is ExecutionStatus.CANCELLING:
            remains = await remains_of(self._store, execution)
            if remains is not None:  # what its worker started may outlive the worker
                return completion.lost_unconfirmed(execution, remains, self._clock.time())
        return failure_policy.after_loss(execution, self._clock.time()).change

    # -- a clock that was set

    def _look_at_the_clock(self) -> None:
        by_s = self._own_clock.jumped(self._clock.time(), self._clock.monotonic())
        if by_s:
            events.warning("keeper.clock_was_set", by_s=round(by_s, 3))
            self._mended = False

    async def _mend(self) -> None:
        """Bring what waits for a time that a wrong clock gave it back to where it belongs."""
        if self._mended:
            return
        self._mended = True
        now = self._clock.time()
        wanted = ExecutionFilter(statuses=frozenset({ExecutionStatus.SUBMITTED}))
        late = []
        for one in await self._store.find(wanted, limit=_MOST_MENDED):
            longest_s = failure_policy.pause_s(one.terms.retry, max(0, one.retries - 1))
            if one.attempt and one.due_at is not None and one.due_at > now + longest_s + JUMP_S:
                late.append(postpone(one, now + longest_s, "its retry was due by a clock that was wrong"))
        if late:
            await self._store.apply(late)
        for schedule in await self._schedules.list():
            if max(schedule.created_at, schedule.last_at or 0.0) > now + JUMP_S:
                next_at = next_after(schedule.cron, schedule.timezone, now)
                await self._store.put_schedule(
                    replace(schedule, next_at=next_at, created_at=now, last_at=None)
                )

    def note_end(self, settled: AppliedChange) -> None:
        """Take note of a change: whoever waits is told, and people are where retries are used up."""
        self._told(settled)
        after = settled.after
        room = after.status.final and len(self._too_slow) < _MOST_TOO_SLOW
        if room and alerts.long_running([after], self._clock.time(), self._alerting):
            self._too_slow.append(after)  # it ended between two rounds, and took too long all the same
        if after.status is ExecutionStatus.CANCELLING and settled.before.worker_id and not after.worker_id:
            remains = next((r for e in settled.events if (r := Remains.of(e.data.get(REMAINS)))), None)
            if remains is not None:
                self._tell(alerts.termination_unconfirmed(after, remains, self._clock.time()))
            self._unconfirmed()
        if Flag.WINDOW_MISSED in after.flags and Flag.WINDOW_MISSED not in settled.before.flags:
            self._tell(alerts.window_missed(after, self._clock.time()))
        escalated = Flag.ESCALATED in after.flags and Flag.ESCALATED not in settled.before.flags
        if escalated and after.failure is not None:
            self._tell(alerts.retries_exhausted(after, after.failure, self._clock.time()))

    # -- alerts

    async def _alert(self) -> None:
        ended = self._too_slow
        looked_at = [*self._running(), *ended]
        found = alerts.long_running(looked_at, self._clock.time(), self._alerting)
        if found:
            applied = await self._store.apply([change for _, change in found])
            for (alert, _), settled in zip(found, applied, strict=True):
                # Two may notice the same at once; one of them finds the flag set.
                if settled is not None and Flag.LONG_RUNNING not in settled.before.flags:
                    self._tell(alert)
        self._too_slow = [one for one in self._too_slow if one not in ended]
        counts = (await self._store.counts()).by_status
        if counts.get(ExecutionStatus.CANCELLING, 0):
            self._unconfirmed()
        queued = counts.get(ExecutionStatus.QUEUED, 0)
        self._queue, too_deep = self._queue.look(queued, self._clock.time(), self._alerting)
        if too_deep is not None:
            self._tell(too_deep)

    def _tell(self, alert: Alert) -> None:
        self._raised, fresh = self._raised.fresh([alert], self._alerting)
        for one in fresh:
            self._notify(one)  # the log is one of those who are told

    # -- scaling and pruning

    async def _scale(self) -> None:
        if self._scaler is None:
            return
        covered = [one for one in await self._store.workers() if self._scaler.covers(one)]
        load = load_of(covered, slots_only=self._scaler.slots_only)
        self._scaling, scale = self._scaling.observe(self._clock.time(), load)
        if scale is not None:
            slots = await self._scaler.scale_to(scale.slots)
            events.info("scaled", slots=slots, wanted=scale.slots, reason=scale.reason)

    async def _prune(self) -> None:
        now = self._clock.time()
        if self._pruned_at is not None and now - self._pruned_at < PRUNE_EVERY_S:
            return
        kept = self._retention or await retention_of(self._store)
        noise_before = now - kept.noise_days * DAY_S
        all_before = now - kept.audit_days * DAY_S
        removed_events, removed = await self._store.prune(noise_before=noise_before, all_before=all_before)
        if removed_events or removed:  # and there may be more: on with the next round
            events.info("pruned", events=removed_events, executions=removed)
        else:
            self._pruned_at = now
