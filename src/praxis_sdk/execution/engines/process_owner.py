"""Which process something belongs to, told so precisely that its death is certain.

What outlives a crash (containers, directories) carries its owner's name, and whoever comes later may
remove it only when that owner is dead beyond doubt. A pid alone says nothing: pids are used again, every
container counts its own, and two machines can share a daemon. So an owner is named by the boot of its
machine, its PID namespace, its pid and the moment it started; where one cannot look, it counts as alive.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FORM: Final = re.compile(r"([0-9a-f-]{36})\.(\d{1,20})\.(\d{1,10})\.(\d{1,20})")
_STATE, _START_TICKS = 0, 19  # fields of /proc/PID/stat, counted from behind the program's name


@dataclass(frozen=True)
class ProcessOwner:
    """A process, named for all time.

    Args:
        boot_id: the boot of the machine it runs on.
        pid_namespace: the namespace in which its pid counts.
        pid: its pid.
        start_ticks: when it started, in clock ticks since that boot.
    """

    boot_id: str
    pid_namespace: int
    pid: int
    start_ticks: int

    @classmethod
    def current(cls) -> ProcessOwner:
        """Name this process."""
        fields = _stat_fields(os.getpid()) or []
        return cls(_boot_id(), _pid_namespace(), os.getpid(), int(fields[_START_TICKS]))

    @classmethod
    def parse(cls, text: str) -> ProcessOwner | None:
        """Read a name written by `str`; None where it is none."""
        match = _FORM.fullmatch(text)
        return cls(match[1], int(match[2]), int(match[3]), int(match[4])) if match else None

    def __str__(self) -> str:
        return f"{self.boot_id}.{self.pid_namespace}.{self.pid}.{self.start_ticks}"

    def is_dead(self) -> bool:
        """Tell whether the process is certainly gone; false where this process cannot know."""
        if (self.boot_id, self.pid_namespace) != (_boot_id(), _pid_namespace()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # somebody else's, and alive
        fields = _stat_fields(self.pid)
        if fields is None:  # gone in between, or hidden from us
            return False
        return fields[_STATE] in "ZX" or int(fields[_START_TICKS]) != self.start_ticks

    def is_of_another_boot(self) -> bool:
        """Tell whether the process ran before this machine's last start, or on another machine."""
        return self.boot_id != _boot_id()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
