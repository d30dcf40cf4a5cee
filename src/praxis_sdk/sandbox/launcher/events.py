"""The launcher's event loop: descriptors that become readable, and moments that come."""

from __future__ import annotations

import errno
import heapq
import itertools
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.02
_READ = select.EPOLLIN
_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class Events:
    """What the launcher waits for. Every operation costs the same, however much is waited for.

    The kernel lets each user have so many descriptors watched, jobs under the same id included. What is watched beyond
    that is looked at every POLL_S.
    """

    __slots__ = ("_epoll", "_moments", "_numbers", "_polled", "_readers", "_writers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._polled: set[int] = set()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._moments: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever `fd` has something to read, an end included."""
        try:
            self._epoll.register(fd, _READ)
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            self._polled.add(fd)
        self._readers[fd] = reader

    def forget(self, fd: int) -> None:
        """Stop watching, before `fd` is closed: a fork may still hold a duplicate."""
        if fd in self._polled:
            self._polled.discard(fd)
        else:
            self._epoll.unregister(fd)
        del self._readers[fd]
        self._writers.pop(fd, None)

    def when_writable(self, fd: int, writer: Callable[[], None] | None) -> None:
        """Call `writer` whenever the watched `fd` has room again; None: no longer."""
        if writer is None:
            if self._writers.pop(fd, None) is not None and fd not in self._polled:
                self._epoll.modify(fd, _READ)
        else:
            self._writers[fd] = writer
            if fd not in self._polled:
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
        if self._polled:
            timeout = min(timeout, POLL_S) if timeout >= 0 else POLL_S
        for fd, mask in (*self._epoll.poll(timeout), *self._look()):
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

    def _look(self) -> list[tuple[int, int]]:
        """Return what has happened to descriptors that the kernel does not watch for us; the masks are the same."""
        if not self._polled:
            return []
        poll = select.poll()
        for fd in self._polled:
            poll.register(fd, _READ_WRITE if fd in self._writers else _READ)
        return poll.poll(0)
