"""User namespaces that exist only to carry an id map, for idmapped mounts.

An idmapped mount shows files of one owner as another's, without touching the disk: the files of the owner of
a bound directory appear as the sandbox's own. The kernel takes the map from a user namespace, which needs a
process to be born; the descriptor outlives it. Slots are reused, so the same few maps come back and are
cached.
"""

from __future__ import annotations

import os

from praxis_sdk.sandbox import kernel

MAX_CACHED = 256


class IdMaps:
    """A bounded cache of id-map descriptors; `close` releases them."""

    __slots__ = ("_cache",)

    def __init__(self) -> None:
        self._cache: dict[tuple[int, int, int, int], int] = {}

    def get(self, owner_uid: int, owner_gid: int, uid: int, gid: int) -> int:
        """Return the descriptor of a namespace that shows the owner's files as `uid`:`gid`.

        Args:
            owner_uid: user id on disk.
            owner_gid: group id on disk.
            uid: the sandbox's user id, as the host sees it.
            gid: the sandbox's group id, as the host sees it.

        Raises:
            OSError: the kernel refused the namespace or its map.
        """
        key = (owner_uid, owner_gid, uid, gid)
        fd = self._cache.pop(key, None)
        if fd is None:
            fd = _namespace(*key)
            if len(self._cache) >= MAX_CACHED:
                os.close(self._cache.pop(next(iter(self._cache))))
        self._cache[key] = fd  # youngest last
        return fd

    def close(self) -> None:
        """Close every cached descriptor."""
        while self._cache:
            os.close(self._cache.popitem()[1])


def _namespace(owner_uid: int, owner_gid: int, uid: int, gid: int) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = kernel.clone3(kernel.CLONE_NEWUSER)
    if pid == 0:
        # Lives until the parent has the descriptor; end of file also when the parent dies.
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        write_map(pid, "uid_map", f"{owner_uid} {uid} 1")
        write_map(pid, "gid_map", f"{owner_gid} {gid} 1")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.close(writer)
        os.close(pidfd)
        os.waitpid(pid, 0)


def write_map(pid: int | str, name: str, text: str) -> None:
    """Write one line to /proc/<pid>/<name>: `uid_map`, `gid_map` or `setgroups`."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
