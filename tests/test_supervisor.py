"""Lasting tasks: whatever ends one, it is started again, and the log says why."""

from __future__ import annotations

import asyncio

from praxis_sdk.supervisor import FIRST_PAUSE_S, LONGEST_PAUSE_S, Supervisor


class Pauses:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.at = 0.0

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)

    def monotonic(self) -> float:
        return self.at


async def test_a_task_that_fails_or_is_cancelled_is_started_again() -> None:
    pauses, runs = Pauses(), 0
    went_on = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("a defect")
        if runs == 2:
            raise asyncio.CancelledError
        went_on.set()
        await asyncio.Event().wait()

    supervisor = Supervisor(pauses.sleep, pauses.monotonic)
    supervisor.start("part", run)
    await went_on.wait()
    assert supervisor.failures["part"] == 2
    assert pauses.taken == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
    await supervisor.stop()
    await supervisor.stop()


async def test_pauses_grow_to_a_limit_and_are_short_again_after_a_steady_time() -> None:
    pauses, runs = Pauses(), 0
    enough = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 10:
            pauses.at += 3600.0
        if runs == 12:
            enough.set()
            await asyncio.Event().wait()
        raise RuntimeError("again")

    supervisor = Supervisor(pauses.sleep, pauses.monotonic)
    supervisor.start("part", run)
    await enough.wait()
    assert pauses.taken[8] == LONGEST_PAUSE_S
    assert pauses.taken[9:] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
    await supervisor.stop()


async def test_a_task_that_returns_is_finished_and_one_that_is_restarted_has_not_failed() -> None:
    begun: list[str] = []
    twice = asyncio.Event()

    async def returns() -> None:
        begun.append("returns")

    async def lasts() -> None:
        begun.append("lasts")
        if begun.count("lasts") == 2:
            twice.set()
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.start("returns", returns)
    await supervisor.finished()
    supervisor.start("lasts", lasts)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    supervisor.restart("lasts")
    await twice.wait()
    assert begun == ["returns", "lasts", "lasts"]
    assert not supervisor.failures
    await supervisor.stop()
