"""What a tool's container is made of: an invocation and a daemon's facts in, the API's request out.

Nothing here speaks to anybody, so the whole security posture can be read, and tested, in one place.

    capabilities   none                         root file system   read-only
    privileges     no-new-privileges            writable           /tmp and volumes as tmpfs, copies of mounts
    system calls   the daemon's seccomp filter  user               never root
    network        loopback only                memory, processes  always bounded, no swap
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import EngineUnavailable, IsolationUnavailable, ValidationError
from praxis_sdk.execution.arguments.arguments import ARGS_FILE_VARIABLE
from praxis_sdk.execution.contract.specs import DockerEngineSpec
from praxis_sdk.execution.engines.docker.facts import DaemonFacts, ImageFacts
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.mounts.mounts import ToolMount
from praxis_sdk.installation import installation_id
from praxis_sdk.units import parse_bytes

ARGS_FILE: Final = "/praxis/args.json"
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_MEMORY_BYTES: Final = 2 << 30
MAX_FILE_BYTES: Final = 1 << 30
LABEL_EXECUTION: Final = "praxis.execution_id"
LABEL_OWNER: Final = "praxis.owner"
LABEL_INSTALLATION: Final = "praxis.installation"
LABEL_ATTEMPT: Final = "praxis.fencing_token"
IMAGE_ENTRYPOINT: Final = ["image"]  # the word by which a contract asks for the image's own
HOSTNAME: Final = "praxis"
HOSTS_FILE: Final = f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n"

_NOBODY: Final = 65532  # the number that distroless images use for "nonroot"
_MAX_ID: Final = (1 << 31) - 1
_USER: Final = re.compile(r"(\d{1,10})(?::(\d{1,10}))?")
_NETWORK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_IMAGE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:/@-](?!\.\.))*")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")  # how the kernel writes spaces in paths
_TMPFS_FLAGS: Final = "rw,nosuid,nodev,exec"  # exec, as mounts are too: compilers and JITs need it
_TMPFS_INODES: Final = 65536
_MIN_CPUS: Final = 0.01  # the kernel's least quota, 1 ms in 100 ms
_CGROUPS: Final = "give the daemon control groups for it (rootless: cgroup v2 delegated by systemd)"


@dataclass(frozen=True)
class User:
    """Who the tool is inside its container."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


@dataclass(frozen=True)
class DockerBind:
    """A host path inside the container."""

    source: Path
    target: str
    writable: bool = False


def docker_spec(invocation: Invocation) -> DockerEngineSpec:
    """Return an invocation's spec.

    Raises:
        ValidationError: it is for another engine.
    """
    if not isinstance(invocation.spec, DockerEngineSpec):
        raise ValidationError(f"engine: a {type(invocation.spec).__name__} is not for the docker engine")
    return invocation.spec


def choose_user(invocation: Invocation, facts: DaemonFacts) -> User:
    """Say who the tool runs as: whom the contract names, or the caller, or nobody where the caller is root.

    Raises:
        ValidationError: the contract names root, or a user who could not own the copies of its mounts.
        EngineUnavailable: the daemon gives users other numbers, so nobody could.
    """
    spec = docker_spec(invocation)
    own = User(os.geteuid(), os.getegid() or _NOBODY) if os.geteuid() else User(_NOBODY, _NOBODY)
    user = _named_user(spec.user) if spec.user is not None else User(0, 0) if spec.privileged else own
    if user.uid == 0 and not invocation.contract.trusted:
        raise ValidationError(
            "engineSpec.user: only a trusted tool may run as root",
            remedy="name another user, or add 'trust: trusted' to the contract if it is yours",
        )
    if not any(mount.writable for mount in invocation.mounts):
        return user
    if facts.rootless and os.geteuid() and spec.user is None:
        return User(0, 0)  # a rootless daemon's name for the caller, who is no root on the host
    if facts.remaps_users:
        raise EngineUnavailable(
            "this Docker daemon gives the users in containers other numbers on the host (userns-remap), "
            "so a tool could not write to its mounts",
            remedy="write ':ro' behind the mounts, or use --engine sandbox",
        )
    if os.geteuid() not in (0, user.uid):
        raise ValidationError(
            f"engineSpec.user: read-write mounts would belong to uid {os.geteuid()}, not to {user.uid}",
            remedy="leave 'user' out, write ':ro' behind the mounts, or run Praxis as root",
        )
    return user


def check_demands(invocation: Invocation, facts: DaemonFacts, *, shares_files: bool) -> None:
    """Refuse what the daemon cannot give, above all limits and isolation that it cannot enforce.

    Raises:
        ValidationError: the contract asks for something that is not to be had.
        EngineUnavailable: the daemon lacks a runtime, or is none for Linux containers.
        IsolationUnavailable: the daemon does not filter system calls.
    """
    spec = docker_spec(invocation)
    if facts.os_type != "linux":
        raise EngineUnavailable(
            f"this Docker daemon runs {facts.os_type} containers", remedy="use one that runs Linux containers"
        )
    if not _IMAGE.fullmatch(spec.image):
        raise ValidationError(
            f"engineSpec.image: {spec.image[:200]!r} is not the name of an image",
            remedy="write for example 'python:3.11-slim' (lower case, no spaces)",
        )
    if spec.network is not None and not _NETWORK.fullmatch(spec.network):
        raise ValidationError(
            f"engineSpec.network: {spec.network[:100]!r} is not the name of a network",
            remedy="write 'none', 'bridge', or a name from 'docker network ls'",
        )
    if spec.cpu_limit is not None and spec.cpu_limit < _MIN_CPUS:
        raise ValidationError(
            f"engineSpec.cpu_limit: {spec.cpu_limit:g} is less than a container can have",
            remedy=f"give it at least {_MIN_CPUS:g}",
        )
    if spec.runtime is not None and spec.runtime not in facts.runtimes:
        raise EngineUnavailable(
            f"engineSpec.runtime: this Docker daemon has no runtime '{spec.runtime}', "
            f"only {', '.join(facts.runtimes) or 'its default'}",
            remedy="install it and add it to 'runtimes' in /etc/docker/daemon.json, or leave 'runtime' out",
        )
    if not facts.seccomp and not invocation.contract.trusted:
        raise IsolationUnavailable(
            "this Docker daemon does not filter the system calls of containers (seccomp)",
            remedy="remove 'seccomp-profile: unconfined' from /etc/docker/daemon.json, or use --engine sandbox",
        )
    for field, wanted, enforced, needed in (
        ("memory_limit", spec.memory_limit is not None, facts.memory_limit, True),
        ("cpu_limit", spec.cpu_limit is not None, facts.cpu_limit, False),
        ("pids_limit", "pids_limit" in spec.model_fields_set, facts.pids_limit, True),
    ):
        if wanted and not enforced:
            raise ValidationError(
                f"engineSpec.{field}: this Docker daemon cannot enforce it", remedy=_CGROUPS
            )
        if needed and not enforced and not invocation.contract.trusted:
            raise IsolationUnavailable(f"this Docker daemon cannot enforce a {field}", remedy=_CGROUPS)
    if spec.ports and not invocation.contract.trusted:
        raise ValidationError(
            "engineSpec.ports: only a trusted tool may publish ports of this host",
            remedy="add 'trust: trusted' to the contract if it is yours, or leave 'ports' out",
        )
    if spec.ports and (spec.network or "none") in ("none", "host"):
        raise ValidationError(
            "engineSpec.ports: can be published only for a tool with a network of its own",
            remedy="write 'network: bridge'",
        )
    if invocation.mounts and not shares_files:
        first = invocation.mounts[0].source
        raise ValidationError(
            f"engineSpec.mounts: '{first}' cannot be mounted: the Docker daemon is on another machine",
            remedy="use a daemon on this machine (DOCKER_HOST=unix:///...), or put the files into the image",
        )


def create_request(
    invocation: Invocation,
    *,
    facts: DaemonFacts,
    image: ImageFacts,
    user: User,
    owner: str,
    binds: Iterable[DockerBind],
) -> dict[str, Any]:
    """Return the body of the request that creates the container.

    Args:
        invocation: the run.
        facts: what the daemon can do.
        image: what the image brings along.
        user: who the tool is inside.
        owner: which Praxis process the container belongs to.
        binds: host paths to show; without one at `ARGS_FILE` there is an empty volume in its place.
    """
    spec = docker_spec(invocation)
    binds = list(binds)
    environment = {"HOME": "/tmp", **invocation.env, ARGS_FILE_VARIABLE: ARGS_FILE}
    network = spec.network or "none"
    request: dict[str, Any] = {
        "Image": spec.image,
        **_program(invocation, spec),
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": str(user),
        "Hostname": HOSTNAME,
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdin": invocation.stdin is not None,
        "OpenStdin": invocation.stdin is not None,
        "StdinOnce": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Labels": {
            LABEL_EXECUTION: invocation.context.execution_id,
            LABEL_ATTEMPT: str(invocation.context.fencing_token),
            LABEL_OWNER: owner,
            LABEL_INSTALLATION: installation_id(),
        },
        # A network namespace with nothing but loopback, without the daemon's network hook, which takes longer
        # than all the rest. NetworkMode says the same to daemons that do not know the flag.
        "NetworkDisabled": network == "none",
        "HostConfig": {
            **_limits(invocation, spec, facts),
            **_privileges(spec),
            "NetworkMode": network,
            "Mounts": _mounts(binds),
            "Tmpfs": _tmpfs(spec, image, [bind.target for bind in binds]),
            "IpcMode": "private",
            "LogConfig": {"Type": "none"},  # output is streamed, and kept nowhere else
            "RestartPolicy": {"Name": "no"},
        },
    }
    if facts.api >= (1, 41):
        request["HostConfig"]["CgroupnsMode"] = "private"
    if facts.init:
        request["HostConfig"]["Init"] = True  # reaps orphans, and lets signals work on the tool
    if spec.runtime is not None:
        request["HostConfig"]["Runtime"] = spec.runtime
    if spec.working_dir is not None:
        request["WorkingDir"] = spec.working_dir
    if spec.gpus is not None:
        count = -1 if spec.gpus == "all" else int(spec.gpus)
        request["HostConfig"]["DeviceRequests"] = [{"Count": count, "Capabilities": [["gpu"]]}]
    if spec.ports:
        published = dict(_published(port) for port in spec.ports)
        request["ExposedPorts"] = {inside: {} for inside in published}
        request["HostConfig"]["PortBindings"] = published
    return request


def _program(invocation: Invocation, spec: DockerEngineSpec) -> dict[str, list[str]]:
    """Say what the container runs; with Cmd empty nothing of the image's own command is left."""
    if not spec.entrypoint:
        return {"Entrypoint": list(invocation.argv), "Cmd": []}
    if spec.entrypoint == IMAGE_ENTRYPOINT:
        return {"Cmd": list(invocation.argv)}
    return {"Entrypoint": list(spec.entrypoint), "Cmd": list(invocation.argv)}


def _published(port: str) -> tuple[str, list[dict[str, str]]]:
    outside, _, inside = port.partition(":")
    return inside if "/" in inside else f"{inside}/tcp", [{"HostIp": "127.0.0.1", "HostPort": outside}]


def submounts(mount: ToolMount, mounts: Iterable[ToolMount], mountinfo: str) -> list[DockerBind]:
    """List the file systems mounted below a mount's source, each to be bound read-only by itself.

    A bind of a whole tree (`rbind`) would leave them writable on daemons before version 25.

    Args:
        mount: the mount.
        mounts: all mounts of the run; what lies below one nested in this is not seen.
        mountinfo: the content of `/proc/self/mountinfo`.
    """
    found = []
    nested = [other for other in mounts if mount.covers(other)]
    for line in mountinfo.splitlines():
        place = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), line.split(" ")[4]))
        if place == mount.source or not place.is_relative_to(mount.source):
            continue
        inside = ToolMount(
            posixpath.join(mount.target, place.relative_to(mount.source)), place, writable=False
        )
        if not any(other.target == inside.target or other.covers(inside) for other in nested):
            found.append(DockerBind(place, inside.target))
    return found


def program_paths(invocation: Invocation, image: ImageFacts) -> list[str]:
    """List where the container's runtime looks for the program; nowhere where it is the image's own."""
    entrypoint = docker_spec(invocation).entrypoint
    if entrypoint == IMAGE_ENTRYPOINT:
        return []
    program = (entrypoint or invocation.argv)[0]
    if "/" in program:
        return [posixpath.join(docker_spec(invocation).working_dir or image.working_dir, program)]
    search = invocation.env.get("PATH") or image.env.get("PATH") or DEFAULT_PATH
    return [posixpath.join(folder, program) for folder in search.split(":") if folder.startswith("/")]


def _named_user(text: str) -> User:
    match = _USER.fullmatch(text.strip())
    user = User(int(match[1]), int(match[2] or match[1])) if match else None
    if user is None or max(user.uid, user.gid) > _MAX_ID:
        raise ValidationError(
            f"engineSpec.user: {text[:100]!r} is not 'uid' or 'uid:gid'",
            remedy="write numbers, for example '1000:1000'; a name could mean root in the image",
        )
    return user


def _limits(invocation: Invocation, spec: DockerEngineSpec, facts: DaemonFacts) -> dict[str, Any]:
    limits: dict[str, Any] = {
        "PidsLimit": spec.pids_limit + (1 if facts.init else 0),  # the init process is not the tool's
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": 1024, "Hard": 1024},  # more than the daemon itself has would not start
        ],
    }
    if not invocation.contract.trusted:
        limits["Ulimits"].append({"Name": "fsize", "Soft": MAX_FILE_BYTES, "Hard": MAX_FILE_BYTES})
    if facts.memory_limit:
        limits["Memory"] = invocation.memory_bytes or DEFAULT_MEMORY_BYTES
    if facts.memory_limit and facts.swap_limit:
        limits["MemorySwap"] = limits["Memory"]  # of memory and swap together: no swap
    if spec.cpu_limit is not None and spec.cpu_limit < facts.cpus:
        limits["NanoCpus"] = int(spec.cpu_limit * 1e9)
    return limits


def _privileges(spec: DockerEngineSpec) -> dict[str, Any]:
    if spec.privileged:
        return {"Privileged": True}
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
    }


def _mounts(binds: Iterable[DockerBind]) -> Sequence[Mapping[str, Any]]:
    return [
        {
            "Type": "bind",
            "Source": str(bind.source),
            "Target": bind.target,
            "ReadOnly": not bind.writable,
            "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
        }
        for bind in binds
    ] or [{"Type": "volume", "Target": posixpath.dirname(ARGS_FILE)}]


def _tmpfs(spec: DockerEngineSpec, image: ImageFacts, taken: Sequence[str]) -> dict[str, str]:
    """Make /tmp writable, and the volumes of the image, which would otherwise fill the daemon's disk."""
    options = f"{_TMPFS_FLAGS},size={parse_bytes(spec.tmpfs_size)},nr_inodes={_TMPFS_INODES},mode=1777"
    places = {posixpath.normpath(path) for path in ("/tmp", *image.volumes)}
    return {place: options for place in sorted(places) if place.startswith("/") and place not in taken}
