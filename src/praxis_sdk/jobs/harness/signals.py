"""Signals whose default action ends a process, for a job that is process 1 of its sandbox.

The kernel delivers no signal from inside to a process 1 that has no handler for it, not even SIGKILL; what would end
any other program would be lost. So a handler stands in for the default action where there can be one, which
`signal.getsignal` does not show and a fork of the job gives up; and whoever sends such a signal to itself ends then
and there. The exit code is the shell's, 128 and the number; the result names the signal. Faults (a real SIGSEGV) are
the kernel's, and end a process 1 like any other.
"""

from __future__ import annotations

import _thread
import functools
import os
import posix
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

_NAMES_OF_ENDING = (
    *("SIGABRT", "SIGALRM", "SIGBUS", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGKILL", "SIGPIPE"),
    *("SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGTERM", "SIGTRAP", "SIGUSR1", "SIGUSR2"),
    "SIGVTALRM",
)
_ENDING = frozenset(int(getattr(signal, name)) for name in _NAMES_OF_ENDING if hasattr(signal, name))
# Without a handler: the one that cannot have any, and those that a fault raises again and again.
_FAULTS = frozenset(
    map(int, (signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTRAP))
)
_STOOD_FOR = _ENDING - _FAULTS
_DEFAULT = signal.SIG_DFL
_getpid, _set, _get, _kill = os.getpid, signal.signal, signal.getsignal, os.kill
_exit = os._exit
_masks: dict[int, Any] = {}

tell: Callable[[int], None] = lambda number: None  # noqa: E731 - replaced by what writes the result


def prepare() -> None:
    """Put handlers in the place of default actions, and look at the signals that the job sends to itself."""
    for number in _STOOD_FOR:
        if (
            _get(number) is _DEFAULT
            or getattr(_get(number), "__module__", None) == "praxis_sdk.sandbox.zygote.forked"
        ):
            _set(number, _stand_in)
    # Below the name in `os`, by which a zygote learns what its own children have to call.
    posix.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_release_in_fork)
    _replace(signal, "signal", _signal)
    _replace(signal, "getsignal", _getsignal)
    _replace(signal, "raise_signal", _sending(signal.raise_signal, lambda number: number))
    _replace(signal, "pthread_kill", _sending(signal.pthread_kill, lambda _, number: number))
    _replace(os, "kill", _sending(os.kill, lambda pid, number: number if pid in (0, _getpid()) else 0))
    _replace(
        os, "killpg", _sending(_killpg, lambda group, number: number if group in (0, os.getpgrp()) else 0)
    )
    _replace(os, "abort", _abort)


def release() -> None:
    """Give every signal its default action back: the handlers hold what is to be taken apart."""
    for number in _STOOD_FOR:
        if _get(number) is _stand_in:
            _set(number, _DEFAULT)


def _hold() -> None:
    """Keep signals for a fork back until it has given the handlers up; an interpreter forgets what came before."""
    _masks[_thread.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _STOOD_FOR)


def _let_go() -> None:
    mask = _masks.pop(_thread.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _release_in_fork() -> None:
    release()
    _let_go()


def _stand_in(number: int, _: FrameType | None) -> None:
    if _getpid() == 1:
        _end(number)
    _set(number, _DEFAULT)
    _kill(_getpid(), number)


def _end(number: int) -> NoReturn:
    try:
        tell(number)
    finally:
        _exit(128 + number)


def _killpg(group: int, number: int) -> None:
    if group == 1 == os.getpgrp():
        _kill(0, number)  # to kill(2), the group of process 1 means everybody else
    else:
        _real_killpg(group, number)


def _sending(send: Callable[..., None], number_to_self: Callable[..., int]) -> Callable[..., None]:
    """Wrap what sends a signal: where it went to this process, it has the effect that it has for others."""

    @functools.wraps(send)
    def sending(*args: Any, **keywords: Any) -> None:
        send(*args, **keywords)
        number = number_to_self(*args) if not keywords else 0
        if (
            number in _ENDING
            and _getpid() == 1
            and _get(number) is _DEFAULT
            and (number == signal.SIGKILL or number not in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        ):
            _end(number)

    return sending


def _signal(signalnum: Any, handler: Any) -> Any:
    if handler is _DEFAULT and _getpid() == 1 and signalnum in _STOOD_FOR:
        handler = _stand_in
    before = _set(signalnum, handler)
    return _DEFAULT if before is _stand_in else before


def _getsignal(signalnum: Any) -> Any:
    found = _get(signalnum)
    return _DEFAULT if found is _stand_in else found


def _abort() -> NoReturn:
    if _getpid() == 1:
        _end(int(signal.SIGABRT))
    _real_abort()


_real_abort, _real_killpg = os.abort, os.killpg


def _replace(module: Any, name: str, function: Any) -> None:
    setattr(module, name, functools.wraps(getattr(module, name))(function))
