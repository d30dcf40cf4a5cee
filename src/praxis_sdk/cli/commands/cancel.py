"""`praxis cancel` and `praxis retry`: the end of an execution, and the same again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.model import Execution

_LOOK_S: Final = 2.0  # a worker that was killed rings no bell


def cancel(
    context: typer.Context,
    execution_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Their ids, or enough of one end of each.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when they have ended.")] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """End executions, with all that they submitted: at once where they wait, else by their workers.

    Exit status 0 also where one had ended before, which is told.
    """
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()

    async def work(control: Control) -> list[dict[str, Any]]:
        from praxis_sdk.cli.input.execution_ids import named

        # All names are looked up first: a wrong one must not leave half of them cancelled.
        found = [await named(control.store, text) for text in dict.fromkeys(execution_ids)]
        return [await _cancel(control, one, reason, wait=wait) for one in found]

    ended = ask(store, work)
    if as_json:
        streams.emit_json({"executions": ended})
        return 0
    for one in ended:
        words = "is being cancelled by its worker" if one["status"] == "cancelling" else one["status"]
        before = "" if one["asked"] else " (it had ended before)"
        streams.emit_lines([f"{one['id']} {words}{before}"])
    return 0


async def _cancel(control: Control, execution: Execution, reason: str, *, wait: bool) -> dict[str, Any]:
    asked = await control.coordinator.cancel_execution(execution.id, reason, actor="command line")
    if wait:
        now = await _ended(control, execution.id)
    else:
        now = await control.store.get(execution.id)
    return {"id": now.id, "status": str(now.status), "asked": asked}


async def _ended(control: Control, execution_id: str) -> Execution:
    """Wait for the end of an execution, also where its worker dies meanwhile and nobody else would notice."""
    import asyncio

    waiting = asyncio.ensure_future(control.coordinator.wait(execution_id))
    try:
        while not (await asyncio.wait([waiting], timeout=_LOOK_S))[0]:
            await control.bury()
        return waiting.result()
    finally:
        waiting.cancel()


def retry(
    context: typer.Context,
    execution_id: Annotated[str, typer.Argument(metavar="ID", help="Of an execution that has ended.")],
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow it to its end; its exit status is this command's.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Submit an execution that has ended again, as a new one; prints the new id."""
    from praxis_sdk.cli.commands.submit import report
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.following import Following

    streams: Streams = context.obj
    logs.configure()
    following = Following(streams, show=not as_json, quiet=quiet)

    async def work(control: Control) -> tuple[Execution, bool]:
        from praxis_sdk.cli.input.execution_ids import named

        old = await named(control.store, execution_id)
        new = await control.coordinator.retry_execution(old.id, actor="command line")
        if not wait:
            return await control.store.get(new), await control.served([old.kind])
        if not as_json:
            following.tell(f"submitted {new}")
        return await following.follow(control, new, old.kind), True

    execution, served = following.perform(store, work)
    return report(streams, execution, wait=wait, served=served, as_json=as_json, quiet=quiet)
