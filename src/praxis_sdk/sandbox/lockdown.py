"""Becoming harmless: the steps after which the sandbox's init holds no power that the work inside could
inherit.

Each step is one function, applied in the order of `STEPS`. `verify` then asks the kernel whether they took
effect.
"""

from __future__ import annotations

import os
import resource

from praxis_sdk.sandbox import kernel
from praxis_sdk.sandbox.baseroot import HOSTNAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

STACK_BYTES = 8 * 1024 * 1024
STACK_CEILING_BYTES = 64 * 1024 * 1024
LOCKED_MEMORY_BYTES = 64 * 1024
PENDING_SIGNALS = 1024
MESSAGE_QUEUE_BYTES = 819_200
MAX_CPU_SECONDS = 1_000_000_000
CPU_GRACE_SECONDS = 2

_FIXED_LIMITS = (
    (resource.RLIMIT_CORE, 0, 0),
    (resource.RLIMIT_STACK, STACK_BYTES, STACK_CEILING_BYTES),
    (resource.RLIMIT_MEMLOCK, LOCKED_MEMORY_BYTES, LOCKED_MEMORY_BYTES),
    (resource.RLIMIT_SIGPENDING, PENDING_SIGNALS, PENDING_SIGNALS),
    (resource.RLIMIT_MSGQUEUE, MESSAGE_QUEUE_BYTES, MESSAGE_QUEUE_BYTES),
    (resource.RLIMIT_RTPRIO, 0, 0),
    (resource.RLIMIT_NICE, 0, 0),
)


class LimitError(Exception):
    """A resource limit is not what it should be; nothing of the user has run."""


class Lockdown:
    """What the steps need to know.

    Attributes:
        last_capability: the highest capability of this kernel.
        filter_program: the compiled system-call filter.
        inherited: the name of the host and the limits that are the same for everybody were set by the zygote, which
            can take neither back: its children have them from birth.
    """

    __slots__ = ("filter_program", "inherited", "last_capability")

    def __init__(self, last_capability: int, filter_program: bytes, *, inherited: bool = False) -> None:
        self.last_capability = last_capability
        self.filter_program = filter_program
        self.inherited = inherited


def rename_host(lockdown: Lockdown) -> None:
    """Hide the host's name."""
    if not lockdown.inherited:
        kernel.set_hostname(HOSTNAME)


def limit_resources(lockdown: Lockdown) -> None:
    """Set the per-process limits that are the same for everybody; `tighten` sets the others."""
    if not lockdown.inherited:
        for which, soft, hard in _FIXED_LIMITS:
            _set(which, soft, hard)


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
    files, size = int(limits["open_files"]), int(limits["file_size_bytes"])
    # One second between the signal that says why (SIGXCPU) and the one that cannot be ignored.
    _set_and_check(resource.RLIMIT_CPU, cpu, cpu + 1)
    _set_and_check(resource.RLIMIT_FSIZE, size, size)
    _set_and_check(resource.RLIMIT_NOFILE, files, files)
    _set_and_check(resource.RLIMIT_NPROC, tasks, tasks)


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
