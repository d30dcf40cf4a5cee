"""Ctrl-C and SIGTERM: the first one cancels the work, and its clean-up is always waited for.

A second one changes nothing. Ending a tool is bounded in time (by SIGKILL, from outside the tool), and to
leave before it is gone is what must not happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from praxis_sdk.errors import TerminationUnconfirmed

_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")


class Interrupted(Exception):
    """The work was cancelled by a signal, and its clean-up is done.

    Args:
        number: the signal.
        message: what that means, where it is not the end of all that ran.
    """

    def __init__(self, number: signal.Signals, message: str = "") -> None:
        super().__init__(message or f"cancelled by {number.name}; nothing of it is left running")
        self.number = number
        self.exit_status = 128 + number


def run_interruptibly(work: Coroutine[Any, Any, T], on_signal: Callable[[str], None]) -> T:
    """Run something on an event loop of its own until it ends or a signal asks for its end.

    Args:
        work: what to run; where it is cancelled it cleans up.
        on_signal: called with a line for people at every signal.

    Raises:
        Interrupted: a signal arrived, the work has been cancelled and has cleaned up; or, as its message then says,
            nothing confirms yet that nothing is left of it.
    """
    with asyncio.Runner() as runner:
        return runner.run(_watched(work, on_signal))


@contextlib.contextmanager
def interruptible(on_signal: Callable[[str], None]) -> Iterator[None]:
    """Let a signal end a step that blocks, in the main thread and outside an event loop of ours.

    Args:
        on_signal: called with a line for people at every signal.

    Raises:
        Interrupted: a signal arrived, and the step has cleaned up.
    """
    received: list[signal.Signals] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(signal.Signals(number))
        if len(received) > 1:
            on_signal(f"{received[-1].name}: still ending what runs")
            return
        on_signal(f"{received[0].name}: ending what runs")
        raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in _HANDLED}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Do something to its end, also when the caller is cancelled meanwhile; then the cancellation goes on."""
    task = asyncio.ensure_future(work)
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None and not task.cancelled() and task.exception() is None:
        raise interruption
    return task.result()


async def _watched(work: Coroutine[Any, Any, T], on_signal: Callable[[str], None]) -> T:
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            on_signal(f"{number.name}: ending what runs")
            task.cancel()
        else:
            on_signal(f"{number.name}: still ending what runs")

    loop = asyncio.get_running_loop()
    for number in _HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs want it
            loop.add_signal_handler(number, interrupt, number)
    # The handlers stay until the loop is closed, so that no signal hits its shutdown.
    try:
        return await task
    except TerminationUnconfirmed as error:
        if received:
            raise Interrupted(received[0], f"cancelled by {received[0].name}; {error}") from None
        raise
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
