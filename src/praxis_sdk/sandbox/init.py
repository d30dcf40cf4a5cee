"""Process 1 of a sandbox: builds it from inside, locks it down, proves it, runs the tool, reports how that
ended.

`become` turns the freshly cloned child into a locked sandbox and knows nothing of what runs there afterwards;
`run_tool` is one thing that can run there. Until `become` has returned, no byte of the user has been looked
at.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket

from praxis_sdk.sandbox import kernel, lockdown, mounts, verify, wire
from praxis_sdk.sandbox.baseroot import SHARED_MEMORY, USER_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

_PROC_OPTIONS = "hidepid=invisible"
_CHANNEL = 3
_SETTLED = b'{"settled":true}'
# The interpreter ignores these at start; a program expects their defaults.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


class Surroundings:
    """What an init knows from its birth; it arrives as the memory that fork copies.

    Attributes:
        outside: the launcher's namespaces.
        last_capability: the highest capability of this kernel.
        filter_program: the compiled system-call filter.
        address_space: True when RLIMIT_AS stands in for a memory cgroup.
        tasks_counted: True when a cgroup holds the process limit.
        privileged: True when the launcher could empty the supplementary groups.
    """

    __slots__ = (
        "address_space",
        "filter_program",
        "last_capability",
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
        privileged: bool,
    ) -> None:
        self.outside = outside
        self.last_capability = last_capability
        self.filter_program = filter_program
        self.address_space = address_space
        self.tasks_counted = tasks_counted
        self.privileged = privileged


class Order:
    """What one sandbox is to be; it arrives through the channel.

    Attributes:
        limits: the fields of `Limits`.
        plan: the prepared mounts.
        command_fd: a memory file with argv, env and cwd, which only this init reads.
        stdio: descriptors for the tool's standard streams.
    """

    __slots__ = ("command_fd", "limits", "plan", "stdio")

    def __init__(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        self.limits = message["limits"]
        self.command_fd, *rest = descriptors
        self.stdio = rest[:3]
        self.plan = mounts.Plan.rebuild(message["mounts"], rest[3:])


def main(inherited: socket.socket, entrances: Sequence[int], surroundings: Surroundings) -> NoReturn:
    """Run the whole life of an init; never returns into the launcher's code.

    Args:
        inherited: our end of the socket to the launcher.
        entrances: descriptors that let this process enter its control group.
        surroundings: what does not depend on what will run here.
    """
    channel = inherited
    try:
        for fd in entrances:
            os.write(fd, b"0")
        channel = _keep_only(inherited)
        settle(channel)
        wire.send(channel, _SETTLED)
        received = wire.receive(channel)
        if received is None:
            os._exit(0)  # never needed
        order = Order(*received)
        written = become(order, surroundings, channel)
        wire.send(channel, wire.encode({"ready": list(written)}), list(written.values()))
        budget, *others = written.values()
        wire.close_all(others)
        report = run_tool(order, address_space=surroundings.address_space)
        space = os.fstatvfs(budget)
        report["scratch_free"] = [space.f_bavail * space.f_frsize, space.f_favail]
        wire.send(channel, wire.encode(report))
        os._exit(0)
    except BaseException as problem:  # noqa: BLE001 - a fork must never return into the launcher
        _report_failure(channel, problem)
        os._exit(1)


def settle(channel: socket.socket) -> None:
    """Take possession of the new namespaces: everything that needs no order, so that it can be done ahead.

    Raises:
        OSError: a step failed.
    """
    if channel.recv(1) != b"g":  # the id maps: the launcher's part is done
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
    os.setresgid(USER_ID, USER_ID, USER_ID)
    os.setresuid(USER_ID, USER_ID, USER_ID)
    kernel.die_with_parent()  # after the change of ids, which clears it
    hardened = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", hardened, _PROC_OPTIONS)


def become(order: Order, surroundings: Surroundings, channel: socket.socket) -> dict[str, int]:
    """Turn this process into process 1 of a finished, locked and verified sandbox.

    Returns:
        Target of each writable mount -> descriptor of the directory where what is written there ends up.

    Raises:
        OSError: a step failed.
        verify.RefusedError: the kernel's account differs from what was built.
    """
    limits = order.limits
    written = mounts.place(order.plan, int(limits["scratch_bytes"]), int(limits["scratch_inodes"]))
    order.plan.close()
    lockdown.lock_down(
        lockdown.Lockdown(
            limits,
            surroundings.last_capability,
            surroundings.filter_program,
            tasks_counted=surroundings.tasks_counted,
        )
    )
    kept = (0, 1, 2, channel.fileno(), order.command_fd, *order.stdio, *written.values())
    verify.verify(
        verify.Expectation(
            USER_ID,
            (*written, SHARED_MEMORY),
            surroundings.outside,
            kept,
            no_groups=surroundings.privileged,
        )
    )
    return written


def run_tool(order: Order, *, address_space: bool) -> dict[str, Any]:
    """Start the tool, wait for it, reap whatever is left to process 1 meanwhile.

    Args:
        order: the command and its standard streams.
        address_space: True when RLIMIT_AS stands in for a memory cgroup.

    Returns:
        The report: `status` (raw wait status); or `spawn_error` (errno, message), the caller's mistake: no such
        command, not executable, no such directory.
    """
    command = json.loads(wire.read_memory_file(order.command_fd))
    try:
        os.chdir(command["cwd"])
        if address_space:
            lockdown.limit_address_space(int(order.limits["memory_bytes"]))
        tool = _spawn(command["argv"], command["env"], order.stdio)
    except OSError as problem:
        return {"spawn_error": [problem.errno or 0, f"{problem.strerror}: {problem.filename}"]}
    finally:
        wire.close_all(order.stdio)
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
                return {"status": status}


def _forward(tool: int) -> None:
    """Ask the tool to end, and the processes that share its group, as a terminal would."""
    try:
        os.killpg(tool, signal.SIGTERM)
    except ProcessLookupError:
        return


def _spawn(argv: list[str], env: Mapping[str, str], stdio: Sequence[int]) -> int:
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
    for number in range(_CHANNEL):
        os.dup2(null, number, inheritable=False)
    os.dup2(channel.detach(), _CHANNEL, inheritable=False)
    kernel.close_range(_CHANNEL + 1)
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, _CHANNEL)


def _report_failure(channel: socket.socket, problem: BaseException) -> None:
    number = problem.errno if isinstance(problem, OSError) else None
    stage = "verify" if isinstance(problem, verify.RefusedError) else "setup"
    message = f"{problem}" if isinstance(problem, (OSError, verify.RefusedError)) else repr(problem)
    try:
        wire.send(channel, wire.encode({"failed": [stage, number or 0, message[:4000]]}))
    except OSError:
        return  # the launcher is gone, and this process with it
