"""`praxis db`: the schema of the store, and bringing it up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from praxis_sdk.cli.chosen_store import ChosenStore, StoreOption
from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control

EXIT_OUTDATED = 1

db = typer.Typer(name="db", help="Look after the store that executions are kept in.")

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@db.command()
def status(context: typer.Context, store: StoreOption = None, as_json: _Json = False) -> int:
    """Say which store is used, and whether this Praxis works with it. Exit status 1 where it does not."""
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly

    streams: Streams = context.obj
    logs.configure()
    chosen = ChosenStore.of_user(store)
    version, needed = run_interruptibly(chosen.versions(), on_signal=lambda _: None)
    fits = version in (None, needed)  # an empty one gets its tables when it is first used
    exit_status = 0 if fits else EXIT_OUTDATED
    if as_json:
        document = _document(chosen, version, needed)
        streams.emit_json({**document, "usable": fits, "exit_status": exit_status})
        return exit_status
    streams.emit_lines([f"store   {chosen.label}"])
    if version is None:
        streams.emit_lines(["schema  none yet; the first use makes it"])
    elif fits:
        streams.emit_lines([f"schema  {version}, which is what this Praxis works with"])
    else:
        remedy = "'praxis db upgrade' brings it up to date" if version < needed else "use the newer Praxis"
        streams.emit_lines([f"schema  {version}, and this Praxis works with {needed}: {remedy}"])
    return exit_status


@db.command()
def upgrade(context: typer.Context, store: StoreOption = None, as_json: _Json = False) -> int:
    """Bring the store's schema up to date; stop whatever uses the store before."""
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly

    streams: Streams = context.obj
    logs.configure()
    chosen = ChosenStore.of_user(store)

    async def work() -> tuple[int | None, int]:
        if chosen.embedded:
            chosen.home.make_writable()
        before, needed = await chosen.versions()
        opened = await chosen.open(upgrade=True)
        await opened.close()
        return before, needed

    before, needed = run_interruptibly(work(), on_signal=lambda _: streams.say("ends after this step"))
    if as_json:
        streams.emit_json({**_document(chosen, needed, needed), "before": before})
    elif before == needed:
        streams.emit_lines([f"{chosen.label} has schema {needed} already"])
    else:
        streams.emit_lines([f"{chosen.label} has schema {needed} now"])
    return 0


@db.command()
def retention(
    context: typer.Context,
    days: Annotated[
        float | None,
        typer.Option(metavar="N", help="Keep executions for N days after their end; 90 or more."),
    ] = None,
    log_days: Annotated[
        float | None, typer.Option(metavar="N", help="Keep their log lines and progress for N days.")
    ] = None,
    store: StoreOption = None,
    as_json: _Json = False,
) -> int:
    """Show, or with options change, for how long is kept what happened; workers remove what is older."""
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.control.lifecycle.retention import Retention, retention_of, set_retention

    streams: Streams = context.obj
    logs.configure()

    async def work(control: Control) -> Retention:
        kept = await retention_of(control.store)
        if days is None and log_days is None:
            return kept
        whole_days = kept.audit_days if days is None else days
        wanted = Retention(whole_days, min(kept.noise_days, whole_days) if log_days is None else log_days)
        await set_retention(control.store, wanted)
        return wanted

    kept = ask(store, work)
    if as_json:
        streams.emit_json({"days": kept.audit_days, "log_days": kept.noise_days})
    else:
        streams.emit_lines(
            [f"executions  {kept.audit_days:g} days after their end", f"log lines   {kept.noise_days:g} days"]
        )
    return 0


def _document(chosen: ChosenStore, version: int | None, needed: int) -> dict[str, Any]:
    return {
        "store": chosen.label,
        "sort": "sqlite" if chosen.embedded else "postgresql",
        "schema": version,
        "needed": needed,
    }
