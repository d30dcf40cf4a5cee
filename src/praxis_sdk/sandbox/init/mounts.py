"""A policy's mounts: prepared by the launcher, put in place by the sandbox's init.

Four kinds:
- `view`: a read-only, recursive clone of the source.
- `overlay`: a writable directory; the source is the lower layer, writes land in the scratch tmpfs.
- `file`: a writable single file; a copy of it in the scratch tmpfs.
- `scratch`: an empty directory of the scratch tmpfs (/tmp and the working directory).

The launcher can read the source, so it opens it, checks that it is still what the client meant, and clones
the mount with its flags and (as root) an id map. The init owns the new mount namespace, so it attaches the
clone. A mount below another needs a mount point there: where the parent lacks it, the parent becomes an
overlay with a skeleton layer.
"""

from __future__ import annotations

import os
import stat

from praxis_sdk.sandbox import kernel
from praxis_sdk.sandbox.init.baseroot import INLINE_DIRECTORY, SHARED_MEMORY, STAGE, TMP, make_mount_point
from praxis_sdk.sandbox.init.idmap import IdMaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_READ_ONLY = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
_COPY_CHUNK_BYTES = 1024 * 1024
_WRITABLE = ("overlay", "file", "scratch")


class MountError(Exception):
    """A mount cannot be prepared.

    Args:
        message: names the mount.
        by_host: True when the host lacks something; False when the policy or its source is at fault.
    """

    def __init__(self, message: str, *, by_host: bool = False) -> None:
        super().__init__(message)
        self.by_host = by_host


_DESCRIBED = ("target", "kind", "directory", "name", "mode", "skeleton", "made_in_place")


class Mount:
    """One prepared mount; `close` releases the launcher's descriptors."""

    __slots__ = (
        "directory",
        "fd",
        "kind",
        "made_in_place",
        "mode",
        "name",
        "skeleton",
        "source",
        "source_fd",
        "target",
    )

    def __init__(self, target: str, kind: str, *, directory: bool = True, source: str = "") -> None:
        self.target = target
        self.kind = kind
        self.directory = directory
        self.source = source
        self.name = os.path.basename(source)
        self.mode = 0o755
        self.source_fd = -1
        self.fd = -1  # a detached mount (view, overlay) or the open source (file)
        self.skeleton: list[tuple[str, bool]] = []
        self.made_in_place = False  # its mount point, in the scratch space that it is mounted in

    def close(self) -> None:
        """Close the descriptors, if any."""
        for fd in (self.fd, self.source_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.source_fd = -1


class MountPlan:
    """All mounts of one sandbox, parents first.

    Attributes:
        mounts: in the order in which they are put in place.
        root_points: (path, is a directory): mount points that the base root must have.
        inline_fd: once placed, the directory in which inline files can be made.
    """

    __slots__ = ("inline_fd", "mounts", "root_points")

    def __init__(self) -> None:
        self.mounts: list[Mount] = []
        self.root_points: list[tuple[str, bool]] = []
        self.inline_fd = -1

    def close(self) -> None:
        """Close what is open."""
        for mount in self.mounts:
            mount.close()

    def describe(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the mounts as data for the init, and the descriptors that go with them, in the same order."""
        records = [
            {name: getattr(mount, name) for name in _DESCRIBED} | {"open": mount.fd >= 0}
            for mount in self.mounts
        ]
        return records, [mount.fd for mount in self.mounts if mount.fd >= 0]

    @property
    def written(self) -> tuple[str, ...]:
        """The mount points that can be written to."""
        return tuple(mount.target for mount in self.mounts if mount.kind in _WRITABLE)

    @classmethod
    def rebuild(cls, records: list[dict[str, Any]], descriptors: list[int]) -> MountPlan:
        """Return the plan that `describe` described, with the descriptors as they were received."""
        plan, remaining = cls(), list(descriptors)
        for record in records:
            mount = Mount(record["target"], record["kind"])
            for name in _DESCRIBED:
                setattr(mount, name, record[name])
            mount.fd = remaining.pop(0) if record["open"] else -1
            plan.mounts.append(mount)
        return plan


def lay_out(wanted: list[dict[str, Any]], workdir: str) -> MountPlan:
    """Open the sources of a policy's mounts and find out where their mount points come from.

    Args:
        wanted: the binds as the client resolved them: source, device, inode, directory, target, writable.
        workdir: the working directory.

    Returns:
        The plan; the caller closes it.

    Raises:
        MountError: a source changed, or a mount point is impossible.
    """
    plan = MountPlan()
    entries: dict[str, dict[str, Any] | None] = {TMP: None, workdir: None}
    entries.update({bind["target"]: bind for bind in wanted})
    try:
        for target in sorted(entries, key=lambda path: (path.count("/"), path)):
            bind = entries[target]
            if bind is None:
                mount = Mount(target, "scratch")
            else:
                kind = "view" if not bind["writable"] else "overlay" if bind["directory"] else "file"
                mount = Mount(target, kind, directory=bind["directory"], source=bind["source"])
                mount.source_fd = _open_source(bind)
            plan.mounts.append(mount)
            _find_mount_point(plan, mount)
    except BaseException:
        plan.close()
        raise
    return plan


def clone_sources(plan: MountPlan, uid: int, gid: int, idmaps: IdMaps | None) -> None:
    """Turn the plan's sources into detached mounts, ready for an init to attach.

    Args:
        plan: what `lay_out` returned.
        uid: the sandbox's user id, as the host sees it.
        gid: the sandbox's group id, as the host sees it.
        idmaps: where to get id maps from; None when this launcher is not privileged.

    Raises:
        MountError: the kernel refused a clone, or cannot map the owner of a writable mount.
    """
    for mount in plan.mounts:
        if mount.source_fd >= 0:
            _clone_source(mount, uid, gid, idmaps)


def _open_source(bind: dict[str, Any]) -> int:
    """Open a source by its resolved path, and insist that it is the file that the client opened."""
    path = bind["source"]
    try:
        fd = kernel.openat2(
            kernel.AT_FDCWD, path, os.O_PATH, kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
        )
    except OSError as problem:
        raise MountError(f"mount source {path} cannot be opened: {problem}") from problem
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (bind["device"], bind["inode"]):
        os.close(fd)
        raise MountError(f"mount source {path} was replaced while the sandbox was being made")
    return fd


def _find_mount_point(plan: MountPlan, mount: Mount) -> None:
    """Note where the mount point of `mount` has to come from: the base root, or a skeleton of its parent."""
    parents = [other for other in plan.mounts if mount.target.startswith(other.target + "/")]
    if not parents:
        plan.root_points.append((mount.target, mount.directory))
        return
    parent = max(parents, key=lambda other: len(other.target))
    if not parent.directory:
        raise MountError(f"mount on {mount.target}: {parent.target} is a file")
    if parent.kind == "scratch":
        mount.made_in_place = True
        return
    below = mount.target[len(parent.target) + 1 :]
    try:
        fd = kernel.openat2(
            parent.source_fd, below, os.O_PATH, kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS
        )
    except FileNotFoundError:
        parent.skeleton.append((below, mount.directory))
        return
    except OSError as problem:
        raise MountError(f"mount on {mount.target}: {parent.source}/{below}: {problem}") from problem
    directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    os.close(fd)
    if directory != mount.directory:
        kind = "a directory" if directory else "a file"
        raise MountError(f"mount on {mount.target}: {parent.source}/{below} is {kind} on the host")


def _clone_source(mount: Mount, uid: int, gid: int, idmaps: IdMaps | None) -> None:
    source = mount.source_fd
    status = os.fstat(source)
    if mount.kind == "file":
        mount.mode = stat.S_IMODE(status.st_mode) & 0o777 | 0o600
        mount.fd = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
        return
    if mount.kind == "view" and mount.skeleton:
        mount.kind = "skeleton-view"
    recursive = mount.kind == "view"
    try:
        mount.fd = kernel.open_tree(source, recursive=recursive)
        kernel.mount_setattr(mount.fd, _READ_ONLY, recursive=recursive)
    except OSError as problem:
        raise MountError(f"mount of {mount.source} on {mount.target}: {problem}") from problem
    if idmaps is None:
        return
    try:
        namespace = idmaps.get(status.st_uid, status.st_gid, uid, gid)
        kernel.mount_setattr(
            mount.fd, kernel.MOUNT_ATTR_IDMAP, recursive=recursive, user_namespace_fd=namespace
        )
    except OSError as problem:
        # A view stays readable as far as its permissions let anyone read. A writable layer over files of
        # another owner would fail at the first write, deep inside somebody's tool: better here, with a
        # reason.
        if mount.kind == "overlay":
            raise MountError(
                f"writable mount of {mount.source} on {mount.target}: the file system cannot map owners ({problem})",
                by_host=True,
            ) from problem


def place(plan: MountPlan, scratch_bytes: int, scratch_inodes: int) -> dict[str, int]:
    """Put the mounts in place; runs in the sandbox's init, inside its own mount namespace.

    Args:
        plan: what the launcher prepared, with clones of the sources.
        scratch_bytes: the budget for everything written, together.
        scratch_inodes: the same, in files and directories.

    Returns:
        Target -> descriptor of the directory that holds what will be written there.

    Raises:
        OSError: a step failed; the message names it.
    """
    own_inodes = 16 + 8 * len(plan.mounts) + sum(8 * len(mount.skeleton) for mount in plan.mounts)
    kernel.mount(
        "scratch",
        STAGE,
        "tmpfs",
        kernel.MS_NOSUID | kernel.MS_NODEV,
        f"size={scratch_bytes},nr_inodes={scratch_inodes + own_inodes},mode=755",
    )
    os.mkdir(f"{STAGE}/shm", 0o1777)
    kernel.mount(f"{STAGE}/shm", SHARED_MEMORY, None, kernel.MS_BIND)
    os.mkdir(f"{STAGE}/input", 0o755)
    # The work sees it read-only; the init writes through a descriptor that does not lead through that mount.
    kernel.mount(f"{STAGE}/input", INLINE_DIRECTORY, None, kernel.MS_BIND)
    kernel.mount_setattr(INLINE_DIRECTORY, _READ_ONLY, recursive=False)
    plan.inline_fd = os.open(f"{STAGE}/input", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    written: dict[str, int] = {}
    for index, mount in enumerate(plan.mounts):
        if mount.made_in_place:
            make_mount_point(mount.target, mount.directory)
        layer = f"{STAGE}/{index}"
        if mount.kind == "view":
            kernel.move_mount(mount.fd, mount.target)
            continue
        os.mkdir(layer, 0o755)
        if mount.kind == "skeleton-view":
            _overlay(mount, layer, upper=False)
            continue
        if mount.kind == "overlay":
            _overlay(mount, layer, upper=True)
            layer += "/upper"
        elif mount.kind == "file":
            _copy(mount.fd, f"{layer}/{mount.name}", mount.mode)
            kernel.mount(f"{layer}/{mount.name}", mount.target, None, kernel.MS_BIND)
        else:
            os.chmod(layer, 0o1777 if mount.target == TMP else 0o755)
            kernel.mount(layer, mount.target, None, kernel.MS_BIND)
        written[mount.target] = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # The layers live on through the mounts made of them; nobody inside gets to see them raw.
    kernel.umount_detached(STAGE)
    return written


def _overlay(mount: Mount, layer: str, *, upper: bool) -> None:
    for name in ("lower", "skeleton", "upper", "work"):
        os.mkdir(f"{layer}/{name}", 0o755)
    for path, directory in mount.skeleton:
        make_mount_point(f"{layer}/skeleton/{path}", directory)
    kernel.move_mount(mount.fd, f"{layer}/lower")
    # Without an upper layer an overlay needs two lower ones, which a skeleton view has.
    options = f"userxattr,lowerdir={layer}/lower" + (f":{layer}/skeleton" if mount.skeleton else "")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    if upper:
        options += f",upperdir={layer}/upper,workdir={layer}/work"
    else:
        flags |= kernel.MS_RDONLY
    kernel.mount("overlay", mount.target, "overlay", flags, options)
    kernel.umount_detached(f"{layer}/lower")


def _copy(source: int, path: str, mode: int) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(target, mode)
        offset = 0
        while sent := os.sendfile(target, source, offset, _COPY_CHUNK_BYTES):
            offset += sent
    finally:
        os.close(target)
