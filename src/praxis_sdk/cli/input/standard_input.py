"""What reaches a job through standard input: `praxis exec f.py < data`, `make data | praxis submit f.py`.

A file or a pipe is read to its end before the job starts, since the job is kept with what it read. A terminal is left
alone unless `--stdin` asks for it, as `docker run` and `kubectl exec` do without `-i`.
"""

from __future__ import annotations

import base64
import os
import select
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.units import format_bytes

INLINE_BYTES: Final = 64 << 10  # what is longer goes into the artifact store, and the job names it
_PATIENCE_S: Final = 2.0
_PIECE_BYTES: Final = 1 << 20
_WAITING: Final = "reading standard input until it ends; --no-stdin starts the job without it"


@dataclass(frozen=True)
class GivenInput:
    """What was read.

    Args:
        document: the field `stdin` of a payload; None where the bytes are in `file`.
        file: a file without a name that holds the bytes.
    """

    document: Mapping[str, Any] | None = None
    file: IO[bytes] | None = None


def read_standard_input(
    wanted: bool | None, max_bytes: int, tell: Callable[[str], None] = lambda line: None
) -> GivenInput | None:
    """Read this process's standard input to its end.

    Args:
        wanted: True reads also a terminal, False reads nothing, None decides by what it is.
        max_bytes: most bytes that the job may have in one file.
        tell: called with a line when it does not end soon.

    Returns:
        What was read; None where there is nothing to read, or nothing in it.

    Raises:
        ValidationError: it cannot be read, or is longer than `max_bytes`.
    """
    try:
        mode = os.fstat(0).st_mode
        streams = stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        if wanted is False or (wanted is None and not streams):
            return None
        head = _read(INLINE_BYTES + 1, tell)
        if len(head) <= INLINE_BYTES:
            return GivenInput(_document(head)) if head else None
        return GivenInput(file=_spooled(head, max_bytes, tell))
    except OSError as error:
        raise ValidationError(
            f"standard input: {os.strerror(error.errno or 0)}", remedy="give --no-stdin, or < FILE"
        ) from error


def _read(most: int, tell: Callable[[str], None]) -> bytes:
    """Read until the end, or until there is more than is asked for."""
    data = b""
    while len(data) < most:
        if not select.select([0], [], [], _PATIENCE_S)[0]:
            tell(_WAITING)
            select.select([0], [], [])
        try:
            piece = os.read(0, most - len(data))
        except BlockingIOError:  # whoever shares it took what was there
            continue
        if not piece:
            break
        data += piece
    return data


def _spooled(head: bytes, max_bytes: int, tell: Callable[[str], None]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    written, piece = 0, head
    while piece:
        written += len(piece)
        if written > max_bytes:
            file.close()
            raise ValidationError(
                f"standard input: more than the limit file_size_bytes of {format_bytes(max_bytes)}",
                remedy="raise --file-size",
            )
        file.write(piece)
        piece = _read(_PIECE_BYTES, tell)
    file.flush()
    return file


def _document(data: bytes) -> dict[str, Any]:
    """Return short content as a payload holds it: as text where it is text that every store can keep."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return {"base64": base64.b64encode(data).decode()} if "\0" in text else {"text": text}
