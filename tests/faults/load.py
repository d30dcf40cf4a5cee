"""A load that passes through every commit of the control plane, and says what was acknowledged."""

import asyncio
from collections.abc import Callable
from typing import Any

from praxis_sdk.control.plane import ControlPlane
from praxis_sdk.model import EventType
from praxis_sdk.states import Priority
from tests.faults.acts import TALK, FaultKind

WHOLE = {"cpu_cores": 4.0}
LINES = 4
GATES = ("preempted", "never")
SCHEDULE = "each-second"
BATCH_SIZE = 4
Say = Callable[..., None]


def work(act: str = "return", **request: Any) -> dict[str, Any]:
    """Return a submission of the scripted kind."""
    return {"kind": "scripted", "request": {"act": act, **request}}


# Under its key each may be submitted again and again.
PLAIN = {
    **{f"log-{number}": work("log", lines=LINES) for number in range(6)},
    **{f"flaky-{number}": work("flaky", failures=1, value=number) for number in range(2)},
    "parent": work("children", requests=[{"act": "return"}, {"act": "log", "lines": LINES}]),
}
CANCELLED = work(TALK, gate="never", value="green")
PREEMPTED = {**work("wait", gate="preempted", value="late", needs=WHOLE), "batch": True}
URGENT = work(value="urgent", needs=WHOLE)
ALL = {**PLAIN, "cancelled": CANCELLED, "preempted": PREEMPTED, "urgent": URGENT}


async def run(plane: ControlPlane, kind: FaultKind, say: Say) -> None:
    """Submit everything and see it through."""
    await asyncio.gather(
        _plain(plane, say), _cancelled(plane, say), _preempted(plane, kind, say), _batch(plane, say)
    )
    schedule = await plane.schedules.add(SCHEDULE, "* * * * * *", work(value="scheduled"))
    say(planned=schedule.id)
    await _fired(plane)
    await plane.schedules.remove(SCHEDULE)
    say(removed=SCHEDULE)


async def submit(plane: ControlPlane, key: str, say: Say, **terms: Any) -> str:
    """Submit a piece of the load under its key."""
    execution_id = await plane.coordinator.submit_execution(ALL[key], idempotency_key=key, **terms)
    say(submitted=execution_id, key=key)
    return execution_id


async def _plain(plane: ControlPlane, say: Say) -> None:
    ids = [await submit(plane, key, say) for key in PLAIN]
    await asyncio.gather(*(plane.coordinator.wait(one) for one in ids))


async def _cancelled(plane: ControlPlane, say: Say) -> None:
    execution_id = await submit(plane, "cancelled", say)
    async for _ in plane.coordinator.tail(execution_id, types=frozenset({EventType.LOG})):
        break  # its first line is written while it runs
    await plane.coordinator.cancel_execution(execution_id)
    say(cancelled=execution_id)
    await plane.coordinator.wait(execution_id)


async def _preempted(plane: ControlPlane, kind: FaultKind, say: Say) -> None:
    victim = await submit(plane, "preempted", say, priority=Priority.LOW)
    await kind.begun_one(victim)
    await plane.coordinator.wait(await submit(plane, "urgent", say))
    kind.open("preempted")
    await plane.coordinator.wait(victim)


async def _batch(plane: ControlPlane, say: Say) -> None:
    batch = await plane.coordinator.submit_batch("batch", [work(value=n) for n in range(BATCH_SIZE)])
    say(batch=batch.id)


async def _fired(plane: ControlPlane) -> None:
    """Have the keeper look until the schedule has fired once."""
    seen = 0
    while not (schedule := (await plane.schedules.list())[0]).last_execution_id:
        seen = await plane.keeper._store.changed("queue", seen)
        await plane.schedules.fire_due()
    await plane.coordinator.wait(schedule.last_execution_id)
