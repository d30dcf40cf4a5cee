"""Cron schedules: work that is submitted again and again, kept in the store, so they survive restarts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from praxis_sdk.clock import Clock
from praxis_sdk.control.lifecycle.coordinator import ExecutionCoordinator
from praxis_sdk.control.lifecycle.submission import Submission
from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.log import get_logger
from praxis_sdk.model import CronSchedule
from praxis_sdk.store import Store

# Names for common expressions, as cron has them; `@reboot` has no meaning here.
NAMED: Final[Mapping[str, str]] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

events = get_logger("praxis.control")


class Schedules:
    """The schedules of one installation.

    Args:
        store: where they are kept.
        coordinator: submits their work.
        clock: the time.
    """

    def __init__(self, store: Store, coordinator: ExecutionCoordinator, clock: Clock) -> None:
        self._store = store
        self._coordinator = coordinator
        self._clock = clock

    async def add(
        self,
        schedule_id: str,
        cron: str,
        work: Mapping[str, Any],
        *,
        timezone: str = "UTC",
        priority: str = "normal",
        mode: str | None = None,
    ) -> CronSchedule:
        """Add a schedule, or replace the one of this name.

        Args:
            schedule_id: its name.
            cron: five fields, or six with seconds first.
            work: what is submitted each time, as `Work.of` reads it.
            timezone: where the fields count.

        Raises:
            ValidationError: a field has the wrong form, or the work would be refused.
        """
        if not _ID.fullmatch(schedule_id):
            raise ValidationError(
                f"schedule: {schedule_id[:120]!r} is no name", remedy="use letters, digits, '_', '.', '-'"
            )
        if work.get("id") is not None:
            raise ValidationError("schedule.work.id: each submission has its own", remedy="leave it out")
        now = self._clock.time()
        next_at = next_after(cron, timezone, now)
        await self._coordinator.prepare(
            Submission.of(work), mode, priority
        )  # refused now rather than at night
        schedule = CronSchedule(
            id=schedule_id,
            cron=cron,
            timezone=timezone,
            work={"work": dict(work), "priority": priority, "mode": mode},
            next_at=next_at,
            created_at=now,
        )
        await self._store.put_schedule(schedule)
        return schedule

    async def list(self) -> list[CronSchedule]:
        """Return all schedules by name."""
        return await self._store.schedules()

    async def remove(self, schedule_id: str) -> None:
        """Remove a schedule; what it has submitted stays.

        Raises:
            ValidationError: there is none of this name.
        """
        if not await self._store.remove_schedule(schedule_id):
            raise ValidationError(
                f"schedule: there is no '{schedule_id[:120]}'", remedy="'praxis schedule list' shows them"
            )

    async def fire_due(self) -> float | None:
        """Submit what is due, each once however many processes look; returns when the next is due.

        What was missed while nobody ran is submitted once, not once for each time.
        """
        soonest: float | None = None
        for schedule in await self._store.schedules():
            next_at = schedule.next_at
            if schedule.paused or next_at is None:
                continue
            if next_at <= self._clock.time():
                next_at = await self._fire(schedule)
            if next_at is not None:
                soonest = next_at if soonest is None else min(soonest, next_at)
        return soonest

    async def _fire(self, schedule: CronSchedule) -> float | None:
        now = self._clock.time()
        next_at = next_after(schedule.cron, schedule.timezone, now)
        try:
            execution = await self._coordinator.prepare(
                Submission.of(schedule.work["work"]),
                schedule.work.get("mode"),
                schedule.work.get("priority", "normal"),
                schedule_id=schedule.id,
                idempotency_key=f"schedule:{schedule.id}:{schedule.next_at}",
            )
        except ValidationError as error:  # what was acceptable once need not be so for ever
            events.error("schedule.refused", schedule=schedule.id, detail=str(error))
            return next_at
        after = CronSchedule(
            id=schedule.id,
            cron=schedule.cron,
            timezone=schedule.timezone,
            work=schedule.work,
            next_at=next_at,
            created_at=schedule.created_at,
            last_at=now,
            last_execution_id=execution.id,
            paused=schedule.paused,
        )
        try:
            if await self._store.fire(schedule, after, execution):
                events.info("schedule.fired", schedule=schedule.id, execution_id=execution.id)
        except PraxisError as error:
            events.warning("schedule.not_fired", schedule=schedule.id, detail=str(error))
        return next_at


def next_after(cron: str, timezone: str, at: float) -> float | None:
    """Return when a cron expression is next due.

    Args:
        cron: five fields, six with seconds first, or a name such as '@daily'.
        timezone: where they count; also through changes of summer time.
        at: seconds since 1970; the answer is later.

    Returns:
        Seconds since 1970; None where it is never due again.

    Raises:
        ValidationError: one of them has the wrong form.
    """
    from cronsim import CronSim, CronSimError

    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValidationError(
            f"schedule.timezone: there is no '{timezone[:64]}'", remedy="write for example 'Europe/Berlin'"
        ) from error
    try:
        moments = CronSim(
            NAMED.get(cron.strip().lower(), cron), datetime.fromtimestamp(at, UTC).astimezone(zone)
        )
    except CronSimError as error:
        raise ValidationError(
            f"schedule.cron: '{cron[:64]}' is not a cron expression: {error}",
            remedy=f"write for example '0 3 * * *', or one of {', '.join(NAMED)}",
        ) from error
    found = next(moments, None)
    return None if found is None else found.timestamp()
