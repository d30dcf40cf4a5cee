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


class Lockdown:
    """What the steps need to know.

    Attributes:
        limits: the fields of `Limits`.
        last_capability: the highest capability of this kernel.
        filter_program: the compiled system-call filter.
        tasks_counted: True when a cgroup holds the process limit, and keeps count of refusals.
    """

    __slots__ = ("filter_program", "last_capability", "limits", "tasks_counted")

    def __init__(
        self, limits: Mapping[str, Any], last_capability: int, filter_program: bytes, *, tasks_counted: bool
    ) -> None:
        self.limits = limits
        self.tasks_counted = tasks_counted
        self.last_capability = last_capability
        self.filter_program = filter_program


def rename_host(_: Lockdown) -> None:
    """Hide the host's name."""
    kernel.set_hostname(HOSTNAME)


def limit_resources(lockdown: Lockdown) -> None:
    """Set the per-process limits, which also hold where there is no cgroup."""
    limits = lockdown.limits
    cpu = max(1, -int(-limits["cpu_seconds"] // 1))
    # One second between the signal that says why (SIGXCPU) and the one that cannot be ignored.
    _set(resource.RLIMIT_CPU, cpu, cpu + 1)
    _set(resource.RLIMIT_FSIZE, int(limits["file_size_bytes"]))
    _set(resource.RLIMIT_NOFILE, int(limits["open_files"]))
    # Beside a cgroup only the second line of defence: a fork that this one refuses leaves no trace.
    tasks = int(limits["processes"]) + 1
    _set(resource.RLIMIT_NPROC, 2 * tasks if lockdown.tasks_counted else tasks)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_STACK, STACK_BYTES, STACK_CEILING_BYTES)
    _set(resource.RLIMIT_MEMLOCK, LOCKED_MEMORY_BYTES)
    _set(resource.RLIMIT_SIGPENDING, PENDING_SIGNALS)
    _set(resource.RLIMIT_MSGQUEUE, MESSAGE_QUEUE_BYTES)
    _set(resource.RLIMIT_RTPRIO, 0)
    _set(resource.RLIMIT_NICE, 0)


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


def limit_address_space(memory_bytes: int) -> None:
    """Stand in for a memory cgroup: bound the address space of each process (soft and hard)."""
    _set(resource.RLIMIT_AS, memory_bytes)


def _set(which: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, never above what this process was given itself."""
    ceiling = resource.getrlimit(which)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))
