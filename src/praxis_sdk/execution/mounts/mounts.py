"""Mounts of a contract: which host paths a tool sees, where, and whether it may change them."""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.mounts.policy import MountPolicy, open_without_symlinks

_RESERVED: Final = ("/proc", "/sys", "/dev", "/praxis")
_FILE_CLOCK: Final = 5  # CLOCK_REALTIME_COARSE (linux/time.h), by which the kernel stamps files
_SUFFIXES: Final = {"ro": False, "rw": True}


@dataclass(frozen=True, order=True)
class ToolMount:
    """One host path made visible to a tool.

    Args:
        target: absolute, normalised path inside.
        source: path on the host; relative ones count from the workspace until `resolve_mounts`.
        writable: the tool may change it; what changed is exported to the source afterwards.
        seen_ns: when the source was looked at, by the clock that stamps files; None until then.
    """

    target: str
    source: Path
    writable: bool
    seen_ns: int | None = field(default=None, compare=False)

    def covers(self, other: ToolMount) -> bool:
        """Tell whether `other` is mounted somewhere below this one."""
        return other.target != self.target and other.target.startswith(self.target.rstrip("/") + "/")


def parse_mounts(mounts: Mapping[str, str]) -> tuple[ToolMount, ...]:
    """Read the `mounts` field of a contract: host path to path inside, with ':ro' or ':rw' behind it.

    Nothing said means read-write, as in spec 1. The result is ordered so that a mount comes before
    those nested in it.

    Raises:
        ValueError: a path is empty, relative inside, reserved, or used twice.
    """
    parsed: dict[str, ToolMount] = {}
    for source, target in mounts.items():
        path, _, suffix = target.rpartition(":")
        writable = True
        if path and suffix in _SUFFIXES:
            target, writable = path, _SUFFIXES[suffix]
        elif ":" in target:
            raise ValueError(f"{source!r}: {target!r} ends in {suffix!r}; only ':ro' and ':rw' are known")
        if not source or "\0" in source + target:
            raise ValueError(f"{source!r} is not a host path")
        if not target.startswith("/") or ".." in target.split("/"):
            raise ValueError(f"{source!r}: {target!r} must be an absolute path inside, for example '/data'")
        target = "/" + posixpath.normpath(target).strip("/")
        if target == "/" or any(target == r or target.startswith(r + "/") for r in _RESERVED):
            raise ValueError(f"{source!r}: nothing can be mounted at {target!r}")
        if target in parsed:
            raise ValueError(f"{target!r} is the target of two mounts")
        parsed[target] = ToolMount(target=target, source=Path(source), writable=writable)
    return tuple(sorted(parsed.values()))


def resolve_mounts(
    mounts: Iterable[ToolMount], workspace: Path, policy: MountPolicy | None = None
) -> tuple[ToolMount, ...]:
    """Make every source an existing absolute path without symlinks, counted from the workspace.

    Args:
        mounts: what a contract asks for.
        workspace: where relative sources count from.
        policy: what an untrusted contract may mount; None for a trusted one.

    Raises:
        ValidationError: a source does not exist, is neither a file nor a directory, or is not allowed.
    """
    resolved = []
    now_ns = time.clock_gettime_ns(_FILE_CLOCK)
    for mount in mounts:
        shown = str(mount.source)
        absolute = mount.source.is_absolute() or shown.startswith("~")
        try:
            path = workspace / mount.source.expanduser()
            if policy is not None:
                policy.check(shown, path.resolve())  # before it is told whether there is anything
            source = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise ValidationError(
                f"engineSpec.mounts: '{shown}' does not exist" + ("" if absolute else f" below {workspace}"),
                remedy="create it" if absolute else "create it, or name the right directory with --workspace",
            ) from error
        if policy is not None:
            policy.check(shown, source)
            policy.check_content(shown, source)
        if not _is_there(source):
            raise ValidationError(
                f"engineSpec.mounts: '{shown}' is neither a file nor a directory", remedy="mount one of those"
            )
        resolved.append(replace(mount, source=source, seen_ns=now_ns))
    return tuple(resolved)


def _is_there(source: Path) -> bool:
    """Tell whether a path leads to a file or a directory, by a descriptor that followed no symlink."""
    try:
        fd = open_without_symlinks(source, os.O_PATH)
    except OSError:
        return False
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def nested_names(mount: ToolMount, mounts: Iterable[ToolMount]) -> frozenset[str]:
    """Name the paths, relative to a mount, at which other mounts lie: they are not part of it."""
    return frozenset(posixpath.relpath(other.target, mount.target) for other in mounts if mount.covers(other))
