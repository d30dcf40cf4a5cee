"""`praxis schedule`: work that is submitted again and again, by cron expressions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.lifecycle.schedules import Schedules
    from praxis_sdk.model import CronSchedule

T = TypeVar("T")

schedule = typer.Typer(name="schedule", help="Have work submitted again and again.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the schedule.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@schedule.command()
def add(
    context: typer.Context,
    name: _Name,
    cron: Annotated[
        str, typer.Argument(metavar="CRON", help="Five fields, six with seconds first, or @daily, @hourly...")
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A submission, JSON or YAML; '-' for stdin.")],
    timezone: Annotated[
        str, typer.Option("--timezone", "-z", metavar="ZONE", help="Where CRON counts: Europe/Berlin.")
    ] = "UTC",
    priority: Annotated[
        str | None, typer.Option(metavar="NAME", help="critical, high, normal (the default) or low.")
    ] = None,
    store: StoreOption = None,
    as_json: _Json = False,
) -> int:
    """Add a schedule, or replace the one of this name. A worker must run when it is due, or later."""
    from praxis_sdk.cli.input.documents import folder_of, read_object
    from praxis_sdk.cli.input.moments import write_moment
    from praxis_sdk.cli.input.submission import submission_of
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    submission = submission_of(read_object(file), folder_of(file)).but(priority=priority)
    for field in ("opens", "closes", "idempotency_key"):
        if getattr(submission, field) is not None:
            raise ValidationError(f"{field}: has no meaning in a schedule", remedy="leave it out")

    async def work(schedules: Schedules) -> CronSchedule:
        return await schedules.add(
            name,
            cron,
            submission.work,
            timezone=timezone,
            priority=submission.priority or "normal",
            mode=submission.mode,
        )

    added = _ask(store, work)
    if as_json:
        streams.emit_json({"schedule": _document(added)})
    else:
        streams.emit_lines([f"{added.id}: next at {write_moment(added.next_at)} UTC"])
    return 0


@schedule.command("list")
def list_(context: typer.Context, store: StoreOption = None, as_json: _Json = False) -> int:
    """List the schedules: when each is due, and what it submitted last."""
    from praxis_sdk.cli.input.moments import write_moment
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()

    async def work(schedules: Schedules) -> list[CronSchedule]:
        return await schedules.list()

    found = _ask(store, work)
    if as_json:
        streams.emit_json({"schedules": [_document(one) for one in found]})
        return 0
    if not found:
        streams.emit_lines(["no schedule yet; 'praxis schedule add NAME CRON FILE' adds one"])
        return 0
    rows = [
        (
            one.id,
            one.cron,
            one.timezone,
            str(one.work.get("work", {}).get("kind", "-")),
            "paused" if one.paused else write_moment(one.next_at),
            write_moment(one.last_at),
            one.last_execution_id or "-",
        )
        for one in found
    ]
    columns = ("schedule", "cron", "zone", "kind", "next (UTC)", "last (UTC)", "last execution")
    streams.emit(render(streams, columns, rows))
    return 0


@schedule.command()
def remove(context: typer.Context, name: _Name, store: StoreOption = None, as_json: _Json = False) -> int:
    """Remove a schedule; what it has submitted stays."""
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()

    async def work(schedules: Schedules) -> None:
        await schedules.remove(name)

    _ask(store, work)
    if as_json:
        streams.emit_json({"removed": name})
    else:
        streams.emit_lines([f"removed {name}"])
    return 0


def _ask(store: str | None, question: Callable[[Schedules], Coroutine[Any, Any, T]]) -> T:
    from praxis_sdk.cli.control_plane import ask

    async def asked(control: Control) -> T:
        from praxis_sdk.control.lifecycle.schedules import Schedules

        return await question(Schedules(control.store, control.coordinator, control.clock))

    return ask(store, asked)


def _document(one: CronSchedule) -> dict[str, Any]:
    from praxis_sdk.control.lifecycle.info import iso

    return {
        "name": one.id,
        "cron": one.cron,
        "timezone": one.timezone,
        "submission": one.work,
        "next_at": iso(one.next_at),
        "last_at": iso(one.last_at),
        "last_execution": one.last_execution_id,
        "created_at": iso(one.created_at),
        "paused": one.paused,
    }
