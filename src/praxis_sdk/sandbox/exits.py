"""How a sandbox ended, judged from kernel facts alone: wait status, cgroup events, the launcher's own timers."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

KilledBy = Literal["memory", "processes", "cpu", "file_size", "scratch", "seccomp"]

# The shell's convention, for callers that want a number.
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126

# A command that could not even be started for want of something that a limit denies.
_SPAWN_LIMITS: Mapping[int, KilledBy] = {errno.ENOMEM: "memory", errno.EAGAIN: "processes"}


@dataclass(frozen=True, slots=True)
class SpawnError:
    """The command could not be started: the caller's mistake, or a limit of its own, not the platform's fault.

    Args:
        errno: ENOENT (no such command or working directory), EACCES, ENOEXEC; ENOMEM or EAGAIN with `killed_by`.
        message: one line that names the path.
    """

    errno: int
    message: str


@dataclass(frozen=True, slots=True)
class SandboxUsage:
    """What a sandbox used.

    Args:
        cpu_seconds: processor time of all its processes.
        peak_memory_bytes: the most memory held at once (cgroup), or by its largest process where nothing
            counted all.
        wall_seconds: from the request to the death of the last process.
        peak_processes: the most processes and threads at once, without the init that stands beside a program; of a
            kernel that does not keep the peak (`pids.peak`) the largest number that was seen when the launcher looked,
            at its start and every time it checked the processor time. None where no cgroup counts processes.
    """

    cpu_seconds: float
    peak_memory_bytes: int
    wall_seconds: float
    peak_processes: int | None = None


@dataclass(frozen=True, slots=True)
class SandboxExit:
    """The end of a sandbox; all its processes are gone.

    Args:
        exit_code: the tool's; 127 or 126 with a `spawn_error`; None when a signal ended it.
        signal: the signal that ended the tool, or the whole sandbox; None otherwise.
        killed_by: the limit or rule that the kernel enforced, when the tool did not end well; None when it
            was none.
        usage: time and memory.
        spawn_error: why the command could not be started; None when it was.
        events: how often the kernel enforced `memory` (processes killed) and `processes` (forks refused),
            whatever became of the tool.
        from_outside: SIGKILL ended process 1 of the sandbox, which nobody inside can do, and no limit of ours did:
            the kernel, for want of memory on the host, or somebody there.
    """

    exit_code: int | None
    signal: int | None
    killed_by: KilledBy | None
    usage: SandboxUsage
    spawn_error: SpawnError | None = None
    events: Mapping[str, int] = field(default_factory=dict)
    from_outside: bool = False

    @property
    def ok(self) -> bool:
        """True when the tool exited with 0."""
        return self.exit_code == 0


def judge(report: Mapping[str, Any]) -> SandboxExit:
    """Turn the launcher's report into a verdict.

    Args:
        report: an `exited` message: init_status, cpu_seconds, peak_memory_bytes, peak_processes, wall_seconds,
            events, cpu_exceeded; from the init also status or spawn_error, and scratch_free (bytes, inodes).
    """
    usage = SandboxUsage(
        report["cpu_seconds"],
        report["peak_memory_bytes"],
        report["wall_seconds"],
        report["peak_processes"],
    )
    events: Mapping[str, int] = report["events"]
    if "spawn_error" in report:
        number, message = report["spawn_error"]
        code = EXIT_NOT_FOUND if number == errno.ENOENT else EXIT_NOT_EXECUTABLE
        return SandboxExit(code, None, _SPAWN_LIMITS.get(number), usage, SpawnError(number, message), events)
    # Without a report the init itself was killed, and the tool with it.
    status = report.get("status", report["init_status"])
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    exit_code = None if ended_by is not None else os.waitstatus_to_exitcode(status)
    killed_by = None if exit_code == 0 else _reason(report, ended_by, events)
    from_outside = "status" not in report and ended_by == signal.SIGKILL and killed_by is None
    return SandboxExit(exit_code, ended_by, killed_by, usage, None, events, from_outside)


def _reason(report: Mapping[str, Any], ended_by: int | None, events: Mapping[str, int]) -> KilledBy | None:
    """Name the limit behind a bad end; the most specific fact wins.

    That a signal ended the work is a fact only where the work cannot send it itself (`seccomp`), or where the account
    agrees (`cpu_exceeded`).
    """
    if report["cpu_exceeded"]:
        return "cpu"
    if ended_by == signal.SIGXFSZ:
        return "file_size"
    if ended_by == signal.SIGSYS:
        return "seccomp"
    if events.get("memory", 0) > 0:
        return "memory"
    if events.get("processes", 0) > 0:
        return "processes"
    if min(report.get("scratch_free", (1, 1))) <= 0:
        return "scratch"
    return None
