"""What a sandbox allows, as data: mounts, limits, working directory.

Validated here, in the client, before anything is started; a mistake is the user's (`PolicyError`) and names
the mount or limit. The launcher trusts nothing of it that it can check itself again.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import Path

from praxis_sdk.errors import ValidationError
from praxis_sdk.sandbox.init.baseroot import TMP, WORKDIR

MAX_MOUNTS = 64
DEFAULT_WORKDIR = WORKDIR

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Nothing may be mounted on, above or below these: they are the sandbox's own.
PROTECTED_TARGETS = (
    "/proc",
    "/dev",
    "/sys",
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/boot",
    "/run/praxis",
)


class PolicyError(ValidationError):
    """The policy asks for something that no sandbox grants; nothing was started."""


@dataclass(frozen=True, slots=True)
class Bind:
    """One path of the host, seen inside the sandbox.

    Args:
        source: a directory or regular file of the host; symbolic links in it are followed once, by the
            caller.
        target: absolute, normalised path inside the sandbox.
        writable: False: a recursive read-only view. True: writes go to a private, size-limited layer and are
            handed over when the sandbox ends (`Sandbox.harvest`); the source itself is never written. Mounts
            of the host below a writable source are not part of the view.
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use at most; every limit is always on, except cpu_cores.

    Args:
        cpu_seconds: processor time, all processes together where a cgroup counts it, else each process.
        cpu_cores: processors at once, such as 0.5 (cgroup quota); None for no quota.
        memory_bytes: memory of all processes and the scratch space (cgroup); without a memory cgroup the
            address space of each process.
        processes: processes and threads at once.
        open_files: descriptors of each process.
        file_size_bytes: the largest single file.
        scratch_bytes: all that is written (/tmp, working directory, /dev/shm, writable mounts) together.
        scratch_inodes: files and directories in it, together.
    """

    cpu_seconds: float = 300.0
    cpu_cores: float | None = None
    memory_bytes: int = 1 * GIB
    processes: int = 256
    open_files: int = 1024
    file_size_bytes: int = 512 * MIB
    scratch_bytes: int = 512 * MIB
    scratch_inodes: int = 65_536

    def __post_init__(self) -> None:
        floors: dict[str, float] = {
            "cpu_seconds": 0.001,
            "memory_bytes": 4 * MIB,
            "processes": 1,
            "open_files": 16,
            "file_size_bytes": 0,
            "scratch_bytes": 64 * KIB,
            "scratch_inodes": 64,
        }
        for name, floor in floors.items():
            value = getattr(self, name)
            # The ceiling keeps every limit a number that the kernel's own fields can hold.
            if not floor <= value < 2**62:
                raise PolicyError(f"limit {name} must be at least {floor:g} and below 2**62, not {value!r}")
        if self.cpu_cores is not None and not 0.01 <= self.cpu_cores <= 4096:
            raise PolicyError(f"limit cpu_cores must be between 0.01 and 4096, not {self.cpu_cores!r}")


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that a sandbox grants to the command inside.

    Args:
        mounts: what of the host is visible, besides the system's own programs and libraries.
        limits: what may be used.
        workdir: the writable working directory; scratch space unless a mount has the same target.
        loopback_port: the loopback device is up, with one listening TCP socket on 127.0.0.1 and this port, which is
            handed out (`Sandbox.listener_fd`); None for no network at all. Nothing leads from there to the host but
            what accepts on that socket.

    Raises:
        PolicyError: a target is relative, not normalised, protected, used twice or below a file.
    """

    mounts: tuple[Bind, ...] = ()
    limits: Limits = field(default_factory=Limits)
    workdir: str = DEFAULT_WORKDIR
    loopback_port: int | None = None

    def __post_init__(self) -> None:
        if len(self.mounts) > MAX_MOUNTS:
            raise PolicyError(f"{len(self.mounts)} mounts; the limit is {MAX_MOUNTS}")
        seen: set[str] = set()
        for bind in self.mounts:
            check_target(bind.target, f"mount of {bind.source} on")
            if bind.target in seen:
                raise PolicyError(f"two mounts have the target {bind.target!r}")
            seen.add(bind.target)
        check_target(self.workdir, "workdir")
        if self.loopback_port is not None and not 0 < self.loopback_port < 65_536:
            raise PolicyError(f"loopback_port must be between 1 and 65535, not {self.loopback_port!r}")
        if self.workdir == TMP:
            raise PolicyError(f"workdir must not be {TMP!r}, which is scratch space of its own")


def check_target(target: str, what: str) -> None:
    """Refuse a path that may not be mounted on inside the sandbox.

    Args:
        target: the path.
        what: how the message calls it.

    Raises:
        PolicyError: relative, not normalised, the root, or in a protected place.
    """
    if "\0" in target or not target.startswith("/") or posixpath.normpath(target) != target:
        raise PolicyError(f"{what} {target!r}: must be an absolute, normalised path")
    if target == "/" or target.startswith("//"):
        raise PolicyError(f"{what} {target!r}: must not be the root")
    for protected in PROTECTED_TARGETS:
        if is_within(target, protected) or is_within(protected, target):
            raise PolicyError(f"{what} {target!r}: {protected} belongs to the sandbox itself")


def is_within(path: str, directory: str) -> bool:
    """True when `path` is `directory` or below it (both normalised; nothing is read from disk)."""
    return path == directory or path.startswith(directory + "/")
