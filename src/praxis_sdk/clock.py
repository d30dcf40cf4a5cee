"""The time, injected: tests and the simulator hand over a clock of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Clock:
    """The time of this machine."""

    def now(self) -> datetime:
        """Return the date and time, in UTC."""
        return datetime.now(UTC)

    def time(self) -> float:
        """Return the time as seconds since 1970, which is how records keep it."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def boottime(self) -> float:
        """Return seconds that never go back, and that count while the machine is suspended, too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot(self) -> str:
        """Return what tells this boot of the machine, since which `boottime` counts, from others; empty: unknown."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    async def sleep(self, seconds: float) -> None:
        """Return when so much time has passed."""
        await asyncio.sleep(seconds)

    async def wait(self, awaited: Coroutine[Any, Any, Any], seconds: float) -> bool:
        """Wait for something for a limited time; returns whether it came."""
        waiting = asyncio.ensure_future(awaited)
        sleeping = asyncio.ensure_future(self.sleep(seconds))
        try:
            done, _ = await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            sleeping.cancel()
        return waiting in done
