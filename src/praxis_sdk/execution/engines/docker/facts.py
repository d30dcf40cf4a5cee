"""What a Docker daemon says of itself, its images and its containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_NO_VERSION: Final = "N/A"  # what the daemon says of a program that it cannot find


@dataclass(frozen=True)
class DaemonFacts:
    """What a daemon says of itself and its host.

    Args:
        id: the daemon's own name for itself, which no other daemon has.
        version: of the daemon.
        api: the newest version of the API that it speaks.
        runtimes: OCI runtimes by name.
        cpus: processors of its host.
        memory_limit, swap_limit, cpu_limit, pids_limit: whether it can enforce them.
        seccomp: whether it filters system calls.
        init: whether it has an init process to put into containers.
        rootless: whether it runs as an ordinary user.
        remaps_users: whether users in containers are others than those of the same number on the host.
        cgroup_version: '1' or '2'.
        os_type: 'linux' or 'windows'.
    """

    id: str
    version: str
    api: tuple[int, ...]
    runtimes: tuple[str, ...]
    cpus: int
    memory_limit: bool
    swap_limit: bool
    cpu_limit: bool
    pids_limit: bool
    seccomp: bool
    init: bool
    rootless: bool
    remaps_users: bool
    cgroup_version: str
    os_type: str

    @classmethod
    def read(cls, version: Mapping[str, Any], info: Mapping[str, Any]) -> DaemonFacts:
        """Read the answers to `/version` and `/info`."""
        security = [dict(_pairs(option)) for option in info.get("SecurityOptions") or ()]
        profiles = {str(option.get("name")): str(option.get("profile", "")) for option in security}
        return cls(
            id=str(info.get("ID") or ""),
            version=str(version["Version"]),
            api=tuple(int(part) for part in str(version["ApiVersion"]).split(".")),
            runtimes=tuple(sorted(info.get("Runtimes") or ())),
            cpus=int(info.get("NCPU") or 1),
            memory_limit=bool(info.get("MemoryLimit")),
            swap_limit=bool(info.get("SwapLimit")),
            cpu_limit=bool(info.get("CpuCfsQuota")),
            pids_limit=bool(info.get("PidsLimit")),
            seccomp=profiles.get("seccomp", "unconfined") != "unconfined",
            init=bool(info.get("InitBinary")) and _commit(info) != _NO_VERSION,
            rootless="rootless" in profiles,
            remaps_users="userns" in profiles or "rootless" in profiles,
            cgroup_version=str(info.get("CgroupVersion") or "1"),
            os_type=str(info.get("OSType") or "linux"),
        )


@dataclass(frozen=True)
class ImageFacts:
    """What an image brings along.

    Args:
        volumes: paths at which it wants writable volumes.
        env: its environment.
        working_dir: where its programs start.
    """

    volumes: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"


@dataclass(frozen=True)
class ContainerSummary:
    """A container in a list: its id, labels and state ('created', 'running', 'exited', ...)."""

    id: str
    labels: Mapping[str, str]
    state: str


def _pairs(option: str) -> list[tuple[str, str]]:
    """Split a security option such as 'name=seccomp,profile=default'."""
    return [(key, value) for key, _, value in (part.partition("=") for part in str(option).split(","))]


def _commit(info: Mapping[str, Any]) -> str:
    return str((info.get("InitCommit") or {}).get("ID", ""))
