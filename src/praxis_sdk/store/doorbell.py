"""The doorbell: wakes the other processes that use the same database file.

Each process binds a Unix datagram socket in a folder beside the database, and after a commit sends the topics
that have news to all the others. Nobody waits for anybody: a socket that nobody reads any more is removed, and
one whose queue is full is passed over, for its owner looks by itself every few seconds (`SqliteStore`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

MAX_RING_BYTES: Final = 4096
MAX_RINGS: Final = 64  # taken at once, before others have their turn
ANYTHING: Final = b"*"  # the ring of more topics than one datagram holds
_numbers: Final = itertools.count()
_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})


class Doorbell:
    """One process's bell, and the way to everybody else's.

    Args:
        folder: where the bells are; made where it is missing.
        rung: called in the event loop with the topics of others' commits; None: anything may have happened.
    """

    def __init__(self, folder: Path, rung: Callable[[Iterable[str] | None], None]) -> None:
        self._rung = rung
        self._name = f"{os.getpid()}-{next(_numbers)}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Addresses lead through the descriptor, since a socket's path holds 107 bytes at most.
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(FileNotFoundError):  # an earlier process of this number left it
                os.unlink(self._name, dir_fd=self._folder)
            self._socket.bind(self._address(self._name))
        except OSError:
            self._socket.close()
            os.close(self._folder)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._answer)
        self._closed = False

    def ring(self, topics: Iterable[str]) -> None:
        """Tell everybody else that topics have news; from any thread, one at a time."""
        others: list[str] = []
        with contextlib.suppress(OSError):  # the others look by themselves, too
            others = [name for name in os.listdir(self._folder) if name != self._name]
        if not others:
            return
        message = "\n".join(topics).encode("utf-8", "surrogatepass")
        if len(message) > MAX_RING_BYTES:
            message = ANYTHING
        for name in others:
            try:
                self._socket.sendto(message, self._address(name))
            except OSError as error:
                if error.errno in _GONE:
                    self._remove(name)
                # Otherwise its queue is full: it is awake already, and looks again by itself.

    def close(self) -> None:
        """Take the bell down; repeatable. Nobody rings any more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._remove(self._name)
        self._socket.close()
        os.close(self._folder)

    def _answer(self) -> None:
        for _ in range(MAX_RINGS):
            try:
                message = self._socket.recv(MAX_RING_BYTES + 1)
            except BlockingIOError:
                return
            if message == ANYTHING:
                self._rung(None)
            else:
                self._rung(message.decode("utf-8", "surrogatepass").split("\n"))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # somebody else was faster
            os.unlink(name, dir_fd=self._folder)

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._folder}/{name}"
