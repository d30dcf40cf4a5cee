"""Collecting what a dead sandbox left in its output folder.

What lies there is hostile: symlinks to /etc, fifos that block whoever opens them, files of 2**60 bytes that
occupy none, ten thousand nested folders, names with line breaks. So nothing is opened by a path: the
tree is walked by directory descriptors, one component at a time, with O_NOFOLLOW and never blocking. First
everything is looked at and counted, and only what is within the limits is read. Memory, open
descriptors and time are bounded by the limits and not by the tree. It runs in a process that can be killed
(`praxis_sdk.jobs.collector`), so nothing here imports what such a process does not need.

Two different verdicts: an entry that cannot be an artifact is *rejected*, with a reason, and the others are
collected all the same; a *limit* that is exceeded ends the collection, and no file is returned, because half
of the outputs would look like all of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.artifacts.body import MAX_ARTIFACT_BYTES
from praxis_sdk.jobs.artifacts.errors import ArtifactChanged
from praxis_sdk.jobs.artifacts.names import TakenNames, name_problem
from praxis_sdk.jobs.artifacts.types.sniff import Sniffed, sniff
from praxis_sdk.states import FailureCategory

MAX_REJECTED: Final = 100  # notes kept; a job that leaves a million symlinks gets no million lines
_MAX_SHOWN_CHARACTERS: Final = 200
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK_BYTES: Final = 1 << 20
_ENTRY_ERRORS: Final = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ESTALE}
)

Identity = tuple[int, int, int]  # inode, size, change time in ns: the work cannot forge the last


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """What one job may leave behind; the first five have the names of the payload's limits.

    Args:
        artifact_count: artifacts.
        artifact_total_bytes: their summed length; a hole in a sparse file counts as if it were written.
        scratch_bytes: the space that they were written to. More than fits there are holes, which nobody needs hashed.
        file_size_bytes: the length of one.
        files: entries of the output folder, whatever they are, folders included.
        max_depth: folders inside each other; what lies deeper is rejected.
        max_name_bytes: length of an artifact's path below the output folder; a longer one is rejected.
    """

    artifact_count: int = 64
    artifact_total_bytes: int = 256 << 20
    scratch_bytes: int = 1 << 62
    file_size_bytes: int = 256 << 20
    files: int = 16_384
    max_depth: int = 32
    max_name_bytes: int = 512


class Reason(StrEnum):
    """Why an entry is no artifact."""

    SYMLINK = "it is a symbolic link"
    HARD_LINK = "it has more than one name (hard link)"
    FIFO = "it is a fifo"
    SOCKET = "it is a socket"
    DEVICE = "it is a device"
    SPECIAL = "it is neither a file nor a folder"
    NAME = "its name is not acceptable"
    COLLISION = "its name is that of another artifact where letter case does not count"
    TOO_LONG = "it is longer than an artifact can be"
    TOO_DEEP = "it lies too many folders deep"
    UNREADABLE = "the work made it unreadable"
    OTHER_FILE_SYSTEM = "it belongs to another file system"
    CHANGED = "it changed while it was read"


_SPECIAL: Final = {
    stat.S_IFLNK: Reason.SYMLINK,
    stat.S_IFIFO: Reason.FIFO,
    stat.S_IFSOCK: Reason.SOCKET,
    stat.S_IFBLK: Reason.DEVICE,
    stat.S_IFCHR: Reason.DEVICE,
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that was not collected.

    Args:
        name: its path below the output folder, made printable and cut.
        reason: why.
        detail: the reason in words, with what was found.
    """

    name: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit that ended the collection.

    Args:
        limit: its name in `ArtifactLimits`, which is that of the payload's limit.
        allowed: what it allows.
        found: what there is, at least.
    """

    limit: str
    allowed: int
    found: int

    @property
    def category(self) -> FailureCategory:
        """Always RESOURCE_LIMIT (spec 3, section 5.2)."""
        return FailureCategory.RESOURCE_LIMIT

    @property
    def message(self) -> str:
        """One line for the result's failure."""
        return f"the artifacts exceed the limit {self.limit}: {self.found} where {self.allowed} are allowed"


@dataclass(frozen=True, slots=True)
class CollectedFile:
    """One file that may become an artifact; its bytes still lie in the output folder.

    Args:
        name: its path below the output folder, with '/'.
        size_bytes: its length.
        digest: "sha256:..." of what was read.
        sniffed: what it is.
        identity: what tells it from another one that took its place.
    """

    name: str
    size_bytes: int
    digest: str
    sniffed: Sniffed
    identity: Identity = field(repr=False)

    def open(self, source_fd: int) -> int:
        """Open it again, for reading, below the folder that it was collected from.

        Returns:
            A descriptor that the caller closes.

        Raises:
            ArtifactChanged: it is no longer what was collected.
        """
        try:
            fd = _open_below(source_fd, self.name)
        except OSError as error:
            raise ArtifactChanged(self.digest) from error
        if _identity(os.fstat(fd)) != self.identity:
            os.close(fd)
            raise ArtifactChanged(self.digest)
        return fd


@dataclass(frozen=True, slots=True)
class Collection:
    """What was found in an output folder.

    Args:
        files: what may become artifacts, by name; empty when a limit was exceeded.
        rejected: the first entries that were not collected.
        rejected_count: how many were not.
        exceeded: the limit that ended the collection, if one did.
    """

    files: tuple[CollectedFile, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    rejected_count: int = 0
    exceeded: LimitExceeded | None = None


def collect(
    source_fd: int, limits: ArtifactLimits | None = None, *, exclude: frozenset[str] = frozenset()
) -> Collection:
    """Look through an output folder whose processes are all gone.

    It blocks while it reads.

    Args:
        source_fd: the folder (`Harvest.fd`); it stays the caller's.
        limits: None for the defaults.
        exclude: paths below the folder that are nobody's business; a folder stands for all that it holds.

    Raises:
        PlatformError: the folder cannot be read.
        MissingExtra: puremagic is not installed.
    """
    walk = _ArtifactWalk(limits or ArtifactLimits(), exclude, os.fstat(source_fd).st_dev)
    try:
        walk.directory(source_fd, ".", "", 0)
        files = tuple(walk.read(source_fd))
    except _Exceeded as verdict:
        return Collection((), tuple(walk.rejected), walk.rejected_count, verdict.exceeded)
    except OSError as error:
        raise PlatformError(f"the outputs cannot be read: {error.strerror}") from error
    return Collection(files, tuple(walk.rejected), walk.rejected_count)


class _Exceeded(Exception):
    """A verdict on its way out of the recursion."""

    def __init__(self, limit: str, allowed: int, found: int) -> None:
        super().__init__(limit)
        self.exceeded = LimitExceeded(limit, allowed, found)


@dataclass(slots=True)
class _ArtifactWalk:
    limits: ArtifactLimits
    exclude: frozenset[str]
    device: int
    found: list[tuple[str, Identity]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    rejected_count: int = 0
    entries: int = 0
    total_bytes: int = 0
    taken: TakenNames = field(default_factory=TakenNames)

    def directory(self, parent_fd: int, name: str, path: str, depth: int) -> None:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        except OSError as error:
            self.reject_after(error, path or ".")
            return
        try:
            # Overlays number files differently, but a folder tells where it lies.
            if os.fstat(fd).st_dev != self.device:
                self.reject(path, Reason.OTHER_FILE_SYSTEM)
                return
            for entry in sorted(self.names(fd)):
                self.entry(fd, entry, f"{path}/{entry}" if path else entry, depth)
        finally:
            os.close(fd)

    def names(self, fd: int) -> Iterator[str]:
        """List a folder, but no further than the limit on entries goes."""
        with os.scandir(fd) as entries:
            for entry in entries:
                self.entries += 1
                self.within("files", self.entries)
                yield entry.name

    def entry(self, parent_fd: int, name: str, path: str, depth: int) -> None:
        if path in self.exclude:
            return
        problem = name_problem(path, self.limits.max_name_bytes)
        if problem:
            self.reject(path, Reason.NAME, problem)
            return
        try:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            self.reject_after(error, path)
            return
        if stat.S_ISDIR(status.st_mode):
            if depth < self.limits.max_depth:
                self.directory(parent_fd, name, path, depth + 1)
            else:
                self.reject(path, Reason.TOO_DEEP)
        elif stat.S_ISREG(status.st_mode):
            self.regular(path, status)
        elif not _is_whiteout(status):
            self.reject(path, _SPECIAL.get(stat.S_IFMT(status.st_mode), Reason.SPECIAL))

    def regular(self, path: str, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            self.reject(path, Reason.HARD_LINK)
            return
        self.within("file_size_bytes", status.st_size)
        if status.st_size > MAX_ARTIFACT_BYTES:
            self.reject(path, Reason.TOO_LONG, f"it is longer than {MAX_ARTIFACT_BYTES >> 30} GiB")
            return
        other = self.taken.take(path)
        if other is not None:
            self.reject(path, Reason.COLLISION, f"its name is that of '{_shown(other)}' but for case or form")
            return
        self.found.append((path, _identity(status)))
        self.total_bytes += status.st_size
        self.within("artifact_count", len(self.found))
        self.within("artifact_total_bytes", self.total_bytes)
        self.within("scratch_bytes", self.total_bytes)

    def read(self, source_fd: int) -> Iterator[CollectedFile]:
        """Hash and type what was found; what cannot be opened or changes meanwhile is rejected."""
        for path, identity in self.found:
            try:
                fd = _open_below(source_fd, path)
            except OSError as error:
                self.reject_after(error, path)
                continue
            try:
                digest = hash_file(fd, identity[1])
                sniffed = sniff(_reader(fd), identity[1])
                changed = _identity(os.fstat(fd)) != identity
            finally:
                os.close(fd)
            if digest is None or changed:
                self.reject(path, Reason.CHANGED)
                continue
            yield CollectedFile(path, identity[1], digest, sniffed, identity)

    def within(self, limit: str, found: int) -> None:
        allowed: int = getattr(self.limits, limit)
        if found > allowed:
            raise _Exceeded(limit, allowed, found)

    def reject_after(self, error: OSError, path: str) -> None:
        if error.errno in (errno.EACCES, errno.EPERM):
            self.reject(path, Reason.UNREADABLE)
        elif error.errno in _ENTRY_ERRORS:
            self.reject(path, Reason.CHANGED)
        else:
            raise error

    def reject(self, path: str, reason: Reason, detail: str = "") -> None:
        self.rejected_count += 1
        if len(self.rejected) < MAX_REJECTED:
            self.rejected.append(Rejected(_shown(path), reason, detail or reason.value))


def _open_below(source_fd: int, path: str) -> int:
    """Open a regular file by its components, following nothing."""
    *folders, name = path.split("/")
    parent_fd = os.open(".", _DIRECTORY, dir_fd=source_fd)
    try:
        for folder in folders:
            inner_fd = os.open(folder, _DIRECTORY, dir_fd=parent_fd)
            os.close(parent_fd)
            parent_fd = inner_fd
        return os.open(name, _FILE, dir_fd=parent_fd)
    finally:
        os.close(parent_fd)


def _identity(status: os.stat_result) -> Identity:
    return (status.st_ino, status.st_size, status.st_ctime_ns)


def hash_file(fd: int, size_bytes: int) -> str | None:
    """Return the digest of a file's bytes, or None when there are more or fewer than its size said."""
    digest = hashlib.sha256()
    buffer = bytearray(min(_CHUNK_BYTES, size_bytes + 1))  # and none of its pages more than is needed
    view = memoryview(buffer)
    offset = 0
    while offset <= size_bytes:
        count = os.preadv(fd, [view[: min(_CHUNK_BYTES, size_bytes - offset + 1)]], offset)
        if count == 0:
            break
        digest.update(view[:count])
        offset += count
    return f"sha256:{digest.hexdigest()}" if offset == size_bytes else None


def _reader(fd: int) -> Callable[[int, int], bytes]:
    return lambda offset, size_bytes: os.pread(fd, size_bytes, offset)


def _shown(path: str) -> str:
    """Make a hostile name harmless to a terminal and a log."""
    text = path[:_MAX_SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)[:_MAX_SHOWN_CHARACTERS]


def _is_whiteout(status: os.stat_result) -> bool:
    """Tell whether an entry is an overlay's mark of a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
