"""The read-only root that every sandbox starts in.

Built once for each set of mount points and kept as a mount namespace of its own: the launcher enters it for
the moment of the clone, so a new sandbox receives a ready, pivoted root as a copy that the kernel makes (12
mounts: microseconds) instead of building one (milliseconds). Because the copy belongs to a less privileged
user namespace, the kernel also locks it: nothing in it can be unmounted, moved or made writable from inside.

The root is a small tmpfs. It holds read-only binds of the host's programs and libraries, a few public entries
of /etc, synthetic identity files, and empty mount points. Its /proc belongs to a process namespace that is
already dead; it shows nothing, and is there because the kernel lets a user namespace mount /proc only where
one can be seen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import uuid

from praxis_sdk.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HOSTNAME = "sandbox"
USER_NAME = "sandbox"
USER_ID = 1000
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON_SHIM = "/run/praxis/bin"
STAGE = "/run/praxis/stage"
INLINE_DIRECTORY = "/run/praxis/input"
LIBRARY = "/run/praxis/lib"
# What /proc says of the machine itself and no program needs -> what is shown instead, a file of the root.
NOTHING, BOOT_ID = "/run/praxis/nothing", "/run/praxis/boot_id"
MASKED = (
    ("/proc/cmdline", NOTHING),
    ("/proc/diskstats", NOTHING),
    ("/proc/locks", NOTHING),
    ("/proc/partitions", NOTHING),
    ("/proc/sys/kernel/random/boot_id", BOOT_ID),
)
TMP = "/tmp"
WORKDIR = "/workspace"
SHARED_MEMORY = "/dev/shm"

# Top-level entries of the host with its programs; reproduced as links where they are links.
SYSTEM_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Public configuration that programs need. Nothing that names this host, its users or its networks.
ETC_ENTRIES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/mime.types",
    "/etc/magic",
    "/etc/perl",
    "/etc/R",
    "/etc/texmf",
    "/var/lib/texmf",
    "/var/cache/fontconfig",
)
ETC_FILES = {
    "passwd": f"{USER_NAME}:x:{USER_ID}:{USER_ID}:sandbox:/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": f"{USER_NAME}:x:{USER_ID}:\nnogroup:x:65534:\n",
    "hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {HOSTNAME}\n",
    "hostname": f"{HOSTNAME}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
    "shells": "/bin/sh\n/bin/bash\n",
}
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
ROOT_OPTIONS = "mode=755,size=8m,nr_inodes=2048"
MAX_SMALL_FILE_BYTES = 1024 * 1024


class BaseRoot:
    """One prepared root.

    Attributes:
        namespace_fd: its mount namespace.
    """

    __slots__ = ("namespace_fd",)

    def __init__(self, namespace_fd: int) -> None:
        self.namespace_fd = namespace_fd

    def close(self) -> None:
        """Release the namespace; running sandboxes keep their copies."""
        os.close(self.namespace_fd)


def tool_path() -> str:
    """Return the PATH inside: the host's usual one, and the interpreter links last when the host has no `python`."""
    if any(os.access(f"{directory}/python", os.X_OK) for directory in TOOL_PATH.split(":")):
        return TOOL_PATH
    return f"{TOOL_PATH}:{PYTHON_SHIM}"


def build(
    mount_points: Iterable[tuple[str, bool]],
    binds: Iterable[tuple[str, str]] = (),
    files: Mapping[str, bytes] | None = None,
) -> BaseRoot:
    """Build a root with the given empty mount points.

    Args:
        mount_points: (absolute path, is a directory), parents before children.
        binds: (source, target) of directories of the host that are shown read-only.
        files: absolute path -> content, readable by everybody.

    Returns:
        The root; the caller closes it.

    Raises:
        OSError: a step failed; the message names it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # A process namespace of its own, so that the /proc mounted inside shows nothing once the builder is gone.
    pid, pidfd = kernel.clone3(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
    if pid == 0:
        try:
            ours.close()
            _build_here(mount_points, binds, files or {})
            theirs.send(b"ok")
            theirs.recv(1)  # end of file: the launcher holds the namespace, or is dead
            os._exit(0)
        except BaseException as problem:  # noqa: BLE001 - a fork must never return into the launcher
            with contextlib.suppress(OSError):
                code = problem.errno if isinstance(problem, OSError) else 0
                theirs.send(f"{code or 0} {problem}".encode()[:4096])
            os._exit(1)
    theirs.close()
    try:
        answer = ours.recv(4096)
        if answer != b"ok":
            number, _, message = answer.decode(errors="replace").partition(" ")
            raise OSError(int(number or 0), f"base root: {message or 'the builder died'}")
        return BaseRoot(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        ours.close()
        os.close(pidfd)
        os.waitpid(pid, 0)


def _build_here(
    mount_points: Iterable[tuple[str, bool]], binds: Iterable[tuple[str, str]], files: Mapping[str, bytes]
) -> None:
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # Clone the sources before the new root covers anything of the host.
    trees = {path: _clone(path) for path in _host_paths()}
    trees |= {target: _clone(source) for source, target in binds if not _is_shown(target, trees)}
    devices = {name: _clone(f"/dev/{name}") for name in DEVICES}
    copies = {path: _small_file(path) for path in ETC_ENTRIES if _is_small_file(path)}
    links = {path: os.readlink(path) for path in (*SYSTEM_DIRECTORIES, *ETC_ENTRIES) if os.path.islink(path)}
    shim = PYTHON_SHIM in tool_path()

    root = next(path for path in (TMP, "/var", "/mnt", "/usr") if os.path.isdir(path))
    kernel.mount("praxis-root", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, ROOT_OPTIONS)
    os.umask(0o022)
    os.chdir(root)
    for path in (
        "proc",
        "sys",
        "tmp",
        "dev/shm",
        "etc",
        "var",
        "run",
        "home",
        "opt",
        "mnt",
        STAGE[1:],
        INLINE_DIRECTORY[1:],
    ):
        os.makedirs(path, exist_ok=True)
    os.symlink(TMP, "var/tmp")
    for name, text in ETC_FILES.items():
        _write(f"etc/{name}", text.encode())
    _write(NOTHING[1:], b"")
    _write(BOOT_ID[1:], f"{uuid.UUID(bytes=os.urandom(16), version=4)}\n".encode())
    for path, content in copies.items():
        os.makedirs(os.path.dirname(path)[1:], exist_ok=True)
        _write(path[1:], content)
    for path, target in links.items():
        if path not in copies and not os.path.lexists(path[1:]):
            os.makedirs(os.path.dirname(path)[1:] or ".", exist_ok=True)
            os.symlink(target, path[1:])
    for path, tree in trees.items():
        os.makedirs(path[1:], exist_ok=True)
        kernel.mount_setattr(tree, kernel.MOUNT_ATTR_NODEV, recursive=True)
        kernel.move_mount(tree, path[1:])
    for name, tree in devices.items():
        _write(f"dev/{name}", b"")
        kernel.move_mount(tree, f"dev/{name}")
    for name, target in DEVICE_LINKS.items():
        os.symlink(target, f"dev/{name}")
    if shim:
        os.makedirs(PYTHON_SHIM[1:])
        for name in ("python", "python3"):
            os.symlink(os.path.realpath(sys.executable), f"{PYTHON_SHIM[1:]}/{name}")
    for path, directory in mount_points:
        make_mount_point(path[1:], directory)
    for path, content in files.items():
        os.makedirs(os.path.dirname(path)[1:], exist_ok=True)
        _write(path[1:], content)
    hardened = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "proc", "proc", hardened | kernel.MS_RDONLY)
    kernel.pivot_root_here()
    readonly = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID
    kernel.mount_setattr("/", readonly, recursive=True)


def make_mount_point(path: str, directory: bool) -> None:
    """Create an empty directory or file to mount on, with its parents; an existing one of the right kind will do."""
    if directory:
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if not os.path.lexists(path):
        _write(path, b"")


def _is_shown(path: str, trees: Iterable[str]) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in trees)


def interpreter_prefix() -> str | None:
    """Return the directory of the host's Python when the system directories do not hold it."""
    prefix = os.path.realpath(sys.base_prefix)
    inside = any(prefix == top or prefix.startswith(top + "/") for top in SYSTEM_DIRECTORIES)
    return None if inside or prefix == "/" else prefix


def _host_paths() -> list[str]:
    """Return the directories to bind, each a real directory of the host."""
    paths = [path for path in SYSTEM_DIRECTORIES if os.path.isdir(path) and not os.path.islink(path)]
    paths += [path for path in ETC_ENTRIES if os.path.isdir(path) and not os.path.islink(path)]
    prefix = interpreter_prefix()
    return paths if prefix is None else [*paths, prefix]


def _clone(path: str) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return kernel.open_tree(fd, recursive=True)
    finally:
        os.close(fd)


def _is_small_file(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_SMALL_FILE_BYTES


def _small_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_SMALL_FILE_BYTES)


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
