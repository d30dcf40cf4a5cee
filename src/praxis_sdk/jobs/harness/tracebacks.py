"""Exceptions of a job, told as its interpreter tells them, and without a frame that is not the job's."""

from __future__ import annotations

import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

MAX_TRACEBACK_CHARS = 20_000
MAX_MESSAGE_CHARS = 4_000
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_EVENT_LOOP = os.sep + "asyncio" + os.sep


def report(error: BaseException) -> dict[str, str]:
    """Tell of an exception that nobody has caught: to the job's `sys.excepthook`, and for the result.

    Returns:
        Its type, message and traceback, bounded.
    """
    clean(error)
    error.__traceback__ = _from_the_job_on(error.__traceback__)
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # what is shown of an exception is the job's own code
        text = f"{type(error).__name__}: <exception str() failed>\n"
    too_long = len(text) > MAX_TRACEBACK_CHARS
    if too_long:
        half = MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    try:
        message = str(error)
    except BaseException:
        message = "<exception str() failed>"
    _show(error, text if too_long else None)
    return {
        "type": storable(type(error).__name__[:200]),
        "message": storable(message[:MAX_MESSAGE_CHARS]),
        "traceback": storable(text),
    }


def clean(error: BaseException) -> None:
    """Take our frames out of an exception, of what it came from and of what it holds."""
    left, seen = [error], set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = without_ours(one.__traceback__)
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def without_ours(first: TracebackType | None) -> TracebackType | None:
    """Return a traceback without our frames; None where nothing else is left."""
    kept: TracebackType | None = None
    chain = []
    while first is not None:
        chain.append(first)
        first = first.tb_next
    for entry in reversed(chain):
        if not entry.tb_frame.f_code.co_filename.startswith(_OURS):
            entry.tb_next = kept
            kept = entry
    return kept


def _from_the_job_on(first: TracebackType | None) -> TracebackType | None:
    """Leave out the event loop in which we ran the job's `main`."""
    entry = first
    while entry is not None and _EVENT_LOOP in entry.tb_frame.f_code.co_filename:
        entry = entry.tb_next
    return entry or first


def _show(error: BaseException, abridged: str | None) -> None:
    """Do with an exception what an interpreter does before it ends.

    Args:
        error: the exception.
        abridged: what to write in place of a traceback that is so long that it would reach the limit of stderr, and
            so hide what the job failed of; None where it is not.
    """
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        hook = sys.excepthook
        if abridged is not None and hook in (sys.__excepthook__, traceback.print_exception):
            hook = lambda *_: print(storable(abridged), end="", file=sys.stderr)  # noqa: E731
        hook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as second:  # the hook is the job's, too
        if second.__context__ is error:
            second.__context__ = None  # only here is the one raised while the other is handled
        clean(second)
        try:
            print("Error in sys.excepthook:", file=sys.stderr)
            sys.__excepthook__(type(second), second, second.__traceback__)
            print("\nOriginal exception was:", file=sys.stderr)
            sys.__excepthook__(type(error), error, error.__traceback__)
        except Exception:  # noqa: S110 - the job closed or replaced the stream, and there is no other
            pass


def storable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which no JSON data may hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
