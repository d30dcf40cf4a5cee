"""One run, as the client holds it: signals, the end, and what was written.

Signals go from here straight to the sandbox's init through its pidfd: a kill needs no cooperation from the launcher,
and cannot hit a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from praxis_sdk.sandbox.exits import SandboxExit


@dataclass(frozen=True, slots=True)
class Harvest:
    """Where what was written to one mount can be read once the sandbox has ended.

    Args:
        target: the mount (or the working directory).
        kind: "overlay": the upper layer: new and changed files, a character device 0:0 for each deleted one,
            and `user.overlay.opaque` = "y" on a directory that replaces the source's. "file": a directory
            that holds the one file, under its source's name. "scratch": everything.
        fd: the directory; closed by `Sandbox.close`. Its content is untrusted: open below it without
            following links.
        name: the file's name for kind "file", else "".
    """

    target: str
    kind: str
    fd: int
    name: str = ""


class Sandbox:
    """One command in its sandbox; made by `Launcher.spawn`."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        harvest: Sequence[Harvest],
        ended: asyncio.Future[SandboxExit],
        listener_fd: int = -1,
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._harvest = tuple(harvest)
        self._ended = ended
        self._listener_fd = listener_fd

    @property
    def harvest(self) -> tuple[Harvest, ...]:
        """What was written, mount by mount; complete once `wait` has returned, readable until `close`."""
        return self._harvest

    @property
    def listener_fd(self) -> int:
        """The socket that listens inside (`Policy.loopback_port`), non-blocking; closed by `close`. -1 without one."""
        return self._listener_fd

    def terminate(self) -> None:
        """Ask the tool (its process group) to end: SIGTERM, forwarded by the init. Harmless when it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End every process of the sandbox, for certain (SIGKILL of its process 1). Harmless when it has ended."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> SandboxExit:
        """Wait until every process is gone. May be cancelled and called again.

        Raises:
            PlatformError: the launcher died meanwhile; the kernel has killed the sandbox.
        """
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        """Kill what still runs and close the harvest; may be called again."""
        self.kill()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._listener_fd >= 0:
            os.close(self._listener_fd)
            self._listener_fd = -1
        for item in self._harvest:
            os.close(item.fd)
        self._harvest = ()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
