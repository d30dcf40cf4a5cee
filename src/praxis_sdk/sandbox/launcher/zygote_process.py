"""One zygote process, as the launcher holds it: planted, fed with requests for children, and mourned.

What it says is not believed: third-party code runs in its memory. It can hand over a process only if that is the
launcher's own child and a new one, and what that process became is asked of the kernel (`handshake`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections import deque
from pathlib import Path

from praxis_sdk.sandbox import kernel, wire
from praxis_sdk.sandbox.init import baseroot, mounts
from praxis_sdk.sandbox.launcher import spawner
from praxis_sdk.sandbox.launcher.child import Child, StartError
from praxis_sdk.sandbox.zygote import bootstrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from praxis_sdk.sandbox.launcher.events import Events
    from praxis_sdk.sandbox.launcher.spawner import Spawner

    Born = Callable[[Child | StartError], None]

LOAD_TIMEOUT_S = 300.0
REAP_INTERVAL_MS = 2
MEMORY_BYTES = 8 * 1024 * 1024 * 1024
PROCESSES = 64
MODULES = (
    "init/attack",
    "init/baseroot",
    "init/idmap",
    "init/lockdown",
    "init/loopback",
    "init/main",
    "init/mounts",
    "init/verify",
    "kernel",
    "wire",
    "zygote/forked",
    "zygote/main",
)
PROGRAM = f"{baseroot.LIBRARY}/program"
POINTS = ((baseroot.TMP, True), (baseroot.WORKDIR, True))
_MAX_TEXT = 2000


class ZygoteProcess:
    """One life of an environment's zygote.

    Attributes:
        loaded: everything is preloaded, children can be asked for.
        problem: why there will be no (more) children; None while there may be.
        births: how many children it was asked for.
        living: how many of them have not been buried; the process namespace must outlive them.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        home: Spawner,
        events: Events,
        changed: Callable[[ZygoteProcess], None],
    ) -> None:
        self.loaded = False
        self.problem: StartError | None = None
        self.births = 0
        self.living = 0
        self._nursery = home
        self._events = events
        self._changed = changed
        self._waiting: deque[tuple[Child, Born]] = deque()
        self._loading = settings["python"]
        self._closed = False
        self._group, self._host_id = home.provide()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._members: list[tuple[int, int]] = []
        try:
            if self._group is not None:
                limits = {"memory_bytes": MEMORY_BYTES, "processes": PROCESSES, "cpu_cores": None}
                self._group.limit(limits)
            self._plant(settings, theirs)
            self._introduce(settings)
        except BaseException:
            self._release()
            raise
        finally:
            theirs.close()
        self._channel.setblocking(False)
        events.watch(self._channel.fileno(), self._hear)
        events.at(time.monotonic() + LOAD_TIMEOUT_S, self._check_loaded)

    @property
    def unborn(self) -> int:
        """How many children have been asked for and not come."""
        return len(self._waiting)

    def ask(self, born: Born) -> None:
        """Have a child forked; `born` is called with it, or with the reason why there is none.

        Raises:
            OSError: the host has no group, id or descriptor left.
        """
        group, host_id = self._nursery.provide()
        entrances: list[int] = []
        theirs: socket.socket | None = None
        child: Child | None = None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child = Child(0, -1, ours, group, host_id, self.mourn)
            if group is not None:
                entrances = group.entrances(of_a_stranger=True)
            wire.send(self._channel, b"{}", [theirs.fileno(), *entrances])
        except BaseException:
            if child is not None:
                child.channel.close()
            self._nursery.release(group, host_id)
            raise
        finally:
            wire.close_all(entrances)
            if theirs is not None:
                theirs.close()
        self.births += 1
        self.living += 1
        self._waiting.append((child, born))

    def retire(self) -> None:
        """Ask for no more children; the zygote ends once it has delivered those asked for, the rest with the last."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        self._closed = True
        self._end_if_over()

    def mourn(self) -> None:
        """A child has been buried."""
        self.living -= 1
        self._end_if_over()

    def kill(self) -> None:
        """End the zygote and all its children."""
        self._closed = True
        if self._members:
            self._lose(StartError("zygote", 0, "the zygote was ended"))
            self._release()

    # -- its beginning ----------------------------------------------------------------------------------------------

    def _plant(self, settings: Mapping[str, Any], theirs: socket.socket) -> None:
        seed = bootstrap.BootstrapSpec(
            settings["python"], settings["variables"], self._host_id, self._nursery.zygote_filter
        )
        package = Path(__file__).parent.parent
        files = {
            f"{baseroot.LIBRARY}/sandbox/{name}.py": (package / f"{name}.py").read_bytes() for name in MODULES
        }
        for path in _program_files(settings):
            files[f"{PROGRAM}/{path.name}"] = path.read_bytes()
        root = baseroot.build(POINTS, [(source, target) for source, target in settings["binds"]], files)
        entrances = [] if self._group is None else self._group.entrances()
        report, reporter = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with self._nursery.first_in_line(), self._nursery.inside(root.namespace_fd):
                helper, helper_fd = kernel.clone3(
                    bootstrap.ISOLATION, None if self._group is None else self._group.fd
                )
                if helper == 0:
                    report.close()
                    bootstrap.plant(seed, self._nursery.surroundings, theirs, entrances, reporter)
            reporter.close()
            os.close(helper_fd)
            received = wire.receive(report)
            os.waitpid(helper, 0)
        finally:
            reporter.close()
            report.close()
            root.close()
            wire.close_all(entrances)
        if received is None:
            raise OSError(errno.ESRCH, "zygote: its helper died")
        message, pidfds = received
        if "failed" in message:
            raise OSError(message["failed"][1], f"zygote: {message['failed'][2]}")
        self._members = list(zip(message["planted"], pidfds, strict=True))

    def _introduce(self, settings: Mapping[str, Any]) -> None:
        surroundings = self._nursery.surroundings
        introduction = {
            "last_capability": surroundings.last_capability,
            "address_space": surroundings.address_space,
            "tasks_counted": surroundings.tasks_counted,
            "cpu_counted": surroundings.cpu_counted,
            "privileged": surroundings.privileged,
            "isolation": spawner.ISOLATION | kernel.CLONE_PARENT,
            "preload": settings["preload"],
            "search_paths": settings["search_paths"],
            "program": f"{PROGRAM}/{_program_files(settings)[0].name}",
            "program_name": _program_name(Path(settings["program"])),
        }
        fd = wire.memory_file("praxis-filter", self._nursery.closing_filter)
        try:
            wire.send(self._channel, wire.encode(introduction), [fd])
        finally:
            os.close(fd)

    # -- what it says -----------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        while self._members:
            try:
                received = wire.receive(self._channel)
            except BlockingIOError:
                return
            except (wire.WireError, OSError):
                received = None
            if received is None:
                self._die()
                return
            message, descriptors = received
            try:
                self._understand(message, descriptors)
            finally:
                wire.close_all(descriptors)

    def _understand(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message:
            case {"born": True} if len(descriptors) == 1 and self._waiting:
                child, born = self._waiting.popleft()
                born(self._adopt(child, descriptors[0]))
            case {"barren": [int(number), str(text)]} if self._waiting:
                child, born = self._waiting.popleft()
                self.dismiss(child)
                born(StartError("zygote", number, text[:_MAX_TEXT]))
            case {"loading": str(name)}:
                self._loading = name[:200]
            case {"loaded": True} if not self.loaded:
                try:
                    self._take_scratch_away()
                except OSError as problem:
                    self._lose(StartError("zygote", problem.errno or 0, f"zygote: {problem}"))
                    return
                self.loaded = True
                self._changed(self)
            case {"unable": str(text)}:
                self._lose(StartError("preload", 0, f"preload: {text[:_MAX_TEXT]}"))
            case {"refused": [int(number), str(text)]}:
                self._lose(StartError("zygote", number, text[:_MAX_TEXT]))

    def _adopt(self, child: Child, pidfd: int) -> Child | StartError:
        """Take over a process, if it is a new child of ours."""
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            pid = _pid_of(pidfd)
            self._insist_on_new(pid)
            child.pid, child.pidfd = pid, os.dup(pidfd)
            self._nursery.admit(child)
        except OSError as problem:
            self.dismiss(child)
            return StartError("zygote", problem.errno or 0, str(problem))
        return child

    def _take_scratch_away(self) -> None:
        """Unmount what preloaded modules could write to: nothing of it shall be in the copies that jobs get."""
        try:
            namespace = os.open(f"/proc/{self._members[1][0]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except (ProcessLookupError, FileNotFoundError):
            return  # it has died since, which its socket will tell
        try:
            with self._nursery.inside(namespace):
                for target in bootstrap.SCRATCH:
                    kernel.umount_detached(target)
        finally:
            os.close(namespace)

    def _insist_on_new(self, pid: int) -> None:
        if not self._nursery.is_new(pid) or pid in dict(self._members):
            raise OSError(errno.EEXIST, "the zygote handed over a process that is no new one")

    def dismiss(self, child: Child) -> None:
        """Bury a child that was never admitted."""
        self._nursery.bury(child)

    def _die(self) -> None:
        """The zygote's socket is closed: it ended, as asked or by accident."""
        if self._closed:
            self._lose(StartError("zygote", 0, "the zygote was ended"))
            return
        pid, pidfd = self._members[1]
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        del self._members[1]
        how = f"exit code {os.WEXITSTATUS(status)}"
        if os.WIFSIGNALED(status):
            how = f"signal {os.WTERMSIG(status)}"
        while_what = "" if self.loaded else f" while it loaded '{self._loading}'"
        self._lose(StartError("zygote", 0, f"the zygote died{while_what} ({how})"))

    def _lose(self, problem: StartError) -> None:
        """Nothing more will come from this zygote."""
        if self.problem is not None:
            return
        self.problem = problem
        self._closed = True
        self._events.forget(self._channel.fileno())
        for _, pidfd in self._members[1:]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        waiting, self._waiting = self._waiting, deque()
        for child, born in waiting:
            self.dismiss(child)
            born(problem)
        self._changed(self)
        self._end_if_over()

    def _check_loaded(self) -> None:
        if not self.loaded and self.problem is None:
            text = f"preload: '{self._loading}' was not loaded within {LOAD_TIMEOUT_S:g} s"
            self._lose(StartError("preload", 0, text))

    # -- its end ----------------------------------------------------------------------------------------------------

    def _end_if_over(self) -> None:
        if self.problem is not None and self.living == 0:
            self._release()

    def _release(self) -> None:
        """End the root process, and with it every process of this generation."""
        if self._channel.fileno() < 0:
            return
        members, self._members = self._members, []
        for _, pidfd in members:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pid, pidfd in reversed(members):
            # The root process ends after everybody else: also after children that the zygote had no time to announce.
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            while not poller.poll(REAP_INTERVAL_MS):
                self._nursery.reap_strangers()
            os.waitpid(pid, 0)
            os.close(pidfd)
        self._channel.close()
        self._nursery.release(self._group, self._host_id)


def check_points(plan: mounts.MountPlan) -> None:
    """Refuse mounts for which a zygote's root, which is the same for all, has no mount point."""
    if not set(plan.root_points) <= set(POINTS):
        text = f"a forked job can mount only below {baseroot.WORKDIR} and {baseroot.TMP}"
        raise StartError("mounts", 0, text, by_host=False)


def _program_files(settings: Mapping[str, Any]) -> list[Path]:
    """Return the files of a zygote's program; of a package, what is to be imported comes first."""
    program = Path(settings["program"])
    return sorted(program.glob("*.py")) if program.is_dir() else [program]


def _program_name(program: Path) -> str:
    """Return the name by which a program's modules import each other."""
    names = [program.stem]
    if program.is_dir():
        while (program.parent / "__init__.py").exists():
            program = program.parent
            names.insert(0, program.name)
    return ".".join(names)


def _pid_of(pidfd: int) -> int:
    """Return the process id behind a pidfd, as this process sees it."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, 4096).decode().splitlines()
    finally:
        os.close(fd)
    pid = next((int(line.split()[1]) for line in lines if line.startswith("Pid:")), -1)
    if pid <= 0:
        raise OSError(errno.ESRCH, "the process is gone")
    return pid
