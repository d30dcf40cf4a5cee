"""The control plane of one process: its parts, put together.

    submit --> coordinator --> store <-- dispatcher --> worker --> kind --> engine or sandbox
                                 ^          ^              |
                                 '-- keeper |              '--> journal --> store
                                            '-- decides by `scheduler`, pure

A process may be all of this (the embedded one), or only a door (no worker), or only a worker.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.lifecycle.coordinator import MAX_WAITING, ExecutionCoordinator
from praxis_sdk.control.lifecycle.retention import Retention
from praxis_sdk.control.lifecycle.schedules import Schedules
from praxis_sdk.control.observe import alerts
from praxis_sdk.control.observe.alerts import Alert, AlertPolicy
from praxis_sdk.control.observe.monitor import ExecutionMonitor
from praxis_sdk.control.observe.notifiers.base import Notifier
from praxis_sdk.control.observe.notifiers.dispatch import Delivery, Notifications
from praxis_sdk.control.observe.prometheus import ControlMetrics
from praxis_sdk.control.observe.telemetry import Telemetry
from praxis_sdk.control.observe.tracing import Tracing
from praxis_sdk.control.scheduling.dispatcher import Dispatcher
from praxis_sdk.control.scheduling.scaling import LocalSlots, Scaler
from praxis_sdk.control.scheduling.scheduler import POLICY, SchedulerPolicy
from praxis_sdk.control.workers.breaker import BreakerChange, Breakers
from praxis_sdk.control.workers.leases import LEASE_S
from praxis_sdk.control.workers.liveness import Liveness
from praxis_sdk.control.workers.maintenance import Maintenance
from praxis_sdk.control.workers.pursuit import Pursuit
from praxis_sdk.control.workers.worker import WorkerCapacity, WorkerProcess
from praxis_sdk.errors import PraxisError
from praxis_sdk.log import get_logger
from praxis_sdk.model import Execution, Worker, WorkerState
from praxis_sdk.resources import Resources
from praxis_sdk.store import AppliedChange, Store
from praxis_sdk.supervisor import Supervisor

__all__ = ["ControlPlane", "PlaneOptions", "offer_of_this_host"]

_MIB: Final = 1 << 20
# Work waits more than it computes: so many attempts per core at most.
SLOTS_PER_CORE: Final = 64
NETWORK_MBPS: Final = 1000
# Who watches people's work leaves alone what is over before anybody could look.
ALERTING: Final = AlertPolicy(long_running_least_s=1.0)

events = get_logger("praxis.control")


@dataclass(frozen=True)
class PlaneOptions:
    """How a control plane is put together.

    Args:
        worker: what the worker of this process offers; None: it has none.
        dispatch: whether it runs rounds of scheduling.
        keep: whether it looks after lost workers, schedules and alerts.
        max_pending: most executions that may wait.
        scheduling, alerting: policies.
        retention: how long is kept what happened; None: as the store says.
        notifiers: the ways to tell people of an alert.
        scaler: what can be scaled; None: nothing.
        autoscale_slots: most slots that the worker of this process is scaled to; 0: its slots stay.
        metrics: counts for Prometheus; None: nobody counts.
        telemetry: where traces go; None: nowhere.
        stalled: called in a thread, with the age of the worker's last heartbeat in seconds, when the event loop
            stands still and attempts run that others may take over soon; None: nobody looks.
    """

    worker: WorkerCapacity | None = None
    dispatch: bool = True
    keep: bool = True
    max_pending: int = MAX_WAITING
    scheduling: SchedulerPolicy = POLICY
    alerting: AlertPolicy = ALERTING
    retention: Retention | None = None
    notifiers: Sequence[Notifier] = ()
    scaler: Scaler | None = None
    autoscale_slots: int = 0
    metrics: ControlMetrics | None = None
    telemetry: Telemetry | None = None
    stalled: Callable[[float], None] | None = None


class ControlPlane:
    """Everything that one process contributes; use it as a context, which ends it in good order.

    Args:
        store: where executions live; the plane does not close it.
        kinds: the kinds of work; the plane closes them.
        options: how it is put together.
        clock: the time.
        liveness: which workers of this host are alive; None: only their leases tell.
    """

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        options: PlaneOptions | None = None,
        *,
        clock: Clock | None = None,
        liveness: Liveness | None = None,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._options = options or PlaneOptions()
        self._clock = clock or store.clock
        self._liveness = liveness
        self.tasks = Supervisor(self._clock.sleep, self._clock.monotonic)
        self._names: list[str] = []  # of the worker, which takes another one when it was lost
        self._metrics = self._options.metrics
        self._notifications = Notifications(self._options.notifiers, told=self._notified)
        telemetry = self._options.telemetry
        self._tracing = Tracing(store, telemetry) if telemetry is not None else None
        self.coordinator = ExecutionCoordinator(
            store,
            kinds,
            clock=self._clock,
            max_pending=self._options.max_pending,
            stopping=self._stop_attempt,
        )
        self.schedules = Schedules(store, self.coordinator, self._clock)
        self.monitor = ExecutionMonitor(store, self._clock)
        self.breakers = Breakers(monotonic=self._clock.monotonic, listener=self._breaker_changed)
        self.worker: WorkerProcess | None = None
        if self._options.worker is not None:
            self.worker = WorkerProcess(
                store,
                kinds,
                self._options.worker,
                clock=self._clock,
                breakers=self.breakers,
                told=self._told,
                registered=self._registered,
                left=self._left,
                stalled=self._options.stalled,
                children=self._submit_child,
                wait=self.coordinator.wait,
            )
        self.pursuit = Pursuit(store, kinds, self._clock, told=self._told)
        self.keeper = Maintenance(
            store,
            self._clock,
            self.schedules,
            running=self._running,
            notify=self._notify,
            told=self._ended,
            unconfirmed=self.pursuit.wake,
            gone=liveness.dead if liveness is not None else None,
            scaler=self._scaler(),
            retention=self._options.retention,
            alerting=self._options.alerting,
            lease_s=self._options.worker.lease_s if self._options.worker is not None else LEASE_S,
        )
        self.dispatcher = Dispatcher(
            store,
            self._clock,
            with_request=self.coordinator.with_request,
            accept=self._accepting,
            stopping=self._stop_attempt,
            told=self._told,
            policy=self._options.scheduling,
        )

    async def __aenter__(self) -> Self:
        """Begin to work; what has begun ends again where not all of it can."""
        try:
            await self._begin()
        except BaseException:
            with contextlib.suppress(PraxisError):  # what went wrong first is what is told
                await self.close()
            raise
        return self

    async def _begin(self) -> None:
        await self._notifications.__aenter__()
        if self._tracing is not None:
            self._tracing.start()
        if self._options.keep:
            await self.keeper.bury()  # whatever a process held that has died since
        if self.worker is not None:
            await self.worker.start()
        if self._options.dispatch:
            self.tasks.start("dispatcher", self.dispatcher.run)
        if self._options.keep:
            self.tasks.start("keeper", self.keeper.run)
        if self.worker is not None:
            self.tasks.start("pursuit", self.pursuit.run)

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End: what still runs is killed and given back to the queue."""
        await self.close()

    async def drain(self) -> None:
        """Take no more work, and return when what runs here has ended."""
        if self.worker is not None:
            await self.worker.drain()

    async def close(self) -> None:
        """End in good order; repeatable."""
        await self.tasks.stop()
        try:
            if self.worker is not None:
                await self.worker.stop()
                # Not where that failed: then its locks tell others that it is dead, once this process is.
                while self._names and self._liveness is not None:
                    self._liveness.release(self._names.pop())
        finally:  # the store may be away; what runs and who waits to tell must end all the same
            await self._kinds.close()
            if self._tracing is not None:
                await self._tracing.close()
            await self._notifications.close()

    # -- what the parts tell each other

    def _accepting(self) -> dict[str, Any]:
        worker = self.worker
        return {} if worker is None or worker.state is WorkerState.GONE else {worker.id: worker.accept}

    def _running(self) -> list[Execution]:
        return [] if self.worker is None else [held.execution for held in self.worker.held]

    def _stop_attempt(self, settled: AppliedChange) -> None:
        if self.worker is not None:
            self.worker.ask_to_stop(settled)

    def _told(self, settled: AppliedChange) -> None:
        self.keeper.note_end(settled)

    def _ended(self, settled: AppliedChange) -> None:
        self.coordinator.told(settled)
        if self._metrics is not None:
            self._metrics.settled(settled)
        if self._tracing is not None and settled.after.status.final:
            self._tracing.ended(settled.after)

    def _notify(self, alert: Alert) -> None:
        if self._metrics is not None:
            self._metrics.alerted(str(alert.kind))
        self._notifications.post(alert)

    def _notified(self, notifier: str, outcome: Delivery) -> None:
        if self._metrics is not None:
            self._metrics.notified(notifier, str(outcome))

    def _registered(self, worker_id: str) -> None:
        if self._liveness is not None:
            self._liveness.hold(worker_id)
            if worker_id not in self._names:
                self._names.append(worker_id)

    def _left(self, worker_id: str) -> None:
        if self._liveness is not None:
            self._liveness.release(worker_id)
            self._names.remove(worker_id)

    def _breaker_changed(self, change: BreakerChange) -> None:
        alert: Alert | None = alerts.breaker_opened(change, self._clock.time())
        if alert is not None:
            self._notify(alert)
        if self._metrics is not None:
            self._metrics.breakers(self.breakers.states())

    async def _submit_child(
        self, parent: Execution, kind: str, request: Mapping[str, Any], terms: Mapping[str, Any]
    ) -> str:
        allowed = self._kinds.get(parent.kind).children
        return await self.coordinator.submit_child(parent, allowed, kind, request, terms)

    def _scaler(self) -> Scaler | None:
        worker, options = self.worker, self._options
        if options.scaler is not None or worker is None or not options.autoscale_slots or not options.worker:
            return options.scaler
        return _WorkerSlots(worker, options.worker.slots, options.autoscale_slots)


class _WorkerSlots(LocalSlots):
    """The slots of the worker of this process."""

    def __init__(self, worker: WorkerProcess, slots: int, most: int) -> None:
        super().__init__(slots, most)
        self._worker = worker

    def covers(self, worker: Worker) -> bool:
        """Whether it is the worker of this process: others have slots of their own."""
        return worker.id == self._worker.id

    async def scale_to(self, slots: int) -> int:
        """Change how many attempts the worker runs at once; those that run go on."""
        given = await super().scale_to(slots)
        await self._worker.resize(given)
        return given


def offer_of_this_host(*, slots: int | None = None, lease_s: float = LEASE_S) -> WorkerCapacity:
    """Return what a worker of this machine can offer: its cores, its memory, its disk.

    Args:
        slots: how many attempts at once at most; None: many per core, since resources limit them anyway.
        lease_s: for how long a heartbeat counts, in seconds.
    """
    cores = len(os.sched_getaffinity(0))
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    disk = os.statvfs("/")
    capacity = Resources(
        cpu_cores=float(cores),
        memory_mb=pages * page // _MIB,
        network_mbps=NETWORK_MBPS,
        storage_mb=disk.f_bavail * disk.f_frsize // _MIB,
    )
    return WorkerCapacity(capacity, slots if slots is not None else cores * SLOTS_PER_CORE, lease_s)
