"""`praxis batch`: many pieces of work that belong together, and the report of what came of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.cli.terminal.untrusted_text import visible
from praxis_sdk.errors import PlatformError, ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.observe.reports import BatchReport
    from praxis_sdk.model import Batch

EXIT_INCOMPLETE: Final = 1
_FIELDS: Final = ("name", "window", "opens", "closes", "priority", "mode", "submissions")
_DEFAULT_LIMIT: Final = 20
_FORMATS: Final = ("json", "markdown", "html")
_SUFFIXES: Final = {
    ".json": "json",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
}

batch = typer.Typer(name="batch", help="Submit work that belongs together, and report what came of it.")


@dataclasses.dataclass(frozen=True)
class BatchFile:
    """A batch as a file describes it.

    Args:
        name: for people.
        works: the pieces.
        opens, closes: the window, as it was written; None: not said.
        priority, mode: of all pieces; None: not said.
    """

    name: str
    works: list[Mapping[str, Any]]
    opens: Any = None
    closes: Any = None
    priority: str | None = None
    mode: str | None = None


@batch.command()
def submit(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON, YAML or lines of JSON; '-' for stdin.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Its name, for people.")] = None,
    opens: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before: +2h, 22:00, or 2026-01-31T22:00.")
    ] = None,
    closes: Annotated[str | None, typer.Option(metavar="TIME", help="All should end before.")] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="NAME", help="critical, high, normal (the default) or low.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Return when all have ended; exit status 1 if not all well.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Submit many pieces of work, all or none, and print the id of the batch."""
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.following import Following

    streams: Streams = context.obj
    logs.configure()
    given = read_batch(file)
    changes: dict[str, Any] = {"name": name, "opens": opens, "closes": closes, "priority": priority}
    given = dataclasses.replace(given, **{key: one for key, one in changes.items() if one is not None})
    following = Following(streams, show=False, quiet=quiet or as_json)

    async def work(control: Control) -> tuple[Batch, BatchReport | None, bool]:
        from praxis_sdk.cli.input import batch_records
        from praxis_sdk.cli.input.submission import window_of

        made = await control.coordinator.submit_batch(
            given.name,
            given.works,
            schedule=window_of(given.opens, given.closes, control.clock.time()),
            priority=given.priority or "normal",
            mode=given.mode,
        )
        if not wait:
            return made, None, await control.served({one["kind"] for one in given.works})
        following.tell(f"submitted {made.id}: {made.size} executions")
        following.on_leaving = f"{made.id} stays: 'praxis batch report {made.id}' says how it stands"
        await batch_records.ended(control, made, following.tell)
        return made, await batch_records.reported(control, made, following.tell), True

    made, report, served = following.perform(store, work)
    well = report is None or _all_well(report)
    status = 0 if well else EXIT_INCOMPLETE
    if as_json:
        document = {"batch": _document(made), "exit_status": status}
        if report is not None:
            document["summary"] = dataclasses.asdict(report.summary)
        streams.emit_json(document)
    else:
        streams.emit_lines([made.id])
        if report is not None:
            counts = ", ".join(f"{count} {status}" for status, count in report.summary.by_status.items())
            following.tell(f"{counts}; 'praxis batch report {made.id}' says more", "good" if well else "bad")
    if not served and not (quiet or as_json):
        streams.say("no worker takes such work now: 'praxis worker' runs one", "doubt")
    return status


@batch.command()
def report(
    context: typer.Context,
    batch_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, enough of one end of it, or its name.")
    ],
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="json, markdown (the default) or html.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")
    ] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Report what came of a batch, as far as it has come."""
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    chosen = _format(form, output, as_json=as_json)

    def say(line: str) -> None:
        if not quiet:
            streams.say(line)

    async def work(control: Control) -> BatchReport:
        from praxis_sdk.cli.input import batch_records

        found = await batch_records.named_batch(control.store, batch_id)
        return await batch_records.reported(control, found, say)

    made = ask(store, work)
    text = _written(made, chosen)
    if output is None:
        if chosen == "json":
            streams.emit_json(made.to_json())
        else:
            streams.emit(visible(text) if os.isatty(streams.result_fd) else text)
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PlatformError(
            f"-o: {str(output)[:200]}: {error.strerror}", remedy="name a file that can be written"
        ) from error
    say(f"wrote {output}")
    return 0


@batch.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=10_000, help="Show so many at most.")
    ] = _DEFAULT_LIMIT,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """List the batches, the youngest first."""
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.input.moments import write_moment
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()

    async def found(control: Control) -> list[Batch]:
        return await control.store.batches(limit=limit)

    batches = ask(store, found)
    if as_json:
        streams.emit_json({"batches": [_document(one) for one in batches]})
        return 0
    if not batches:
        streams.emit_lines(["no batch yet; 'praxis batch submit FILE' submits one"])
        return 0
    rows = [
        (
            one.id,
            one.name or "-",
            str(one.size),
            write_moment(one.created_at),
            write_moment(one.opens_at),
            write_moment(one.closes_at),
        )
        for one in batches
    ]
    columns = ("batch", "name", "executions", "submitted (UTC)", "opens", "closes")
    streams.emit(render(streams, columns, rows))
    return 0


def read_batch(file: str) -> BatchFile:
    """Read a batch: an object with `submissions`, a list of them, or one per line.

    Raises:
        ValidationError: it cannot be read, or a field is not acceptable.
    """
    from praxis_sdk.cli.input.documents import STDIN, folder_of, read_document
    from praxis_sdk.cli.input.submission import works_of

    document = read_document(file)
    name = "" if file == STDIN else Path(file).stem
    if isinstance(document, list):
        return BatchFile(name, works_of(document, folder_of(file)))
    if not isinstance(document, Mapping):
        raise ValidationError("FILE: holds no batch", remedy="write an object with 'submissions', or a list")
    for field in document:
        if field not in _FIELDS:
            raise ValidationError(
                f"{field}: not a field of a batch", remedy=f"known are {', '.join(_FIELDS)}"
            )
    submissions = document.get("submissions")
    if not isinstance(submissions, list):
        raise ValidationError("submissions: missing or no list", remedy="list the pieces of work")
    window = document.get("window") or {}
    if not isinstance(window, Mapping) or set(window) - {"opens", "closes"}:
        raise ValidationError(
            "window: is no window", remedy="write {opens: TIME, closes: TIME}, either may be left out"
        )
    texts = {name: document.get(name) for name in ("name", "priority", "mode")}
    for field, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ValidationError(f"{field}: {value!r} is no text", remedy="write it in quotes")
    return BatchFile(
        name=texts["name"] or name,
        works=works_of(submissions, folder_of(file)),
        opens=window.get("opens", document.get("opens")),
        closes=window.get("closes", document.get("closes")),
        priority=texts["priority"],
        mode=texts["mode"],
    )


def _format(form: str | None, output: Path | None, *, as_json: bool) -> str:
    if as_json:
        return "json"
    if form is None:
        return "markdown" if output is None else _SUFFIXES.get(output.suffix.lower(), "markdown")
    if form.lower() not in _FORMATS:
        raise ValidationError(
            f"--format: there is no '{form[:32]}'", remedy=f"choose from {', '.join(_FORMATS)}"
        )
    return form.lower()


def _written(report: BatchReport, form: str) -> str:
    import json

    from praxis_sdk.control.observe.report_page import to_html
    from praxis_sdk.control.observe.reports import to_markdown

    if form == "json":
        return json.dumps(report.to_json(), indent=2, default=str) + "\n"
    return to_html(report) if form == "html" else to_markdown(report)


def _all_well(report: BatchReport) -> bool:
    return report.complete and all(entry.status.succeeded for entry in report.entries)


def _document(batch: Batch) -> dict[str, Any]:
    from praxis_sdk.control.lifecycle.info import iso

    return {
        "id": batch.id,
        "name": batch.name,
        "size": batch.size,
        "created_at": iso(batch.created_at),
        "opens_at": iso(batch.opens_at),
        "closes_at": iso(batch.closes_at),
    }
