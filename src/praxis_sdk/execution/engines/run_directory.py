"""Private directories and files for what a run needs on the host's disk, found again when their owner was killed.

    <TMPDIR, or /var/tmp>/praxis-<uid>/<owner>-<random>

Only the user may enter the first of them, so what lies below can be as open as a container needs it.
`/var/tmp` rather than `/tmp`: copies of mounts can be large, and `/tmp` is memory on many machines.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from praxis_sdk.errors import PlatformError
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.mounts.staging import remove_tree


def make_run_directory(owner: ProcessOwner) -> Path:
    """Make an empty directory for one run; remove it with `remove_tree`.

    Raises:
        PlatformError: there is no place for it, or somebody else sits on it.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=f"{owner}-", dir=_base()))
    except OSError as error:
        raise _unusable(_base_path(), error.strerror or str(error)) from error


def make_run_file(owner: ProcessOwner, content: bytes) -> Path:
    """Write a file for one run that only this user can read; remove it with `unlink`.

    Raises:
        PlatformError: there is no place for it, or somebody else sits on it.
    """
    try:
        descriptor, path = tempfile.mkstemp(prefix=f"{owner}-", dir=_base())
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise _unusable(_base_path(), error.strerror or str(error)) from error
    return Path(path)


def any_leftovers() -> bool:
    """Whether dead processes left something; cheap where they did not."""
    return any(_is_leftover(path) for path in _base().iterdir())


def remove_leftovers() -> int:
    """Remove the directories and files of dead processes; returns how many there were."""
    removed = 0
    for path in filter(_is_leftover, list(_base().iterdir())):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)  # another process may be sweeping, too
        removed += 1
    return removed


def _is_leftover(path: Path) -> bool:
    owner = ProcessOwner.parse(path.name.rpartition("-")[0])
    return owner is not None and (owner.is_dead() or owner.is_of_another_boot())


def _base_path() -> Path:
    parent = os.environ.get("TMPDIR") or (
        "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
    )
    return Path(parent).absolute() / f"praxis-{os.geteuid()}"


def _base() -> Path:
    path = _base_path()
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise _unusable(path, "it is not a directory that only this user may enter")
    return path


def _unusable(path: Path, reason: str) -> PlatformError:
    return PlatformError(
        f"'{path}' cannot be used for the files of a run: {reason}",
        remedy="remove it, or set TMPDIR to a directory on a disk",
    )
