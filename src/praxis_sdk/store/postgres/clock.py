"""The server's time of day: one clock for all who share a store, since their own differ, and are set."""

from __future__ import annotations

from datetime import UTC, datetime

from praxis_sdk.clock import Clock


class ServerClock(Clock):
    """Goes by what the server said last, and by how much time has passed since; the machine's time of day is not used.

    Before the server was asked it is this machine's time.
    """

    def __init__(self) -> None:
        self._ahead_s: float | None = None  # of the server's time of day against `boottime`

    def heard(self, asked: float, server: float, answered: float) -> None:
        """Take note of the server's time; what it said before stays where this does not contradict it.

        Args:
            asked, answered: when it was asked and had answered, in seconds of `boottime`.
            server: what it said, seconds since 1970.
        """
        low, high = server - answered, server - asked
        known = (low + high) / 2 if self._ahead_s is None else self._ahead_s
        self._ahead_s = min(max(known, low), high)

    def time(self) -> float:
        """Return the server's time as seconds since 1970."""
        return super().time() if self._ahead_s is None else self.boottime() + self._ahead_s

    def now(self) -> datetime:
        """Return the server's date and time, in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)
