"""The earliest that the time can be, where the clock of this machine may have been set ahead.

What cannot be taken back, such as a window that was missed, is not decided by a clock that was just put forward:
nobody knows whether it was wrong before or is wrong now. So the store keeps by how much the time of day was ahead
of the time since the machine's boot, which goes on evenly and which all processes of the machine see. A clock that
was put forward since is believed as far as time has passed; one that was put back is believed at once.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from praxis_sdk.clock import Clock
from praxis_sdk.store.encoding import from_json, to_json
from praxis_sdk.store.sqlite.statements import SQL

SETTING: Final = "clock"
STEP_S: Final = 2.0  # what the clock was set by at least; less is no harm


class EarliestTime:
    """Knows how the clock stood when the store was first used after the machine's boot.

    Args:
        clock: which may have been set since.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = ""
        self._ahead_s: float | None = None

    def forget(self) -> None:
        """Look again, since what was written is not there after all."""
        self._ahead_s = None

    def note(self, connection: sqlite3.Connection) -> None:
        """Keep how the clock stands, where that is not known yet, or where it is behind what is known.

        Args:
            connection: in a transaction that writes.
        """
        if self._ahead_s is None:
            self._boot = self._clock.boot()
            kept: Any = connection.execute(SQL["get_setting"], (SETTING,)).fetchone()
            known = from_json(kept[0]) if kept is not None else {}
            self._ahead_s = known["ahead_s"] if known.get("boot") == self._boot else None
        ahead_s = self._clock.time() - self._clock.boottime()
        if self._ahead_s is None or ahead_s < self._ahead_s - STEP_S:
            self._ahead_s = ahead_s
            connection.execute(
                SQL["put_setting"], (SETTING, to_json({"boot": self._boot, "ahead_s": ahead_s}))
            )

    def of(self, connection: sqlite3.Connection, now: float) -> float:
        """Return the earliest that the time can be.

        Args:
            connection: in a transaction that writes.
            now: what the clock says, seconds since 1970.
        """
        self.note(connection)
        assert self._ahead_s is not None
        earliest = self._clock.boottime() + self._ahead_s
        return earliest if earliest < now - STEP_S else now
