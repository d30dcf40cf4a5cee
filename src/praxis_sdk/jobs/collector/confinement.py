"""Giving up all that reading by descriptor does not need; what was read may have taken over whoever read it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path
from typing import Final

from praxis_sdk.sandbox import kernel
from praxis_sdk.sandbox.init.idmap import write_map

_CAP_DAC_READ_SEARCH: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522
_NAMESPACES: Final = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)  # the caller waits for its children, so it stays in its pid namespace
_FIRST_TO_GO: Final = "500"  # where the machine runs out of memory


def confine(filter_program: bytes) -> None:
    """Leave this process, and all that it forks, with nothing but its descriptors.

    No network, an empty read-only root, no way to more privileges, only harmless system calls. As root, one capability
    stays: to read files whatever their mode, since they belong to the ids of sandboxes.

    Args:
        filter_program: the compiled system-call filter.

    Raises:
        OSError: this host does not allow it.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    privileged = _enter_namespaces()
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # Any directory will do to hang the empty root on; this one is part of every system.
    kernel.mount("praxis-empty", "/proc", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k,nr_inodes=2")
    os.chdir("/proc")
    kernel.pivot_root_here()
    kernel.mount_setattr("/", kernel.MOUNT_ATTR_RDONLY, recursive=False)
    kernel.empty_bounding_set(last)
    if privileged:
        _keep_only(_CAP_DAC_READ_SEARCH)
    else:
        kernel.empty_capability_sets()
    kernel.no_new_privileges()
    kernel.install_seccomp(filter_program)


def _enter_namespaces() -> bool:
    """Leave the host's namespaces; returns whether the caller's power over files was kept."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        with contextlib.suppress(PermissionError):
            kernel.unshare(_NAMESPACES)
            return True
    kernel.unshare(kernel.CLONE_NEWUSER)
    kernel.set_dumpable(True)  # else the files of this process in /proc are root's
    write_map("self", "setgroups", "deny")
    write_map("self", "uid_map", f"{uid} {uid} 1")
    write_map("self", "gid_map", f"{gid} {gid} 1")
    kernel.set_dumpable(False)
    kernel.unshare(_NAMESPACES)
    return False


def _keep_only(capability: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    bit = 1 << capability
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, struct.pack("=IIIIII", bit, bit, 0, 0, 0, 0)):
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")
