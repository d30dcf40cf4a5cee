"""`praxis audit`: whether what is kept of executions is what was written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.model import Execution

EXIT_ALTERED: Final = 1
TELL_EVERY: Final = 5000  # executions
_PAGE: Final = 1000

audit = typer.Typer(name="audit", help="Check the audit trail of executions.")


@audit.callback()
def _audit() -> None:
    """Check the audit trail of executions."""


@dataclass(frozen=True)
class Finding:
    """An execution whose audit trail was altered.

    Args:
        execution_id: of it.
        problem: what is wrong, in one line.
    """

    execution_id: str
    problem: str


@audit.command()
def verify(
    context: typer.Context,
    execution_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One execution; unless given, all of them.")
    ] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Recompute the chain of hashes over the audit entries. Exit status 1 where one does not hold.

    It tells whether entries, or the request, the status and what came of it, were altered or removed in the
    store; who can write all of the store can also write a new chain, or remove an execution with all that is
    kept of it, so keep the last hash ('chain' of 'praxis show --json') elsewhere.
    """
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.control.observe.monitor import ExecutionMonitor

    streams: Streams = context.obj
    logs.configure()

    async def work(control: Control) -> tuple[int, list[Finding]]:
        monitor = ExecutionMonitor(control.store, control.clock)
        checked, findings = 0, []
        async for execution in _wanted(control, execution_id):
            problem = await monitor.verify_audit(execution.id)
            if problem:
                findings.append(Finding(execution.id, problem))
            checked += 1
            if checked % TELL_EVERY == 0 and not (quiet or as_json):
                streams.say(f"checked {checked} executions")
        return checked, findings

    checked, findings = ask(store, work)
    status = EXIT_ALTERED if findings else 0
    if as_json:
        document = {
            "intact": not findings,
            "checked": checked,
            "findings": [{"execution": one.execution_id, "problem": one.problem} for one in findings],
            "exit_status": status,
        }
        streams.emit_json(document)
        return status
    streams.emit_lines(f"{one.execution_id}: {one.problem}" for one in findings)
    count = f"{checked} audit trail{'' if checked == 1 else 's'} checked"
    streams.emit_lines([f"{count}: {f'{len(findings)} altered' if findings else 'all intact'}"])
    return status


async def _wanted(control: Control, execution_id: str | None) -> AsyncIterator[Execution]:
    from praxis_sdk.cli.input.execution_ids import named
    from praxis_sdk.store import ExecutionFilter

    if execution_id is not None:
        yield await named(control.store, execution_id)
        return
    before: str | None = None
    while page := await control.store.find(ExecutionFilter(), limit=_PAGE, before=before):
        for execution in page:
            yield execution
        before = page[-1].id
