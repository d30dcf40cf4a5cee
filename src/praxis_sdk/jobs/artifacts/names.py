"""Names of artifacts: which can be shown, saved and told apart on every system that people download to."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_NAME_BYTES: Final = 1024
# What Unicode lets a display leave out (Default_Ignorable_Code_Point, as far as `isprintable` accepts it), and blanks
# that count as letters or symbols. The variation selectors 15 and 16 choose how an emoji looks, and are honest.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0d\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_EMOJI_STYLE: Final = re.compile("[\ufe0e\ufe0f]")


def name_problem(name: str, max_bytes: int = MAX_NAME_BYTES) -> str | None:
    """Say why a name cannot be an artifact's, or return None.

    Args:
        name: a relative path with '/' between components.
        max_bytes: how long it may be in UTF-8.
    """
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if size_bytes > max_bytes:
        return f"its name is longer than {max_bytes} bytes"
    # Control characters and line breaks, and those that reverse or hide text on a screen.
    if not name.isprintable() or _INVISIBLE.search(name):
        return "its name holds control or invisible characters"
    # A separator to some of the systems that people download to.
    if "\\" in name:
        return "its name holds a backslash"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "its name is not a plain relative path"
    if not all(part.strip() for part in parts):
        return "its name holds nothing that can be seen"
    return None


def collision_key(name: str) -> str:
    """Return a text that is the same for two names that a file system or a reader may take for one.

    That is canonical caseless matching (Unicode, D145), without the marks that only choose how an emoji looks.
    """
    plain = _EMOJI_STYLE.sub("", name)
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", plain).casefold())


class TakenNames:
    """The names of one job's artifacts, so that no two of them land on one file where letter case does not count."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def take(self, name: str) -> str | None:
        """Take a name; returns the name that it collides with, or None where it is free and now taken."""
        key = collision_key(name)
        folders = {key[:at]: name for at, letter in enumerate(key) if letter == "/"}
        taken = self._files.get(key) or self._folders.get(key)
        taken = taken or next((self._files[folder] for folder in folders if folder in self._files), None)
        if taken is None:
            self._files[key] = name
            for folder in folders:
                self._folders.setdefault(folder, name)
        return taken
