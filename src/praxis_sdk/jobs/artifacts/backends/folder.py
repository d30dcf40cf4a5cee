"""Artifacts in a folder of this machine.

A new object is written to `tmp/`, hashed on its way, synced, made read-only and then linked to its name, which
fails when the name is taken: so it is there whole or not at all, once, and its folder entry is synced
before anybody is told. (obstore's local store renames in the same way, but syncs neither file nor folder.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

from praxis_sdk.jobs.artifacts.backends.backend import ObjectStat
from praxis_sdk.jobs.artifacts.body import Body
from praxis_sdk.jobs.artifacts.errors import ArtifactStoreUnavailable
from praxis_sdk.jobs.artifacts.threads import in_thread

_CHUNK_BYTES: Final = 1 << 20
_TEMPORARY: Final = "tmp"


class Folder:
    """A `Backend` in a local folder, which is made with the first write.

    Args:
        root: the folder; nobody but Praxis may write there.
        clock: the time in seconds since 1970.
    """

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        self._root = root
        self._clock = clock

    def uri(self, key: str) -> str:
        """Return `artifact:KEY`, which does not tell where the folder is."""
        return f"artifact:{key}"

    async def create(self, key: str, body: Body) -> bool:
        """See `Backend.create`."""
        return await in_thread(self._create, key, body)

    async def renew(self, key: str, body: Body) -> None:
        """See `Backend.renew`; only the time is set, and nothing happens to an object that is gone."""
        _ = body
        with self._translated(), contextlib.suppress(FileNotFoundError):
            os.utime(self._root / key, (self._clock(), self._clock()), follow_symlinks=False)

    async def stat(self, key: str) -> ObjectStat | None:
        """See `Backend.stat`."""
        with self._translated():
            return _stat(self._root / key, key)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`."""
        with self._translated(except_for=FileNotFoundError):
            fd = os.open(self._root / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            offset = 0
            while True:
                with self._translated():
                    chunk = await in_thread(os.pread, fd, _CHUNK_BYTES, offset)
                if not chunk:
                    return
                offset += len(chunk)
                yield chunk
        finally:
            os.close(fd)

    async def objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See `Backend.objects`."""
        pending = [prefix]
        while pending:
            folder = pending.pop()
            objects, folders = await in_thread(self._scan, folder)
            pending.extend(folders)
            for item in objects:
                yield item

    async def remove(self, key: str) -> None:
        """See `Backend.remove`."""
        with self._translated(), contextlib.suppress(FileNotFoundError):
            await in_thread(os.unlink, self._root / key)

    async def tidy(self, before_s: float) -> None:
        """See `Backend.tidy`."""
        await in_thread(self._tidy, before_s)

    def _create(self, key: str, body: Body) -> bool:
        with self._translated():
            target = self._root / key
            self._make_folders(target.parent)
            temporary = self._root / _TEMPORARY / uuid.uuid4().hex
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            try:
                try:
                    self._fill(fd, body)
                finally:
                    os.close(fd)
                try:
                    os.link(temporary, target, follow_symlinks=False)
                except FileExistsError:
                    return False
                finally:
                    # Also where somebody else made it a moment ago and has not come to this yet.
                    _sync(target.parent)
            finally:
                os.unlink(temporary)
        return True

    def _fill(self, fd: int, body: Body) -> None:
        for chunk in body.chunks(_CHUNK_BYTES):
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        os.fchmod(fd, 0o444)
        os.utime(fd, (self._clock(), self._clock()))
        os.fsync(fd)

    def _make_folders(self, folder: Path) -> None:
        """Make a folder below the root, and sync each above it even if it was there: its maker may not have yet."""
        if not self._root.is_dir():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(self._root.parent)
        (self._root / _TEMPORARY).mkdir(mode=0o700, exist_ok=True)
        missing = [folder, *folder.parents]
        for inner in reversed(missing[: missing.index(self._root)]):
            inner.mkdir(mode=0o700, exist_ok=True)
            _sync(inner.parent)

    def _scan(self, prefix: str) -> tuple[list[ObjectStat], list[str]]:
        objects: list[ObjectStat] = []
        folders: list[str] = []
        with (
            self._translated(),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._root / prefix) as entries,
        ):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{prefix}{entry.name}/")
                    continue
                found = _stat(Path(entry.path), f"{prefix}{entry.name}")
                if found:
                    objects.append(found)
        return objects, folders

    def _tidy(self, before_s: float) -> None:
        with self._translated(), contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self._root / _TEMPORARY)):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before_s:
                        os.unlink(entry.path)

    @contextlib.contextmanager
    def _translated(self, except_for: type[OSError] | tuple[()] = ()) -> Iterator[None]:
        try:
            yield
        except except_for:
            raise
        except OSError as error:
            remedy = "check its rights, its owner and the free space there"
            if error.errno == errno.ELOOP:
                remedy = "a symbolic link has taken the place of an object; nobody but Praxis may write there"
            raise ArtifactStoreUnavailable(
                f"the artifact folder {self._root} cannot be used: {error.strerror}", remedy=remedy
            ) from error


def _stat(path: Path, key: str) -> ObjectStat | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ELOOP, "something else than a file lies in it")
    return ObjectStat(key, status.st_size, status.st_mtime)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
