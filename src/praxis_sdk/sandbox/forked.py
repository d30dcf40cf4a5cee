"""A zygote's child: becomes a locked sandbox, waits for its work, and then is the job itself.

It is process 1 of its namespace, because a second fork would cost more than everything else. So the kernel ignores
signals to it that it has no handler for, except SIGKILL, SIGSTOP and those of a fault; a handler for SIGTERM stands in
for the default. It is the launcher's own child, which reads the wait status of the job from the kernel.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback

from praxis_sdk.sandbox import attack, init, kernel, lockdown, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import NoReturn


class Program:
    """What a zygote's children run.

    Attributes:
        main: carries out the order behind a descriptor; returns the exit code.
        rehearse: goes through what every order needs, so that the pages it writes to are this child's own before the
            order comes; None where the program has none.
    """

    __slots__ = ("main", "rehearse")

    def __init__(self, main: Callable[[int], int], rehearse: Callable[[], None] | None) -> None:
        self.main = main
        self.rehearse = rehearse


def live(
    inherited: socket.socket,
    entrances: Sequence[int],
    surroundings: init.Surroundings,
    program: Program,
    handlers: Sequence[Callable[[], object]],
) -> NoReturn:
    """Run the whole life of a child; never returns into the zygote's code.

    Args:
        inherited: our end of the socket to the launcher.
        entrances: descriptors that let this process enter its control group.
        surroundings: what does not depend on what will run here.
        program: what runs here.
        handlers: what preloaded modules want to be called after a fork, such as a new seed for random numbers.
    """
    channel = inherited
    try:
        channel = init.join(inherited, entrances)
        init.settle(channel)
        order = init.Order(*init.expect(channel))
        written = init.become(order, surroundings, channel)
        if program.rehearse is not None:
            program.rehearse()  # locked already, and no order is here yet: only this child's own time is spent
        wire.send(channel, init.LOCKED)
        work = init.Work(*init.expect(channel))
        command = init.take_up(work, surroundings, channel, written, order)
        os.chdir(command["cwd"])
        os.environ.update(command["env"])
        if work.address_space_bytes is not None:
            lockdown.limit_address_space(work.address_space_bytes)
        _take_signals()
        kernel.set_dumpable(True)  # /proc/self is the job's own
        os.setsid()
        for number, fd in enumerate(work.stdio):
            os.dup2(fd, number)
        order.hand_over(channel, written)
    except BaseException as problem:  # noqa: BLE001 - a fork must never return into the zygote
        init.report_failure(channel, problem)
        os._exit(1)
    try:
        kernel.close_range(3)
        for handler in handlers:
            handler()
        gc.enable()
        os._exit((attack.main if command["canary"] else program.main)(0) & 0xFF)
    except BaseException:  # noqa: BLE001 - likewise
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


_TERMINATE, _INTERRUPT = int(signal.SIGTERM), int(signal.SIGINT)


def _take_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT):  # whoever started us may have had them ignored
        signal.signal(number, signal.SIG_DFL)
    kernel.handle_signal(_TERMINATE, _terminate)
    kernel.handle_signal(_INTERRUPT, signal.default_int_handler)
    kernel.block_signals(())


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)
