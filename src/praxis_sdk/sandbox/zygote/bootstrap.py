"""How a zygote is planted: trusted steps between the launcher and the first byte of an environment's code.

A zygote imports third-party code, so it is confined before it does: an id of its own (as root), no capabilities, no
new privileges, a system-call filter, the read-only root with the environment, and namespaces for mounts, processes,
network, IPC, host name and cgroups. It owns no user namespace: it needs none, and so its children's are children of
the launcher's, which alone may then say which ids they get.

The zygote forks its children as the launcher's (CLONE_PARENT), which the kernel denies to a process 1. So a **root
process** that never runs anything of others is process 1 of the namespace, and the zygote number 2; when the root
process dies, the kernel kills the zygote and all its children.
"""

from __future__ import annotations

import os
import signal
import socket

from praxis_sdk.sandbox import kernel, wire
from praxis_sdk.sandbox.init import lockdown, verify
from praxis_sdk.sandbox.init.baseroot import HOSTNAME, LIBRARY, SHARED_MEMORY, TMP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from praxis_sdk.sandbox.init.main import Surroundings

ISOLATION = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
CHANNEL = 3
SCRATCH = (TMP, SHARED_MEMORY)  # what modules may write to while they are imported, and children do not get
_TMP_OPTIONS = "size=64m,nr_inodes=4096,mode=1777"
# As the launcher's own bootstrap does it, of the copies in the root.
_MAIN = f"""
import sys, types
for name, path in (("praxis_sdk", "{LIBRARY}"), ("praxis_sdk.sandbox", "{LIBRARY}/sandbox")):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
from praxis_sdk.sandbox.zygote.main import main
main({CHANNEL})
"""


class BootstrapSpec:
    """What a zygote needs to know before it is one.

    Attributes:
        python: its interpreter, a path inside.
        variables: its whole environment.
        host_id: its user and group id, as the launcher sees them.
        filter_program: its system-call filter, wider than that of its children, who are built under it.
    """

    __slots__ = ("filter_program", "host_id", "python", "variables")

    def __init__(
        self, python: str, variables: Mapping[str, str], host_id: int, filter_program: bytes
    ) -> None:
        self.python = python
        self.variables = variables
        self.host_id = host_id
        self.filter_program = filter_program


def plant(
    seed: BootstrapSpec,
    surroundings: Surroundings,
    channel: socket.socket,
    entrances: Sequence[int],
    report: socket.socket,
) -> NoReturn:
    """Fork the root process and the zygote as siblings; runs in a helper that the launcher cloned with ISOLATION.

    Args:
        seed: what the zygote is to be.
        surroundings: what the launcher knows.
        channel: the zygote's end of the socket to the launcher.
        entrances: descriptors that let a process enter the control group.
        report: takes one message with two pidfds, root process and zygote; or what failed.
    """
    try:
        for fd in entrances:
            os.write(fd, b"0")
        kernel.unshare(kernel.CLONE_NEWPID)
        root, root_fd = kernel.clone3(kernel.CLONE_PARENT)
        if root == 0:
            _be_root_process(seed, surroundings)
        zygote, zygote_fd = kernel.clone3(kernel.CLONE_PARENT)
        if zygote == 0:
            _be_zygote(seed, surroundings, channel)
        wire.send(report, wire.encode({"planted": [root, zygote]}), [root_fd, zygote_fd])
        os._exit(0)
    except BaseException as problem:  # noqa: BLE001 - a fork must never return into the launcher
        number = problem.errno if isinstance(problem, OSError) else 0
        wire.send(report, wire.encode({"failed": ["zygote", number or 0, str(problem)[:4000]]}))
        os._exit(1)


def _be_root_process(seed: BootstrapSpec, surroundings: Surroundings) -> NoReturn:
    """Hold the process namespace together, and do nothing else. Orphans are reaped by the kernel."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        _keep_only(None)
        _renounce(seed, surroundings)
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _be_zygote(seed: BootstrapSpec, surroundings: Surroundings, inherited: socket.socket) -> NoReturn:
    """Confine this process, prove it, and become the environment's interpreter."""
    channel = inherited
    try:
        channel = _keep_only(inherited) or inherited
        kernel.set_hostname(HOSTNAME)
        lockdown.limit_each_process()
        hardened = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("proc", "/proc", "proc", hardened | kernel.MS_RDONLY)
        # Libraries find out at their import what they may use: a temporary folder, and semaphores in shared memory.
        for target in SCRATCH:
            kernel.mount("zygote", target, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _TMP_OPTIONS)
        os.umask(0o022)
        os.setsid()
        _renounce(seed, surroundings)
        kernel.install_seccomp(seed.filter_program)
        verify.verify(
            verify.Expectation(
                seed.host_id,
                SCRATCH,
                {name: inode for name, inode in surroundings.outside.items() if name != "user"},
                (0, 1, 2, channel.fileno()),
                no_groups=surroundings.privileged,
                pid=2,
                filters=surroundings.filters + 1,
            )
        )
        os.set_inheritable(channel.fileno(), True)
        os.execve(seed.python, [seed.python, "-s", "-P", "-B", "-c", _MAIN], dict(seed.variables))  # noqa: S606 - no shell wanted
    except BaseException as problem:  # noqa: BLE001 - a fork must never return into the launcher
        number = problem.errno if isinstance(problem, OSError) else 0
        wire.send(channel, wire.encode({"refused": [number or 0, str(problem)[:4000]]}))
    os._exit(1)


def _renounce(seed: BootstrapSpec, surroundings: Surroundings) -> None:
    """Give up every power, and die with the launcher."""
    kernel.empty_bounding_set(surroundings.last_capability)
    os.setresgid(seed.host_id, seed.host_id, seed.host_id)
    os.setresuid(seed.host_id, seed.host_id, seed.host_id)
    kernel.die_with_parent()  # after the change of ids, which clears it
    kernel.empty_capability_sets()
    kernel.no_new_privileges()


def _keep_only(channel: socket.socket | None) -> socket.socket | None:
    """Keep the channel; close everything else that fork copied."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(CHANNEL):
        os.dup2(null, number)
    if channel is None:
        kernel.close_range(CHANNEL)
        return None
    os.dup2(channel.detach(), CHANNEL, inheritable=False)
    kernel.close_range(CHANNEL + 1)
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, CHANNEL)
