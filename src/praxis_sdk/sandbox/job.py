"""One request, and the job that it becomes: what the launcher knows of it, and how it accounts for it."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from praxis_sdk.sandbox import mounts, wire
from praxis_sdk.sandbox.child import Child, StartError
from praxis_sdk.sandbox.cradle import failure_of
from praxis_sdk.sandbox.pool import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator
    from typing import Any

_CORES = os.cpu_count() or 1


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
    def lay_out(self) -> Iterator[mounts.Plan]:
        """Open the sources of the mounts; closes them afterwards."""
        plan = mounts.lay_out(self.binds, self.template.workdir)
        try:
            yield plan
        finally:
            plan.close()

    def order(self, plan: mounts.Plan) -> tuple[bytes, list[int]]:
        """Return what an init needs to know to become this request's sandbox, with descriptors."""
        records, trees = plan.describe()
        order = {"scratch": self.template[1:], "mounts": records, "loopback_port": self.loopback_port}
        return wire.encode(order), trees

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
        self.heard_all = False
        self.budget_fd = -1

    def cpu_seconds(self) -> float | None:
        """Processor time of all its processes; None when nothing counts it."""
        return None if self.child.group is None else self.child.group.cpu_seconds()

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
            }
        if self.budget_fd >= 0:
            space = os.fstatvfs(self.budget_fd)
            os.close(self.budget_fd)
            self.budget_fd = -1
            counted["scratch_free"] = [space.f_bavail * space.f_frsize, space.f_favail]
        return counted

    def conclude(
        self, status: int, usage: resource.struct_rusage | None, counted: dict[str, Any]
    ) -> tuple[StartError | None, dict[str, Any]]:
        """Return why there was no job after all, or the report on its end."""
        if self.failure is not None:
            return failure_of(self.failure), {}
        cpu_seconds = 0.0 if usage is None else usage.ru_utime + usage.ru_stime
        if self.forked and status == signal.SIGKILL and cpu_seconds >= self.limits["cpu_seconds"]:
            self.cpu_exceeded = True  # RLIMIT_CPU: a process 1 sees only its second, final signal
        return None, {
            "event": "exited",
            "id": self.key,
            "init_status": status,
            "wall_seconds": time.monotonic() - self.started_at,
            "cpu_exceeded": self.cpu_exceeded,
            "cpu_seconds": cpu_seconds,
            "peak_memory_bytes": 0 if usage is None else usage.ru_maxrss * 1024,
            **{name: value for name, value in counted.items() if value is not None},
            **self.report,
        }
