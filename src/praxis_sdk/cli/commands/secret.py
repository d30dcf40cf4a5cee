"""`praxis secret`: keep secrets for this host's workers, by name; no command shows a value."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.secrets import FileSecrets

secret = typer.Typer(name="secret", help="Keep secrets that tools get by reference: secret://NAME.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@secret.command("set")
def set_(
    context: typer.Context,
    name: _Name,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the value from a file.")
    ] = None,
) -> int:
    """Keep a secret, in place of one of the same name. The value is asked for, or read from stdin."""
    from praxis_sdk.secrets import check_name
    from praxis_sdk.secrets.mask import MIN_CHARS

    streams: Streams = context.obj
    check_name(name)
    store = _store(make=True)
    value = _value(file)
    store.put(name, value)
    streams.say(f"kept the secret '{name}'; refer to it as secret://{name}")
    if len(value) < MIN_CHARS:
        streams.say(
            f"'{name}' has fewer than {MIN_CHARS} characters, so it is not masked in what tools write"
        )
    return 0


@secret.command("list")
def list_(context: typer.Context, as_json: _Json = False) -> int:
    """List the names of the secrets, and when each was last set."""
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    found = _store().names()
    if as_json:
        streams.emit_json({"secrets": [{"name": name, "set_at": at.isoformat()} for name, at in found]})
    elif not found:
        streams.emit_lines(["no secrets yet; 'praxis secret set NAME' keeps one"])
    else:
        streams.emit(
            render(streams, ("secret", "set (UTC)"), [(name, f"{at:%Y-%m-%d %H:%M}") for name, at in found])
        )
    return 0


@secret.command()
def remove(context: typer.Context, name: _Name) -> int:
    """Remove a secret."""
    streams: Streams = context.obj
    if not _store().remove(name):
        raise ValidationError(f"there is no secret '{name}'", remedy="see 'praxis secret list'")
    streams.say(f"removed the secret '{name}'")
    return 0


def _store(*, make: bool = False) -> FileSecrets:
    from praxis_sdk.cli.home import Home
    from praxis_sdk.secrets import FileSecrets
    from praxis_sdk.secrets.providers import FOLDER_VARIABLE

    folder = os.environ.get(FOLDER_VARIABLE, "")
    home = Home.of_user()
    if make and not folder:
        home.make_writable()
    return FileSecrets(Path(folder) if folder else home.secrets_folder)


def _value(file: Path | None) -> str:
    from praxis_sdk.secrets.providers import MAX_BYTES

    if file is None and sys.stdin.isatty():
        import getpass

        return getpass.getpass("value: ")
    try:
        if file is None:
            content = sys.stdin.buffer.read(MAX_BYTES + 2)
        else:
            with file.open("rb") as opened:
                content = opened.read(MAX_BYTES + 2)
        text = content.decode()
    except OSError as error:
        raise ValidationError(f"--file: {file} cannot be read: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise ValidationError(
            "the value is not UTF-8 text", remedy="encode it, for example as base64"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")
