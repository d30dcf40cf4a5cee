"""Which Praxis installation this is: named by its home, so that what belongs to another one is left alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "PRAXIS_HOME"


def home_path() -> Path | None:
    """Return the home that the environment names; None where it names none and this user has no home."""
    given = os.environ.get(HOME_VARIABLE, "")
    if given:
        return Path(given).absolute()
    shared = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(shared):  # the specification has relative ones ignored
        return Path(shared) / "praxis"
    try:
        return Path.home() / ".local/share/praxis"
    except RuntimeError:
        return None


def installation_id() -> str:
    """Return a short name of this installation for labels: the same for all processes of one user and home."""
    import hashlib

    return hashlib.sha256(f"{os.geteuid()}:{home_path()}".encode()).hexdigest()[:16]
