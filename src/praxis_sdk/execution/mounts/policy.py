"""Which host paths an untrusted contract may mount.

Whoever wrote the contract chooses its mounts, so by themselves they may only lie below the folder of the
contract or the workspace: places that the caller chose. Others need the caller (`--allow-mount PATH`) or the
operator (`PRAXIS_ALLOW_MOUNTS`, folders separated by ':'). Some places no untrusted contract gets, whoever
allows it: the host's configuration, devices and kernel interfaces, the hidden files of a home, where keys
and tokens are, what Praxis itself keeps, and sockets, behind which a daemon may do for the tool what the tool cannot.

What is judged is where a path leads, not what it says: symlinks and '..' are resolved first, and what is
opened later is opened without following any.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from praxis_sdk.errors import ValidationError

OPERATORS_LIST: Final = "PRAXIS_ALLOW_MOUNTS"
_SYSTEM: Final = {
    "/etc": "the host's configuration",
    "/proc": "the host's processes",
    "/sys": "the host's devices",
    "/dev": "the host's devices",
    "/boot": "the host's boot files",
    "/run": "the sockets of the host's services",
    "/var/run": "the sockets of the host's services",
    "/var/spool/cron": "the host's scheduled commands",
}
_MAX_LOOKED_AT: Final = 10_000  # entries of a mount that are searched for sockets, the upper levels first
_TRUST: Final = "mount a copy of what the tool needs, or run it with --trust if the contract is yours"


@dataclass(frozen=True)
class MountPolicy:
    """Below which folders an untrusted contract may mount.

    Args:
        roots: resolved folders.
        homes: resolved home directories, whose hidden entries are never mounted.
        own: resolved folders in which Praxis keeps records and secrets.
    """

    roots: tuple[Path, ...]
    homes: tuple[Path, ...]
    own: tuple[Path, ...] = ()

    @classmethod
    def of_this_host(cls, roots: Iterable[Path]) -> MountPolicy:
        """Take the caller's folders, and what the operator allows beside them."""
        listed = os.environ.get(OPERATORS_LIST, "").split(":")
        operators = [Path(text) for text in listed if text.startswith("/")]
        resolved = {path.expanduser().resolve() for path in (*roots, *operators)}
        return cls(
            roots=tuple(sorted(resolved - {Path("/")})), homes=tuple(_homes()), own=tuple(_own_folders())
        )

    def check(self, written: str, source: Path) -> None:
        """Refuse a mount that the policy does not allow.

        Args:
            written: the source as the contract writes it, for messages.
            source: where it leads, without symlinks.

        Raises:
            ValidationError: it is outside of all roots, or a place that no untrusted contract gets.
        """
        what = self._forbidden(source)
        if what is not None:
            raise ValidationError(
                f"engineSpec.mounts: '{written}' {what}; an untrusted contract cannot mount that",
                remedy=_TRUST,
            )
        if not any(source.is_relative_to(root) for root in self.roots):
            raise ValidationError(
                f"engineSpec.mounts: '{written}' is outside the contract's folder and the workspace, and the "
                "contract is not trusted",
                remedy=f"allow it with --allow-mount {source}, or mount a folder in the workspace",
            )

    def check_content(self, written: str, source: Path) -> None:
        """Refuse a folder with a socket in it: even a read-only mount lets a tool talk to who listens there.

        Raises:
            ValidationError: there is one.
        """
        found = next(_sockets(source), None)
        if found is not None:
            raise ValidationError(
                f"engineSpec.mounts: '{written}' holds the socket '{found}'; an untrusted contract cannot mount that",
                remedy=_TRUST,
            )

    def _forbidden(self, source: Path) -> str | None:
        for place, what in _SYSTEM.items():
            if source.is_relative_to(place) or Path(place).is_relative_to(source):
                return f"holds {what}"
        for home in self.homes:
            if home.is_relative_to(source) and _has_hidden_entries(home):
                return "holds the hidden files of a home directory"
            if source.is_relative_to(home) and source != home and source.relative_to(home).parts[0][0] == ".":
                return "is among the hidden files of a home directory"
        if any(source.is_relative_to(place) or place.is_relative_to(source) for place in self.own):
            return "holds records or secrets of Praxis"
        return None


def open_without_symlinks(path: Path, flags: int) -> int:
    """Open an absolute path without following a symlink anywhere in it; returns the descriptor.

    Raises:
        OSError: a component is a symlink (ELOOP, ENOTDIR) or cannot be opened.
    """
    folder_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *folders, last = path.parts[1:] or (".",)
        for part in folders:
            inner_fd = os.open(
                part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd
            )
            os.close(folder_fd)
            folder_fd = inner_fd
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def _homes() -> Iterator[Path]:
    candidates = [Path("/root"), *_children(Path("/home"))]
    candidates += [Path(home) for home in (os.environ.get("HOME"), _own_home()) if home]
    for home in dict.fromkeys(candidates):
        if home.is_absolute() and home.resolve() != Path("/"):
            yield home.resolve()


def _own_folders() -> Iterator[Path]:
    """Go through the folders where this user's Praxis may be; the customary one is among a home's hidden files."""
    data = os.environ.get("XDG_DATA_HOME")
    named = (os.environ.get("PRAXIS_HOME"), os.environ.get("PRAXIS_SECRETS"), data and f"{data}/praxis")
    for folder in filter(None, named):
        yield Path(folder).expanduser().resolve()


def _own_home() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None


def _children(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError:
        return []


def _has_hidden_entries(home: Path) -> bool:
    try:
        return any(name.startswith(".") for name in os.listdir(home))
    except OSError:
        return True  # what cannot be seen is not handed out


def _sockets(source: Path) -> Iterator[Path]:
    """Go through the sockets below a folder, level by level, within a bound."""
    waiting = deque([source])
    left = _MAX_LOOKED_AT
    while waiting and left > 0:
        try:
            with os.scandir(waiting.popleft()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif not (entry.is_file(follow_symlinks=False) or entry.is_symlink()) and stat.S_ISSOCK(
                        entry.stat(follow_symlinks=False).st_mode
                    ):
                        yield Path(entry.path)
                    if left <= 0:
                        break
        except OSError:  # it is not a folder, or one that the tool cannot see either
            continue
