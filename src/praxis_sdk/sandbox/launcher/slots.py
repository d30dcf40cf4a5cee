"""Host ids for sandboxes: each live one has a uid and gid of its own.

Two sandboxes never share an id while they live, so that even a hole in the namespaces leaves them strangers
to each other. A privileged launcher leases a block of ids through a file lock, which the kernel releases when
it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_ID = 200_000
# Inside a container often only 65536 ids exist; these are above what distributions give to services and
# people.
FIRST_ID_IN_CONTAINER = 30_000
BLOCK = 8_192
BLOCKS = 64
LEASE_DIRECTORY = "/run/praxis-sandbox"
_NEEDED_CAPABILITIES = (1, 6, 7, 21)  # CAP_DAC_OVERRIDE, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN


class Slots:
    """A leased block of ids.

    Attributes:
        base: the first id of the block.
    """

    __slots__ = ("_free", "_lease", "_next", "base")

    def __init__(self, base: int, lease: int) -> None:
        self.base = base
        self._lease = lease
        self._free: list[int] = []
        self._next = 0

    def take(self) -> int:
        """Return the lowest id that no live sandbox has; raises OSError when all are taken."""
        if self._free:
            return heapq.heappop(self._free)
        if self._next >= BLOCK:
            raise OSError(11, f"all {BLOCK} sandbox ids are in use")
        self._next += 1
        return self.base + self._next - 1

    def give_back(self, identity: int) -> None:
        """Return an id whose last process is gone."""
        heapq.heappush(self._free, identity)

    def close(self) -> None:
        """Release the lease."""
        os.close(self._lease)


def lease() -> Slots | None:
    """Lease a block of ids; None when this process cannot give ids away, or none is left."""
    if not _privileged():
        return None
    try:
        os.makedirs(LEASE_DIRECTORY, mode=0o700, exist_ok=True)
    except OSError:
        return None
    for base in _candidates():
        try:
            fd = os.open(
                f"{LEASE_DIRECTORY}/ids-{base}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        return Slots(base, fd)
    return None


def _privileged() -> bool:
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return os.geteuid() == 0 and all(effective >> bit & 1 for bit in _NEEDED_CAPABILITIES)


def _candidates() -> Iterator[int]:
    """Yield the first ids of blocks that exist in this user namespace, for users and groups alike."""
    ranges = {name: list(_ranges(f"/proc/self/{name}")) for name in ("uid_map", "gid_map")}
    for first, count in ((FIRST_ID, BLOCKS), (FIRST_ID_IN_CONTAINER, 4)):
        for base in range(first, first + count * BLOCK, BLOCK):
            if all(
                any(low <= base and base + BLOCK <= high for low, high in found) for found in ranges.values()
            ):
                yield base


def _ranges(path: str) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            inside, _, length = (int(field) for field in line.split())
            yield inside, inside + length
