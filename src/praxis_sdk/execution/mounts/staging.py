"""Private copies of read-write mounts: the tool changes the copy, and what changed is exported.

An engine that hands directories to a container cannot hand out the host's own: a write could not be
taken back, and a hostile tool could race whoever reads there. So the tree is copied before the run and
`exports` copies the changes back after it. Both trees are walked by directory descriptors with
O_NOFOLLOW, as in `exports`; on file systems with reflinks (btrfs, XFS) the copies share their blocks.

Mount points of nested mounts are made in the copy, since the engine's runtime would otherwise make them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import posixpath
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.mounts.exports import MAX_DEPTH, Fingerprint, export_changes, fingerprint
from praxis_sdk.execution.mounts.mounts import ToolMount, nested_names
from praxis_sdk.execution.mounts.policy import open_without_symlinks
from praxis_sdk.execution.outcome import Exports
from praxis_sdk.units import format_bytes

MAX_STAGED_BYTES: Final = 1 << 30
MAX_STAGED_ENTRIES: Final = 100_000
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COPY_BYTES: Final = 1 << 24


@dataclass
class StagingBudget:
    """What the copies of one run may still take up, and whether anybody still wants them.

    Args:
        left_bytes: bytes of content still allowed.
        left_entries: files, folders and symlinks still allowed.
        abandoned: set by another thread to make `stage` give up.
    """

    left_bytes: int = MAX_STAGED_BYTES
    left_entries: int = MAX_STAGED_ENTRIES
    abandoned: threading.Event = field(default_factory=threading.Event)

    def take(self, mount: ToolMount, size_bytes: int) -> None:
        """Count one more entry.

        Raises:
            ValidationError: the mounts are too large to be copied.
            InterruptedError: nobody wants the copy any more.
        """
        if self.abandoned.is_set():
            raise InterruptedError(errno.EINTR, "the copy was abandoned")
        self.left_bytes -= size_bytes
        self.left_entries -= 1
        if self.left_bytes < 0 or self.left_entries < 0:
            limit = f"{format_bytes(MAX_STAGED_BYTES)} and {MAX_STAGED_ENTRIES:,} files"
            raise ValidationError(
                f"engineSpec.mounts: '{mount.source}' is too large: what a tool may write to is copied, "
                f"up to {limit} for all mounts of a run",
                remedy=f"mount a smaller folder, or write '{mount.target}:ro' if the tool only reads it",
            )


@dataclass(frozen=True)
class StagedMount:
    """A private copy of a mount's source.

    Args:
        mount: what it is a copy of.
        path: where the copy is.
        baseline: fingerprints of its files before the run.
        made: mount points and their parents that the source does not have, outermost first.
    """

    mount: ToolMount
    path: Path
    baseline: Mapping[str, Fingerprint]
    made: tuple[str, ...] = ()


def lacks_mount_point(mount: ToolMount, mounts: Iterable[ToolMount]) -> bool:
    """Tell whether the source of a mount has no place for one of the mounts nested in it."""
    for nested in mounts:
        if mount.covers(nested):
            place = mount.source / posixpath.relpath(nested.target, mount.target)
            if place.resolve() != place or place.is_dir() != nested.source.is_dir() or not place.exists():
                return True
    return False


def stage(
    mount: ToolMount,
    path: Path,
    mounts: Iterable[ToolMount],
    *,
    owner: tuple[int, int] | None,
    budget: StagingBudget,
) -> StagedMount:
    """Copy a mount's source, without what other mounts cover; blocks, so call it in a thread.

    Symlinks are copied as symlinks; fifos, sockets and devices are left out.

    Args:
        mount: what to copy.
        path: where the copy shall be; must not exist.
        mounts: all mounts of the run.
        owner: whose the copy shall be; None for the caller's.
        budget: what it may take up; counts down.

    Raises:
        ValidationError: the source is too large or too deep, cannot be read, or has no room for a nested mount.
        OSError: the copy cannot be written.
    """
    covered = {
        posixpath.relpath(other.target, mount.target): other.source.is_dir()
        for other in mounts
        if mount.covers(other)
    }
    copy = _Copy(mount, covered, owner, budget)
    if mount.source.is_file():
        if covered:
            raise ValidationError(
                f"engineSpec.mounts: '{mount.source}' is a file; nothing can be mounted in it"
            )
        with (
            _open(copy, mount.source.parent, _DIRECTORY) as source_fd,
            _open(copy, path.parent, _DIRECTORY) as target_fd,
        ):
            copy.file(source_fd, mount.source.name, target_fd, path.name, shown="")
        return StagedMount(mount, path, {})
    path.mkdir(mode=0o700)
    with _open(copy, mount.source, _DIRECTORY) as source_fd, _open(copy, path, _DIRECTORY) as target_fd:
        copy.directory(source_fd, target_fd, "", depth=0)
        for name, is_folder in sorted(covered.items()):
            copy.mount_point(target_fd, name, is_folder=is_folder)
    return StagedMount(mount, path, copy.baseline, tuple(copy.made))


def export_staged(staged: StagedMount, mounts: Iterable[ToolMount]) -> Exports:
    """Copy what the tool changed in a staged mount to its source; blocks, so call it in a thread.

    Raises:
        OSError: the host's side cannot be written.
    """
    source_fd = os.open(staged.path, _FILE if staged.path.is_file() else _DIRECTORY)
    try:
        for name in reversed(staged.made):
            _remove_if_empty(source_fd, name)
        return export_changes(
            source_fd,
            staged.mount.source,
            staged.mount.target,
            nested=nested_names(staged.mount, mounts),
            baseline=staged.baseline,
            since_ns=staged.mount.seen_ns,
        )
    finally:
        os.close(source_fd)


def remove_tree(path: Path) -> None:
    """Remove a directory and whatever a hostile tool left in it: no depth, mode or symlink stands in the way.

    What lies deeper than `MAX_DEPTH` is moved up to the top first, so that depth costs neither descriptors
    nor stack.
    """
    fresh = (f".praxis-{number}~" for number in itertools.count())
    top_fd = os.open(path, _DIRECTORY)
    try:
        while names := _clear(top_fd):
            for name in names:
                _remove_folder(top_fd, name, top_fd, fresh, depth=1)
    finally:
        os.close(top_fd)
    path.rmdir()


def _remove_folder(parent_fd: int, name: str, top_fd: int, fresh: Iterator[str], depth: int) -> None:
    _unlock(parent_fd, name)
    folder_fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        for inner in _clear(folder_fd):
            if depth < MAX_DEPTH:
                _remove_folder(folder_fd, inner, top_fd, fresh, depth + 1)
            else:
                _unlock(folder_fd, inner)
                _move_to_top(folder_fd, inner, top_fd, fresh)
    finally:
        os.close(folder_fd)
    os.rmdir(name, dir_fd=parent_fd)


def _clear(folder_fd: int) -> list[str]:
    """Unlink all that is no folder; returns the names of the folders that are left."""
    with os.scandir(folder_fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder_fd)
    return [name for name, is_folder in found if is_folder]


def _move_to_top(folder_fd: int, name: str, top_fd: int, fresh: Iterator[str]) -> None:
    for new in fresh:
        try:
            os.rename(name, new, src_dir_fd=folder_fd, dst_dir_fd=top_fd)
        except OSError as error:  # the tool has one of that name
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return


def _unlock(folder_fd: int, name: str) -> None:
    """Give ourselves the rights to enter and change a folder, where the tool took them away."""
    inner_fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        os.chmod(f"/proc/self/fd/{inner_fd}", 0o700)
    finally:
        os.close(inner_fd)


@dataclass
class _Copy:
    mount: ToolMount
    covered: Mapping[str, bool]
    owner: tuple[int, int] | None
    budget: StagingBudget
    baseline: dict[str, Fingerprint] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    present: set[str] = field(default_factory=set)

    def directory(self, source_fd: int, target_fd: int, below: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValidationError(
                f"engineSpec.mounts: '{self.mount.source}' is nested deeper than {MAX_DEPTH} folders"
            )
        with os.scandir(source_fd) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            path = f"{below}{name}"
            status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
            if path in self.covered:
                self.present.add(path)
            elif stat.S_ISDIR(status.st_mode):
                self.budget.take(self.mount, 0)
                os.mkdir(name, 0o700, dir_fd=target_fd)
                with (
                    _open(self, name, _DIRECTORY, source_fd, path) as inner_source,
                    _open(self, name, _DIRECTORY, target_fd) as inner_target,
                ):
                    self.directory(inner_source, inner_target, f"{path}/", depth + 1)
            elif stat.S_ISREG(status.st_mode):
                self.file(source_fd, name, target_fd, name, shown=path)
            elif stat.S_ISLNK(status.st_mode):
                self.budget.take(self.mount, 0)
                os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
                if self.owner is not None:
                    os.chown(name, *self.owner, dir_fd=target_fd, follow_symlinks=False)
        self.finish(target_fd, os.fstat(source_fd))

    def file(self, source_fd: int, name: str, target_fd: int, target_name: str, shown: str) -> None:
        with _open(self, name, _FILE, source_fd, shown) as file_fd:
            status = os.fstat(file_fd)
            self.budget.take(self.mount, status.st_size)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            copy_fd = os.open(target_name, flags, 0o600, dir_fd=target_fd)
            try:
                _copy_content(file_fd, copy_fd, status.st_size)
                self.finish(copy_fd, status)
                self.baseline[shown] = fingerprint(os.fstat(copy_fd))
            finally:
                os.close(copy_fd)

    def finish(self, copy_fd: int, status: os.stat_result) -> None:
        if self.owner is not None:
            os.fchown(copy_fd, *self.owner)
        os.fchmod(copy_fd, status.st_mode & 0o777)  # never setuid, setgid or sticky
        os.utime(copy_fd, ns=(status.st_atime_ns, status.st_mtime_ns))

    def mount_point(self, root_fd: int, name: str, *, is_folder: bool) -> None:
        parents = name.split("/")[:-1]
        folder_fd = os.dup(root_fd)
        try:
            for depth, part in enumerate(parents, start=1):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder_fd)
                    self.give(folder_fd, part)
                    self.made.append("/".join(parents[:depth]))
                inner_fd = os.open(part, _DIRECTORY, dir_fd=folder_fd)
                os.close(folder_fd)
                folder_fd = inner_fd
            last = posixpath.basename(name)
            if is_folder:
                os.mkdir(last, 0o755, dir_fd=folder_fd)
            else:
                os.close(
                    os.open(
                        last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder_fd
                    )
                )
            self.give(folder_fd, last)
        except OSError as error:
            raise ValidationError(
                f"engineSpec.mounts: '{self.mount.source}' has no room for a mount at '{name}': {error.strerror}",
                remedy="a folder on the way to it is a file or a symlink; mount it elsewhere",
            ) from error
        finally:
            os.close(folder_fd)
        if name not in self.present:
            self.made.append(name)

    def give(self, folder_fd: int, name: str) -> None:
        if self.owner is not None:
            os.chown(name, *self.owner, dir_fd=folder_fd, follow_symlinks=False)


@contextlib.contextmanager
def _open(
    copy: _Copy, path: Path | str, flags: int, dir_fd: int | None = None, shown: str = ""
) -> Iterator[int]:
    try:
        of_host = isinstance(path, Path) and path in (copy.mount.source, copy.mount.source.parent)
        fd = open_without_symlinks(Path(path), flags) if of_host else os.open(path, flags, dir_fd=dir_fd)
    except PermissionError as error:
        raise ValidationError(
            f"engineSpec.mounts: '{copy.mount.source / shown}' cannot be read by Praxis, so it cannot be copied",
            remedy="give this user the right to read it, or mount another folder",
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _copy_content(file_fd: int, copy_fd: int, size_bytes: int) -> None:
    """Copy a file's content, by reference where the file system can."""
    offset = 0
    by_range = True
    while offset < size_bytes:
        count = min(size_bytes - offset, _COPY_BYTES)
        try:
            if by_range:
                copied = os.copy_file_range(file_fd, copy_fd, count, offset, offset)
            else:
                copied = os.sendfile(copy_fd, file_fd, offset, count)
        except OSError as error:
            if not by_range or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            by_range = False
            os.lseek(copy_fd, offset, os.SEEK_SET)
            continue
        if copied == 0:  # it shrank meanwhile
            return
        offset += copied


def _remove_if_empty(root_fd: int, name: str) -> None:
    """Remove what was made for a mount, unless the tool put something there; follows nothing."""
    *parents, last = name.split("/")
    folder_fd = os.dup(root_fd)
    try:
        for part in parents:
            inner_fd = os.open(part, _DIRECTORY, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = inner_fd
        status = os.stat(last, dir_fd=folder_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(last, dir_fd=folder_fd)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(last, dir_fd=folder_fd)
    except OSError:
        pass  # the tool changed it, so it is the export's business
    finally:
        os.close(folder_fd)
