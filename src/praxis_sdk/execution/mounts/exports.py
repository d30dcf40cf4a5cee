"""Copying back to the host what a tool changed in its read-write mounts.

What the tool left behind is hostile: symlinks to /etc, names with line breaks, fifos that block whoever
opens them, ten thousand nested folders. So nothing is opened by a path of more than one component: both
trees are walked by directory descriptors with O_NOFOLLOW, only regular files are read, and each file
takes the place of its predecessor by rename. Deletions are not propagated. The walk runs after the last
process of the tool is gone, so nothing changes under it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.execution.mounts.policy import open_without_symlinks
from praxis_sdk.execution.outcome import ExportedFile, Exports

MAX_FILES: Final = 100_000
MAX_BYTES: Final = 4 << 30  # as the lengths of files say, holes included
MAX_DEPTH: Final = 64
_MAX_SKIPPED: Final = 100  # notes kept; a tool that leaves a million symlinks gets no million lines
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COMPARE_BYTES: Final = 1 << 20

Fingerprint = tuple[int, int, int]  # inode, size, change time in ns: the tool cannot forge the last


def fingerprint(status: os.stat_result) -> Fingerprint:
    """Return what tells a file that was written to from one that was not."""
    return (status.st_ino, status.st_size, status.st_ctime_ns)


def export_changes(
    source_fd: int,
    target: Path,
    mount: str,
    *,
    nested: frozenset[str] = frozenset(),
    baseline: Mapping[str, Fingerprint] | None = None,
    since_ns: int | None = None,
) -> Exports:
    """Copy changed files from a tool's side of a mount to the host's side.

    Args:
        source_fd: directory (or regular file, for the mount of a single file) with the tool's side.
        target: the mount's source on the host.
        mount: the mount's path inside, for the report.
        nested: paths below the mount where other mounts lie; they are left alone.
        baseline: fingerprints of the tool's side before it ran; files that still have theirs are
            unchanged. Without it every file whose content differs is a change.
        since_ns: when the tool got its side. A file that changed on the host after that is replaced all the
            same, as in any shared folder, and is marked in the result: another run or a person wrote it.

    Returns:
        What was copied, and what was left out and why.

    Raises:
        PlatformError: the host's side cannot be written.
    """
    try:
        return _export(
            source_fd, target, _ExportWalk(mount, nested, baseline or {}, since_ns, _owner_of(target))
        )
    except OSError as error:
        raise PlatformError(
            f"engineSpec.mounts: what '{mount}' holds cannot be written to {target}: {error.strerror}",
            remedy="check rights and free space there, or mount it with ':ro'",
        ) from error


def _export(source_fd: int, target: Path, walk: _ExportWalk) -> Exports:
    if stat.S_ISREG(os.fstat(source_fd).st_mode):
        parent_fd = open_without_symlinks(target.parent, _DIRECTORY)
        try:
            walk.copy_file(source_fd, parent_fd, target.name, shown="")
        finally:
            os.close(parent_fd)
    else:
        target_fd = open_without_symlinks(target, _DIRECTORY)
        try:
            walk.directory(source_fd, target_fd, "", depth=0)
        finally:
            os.close(target_fd)
    return Exports(files=tuple(walk.files), skipped=tuple(walk.skipped))


@dataclass
class _ExportWalk:
    mount: str
    nested: frozenset[str]
    baseline: Mapping[str, Fingerprint]
    since_ns: int | None
    owner: tuple[int, int] | None
    bytes_left: int = MAX_BYTES
    files: list[ExportedFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def directory(self, source_fd: int, target_fd: int, below: str, depth: int) -> None:
        with os.scandir(source_fd) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            path = f"{below}{name}"
            if path in self.nested:
                continue
            if len(self.files) >= MAX_FILES:
                self.skip(path, f"more than {MAX_FILES} files changed")
                return
            if not name.isprintable():
                self.skip(path, "its name holds control characters or is not UTF-8")
                continue
            status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self.subdirectory(source_fd, target_fd, name, path, depth + 1)
            elif stat.S_ISREG(status.st_mode):
                if self.baseline.get(path) != fingerprint(status):
                    self.regular(source_fd, target_fd, name, path)
            elif not (_is_whiteout(status) or _same_link(status, source_fd, target_fd, name)):
                self.skip(path, f"it is a {_kind(status.st_mode)}")

    def subdirectory(self, source_fd: int, target_fd: int, name: str, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.skip(path, f"nested deeper than {MAX_DEPTH} folders")
            return
        try:
            inner_source = os.open(name, _DIRECTORY, dir_fd=source_fd)
        except PermissionError:
            self.skip(path, "the tool made it unreadable")
            return
        try:
            inner_target = self.open_or_make(target_fd, name)
        except OSError as error:
            os.close(inner_source)
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            self.skip(path, "the host has something else than a folder there")
            return
        try:
            self.directory(inner_source, inner_target, f"{path}/", depth)
        finally:
            os.close(inner_source)
            os.close(inner_target)

    def open_or_make(self, target_fd: int, name: str) -> int:
        try:
            os.mkdir(name, 0o755, dir_fd=target_fd)
        except FileExistsError:
            return os.open(name, _DIRECTORY, dir_fd=target_fd)
        made = os.open(name, _DIRECTORY, dir_fd=target_fd)
        if self.owner is not None:
            os.fchown(made, *self.owner)
        return made

    def regular(self, source_fd: int, target_fd: int, name: str, path: str) -> None:
        try:
            file_fd = os.open(name, _FILE, dir_fd=source_fd)
        except PermissionError:
            self.skip(path, "the tool made it unreadable")
            return
        try:
            self.copy_file(file_fd, target_fd, name, shown=path)
        finally:
            os.close(file_fd)

    def copy_file(self, file_fd: int, target_fd: int, name: str, shown: str) -> None:
        status = os.fstat(file_fd)
        try:
            if _same_content(file_fd, status.st_size, target_fd, name):
                return
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR):
                raise
            self.skip(shown, "the host has something else than a file there")
            return
        if status.st_size > self.bytes_left:
            self.skip(shown, f"the changed files together are longer than {MAX_BYTES >> 30} GiB")
            return
        self.bytes_left -= status.st_size
        temporary = f".praxis-{os.getpid()}-{len(self.files)}~"
        copy_fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target_fd
        )
        try:
            try:
                _copy(file_fd, copy_fd, status.st_size)
                if self.owner is not None:
                    os.fchown(copy_fd, *self.owner)
                os.fchmod(copy_fd, status.st_mode & 0o777)  # never setuid, setgid or sticky
            finally:
                os.close(copy_fd)
            overtaken = self.changed_on_host(target_fd, name)
            os.rename(temporary, name, src_dir_fd=target_fd, dst_dir_fd=target_fd)
        except BaseException:
            os.unlink(temporary, dir_fd=target_fd)
            raise
        self.files.append(ExportedFile(self.mount, shown, status.st_size, overtaken))

    def changed_on_host(self, target_fd: int, name: str) -> bool:
        """Tell whether the host's file is younger than the tool's side of the mount."""
        if self.since_ns is None:
            return False
        try:
            return os.stat(name, dir_fd=target_fd, follow_symlinks=False).st_ctime_ns > self.since_ns
        except FileNotFoundError:
            return False

    def skip(self, path: str, reason: str) -> None:
        if len(self.skipped) < _MAX_SKIPPED:
            shown = path.encode("utf-8", "backslashreplace").decode()
            shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)[:200]
            self.skipped.append(f"{self.mount}/{shown} was not exported: {reason}")


def _same_link(status: os.stat_result, source_fd: int, target_fd: int, name: str) -> bool:
    """Tell whether a symlink of the tool's side is one that the host has, too."""
    if not stat.S_ISLNK(status.st_mode):
        return False
    try:
        return os.readlink(name, dir_fd=source_fd) == os.readlink(name, dir_fd=target_fd)
    except OSError:
        return False


def _same_content(file_fd: int, size_bytes: int, target_fd: int, name: str) -> bool:
    try:
        other_fd = os.open(name, _FILE, dir_fd=target_fd)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        other = os.fstat(other_fd)
        if stat.S_ISDIR(other.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", name)
        if not stat.S_ISREG(other.st_mode) or other.st_size != size_bytes:
            return False
        offset = 0
        while chunk := os.pread(file_fd, _COMPARE_BYTES, offset):
            if chunk != os.pread(other_fd, _COMPARE_BYTES, offset):
                return False
            offset += len(chunk)
        return True
    finally:
        os.close(other_fd)


def _copy(source_fd: int, copy_fd: int, size_bytes: int) -> None:
    """Copy what was written; holes stay holes, so that a sparse file costs the host no more than the tool."""
    os.ftruncate(copy_fd, size_bytes)
    end = 0
    while end < size_bytes:
        try:
            offset = os.lseek(source_fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = min(os.lseek(source_fd, offset, os.SEEK_HOLE), size_bytes)
        os.lseek(copy_fd, offset, os.SEEK_SET)
        while offset < end:
            sent = os.sendfile(copy_fd, source_fd, offset, min(end - offset, 1 << 24))
            if sent == 0:
                return
            offset += sent


def _owner_of(target: Path) -> tuple[int, int] | None:
    """Return whose the exported files shall be; None where Praxis cannot choose or need not."""
    status = os.stat(target)
    if os.geteuid() != 0:
        return None
    return (status.st_uid, status.st_gid)


def _is_whiteout(status: os.stat_result) -> bool:
    """Tell whether an entry is an overlay's mark of a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _kind(mode: int) -> str:
    names = {
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFBLK: "block device",
        stat.S_IFCHR: "character device",
    }
    return names.get(stat.S_IFMT(mode), "special file")
