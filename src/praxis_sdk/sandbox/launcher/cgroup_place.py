"""Where the control groups of sandboxes are made, and what is there already.

One group per launcher, `praxis-<pid namespace>-<pid>-<start time>`, holds one group per sandbox. Version 2 is
tried first, then version 1. The launcher looks for a place from its own group upwards, so it stays under
every limit that was put on itself; a place counts only after a probe group with the controllers could really
be made there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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
        return make(f"{directory}/share-{self._shares_made}")

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
        if limit_bytes is None or int(read(f"{path}/memory.usage_in_bytes")) <= MAX_LEFT_BYTES:
            return remove_tree(path)
        self._kept[path] = limit_bytes
        if len(self._kept) > MAX_KEPT:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            with contextlib.suppress(OSError):  # a dying member; then it stays in the kernel's memory
                write(f"{oldest}/memory.force_empty", "0")
            return remove_tree(oldest)
        return True

    def give_share_back(self, path: str) -> None:
        """Take back a group that `take_share` returned, without a quota."""
        self._shares.append(path)

    def remove(self) -> None:
        """Remove the launcher's own groups; what still has a live child stays for the next start-up's sweep."""
        for directory in set(self.controllers.values()):
            remove_tree(directory)


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
                directory = make(f"{candidate}/{name}")
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
                found[controller] = make(f"{candidate}/{name}")
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
        if not {"memory", "pids"} <= set(read(f"{directory}/cgroup.controllers").split()):
            return False
        if not {"memory", "pids"} <= set(read(f"{directory}/cgroup.subtree_control").split()):
            _delegate(directory)
        os.mkdir(probe)
    except OSError:
        return False
    try:
        _delegate(probe)
        leaf = make(f"{probe}/probe")
        with open(f"{leaf}/memory.max", "w") as file:
            file.write("max")
        return _child_may_enter(leaf)
    except OSError:
        return False
    finally:
        remove_tree(probe)


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
    write(f"{directory}/cgroup.subtree_control", "+memory +pids")
    with contextlib.suppress(OSError):
        write(f"{directory}/cgroup.subtree_control", "+cpu")


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
            if not remove_tree(f"{directory}/{entry}"):
                dying += killed
    return dying


def _kill_members(directory: str) -> list[int]:
    killed = []
    for path, _, _ in os.walk(directory):
        with contextlib.suppress(FileNotFoundError):
            for pid in map(int, read(f"{path}/cgroup.procs").split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
    return killed


def remove_tree(directory: str) -> bool:
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
                remove_tree(entry.path)
        os.rmdir(directory)
        return True
    return False


def make(directory: str) -> str:
    """Make a group, unless it is there; returns its path."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    return directory


def read(path: str) -> str:
    """Return what a file of a group holds."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def keyed(path: str) -> dict[str, int]:
    """Read a file of `name number` lines; empty when it is not there."""
    try:
        lines = read(path).splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def write(path: str, text: str) -> None:
    """Write to a file of a group."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
