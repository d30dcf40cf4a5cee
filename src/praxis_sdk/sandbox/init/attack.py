"""A program that tries to get out of the sandbox it runs in, and says what it could do; it needs only Python.

It reads what to look for (JSON) from descriptor 0 and writes to descriptor 1: {"attempts": number, "breaches": [...]}.
Every attempt that the system-call filter may punish runs in a child of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

CONNECT_TIMEOUT_S = 0.05
_NEW_USER = 0x10000000
# name -> (x86_64, aarch64), arguments. Nothing of this may succeed.
_CALLS: dict[str, tuple[tuple[int, int], tuple[Any, ...]]] = {
    "mount": ((165, 40), (b"none", b"/tmp", b"tmpfs", 0, 0)),
    "umount2": ((166, 39), (b"/proc", 2)),
    "unshare": ((272, 97), (_NEW_USER,)),
    "clone": ((56, 220), (_NEW_USER | int(signal.SIGCHLD), 0, 0, 0, 0)),
    "ptrace": ((101, 117), (16, 1, 0, 0)),
    "bpf": ((321, 280), (0, b"\1\0\0\0\4\0\0\0\4\0\0\0\1\0\0\0" + bytes(100), 116)),
    "keyctl": ((250, 219), (0, -3, 0)),
    "process_vm_readv": ((310, 270), (1, 0, 0, 0, 0, 0)),
    "perf_event_open": ((298, 241), (bytes(112), 0, -1, -1, 0)),
    "userfaultfd": ((323, 282), (1,)),
    "io_uring_setup": ((425, 425), (8, bytes(120))),
    "open_tree": ((428, 428), (-100, b"/", 1)),
    "chroot": ((161, 51), (b"/tmp",)),
    "sethostname": ((170, 161), (b"breached", 8)),
    "setuid": ((105, 146), (0,)),
    "setgid": ((106, 144), (0,)),
    "swapon": ((167, 224), (b"/dev/null", 0)),
}
_WRITE_TO = ("/usr", "/etc", "/run", "/bin", "/lib", "/", "/dev", "/run/praxis")
_OPEN = (
    "/etc/shadow",
    "/etc/machine-id",
    "/root",
    "/dev/mem",
    "/dev/kmsg",
    "/dev/kvm",
    "/dev/tty",
    "/dev/sda",
    "/dev/vda",
    "/proc/kcore",
    "/proc/1/environ",
    "/proc/1/root",
    "/sys/kernel",
    "/sys/fs/cgroup",
    "/var/run/docker.sock",
    "/var/log",
)
_OVERWRITE = (
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/etc/passwd",
    "/etc/hosts",
    "/usr/bin/env",
)
_FAMILIES = {"AF_NETLINK": 16, "AF_PACKET": 17, "AF_ALG": 38, "AF_VSOCK": 40}


def main(fd: int = 0) -> int:
    """Attack, and report on descriptor 1."""
    with open(fd, "rb", closefd=False) as file:
        target = json.loads(file.read())
    attempts, breaches = 0, []
    for attempt in _attempts(target):
        attempts += 1
        found = attempt()
        if found:
            breaches.append(found[:200])
    os.write(1, json.dumps({"attempts": attempts, "breaches": breaches}).encode())
    return 0


def _attempts(target: dict[str, Any]) -> Iterator[Callable[[], str]]:
    yield _own_status
    yield _processes
    yield _descriptors
    yield lambda: _environment(target["secret"])
    yield lambda: "the host's name is visible" if socket.gethostname() == target["hostname"] else ""
    for path in (*_OPEN, *target["files"]):
        yield lambda path=path: _opened(path, target["own_proc"], target["shown"])  # type: ignore[misc]
    for path in _WRITE_TO:
        yield lambda path=path: _created(path)  # type: ignore[misc]
    for path in _OVERWRITE:
        yield lambda path=path: _overwritten(path)  # type: ignore[misc]
    for address in target["addresses"]:
        yield lambda address=address: _connected(address)  # type: ignore[misc]
    yield lambda: _connected_to_abstract(target["abstract"])
    for name, family in _FAMILIES.items():
        yield lambda name=name, family=family: _socket(name, family)  # type: ignore[misc]
    for name in _CALLS:
        yield lambda name=name: _called(name)  # type: ignore[misc]


def _own_status() -> str:
    with open("/proc/self/status") as file:
        fields = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    powers = [name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(fields[name], 16)]
    if powers:
        return f"capabilities in {', '.join(powers)}"
    if fields["NoNewPrivs"] != "1":
        return "new privileges are possible"
    return "" if fields["Seccomp"] == "2" else "no system-call filter"


def _processes() -> str:
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    strangers = [pid for pid in seen if pid not in (1, os.getpid())]
    return f"{len(strangers)} other processes are visible" if strangers else ""


def _descriptors() -> str:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2:
            with contextlib.suppress(OSError):
                return f"descriptor {fd} is open: {os.readlink(f'/proc/self/fd/{fd}')}"
    return ""


def _environment(secret: str) -> str:
    if any(secret in value for value in os.environ.values()):
        return "the environment of the host is inherited"
    for pid in ("self", "1"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if secret.encode() in file.read():
                return f"the environment of process {pid} holds a secret of the host"
    return ""


def _opened(path: str, own: bool, shown: list[str]) -> str:
    if own and path.startswith("/proc/1/"):
        return ""  # process 1 is the job itself
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return ""
    below = [one for one in shown if one.startswith(f"{path}/")]
    return _more_than(path, below) if below else f"{path} can be read"


def _more_than(path: str, shown: list[str]) -> str:
    """Look for anything in a folder but the way to what has to be shown below it."""
    for name in os.listdir(path):
        place = f"{path}/{name}"
        below = [one for one in shown if one.startswith(f"{place}/")]
        if place not in shown and not below:
            return f"{place} can be read"
        found = _more_than(place, below) if place not in shown else ""
        if found:
            return found
    return ""


def _created(directory: str) -> str:
    path = f"{directory}/.breach"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return ""
    with contextlib.suppress(OSError):
        os.unlink(path)
    return f"{directory} can be written to"


def _overwritten(path: str) -> str:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return ""
    return f"{path} can be written to"


def _connected(address: list[Any]) -> str:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect((address[0], address[1]))
    except TimeoutError:
        return f"a packet to {address[0]} was sent"
    except OSError as problem:
        # An answer, though a refusal, would have come from somebody.
        return f"{address[0]} answered" if problem.errno == errno.ECONNREFUSED and address[2] else ""
    return f"{address[0]} port {address[1]} of the host was reached"


def _connected_to_abstract(name: str) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(f"\0{name}")
    except OSError:
        return ""
    return "an abstract socket of the host was reached"


def _socket(name: str, family: int) -> str:
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError:
        return ""
    return f"a socket of the family {name} can be had"


def _called(name: str) -> str:
    """Make a system call in a child: it may be killed for it, and must not succeed."""
    numbers, arguments = _CALLS[name]
    machines = {"x86_64": 0, "aarch64": 1}
    machine = os.uname().machine
    if machine not in machines:
        return ""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            call = ctypes.CDLL(None, use_errno=True).syscall
            result = call(ctypes.c_long(numbers[machines[machine]]), *arguments)
            os._exit(0 if result < 0 else 42)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    harmless = os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return "" if harmless else f"the system call {name} is possible"


if __name__ == "__main__":
    os._exit(main())
