"""`praxis artifact`: read what jobs left behind, and remove what nothing refers to any more."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from praxis_sdk.cli.terminal.streams import Streams, lost_output, write_fully
from praxis_sdk.units import format_bytes

if TYPE_CHECKING:
    from praxis_sdk.jobs.artifacts import ArtifactStore

artifact = typer.Typer(name="artifact", help="Read what jobs left behind, and clear what nobody needs.")

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@artifact.command()
def get(
    context: typer.Context,
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:..., as results name it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; stdout by default.")
    ] = None,
) -> int:
    """Copy an artifact, verified. A damaged one is an error, and FILE is then left as it was."""
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.delivery import deliver_one
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly
    from praxis_sdk.jobs.artifacts.digest import check_digest

    streams: Streams = context.obj
    logs.configure()
    check_digest(digest)
    store = Home.of_user().artifacts()
    streams.reserve_stdout()
    if output is None:
        run_interruptibly(_show(streams, store, digest), on_signal=streams.say)
        return 0
    size_bytes = run_interruptibly(deliver_one(store, digest, output), on_signal=streams.say)
    streams.say(f"wrote {output} ({format_bytes(size_bytes)})")
    return 0


@artifact.command()
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: _Json = False,
) -> int:
    """Remove artifacts older than a day that no kept job names."""
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly
    from praxis_sdk.jobs.artifacts import sweep

    streams: Streams = context.obj
    logs.configure()
    streams.reserve_stdout()
    home = Home.of_user()
    references = home.results()
    done = run_interruptibly(sweep(home.artifacts(), references, dry_run=dry_run), on_signal=streams.say)
    if as_json:
        streams.emit_json(
            {
                "removed": list(done.removed),
                "removed_bytes": done.removed_bytes,
                "kept_young": done.kept_young,
                "kept_referenced": done.kept_referenced,
                "dry_run": done.dry_run,
            }
        )
        return 0
    verb = "would be removed" if done.dry_run else "removed"
    why_kept = (
        f"{done.kept_referenced} kept because a job names them, {done.kept_young} because they are young"
    )
    count = f"{len(done.removed)} {verb} ({format_bytes(done.removed_bytes)})"
    streams.emit_lines([*done.removed, f"{count}, {why_kept}"])
    return 0


async def _show(streams: Streams, store: ArtifactStore, digest: str) -> None:
    """Write an artifact to stdout: its bytes, or on a terminal what may be shown there."""
    from praxis_sdk.cli.terminal.untrusted_text import TerminalFilter

    shown = TerminalFilter(sys.stdout.encoding or "utf-8") if os.isatty(streams.result_fd) else None
    async with contextlib.aclosing(store.stream(digest)) as chunks:
        async for chunk in chunks:
            try:
                write_fully(streams.result_fd, shown.feed(chunk) if shown else chunk)
            except OSError as error:
                raise lost_output(error, "stdout") from error
