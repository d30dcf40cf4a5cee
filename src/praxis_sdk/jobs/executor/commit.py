"""Group commit: files that several callers want kept are written and synced together, by one thread at a time.

A sync costs the same for one file as for many of one folder, and a thread costs more than the file. So whoever comes
while a batch is being written waits for the next one, and shares it with all who came meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_BATCH: Final = 64  # files; the first caller of a batch waits for the last file of it
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class PendingFile:
    """A file that is to be kept.

    Args:
        path: its place; what was there before is replaced in one step.
        content: all of it.
        link: a second name for it, which may be lost in a power cut; None for none.
    """

    path: str
    content: bytes
    link: str | None = None


_Waiting = tuple[PendingFile, asyncio.Future[None]]


class FileGroupCommit:
    """Writes entries for any number of callers of one event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._writing = False

    async def keep(self, entry: PendingFile) -> None:
        """Keep a file; durable when this returns. Who is cancelled meanwhile does not stop the writing.

        Raises:
            OSError: it cannot be written.
        """
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, kept))
        if not self._writing:
            self._write_next()
        await kept

    def _write_next(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        entries = [entry for entry, _ in batch]
        try:
            writing = asyncio.get_running_loop().run_in_executor(None, commit, entries)
        except RuntimeError as error:  # the loop is being closed, and gives nobody a thread any more
            for _, kept in batch:
                kept.set_exception(OSError(errno.ECANCELED, str(error)))
            return
        self._writing = True
        writing.add_done_callback(lambda written: self._tell(batch, written))

    def _tell(self, batch: list[_Waiting], written: asyncio.Future[list[OSError | None]]) -> None:
        self._writing = False
        if self._waiting:
            self._write_next()
        failure = None if written.cancelled() else written.exception()
        problems = [failure] * len(batch) if failure or written.cancelled() else written.result()
        for (_, kept), problem in zip(batch, problems, strict=True):
            if kept.done():
                continue  # its caller was cancelled
            if written.cancelled():
                kept.cancel()
            elif problem is not None:
                kept.set_exception(problem)
            else:
                kept.set_result(None)


def commit(entries: Sequence[PendingFile]) -> list[OSError | None]:
    """Write files so that each is there as a whole or not at all, and survives a power cut.

    Returns:
        For each entry, in order: None once it is durable, or why it is not.
    """
    problems: list[OSError | None] = [None] * len(entries)
    written: list[tuple[int, int, str]] = []
    folders: dict[str, list[int]] = {}
    # First all are written and then all are synced: the first sync takes much of the others along.
    for index, entry in enumerate(entries):
        try:
            written.append((index, *_write_beside(entry)))
        except OSError as error:
            problems[index] = error
    for index, fd, new in written:
        path = entries[index].path
        try:
            os.fsync(fd)
            os.replace(new, path)
            folders.setdefault(os.path.dirname(path), []).append(index)
        except OSError as error:
            problems[index] = error
            _remove(new)
        finally:
            os.close(fd)
    for folder, indexes in folders.items():
        try:
            _sync_folder(folder)
        except OSError as error:
            for index in indexes:
                problems[index] = error
    for entry, problem in zip(entries, problems, strict=True):
        if problem is None and entry.link is not None:
            _name_besides(entry, entry.link)  # not a file of its own: making one costs more than both syncs
    return problems


def _write_beside(entry: PendingFile) -> tuple[int, str]:
    """Write an entry's bytes under another name; returns the open file and that name."""
    new = _beside(entry.path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(new, flags, 0o666)
    except FileNotFoundError:
        _make_folder(os.path.dirname(new))
        fd = os.open(new, flags, 0o666)
    try:
        view = memoryview(entry.content)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        _remove(new)
        raise
    return fd, new


def _name_besides(entry: PendingFile, link: str) -> None:
    """Give a file its second name; what that leads to is kept in any case, and that is what was promised."""
    new = _beside(link)
    with contextlib.suppress(OSError):
        try:
            os.link(entry.path, link)
            return
        except FileExistsError:
            os.link(entry.path, new)
        except FileNotFoundError:
            _make_folder(os.path.dirname(link))
            os.link(entry.path, new)
        os.replace(new, link)
    _remove(new)  # replacing a name of the very same file does nothing, and leaves both


def _beside(path: str) -> str:
    return f"{path}.{os.getpid()}.{next(_numbers)}.new"


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _make_folder(folder: str) -> None:
    """Make a folder that is there after a power cut, and those above it."""
    if not os.path.isdir(folder):
        above = os.path.dirname(folder)
        _make_folder(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(above)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
