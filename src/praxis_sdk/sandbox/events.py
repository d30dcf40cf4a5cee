"""The launcher's event loop: descriptors that become readable, and moments that come."""

from __future__ import annotations

import heapq
import itertools
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_READ = select.EPOLLIN
_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class Events:
    """What the launcher waits for. Every operation costs the same, however much is waited for."""

    __slots__ = ("_epoll", "_moments", "_numbers", "_readers", "_writers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._moments: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever `fd` has something to read, an end included."""
        self._readers[fd] = reader
        self._epoll.register(fd, _READ)

    def forget(self, fd: int) -> None:
        """Stop watching, before `fd` is closed: a fork may still hold a duplicate."""
        self._epoll.unregister(fd)
        del self._readers[fd]
        self._writers.pop(fd, None)

    def when_writable(self, fd: int, writer: Callable[[], None] | None) -> None:
        """Call `writer` whenever the watched `fd` has room again; None: no longer."""
        if writer is None:
            if self._writers.pop(fd, None) is not None:
                self._epoll.modify(fd, _READ)
        else:
            self._writers[fd] = writer
            self._epoll.modify(fd, _READ_WRITE)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Call `action` once, at a moment of the monotonic clock. It cannot be taken back: it looks before it acts."""
        heapq.heappush(self._moments, (moment, next(self._numbers), action))

    def turn(self, *, wait: bool) -> bool:
        """Handle what has happened; True when something had.

        Args:
            wait: until something happens.
        """
        timeout = 0.0
        if wait:
            timeout = max(0.0, self._moments[0][0] - time.monotonic()) if self._moments else -1.0
        happened = False
        for fd, mask in self._epoll.poll(timeout):
            happened = True
            if mask & select.EPOLLOUT and (writer := self._writers.get(fd)) is not None:
                writer()
            # An earlier event of this round may have ended the interest in this one.
            if mask & ~select.EPOLLOUT and (reader := self._readers.get(fd)) is not None:
                reader()
        if self._moments:
            now = time.monotonic()
            while self._moments and self._moments[0][0] <= now:
                happened = True
                heapq.heappop(self._moments)[2]()
        return happened
