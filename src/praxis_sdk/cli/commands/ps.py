"""`praxis ps`: the executions of a store, the youngest first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.model import Execution
    from praxis_sdk.states import ExecutionStatus

_DEFAULT_LIMIT: Final = 20
_COLUMNS: Final = (
    "execution",
    "status",
    "priority",
    "work",
    "age",
    "elapsed",
    "progress",
    "worker",
    "flags",
)


def ps(
    context: typer.Context,
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Show those that have ended, too.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=100_000, help="Show so many at most.")
    ] = _DEFAULT_LIMIT,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "-s", metavar="STATUS", help="Those that stand so; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="Those with this label; repeatable."),
    ] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Those of this kind.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="Those of this batch.")] = None,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="Those that somebody should look at, ended or not.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """List the executions that wait or run, the youngest first."""
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.input.given import read_pairs
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()
    labels = read_pairs(label or (), "--label")
    statuses = _statuses(status or [], ended=show_all or flagged)

    async def found(control: Control) -> tuple[list[Execution], float]:
        from praxis_sdk.store import ExecutionFilter

        batch_id = None
        if batch is not None:
            from praxis_sdk.cli.input.batch_records import named_batch

            batch_id = (await named_batch(control.store, batch)).id
        wanted = ExecutionFilter(
            statuses=statuses,
            labels=labels or None,
            kind=kind,
            batch_id=batch_id,
            flagged=True if flagged else None,
        )
        return await control.store.find(wanted, limit=limit + 1), control.clock.time()

    executions, now = ask(store, found)
    shown, more = executions[:limit], len(executions) > limit
    if as_json:
        streams.emit_json({"executions": [_brief(one, now) for one in shown], "more": more})
        return 0
    if not shown:
        other = (
            "'praxis ps --all' shows those that ended" if not show_all and not status and not flagged else ""
        )
        streams.emit_lines([f"no such execution{f'; {other}' if other else ''}"])
        return 0
    rows = [_row(one, now) for one in shown]
    columns: Sequence[str] = _COLUMNS
    if os.isatty(streams.result_fd):  # there is little room for columns that hold nothing
        kept = [place for place in range(len(columns)) if any(row[place] != "-" for row in rows)]
        columns = [columns[place] for place in kept]
        rows = [tuple(row[place] for place in kept) for row in rows]
    streams.emit(render(streams, columns, rows))
    if more:
        streams.emit_lines([f"and more (--limit {2 * limit})"])
    return 0


def _row(execution: Execution, now: float) -> tuple[str, ...]:
    from praxis_sdk.cli.input.moments import write_span

    progress = f"{execution.progress:.0%}" if execution.progress or execution.status.succeeded else "-"
    return (
        execution.id,
        str(execution.status),
        str(execution.terms.priority),
        f"{execution.kind} {execution.control}",
        write_span(now - execution.submitted_at),
        write_span(execution.elapsed_s(now)) if execution.started_at is not None else "-",
        progress,
        execution.worker_id or "-",
        ", ".join(execution.flags) or "-",
    )


def _brief(execution: Execution, now: float) -> dict[str, Any]:
    from praxis_sdk.control.lifecycle.info import execution_to_json

    document = execution_to_json(execution, execution.elapsed_s(now))
    del document["outputs"]  # lists are without them; null would say that there are none
    return document


def _statuses(names: list[str], *, ended: bool) -> frozenset[ExecutionStatus]:
    from praxis_sdk.states import ExecutionStatus

    if not names:
        return frozenset() if ended else frozenset(one for one in ExecutionStatus if not one.final)
    try:
        return frozenset(ExecutionStatus(name.lower()) for name in names)
    except ValueError as error:
        known = ", ".join(ExecutionStatus)
        raise ValidationError(f"--status: {error}", remedy=f"choose from {known}") from error
