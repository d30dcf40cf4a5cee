"""Control groups: limits on a whole sandbox, and the kernel's own account of what happened in it.

Limits are written before the first process enters, events and usage are read after the last one is gone.
"""

from __future__ import annotations

import contextlib
import os

from praxis_sdk.sandbox.launcher.cgroup_place import keyed, read, remove_tree, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from praxis_sdk.sandbox.launcher.cgroup_place import Place

CPU_PERIOD_US = 100_000


class Group:
    """The group of one sandbox: limits, members, events.

    Args:
        place: where to make it.
        name: unique while the launcher lives.

    Raises:
        OSError: the kernel refused a group.
    """

    __slots__ = (
        "_inherited_bytes",
        "_inherited_kills",
        "_inherited_limit",
        "_limited",
        "_name",
        "_own_memory",
        "_paths",
        "_place",
        "_share",
        "fd",
    )

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self._paths: dict[str, str] = {}
        self._limited: tuple[Any, ...] = ()
        self._share = ""
        self._own_memory = False
        self._inherited_limit: int | None = None
        self._inherited_bytes = self._inherited_kills = 0
        self.fd: int | None = None
        try:
            for directory, controllers in place.directories().items():
                if controllers == ["cpu"]:
                    self._share = self._paths["cpu"] = place.take_share(directory)
                elif controllers == ["memory"]:
                    self._take_memory(directory)
                else:
                    self._make(directory, controllers)
            if place.version == 2 and self._paths:
                self.fd = os.open(self._paths["memory"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            self.remove()
            raise

    def entrances(self, *, of_a_stranger: bool = False) -> list[int]:
        """Open what a process writes "0" to in order to enter the group; the caller closes them.

        Empty on version 2, where the process is born in its group. On version 1 a thread that moves itself needs no
        lock; one that is moved takes a lock that stops every fork on the machine for a grace period, 10 ms and more.

        Args:
            of_a_stranger: the process is forked by one that may not open groups itself, so it is born outside.
        """
        if self.fd is not None:
            if not of_a_stranger:
                return []
            return [os.open(f"{self._paths['memory']}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)]
        paths = dict.fromkeys(self._paths.values())
        return [os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC) for path in paths]

    def limit(self, limits: Mapping[str, Any]) -> None:
        """Write the limits.

        Args:
            limits: the fields of `Limits`, as the client sent them.

        Raises:
            OSError: the kernel refused a limit.
        """
        wanted = (limits["memory_bytes"], limits["processes"], limits["cpu_cores"])
        if wanted == self._limited:
            return  # set when it was made ahead of need
        before, self._limited = self._limited, wanted
        new = self._place.version == 2
        if "memory" in self._paths:
            memory_bytes = int(limits["memory_bytes"])
            # No swap on top: a limit would only move the excess to disk. Absent where swap is not accounted.
            names = ["memory.max"] if new else ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
            if memory_bytes > (int(before[0]) if before else self._inherited_limit or memory_bytes):
                names.reverse()  # the second may never be below the first
            for name in names:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    self._write("memory", name, memory_bytes)
            if new and not before:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    self._write("memory", "memory.swap.max", 0)
        if "pids" in self._paths:
            self._write("pids", "pids.max", int(limits["processes"]) + 1)  # and the init
        cores = limits["cpu_cores"]
        if "cpu" in self._paths and cores != (before[2] if before else None):
            self._limit_cores(cores)

    def _take_memory(self, directory: str) -> None:
        path, self._inherited_limit = self._place.take_memory(directory, self._name)
        self._paths["memory"] = path
        self._own_memory = True
        if self._inherited_limit is not None:
            write(f"{path}/memory.max_usage_in_bytes", "0")
            self._inherited_bytes = int(read(f"{path}/memory.max_usage_in_bytes"))
            self._inherited_kills = self._memory_kills()

    def _memory_kills(self) -> int:
        name = "memory.events" if self.fd is not None else "memory.oom_control"
        return keyed(f"{self._paths['memory']}/{name}").get("oom_kill", 0)

    def _limit_cores(self, cores: float | None) -> None:
        quota = None if cores is None else max(1000, int(cores * CPU_PERIOD_US))
        if self._place.version == 2:
            self._write("cpu", "cpu.max", f"{quota or 'max'} {CPU_PERIOD_US}")
        else:
            self._write("cpu", "cpu.cfs_period_us", CPU_PERIOD_US)
            self._write("cpu", "cpu.cfs_quota_us", quota or -1)

    def limit_socket_buffers(self, memory_bytes: int) -> None:
        """Limit what TCP and UDP hold for the members, where the limit on memory does not count that (version 1).

        Raises:
            OSError: the kernel refused the limit.
        """
        if self.fd is None and "memory" in self._paths:
            with contextlib.suppress(FileNotFoundError):  # a kernel without it counts them with the rest
                self._write("memory", "memory.kmem.tcp.limit_in_bytes", memory_bytes)

    @property
    def controllers(self) -> Collection[str]:
        """What limits and counts its members."""
        return self._paths.keys()

    @property
    def keeps_peak(self) -> bool:
        """True when the kernel remembers the most processes that there were."""
        return self._place.keeps_peak and "pids" in self._paths

    def _make(self, directory: str, controllers: list[str]) -> None:
        path = f"{directory}/{self._name}"
        os.mkdir(path)
        for controller in controllers:
            self._paths[controller] = path

    @property
    def counts_cpu(self) -> bool:
        """True when `cpu_seconds` can tell."""
        return self.fd is not None or "cpuacct" in self._paths

    def cpu_seconds(self) -> float | None:
        """Processor time of all members so far, in seconds; None when nothing counts it."""
        if self.fd is not None:
            micros = keyed(f"{self._paths['memory']}/cpu.stat").get("usage_usec")
            return None if micros is None else micros / 1e6
        if "cpuacct" in self._paths:
            return int(read(f"{self._paths['cpuacct']}/cpuacct.usage")) / 1e9
        return None

    def peak_memory_bytes(self) -> int | None:
        """The most memory that all members ever held together, in bytes; None when nothing counted it."""
        if "memory" in self._paths:
            name = "memory.peak" if self.fd is not None else "memory.max_usage_in_bytes"
            with contextlib.suppress(OSError):
                most = int(read(f"{self._paths['memory']}/{name}"))
                # What was inherited has made room only where the limit asked for it.
                at_limit = bool(self._limited) and most >= int(self._limited[0])
                return most if at_limit else most - self._inherited_bytes
        return None

    def processes(self) -> int | None:
        """How many processes and threads its members are now; None when nothing counts them."""
        return self._pids("pids.current")

    def peak_processes(self) -> int | None:
        """How many they ever were; None when nothing counts them, or this kernel does not keep the peak."""
        return self._pids("pids.peak")

    def _pids(self, name: str) -> int | None:
        if "pids" in self._paths:
            with contextlib.suppress(OSError):
                return int(read(f"{self._paths['pids']}/{name}"))
        return None

    def events(self) -> dict[str, int]:
        """How often the kernel enforced a limit: `memory` (processes killed), `processes` (forks refused)."""
        counts = {}
        if "memory" in self._paths:
            counts["memory"] = self._memory_kills() - self._inherited_kills
        if "pids" in self._paths:
            counts["processes"] = keyed(f"{self._paths['pids']}/pids.events").get("max", 0)
        return counts

    def remove(self) -> bool:
        """Remove the group; False when the kernel still holds a dying member, so that the caller tries again."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        if self._share:
            if self._limited and self._limited[2] is not None:
                self._limit_cores(None)
            self._place.give_share_back(self._share)
            del self._paths["cpu"]
            self._share = ""
        if self._own_memory:
            limit_bytes = int(self._limited[0]) if self._limited else self._inherited_limit
            if not self._place.give_memory_back(self._paths["memory"], limit_bytes):
                return False
            del self._paths["memory"]
            self._own_memory = False
        removed = [remove_tree(path) for path in dict.fromkeys(self._paths.values())]
        return all(removed)

    def _write(self, controller: str, name: str, value: object) -> None:
        write(f"{self._paths[controller]}/{name}", str(value))
