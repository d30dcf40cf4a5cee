"""The world of one seed: processes, clients, what goes wrong, and what is asked of it all at the end."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.protocol import FinishedExecution
from praxis_sdk.store.sqlite import SqliteStore
from tests.simulation.clients import Client
from tests.simulation.faults import Faults, draw_faults
from tests.simulation.final import judge
from tests.simulation.ledger import Ledger
from tests.simulation.loop import EPOCH_S, LIFE, START_S, State, VirtualClock, VirtualLoop
from tests.simulation.process import LEASE_S, Process, Role, seams
from tests.simulation.workload import HORIZON_S, LARGEST, SMALLER, draw_stream, draw_wishes

STREAM_EVERY = 10  # of so many seeds one looks for starvation, without other faults
SETTLES_S = 600.0  # how long all that was accepted may take to end once nothing goes wrong any more
LATE_S = 4 * LEASE_S
HOURS_S = 3 * 3600.0
TAIL = 60


@dataclass
class Report:
    """What came of a seed.

    Args:
        seed: which.
        problems: what did not hold; the first is what to look at.
        faults: what went wrong on purpose, and how often.
        counts: what was done.
        digest: of the whole trace; equal for equal seeds.
        virtual_s: how long it took in its own time.
        tail: the last lines of the trace.
    """

    seed: int
    problems: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    virtual_s: float = 0.0
    tail: list[str] = field(default_factory=list)


def run(seed: int, trace: Callable[[str], None] | None = None, faults: Faults | None = None) -> Report:
    """Run one seed to its end.

    Args:
        seed: which.
        trace: called with each line of what happens.
        faults: what goes wrong; None: what the seed draws.
    """
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        world = World(seed, loop, trace, faults)
        with seams(world.stream("names"), world.clock):
            try:
                loop.run_until_complete(world.live())
            except AssertionError as error:  # the loop says that it goes round in a circle, or stands still
                world.fail(repr(error))
            world.end()
        return world.report()
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class History(SqliteStore):
    """A store that knows of a long life before the run, so that expectations of some controls are known."""

    async def ended(self, since: float, until: float, **wanted: Any) -> list[FinishedExecution]:
        control = wanted.get("control") or ""
        if not control.startswith("known-"):
            return await super().ended(since, until, **wanted)
        lasts_s = float(control.removeprefix("known-"))
        at = EPOCH_S - 1000.0
        one = FinishedExecution(
            "simulated", control, ExecutionStatus.COMPLETED, None, at, at, at + lasts_s, None, 0
        )
        return [one] * 30


class World:
    """Everything that belongs to one seed."""

    def __init__(
        self, seed: int, loop: VirtualLoop, trace: Callable[[str], None] | None, faults: Faults | None
    ) -> None:
        self.seed = seed
        self.loop = loop
        self.clock = VirtualClock(loop)
        self.stream_of_work = seed % STREAM_EVERY == 0 and faults is None
        drawn = faults or draw_faults(self.stream("faults"))
        self.planned = Faults() if self.stream_of_work else drawn
        self.faults = self.planned
        self.processes: list[Process] = []
        self.holders: dict[str, Process] = {}
        self.acknowledged: set[str] = set()
        self.cancelled: dict[str, float] = {}  # and when that was acknowledged
        self.keys: dict[str, str] = {}
        self.waiting: dict[asyncio.Task[Any], tuple[Process, str]] = {}
        self.down_until = 0.0
        self.over = False
        self.base: SqliteStore
        self.ledger: Ledger
        self._random = self.stream("world")
        self._trace = trace
        self._hash = hashlib.sha256()
        self._report = Report(seed)
        self._tail: list[str] = []
        self._failed = loop.create_future()
        self._numbers = 0
        self._background: list[asyncio.Task[Any]] = []
        loop.set_exception_handler(self._unhandled)

    # -- what all parts use

    def stream(self, name: str) -> random.Random:
        """Return a source of chance of its own for a part of the world, so that parts do not disturb each other."""
        return random.Random(f"{self.seed}/{name}")

    def tell(self, line: str) -> None:
        """Add a line to the trace."""
        process = LIFE.get()
        text = f"{self.loop.time() - START_S:10.4f} {process.name if process else '-':>4} {line}"
        self._hash.update(text.encode())
        self._tail.append(text)
        if len(self._tail) > 2 * TAIL:
            del self._tail[:TAIL]
        if self._trace is not None:
            self._trace(text)

    def fault(self, name: str, detail: str = "") -> None:
        """Note that something went wrong on purpose."""
        self._report.faults[name] += 1
        self.tell(f"* {name}: {detail}")

    def count(self, name: str, number: int = 1) -> None:
        """Note that something was done."""
        self._report.counts[name] += number

    def fail(self, problem: str) -> None:
        """Note that something does not hold; the run ends with it."""
        if self.over or len(self._report.problems) > 5:
            return
        self.tell(f"! {problem}")
        self._report.problems.append(f"at {self.loop.time() - START_S:.4f} s: {problem}")
        if not self._failed.done():
            self._failed.set_result(None)

    def report(self) -> Report:
        """Return what came of it."""
        report = self._report
        report.digest = self._hash.hexdigest()
        report.virtual_s = self.loop.time() - START_S
        report.tail = self._tail[-TAIL:]
        for move, number in self.ledger.moves.items():
            report.counts[move] += number
        report.counts["commits"] = self.base.commits
        return report

    # -- the run

    async def live(self) -> None:
        """Live through the faults, then in peace until all has ended, and judge."""
        self.base = await History.open(":memory:", inline=True, clock=self.clock)
        self.base._writer._told = self._rang
        self.ledger = Ledger(
            self.base._writer._connection, self.fail, self.tell, self.loop.time, self.processes
        )
        for role in self._roles():
            self._start(role)
        chance = self.stream("wishes")
        wishes = (
            draw_stream(chance) if self.stream_of_work else draw_wishes(chance, calm=not self.planned.any)
        )
        clients = [
            self.loop.create_task(Client(self, wish, self.stream(f"client {number}")).live())
            for number, wish in enumerate(wishes)
        ]
        self._background += clients
        self._plan_faults()
        await self._until(HORIZON_S, lambda: False)
        self._peace()
        await self._settle(clients)
        await self._until(LATE_S, lambda: False)  # a call that was under way may still bring something new
        await self._settle(clients)
        if not self._failed.done():
            await judge(self, wishes)

    async def _settle(self, clients: list[asyncio.Task[Any]]) -> None:
        settled = await self._until(SETTLES_S, lambda: not self._open(clients))
        if not settled and not self._failed.done():
            self.fail(f"not ended {SETTLES_S:g} s after the last fault: {self._open(clients)}")

    async def _until(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Wait so long, or until something holds or fails; returns whether it held."""
        until = self.loop.time() + seconds
        while self.loop.time() < until and not self._failed.done():
            if done():
                return True
            await asyncio.wait((self._failed,), timeout=min(1.0, until - self.loop.time()))
            for process in self.processes:
                broken = process.broken()
                if broken:
                    self.fail(broken)
        return done()

    def _open(self, clients: list[asyncio.Task[Any]]) -> list[str]:
        known = self.ledger.known
        found = [
            f"{self.ledger.name(one)} {known[one].status} {known[one].reason} {known[one].worker_id}"
            for one in sorted(self.ledger.unfinished)
        ]
        for process, execution_id in self.waiting.values():
            found.append(f"a client of {process.name} waits for {self.ledger.name(execution_id)}")
        found += [f"client {number} is busy" for number, task in enumerate(clients) if not task.done()]
        return found

    def _roles(self) -> list[Role]:
        chance = self._random
        if self.stream_of_work:
            return [Role(LARGEST)]
        roles = [Role(LARGEST, slots=chance.choice((2, 4, 64)))]
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            capacity = None if chance.random() < 0.2 else chance.choice(SMALLER)
            slots = chance.choice((1, 4, 64))
            roles.append(Role(capacity, slots, dispatch=chance.random() < 0.8, keep=chance.random() < 0.7))
        return roles

    def _start(self, role: Role) -> Process:
        self._numbers += 1
        process = Process(self, self._numbers, role, self.stream(f"process {self._numbers}"))
        self.processes.append(process)
        self.tell(f"{process.name} starts: {role}")
        return process

    def _rang(self, topics: Iterable[str]) -> None:
        """Look at what was committed, and tell all processes: the one that wrote first."""
        ordered = sorted(topics)
        if not ordered:
            return
        self.ledger.look(ordered)
        writer = LIFE.get()
        for process in self.processes:
            if process is writer:
                process.link.ring(ordered)
            elif process.state is not State.DEAD:
                process.link.ring_from_afar(ordered)

    # -- what goes wrong

    def _plan_faults(self) -> None:
        chance, planned = self._random, self.planned
        for name, happen in (
            ("kills", self._kill),
            ("freezes", self._freeze),
            ("leaves", self._leave),
            ("skews", self._skew),
            ("cuts", self._cut),
            ("outages", self._outage),
            ("suspends", self._suspend),
            ("newcomers", self._newcomer),
        ):
            for _ in range(getattr(planned, name)):
                at = chance.uniform(0.0, HORIZON_S * 0.9)
                self._background.append(self.loop.create_task(_later(at, happen)))
        self._background.append(self.loop.create_task(self._supervise()))

    def _victim(self) -> Process | None:
        alive = [process for process in self.processes if process.state is State.RUNNING]
        return self._random.choice(alive) if alive else None

    async def _supervise(self) -> None:
        """Start a process again some time after it ended."""
        replaced: set[str] = set()
        while True:
            await asyncio.sleep(0.5)
            for process in [*self.processes]:
                if (
                    process.state is State.DEAD
                    and process.name not in replaced
                    and self._random.random() < 0.2
                ):
                    replaced.add(process.name)
                    self._start(process.role)

    async def _kill(self) -> None:
        process = self._victim()
        if process is not None:
            self.fault("kill", process.name)
            process.end()

    async def _freeze(self) -> None:
        process = self._victim()
        if process is None:
            return
        self.fault("freeze", process.name)
        process.state = State.FROZEN
        await asyncio.sleep(self._random.choice((0.5, 3.0, LEASE_S, 2 * LEASE_S, 4 * LEASE_S)))
        self._thaw(process)

    def _thaw(self, process: Process) -> None:
        if process.state is State.FROZEN:
            self.tell(f"{process.name} goes on")
            process.go_on()

    async def _leave(self) -> None:
        process = self._victim()
        if process is not None and not process.leaving.is_set():
            self.fault("leave", process.name)
            process.drains = self._random.random() < 0.3
            process.leaving.set()
            if self._random.random() < 0.5:
                self._start(replace(process.role))  # rolling: the next one is there before this one has left

    async def _skew(self) -> None:
        process = self._victim()
        if process is not None:
            self.fault("skew", process.name)
            process.skew_s = self._random.uniform(-30.0, 30.0)
            await asyncio.sleep(self._random.uniform(1.0, 30.0))
            process.skew_s = 0.0

    async def _cut(self) -> None:
        process = self._victim()
        if process is not None:
            self.fault("cut", process.name)
            process.link.cut_until = self.loop.time() + self._random.choice((1.0, LEASE_S, 3 * LEASE_S))

    async def _outage(self) -> None:
        self.fault("outage")
        self.down_until = self.loop.time() + self._random.choice((1.0, LEASE_S, 3 * LEASE_S))

    async def _suspend(self) -> None:
        process = self._victim()
        if process is None:
            return
        self.fault("suspend", process.name)
        process.state = State.FROZEN
        began = self.loop.time()
        await asyncio.sleep(self._random.choice((1.0, LEASE_S, 4 * LEASE_S)))
        process.asleep_s += self.loop.time() - began
        self._thaw(process)

    async def _newcomer(self) -> None:
        process = self._start(Role(None, dispatch=False))
        process.skew_s = self._random.choice((-1, 1)) * HOURS_S
        self.fault("newcomer", f"{process.name} {process.skew_s:g}")
        await asyncio.sleep(self._random.uniform(1.0, 3 * LEASE_S))
        process.leaving.set()

    def _peace(self) -> None:
        """Let nothing go wrong any more, and make sure that somebody is there who can do all that is left."""
        self.tell("peace")
        self.faults = Faults(liveness=self.planned.liveness)
        self.down_until = 0.0
        for process in self.processes:
            process.skew_s = process.link.cut_until = 0.0
            self._thaw(process)
        self._start(Role(LARGEST))
        self._background.append(self.loop.create_task(self._end_schedules()))

    async def _end_schedules(self) -> None:
        await self.base.remove_schedule("often")

    # -- the end

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.over:
            self.fail(f"unhandled: {context.get('message')}: {context.get('exception')!r}")

    def end(self) -> None:
        """End every task in order, the dead ones' too, so that nothing is left for the collector to trip over."""
        self.over = True
        self.faults = Faults()
        for process in self.processes:
            process.go_on()
            process.link.hub.close()
        self.loop.run_until_complete(self._end_tasks())

    async def _end_tasks(self) -> None:
        this = asyncio.current_task()
        for _ in range(100):
            tasks = [task for task in asyncio.all_tasks() if task is not this]
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=10.0)
        raise AssertionError(f"tasks that do not end: {tasks}")


async def _later(at: float, happen: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.sleep(at)
    await happen()
