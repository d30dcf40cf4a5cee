"""One child of the launcher, the process 1 of a sandbox, and what the host keeps for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Callable

    from praxis_sdk.sandbox.launcher import cgroups


class StartError(Exception):
    """A request cannot be carried out.

    Args:
        stage: what was being done.
        number: errno, or 0.
        message: one line.
        by_host: True when the host or Praxis is at fault, False when the request is.
    """

    def __init__(self, stage: str, number: int, message: str, *, by_host: bool = True) -> None:
        super().__init__(message)
        self.stage = stage
        self.number = number
        self.by_host = by_host

    @classmethod
    def read(cls, failed: object) -> StartError:
        """Read a child's account of its failure; it may be a stranger's by now, so nothing about it is believed."""
        match failed:
            case [str(stage), int(number), str(text)]:
                return cls(stage[:40], number, text[:4000])
        return cls("start", 0, "the sandbox failed without saying why")


class Child:
    """A sandbox in the making, waiting, or at work.

    Attributes:
        pid: as the host sees it; 0 while it is not born.
        pidfd: readable once it is dead, and with it every process of the sandbox.
        channel: our end of the socket to it.
        group: its control group; None where there are none.
        host_id: its user and group id, as the host sees them; 0 when it has the caller's.
        on_reaped: called once it is reaped, where a zygote forked it; None where the launcher did.
        standing: how many files it holds open while it waits, once it has been inspected.
    """

    __slots__ = ("channel", "group", "host_id", "on_reaped", "pid", "pidfd", "standing")

    def __init__(
        self,
        pid: int,
        pidfd: int,
        channel: socket.socket,
        group: cgroups.Group | None,
        host_id: int,
        on_reaped: Callable[[], None] | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.group = group
        self.host_id = host_id
        self.on_reaped = on_reaped
        self.standing = 0

    @property
    def forked(self) -> bool:
        """True when a zygote forked it, False when the launcher cloned it."""
        return self.on_reaped is not None

    @property
    def waits(self) -> bool:
        """True unless it has closed its end of the channel, as it does when it dies."""
        try:
            self.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def kill(self) -> None:
        """End it, and with it every process of its sandbox."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> tuple[int, resource.struct_rusage | None]:
        """Kill it, wait for its end, and close its descriptors; returns its wait status and what it used."""
        self.kill()
        status, usage = 0, None
        if self.pid:
            _, status, usage = os.wait4(self.pid, 0)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.channel.close()
        return status, usage
