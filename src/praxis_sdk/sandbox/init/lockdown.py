"""Becoming harmless: the steps after which the sandbox's init holds no power that the work inside could
inherit.

Each step is one function, applied in the order of `STEPS`. `verify` then asks the kernel whether they took
effect.
"""

from __future__ import annotations

import contextlib
import os
import resource

from praxis_sdk.sandbox import kernel
from praxis_sdk.sandbox.init.baseroot import HOSTNAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

STACK_BYTES = 8 * 1024 * 1024
STACK_CEILING_BYTES = 64 * 1024 * 1024
LOCKED_MEMORY_BYTES = 64 * 1024
PENDING_SIGNALS = 256
MESSAGE_QUEUE_BYTES = 819_200
MAX_CPU_SECONDS = 1_000_000_000
CPU_GRACE_SECONDS = 2

_FIXED_LIMITS = (
    (resource.RLIMIT_CORE, 0, 0),
    (resource.RLIMIT_STACK, STACK_BYTES, STACK_CEILING_BYTES),
    (resource.RLIMIT_RTPRIO, 0, 0),
    (resource.RLIMIT_NICE, 0, 0),
)
# What the kernel counts for a user in a user namespace, and once more for whoever made that namespace, up to the limit
# that its maker had then. So each sandbox gets limits of its own, and its makers (launcher, zygote) keep theirs, which
# have to be enough for all sandboxes together.
_LIMITS_OF_A_USER = (
    (resource.RLIMIT_MEMLOCK, LOCKED_MEMORY_BYTES),
    (resource.RLIMIT_SIGPENDING, PENDING_SIGNALS),
    (resource.RLIMIT_MSGQUEUE, MESSAGE_QUEUE_BYTES),
)


class LimitError(Exception):
    """A resource limit is not what it should be; nothing of the user has run."""


class Lockdown:
    """What the steps need to know.

    Attributes:
        last_capability: the highest capability of this kernel.
        filter_program: the compiled system-call filter.
        inherited: the name of the host and the limits of each process were set by the zygote, which can take neither
            back: its children have them from birth.
        own_id: the sandbox has a host id that no other has.
    """

    __slots__ = ("filter_program", "inherited", "last_capability", "own_id")

    def __init__(
        self, last_capability: int, filter_program: bytes, *, inherited: bool = False, own_id: bool = True
    ) -> None:
        self.last_capability = last_capability
        self.filter_program = filter_program
        self.inherited = inherited
        self.own_id = own_id


def rename_host(lockdown: Lockdown) -> None:
    """Hide the host's name."""
    if not lockdown.inherited:
        kernel.set_hostname(HOSTNAME)


def limit_resources(lockdown: Lockdown) -> None:
    """Set the limits that are the same for everybody; `tighten` sets the others."""
    if not lockdown.inherited:
        limit_each_process()
    for which, most in _LIMITS_OF_A_USER:
        # The kernel's own limit on queues is so small that jobs which share an id could leave nothing to each other.
        nothing = which == resource.RLIMIT_MSGQUEUE and not lockdown.own_id
        _set(which, 0 if nothing else most, 0 if nothing else most)


def limit_each_process() -> None:
    """Set the limits that the kernel holds for each process by itself, and that are the same for everybody."""
    for which, soft, hard in _FIXED_LIMITS:
        _set(which, soft, hard)


def make_room_for(sandboxes: int) -> None:
    """Raise this process's limits to what so many sandboxes may use together, as far as it may."""
    for which, each in (*_LIMITS_OF_A_USER, (resource.RLIMIT_NOFILE, 0), (resource.RLIMIT_NPROC, 0)):
        _, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(which, (hard, hard))
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(which, (max(hard, each * sandboxes),) * 2)


def hide_memory(_: Lockdown) -> None:
    """Close /proc/1/mem, ptrace and core dumps to the work, which has the same id."""
    kernel.set_dumpable(False)


def drop_capabilities(lockdown: Lockdown) -> None:
    """Give up every capability in every set."""
    kernel.drop_capabilities(lockdown.last_capability)


def forbid_new_privileges(_: Lockdown) -> None:
    """Make set-user-id programs ordinary ones."""
    kernel.no_new_privileges()


def filter_system_calls(lockdown: Lockdown) -> None:
    """Install the filter, last: it also forbids the steps before it."""
    kernel.install_seccomp(lockdown.filter_program)


STEPS: tuple[Callable[[Lockdown], None], ...] = (
    rename_host,
    limit_resources,
    hide_memory,
    drop_capabilities,
    forbid_new_privileges,
    filter_system_calls,
)


def lock_down(lockdown: Lockdown) -> None:
    """Apply every step; raises OSError when one fails."""
    os.umask(0o022)
    for step in STEPS:
        step(lockdown)


def tighten(limits: Mapping[str, Any], *, tasks_counted: bool, cpu_counted: bool) -> None:
    """Set the per-process limits that depend on the policy, which also hold where there is no cgroup.

    Possible without any power, since it only ever takes away; and read back, since it is the last step.

    Args:
        limits: the fields of `Limits`.
        tasks_counted: True when a cgroup holds the process limit, and keeps count of refusals.
        cpu_counted: True when a cgroup counts the processor time, by which the launcher judges.

    Raises:
        OSError: a limit was refused.
        LimitError: a limit did not take effect.
    """
    # The kernel counts in nanoseconds: a limit of centuries would overflow, and hold at once.
    cpu = min(max(1, -int(-limits["cpu_seconds"] // 1)), MAX_CPU_SECONDS)
    # Beside a cgroup only the second line of defence: a fork that this one refuses leaves no trace.
    tasks = (int(limits["processes"]) + 1) * (2 if tasks_counted else 1)
    # Likewise: a process that ends at exactly the limit must not look as if it had ended for a reason of its own.
    cpu += CPU_GRACE_SECONDS if cpu_counted else 0
    size = int(limits["file_size_bytes"])
    # One second between the signal that says why (SIGXCPU) and the one that cannot be ignored.
    _set_and_check(resource.RLIMIT_CPU, cpu, cpu + 1)
    _set_and_check(resource.RLIMIT_FSIZE, size, size)
    _set_and_check(resource.RLIMIT_NPROC, tasks, tasks)


def rehearse() -> None:
    """Set a limit to what it is already."""
    _set(resource.RLIMIT_CORE, 0, 0)
    _set_and_check(resource.RLIMIT_CORE, 0, 0)


def limit_descriptors(open_files: int, *, own_id: bool) -> None:
    """Limit the open files of each process: after the last descriptors have been sent, which counts against the limit.

    What a user has in flight between processes is held against each sender's limit. Where sandboxes share the
    launcher's id, theirs is so much smaller than the launcher's that they cannot keep it from sending.

    Raises:
        OSError: the limit was refused.
        LimitError: it did not take effect.
    """
    most = open_files if own_id else min(open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2)
    _set_and_check(resource.RLIMIT_NOFILE, most, most)


def limit_address_space(memory_bytes: int) -> None:
    """Stand in for a memory cgroup: bound the address space of each process (soft and hard)."""
    _set_and_check(resource.RLIMIT_AS, memory_bytes, memory_bytes)


def _set_and_check(which: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(which, (soft, hard))
    except ValueError:  # nobody here may raise a limit
        _set(which, soft, hard)
    found = resource.getrlimit(which)[1]
    if found == resource.RLIM_INFINITY or found > hard:
        raise LimitError(f"resource limit {which} is {found}, not {hard}")


def _set(which: int, soft: int, hard: int) -> None:
    """Set a limit, never above what this process was given itself."""
    ceiling = resource.getrlimit(which)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))
