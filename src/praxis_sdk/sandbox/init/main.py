"""Process 1 of a sandbox: builds it from inside, locks it down, proves it, and carries out one piece of work.

Two orders arrive through the channel. The first says what the sandbox is to be, and `become` makes it so; the second
says what is to run there, and under which limits. Between them a locked sandbox may wait for its work, so that a run
need not wait for its sandbox. Until `take_up` has returned, no byte of the user has been looked at.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from praxis_sdk.sandbox import kernel, wire
from praxis_sdk.sandbox.init import lockdown, loopback, mounts, verify
from praxis_sdk.sandbox.init.baseroot import MASKED, SHARED_MEMORY, USER_ID, WORKDIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

_PROC_FLAGS = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_PROC_OPTIONS = "hidepid=invisible"
CHANNEL = 3
STANDING = 5  # files that wait with a sandbox: the standard ones, the channel, the directory for inline files
AWAITED = (int(signal.SIGCHLD), int(signal.SIGTERM))
_SETTLED = b'{"settled":true}'
LOCKED = b'{"locked":true}'
# Whoever started us may have had some of them ignored; a program expects their defaults.
_DEFAULT_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


# What most sandboxes mount: scratch space. It holds nothing open, and each process has its own copy.
PLAIN = mounts.lay_out([], WORKDIR)
_PLAIN_READY = wire.encode({"ready": PLAIN.written, "door": False})


class Surroundings:
    """What an init knows from its birth; it arrives as the memory that fork copies.

    Attributes:
        outside: the launcher's namespaces.
        last_capability: the highest capability of this kernel.
        filter_program: the compiled system-call filter.
        address_space: True when RLIMIT_AS stands in for a memory cgroup.
        tasks_counted: True when a cgroup holds the process limit.
        cpu_counted: True when a cgroup counts the processor time.
        privileged: True when the launcher could empty the supplementary groups.
        filters: how many system-call filters a child inherits.
        lockdown: the steps' own knowledge.
    """

    __slots__ = (
        "address_space",
        "cpu_counted",
        "filter_program",
        "filters",
        "last_capability",
        "lockdown",
        "outside",
        "privileged",
        "tasks_counted",
    )

    def __init__(
        self,
        outside: Mapping[str, int],
        last_capability: int,
        filter_program: bytes,
        *,
        address_space: bool,
        tasks_counted: bool,
        cpu_counted: bool,
        privileged: bool,
        filters: int = 0,
        forked: bool = False,
    ) -> None:
        self.outside = outside
        self.last_capability = last_capability
        self.filter_program = filter_program
        self.address_space = address_space
        self.tasks_counted = tasks_counted
        self.cpu_counted = cpu_counted
        self.privileged = privileged
        self.filters = filters
        self.lockdown = lockdown.Lockdown(
            last_capability, filter_program, inherited=forked, own_id=privileged
        )


class SandboxOrder:
    """What one sandbox is to be.

    Attributes:
        plan: the prepared mounts.
        loopback_port: where to listen on the loopback device; None to leave it down.
        door_fd: once it listens, the socket.
        scratch_bytes: the budget of the scratch space.
        scratch_inodes: the same, in files and directories.
    """

    __slots__ = ("door_fd", "loopback_port", "plan", "scratch_bytes", "scratch_inodes")

    def __init__(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        self.scratch_bytes, self.scratch_inodes = message["scratch"]
        records = message["mounts"]
        self.plan = PLAIN if records is None else mounts.MountPlan.rebuild(records, descriptors)
        self.loopback_port: int | None = message["loopback_port"]
        self.door_fd = -1

    @property
    def held(self) -> set[int]:
        """The descriptors that this sandbox holds until its work begins."""
        return {self.plan.inline_fd} | ({self.door_fd} if self.door_fd >= 0 else set())

    def hand_over(self, channel: socket.socket, written: Mapping[str, int]) -> None:
        """Tell the launcher that the work can begin, with what leads into the sandbox."""
        if self.plan is PLAIN and self.door_fd < 0:
            wire.send(channel, _PLAIN_READY, [*written.values()])
            return
        door = [self.door_fd] if self.door_fd >= 0 else []
        ready = {"ready": list(written), "door": bool(door)}
        wire.send(channel, wire.encode(ready), [*written.values(), *door])
        wire.close_all(door)


class SandboxWork:
    """What is to run in a locked sandbox.

    Attributes:
        limits: the fields of `Limits`.
        command_fd: a memory file with command, environment and inline files, which only this process reads.
        stdio: descriptors for the standard streams.
        address_space_bytes: where RLIMIT_AS stands in for a memory cgroup, its value.
    """

    __slots__ = ("address_space_bytes", "command_fd", "limits", "stdio")

    def __init__(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        self.limits = message["limits"]
        self.command_fd, *self.stdio = descriptors
        self.address_space_bytes: int | None = None


def main(inherited: socket.socket, entrances: Sequence[int], surroundings: Surroundings) -> NoReturn:
    """Run the whole life of an init; never returns into the launcher's code.

    Args:
        inherited: our end of the socket to the launcher.
        entrances: descriptors that let this process enter its control group.
        surroundings: what does not depend on what will run here.
    """
    channel = inherited
    try:
        channel = join(inherited, entrances)
        settle(channel)
        wire.send(channel, _SETTLED)
        order = SandboxOrder(*expect(channel))
        written = become(order, surroundings, channel)
        wire.send(channel, LOCKED)
        work = SandboxWork(*expect(channel))
        expected = {0, 1, 2, CHANNEL, work.command_fd, *order.held, *work.stdio, *written.values()}
        verify.verify_descriptors(expected)
        command = take_up(work, surroundings, order)
        order.hand_over(channel, written)
        lockdown.limit_descriptors(int(work.limits["open_files"]), own_id=surroundings.privileged)
        budget, *others = written.values()
        wire.close_all(others)
        if work.address_space_bytes is not None:
            lockdown.limit_address_space(work.address_space_bytes)
        report = run_tool(work.stdio, command)
        space = os.fstatvfs(budget)
        report["scratch_free"] = [space.f_bavail * space.f_frsize, space.f_favail]
        wire.send(channel, wire.encode(report))
        os._exit(0)
    except BaseException as problem:  # noqa: BLE001 - a fork must never return into the launcher
        report_failure(channel, problem)
        os._exit(1)


def join(inherited: socket.socket, entrances: Sequence[int]) -> socket.socket:
    """Enter the control group, and let go of everything else that fork copied.

    Returns:
        The channel to the launcher, the only descriptor left besides the standard ones.
    """
    for fd in entrances:
        os.write(fd, b"0")
    return _keep_only(inherited)


def settle(channel: socket.socket) -> None:
    """Take possession of the new namespaces: everything that needs no order, so that it can be done ahead.

    Raises:
        OSError: a step failed.
    """
    if channel.recv(1) != b"g":  # the id maps: the launcher's part is done
        os._exit(1)
    kernel.block_signals(AWAITED)
    take_possession()


def take_possession() -> None:
    """Take the one id of the new user namespace, tie this life to the launcher's, and see only what is one's own."""
    kernel.unshare(kernel.CLONE_NEWCGROUP)
    os.setresgid(USER_ID, USER_ID, USER_ID)
    os.setresuid(USER_ID, USER_ID, USER_ID)
    kernel.die_with_parent()  # after the change of ids, which clears it
    kernel.mount("proc", "/proc", "proc", _PROC_FLAGS, _PROC_OPTIONS)
    for path, shown in MASKED:
        kernel.mount(shown, path, None, kernel.MS_BIND)


def expect(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for an order; this process ends when none will ever come."""
    received = wire.receive(channel)
    if received is None:
        os._exit(0)
    return received


def become(order: SandboxOrder, surroundings: Surroundings, channel: socket.socket) -> dict[str, int]:
    """Turn this process into process 1 of a finished, locked and verified sandbox.

    Returns:
        Target of each writable mount -> descriptor of the directory where what is written there ends up.

    Raises:
        OSError: a step failed.
        verify.RefusedError: the kernel's account differs from what was built.
    """
    written = mounts.place(order.plan, order.scratch_bytes, order.scratch_inodes)
    order.plan.close()
    if order.loopback_port is not None:
        order.door_fd = loopback.open_door(order.loopback_port)
    lockdown.lock_down(surroundings.lockdown)
    verify.verify(
        verify.Expectation(
            USER_ID,
            (*written, SHARED_MEMORY),
            surroundings.outside,
            (0, 1, 2, channel.fileno(), *order.held, *written.values()),
            no_groups=surroundings.privileged,
            filters=surroundings.filters + 1,
            loopback=order.loopback_port is not None,
        )
    )
    return written


def take_up(work: SandboxWork, surroundings: Surroundings, order: SandboxOrder) -> dict[str, Any]:
    """Read the work and set its limits, once it is known that this process holds what it should and no more.

    Returns:
        The command; its inline files have been written.

    Raises:
        OSError: a limit was refused, or an inline file.
        lockdown.LimitError: a limit did not take effect.
    """
    command = wire.decode(wire.read_memory_file(work.command_fd))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for name, text in command["files"].items():
        with open(os.open(name, flags, 0o444, dir_fd=order.plan.inline_fd), "wb") as file:
            file.write(text.encode("latin-1"))
    os.close(order.plan.inline_fd)
    lockdown.tighten(
        work.limits, tasks_counted=surroundings.tasks_counted, cpu_counted=surroundings.cpu_counted
    )
    if surroundings.address_space:
        work.address_space_bytes = int(work.limits["memory_bytes"])
    return command


def run_tool(stdio: Sequence[int], command: Mapping[str, Any]) -> dict[str, Any]:
    """Start the tool, close `stdio`, and be its init.

    Returns:
        The report: `status` (raw wait status); or `spawn_error` (errno, message), the caller's mistake: no such
        command, not executable, no such directory.
    """
    try:
        os.chdir(command["cwd"])
        tool = spawn(command["argv"], command["env"], stdio)
    except OSError as problem:
        return {"spawn_error": [problem.errno or 0, f"{problem.strerror}: {problem.filename}"]}
    finally:
        wire.close_all(stdio)
    return {"status": accompany(tool)}


def accompany(tool: int) -> int:
    """Wait for the tool, reap whatever is left to process 1 meanwhile; returns the tool's raw wait status."""
    while True:
        event = signal.sigwaitinfo((signal.SIGCHLD, signal.SIGTERM))
        if event.si_signo == signal.SIGTERM:
            # From outside the process namespace the sender has no id here; the work's own kill(1) does nothing.
            if event.si_pid == 0:
                _forward(tool)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == tool:
                return status


def _forward(tool: int) -> None:
    """Ask the tool to end, and the processes that share its group, as a terminal would."""
    try:
        os.killpg(tool, signal.SIGTERM)
    except ProcessLookupError:
        return


def spawn(argv: list[str], env: Mapping[str, str], stdio: Sequence[int]) -> int:
    """Start argv with PATH taken from `env`; raises the OSError that says why it cannot be run."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    name = argv[0]
    candidates = [name] if "/" in name else [f"{d or '.'}/{name}" for d in env.get("PATH", "").split(":")]
    failure: OSError = FileNotFoundError(errno.ENOENT, "command not found", name)
    for path in candidates:
        if not os.path.exists(path):
            continue  # cheaper than a fork that finds out
        try:
            return os.posix_spawn(
                path, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULT_SIGNALS
            )
        except OSError as problem:
            failure = OSError(problem.errno, problem.strerror, path)
            if problem.errno != errno.EACCES:
                break
    raise failure


def _keep_only(channel: socket.socket) -> socket.socket:
    """Keep the channel, as the lowest descriptor after the standard ones; close everything else that fork copied."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(CHANNEL):
        os.dup2(null, number, inheritable=False)
    os.dup2(channel.detach(), CHANNEL, inheritable=False)
    kernel.close_range(CHANNEL + 1)
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, CHANNEL)


def report_failure(channel: socket.socket, problem: BaseException) -> None:
    """Tell the launcher why this sandbox cannot be had."""
    number = problem.errno if isinstance(problem, OSError) else None
    refused = isinstance(problem, (verify.RefusedError, lockdown.LimitError))
    stage = "verify" if refused else "setup"
    message = f"{problem}" if refused or number is not None else repr(problem)
    try:
        wire.send(channel, wire.encode({"failed": [stage, number or 0, message[:4000]]}))
    except OSError:
        return  # the launcher is gone, and this process with it
