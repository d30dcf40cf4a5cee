"""The dispatcher: runs rounds of scheduling when there is a reason to, and hands over what they start.

Any process may run one beside others: each round locks what it looks at, so two never start the same execution,
and what one has under its hands the other does not see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.scheduling.scheduler import POLICY, Decision, SchedulerPolicy, decide, planned_s
from praxis_sdk.control.scheduling.windows import Committed
from praxis_sdk.errors import PraxisError
from praxis_sdk.log import get_logger
from praxis_sdk.model import Execution
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import AppliedChange, Change, Round, RoundScope, Store

FEWEST_CANDIDATES: Final = 16
CANDIDATES: Final = 256
MOST_CANDIDATES: Final = 16_384
MOST_RUNNING: Final = 10_000
LOOK_AGAIN_S: Final = 5.0  # whatever happens, or does not
_PAUSE_S: Final = 0.5
_FRUITLESS_SHARE: Final = 0.1  # of the time at most goes into looks of one sort that find nothing to do
_ROUNDS_SHARE: Final = 1 / 3  # of the time at most goes into rounds while a queue stays behind them
_LONGEST_GATHERING_S: Final = 0.005

events = get_logger("praxis.control")

Accept = Callable[[Execution], None]


class Dispatcher:
    """Starts what waits.

    Args:
        store: where executions live.
        clock: the time.
        with_request: adds the request to an execution that was started.
        accept: per worker of this process, what begins an attempt there.
        stopping: told of each attempt that a round wants stopped.
        told: called with every end that came about here.
        policy: how is decided.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        with_request: Callable[[Execution], Awaitable[Execution]],
        accept: Callable[[], dict[str, Accept]],
        stopping: Callable[[AppliedChange], None] = lambda settled: None,
        told: Callable[[AppliedChange], None] = lambda settled: None,
        policy: SchedulerPolicy = POLICY,
    ) -> None:
        self._store = store
        self._clock = clock
        self._with_request = with_request
        self._accept = accept
        self._stopping = stopping
        self._told = told
        self._policy = policy
        self._candidates = CANDIDATES  # of the first look of a round
        self._wide_looks = _Thrift()  # beyond what is usually looked at
        self._room_looks = _Thrift()  # for batch work that could be stopped
        self._gather_s = 0.0  # how long ends are gathered before the next round
        self._seen = 0
        self._planned: dict[str, Committed] = {}  # windowed work that waits for its planned start
        self._rung: asyncio.Task[int] | None = None

    async def run(self) -> None:
        """Dispatch until cancelled."""
        try:
            while True:
                try:
                    again_at = await self.round()
                    if self._gather_s:
                        await self._clock.sleep(self._gather_s)
                    await self._wait(again_at)
                except PraxisError as error:
                    events.warning("dispatcher.failed", detail=str(error))
                    await self._clock.sleep(_PAUSE_S)
        finally:
            rung, self._rung = self._rung, None
            if rung is not None:
                rung.cancel()
                await asyncio.wait([rung])

    async def round(self) -> float | None:
        """Decide and start until nothing more can be started; returns when time alone brings more.

        Where one execution ends and one takes its place, a long queue behind it costs nothing: the first look is
        as wide as the last one was of use. What fits may stand behind what does not, so wider looks follow; but
        while they find nothing, they are taken no more often than they are worth.
        """
        self._seen = await self._store.changed("queue", 0)
        usual = self._candidates
        scope = RoundScope(usual)
        began = self._clock.monotonic()
        moments: list[float] = []
        while True:
            accept = self._accept()
            looked_at = self._clock.monotonic()
            decision, seen, settled = await self._decide(replace(scope, local_workers=frozenset(accept)))
            await self._hand_over(settled, accept)
            now, fruitless = self._clock.monotonic(), not decision.changes
            if decision.started:
                self._candidates = min(CANDIDATES, max(FEWEST_CANDIDATES, 2 * decision.started))
            if scope.batch_running:
                self._room_looks.note(now, now - looked_at, fruitless=fruitless)
            elif scope.candidates > usual:
                self._wide_looks.note(now, now - looked_at, fruitless=fruitless)
            more = seen == scope.candidates
            if decision.released or (more and decision.started == seen):
                scope = RoundScope(CANDIDATES)
                continue
            wants_room = bool(decision.blocked) and not scope.batch_running
            wants_more = decision.has_room and more and seen < MOST_CANDIDATES
            if wants_room and now >= self._room_looks.next_at:
                scope = replace(scope, batch_running=MOST_RUNNING)
            elif wants_more and (scope.candidates > usual or now >= self._wide_looks.next_at):
                scope = RoundScope(4 * seen)
            else:
                break
        # What was put off is done in time; what was looked at in vain waits for something to happen.
        if wants_room:
            moments.append(self._clock.time() + self._room_looks.next_at - now)
        if wants_more:
            moments.append(self._clock.time() + self._wide_looks.next_at - now)
        if decision.look_again_at is not None:
            moments.append(decision.look_again_at)
        left_behind = more or decision.started < seen
        self._gather_s = min(_LONGEST_GATHERING_S, (now - began) / _ROUNDS_SHARE) if left_behind else 0.0
        return min(moments, default=None)

    async def _decide(self, scope: RoundScope) -> tuple[Decision, int, Sequence[AppliedChange]]:
        made: list[tuple[Decision, int]] = []

        def ask(seen: Round) -> Sequence[Change]:
            decision = decide(seen, self._policy, tuple(self._planned.values()))
            made.append((decision, len(seen.waiting)))
            return decision.changes

        settled = await self._store.schedule(scope, ask)
        decision, seen = made[-1] if made else (Decision(), 0)
        self._note_plans(settled)
        return decision, seen, settled

    def _note_plans(self, settled: Sequence[AppliedChange]) -> None:
        """Remember when windowed work will run, so that the next plan goes around it."""
        now = self._clock.time()
        if self._planned:
            self._planned = {name: one for name, one in self._planned.items() if one.start_at > now}
        for after in (one.after for one in settled):
            if after.status is not ExecutionStatus.SUBMITTED or after.due_at is None:
                continue
            lasts_s = planned_s(after, self._policy)
            if lasts_s is not None:
                self._planned[after.id] = Committed(after.due_at, after.due_at + lasts_s, after.granted)

    async def _hand_over(self, settled: Sequence[AppliedChange], accept: dict[str, Accept]) -> None:
        begun: list[tuple[Accept, Execution]] = []
        for one in settled:
            after = one.after
            if after.stop is not None and one.before.stop is None:
                self._stopping(one)
            if after.status.final:
                self._told(one)
            if after.status is not ExecutionStatus.RUNNING or one.before.status is ExecutionStatus.RUNNING:
                continue
            begin = accept.get(after.worker_id)
            if begin is not None:
                begun.append((begin, after))
        if len(begun) == 1:
            begin, after = begun[0]
            begin(await self._with_request(after))
            return
        # Those of a long queue are read back, together; who is cut off here finds them by looking (`WorkerProcess`).
        whole = await asyncio.gather(*(self._with_request(after) for _, after in begun))
        for (begin, _), execution in zip(begun, whole, strict=True):
            begin(execution)

    async def _wait(self, again_at: float | None) -> None:
        """Wait until the queue changes, or until time brings something."""
        due_at = await self._store.next_due()
        moments = [at for at in (due_at, again_at) if at is not None]
        left_s = min([LOOK_AGAIN_S, *(max(0.0, at - self._clock.time()) for at in moments)])
        if self._rung is None:
            self._rung = asyncio.ensure_future(self._store.changed("queue", self._seen))
        sleeping: asyncio.Future[Any] = asyncio.ensure_future(self._clock.sleep(left_s))
        try:
            await asyncio.wait((self._rung, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
        if self._rung.done():
            rung, self._rung = self._rung, None
            rung.result()


class _Thrift:
    """Keeps looks of one sort that find nothing to a small share of the time.

    Attributes:
        next_at: not before then, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.next_at = 0.0

    def note(self, now: float, took_s: float, *, fruitless: bool) -> None:
        """Take account of a look."""
        self.next_at = now + took_s / _FRUITLESS_SHARE if fruitless else 0.0
