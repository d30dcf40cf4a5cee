"""A zygote's child: becomes a locked sandbox, waits for its work, and then is the job itself.

It is process 1 of its namespace, because a second fork would cost more than everything else. So the kernel ignores
signals to it that it has no handler for, except SIGKILL, SIGSTOP and those of a fault; a handler for SIGTERM stands in
for the default. It is the launcher's own child, which reads the wait status of the job from the kernel, and asks the
kernel from outside whether the sandbox is what it should be.

A fork pays for every page that it is the first to write to, and Python writes to whatever it looks at. So everything
that can be had before the fork is had there (`prepare`): dispositions of signals, the filter in the kernel's form,
standard descriptors, the socket object.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys
import traceback

from praxis_sdk.sandbox import kernel, wire
from praxis_sdk.sandbox.init import attack, lockdown, loopback, mounts, verify
from praxis_sdk.sandbox.init import main as init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any, NoReturn

REHEARSALS = 12
_TERMINATE, _INTERRUPT = int(signal.SIGTERM), int(signal.SIGINT)
_NO_DESCRIPTOR = 1 << 30
_WITHOUT_EFFECT: tuple[Callable[[], object], ...] = (
    lambda: kernel.unshare(0),
    lambda: kernel.mount("rehearsal", "", "tmpfs", 0, "mode=755"),
    lambda: kernel.mount("rehearsal", "", None, kernel.MS_BIND),
    lambda: kernel.mount_setattr("", kernel.MOUNT_ATTR_RDONLY, recursive=False),
    lambda: kernel.umount_detached(""),
    lambda: kernel.empty_bounding_set(-1),
)
_HELD_BACK = (int(signal.SIGCHLD), _TERMINATE)


class Program:
    """What a zygote's children run.

    Attributes:
        begin: takes the order behind a descriptor; returns what carries it out and then returns the exit code or raises
            SystemExit with it, or the command line of a program that does.
        rehearse: goes through what every order needs, and leaves nothing of it; None where the program has none. It is
            called in the zygote, so that children find code that the interpreter has learnt.
        seeded: modules to whose random numbers it gives a seed in every child, so that they need no other.
    """

    __slots__ = ("begin", "rehearse", "seeded")

    def __init__(
        self,
        begin: Callable[[int], Callable[[], int] | list[str]],
        rehearse: Callable[[], None] | None,
        seeded: frozenset[str],
    ) -> None:
        self.begin = begin
        self.rehearse = rehearse
        self.seeded = seeded


def prepare(program: Program, surroundings: init.Surroundings) -> None:
    """Do in the zygote, once, what every child would otherwise do for itself."""
    kernel.block_signals(_HELD_BACK)
    for number in (signal.SIGHUP, signal.SIGQUIT):  # whoever started us may have had them ignored
        signal.signal(number, signal.SIG_DFL)
    signal.signal(_TERMINATE, _terminate)
    signal.signal(_INTERRUPT, signal.default_int_handler)
    kernel.prepare_seccomp(surroundings.filter_program)
    for _ in range(REHEARSALS):
        _rehearse()
        if program.rehearse is not None:
            program.rehearse()
    os.umask(0o022)


def _rehearse() -> None:
    """Exchange messages with oneself such as a child exchanges with the launcher, and do what has no effect here."""
    kernel.close_range(_NO_DESCRIPTOR)
    kernel.block_signals(_HELD_BACK)
    kernel.die_with_parent()
    lockdown.rehearse()
    verify.loopback_is_up()
    for call in _WITHOUT_EFFECT:
        try:  # noqa: SIM105 - without an object
            call()
        except OSError:  # there is no such place
            pass
    command = wire.memory_file("praxis-rehearsal", wire.encode({"env": {}, "cwd": "/"}))
    wire.decode(wire.read_memory_file(command))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        message = {"scratch": [1, 1], "mounts": None, "loopback_port": None}
        wire.send(theirs, wire.encode(message), [0])
        order, (fd,) = init.expect(ours)
        ready = dict.fromkeys(init.SandboxOrder(order, []).plan.written, fd)
        init.SandboxOrder(order, []).hand_over(ours, ready)
        wire.close_all([fd])
        received = wire.receive(theirs)
        wire.close_all(received[1] if received else [])


def live(
    channel: socket.socket,
    inherited: int,
    entrances: Sequence[int],
    surroundings: init.Surroundings,
    program: Program,
    handlers: Sequence[Callable[[], object]],
) -> NoReturn:
    """Run the whole life of a child; never returns into the zygote's code, but leaves through it by SystemExit.

    Args:
        channel: the zygote's own socket, whose descriptor becomes that of the child's.
        inherited: the child's end of the socket to the launcher.
        entrances: descriptors that let this process enter its control group.
        surroundings: what does not depend on what will run here.
        program: what runs here.
        handlers: what preloaded modules want to be called after a fork, such as a new seed for random numbers.
    """
    try:
        for fd in entrances:
            os.write(fd, b"0")
        # The standard descriptors lead nowhere but into the zygote's own confinement, and are replaced below.
        os.dup2(inherited, init.CHANNEL, inheritable=False)
        kernel.close_range(init.CHANNEL + 1)
        order = init.SandboxOrder(*init.expect(channel))  # it comes once the id maps are written
        init.take_possession()
        written = _become(order, surroundings)
        wire.send(channel, init.LOCKED)
        work = init.SandboxWork(*init.expect(channel))
        command = init.take_up(work, surroundings, order)
        os.chdir(command["cwd"])
        if command["env"]:
            os.environ.update(command["env"])
        if work.address_space_bytes is not None:
            lockdown.limit_address_space(work.address_space_bytes)
        kernel.block_signals(())
        kernel.set_dumpable(True)  # /proc/self is the job's own
        os.setsid()
        for number, fd in enumerate(work.stdio):
            os.dup2(fd, number)
        order.hand_over(channel, written)
        lockdown.limit_descriptors(int(work.limits["open_files"]), own_id=surroundings.privileged)
    except BaseException as problem:  # noqa: BLE001 - a fork must never return into the zygote
        init.report_failure(channel, problem)
        os._exit(1)
    try:
        if command["canary"]:
            kernel.close_range(init.CHANNEL)
            os._exit(attack.main(0) & 0xFF)
        act = program.begin(0)
        kernel.close_range(init.CHANNEL + (not callable(act)))
        if not callable(act):
            _accompany(act, channel)
        channel.detach()  # the number is the work's now
        for handler in handlers:
            handler()
        gc.enable()
        status = act()
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001 - likewise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    # Nothing on the way out of the zygote's frames catches it: the interpreter comes to its own end, in full.
    raise SystemExit(status & 0xFF)


def _accompany(argv: list[str], channel: socket.socket) -> NoReturn:
    """Start a program, be the init beside it, and tell the launcher how it ended, on a socket that only this one holds.

    A program would be a bad process 1: it expects signals to have their default effect, and reaps nobody's children.
    """
    kernel.set_dumpable(False)  # the program has the same id, and shall not write what is told of its end
    kernel.block_signals(init.AWAITED)
    try:
        tool = init.spawn(argv, dict(os.environ), range(init.CHANNEL))
    except OSError as problem:
        text = "command not found" if problem.errno == errno.ENOENT else problem.strerror
        os.write(2, f"{argv[0]}: {text}\n".encode(errors="backslashreplace"))
        report: dict[str, Any] = {
            "spawn_error": [problem.errno or 0, f"{problem.strerror}: {problem.filename}"]
        }
    else:
        wire.close_all(range(init.CHANNEL))  # the program's streams end with the program
        report = {"status": init.accompany(tool)}
    wire.send(channel, wire.encode(report))
    os._exit(0)


def _become(order: init.SandboxOrder, surroundings: init.Surroundings) -> dict[str, int]:
    """Turn this process into process 1 of a locked sandbox, for the launcher to look at; as `init.become` returns."""
    written = mounts.place(order.plan, order.scratch_bytes, order.scratch_inodes)
    order.plan.close()
    if order.loopback_port is not None:
        order.door_fd = loopback.open_door(order.loopback_port)
    lockdown.lock_down(surroundings.lockdown)
    if order.loopback_port is None and verify.loopback_is_up():
        raise verify.RefusedError("network device lo is up")  # all that cannot be seen from outside
    return written


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)
