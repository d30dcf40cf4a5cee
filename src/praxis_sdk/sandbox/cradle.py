"""Children between birth and lock-down: they get their order, and are watched until they have become it."""

from __future__ import annotations

import errno
import os

from praxis_sdk.sandbox import verify, wire
from praxis_sdk.sandbox.child import Child, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from praxis_sdk.sandbox.events import Events
    from praxis_sdk.sandbox.init import Surroundings
    from praxis_sdk.sandbox.nursery import Nursery

_NO_CAPABILITIES = "0" * 16


class Cradle:
    """Rears children; a child that does not get to lock-down is buried, and the reason told."""

    __slots__ = ("_events", "_nursery", "_young")

    def __init__(self, events: Events, nursery: Nursery) -> None:
        self._events = events
        self._nursery = nursery
        self._young: dict[int, Child] = {}

    def rear(
        self,
        child: Child,
        order: bytes,
        descriptors: Sequence[int],
        locked: Callable[[Child], None],
        failed: Callable[[StartError], None],
    ) -> None:
        """Send a newborn its order; then call `locked` or `failed`, once."""

        def hear() -> None:
            try:
                if not self._is_locked(child):
                    return
            except StartError as problem:
                self._bury(child)
                failed(problem)
                return
            self._let_go(child)
            locked(child)

        fd = child.channel.fileno()
        self._young[fd] = child
        self._events.watch(fd, hear)
        try:
            wire.send(child.channel, order, descriptors)
        except OSError as problem:
            if problem.errno != errno.EPIPE:  # then it is dead, and its last words say why
                self._bury(child)
                failed(StartError("start", problem.errno or 0, str(problem)))

    def close(self) -> None:
        """Bury every child that is still here."""
        for child in list(self._young.values()):
            self._bury(child)

    def _is_locked(self, child: Child) -> bool:
        """Read what a child has to say; raises StartError when it will never be locked."""
        while True:
            try:
                received = wire.receive(child.channel)
            except BlockingIOError:
                return False
            except wire.WireError as problem:
                raise StartError("start", 0, str(problem)) from problem
            if received is None:
                raise StartError("start", errno.ESRCH, "the sandbox died while being built")
            message, descriptors = received
            wire.close_all(descriptors)
            if "failed" in message:
                raise failure_of(message["failed"])
            if "locked" in message:
                if child.born_of is not None:
                    try:
                        inspect(child, self._nursery.surroundings)
                    except OSError as problem:
                        raise StartError("verify", problem.errno or 0, str(problem)) from problem
                return True

    def _let_go(self, child: Child) -> None:
        fd = child.channel.fileno()
        self._events.forget(fd)
        del self._young[fd]

    def _bury(self, child: Child) -> None:
        self._let_go(child)
        self._nursery.bury(child)


def failure_of(failed: object) -> StartError:
    """Read a child's account of its failure; it may be a stranger's by now, so nothing about it is believed."""
    match failed:
        case [str(stage), int(number), str(text)]:
            return StartError(stage[:40], number, text[:4000])
    return StartError("start", 0, "the sandbox failed without saying why")


def inspect(child: Child, surroundings: Surroundings) -> None:
    """Ask the kernel about a child of a zygote: the zygote's own memory may have been tampered with by a preload.

    Raises:
        StartError: names what is not as it should be.
    """
    fd = os.open(f"/proc/{child.pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.read(fd, 16384).decode(errors="replace")
    finally:
        os.close(fd)
    identity = "\t".join([str(child.host_id)] * 4)
    wanted = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), _NO_CAPABILITIES)
    wanted |= {"Uid": identity, "Gid": identity, "Seccomp": "2", "NoNewPrivs": "1"}
    found = [
        f"{name} is not {value!r}" for name, value in wanted.items() if f"\n{name}:\t{value}\n" not in status
    ]
    found += [
        f"{name} namespace is the launcher's"
        for name, inode in surroundings.outside.items()
        if os.stat(f"/proc/{child.pid}/ns/{name}").st_ino == inode
    ]
    # The zygote's and its own.
    if (count := verify.count_filters(status)) < surroundings.filters + 2:
        found.append(f"Seccomp_filters is {count}")
    if found:
        raise StartError("verify", 0, "; ".join(found))
