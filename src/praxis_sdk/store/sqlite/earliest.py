"""The earliest that the time can be, where the clock of this machine may have been set ahead.

What cannot be taken back, such as a window that was missed, is not decided by a clock that was just put forward:
nobody knows whether it was wrong before or is wrong now. So the store keeps by how much the time of day was ahead
of the time since the machine's boot, which goes on evenly and which all processes of the machine see. A clock that
was put forward since is believed as far as time has passed, and altogether once it has stood so for a day; one that
was put back is believed at once.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.store.encoding import from_json, to_json
from praxis_sdk.store.sqlite.statements import SQL

SETTING: Final = "clock"
STEP_S: Final = 2.0  # what the clock was set by at least; less is no harm
BELIEVED_AFTER_S: Final = 86_400.0


class EarliestTime:
    """Knows how the clock stood when the store was first used after the machine's boot.

    Args:
        clock: which may have been set since.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s: float | None = None  # the time of day against the time since the boot
        self._set_to_s = 0.0  # the same of a clock that was put forward
        self._set_at = 0.0

    def forget(self) -> None:
        """Look again, since what was written is not there after all."""
        self._ahead_s = None

    def note(self, connection: sqlite3.Connection) -> None:
        """Keep how the clock stands, where that is not known yet; takes no time where it is.

        Args:
            connection: in a transaction that writes.
        """
        if self._ahead_s is None:
            kept: Any = connection.execute(SQL["get_setting"], (SETTING,)).fetchone()
            known = from_json(kept[0]) if kept is not None else {}
            if known.get("boot") == self._clock.boot():
                self._ahead_s = float(known["ahead_s"])
            else:
                self._believe(connection, self._clock.time() - self._clock.boottime())

    def of(self, connection: sqlite3.Connection, now: float) -> float:
        """Return the earliest that the time can be.

        Args:
            connection: in a transaction that writes.
            now: what the clock says, seconds since 1970.
        """
        self.note(connection)
        assert self._ahead_s is not None
        boottime = self._clock.boottime()
        if now - boottime <= self._ahead_s + STEP_S:
            self._set_to_s = 0.0
            return now
        if abs(now - boottime - self._set_to_s) > STEP_S:
            self._set_to_s, self._set_at = now - boottime, boottime
        elif boottime - self._set_at >= BELIEVED_AFTER_S:
            self._believe(connection, self._set_to_s)
            return now
        return boottime + self._ahead_s

    def _believe(self, connection: sqlite3.Connection, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        kept = to_json({"boot": self._clock.boot(), "ahead_s": ahead_s})
        connection.execute(SQL["put_setting"], (SETTING, kept))
