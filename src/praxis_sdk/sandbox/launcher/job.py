"""One request, and the job that it becomes: what the launcher knows of it, and how it accounts for it."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time

from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.init import main as init
from praxis_sdk.sandbox.init import mounts
from praxis_sdk.sandbox.launcher.child import Child, StartError
from praxis_sdk.sandbox.launcher.pool import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator
    from typing import Any

    from praxis_sdk.sandbox.launcher import cgroups

# How RLIMIT_CPU ends a process -> the part of the limit that it must really have used, by the account, to be believed:
# the limit goes by where ticks of the clock fall, which on a busy machine is more. A process 1 sees only SIGKILL.
_ENDED_BY_CPU = {int(signal.SIGXCPU): 0.5, int(signal.SIGKILL): 0.8}
_CORES = os.cpu_count() or 1


class PreparedOrder:
    """What a child is to become.

    Attributes:
        message: the same, for the child.
        written: the mount points that can be written to.
        door: it listens on its loopback device.
    """

    __slots__ = ("door", "message", "written")

    def __init__(self, template: Template, plan: mounts.MountPlan, loopback_port: int | None) -> None:
        empty = all(mount.kind == "scratch" for mount in plan.mounts)
        plain = empty and plan.written == init.PLAIN.written
        self.message = wire.encode(
            {
                "scratch": template[1:],
                "mounts": None if plain else plan.describe()[0],
                "loopback_port": loopback_port,
            }
        )
        self.written = plan.written
        self.door = loopback_port is not None


@functools.lru_cache(maxsize=16)
def plain_order(template: Template) -> PreparedOrder:
    """Return the order for a sandbox that mounts nothing of the host, and has no network."""
    return PreparedOrder(template, mounts.lay_out([], template.workdir), None)


class Request:
    """A sandbox that somebody asked for.

    Attributes:
        key: the client's number for it.
        limits: the fields of `Limits`.
        forked: it is for a child of the zygote.
        loopback_port: where the sandbox shall listen for the client, or None.
        plain: it mounts nothing of the host, and has no network.
        template: what a locked child must be to serve it.
        descriptors: command and standard streams.
        work: the message that goes with them.
        attempts: how many zygotes have been asked.
        started_at: when it came, on the monotonic clock.
    """

    __slots__ = (
        "attempts",
        "binds",
        "descriptors",
        "forked",
        "key",
        "limits",
        "loopback_port",
        "plain",
        "started_at",
        "template",
        "work",
    )

    def __init__(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.key: int = message["id"]
        self.limits: dict[str, Any] = message["limits"]
        self.forked: bool = message["forked"]
        self.binds: list[dict[str, Any]] = message["mounts"]
        self.loopback_port: int | None = message["loopback_port"]
        self.plain = not self.binds and self.loopback_port is None
        limits = self.limits
        self.template = Template(message["workdir"], limits["scratch_bytes"], limits["scratch_inodes"])
        self.descriptors = descriptors
        self.work = wire.encode({"limits": limits})
        self.attempts = 0
        self.started_at = time.monotonic()

    @contextlib.contextmanager
    def lay_out(self) -> Iterator[mounts.MountPlan]:
        """Open the sources of the mounts; closes them afterwards."""
        plan = mounts.lay_out(self.binds, self.template.workdir)
        try:
            yield plan
        finally:
            plan.close()

    def order(self, plan: mounts.MountPlan) -> tuple[PreparedOrder, list[int]]:
        """Return what an init needs to know to become this request's sandbox, with descriptors."""
        return PreparedOrder(self.template, plan, self.loopback_port), plan.describe()[1]

    def close(self) -> None:
        """Close the descriptors; may be called again."""
        descriptors, self.descriptors = self.descriptors, []
        wire.close_all(descriptors)


class Job:
    """A request that has a locked child.

    Attributes:
        report: what the init said about the tool.
        failure: what it said when it failed before the work began.
        cpu_exceeded: the launcher ended it for its processor time.
        most_processes: the largest number of processes that was seen, the init included; 0 while nobody looked.
        heard_all: the child will say no more.
        budget_fd: a directory of its scratch space, where nobody inside can be asked what is left.
    """

    __slots__ = (
        "budget_fd",
        "child",
        "cpu_exceeded",
        "failure",
        "forked",
        "heard_all",
        "key",
        "limits",
        "most_processes",
        "report",
        "started_at",
    )

    def __init__(self, request: Request, child: Child) -> None:
        self.key = request.key
        self.limits = request.limits
        self.forked = request.forked
        self.started_at = request.started_at
        self.child = child
        self.report: dict[str, Any] = {}
        self.failure: object | None = None
        self.cpu_exceeded = False
        self.most_processes = 0
        self.heard_all = False
        self.budget_fd = -1

    def cpu_seconds(self) -> float | None:
        """Processor time of all its processes; None when nothing counts it."""
        return None if self.child.group is None else self.child.group.cpu_seconds()

    def count_processes(self) -> None:
        """Look how many processes there are, where the kernel does not remember the most."""
        group = self.child.group
        if group is not None and not group.keeps_peak:
            self.most_processes = max(self.most_processes, group.processes() or 0)

    def soonest_exhaustion(self, used: float) -> float:
        """Seconds until the processor time can be used up at the earliest: no need to look before."""
        cores = min(self.limits["cpu_cores"] or 1e9, _CORES)
        left: float = (self.limits["cpu_seconds"] - used) / cores
        return left

    def account(self) -> dict[str, Any]:
        """Read what the kernel counted, before the child is buried."""
        counted: dict[str, Any] = {"events": {}}
        group = self.child.group
        if group is not None:
            counted = {
                "events": group.events(),
                "cpu_seconds": group.cpu_seconds(),
                "peak_memory_bytes": group.peak_memory_bytes(),
                "peak_processes": self._peak_processes(group),
            }
        if self.budget_fd >= 0:
            space = os.fstatvfs(self.budget_fd)
            os.close(self.budget_fd)
            self.budget_fd = -1
            counted["scratch_free"] = [space.f_bavail * space.f_frsize, space.f_favail]
        return counted

    def _peak_processes(self, group: cgroups.Group) -> int | None:
        if "pids" not in group.controllers:
            return None
        most = (group.peak_processes() if group.keeps_peak else self.most_processes) or 0
        # A forked job is process 1 itself, unless it is a program, of which its init tells the end.
        beside = 1 if not self.forked or self.report else 0
        return max(1, most - beside)

    def conclude(
        self, status: int, usage: resource.struct_rusage | None, counted: dict[str, Any]
    ) -> tuple[StartError | None, dict[str, Any]]:
        """Return why there was no job after all, or the report on its end."""
        if self.failure is not None:
            return StartError.read(self.failure), {}
        cpu_seconds = 0.0 if usage is None else usage.ru_utime + usage.ru_stime
        used = cpu_seconds / self.limits["cpu_seconds"]
        if (self.forked or self.report) and used >= _ENDED_BY_CPU.get(self.report.get("status", status), 2.0):
            self.cpu_exceeded = True
        if (counted.get("cpu_seconds") or 0.0) >= self.limits["cpu_seconds"]:
            self.cpu_exceeded = True  # it came to its end before the launcher looked again
        return None, {
            "event": "exited",
            "id": self.key,
            "init_status": status,
            "wall_seconds": time.monotonic() - self.started_at,
            "cpu_exceeded": self.cpu_exceeded,
            "cpu_seconds": cpu_seconds,
            "peak_memory_bytes": 0 if usage is None else usage.ru_maxrss * 1024,
            "peak_processes": None,
            **{name: value for name, value in counted.items() if value is not None},
            **self.report,
        }
