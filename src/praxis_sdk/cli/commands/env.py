"""`praxis env`: the environments that jobs run in: build, list, show, verify, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.jobs.environments.store import Environment

EXIT_DIFFERS: Final = 1

env = typer.Typer(name="env", help="Build and look after the environments that jobs run in.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="An environment, or one version of it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@env.command()
def build(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; 'base' and 'science' need no more.")],
    requirements: Annotated[
        Path | None, typer.Option("--requirements", "-r", metavar="FILE", help="What to install.")
    ] = None,
    preload: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="A module that jobs find imported; repeatable."),
    ] = None,
    as_json: _Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Build an environment; its name then stands for the new version."""
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.interrupts import interruptible

    streams: Streams = context.obj
    logs.configure()
    streams.reserve_stdout()
    home = Home.of_user()

    def tell(line: str) -> None:
        if not quiet:
            streams.say(line)

    with interruptible(tell):
        home.make_writable()
        built = home.environments().build(name, requirements, preload=preload or None, say=tell)
    if as_json:
        streams.emit_json(_document(built))
    else:
        streams.emit_lines([built.env_version])
    return 0


@env.command("list")
def list_(context: typer.Context, as_json: _Json = False) -> int:
    """List the environments; '*' marks the version that a name stands for."""
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()
    store = Home.of_user().environments()
    found = store.list()
    newest = {name: store.get(name).env_version for name in {one.name for one in found}}
    if as_json:
        streams.emit_json({"environments": [_document(one, newest[one.name]) for one in found]})
        return 0
    if not found:
        streams.emit_lines(["no environment yet; 'praxis env build base' builds one"])
        return 0
    rows = [
        (
            f"{one.env_version}{'*' if newest[one.name] == one.env_version else ''}",
            one.python_version,
            str(len(one.packages)),
            f"{one.created_at:%Y-%m-%d %H:%M}",
        )
        for one in found
    ]
    streams.emit(render(streams, ("environment", "python", "packages", "built (UTC)"), rows))
    return 0


@env.command()
def show(context: typer.Context, name: _Name, as_json: _Json = False) -> int:
    """Show what an environment holds."""
    from praxis_sdk.cli.home import Home, named_environment
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    found = named_environment(Home.of_user().environments(), name)
    if as_json:
        streams.emit_json({**_document(found), "prefix": str(found.prefix)})
        return 0
    streams.emit_lines(
        [
            f"environment  {found.env_version}",
            f"built        {found.created_at:%Y-%m-%d %H:%M} UTC",
            f"python       {found.python_version} ({found.interpreter.get('platform', '')})",
            f"preloaded    {', '.join(found.preload) or 'nothing'}",
            f"folder       {found.prefix}",
            f"manifest     {found.manifest_digest}",
            "",
            *(found.freeze().splitlines() or ["no packages but the standard library"]),
        ]
    )
    return 0


@env.command()
def verify(context: typer.Context, name: _Name, as_json: _Json = False) -> int:
    """Compare every file of an environment with what was built. Exit status 1 where something differs."""
    from praxis_sdk.cli.home import Home, named_environment
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    store = Home.of_user().environments()
    found = named_environment(store, name)
    problems = store.verify(found)
    if as_json:
        streams.emit_json(
            {"env_version": found.env_version, "intact": not problems, "problems": list(problems)}
        )
    else:
        streams.emit_lines(problems or [f"{found.env_version} is as it was built"])
    return EXIT_DIFFERS if problems else 0


@env.command()
def remove(context: typer.Context, name: _Name, as_json: _Json = False) -> int:
    """Delete an environment; of a name, the version that it stands for."""
    from praxis_sdk.cli.home import Home, named_environment
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    store = Home.of_user().environments()
    found = named_environment(store, name)
    store.remove(found)
    if as_json:
        streams.emit_json({"removed": found.env_version})
    else:
        streams.emit_lines([f"removed {found.env_version}"])
    return 0


def _document(found: Environment, newest: str | None = None) -> dict[str, Any]:
    document = {**found.to_json(), "python_version": found.python_version}
    return document if newest is None else {**document, "newest": newest == found.env_version}
