"""Children between birth and lock-down: they get their order, and are watched until they have become it."""

from __future__ import annotations

import errno

from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.init import main as init
from praxis_sdk.sandbox.init import verify
from praxis_sdk.sandbox.init.baseroot import SHARED_MEMORY
from praxis_sdk.sandbox.launcher.child import Child, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from praxis_sdk.sandbox.launcher.events import Events
    from praxis_sdk.sandbox.launcher.job import PreparedOrder
    from praxis_sdk.sandbox.launcher.spawner import Spawner


class Handshake:
    """Rears children; a child that does not get to lock-down is buried, and the reason told."""

    __slots__ = ("_events", "_nursery", "_young")

    def __init__(self, events: Events, nursery: Spawner) -> None:
        self._events = events
        self._nursery = nursery
        self._young: dict[int, Child] = {}

    def rear(
        self,
        child: Child,
        order: PreparedOrder,
        descriptors: Sequence[int],
        locked: Callable[[Child], None],
        failed: Callable[[StartError], None],
    ) -> None:
        """Send a newborn its order; then call `locked` or `failed`, once."""

        def hear() -> None:
            try:
                if not self._is_locked(child, order):
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
            wire.send(child.channel, order.message, descriptors)
        except OSError as problem:
            if problem.errno != errno.EPIPE:  # then it is dead, and its last words say why
                self._bury(child)
                failed(StartError("start", problem.errno or 0, str(problem)))

    def close(self) -> None:
        """Bury every child that is still here."""
        for child in list(self._young.values()):
            self._bury(child)

    def _is_locked(self, child: Child, order: PreparedOrder) -> bool:
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
                raise StartError.read(message["failed"])
            if "locked" in message:
                if child.forked:
                    inspect(child, self._nursery.surroundings, order)
                return True

    def _let_go(self, child: Child) -> None:
        fd = child.channel.fileno()
        self._events.forget(fd)
        del self._young[fd]

    def _bury(self, child: Child) -> None:
        self._let_go(child)
        self._nursery.bury(child)


def inspect(child: Child, surroundings: init.Surroundings, order: PreparedOrder) -> None:
    """Ask the kernel about a child of a zygote: the zygote's own memory may have been tampered with by a preload.

    Args:
        child: it says that it is locked.
        surroundings: what the launcher knows of itself.
        order: what it was told to become.

    Raises:
        StartError: names what is not as it should be.
    """
    child.standing = init.STANDING + len(order.written) + order.door
    expected = verify.Expectation(
        child.host_id,
        (*order.written, SHARED_MEMORY),
        surroundings.outside,
        range(child.standing),
        no_groups=surroundings.privileged,
        filters=surroundings.filters + 2,  # the zygote's and its own
        loopback=order.door,
    )
    try:
        verify.inspect(f"/proc/{child.pid}", expected)
    except verify.RefusedError as problem:
        raise StartError("verify", 0, str(problem)) from problem
    except OSError as problem:
        raise StartError("verify", problem.errno or 0, str(problem)) from problem


def count_again(child: Child) -> None:
    """Make sure, before a child gets its work, that it holds no more files than when it was inspected.

    Raises:
        StartError: it does.
    """
    try:
        count = verify.count_descriptors(f"/proc/{child.pid}")
    except OSError as problem:
        raise StartError("verify", problem.errno or 0, str(problem)) from problem
    if count != child.standing:
        raise StartError("verify", 0, f"{count} descriptors are open, not {child.standing}")
