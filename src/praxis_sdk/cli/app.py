"""The list of commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from praxis_sdk import __version__
from praxis_sdk.cli.commands.artifact import artifact
from praxis_sdk.cli.commands.audit import audit
from praxis_sdk.cli.commands.batch import batch
from praxis_sdk.cli.commands.cancel import cancel, retry
from praxis_sdk.cli.commands.db import db
from praxis_sdk.cli.commands.doctor import doctor
from praxis_sdk.cli.commands.engines import engines
from praxis_sdk.cli.commands.env import env
from praxis_sdk.cli.commands.exec import exec_
from praxis_sdk.cli.commands.jobs import job, jobs
from praxis_sdk.cli.commands.logs import logs
from praxis_sdk.cli.commands.metrics import metrics
from praxis_sdk.cli.commands.ps import ps
from praxis_sdk.cli.commands.replay import replay
from praxis_sdk.cli.commands.run import run
from praxis_sdk.cli.commands.schedule import schedule
from praxis_sdk.cli.commands.secret import secret
from praxis_sdk.cli.commands.show import show
from praxis_sdk.cli.commands.submit import submit
from praxis_sdk.cli.commands.tools import tools
from praxis_sdk.cli.commands.validate import validate
from praxis_sdk.cli.commands.worker import worker
from praxis_sdk.errors import ValidationError


class GroupedCommands(TyperGroup):
    """Shows the commands under the headings that they were given."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section per heading, in the order of the first command of each."""
        width = max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = str(getattr(command, "rich_help_panel", None) or "Commands")
            text = command.get_short_help_str(formatter.width - 6 - width)
            sections.setdefault(heading, []).append((name.ljust(width), text))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


app = typer.Typer(
    name="praxis",
    cls=GroupedCommands,
    help="Run work that somebody else wrote: isolated, accounted for, and certain to end.",
    epilog="Exit status: the work's own; 2 for a mistake of the user, 3 for a failure of the platform.",
    rich_markup_mode=None,  # plain help reads well everywhere, and starts faster
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"praxis {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def praxis(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Run work that somebody else wrote: isolated, accounted for, and certain to end."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(ValidationError.exit_status)


_TOOLS, _JOBS, _QUEUE, _HOST = "Tools", "Jobs", "Queue", "This host"
_COMMANDS: tuple[tuple[str, str, Callable[..., int]], ...] = (
    ("run", _TOOLS, run),
    ("validate", _TOOLS, validate),
    ("tools", _TOOLS, tools),
    ("exec", _JOBS, exec_),
    ("jobs", _JOBS, jobs),
    ("job", _JOBS, job),
    ("replay", _JOBS, replay),
    ("submit", _QUEUE, submit),
    ("ps", _QUEUE, ps),
    ("show", _QUEUE, show),
    ("logs", _QUEUE, logs),
    ("cancel", _QUEUE, cancel),
    ("retry", _QUEUE, retry),
    ("metrics", _QUEUE, metrics),
    ("worker", _QUEUE, worker),
    ("engines", _HOST, engines),
    ("doctor", _HOST, doctor),
)

for name, heading, command in _COMMANDS:
    app.command(name, rich_help_panel=heading)(command)
app.add_typer(secret, rich_help_panel=_TOOLS)
app.add_typer(env, rich_help_panel=_JOBS)
app.add_typer(artifact, rich_help_panel=_JOBS)
for group in (batch, schedule, db, audit):
    app.add_typer(group, rich_help_panel=_QUEUE)
