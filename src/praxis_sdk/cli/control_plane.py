"""The control plane as a command sees it: the store, the coordinator, and who of the workers is alive."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from praxis_sdk.cli.chosen_store import PATIENCE_S, ChosenStore
from praxis_sdk.cli.terminal.interrupts import Interrupted, run_interruptibly, uninterrupted
from praxis_sdk.errors import PraxisError

if TYPE_CHECKING:
    from praxis_sdk.cli.home import Home
    from praxis_sdk.clock import Clock
    from praxis_sdk.control.kinds import Kinds
    from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
    from praxis_sdk.control.workers.liveness import Liveness
    from praxis_sdk.jobs.executor.metrics import JobMetrics
    from praxis_sdk.model import Worker
    from praxis_sdk.store import Store

LOCKS: Final = "workers"  # of the workers of a home, in it
BURY_S: Final = 1.0  # a question is answered all the same where others keep the store busy

T = TypeVar("T")


@dataclass(frozen=True)
class Control:
    """What a command works with.

    Args:
        home: of the user.
        store: where executions live.
        coordinator: submits them, asks about them, ends them.
        liveness: which workers of this home are alive.
        clock: the time.
        kinds: the kinds of work.
        embedded: whether the store is a file of this machine, so that its clock is ours.
    """

    home: Home
    store: Store
    coordinator: ExecutionCoordinator
    liveness: Liveness
    clock: Clock
    kinds: Kinds
    embedded: bool

    async def bury(self) -> None:
        """Take back what dead workers of this home hold, which otherwise would seem to run.

        Dead is whose lock the kernel has released. A lease takes watching, for which a command has no time. Where the
        store is busy, or may only be read, others do it.
        """
        with contextlib.suppress(PraxisError, TimeoutError):
            async with asyncio.timeout(BURY_S):
                await self._bury()

    async def _bury(self) -> None:
        dead = list(await self.liveness.dead(await self.store.living_workers()))
        if not dead:
            return
        from praxis_sdk.control.lifecycle.schedules import Schedules
        from praxis_sdk.control.observe.notifiers.configuration import from_environment
        from praxis_sdk.control.observe.notifiers.dispatch import Notifications
        from praxis_sdk.control.workers.maintenance import Maintenance

        async def gone(_: object) -> list[Worker]:
            return dead

        notifications = Notifications(from_environment(os.environ))
        await notifications.__aenter__()
        try:
            schedules = Schedules(self.store, self.coordinator, self.clock)
            await Maintenance(
                self.store,
                self.clock,
                schedules,
                running=list,
                notify=notifications.post,
                told=self.coordinator.told,
                gone=gone,
            ).bury()
        finally:
            await notifications.close()

    async def served(self, kinds: Iterable[str]) -> bool:
        """Whether each of these kinds has a worker that takes work."""
        await self.bury()
        now = self.clock.time()
        able: set[str] = set()
        for worker in await self.store.workers():
            alive = self.liveness.alive(worker.id)
            if alive or (
                alive is None and worker.lease_until > now
            ):  # of another host only its lease is known
                able |= worker.kinds
        return able.issuperset(kinds)


def kinds_of(home: Home, metrics: JobMetrics | None = None, job_limits: Iterable[str] = ()) -> Kinds:
    """Make the kinds of work that this installation runs; the caller closes them.

    Args:
        home: of the user.
        metrics: told of each job that ended; None: nobody counts.
        job_limits: the most that jobs may ask for, `NAME=VALUE` each, beside what the environment says.
    """
    from praxis_sdk.control.kinds import Kinds
    from praxis_sdk.control.kinds.job import JobKind
    from praxis_sdk.control.kinds.tool import ToolKind
    from praxis_sdk.execution.engine import builtin_engines

    jobs = JobKind(home.executor, ceiling=lambda: home.job_limits(job_limits), metrics=metrics)
    return Kinds(jobs, ToolKind(builtin_engines, secrets=home.secret_sources))


@contextlib.asynccontextmanager
async def connected(chosen: ChosenStore, *, patience_s: float = PATIENCE_S) -> AsyncIterator[Control]:
    """Open a store, without a worker, for as long as the context lasts.

    Args:
        chosen: which.
        patience_s: for how long a server may be away, in seconds.

    Raises:
        PlatformError: it cannot be opened.
    """
    from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
    from praxis_sdk.control.workers.liveness import Liveness

    home = chosen.home
    kinds = kinds_of(home)
    store = await chosen.open(patience_s=patience_s)
    try:
        yield Control(
            home=home,
            store=store,
            coordinator=ExecutionCoordinator(store, kinds),
            liveness=Liveness(home.path / LOCKS),
            clock=store.clock,
            kinds=kinds,
            embedded=chosen.embedded,
        )
    finally:
        await uninterrupted(_close(store, kinds))


async def _close(store: Store, kinds: Kinds) -> None:
    await kinds.close()
    await store.close()


def ask(given: str | None, question: Callable[[Control], Coroutine[Any, Any, T]]) -> T:
    """Open the store that the user names, ask it something, and return the answer.

    Args:
        given: the option `--store`.
        question: what is asked.

    Raises:
        Interrupted: a signal arrived.
        PraxisError: whatever the question or the store say.
    """
    chosen = ChosenStore.of_user(given)

    async def asked() -> T:
        async with connected(chosen) as control:
            await control.bury()
            return await question(control)

    try:
        return run_interruptibly(asked(), on_signal=lambda _: None)
    except Interrupted as interruption:
        raise Interrupted(
            interruption.number, f"ended by {interruption.number.name}; what was asked for may be done"
        ) from None
