"""A worker in the foreground, from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from praxis_sdk.cli.control_plane import Control, connected
from praxis_sdk.cli.worker_plane import worker_plane

if TYPE_CHECKING:
    from praxis_sdk.cli.chosen_store import ChosenStore
    from praxis_sdk.control.observe.prometheus import ControlMetrics
    from praxis_sdk.control.plane import ControlPlane
    from praxis_sdk.control.workers.worker import WorkerProcess
    from praxis_sdk.model import Execution, Worker

PATIENCE_S: Final = 30.0  # a worker outlives the restart of its server
LOOK_S: Final = 1.0  # a cancelled execution leaves the queue without ringing
METRICS_WINDOW_S: Final = 3600.0
_PAGE: Final = 1000
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class WorkerRequest:
    """What the command line asks of a worker.

    Args:
        drain: end when nothing is left to do.
        slots: attempts at once at most; None: many per core.
        most_slots: how many they may become; 0: they stay.
        offered: amounts in place of what this host has, by the fields of `Resources`.
        job_limits: the most that jobs may ask for, `NAME=VALUE` each.
        metrics: where its numbers are served; None: nowhere.
    """

    drain: bool
    slots: int | None
    most_slots: int
    offered: Mapping[str, float | int]
    job_limits: Sequence[str]
    metrics: tuple[str, int] | None


def serve(chosen: ChosenStore, request: WorkerRequest, say: Callable[[str], None]) -> int:
    """Run a worker until a signal or an empty queue ends it, and return the exit status.

    Args:
        chosen: the store.
        request: what is asked of it.
        say: tells people a line.

    Raises:
        PraxisError: the store cannot be opened, or stayed away.
    """
    with asyncio.Runner() as runner:
        return runner.run(_Service(request, say).run(chosen))


class _Service:
    """A worker, from its start to its end."""

    def __init__(self, request: WorkerRequest, say: Callable[[str], None]) -> None:
        self._request = request
        self._say = say
        self._received: list[signal.Signals] = []
        self._once = asyncio.Event()
        self._twice = asyncio.Event()
        self._starting: asyncio.Task[int] | None = None

    async def run(self, chosen: ChosenStore) -> int:
        """Run it; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs want it
                loop.add_signal_handler(number, self._signalled, number)
        serving = self._starting = asyncio.ensure_future(self._serve(chosen))
        try:
            return await serving
        except asyncio.CancelledError:
            if self._received:
                return 128 + self._received[0]
            raise

    def _signalled(self, number: signal.Signals) -> None:
        self._received.append(number)
        (self._twice if self._once.is_set() else self._once).set()
        if self._starting is not None:  # it holds nothing yet
            self._starting.cancel()

    async def _serve(self, chosen: ChosenStore) -> int:
        request = self._request
        async with contextlib.AsyncExitStack() as stack:
            control = await stack.enter_async_context(connected(chosen, patience_s=PATIENCE_S))
            numbers = _numbers() if request.metrics is not None else None
            plane = worker_plane(
                control,
                slots=request.slots,
                most_slots=request.most_slots,
                offered=request.offered,
                job_limits=request.job_limits,
                metrics=numbers,
                stalled=_end_at_once,
            )
            await stack.enter_async_context(plane)
            self._starting = None
            if request.metrics is not None and numbers is not None:
                from praxis_sdk.cli.metrics_page import served

                url = await stack.enter_async_context(served(request.metrics, _page(control, numbers)))
                self._say(f"metrics at {url}")
            assert plane.worker is not None
            self._say(f"worker {plane.worker.id} takes work from {chosen.label}")
            wanted = [self._once.wait(), _given_up(plane.worker)]
            if request.drain:
                wanted.append(_idle(control, self._say))
            if await _first(*wanted) == 2:
                self._say("nothing is left to do")
            return await self._end(plane)

    async def _end(self, plane: ControlPlane) -> int:
        assert plane.worker is not None
        if self._received:
            name, count = self._received[0].name, plane.worker.running
            waits = f"; finishing {count} that run (once more: give them back)" if count else ""
            self._say(f"{name}: takes no more work{waits}")
        if await _first(plane.drain(), self._twice.wait(), _given_up(plane.worker)) == 0:
            return 0
        self._say(f"{self._received[-1].name}: giving back {plane.worker.running} that run")
        return 128 + self._received[-1]


def _end_at_once(age_s: float) -> None:
    """End this process with all that it runs, from a thread: its event loop stands still, and others take over."""
    line = f"praxis: the worker stands still, and its store heard nothing of it for {age_s:.0f} s: it ends itself\n"
    os.write(2, line.encode())
    os.kill(os.getpid(), signal.SIGKILL)


async def _given_up(worker: WorkerProcess) -> None:
    """Raise what a worker gave up for, when it does."""
    raise await asyncio.shield(worker.given_up)


async def _idle(control: Control, say: Callable[[str], None]) -> None:
    """Return when nothing runs and nothing waits but for a later time, or for a worker of another sort."""
    seen = 0
    while True:
        with contextlib.suppress(TimeoutError):
            seen = await asyncio.wait_for(control.store.changed("queue", seen), LOOK_S)
        left = await _left_over(control)
        if left is not None:
            if left:
                say(f"{left} wait that no worker here can run: 'praxis ps' shows them")
            return


async def _left_over(control: Control) -> int | None:
    """Return how many wait that nobody here can run; None: there is something to do."""
    from praxis_sdk.states import HELD, ExecutionStatus
    from praxis_sdk.store import ExecutionFilter

    store = control.store
    counts = (await store.counts()).by_status
    if any(counts.get(status, 0) for status in HELD):
        return None
    stuck = counts.get(ExecutionStatus.QUEUED, 0)
    workers = await store.workers() if stuck else []
    for status in (ExecutionStatus.QUEUED, ExecutionStatus.SUBMITTED):
        before: str | None = None
        seen = 0
        wanted = ExecutionFilter(statuses=frozenset({status}))
        while counts.get(status, 0) and (page := await store.find(wanted, limit=_PAGE, before=before)):
            now = control.clock.time()
            for one in page:
                if status is ExecutionStatus.QUEUED and _fits_any(one, workers):
                    return None
                due = one.due_at is None or one.due_at <= now
                if status is ExecutionStatus.SUBMITTED and (due or one.attempt):  # a retry is soon
                    return None
            before = page[-1].id
            seen += len(page)
        if seen != counts.get(
            status, 0
        ):  # some moved on between the count and the look: they may be running now
            return None
    return stuck


def _fits_any(execution: Execution, workers: Sequence[Worker]) -> bool:
    """Whether a worker could hold an execution, if it had nothing else to do."""
    return any(execution.kind in one.kinds and execution.granted.fits_in(one.capacity) for one in workers)


def _numbers() -> ControlMetrics:
    from praxis_sdk.control.observe.prometheus import ControlMetrics

    return ControlMetrics()


def _page(control: Control, numbers: ControlMetrics) -> Callable[[], Awaitable[bytes]]:
    from praxis_sdk.cli.commands.metrics import measured

    async def page() -> bytes:
        numbers.update(await measured(control, METRICS_WINDOW_S))
        return numbers.render()

    return page


async def _first(*awaitables: Awaitable[object]) -> int:
    """Return which of several things ended first, and cancel the others; raises what it raised."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(task for task in tasks if task in done)
        first.result()
        return tasks.index(first)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
