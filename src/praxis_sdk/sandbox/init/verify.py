"""Asking the kernel whether the lock-down holds, before any byte of the user runs.

Everything is read back from /proc of the finished sandbox: what the steps believe they did does not count.
The list of differences must be empty; otherwise the sandbox is refused and the launcher reports what
differed.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import re
import socket
import struct
import sys

from praxis_sdk.sandbox.init.baseroot import DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
FORBIDDEN_FILE_SYSTEMS = frozenset(
    {"sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf", "devpts"}
)
NO_CAPABILITIES = "0000000000000000"
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_INTERNET, _DATAGRAMS = int(socket.AF_INET), int(socket.SOCK_DGRAM)
_LOOPBACK = struct.pack("16sh14x", b"lo", 0)
_FLAGS = slice(16, 18)
_DEVICES = frozenset(f"/dev/{name}" for name in DEVICES)


# A read-only, nosuid, nodev mount without peers, of a file system that may be here.
_PLAIN_MOUNT = re.compile(
    r"^\S+ \S+ \S+ \S+ \S+ ro,nosuid,nodev\S* - (?!(?:"
    + "|".join(sorted(FORBIDDEN_FILE_SYSTEMS))
    + r") )\S+ .*\n",
    re.MULTILINE,
)


class RefusedError(Exception):
    """The finished sandbox is not what it should be; nothing of the user has run."""


class Expectation:
    """What the kernel must say.

    Attributes:
        identity: the one user and group id inside.
        writable: mount points that may be written to.
        outside: namespace -> inode of the launcher's own, which the sandbox must have left.
        descriptors: the open files that init holds on purpose.
        no_groups: supplementary groups must be empty (a launcher without privileges cannot drop its own).
        pid: the process id inside.
        filters: how many system-call filters there are at least, on top of each other.
        loopback: the loopback device may be up.
    """

    __slots__ = ("descriptors", "filters", "identity", "loopback", "no_groups", "outside", "pid", "writable")

    def __init__(
        self,
        identity: int,
        writable: Iterable[str],
        outside: Mapping[str, int],
        descriptors: Iterable[int],
        *,
        no_groups: bool,
        pid: int = 1,
        filters: int = 1,
        loopback: bool = False,
    ) -> None:
        self.identity = identity
        self.writable = frozenset(writable)
        self.outside = outside
        self.descriptors = frozenset(descriptors)
        self.no_groups = no_groups
        self.pid = pid
        self.filters = filters
        self.loopback = loopback


def verify(expected: Expectation) -> None:
    """Compare the kernel's account of this process with the expectation.

    Raises:
        RefusedError: names every difference.
    """
    differences = [
        *_differences("/proc/self", expected),
        *_descriptor_differences(expected.descriptors),
    ]
    if not expected.loopback and loopback_is_up():
        differences.append("network device lo is up")
    _insist(differences)


def inspect(process: str, expected: Expectation) -> None:
    """Compare the kernel's account of another process with the expectation, whatever that process believes.

    Whether the loopback device is up can only be asked inside (`loopback_is_up`).

    Args:
        process: its directory in /proc.
        expected: as for `verify`, with the identity as it is seen from here.

    Raises:
        RefusedError: names every difference.
        OSError: it is gone.
    """
    differences = _differences(process, expected)
    if (count := count_descriptors(process)) != len(expected.descriptors):
        differences.append(f"{count} descriptors are open, not {len(expected.descriptors)}")
    _insist(differences)


def count_descriptors(process: str) -> int:
    """Return how many files another process holds open."""
    return len(os.listdir(f"{process}/fd"))


def _differences(process: str, expected: Expectation) -> list[str]:
    return [
        *_process_differences(process, expected),
        *_namespace_differences(process, expected),
        *_mount_differences(process, expected),
        *_network_differences(process),
    ]


def verify_descriptors(expected: Iterable[int]) -> None:
    """Look once more, before the work begins, whether exactly these files are open.

    Raises:
        RefusedError: names every other one.
    """
    _insist(_descriptor_differences(frozenset(expected)))


def _insist(differences: list[str]) -> None:
    if differences:
        raise RefusedError("; ".join(differences))


def own_namespaces() -> dict[str, int]:
    """Return namespace -> inode of the calling process."""
    return {name: _namespace("/proc/self", name) for name in NAMESPACES}


def own_filters() -> int:
    """Return how many system-call filters the calling process has, on top of each other."""
    return count_filters(_read("/proc/self/status"))


def count_filters(status: str) -> int:
    """Return what the text of a `/proc/<pid>/status` says about system-call filters."""
    _, _, rest = status.partition("\nSeccomp_filters:\t")
    return int(rest.partition("\n")[0] or 0)


def _namespace(process: str, name: str) -> int:
    return os.stat(f"{process}/ns/{name}").st_ino


def _process_differences(process: str, expected: Expectation) -> list[str]:
    status = _read(f"{process}/status")
    identity = "\t".join([str(expected.identity)] * 4)
    wanted = dict.fromkeys(_CAPABILITY_SETS, NO_CAPABILITIES)
    wanted |= {"Uid": identity, "Gid": identity, "Seccomp": "2", "NoNewPrivs": "1"}
    if expected.no_groups:
        wanted["Groups"] = " "
    found = [
        f"{name} is not {value!r}" for name, value in wanted.items() if f"\n{name}:\t{value}\n" not in status
    ]
    if (count := count_filters(status)) < expected.filters:
        found.append(f"Seccomp_filters is {count}, not {expected.filters}")
    # Its number in every process namespace from the reader's own to the innermost one.
    numbers = status.partition("\nNSpid:")[2].partition("\n")[0].split()
    if numbers[-1:] != [str(expected.pid)]:
        found.append(f"pid is {numbers[-1:]}, not {expected.pid}")
    return found


def _namespace_differences(process: str, expected: Expectation) -> list[str]:
    return [
        f"{name} namespace is the launcher's"
        for name, inode in expected.outside.items()
        if _namespace(process, name) == inode
    ]


def _mount_differences(process: str, expected: Expectation) -> list[str]:
    found = []
    missing = set(expected.writable)
    # Most mounts are beyond doubt at first sight; only the others are taken apart.
    for line in _PLAIN_MOUNT.sub("", _read(f"{process}/mountinfo")).splitlines():
        fields = line.split(" ")
        where = _unescape(fields[4]) if "\\" in fields[4] else fields[4]
        options = fields[5].split(",")
        # Optional fields of varying number, a lone hyphen, then the file system's type.
        kind = fields[fields.index("-", 6) + 1]
        missing.discard(where)
        if kind in FORBIDDEN_FILE_SYSTEMS:
            found.append(f"{kind} is mounted on {where}")
        if "nosuid" not in options:
            found.append(f"{where} honours set-user-id")
        if "nodev" not in options and where not in _DEVICES:
            found.append(f"{where} honours device files")
        if "ro" not in options and where not in expected.writable:
            found.append(f"{where} is writable")
    return found + [f"{where} is not mounted" for where in sorted(missing)]


def _unescape(path: str) -> str:
    """Undo the kernel's octal escapes for blank, tab, newline and backslash."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def _network_differences(process: str) -> list[str]:
    lines = _read(f"{process}/net/dev").splitlines()[2:]
    return [
        f"network device {line.split(':')[0].strip()}" for line in lines if line.split(":")[0].strip() != "lo"
    ]


def loopback_is_up() -> bool:
    """True when the loopback device of the calling process's network namespace is up."""
    # The C part of the module alone: its enumerations would cost a fresh process more than the call.
    probe = _socket.socket(_INTERNET, _DATAGRAMS)
    try:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, _LOOPBACK)
    finally:
        probe.close()
    return bool(int.from_bytes(answer[_FLAGS], sys.byteorder) & _IFF_UP)


def _descriptor_differences(expected: frozenset[int]) -> list[str]:
    directory = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # listdir on a descriptor duplicates it for the walk: take out both.
        open_now = {int(name) for name in os.listdir(directory)} - {directory}
    finally:
        os.close(directory)
    unexpected = []
    for fd in sorted(open_now - expected):
        try:
            os.fstat(fd)
        except OSError:
            continue  # the walk's own, closed by now
        unexpected.append(f"descriptor {fd} is open")
    return unexpected


def _read(path: str) -> str:
    chunks = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks).decode(errors="surrogateescape")
