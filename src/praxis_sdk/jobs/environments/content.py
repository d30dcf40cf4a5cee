"""The content of an environment, as digests: what its version is made of, and what `verify` compares.

Two views of the same tree. The *manifest* names every file with its digest, so that a flipped byte anywhere is
found. The *version* is made of less: of what decides how code behaves, and of nothing that depends on where or
when the environment was built (compiled files hold paths; links to the interpreter are the host's).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from praxis_sdk.jobs.payload import strict_json

ENVIRONMENT_FILE: Final = "environment.json"
MANIFEST_FILE: Final = "manifest.json"
VERSION_DIGITS: Final = 12

_FORMAT: Final = 1
_READ_BYTES: Final = 1 << 20
_OWN_FILES: Final = frozenset({ENVIRONMENT_FILE, MANIFEST_FILE})
# What is made anew by every build, or names places of the host.
_UNVERSIONED_FILES: Final = frozenset({"pyvenv.cfg"})


def manifest_of(prefix: Path) -> dict[str, str]:
    """Describe every file and link of a tree.

    Args:
        prefix: the environment.

    Returns:
        Relative path to 'link:TARGET', or to 'file:' or 'program:' and the sha256 of the content.
    """
    return {path: _describe(prefix / path) for path in sorted(_paths(prefix)) if path not in _OWN_FILES}


def manifest_digest(manifest: Mapping[str, str]) -> str:
    """Return the sha256 of a manifest."""
    return hashlib.sha256(strict_json.canonical(manifest)).hexdigest()


def version_of(
    name: str, manifest: Mapping[str, str], interpreter: Mapping[str, Any], preload: Sequence[str]
) -> str:
    """Return the version of an environment.

    Args:
        name: its name.
        manifest: its content.
        interpreter: what identifies its interpreter.
        preload: modules that jobs find imported.
    """
    document = {
        "format": _FORMAT,
        "interpreter": dict(interpreter),
        "files": {path: entry for path, entry in manifest.items() if _is_versioned(path)},
        "preload": list(preload),
    }
    return f"{name}-{hashlib.sha256(strict_json.canonical(document)).hexdigest()[:VERSION_DIGITS]}"


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Say how two manifests differ, one line for each path."""
    lines = [f"{path}: is missing" for path in expected.keys() - found.keys()]
    lines += [f"{path}: was added" for path in found.keys() - expected.keys()]
    lines += [
        f"{path}: has changed" for path in expected.keys() & found.keys() if expected[path] != found[path]
    ]
    return sorted(lines)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def make_read_only(prefix: Path) -> None:
    """Let everybody read a tree and nobody write to it."""
    _set_modes(prefix, 0o555, 0o444)


def make_readable(prefix: Path) -> None:
    """Let everybody read a tree, and its owner write to it."""
    _set_modes(prefix, 0o755, 0o644)


def delete_tree(prefix: Path) -> None:
    """Delete a tree, read-only or not; one that is not there is no error."""
    if prefix.is_dir():
        for folder, _, _ in os.walk(prefix):
            os.chmod(folder, 0o700)
        shutil.rmtree(prefix)


def _set_modes(prefix: Path, folder_mode: int, file_mode: int) -> None:
    # From the bottom up: a folder that cannot be written to still has its entries' modes changed.
    for folder, _, names in os.walk(prefix, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                os.chmod(path, file_mode | (0o111 if status.st_mode & 0o111 else 0))
        os.chmod(folder, folder_mode)


def _paths(prefix: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(prefix):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*names, *links):
            yield os.path.relpath(os.path.join(folder, name), prefix)


def _describe(path: Path) -> str:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return f"link:{os.readlink(path)}"
    if not stat.S_ISREG(mode):
        return "neither file nor link"
    return f"{'program' if mode & 0o111 else 'file'}:{file_digest(path)}"


def _is_versioned(path: str) -> bool:
    return not (path.endswith(".pyc") or path in _UNVERSIONED_FILES or path.startswith("bin/python"))
