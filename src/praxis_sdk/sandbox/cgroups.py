"""Control groups: limits on a whole sandbox, and the kernel's own account of what happened in it.

One group per launcher, `praxis-<pid namespace>-<pid>-<start time>`, holds one group per sandbox. Version 2 is
tried first, then version 1. The launcher looks for a place from its own group upwards, so it stays under
every limit that was put on itself; a place counts only after a probe group with the controllers could really
be made there.

Limits are written before the first process enters, events and usage are read after the last one is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

CPU_PERIOD_US = 100_000
V1_CONTROLLERS = ("memory", "pids", "cpuacct", "cpu")
V2_CONTROLLERS = ("memory", "pids", "cpu")
MAX_KEPT = 32
MAX_LEFT_BYTES = 64 * 1024
_PREFIX = "praxis"


class Place:
    """Where sandboxes' groups are made.

    Attributes:
        version: 2, 1, or 0 when this host gives us no cgroups at all.
        controllers: controller -> the launcher's own directory in its hierarchy. One directory for all on
            version 2.
        keeps_peak: the kernel remembers the most processes of a group.
    """

    __slots__ = ("_kept", "_shares", "_shares_made", "controllers", "keeps_peak", "version")

    def __init__(self, version: int, controllers: dict[str, str]) -> None:
        self.version = version
        self.controllers = controllers
        self.keeps_peak = "pids" in controllers and os.path.exists(f"{controllers['pids']}/pids.peak")
        self._shares: list[str] = []
        self._shares_made = 0
        self._kept: dict[str, int] = {}

    def directories(self) -> dict[str, list[str]]:
        """Return parent directory -> its controllers."""
        grouped: dict[str, list[str]] = {}
        for controller, directory in self.controllers.items():
            grouped.setdefault(directory, []).append(controller)
        return grouped

    def take_share(self, directory: str) -> str:
        """Return a group in which a sandbox has one share of the processors, however many processes it starts.

        It counts nothing, so the next sandbox takes over what the last one has left.
        """
        if self._shares:
            return self._shares.pop()
        self._shares_made += 1
        return _make(f"{directory}/share-{self._shares_made}")

    def take_memory(self, directory: str, name: str) -> tuple[str, int | None]:
        """Return a group that limits memory, and the limit that it has; None for a new one."""
        if self._kept:
            return self._kept.popitem()
        path = f"{directory}/{name}"
        os.mkdir(path)
        return path, None

    def give_memory_back(self, path: str, limit_bytes: int | None) -> bool:
        """Take back what `take_memory` returned; False when the kernel still holds a dying member.

        Pages of files that the sandbox was the first to read stay charged to its group, and would keep a removed one in
        the kernel's memory for as long as they are cached: one more for every run. So the next sandbox takes it over.
        """
        if limit_bytes is None or int(_read(f"{path}/memory.usage_in_bytes")) <= MAX_LEFT_BYTES:
            return _remove_tree(path)
        self._kept[path] = limit_bytes
        if len(self._kept) > MAX_KEPT:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            with contextlib.suppress(OSError):  # a dying member; then it stays in the kernel's memory
                _write(f"{oldest}/memory.force_empty", "0")
            return _remove_tree(oldest)
        return True

    def give_share_back(self, path: str) -> None:
        """Take back a group that `take_share` returned, without a quota."""
        self._shares.append(path)

    def remove(self) -> None:
        """Remove the launcher's own groups; what still has a live child stays for the next start-up's sweep."""
        for directory in set(self.controllers.values()):
            _remove_tree(directory)


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
            _write(f"{path}/memory.max_usage_in_bytes", "0")
            self._inherited_bytes = int(_read(f"{path}/memory.max_usage_in_bytes"))
            self._inherited_kills = self._memory_kills()

    def _memory_kills(self) -> int:
        name = "memory.events" if self.fd is not None else "memory.oom_control"
        return _keyed(f"{self._paths['memory']}/{name}").get("oom_kill", 0)

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
            micros = _keyed(f"{self._paths['memory']}/cpu.stat").get("usage_usec")
            return None if micros is None else micros / 1e6
        if "cpuacct" in self._paths:
            return int(_read(f"{self._paths['cpuacct']}/cpuacct.usage")) / 1e9
        return None

    def peak_memory_bytes(self) -> int | None:
        """The most memory that all members ever held together, in bytes; None when nothing counted it."""
        if "memory" in self._paths:
            name = "memory.peak" if self.fd is not None else "memory.max_usage_in_bytes"
            with contextlib.suppress(OSError):
                most = int(_read(f"{self._paths['memory']}/{name}"))
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
                return int(_read(f"{self._paths['pids']}/{name}"))
        return None

    def events(self) -> dict[str, int]:
        """How often the kernel enforced a limit: `memory` (processes killed), `processes` (forks refused)."""
        counts = {}
        if "memory" in self._paths:
            counts["memory"] = self._memory_kills() - self._inherited_kills
        if "pids" in self._paths:
            counts["processes"] = _keyed(f"{self._paths['pids']}/pids.events").get("max", 0)
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
        removed = [_remove_tree(path) for path in dict.fromkeys(self._paths.values())]
        return all(removed)

    def _write(self, controller: str, name: str, value: object) -> None:
        _write(f"{self._paths[controller]}/{name}", str(value))


def find_place() -> Place:
    """Find where groups can be made, make the launcher's own, and remove those of dead launchers."""
    own = _own_groups()
    mounts = list(_cgroup_mounts())
    name = _own_name()
    for kind, _, root, where in mounts:
        if kind != "cgroup2":
            continue
        for candidate in _upwards(where, root, own.get("", "/")):
            if _usable_v2(candidate, name):
                _sweep(candidate, name)
                directory = _make(f"{candidate}/{name}")
                _delegate(directory)
                return Place(2, dict.fromkeys(V2_CONTROLLERS, directory))
    found: dict[str, str] = {}
    for kind, controllers, root, where in mounts:
        if kind != "cgroup":
            continue
        for controller in set(controllers) & set(V1_CONTROLLERS) - found.keys():
            # Not upwards: on version 1 a group further up would escape the limits of our own.
            candidate = next(_upwards(where, root, own.get(controller, "/")), where)
            with contextlib.suppress(OSError):
                _sweep(candidate, name)
                found[controller] = _make(f"{candidate}/{name}")
    ordered = {controller: found[controller] for controller in V1_CONTROLLERS if controller in found}
    return Place(1 if ordered else 0, ordered)


def sweep() -> list[int]:
    """Remove the groups of dead launchers of this process namespace; for a client whose launcher crashed.

    Returns:
        Processes that were killed and are not gone yet: call again when they are.
    """
    own, name = _own_groups(), _own_name()
    dying: list[int] = []
    for kind, controllers, root, where in _cgroup_mounts():
        key = "" if kind == "cgroup2" else next((c for c in controllers if c in own), None)
        if key is not None:
            for candidate in _upwards(where, root, own.get(key, "/")):
                with contextlib.suppress(OSError):
                    dying += _sweep(candidate, name)
    return sorted(set(dying))


def _own_name() -> str:
    with open("/proc/self/stat", "rb") as file:
        start = file.read().rsplit(b")", 1)[1].split()[19].decode()
    return f"{_PREFIX}-{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}-{start}"


def _own_groups() -> dict[str, str]:
    """Return controller -> the path of this process's group; the version 2 hierarchy has the key ''."""
    groups = {}
    with contextlib.suppress(FileNotFoundError), open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _cgroup_mounts() -> Iterator[tuple[str, list[str], str, str]]:
    """Yield (file system type, controllers, root of the mount, mount point) of every cgroup mount."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields, kind = left.split(" "), right.split(" ")
            if kind[0] in ("cgroup", "cgroup2"):
                yield kind[0], kind[2].split(","), fields[3], fields[4]


def _upwards(where: str, root: str, own: str) -> Iterator[str]:
    """Yield directories from our own group up to the mount point, as far as the mount shows them."""
    below = own.removeprefix(root.rstrip("/")) if (own + "/").startswith(root.rstrip("/") + "/") else "/"
    parts = [part for part in below.split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):
        path = "/".join([where, *parts[:depth]])
        if os.path.isdir(path):
            yield path


def _usable_v2(directory: str, name: str) -> bool:
    """True when a group below `directory` gets the memory and pids controllers and accepts a process."""
    probe = f"{directory}/{name}"
    try:
        if not {"memory", "pids"} <= set(_read(f"{directory}/cgroup.controllers").split()):
            return False
        if not {"memory", "pids"} <= set(_read(f"{directory}/cgroup.subtree_control").split()):
            _delegate(directory)
        os.mkdir(probe)
    except OSError:
        return False
    try:
        _delegate(probe)
        leaf = _make(f"{probe}/probe")
        with open(f"{leaf}/memory.max", "w") as file:
            file.write("max")
        return _child_may_enter(leaf)
    except OSError:
        return False
    finally:
        _remove_tree(probe)


def _child_may_enter(directory: str) -> bool:
    from praxis_sdk.sandbox import kernel

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid, pidfd = kernel.clone3(0, fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)
    return True


def _delegate(directory: str) -> None:
    """Give the children of a version 2 group the controllers; cpu only where it is to be had."""
    _write(f"{directory}/cgroup.subtree_control", "+memory +pids")
    with contextlib.suppress(OSError):
        _write(f"{directory}/cgroup.subtree_control", "+cpu")


def _sweep(directory: str, own: str) -> list[int]:
    """Kill and remove the groups of dead launchers of this process namespace; return who is still dying in them."""
    namespace = own.split("-")[1]
    dying: list[int] = []
    for entry in os.listdir(directory):
        parts = entry.split("-")
        if len(parts) != 4 or parts[0] != _PREFIX or parts[1] != namespace or entry == own:
            continue
        try:
            with open(f"/proc/{int(parts[2])}/stat", "rb") as file:
                alive = file.read().rsplit(b")", 1)[1].split()[19].decode() == parts[3]
        except (OSError, ValueError):
            alive = False
        if not alive:
            killed = _kill_members(f"{directory}/{entry}")
            if not _remove_tree(f"{directory}/{entry}"):
                dying += killed
    return dying


def _kill_members(directory: str) -> list[int]:
    killed = []
    for path, _, _ in os.walk(directory):
        with contextlib.suppress(FileNotFoundError):
            for pid in map(int, _read(f"{path}/cgroup.procs").split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
    return killed


def _remove_tree(directory: str) -> bool:
    """Remove a group and those below it; False when one is still busy."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as problem:
        if problem.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            return False
    else:
        return True
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(entry.path)
        os.rmdir(directory)
        return True
    return False


def _make(directory: str) -> str:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    return directory


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def _keyed(path: str) -> dict[str, int]:
    """Read a file of `name number` lines; empty when it is not there."""
    try:
        lines = _read(path).splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
