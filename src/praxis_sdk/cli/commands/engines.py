"""`praxis engines`: which engines work on this host, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.terminal.capabilities import EngineReport

COLUMNS: Final = ("engine", "works", "isolation", "images", "mounts", "limits", "no network")
_FEATURES: Final[Mapping[str, str]] = {
    "images": "containers",
    "mounts": "mounts",
    "limits": "",  # more than a yes or a no
    "no network": "network_isolation",
}


def engines(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show which engines work on this host, what they can do, and why others do not work."""
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()
    reports = ask_engines(streams)
    if as_json:
        streams.emit_json({"engines": [report.to_json() for report in reports]})
        return 0
    streams.emit(render(streams, COLUMNS, engine_rows(reports)))
    streams.emit_lines(["", *enforced(reports), *objections(reports)])
    return 0


def ask_engines(streams: Streams) -> list[EngineReport]:
    """Ask all engines, on an event loop that Ctrl-C ends in order."""
    from praxis_sdk.cli.terminal.capabilities import survey
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly

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
            *(_feature_word(report, feature) for feature in _FEATURES.values()),
        )
        for report in reports
    ]


def enforced(reports: Sequence[EngineReport]) -> Iterator[str]:
    """Say, a line each, which limits the engines enforce, and for what."""
    from praxis_sdk.execution.enforcement import NAMES, Scope

    for report in reports:
        scopes = {scope: [name for name in NAMES if report.limits[name].scope is scope] for scope in Scope}
        if not report.available or len(scopes[Scope.NONE]) == len(NAMES):
            continue
        parts = [
            f"{words} {', '.join(_shown(name, report) for name in scopes[scope])}"
            for scope, words in (
                (Scope.TREE, "limits for all processes together:"),
                (Scope.PROCESS, "for each process by itself:"),
                (Scope.NONE, "not limited:"),
            )
            if scopes[scope]
        ]
        yield f"{report.name}: {'; '.join(parts)}"


def _shown(name: str, report: EngineReport) -> str:
    how = report.limits[name].how
    return name.replace("_", " ") + (f" ({how})" if how else "")


def _feature_word(report: EngineReport, feature: str) -> str:
    if not report.available:
        return "-"
    return yes_no(report.supports(feature)) if feature else _limits_word(report)


def _limits_word(report: EngineReport) -> str:
    """Return 'yes' where memory, processors and processes are limited for a tool's whole tree."""
    from praxis_sdk.execution.enforcement import Scope

    scopes = [report.limits[name].scope for name in ("memory", "cpu", "processes")]
    if all(scope is Scope.TREE for scope in scopes):
        return "yes"
    return "no" if all(scope is Scope.NONE for scope in scopes) else "partly"


def objections(reports: Sequence[EngineReport]) -> Iterator[str]:
    """Say, a line each, why engines do not work and what to do about it."""
    for report in reports:
        if report.available:
            continue
        yield f"{report.name}: {report.reason or 'does not say why'}" + (
            f" ({report.remedy})" if report.remedy else ""
        )


def yes_no(value: bool) -> str:
    """Return the word for a truth."""
    return "yes" if value else "no"
