"""A folder as the files of a job: what a person would hand over, bounded, and nothing that a link leads to.

Left out, and told, are what version control and tools keep there, what `.gitignore` names, links that lead out of the
folder, and what is not a file. Git itself is not asked: a repository's own configuration can make it run programs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.units import format_bytes

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_LOOKED_AT: Final = 100_000  # entries
_MAX_NAMED: Final = 6
_IGNORE_FILE: Final = ".gitignore"
_MAX_IGNORE_BYTES: Final = 1 << 20
_OF_TOOLS: Final = frozenset(
    {
        *(".git", ".hg", ".svn", ".jj", "__pycache__", ".venv", ".tox", ".nox", "node_modules", ".DS_Store"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", ".praxis"),
    }
)
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TOOLS: Final = "kept by tools"


@dataclass(frozen=True)
class ProjectFolder:
    """The files of a folder.

    Args:
        files: bytes by path below the folder.
        left_out: what was not taken, each with the reason, such as 'data.fifo (not a file)'.
    """

    files: Mapping[str, bytes]
    left_out: tuple[str, ...] = ()

    def note(self, name: str) -> str:
        """Return a line about what was left out; empty where nothing was."""
        if not self.left_out:
            return ""
        shown = ", ".join(self.left_out[:_MAX_NAMED])
        more = len(self.left_out) - _MAX_NAMED
        return f"left out of {name}: {shown}" + (f" and {more} more" if more > 0 else "")


def read_project(folder: Path) -> ProjectFolder:
    """Read the files of a folder that a job may have.

    Raises:
        ValidationError: it cannot be read, or holds more than a job may have.
    """
    from praxis_sdk.jobs.payload.payload import MAX_FILES, MAX_FILES_BYTES

    name = str(folder)[:200]
    root = Path(os.path.realpath(folder))
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    total = looked_at = 0
    remedy = f"name in {_IGNORE_FILE} what it does not need, or hand data over with --input"
    for path, reason in _walk(root, "", _ignored_above(root)):
        looked_at += 1
        if looked_at > MAX_LOOKED_AT:
            raise ValidationError(f"{name}: more than {MAX_LOOKED_AT} entries", remedy=remedy)
        if reason:
            left_out.append(f"{path} ({reason})" if reason != _TOOLS else path)
            continue
        content, problem = _content(root, path, MAX_FILES_BYTES - total)
        if content is None:
            left_out.append(f"{path} ({problem})")
            continue
        total += len(content)
        if total > MAX_FILES_BYTES:
            raise ValidationError(
                f"{name}: its files are larger than {format_bytes(MAX_FILES_BYTES)} together", remedy=remedy
            )
        if len(files) == MAX_FILES:
            raise ValidationError(f"{name}: more than {MAX_FILES} files, the most of one job", remedy=remedy)
        files[path] = content
    if not files:
        raise ValidationError(f"{name}: holds no files", remedy="name a folder with sources")
    return ProjectFolder(files, tuple(left_out))


_Rules = tuple[tuple[str, "GitIgnoreSpec"], ...]  # by the folder that they count from, outermost first


def _walk(root: Path, below: str, rules: _Rules) -> Iterator[tuple[str, str]]:
    """Go through the entries of a folder by name; yields paths, each with the reason to leave it out, or ''."""
    place = root / below
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError as error:
        raise ValidationError(f"{str(place)[:200]}: {os.strerror(error.errno or 0)}") from error
    own = _rules_of(place)
    if own is not None:
        rules = (*rules, (str(place), own))
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        folder = entry.is_dir(follow_symlinks=False)
        if entry.name in _OF_TOOLS or entry.name.endswith(".pyc"):
            yield _shown(path, folder), _TOOLS
        elif folder and os.path.lexists(f"{entry.path}/pyvenv.cfg"):
            yield _shown(path, folder), "a virtual environment"
        elif _is_ignored(entry.path, folder, rules):
            yield _shown(path, folder), "ignored"
        elif problem := _unfit(path):
            yield ascii(path)[:120], problem
        elif folder:
            yield from _walk(root, path, rules)
        else:
            yield path, ""


def _shown(path: str, folder: bool) -> str:
    return f"{path}/" if folder else path


def _unfit(path: str) -> str:
    from praxis_sdk.jobs.payload.payload import check_path

    try:
        path.encode()
        check_path(path)
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except ValueError as error:
        return str(error).split(" ", 1)[-1]
    return ""


def _content(root: Path, path: str, room: int) -> tuple[bytes | None, str]:
    """Read a file, at most one byte more than there is room for; returns why not where it is none."""
    place = root / path
    try:
        if place.is_symlink():
            place = Path(os.path.realpath(place))
            if not place.is_relative_to(root):
                return None, "a link out of the folder"
            if not place.is_file():
                return None, "a link to what is not a file"
        fd = os.open(place, _FILE)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None, "not a file"
            return file.read(room + 1), ""
    except OSError as error:
        if stat.S_ISSOCK(os.lstat(place).st_mode):
            return None, "not a file"
        raise ValidationError(
            f"{str(root / path)[:200]}: {os.strerror(error.errno or 0)}",
            remedy=f"make it readable, or name it in {_IGNORE_FILE}",
        ) from error


def _ignored_above(root: Path) -> _Rules:
    """Return the rules of the folders above, up to the top of the repository; none outside of one."""
    found: list[tuple[str, GitIgnoreSpec]] = []
    if os.path.lexists(root / ".git"):
        return ()
    for place in root.parents:
        rules = _rules_of(place)
        if rules is not None:
            found.append((str(place), rules))
        if os.path.lexists(place / ".git"):
            return tuple(reversed(found))
    return ()


def _rules_of(folder: Path) -> GitIgnoreSpec | None:
    try:
        fd = os.open(folder / _IGNORE_FILE, _FILE)
    except OSError:  # Git ignores one that it cannot read, too
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        text = file.read(_MAX_IGNORE_BYTES).decode("utf-8", "replace")
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(text.splitlines())
    except ValueError as error:
        raise ValidationError(
            f"{str(folder)[:200]}/{_IGNORE_FILE}: {str(error)[:200]}", remedy="correct the pattern"
        ) from error


def _is_ignored(place: str, folder: bool, rules: _Rules) -> bool:
    """Ask the innermost rules that say anything of a path."""
    for base, spec in reversed(rules):
        result: Any = spec.check_file(os.path.relpath(place, base) + ("/" if folder else ""))
        if result.include is not None:
            return bool(result.include)
    return False
