"""Reading the result file that a job left: nothing is followed, nothing waits, and every bound is checked."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.json_text import SMALL_CHARS, JsonText, canonical_size

NOT_A_FILE: Final = "not a regular file"  # the problem of a result in whose place is a link, a folder, a fifo
MAX_MEMBERS: Final = 64  # names of an object that are told apart without reading it
_ABOUT_US: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})  # and not about the file
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class LeftResult:
    """What a job left as its result.

    Args:
        value: the JSON value; as `JsonText` where it is long; None where there is none or it is damaged.
        too_long: the file, or what it takes to read it, exceeds its limit.
        problem: why what was left as a result is none; "" where nothing is wrong with it.
    """

    value: Any = None
    too_long: bool = False
    problem: str = ""


class NoRegularFile(Exception):
    """Something else is where a file should be: a link, a folder, a fifo."""


def open_below(folder_fd: int, folder: str, name: str) -> int | None:
    """Open a file in a folder of a folder the way one opens what a stranger left: following nothing, never waiting.

    Returns:
        A descriptor, which is the caller's; None where there is nothing.

    Raises:
        NoRegularFile: there is something else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    inner_fd = file_fd = -1
    try:
        inner_fd = os.open(folder, flags | os.O_DIRECTORY, dir_fd=folder_fd)
        file_fd = os.open(name, flags, dir_fd=inner_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _ABOUT_US:
            raise
        raise NoRegularFile from error  # a link, a socket, a file that not even its owner may read
    finally:
        if inner_fd >= 0:
            os.close(inner_fd)
    if not stat.S_ISREG(os.fstat(file_fd).st_mode):  # a folder or a fifo can be opened, too
        os.close(file_fd)
        raise NoRegularFile
    return file_fd


def understood(file_fd: int, max_bytes: int, max_depth: int) -> LeftResult:
    """Read an open result of at most so many bytes."""
    data = bytearray()
    while len(data) <= max_bytes and (piece := os.read(file_fd, min(1 << 20, max_bytes + 1 - len(data)))):
        data += piece
    if len(data) > max_bytes:
        return LeftResult(too_long=True)
    try:
        return LeftResult(strict_json.parse(bytes(data), max_bytes=max_bytes, max_depth=max_depth))
    except strict_json.UnsoundJson as error:
        return LeftResult(problem=str(error))


def as_text(value: Any) -> JsonText:
    """Return a value as text, with the places of an object's values in it."""
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_MEMBERS:
        text = _encode(value)
        return JsonText(text, canonical_size(value, text))
    pieces: list[str] = []
    members: dict[str, tuple[int, int, int]] = {}
    at = size_bytes = 1
    for name, item in value.items():
        head, body = f"{_encode(name)}:", _encode(item)
        size = canonical_size(item, body)
        start = at + len(head)
        members[name] = start, start + len(body), size
        pieces += [head, body, ","]
        at = start + len(body) + 1
        size_bytes += len(name.encode()) + 3 + size + 1
    pieces[-1] = "}"
    return JsonText("{" + "".join(pieces), size_bytes, members)


def is_short(value: JsonText) -> bool:
    """Tell whether a value may as well be read by whoever gets it."""
    return len(value.text) <= SMALL_CHARS
