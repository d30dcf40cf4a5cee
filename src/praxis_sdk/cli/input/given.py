"""What is given on the command line by name: `--arg name=value`, `--arg name=@file`, `--param`, `--args-file`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from praxis_sdk.errors import ValidationError


def read_pairs(pairs: Iterable[str], option: str = "--arg") -> dict[str, str]:
    """Read `name=value` pairs; the value may be empty and may hold further '='.

    Args:
        pairs: what was given.
        option: the option that it was given to.

    Raises:
        ValidationError: a pair has no '=' or no name, or a name comes twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        name, value = _split(pair, option)
        if name in values:
            raise ValidationError(f"{option}: {name[:80]!r} is given twice", remedy="keep one of them")
        values[name] = value
    return values


def read_arguments(pairs: Iterable[str], option: str = "--arg") -> dict[str, list[str]]:
    """Read `name=value` pairs of a tool's arguments; a name given again adds to a list.

    `name=@file` takes the value from a file, and `name=@-` from stdin; `name=@@text` is text that begins
    with '@'.

    Args:
        pairs: what was given.
        option: the option that it was given to.

    Raises:
        ValidationError: a pair has no '=' or no name, or its file cannot be read as text.
    """
    values: dict[str, list[str]] = {}
    for pair in pairs:
        name, value = _split(pair, option)
        if value.startswith("@@"):
            value = value[1:]
        elif value.startswith("@"):
            value = _read_text(value[1:], f"{option} {name[:80]}")
        values.setdefault(name, []).append(value)
    return values


def _split(pair: str, option: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise ValidationError(
            f"{option}: {pair[:80]!r} is not of the form NAME=VALUE", remedy=f"write {option} name=value"
        )
    return name, value


def _read_text(source: str, field: str) -> str:
    remedy = "name a file after '@', or write '@@' for text that begins with '@'"
    data = _read_bytes(source, field, remedy)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValidationError(
            f"{field}: {source[:200]}: not UTF-8", remedy="mount the file, or pass it on stdin"
        ) from error


def read_args_file(source: str) -> dict[str, Any]:
    """Read a JSON object of arguments.

    Args:
        source: a path, or '-' for stdin.

    Raises:
        ValidationError: it cannot be read or is not a JSON object.
    """
    return _read_object(_read_bytes(source, "--args-file", "name a file of JSON, or '-'"))


def _read_bytes(source: str, field: str, remedy: str) -> bytes:
    from praxis_sdk.execution.arguments.arguments import MAX_ARGUMENTS_BYTES

    try:
        if source == "-":
            data = sys.stdin.buffer.read(MAX_ARGUMENTS_BYTES + 1)
        else:
            with open(source, "rb") as file:
                data = file.read(MAX_ARGUMENTS_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ValidationError(f"{field}: {source[:200]}: {reason}", remedy=remedy) from error
    except ValueError as error:  # a NUL in the name
        raise ValidationError(f"{field}: {source[:200]!r} is not a file name", remedy=remedy) from error
    if len(data) > MAX_ARGUMENTS_BYTES:
        raise ValidationError(
            f"{field}: larger than {MAX_ARGUMENTS_BYTES >> 20} MiB",
            remedy="mount a file with the data instead",
        )
    return data


def _read_object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_without_doubles, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValidationError("--args-file: nested too deeply", remedy="flatten it") from error
    except UnicodeDecodeError as error:
        raise ValidationError("--args-file: not UTF-8", remedy="save it as UTF-8") from error
    except ValueError as error:
        raise ValidationError(
            f"--args-file: not JSON: {error}", remedy='write {"name": value, ...}'
        ) from error
    if not isinstance(values, dict):
        raise ValidationError("--args-file: not a JSON object", remedy='write {"name": value, ...}')
    return values


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {double[:80]!r} comes twice")
    return values


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
