"""Liveness on one machine: a worker whose process died is known to be dead at once, not when its lease runs out.

Each worker holds a lock on a file of its own, which the kernel releases when the process is gone, whatever
ended it. A lock that can be had belongs to nobody: its worker is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from praxis_sdk.model import Worker

SWEEP_AFTER_S: Final = 86_400.0
_LOOKS_OF_OTHERS: Final = 50
_LOOK_S: Final = 0.001


class Liveness:
    """The locks of the workers that share a folder.

    Args:
        folder: where the locks are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, worker_id: str) -> None:
        """Lock a worker's file until `release`, or until this process ends; repeatable.

        Raises:
            OSError: the file cannot be made, or another process holds it.
        """
        if worker_id in self._held:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._path(worker_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock)
        except OSError:
            os.close(lock)
            raise
        self._held[worker_id] = lock
        self._sweep()

    def release(self, worker_id: str) -> None:
        """Let a worker's file go; repeatable."""
        lock = self._held.pop(worker_id, None)
        if lock is not None:
            self._path(worker_id).unlink(missing_ok=True)
            os.close(lock)

    async def dead(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Return those workers whose process is certainly gone; of others nothing is known."""
        return [worker for worker in workers if worker.id not in self._held and self._is_dead(worker.id)]

    def alive(self, worker_id: str) -> bool | None:
        """Return whether a worker's process is there; None where nothing is known of it."""
        if worker_id in self._held:
            return True
        return not self._is_dead(worker_id) if self._path(worker_id).exists() else None

    def _is_dead(self, worker_id: str) -> bool:
        try:
            lock = os.open(self._path(worker_id), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return False  # of another machine, of another folder, or of another user
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True  # the file stays until the loss is on record, whoever gets that far
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove the files of workers that died long ago."""
        for path in self._folder.glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):  # others sweep, too
                old = time.time() - path.stat().st_mtime > SWEEP_AFTER_S
                if old and path.stem not in self._held and self._is_dead(path.stem):
                    path.unlink()

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}.lock"


def _lock(descriptor: int) -> None:
    """Lock a file of one's own, which others lock for a moment when they look whether its owner lives."""
    for _ in range(_LOOKS_OF_OTHERS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOOK_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
