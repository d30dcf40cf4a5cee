"""A process: a control plane with a worker, which lives in the virtual loop and can be ended in every way."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import uuid_utils

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.scheduling.scheduler import SchedulerPolicy
from praxis_sdk.control.workers import worker as worker_module
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.errors import PraxisError
from praxis_sdk.model import Execution, Worker
from praxis_sdk.resources import Resources, total
from tests.simulation.kind import SimulatedKind
from tests.simulation.loop import LIFE, Life, State
from tests.simulation.store import Link

if TYPE_CHECKING:
    from tests.simulation.world import World

LEASE_S = 6.0
# Shorter than in earnest, so that a run of two minutes sees what they promise.
PATIENCE_S = 20.0
AGEING_STEP_S = 3.0
POLICY = SchedulerPolicy(patience_s=PATIENCE_S)
CLIENT_WAITS_S = 30.0
# Whoever stood still needs so long to kill what it ran.
WAKES_S = LEASE_S / 2


class Gone(Exception):
    """A process ended, or did not answer, while a client waited for it."""


@dataclass(frozen=True)
class Role:
    """What a process is for.

    Args:
        capacity: of its worker; None: it has none.
        slots: of its worker.
        dispatch, keep: whether it does.
    """

    capacity: Resources | None
    slots: int = 64
    dispatch: bool = True
    keep: bool = True


class Liveness:
    """Which processes are dead, as locks of files would tell."""

    def __init__(self, world: "World", process: "Process") -> None:
        self._world = world
        self._process = process

    def hold(self, worker_id: str) -> None:
        self._world.holders[worker_id] = self._process

    def release(self, worker_id: str) -> None:
        self._world.holders.pop(worker_id, None)

    async def dead(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        holders = self._world.holders
        return [one for one in workers if one.id in holders and holders[one.id].state is State.DEAD]


class Process(Life):
    """One process of an installation."""

    def __init__(self, world: "World", number: int, role: Role, random_: random.Random) -> None:
        super().__init__(f"p{number}", world.loop)
        self.world = world
        self.role = role
        self.link = Link(world, self, random_)
        self.names = 0
        self.plane: ControlPlane | None = None
        self.leaving = asyncio.Event()
        self.drains = False  # whether it lets its work end before it leaves
        self.exited: asyncio.Future[None] = world.loop.create_future()
        self.running: dict[tuple[str, int], Resources] = {}
        self.dying: set[tuple[str, int]] = set()  # those that were killed and are deaf to it
        self._main = self.spawn(self._run())

    async def _run(self) -> None:
        world, role = self.world, self.role
        offer = WorkerCapacity(role.capacity, role.slots, LEASE_S) if role.capacity is not None else None
        options = PlaneOptions(worker=offer, dispatch=role.dispatch, keep=role.keep, scheduling=POLICY)
        liveness = Liveness(world, self) if world.faults.liveness else None
        plane = ControlPlane(
            self.link, Kinds(SimulatedKind(self)), options, clock=world.clock, liveness=liveness
        )
        try:
            async with plane:
                self.plane = plane
                await self.leaving.wait()
                if self.drains:
                    await plane.drain()
        except PraxisError as error:
            world.tell(f"{self.name} ended with {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, no process may end so
            # One that nobody foresaw may end a process that has not begun: with its reason.
            (world.tell if world.planned.odd and self.plane is None else world.fail)(
                f"{self.name} ended with {error!r}"
            )
        if not world.over and self.running and self.leaving.is_set():
            world.fail(f"{self.name} left, and work of it still runs: {list(self.running)}")
        if not world.over:
            self.end()

    @property
    def serves(self) -> bool:
        """Whether it answers clients."""
        return self.state is State.RUNNING and self.plane is not None and not self.leaving.is_set()

    def end(self) -> None:
        """Be gone from this moment on: nothing of it runs any more."""
        self.state = State.DEAD
        self.running.clear()
        if not self.exited.done():
            self.exited.set_result(None)

    async def ask(self, question: Coroutine[Any, Any, Any], patience_s: float = CLIENT_WAITS_S) -> Any:
        """Have something done in this process for a client outside.

        Raises:
            Gone: there was no answer; nobody knows whether it was done.
        """
        task = self.spawn(question)
        task.add_done_callback(_heard)
        await asyncio.wait((task, self.exited), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or self.state is State.DEAD:
            raise Gone(self.name)
        return task.result()

    # -- what its worker runs

    def began(self, execution: Execution) -> tuple[str, int]:
        """Take note of an attempt; the work of one process must fit into its machine."""
        key = execution.id, execution.token
        if key in self.running:
            self.world.fail(f"{self.name} runs attempt {key} twice at once")
        self._doubled(execution)
        self.running[key] = execution.granted
        assert self.role.capacity is not None
        if (
            not total(self.running.values()).fits_in(self.role.capacity)
            or len(self.running) > self.role.slots
        ):
            self.world.fail(f"{self.name} runs more than it has room for: {self.running}")
        return key

    def _doubled(self, execution: Execution) -> None:
        """No attempt begins while an earlier one runs in a process that could have stopped it."""
        now = self.loop.time()
        for other in self.world.processes:
            if other.state is not State.RUNNING or now - other.woke_at < WAKES_S:
                continue
            for execution_id, token in other.running:
                killed = (execution_id, token) in other.dying
                if execution_id == execution.id and token < execution.token and not killed:
                    self.world.fail(
                        f"{self.name} begins {execution.id} #{execution.token}, and #{token} runs in {other.name}: "
                        "its side effects are doubled"
                    )

    def ended(self, key: tuple[str, int]) -> None:
        self.running.pop(key, None)

    def broken(self) -> str:
        """Return which of its lasting tasks has failed; empty: none."""
        if not self.serves or self.plane is None:
            return ""
        parts = [self.plane.tasks, *([self.plane.worker.tasks] if self.plane.worker is not None else [])]
        for part in parts:
            for name, task in part._keeping.items():
                if task.done():
                    return f"{self.name}: {name} has ended, and nobody starts it again"
            for name, times in part.failures.items() if not self.world.planned.odd else ():
                return f"{self.name}: {name} failed {times} times"
        return ""


def _heard(task: asyncio.Task[Any]) -> None:
    """Take note of an error that no client waits for any more."""
    if not task.cancelled():
        task.exception()


@contextlib.contextmanager
def seams(random_: random.Random, clock: Any) -> Iterator[None]:
    """Let every id that Praxis makes up come from the seed, and let waiting count sooner."""

    def uuid7() -> uuid.UUID:
        stamp = int(clock.time() * 1000) << 80
        return uuid.UUID(
            int=stamp | 7 << 76 | random_.getrandbits(12) << 64 | 2 << 62 | random_.getrandbits(62)
        )

    def worker_id(_host: str) -> str:
        process = LIFE.get()
        assert isinstance(process, Process)
        process.names += 1
        return f"{process.name}.{process.names}"

    with (
        mock.patch.object(uuid_utils, "uuid7", uuid7),
        mock.patch.object(worker_module, "_new_id", worker_id),
        mock.patch.object(transitions, "AGEING_STEP_S", AGEING_STEP_S),
    ):
        yield
