"""What this host can do for a sandbox: found by really trying, one step at a time.

Every probe runs in a process of its own that is thrown away, so that nothing is left and a refusal tells which step it
was. `praxis doctor` and `praxis engines` print the list. A probe states what the kernel answered; the remedy, what a
person can do about it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from praxis_sdk.errors import IsolationUnavailable, PlatformError
from praxis_sdk.sandbox import kernel
from praxis_sdk.sandbox.host import process
from praxis_sdk.sandbox.init.idmap import IdMaps, write_map
from praxis_sdk.sandbox.launcher import cgroup_place, slots

PROBE_TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 65_536

_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,` for Python",
    ),
)
_CONTAINER = (
    "inside a container: allow user namespaces and mounts (docker run --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined, or --privileged)"
)
_MASKED_PROC = (
    "a container masks parts of /proc: start it with --security-opt systempaths=unconfined "
    "(Kubernetes: securityContext.procMount: Unmasked)"
)
_OLD_KERNEL = "needs Linux 5.14 or later"
_NO_CGROUP = (
    "delegate a cgroup: run as root, or under `systemd-run --user --scope -p Delegate=yes`; "
    "without it limits hold for each process instead of all together"
)


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that a sandbox uses.

    Args:
        name: short and stable, such as `user-namespaces`.
        available: True when it was tried here, as this user, and worked.
        detail: what was found: a version, a number, or the kernel's answer.
        remedy: what to do when it is missing; empty when it is there, or when nothing needs to be done.
        required: True when no sandbox can be built without it; the others add limits or comfort.
    """

    name: str
    available: bool
    detail: str
    remedy: str = ""
    required: bool = True


def features() -> tuple[Feature, ...]:
    """Try everything that the sandbox uses, as the calling user. Takes about 0.2 s and leaves nothing.

    Raises:
        PlatformError: the probing process itself failed.
    """
    command = process.command("from praxis_sdk.sandbox.host.features import main; main()")
    try:
        done = subprocess.run(
            command, capture_output=True, env={}, cwd="/", timeout=PROBE_TIMEOUT_S, check=True, close_fds=True
        )
        found = [Feature(**record) for record in json.loads(done.stdout[:MAX_ANSWER_BYTES])]
    except (OSError, subprocess.SubprocessError, ValueError) as problem:
        raise PlatformError(f"the host could not be examined: {problem}") from problem
    return (*found, _seccomp_library())


def missing(found: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """Return the features without which no sandbox can be built here."""
    return tuple(feature for feature in found if feature.required and not feature.available)


def main() -> None:
    """Probe this host and write the features as JSON to standard output; runs in a process of its own."""
    found = [
        _tried("user-namespaces", _user_namespace, _namespace_remedy),
        *(_tried(f"{name}-namespaces", _own(flag), _namespace_remedy) for name, flag in _NAMESPACES),
        _tried("mount-proc", _proc, lambda _: _MASKED_PROC),
        _tried("recursive-readonly-mounts", _readonly_tree, lambda _: _OLD_KERNEL),
        _tried(
            "overlay-in-user-namespace", _overlay, lambda _: "needs Linux 5.11 with overlayfs", required=False
        ),
        _tried("seccomp", _seccomp, lambda _: "needs a kernel with CONFIG_SECCOMP_FILTER"),
        _host_ids(),
        _idmapped_mounts(),
        *_controllers(),
        _landlock(),
    ]
    json.dump([asdict(feature) for feature in found], sys.stdout)


_NAMESPACES = (
    ("mount", kernel.CLONE_NEWNS),
    ("pid", kernel.CLONE_NEWPID),
    ("network", kernel.CLONE_NEWNET),
    ("ipc", kernel.CLONE_NEWIPC),
    ("uts", kernel.CLONE_NEWUTS),
    ("cgroup", kernel.CLONE_NEWCGROUP),
)


def _tried(
    name: str, probe: Callable[[], str], remedy: Callable[[int], str], *, required: bool = True
) -> Feature:
    """Run a probe in a child; its return value becomes the detail, its OSError the reason."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = [0, "died"]
        try:
            answer = [0, probe() or "works"]
        except OSError as problem:
            answer = [problem.errno or errno.EIO, str(problem)]
        finally:
            os.write(writer, json.dumps(answer).encode()[:4096])
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    number, detail = json.loads(text or b'[5, "the probe died"]')
    return Feature(name, number == 0, detail, remedy(number) if number else "", required)


def _namespace_remedy(number: int) -> str:
    for name, bad, remedy in _SYSCTLS:
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == bad:
                return remedy
    return _CONTAINER if number in (errno.EPERM, errno.EACCES) else _OLD_KERNEL


def _user_namespace() -> str:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    kernel.set_dumpable(True)
    write_map("self", "setgroups", "deny")
    write_map("self", "uid_map", f"0 {uid} 1")
    write_map("self", "gid_map", f"0 {gid} 1")
    # AppArmor lets the namespace be made, and takes the capabilities in it away.
    kernel.unshare(kernel.CLONE_NEWUTS)
    return ""


def _own(flag: int) -> Callable[[], str]:
    def probe() -> str:
        _user_namespace()
        kernel.unshare(flag)
        return ""

    return probe


def _mount_namespace() -> None:
    _user_namespace()
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def _proc() -> str:
    _mount_namespace()
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        except OSError as problem:
            os._exit(problem.errno or 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number:
        raise OSError(number, f"mount proc: {os.strerror(number)}")
    return ""


def _readonly_tree() -> str:
    _mount_namespace()
    fd = os.open("/usr", os.O_PATH)
    kernel.mount_setattr(kernel.open_tree(fd, recursive=True), kernel.MOUNT_ATTR_RDONLY, recursive=True)
    return ""


def _overlay() -> str:
    _mount_namespace()
    where = tempfile.gettempdir()
    kernel.mount("probe", where, "tmpfs", 0, "size=1m,nr_inodes=64")
    os.chdir(where)
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(name)
    kernel.mount("overlay", "merged", "overlay", 0, "userxattr,lowerdir=lower,upperdir=upper,workdir=work")
    return ""


def _seccomp() -> str:
    kernel.no_new_privileges()
    kernel.install_seccomp(kernel.SECCOMP_ALLOW_ALL)
    return ""


def _host_ids() -> Feature:
    held = slots.lease()
    if held is None:
        return Feature(
            "host-ids", False, "every sandbox runs with the caller's own id", "run as root", required=False
        )
    detail = f"{slots.BLOCK} ids from {held.base}"
    held.close()
    return Feature("host-ids", True, detail, required=False)


def _idmapped_mounts() -> Feature:
    if slots.lease() is None:
        return Feature("idmapped-mounts", False, "not needed without host ids of its own", required=False)

    def probe() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        fd = os.open(tempfile.gettempdir(), os.O_PATH)
        tree = kernel.open_tree(fd, recursive=False)
        namespace = IdMaps().get(0, 0, slots.FIRST_ID, slots.FIRST_ID)
        kernel.mount_setattr(tree, kernel.MOUNT_ATTR_IDMAP, recursive=False, user_namespace_fd=namespace)
        return f"on the file system of {tempfile.gettempdir()}"

    advice = (
        "writable mounts as root need Linux 5.19 and a file system that maps owners (not overlayfs, not NFS)"
    )
    return _tried("idmapped-mounts", probe, lambda _: advice, required=False)


def _controllers() -> list[Feature]:
    place = cgroup_place.find_place()
    place.remove()
    return [
        Feature(
            f"cgroup-{name}",
            name in place.controllers,
            f"version {place.version}" if name in place.controllers else "no writable cgroup",
            "" if name in place.controllers else _NO_CGROUP,
            required=False,
        )
        for name in ("memory", "pids", "cpu")
    ]


def _landlock() -> Feature:
    version = kernel.landlock_version()
    if version is None:
        return Feature("landlock", False, "not in this kernel", "not used yet: nothing to do", required=False)
    return Feature("landlock", True, f"ABI {version}", required=False)


def _seccomp_library() -> Feature:
    from praxis_sdk.sandbox.init import seccomp

    try:
        size = len(seccomp.compile_filter()) // 8
    except IsolationUnavailable as problem:
        return Feature("libseccomp", False, problem.message, problem.remedy)
    return Feature("libseccomp", True, f"filter of {size} instructions")
