"""`praxis engines`: which engines work on this host, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from praxis_sdk.cli.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.capabilities import EngineReport

COLUMNS: Final = ("engine", "works", "isolation", "images", "mounts", "limits", "no network")
_FEATURES: Final[Mapping[str, str]] = {
    "images": "containers",
    "mounts": "mounts",
    "limits": "resource_limits",
    "no network": "network_isolation",
}


def engines(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show which engines work on this host, what they can do, and why others do not work."""
    from praxis_sdk.cli import logs
    from praxis_sdk.cli.tables import render

    streams: Streams = context.obj
    logs.configure()
    reports = ask_engines(streams)
    if as_json:
        streams.emit_json({"engines": [report.to_json() for report in reports]})
        return 0
    streams.emit(render(streams, COLUMNS, engine_rows(reports)))
    streams.emit_lines(objections(reports))
    return 0


def ask_engines(streams: Streams) -> list[EngineReport]:
    """Ask all engines, on an event loop that Ctrl-C ends in order."""
    from praxis_sdk.cli.capabilities import survey
    from praxis_sdk.cli.interrupts import run_interruptibly

    streams.reserve_stdout()

    async def ask() -> list[EngineReport]:
        from praxis_sdk.execution.engine import builtin_engines

        return await survey(builtin_engines())

    return run_interruptibly(ask(), on_signal=streams.say)


def engine_rows(reports: Sequence[EngineReport]) -> list[tuple[str, ...]]:
    """Return a row per engine, as `COLUMNS` name them."""
    return [
        (
            report.name,
            yes_no(report.available),
            report.isolation or "-",
            *(
                yes_no(report.supports(feature)) if report.available else "-"
                for feature in _FEATURES.values()
            ),
        )
        for report in reports
    ]


def objections(reports: Sequence[EngineReport]) -> Iterator[str]:
    """Say, a line each, why engines do not work and what to do about it."""
    unavailable = [report for report in reports if not report.available]
    if unavailable:
        yield ""
    for report in unavailable:
        yield f"{report.name}: {report.reason or 'does not say why'}" + (
            f" ({report.remedy})" if report.remedy else ""
        )


def yes_no(value: bool) -> str:
    """Return the word for a truth."""
    return "yes" if value else "no"
