"""Turns: processes that write to one file in a row each get theirs.

SQLite lets whoever finds its lock free have it, and who waits looks only now and then: a busy process would keep
all others out. So a writer first takes `next`, then `turn`, then gives `next` back, and has `turn` until it has
committed. Who has just had its turn cannot have it again before the one that holds `next`.
The locks belong to an open file and end with it, however a process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from praxis_sdk.store.protocol import StoreUnavailable

LOOK_AGAIN_S: Final = 0.0005
_NEXT: Final = 0  # the byte of the file that is locked
_TURN: Final = 1


class Turns:
    """One writer's way to its turn.

    Args:
        path: the file of the locks; made where it is missing.
        wait_s: how long others may keep it waiting, in seconds.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, wait_s: float) -> None:
        self._path = path
        self._wait_s = wait_s
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def taken(self, wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Have a turn.

        Args:
            wanted: whether anybody still waits for it.

        Raises:
            StoreUnavailable: others did not give it up in time, or nobody waits for it any more.
        """
        deadline = time.monotonic() + self._wait_s
        try:
            self._wait(_NEXT, deadline, wanted)
            self._wait(_TURN, deadline, wanted)
            self._lock(_NEXT, fcntl.F_UNLCK)
            yield
        finally:
            self._lock(_NEXT, fcntl.F_UNLCK)
            self._lock(_TURN, fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _wait(self, byte: int, deadline: float, wanted: Callable[[], bool]) -> None:
        while not self._lock(byte, fcntl.F_WRLCK):
            if not wanted():
                raise StoreUnavailable("nobody waits for this any more")
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"another process has been writing to the store for {self._wait_s:.0f} s",
                    remedy=f"`fuser {self._path}` names the processes that use it",
                )
            time.sleep(LOOK_AGAIN_S)

    def _lock(self, byte: int, kind: int) -> bool:
        """Take or give back a lock; False where another has it."""
        wanted = struct.pack("hhqqi", kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            return False
        return True
