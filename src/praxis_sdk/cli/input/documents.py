"""Documents that people hand over: one JSON or YAML document, or lines of JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import ValidationError

MAX_BYTES: Final = 64 << 20
MAX_YAML_BYTES: Final = 1 << 20
MAX_LINES: Final = 100_000
STDIN: Final = "-"
_LINES: Final = (".jsonl", ".ndjson")


def read_document(name: str, field: str = "FILE") -> Any:
    """Read a document as plain JSON values; lines of JSON are a list.

    Args:
        name: a path, or '-' for stdin.
        field: what the command line calls it.

    Raises:
        ValidationError: it cannot be read, or is no such document.
    """
    label = "stdin" if name == STDIN else name[:200]
    data = _bytes(name, field)
    text = data.strip()
    if not text:
        raise ValidationError(f"{field}: {label}: is empty", remedy="write JSON or YAML into it")
    if name.endswith(_LINES):
        return _lines(text, field, label)
    if text[:1] in (b"{", b"["):
        try:
            return _json(text, field, label)
        except ValidationError:
            first, newline, _ = text.partition(b"\n")
            if newline and _is_json(first):  # several documents, one per line
                return _lines(text, field, label)
            if name.endswith(".json") or len(data) > MAX_YAML_BYTES:
                raise
    return _yaml(data, field, label)


def folder_of(name: str) -> Path:
    """Return the folder that relative paths in a document count from."""
    return Path.cwd() if name == STDIN else Path(name).resolve().parent


def _bytes(name: str, field: str) -> bytes:
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValidationError(
            f"{field}: {name[:200]}: {os.strerror(error.errno or 0)}", remedy="name a file, or '-' for stdin"
        ) from error
    except ValueError as error:  # a NUL in the name
        raise ValidationError(f"{field}: {name[:200]!r} is not a file name") from error
    if len(data) > MAX_BYTES:
        raise ValidationError(
            f"{field}: {name[:200]}: larger than {MAX_BYTES >> 20} MiB", remedy="submit it in parts"
        )
    return data.removeprefix(b"\xef\xbb\xbf")


def _lines(text: bytes, field: str, label: str) -> list[Any]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > MAX_LINES:
        raise ValidationError(f"{field}: {label}: more than {MAX_LINES} lines", remedy="submit it in parts")
    return [_json(line, field, f"{label}:{number}") for number, line in lines]


def _is_json(text: bytes) -> bool:
    try:
        _json(text, "", "")
    except ValidationError:
        return False
    return True


def _json(text: bytes, field: str, label: str) -> Any:
    from praxis_sdk.jobs.payload import strict_json

    try:
        return strict_json.parse(text, max_bytes=MAX_BYTES)
    except strict_json.UnsoundJson as error:
        raise ValidationError(f"{field}: {label}: {error}", remedy="correct the JSON") from error


def _yaml(data: bytes, field: str, label: str) -> Any:
    from praxis_sdk.execution.contract.problems import ContractError
    from praxis_sdk.execution.contract.yaml_source import read_yaml

    if len(data) > MAX_YAML_BYTES:
        raise ValidationError(
            f"{field}: {label}: more than {MAX_YAML_BYTES >> 20} MiB of YAML", remedy="write it as JSON"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationError(f"{field}: {label}: not UTF-8", remedy="save it as UTF-8") from error
    try:
        # A contract's version is text, however it is written.
        document = read_yaml(text, label, text_at=lambda path: path[-2:] == ("contract", "version"))
        if document.problems:
            raise ContractError(document.problems)
    except ContractError as error:
        first = error.problems[0]
        raise ValidationError(f"{field}: {first.summary}", remedy=first.remedy) from error
    return document.value


def read_object(name: str, field: str = "FILE") -> Mapping[str, Any]:
    """Read a document that is one object; as `read_document`."""
    document = read_document(name, field)
    if not isinstance(document, Mapping):
        label = "stdin" if name == STDIN else name[:200]
        raise ValidationError(
            f"{field}: {label}: holds no object", remedy='write {"kind": "job", "request": {...}}'
        )
    return document
