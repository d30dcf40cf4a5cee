"""Where inits come from: cloned ahead of need, one waiting for each base root that is in use.

A child costs a clone, id maps, a control group and a settled process, none of which depends on what it will run. So
the next one is made while the last one is still being locked down, and a request only has to hand over its order.
Every child is used once. It has never seen anything of another job: orders travel past the launcher's memory, in a
file that only the child reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections import OrderedDict

from praxis_sdk.sandbox import kernel, wire
from praxis_sdk.sandbox.init import baseroot, lockdown, verify
from praxis_sdk.sandbox.init import main as init
from praxis_sdk.sandbox.init.baseroot import USER_ID
from praxis_sdk.sandbox.init.idmap import IdMaps, write_map
from praxis_sdk.sandbox.launcher import cgroup_place, cgroups, slots
from praxis_sdk.sandbox.launcher.child import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator

    Points = tuple[tuple[str, bool], ...]

MAX_BASE_ROOTS = 16
MAX_WAITING = 4
PROOF_TIMEOUT_S = 20.0
OOM_SCORE_ADJ = 500
DEFAULT_POINTS = ((baseroot.TMP, True), (baseroot.WORKDIR, True))

# The namespace of control groups comes later (`init.take_possession`): its root is the group that one is in then.
ISOLATION = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
)


class Spawner:
    """Makes children, and takes back what the host kept for the dead.

    Attributes:
        place: where control groups are made.
        idmaps: id maps for mounts; None when this launcher cannot map ids.
        surroundings: what its children know from birth.
        zygote_filter: the system-call filter of a zygote, which its children inherit.
        closing_filter: what its children add to that.

    Raises:
        OSError: this host refuses something that every sandbox needs.
    """

    def __init__(self, filter_program: bytes, zygote_filter: bytes, closing_filter: bytes) -> None:
        lockdown.make_room_for(slots.BLOCK)
        with contextlib.suppress(OSError):  # a kernel without keyrings has nothing to leave
            kernel.join_new_session_keyring()
        self.place = cgroup_place.find_place()
        self._slots = slots.lease()
        self.idmaps = None if self._slots is None else IdMaps()
        if self._slots is None:
            _enter_own_namespace()
        else:
            os.setgroups([])
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.surroundings = init.Surroundings(
            verify.own_namespaces(),
            _last_capability(),
            filter_program,
            address_space="memory" not in self.place.controllers,
            tasks_counted="pids" in self.place.controllers,
            cpu_counted=self.place.version == 2 or "cpuacct" in self.place.controllers,
            privileged=self.privileged,
            filters=verify.own_filters(),
        )
        self._roots: OrderedDict[Points, baseroot.BaseRoot] = OrderedDict()
        self._waiting: OrderedDict[Points, Child] = OrderedDict()
        self._doomed: list[cgroups.Group] = []
        self.zygote_filter = zygote_filter
        self.closing_filter = closing_filter
        self._births = 0
        self._pids: set[int] = set()

    @property
    def privileged(self) -> bool:
        """True when every child has host ids of its own."""
        return self._slots is not None

    def take(self, points: Points) -> Child:
        """Return a child in a root with the given mount points; the one that waits, when there is one."""
        child = self._waiting.pop(points, None)
        if child is not None:
            try:
                self.hear_of_birth(child)
            except BlockingIOError:
                pass  # still settling
            except OSError:
                # It died while waiting (an out-of-memory kill, say). If the host is to blame, the next one will tell.
                self.bury(child)
                child = None
        return child or self._bear(points)

    def hear_of_birth(self, child: Child) -> None:
        """Read a child's first message.

        Raises:
            BlockingIOError: nothing yet, on a channel that does not block.
            OSError: the child could not settle, for the reason in the message; or died without one.
        """
        received = wire.receive(child.channel)
        if received is None:
            raise OSError(errno.ESRCH, "the init died while it settled")
        if "failed" in received[0]:
            _, number, text = received[0]["failed"]
            raise OSError(number, text)

    def prove(self) -> None:
        """Make the first child and wait until it has settled; raises OSError with the host's reason if it cannot."""
        child = self._bear(DEFAULT_POINTS)
        try:
            child.channel.settimeout(PROOF_TIMEOUT_S)
            self.hear_of_birth(child)
        finally:
            self.bury(child)
        self.refill(DEFAULT_POINTS)

    def refill(self, points: Points) -> None:
        """Have a child ready for the next request of this kind. What fails here will fail, with a reason, there."""
        if points in self._waiting:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.bury(self._waiting.popitem(last=False)[1])
        with contextlib.suppress(OSError):
            self._waiting[points] = self._bear(points)

    def bury(self, child: Child) -> tuple[int, resource.struct_rusage | None]:
        """Reap a child, killing it first where it still lives, and take back what the host kept for it.

        Returns:
            Its wait status and resource usage.
        """
        ended = child.reap()
        self._pids.discard(child.pid)
        self.release(child.group, child.host_id)
        if child.on_reaped is not None:
            child.on_reaped()
        return ended

    def reap_strangers(self) -> None:
        """Reap dead children that nobody announced: their zygote died between forking them and saying so."""
        own = os.getpid()
        with open(f"/proc/self/task/{own}/children") as file:
            unknown = [pid for pid in map(int, file.read().split()) if pid not in self._pids]
        for pid in unknown:
            with open(f"/proc/{pid}/status") as file:
                status = file.read()
            # Number 1 and 2 of a namespace right below ours are a zygote's own, and reaped by name.
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if "\nState:\tZ" in status and len(numbers) > 2:
                os.waitpid(pid, 0)

    def is_new(self, pid: int) -> bool:
        """True when no child that has been admitted has this process id."""
        return pid not in self._pids

    def tidy(self) -> bool:
        """Try again to remove groups that were busy; True when none is left."""
        if self._doomed:
            self._doomed = [group for group in self._doomed if not group.remove()]
        return not self._doomed

    def close(self) -> None:
        """Kill the waiting children and remove the launcher's own groups."""
        while self._waiting:
            self.bury(self._waiting.popitem()[1])
        for _ in range(100):
            if self.tidy():
                break
            # The kernel is still taking down the last members; nothing announces the end of that.
            signal.sigtimedwait((), 0.01)
        self.place.remove()

    def _bear(self, points: Points) -> Child:
        root = self._root(points)
        group, host_id = self.provide()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = Child(0, -1, ours, group, host_id)
        try:
            entrances = [] if group is None else group.entrances()
            with self.inside(root.namespace_fd):
                child.pid, child.pidfd = kernel.clone3(ISOLATION, None if group is None else group.fd)
                if child.pid == 0:
                    init.main(theirs, entrances, self.surroundings)
            wire.close_all(entrances)
            self.admit(child)
            child.channel.send(b"g")
        except BaseException:
            self.bury(child)
            raise
        finally:
            theirs.close()
        return child

    def provide(self) -> tuple[cgroups.Group | None, int]:
        """Give a new child a control group and an id of its own; raises OSError when there is none."""
        host_id = 0 if self._slots is None else self._slots.take()
        group: cgroups.Group | None = None
        try:
            if self.place.version:
                self._births += 1
                group = cgroups.Group(self.place, str(self._births))
        except BaseException:
            self.release(None, host_id)
            raise
        return group, host_id

    @contextlib.contextmanager
    def inside(self, namespace_fd: int) -> Iterator[None]:
        """Be in another mount namespace, so that a clone gets a copy of it."""
        kernel.setns(namespace_fd, kernel.CLONE_NEWNS)
        try:
            yield
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNS)

    def admit(self, child: Child) -> None:
        """Do the parent's part for a child that waits: its ids, and its precedence in an out-of-memory kill.

        A zygote's child has inherited the latter. Whatever it is sent next tells it that this is done.
        """
        self._pids.add(child.pid)
        write_map(child.pid, "setgroups", "deny")
        write_map(child.pid, "uid_map", f"{USER_ID} {child.host_id} 1")
        write_map(child.pid, "gid_map", f"{USER_ID} {child.host_id} 1")
        if not child.forked:
            write_map(child.pid, "oom_score_adj", str(OOM_SCORE_ADJ))
        child.channel.setblocking(False)

    @contextlib.contextmanager
    def first_in_line(self) -> Iterator[None]:
        """Have what is cloned meanwhile, and all its descendants, precede this process in an out-of-memory kill."""
        with open("/proc/self/oom_score_adj") as file:
            before = file.read()
        write_map("self", "oom_score_adj", str(max(OOM_SCORE_ADJ, int(before))))
        try:
            yield
        finally:
            write_map("self", "oom_score_adj", before)

    def release(self, group: cgroups.Group | None, host_id: int) -> None:
        """Take back what `provide` gave."""
        if group is not None and not group.remove():
            self._doomed.append(group)
        if self._slots is not None:
            self._slots.give_back(host_id)

    def _root(self, points: Points) -> baseroot.BaseRoot:
        root = self._roots.pop(points, None)
        if root is None:
            root = baseroot.build(points)
            if len(self._roots) >= MAX_BASE_ROOTS:
                self._roots.popitem(last=False)[1].close()
        self._roots[points] = root
        return root


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def _enter_own_namespace() -> None:
    """Without privileges: become root of a user namespace that holds only the caller's own id."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    kernel.set_dumpable(True)  # the change of credentials took the ownership of /proc/self away
    write_map("self", "setgroups", "deny")
    write_map("self", "uid_map", f"0 {uid} 1")
    write_map("self", "gid_map", f"0 {gid} 1")
    kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_SLAVE)
