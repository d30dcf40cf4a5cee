"""The worker that a waiting command runs itself, as long as nobody else would do what it waits for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from praxis_sdk.cli.terminal.interrupts import uninterrupted
from praxis_sdk.errors import PraxisError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.plane import ControlPlane

LOOK_S: Final = 2.0  # a worker that was killed rings no bell


class OwnWorker:
    """Runs a worker from when nobody else takes such work until the context ends.

    Left in good order it finishes what it took, also of others: a tool that is begun twice may do harm. Left
    by an exception, such as Ctrl-C, it kills that and gives it back to the queue.

    Args:
        control: what the command works with.
        kinds: of the work that is waited for.
        say: tells people a line.
    """

    def __init__(self, control: Control, kinds: Iterable[str], say: Callable[[str], None]) -> None:
        self._control = control
        self._kinds = frozenset(kinds)
        self._say = say
        self._plane: ControlPlane | None = None
        self._watching: asyncio.Task[None] | None = None
        self.was_needed = False

    async def __aenter__(self) -> Self:
        """Look whether it is needed, and go on looking."""
        try:
            await self._look()
        except BaseException:
            await self._close()
            raise
        if self._plane is None:
            self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        try:
            if error_type is None and self._plane is not None:
                await self._finish(self._plane)
        finally:
            await self._close()

    async def _watch(self) -> None:
        seen = 0
        while self._plane is None:
            with contextlib.suppress(TimeoutError):
                seen = await asyncio.wait_for(self._control.store.changed("queue", seen), LOOK_S)
            with contextlib.suppress(PraxisError):  # the store is away: whoever waits is told by others
                await self._look()

    async def _look(self) -> None:
        if await self._control.served(self._kinds):
            return
        from praxis_sdk.cli.worker_plane import worker_plane

        plane = self._plane = worker_plane(self._control)
        self.was_needed = True
        try:
            await plane.__aenter__()
        except PraxisError:
            await self._close()
            raise

    async def _finish(self, plane: ControlPlane) -> None:
        worker = plane.worker
        if worker is not None and worker.running:
            others = f"{worker.running} other execution{'s' if worker.running > 1 else ''}"
            self._say(f"finishing {others} that began here (Ctrl-C gives them back)")
        await plane.drain()

    async def _close(self) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            await uninterrupted(plane.close())
