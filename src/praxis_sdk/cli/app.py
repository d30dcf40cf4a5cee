"""The list of commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from praxis_sdk import __version__
from praxis_sdk.cli.doctor import doctor
from praxis_sdk.cli.engines import engines
from praxis_sdk.cli.run import run
from praxis_sdk.cli.tools import tools
from praxis_sdk.cli.validate import validate
from praxis_sdk.errors import ValidationError

app = typer.Typer(
    name="praxis",
    help="Run tools that somebody else wrote: isolated, accounted for, and certain to end.",
    epilog="Exit status: the tool's own; 2 for a mistake of the user, 3 for a failure of the platform.",
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
    """Run tools that somebody else wrote: isolated, accounted for, and certain to end."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(ValidationError.exit_status)


for command in (run, validate, tools, engines, doctor):
    app.command()(command)
