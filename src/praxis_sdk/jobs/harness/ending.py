"""The end of a Python job: all that an interpreter does at its end, as far as anything could notice it.

The real end (`Py_FinalizeEx`) takes every module apart and writes to every page that the zygote shares with its
children: 3 ms in `base`, 50 ms in `science`. So the steps that every job needs are done here by the interpreter's own
functions: join the threads, call what `atexit` registered, write out the buffers of Python and of C. Then one look
at the objects that the job made tells whether taking things apart would run any code: a finalizer (an unclosed file
has one), a suspended generator, a callback of a weak reference, a database connection, or an extension module that is
not known to do nothing at its end. If so, `SystemExit` leaves through the zygote's frames and the interpreter ends
itself, step by step. If not, the process may simply end.
"""

from __future__ import annotations

import _socket
import atexit
import contextlib
import ctypes
import gc
import importlib.machinery
import io
import os
import sys
import types
import warnings
import weakref

from praxis_sdk.jobs.harness import signals, tracebacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
# Packages with extension modules that write nothing out when an object or the process ends.
_QUIET = frozenset(
    {
        "PIL",
        "bottleneck",
        "contourpy",
        "fontTools",
        "joblib",
        "kiwisolver",
        "lxml",
        "markupsafe",
        "matplotlib",
    }
    | {"mpl_toolkits", "numexpr", "numpy", "orjson", "pandas", "psutil", "pydantic_core", "regex", "scipy"}
    | {"shapely", "skimage", "sklearn", "statsmodels", "yaml"}
)
# Modules of the standard library whose objects act when they are freed, though Python code sees no finalizer.
_ACTING = frozenset({"_dbm", "_gdbm", "_sqlite3", "sqlite3"})

# The interpreter lock is kept: daemon threads have no say in what follows.
_flush_all = ctypes.PyDLL(None).fflush
_flush_all.argtypes = (ctypes.c_void_p,)
_run_exit_functions: Callable[[], None] = atexit._run_exitfuncs  # noqa: SLF001 - the interpreter's own
_count_exit_functions: Callable[[], int] = atexit._ncallbacks  # noqa: SLF001 - likewise
_harmless: frozenset[type] = frozenset()
_unknown_preloaded = True
_filters: list[Any] = []


def prepare() -> None:
    """Learn in the zygote which types need no look: those that are there, and have no finalizer."""
    global _harmless, _unknown_preloaded
    _filters[:] = warnings.filters
    _harmless = frozenset(kind for kind in _all_types() if _look_for(kind) is None)
    _unknown_preloaded = any(_is_unknown(module) for module in list(sys.modules.values()))


def rehearse() -> None:
    """Go through the end of a job that leaves nothing to be noticed."""
    _flushed()
    _would_be_noticed([sys.modules["__main__"], {}, []])
    _flush_all(None)


def join_threads() -> None:
    """Wait for the job's threads, and have its pools end theirs, as an interpreter does first of all."""
    threading: Any = sys.modules.get("threading")
    # Without any, to say so would only write to the pages of the library.
    if threading is None or (len(threading._active) < 2 and not threading._threading_atexits):  # noqa: SLF001
        return
    try:
        threading._shutdown()  # noqa: SLF001 - likewise
    except BaseException:
        print(f"Exception ignored in: {threading!r}", file=sys.stderr)
        sys.excepthook(*sys.exc_info())


def end(code: int, before: Callable[[], None] | None) -> NoReturn:
    """End the process with an exit code, as an interpreter does.

    Args:
        code: the exit code; 120 comes of it where the buffers cannot be written out.
        before: called after the last function that was registered for the end, before anything is taken apart.

    Raises:
        SystemExit: to be let through to the interpreter, which then does what is left to do.
    """
    functions = _count_exit_functions()
    if functions:
        run_exit_functions()
    if before is not None and functions:
        before()
    mark: list[object] = []
    objects = gc.get_objects()
    hidden = not any(one is mark for one in reversed(objects))  # the job has frozen its objects
    if _flushed() and not hidden and not _would_be_noticed(objects):
        _flush_all(None)
        os._exit(code)
    # What the zygote made may hold what the job made, and a handler of ours holds half of the library.
    gc.unfreeze()
    signals.release()
    raise SystemExit(code)


def run_exit_functions() -> None:
    """Call what the job registered with `atexit`; an exception of it is told without a frame of ours.

    The interpreter puts the frame that called in the place of a traceback where there is none, and calls from C.
    """
    hook: Any = sys.unraisablehook

    def told(args: Any) -> None:
        traceback = tracebacks.without_ours(args.exc_traceback)
        hook(type(args)((args.exc_type, args.exc_value, traceback, args.err_msg, args.object)))

    sys.unraisablehook = told
    try:
        _run_exit_functions()
    finally:
        if sys.unraisablehook is told:
            sys.unraisablehook = hook


def exit_code(stop: SystemExit) -> int:
    """Return the exit code that an interpreter would give for a SystemExit."""
    code = stop.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    with contextlib.suppress(Exception):  # as an interpreter does, which has nobody to tell
        print(code, file=sys.stderr)
    return 1


def _flushed() -> bool:
    """Write the buffers of Python out; False when that failed, which the interpreter will find, too, and tell."""
    for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None)):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:
            if not _is_closed(stream):
                return False
    return True


def _is_closed(stream: Any) -> bool:
    try:
        return bool(getattr(stream, "closed", False))
    except BaseException:
        return False


def _would_be_noticed(objects: list[Any]) -> bool:
    """Tell whether any code would run, or anything be written, if these objects were taken apart."""
    if _unknown_preloaded or gc.callbacks or gc.get_debug() or sys.gettrace() or sys.getprofile():
        return True
    if _harmless.issuperset(map(type, objects)):
        return False
    looks: dict[type, Callable[[Any], bool]] = {}
    for kind in set(map(type, objects)) - _harmless:
        look = _look_for(kind)
        if look is _always:
            return True
        if look is not None:
            looks[kind] = look
    try:
        return any(looks[type(one)](one) for one in objects if type(one) in looks)
    except Exception:  # a daemon thread has it half made
        return True


def _look_for(kind: type) -> Callable[[Any], bool] | None:
    """Return what tells whether the end of an object of this type can be noticed; None where it never can."""
    if kind in _LOOKS:
        return _LOOKS[kind]
    if issubclass(kind, weakref.ref):
        return _has_callback
    if issubclass(kind, ctypes.CDLL) or _root(kind.__module__) in _ACTING:
        return _always
    return _always if any("__del__" in base.__dict__ for base in kind.__mro__) else None


def _always(_: object) -> bool:
    return True


def _is_open(stream: Any) -> bool:
    """Tell whether something may be written out, or be complained about (ResourceWarning) where the job wants that."""
    return not stream.closed and (stream.writable() or warnings.filters != _filters)


def _has_steps_left(generator: Any) -> bool:
    """Tell whether closing a generator may run code of it, which only one that stands in a `try` has."""
    code = generator.gi_code
    return generator.gi_suspended and code.co_name != "<genexpr>" and bool(code.co_exceptiontable)


def _is_unknown(module: Any) -> bool:
    """Tell whether a module is an extension that may act at the end in a way of its own."""
    loader = getattr(module, "__loader__", None)
    if not isinstance(loader, importlib.machinery.ExtensionFileLoader):
        return False
    root = _root(getattr(module.__spec__, "name", module.__name__))
    return root not in _QUIET and root not in sys.stdlib_module_names


def _has_callback(reference: Any) -> bool:
    """Tell whether somebody but the library will be called when the referent is gone."""
    callback = reference.__callback__
    if callback is None or type(callback) is types.BuiltinFunctionType:
        return False
    root = _root(getattr(callback, "__module__", None))
    return root not in _QUIET and root not in sys.stdlib_module_names


def _root(module: object) -> str:
    return module.partition(".")[0] if isinstance(module, str) else ""


def _all_types() -> set[type]:
    found: set[type] = set()
    left: list[type] = [object]
    while left:
        kind = left.pop()
        if kind not in found:
            found.add(kind)
            left += type.__subclasses__(kind)
    return found


_LOOKS: dict[type, Callable[[Any], bool]] = {
    types.ModuleType: _is_unknown,
    types.GeneratorType: _has_steps_left,
    types.CoroutineType: lambda one: one.cr_frame is not None,
    types.AsyncGeneratorType: lambda one: one.ag_frame is not None,
    io.FileIO: _is_open,
    io.BufferedReader: lambda one: False,  # what it reads from is looked at
    io.BufferedWriter: _is_open,
    io.BufferedRandom: _is_open,
    io.TextIOWrapper: _is_open,
    io.StringIO: lambda one: False,
    io.BytesIO: lambda one: False,
    _socket.socket: lambda one: one.fileno() >= 0,
}
