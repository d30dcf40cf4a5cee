"""Supervision of one attempt: it runs, and it ends, whatever it does (spec 4, "Container lifecycle").

    flag --cooperative_s--> SIGTERM --terminate_s--> SIGKILL of everything --> proof

The work is a task of the kind's `run`. Its end alone proves nothing: the proof is written where the attempt has
evidence that no process is left (`AttemptHandle.termination`). Where it has none, what is known is written in its
place. As long as `run` has not ended, its room is not given to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import AttemptHandle, Grace
from praxis_sdk.control.workers.event_writer import AttemptBuffer
from praxis_sdk.log import get_logger
from praxis_sdk.model import EventType, Execution, Level, NewEvent
from praxis_sdk.termination import Remains, Termination

LEASE_LOST: Final = "lease_lost"  # why an attempt is stopped whose worker may not hold it any longer
KILL_BOUND_S: Final = 10.0  # a kill that takes longer is told, and waited for further

events = get_logger("praxis.control")


@dataclass(frozen=True, slots=True)
class SupervisedEnd:
    """How an attempt's work ended.

    Args:
        ending: what the kind's `run` returned.
        error: what it raised.
        forced: by what it was ended; empty: by itself.
        timed_out: its wall-clock time was used up.
        proof: the event that proves that it is gone, where it was made to end; or, without evidence, the event that
            says what is known.
        remains: what may still run of it and has to be pursued; None: nothing.
    """

    ending: Any = None
    error: BaseException | None = None
    forced: str = ""
    timed_out: bool = False
    proof: tuple[NewEvent, ...] = ()
    remains: Remains | None = None


@dataclass(eq=False)
class RunningAttempt:
    """An attempt in the hands of a worker.

    Args:
        execution: what runs.
        handle: what the work holds.
        notebook: what it told.
        began: when, on the monotonic clock.
        stop: why it shall end, once somebody wants that.
        within_s: how long it is given at most from then on before it is killed, in seconds; None: as its kind says.
        overdue: it is stopped since its worker may not hold it any longer.
        ended: its work has ended, and is being reported.
    """

    execution: Execution
    handle: AttemptHandle
    notebook: AttemptBuffer
    began: float
    stop: str | None = None
    alerted: bool = False
    within_s: float | None = None
    overdue: bool = False
    ended: bool = False
    stopping: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    hurrying: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, reason: str, *, within_s: float | None = None) -> None:
        """Ask for its end; the first reason counts, but a cancellation goes before all others.

        Args:
            reason: why.
            within_s: how long it is given at most, in seconds; one that is being stopped already is killed at once.
        """
        if self.stop is None or reason == "cancel":
            self.stop = reason
        if not self.stopping.done():
            self.within_s = within_s
            self.stopping.set_result(None)
        elif within_s is not None and not self.hurrying.done():
            self.hurrying.set_result(None)


async def supervise(
    held: RunningAttempt, work: asyncio.Task[Any], grace: Grace, clock: Clock
) -> SupervisedEnd:
    """Wait for the end of an attempt, and bring it about where it is wanted or overdue.

    Args:
        held: the attempt.
        work: its work.
        grace: how long each means is given.
        clock: the time.

    Returns:
        How it ended. Cancelling this call kills the work, too, and waits for that.
    """
    limit_s = held.execution.terms.timeout_s
    try:
        if limit_s is None:
            await asyncio.wait((work, held.stopping), return_when=asyncio.FIRST_COMPLETED)
        else:
            await _first(clock, limit_s, work, held.stopping)
        if work.done():
            ended, remains = _by_itself(work), held.handle.termination.pursued
            return ended if remains is None else replace(ended, remains=remains)
        timed_out = not held.stopping.done()
        return await _made_to_end(held, work, grace, clock, timed_out=timed_out)
    except asyncio.CancelledError:
        await _killed(held, work, clock)
        raise


async def _made_to_end(
    held: RunningAttempt, work: asyncio.Task[Any], grace: Grace, clock: Clock, *, timed_out: bool
) -> SupervisedEnd:
    began = clock.monotonic()
    if held.within_s is not None:
        grace = grace.within(held.within_s)
    held.handle.cancelled.set()
    means = "flag"
    if grace.cooperative_s:
        await _first(clock, grace.cooperative_s, work, held.hurrying)
    if not work.done():
        held.handle.terminated.set()
        if grace.terminate_s:
            means = "SIGTERM"
            await _first(clock, grace.terminate_s, work, held.hurrying)
    if not work.done():
        means = "SIGKILL"
        await _killed(held, work, clock)
    after_s = clock.monotonic() - began
    reason = "timeout" if timed_out else held.stop
    data = {"means": means, "after_s": round(after_s, 6), "reason": reason}
    termination = held.handle.termination
    told = account_of(termination, f"ended by {means} after {after_s:.3f} s", data)
    ended = _by_itself(work)
    return SupervisedEnd(ended.ending, ended.error, means, timed_out, (told,), termination.pursued)


def account_of(termination: Termination, deed: str, data: Mapping[str, Any]) -> NewEvent:
    """Return the proof of termination where there is evidence, else an account of what is known.

    Args:
        termination: what is known.
        deed: what was done, for people.
        data: the same for programs.
    """
    if termination.confirmed:
        message = f"{deed}; nothing of it is left: {termination.evidence}"
        return NewEvent(
            EventType.PROOF, message, {**data, "evidence": termination.evidence}, component="supervision"
        )
    message = f"{deed}, not confirmed: {termination.known}"
    return NewEvent(
        EventType.ACTION, message, {**data, "known": termination.known}, Level.WARN, component="supervision"
    )


async def _killed(held: RunningAttempt, work: asyncio.Task[Any], clock: Clock) -> None:
    """Kill an attempt and wait until it is dead, however long that takes."""
    while not work.done():
        work.cancel()
        await _first(clock, KILL_BOUND_S, work)
        if not work.done():
            events.error("attempt.not_dead_yet", execution_id=held.execution.id, after_s=KILL_BOUND_S)
            message = f"killed, and not proven dead within {KILL_BOUND_S:g} s; its room stays taken"
            held.handle.log(message, level=Level.ERROR, component="supervision")


async def _first(clock: Clock, seconds: float, *wanted: asyncio.Future[Any]) -> None:
    """Return when one of the futures is done, or so much time has passed."""
    sleeping = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((*wanted, sleeping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()


def _by_itself(work: asyncio.Task[Any]) -> SupervisedEnd:
    if work.cancelled():
        return SupervisedEnd(error=asyncio.CancelledError())
    error = work.exception()
    return SupervisedEnd(work.result()) if error is None else SupervisedEnd(error=error)
