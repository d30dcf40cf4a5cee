"""`praxis logs`: what an execution wrote, and what happened to it, also as it happens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.cli.terminal.following import Following
    from praxis_sdk.control.observe.lines import Line
    from praxis_sdk.model import Event, EventType


def logs(
    context: typer.Context,
    execution_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, or so much of one end that only one fits.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until it ends; run it where no worker does.")
    ] = False,
    after: Annotated[
        int, typer.Option("--after", metavar="SEQ", min=-1, help="Begin after this sequence number.")
    ] = -1,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="TYPE,...", help="Show such events, one per line: log, status, ... or all."
        ),
    ] = None,
    store: StoreOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per event and line.")
    ] = False,
) -> int:
    """Show what an execution wrote: its stdout on stdout, its stderr on stderr.

    Its bytes are passed on as they were written. With --type, events of any type are shown, with their sequence
    numbers and times, and output line by line. With --json each is an object on a line of its own. Ctrl-C ends the
    following, not the execution.
    """
    from praxis_sdk.cli.terminal import logging
    from praxis_sdk.cli.terminal.following import Following

    streams: Streams = context.obj
    logging.configure()
    chosen = _types(types or [])
    following = Following(streams, show=False, quiet=as_json)
    form = "json" if as_json else "lines" if types else "output"

    async def work(control: Control) -> None:
        from praxis_sdk.cli.input.execution_ids import named
        from praxis_sdk.cli.own_worker import OwnWorker

        execution = await named(control.store, execution_id)
        if not follow or execution.status.final:
            await _pass_on(control, following, execution.id, after, chosen, form, follow=False)
            return
        following.followed = execution.id
        own = OwnWorker(control, [execution.kind], following.tell)
        try:
            async with own:
                await _pass_on(control, following, execution.id, after, chosen, form, follow=True)
                following.followed = ""
        finally:
            following.gave_back = own.was_needed

    following.perform(store, work)
    return 0


async def _pass_on(
    control: Control,
    following: Following,
    execution_id: str,
    after: int,
    types: frozenset[EventType],
    form: str,
    *,
    follow: bool,
) -> None:
    from praxis_sdk.control.observe.lines import lines_of

    events = control.coordinator.tail(execution_id, after=after, types=types, follow=follow)
    if form == "output":
        async for event in events:
            following.pass_on(event)
            await following.written(event)
    else:
        async for line in lines_of(events):
            following.write(json.dumps(_document(line)) if form == "json" else _line(line.event))
            await following.written(line.event)
    await following.written()


def _types(words: list[str]) -> frozenset[EventType]:
    from praxis_sdk.model import EventType

    names = [name.strip().lower() for word in words for name in word.split(",")]
    if not names:
        return frozenset({EventType.LOG})
    if names == ["all"]:
        return frozenset()
    for name in names:
        if name not in list(EventType):
            raise ValidationError(
                f"--type: {name!r} is not a type of event",
                remedy=f"choose from all, {', '.join(EventType)}",
            )
    return frozenset(map(EventType, names))


def _line(event: Event) -> str:
    from praxis_sdk.cli.terminal.untrusted_text import one_line
    from praxis_sdk.control.lifecycle.info import moment

    when = moment(event.at).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    where = event.data.get("stream") or event.component
    reason = event.data.get("reason")
    text = event.message if not reason else f"{event.message}: {reason}"
    return one_line(f"{event.seq:>5}  {when}  {event.type:<11}  {where}  {text}")


def _document(line: Line) -> dict[str, Any]:
    from praxis_sdk.control.lifecycle.info import iso

    event = line.event
    return {
        "execution": event.execution_id,
        "seq": event.seq,
        "index": line.index,
        "at": iso(event.at),
        "type": str(event.type),
        "level": str(event.level),
        "component": event.component,
        "message": event.message,
        "data": dict(event.data),
        "hash": event.hash or None,
    }
