"""The program that stands inside the sandbox and carries out one order; it imports nothing of Praxis.

It runs after lock-down, as the job's own user, in the job's own process; so whatever it reports is as
trustworthy as the job itself, and the executor treats it so. A zygote loads it, and forks children that call
`begin`. The order comes on standard input:

    8 bytes: length of the header | header (JSON) | content of the files, one after the other

The header says what to place in the working directory (`files`) and what to do then: `python` (code to run
here, with `parameters` and `inputs`) or `argv` (a program to start or to become). For Python the value and the error go
to `.praxis/result.json` in the working directory.
"""

from __future__ import annotations

import errno
import functools
import gc
import io
import json
import linecache
import os
import random
import shutil
import signal
import sys
import tempfile

from praxis_sdk.jobs.harness import cells, ending, figures, script, signals, tracebacks, values
from praxis_sdk.jobs.harness.tracebacks import MAX_TRACEBACK_CHARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["MAX_TRACEBACK_CHARS", "RESULT_FILE", "RESULT_FOLDER", "SEEDED", "STDIN_FILE", "begin", "rehearse"]

RESULT_FOLDER = ".praxis"
RESULT_FILE = "result.json"
SEEDED = frozenset({"random"})  # a zygote need not do it, too
STDIN_FILE = f"{RESULT_FOLDER}/stdin"
MAX_HEADER_BYTES = 8 << 20

# The job may replace what these names mean; the harness keeps what they meant.
_encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
# Made once; `encode` makes it anew each time. Nothing here holds itself.
_pieces: Callable[[Any, int], tuple[str, ...]] = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, _encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_open = os.open
_reseed = random.Random.__base__.seed  # type: ignore[union-attr]
_FIRST_PIECE = 1 << 16
_SHORT = frozenset({bool, int, float})  # as JSON, whatever they are
_prepared = False
_seed = 0
_folder = ""


def begin(fd: int) -> Callable[[], int] | list[str]:
    """Take the order that can be read from a descriptor; returns what carries it out, or the program that shall."""
    if not _prepared:
        prepare()
    header = receive(fd)
    if header.get("stdin"):  # a file without a name, as `< data` would be, but that nobody else has
        given = _open(STDIN_FILE, os.O_RDONLY)
        os.unlink(STDIN_FILE)
    else:
        given = os.open(os.devnull, os.O_RDWR)
    os.dup2(given, fd)
    os.close(given)
    if "argv" in header:
        argv: list[str] = header["argv"]
        return argv
    return functools.partial(run_python, header["python"], os.getcwd())


def prepare() -> None:
    """Do what is the same for every order; a zygote does it once, for all its children."""
    global _prepared
    _prepared = True
    # Python ignores it, and what the limit on file sizes did would look like any failed write.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    random.seed(0)  # forgets half a pair of `gauss`, which a seed from below leaves
    open_streams()
    when_imported("numpy.random", lambda module: module.seed(_seed % (1 << 32)))
    when_imported("matplotlib.figure", figures.watch_figure)
    when_imported("matplotlib.pyplot", figures.watch_pyplot)
    figures.rehearse()
    signals.tell = tell_signal
    signals.prepare()
    ending.prepare()


def rehearse() -> None:
    """Go through what every order needs, so that the interpreter has learnt it before the first order comes.

    A child pays for every page that it is the first to write to, and the interpreter writes into the code that it
    learns. Nothing of the rehearsal is left for the job to see.
    """
    if not _prepared:
        prepare()
    kept = (sys.argv, sys.orig_argv, list(sys.path), sys.modules["__main__"], os.getcwd())
    folder = (
        tempfile.mkdtemp()
    )  # and no `TemporaryDirectory`, which leaves every job a function to call at its end
    os.chdir(folder)
    try:
        python = {"name": "rehearsal.py", "code": "None", "parameters": {}, "inputs": {}, "seed": 0}
        header = "".join(_pieces({"files": [["rehearsal.py", 4, 0o644]], "python": python}, 0)).encode()
        fd, writer = os.pipe()
        os.write(writer, len(header).to_bytes(8, "big") + header + b"None")
        os.close(writer)
        act = begin(fd)
        os.close(fd)
        assert isinstance(act, functools.partial)
        _, result = carry_out(*act.args)
        result.restore()
        ending.rehearse()
    finally:
        script.make_ready()
        linecache.cache.pop("rehearsal.py", None)
        sys.argv, sys.orig_argv, sys.path[:], sys.modules["__main__"], cwd = kept
        os.chdir(cwd)
        shutil.rmtree(folder)


def open_streams() -> None:
    """Make standard streams for the descriptors 0 to 2, whatever they will lead to: a pipe, for a job."""
    kept = [os.dup(fd) for fd in (1, 2)]
    ends = os.pipe()  # what a stream can do is found out when it is made
    for fd in (1, 2):
        os.dup2(ends[1], fd)
    make_streams()
    for fd, copy in zip((1, 2), kept, strict=True):
        os.dup2(copy, fd)
    for fd in (*kept, *ends):
        os.close(fd)


def make_streams() -> None:
    """Replace `sys.stdin`, `sys.stdout` and `sys.stderr` by such as an interpreter makes for pipes, but by lines."""
    for name, fd, mode, errors in (
        ("stdin", 0, "r", "surrogateescape"),
        ("stdout", 1, "w", "surrogateescape"),
        ("stderr", 2, "w", "backslashreplace"),
    ):
        raw: Any = io.FileIO(fd, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        stream: Any = io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=mode == "w")
        stream.mode = mode
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def receive(fd: int) -> dict[str, Any]:
    """Read an order and place its files in the working directory; returns the header."""
    content = os.read(fd, _FIRST_PIECE)
    length = int.from_bytes(content[:8], "big")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise ValueError("the order has no header")
    end = 8 + length
    while len(content) < end:
        piece = os.read(fd, end - len(content))
        if not piece:
            raise ValueError("the order ends early")
        content += piece
    header: dict[str, Any] = _scan(content[8:end].decode(), 0)[0]
    try:  # noqa: SIM105 - without an import, and without an object, in every fresh process
        os.mkdir(RESULT_FOLDER, 0o700)
    except FileExistsError:
        pass
    begun = content[end:]  # what has been read of the files
    for path, size, mode in header["files"]:
        if os.path.dirname(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        target = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            while size > 0:
                piece, begun = begun[:size] or os.read(fd, min(size, 1 << 20)), begun[size:]
                if not piece:
                    raise ValueError("the order ends early")
                size -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(target, view) :]
        finally:
            os.close(target)
    return header


def run_python(order: dict[str, Any], folder: str) -> int:
    """Run Python code in a folder, write its result there, and come to the end of an interpreter."""
    gc.freeze()  # what is there is not the job's: the look at what it made passes over it
    owner = os.getpid()
    code, result = carry_out(order, folder)
    # A fork of the job that came to its end has no result to keep.
    ending.end(code, result.restore if os.getpid() == owner else None)


def carry_out(order: dict[str, Any], folder: str) -> tuple[int, Result]:
    """Run Python code and write its result; returns the exit code."""
    global _folder
    seed(order["seed"])
    sys.argv = [order["name"], *order.get("argv", ())]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path[:0] = import_folders(order, folder)  # files that came with the job can be imported
    _folder = folder
    owner = os.getpid()
    code, content = outcome(order, folder, owner)
    result = Result(folder, content)
    if os.getpid() == owner:
        result.write()
    return code, result


def tell_signal(number: int) -> None:
    """Write the signal that ends the job as its result."""
    Result(_folder, {"signal": number}).write()


def import_folders(order: dict[str, Any], folder: str) -> list[str]:
    """Return where imports look first: beside the script, as Python does, then in the folder of the job."""
    if "/" not in order["name"] or "package" in order:
        return [folder]
    return [f"{folder}/{os.path.dirname(order['name'])}", folder]


def outcome(order: dict[str, Any], folder: str, owner: int) -> tuple[int, dict[str, Any]]:
    """Run the code and wait for its threads; returns its exit code and what is to be told."""
    result: dict[str, Any] = {}
    code = 0
    value, returned = None, False
    try:
        try:
            value, returned = scripted(order, folder).run()
        except SystemExit as stop:
            code = ending.exit_code(stop)
        except script.BadParameter as problem:
            code, result = 1, refusal("bad_parameter", problem)
        except BaseException as error:  # whatever the job raises is its own, and is told
            code, result = failure(error)
        ending.join_threads()
        if code == 0 and os.getpid() == owner:
            os.chdir(folder)
            figures.save_open()
            if value is not None:
                value = told(value, order, strict=returned)
            result["value"] = value
    except values.BadValue as problem:
        code, result = 1, refusal("bad_value", problem)
    except SystemExit as stop:  # from what the job has put in the place of something
        code = ending.exit_code(stop)
    except BaseException as error:
        code, result = failure(error)
    return code, result


def told(value: Any, order: dict[str, Any], *, strict: bool) -> Any:
    """Return the JSON of a value; one that the last line merely happened to have is kept within the limit."""
    room_bytes = order.get("outputs_bytes", sys.maxsize)
    converted = values.Converter(strict=strict, room_bytes=room_bytes).convert(value)
    if strict or type(converted) in _SHORT or _length(converted) <= room_bytes:
        return converted
    shown = values.shown(value)
    if _length(shown) > room_bytes:  # a character may take twelve bytes, a name and the rest less than 900
        shown = values.shown(value, max(0, room_bytes - 900) // 12)
    return shown


def _length(value: Any) -> int:
    return sum(map(len, _pieces(value, 0)))


def scripted(order: dict[str, Any], folder: str) -> script.Script:
    """Return the script that an order holds."""
    kind = cells.Notebook if order["name"].endswith(".ipynb") else script.Script
    return kind(
        order["name"],
        order["code"],
        folder,
        order["parameters"],
        order["inputs"],
        package=order.get("package", ""),
    )


def failure(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Tell of an exception; returns the exit code that it means, and what is to be told."""
    code = ending.EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return code, {"error": tracebacks.report(error)}


def refusal(kind: str, problem: Exception) -> dict[str, str]:
    """Tell what the job cannot do, in the streams, too."""
    text = tracebacks.storable(str(problem)[: tracebacks.MAX_MESSAGE_CHARS])
    return {kind: text}


def seed(value: int) -> None:
    """Give every generator that a fork would have copied a state of this job's own."""
    global _seed
    _seed = value
    _reseed(random._inst, value)  # noqa: SLF001 - what `random.seed` comes to for a number
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed(value % (1 << 32))


def when_imported(name: str, action: Callable[[Any], object]) -> None:
    """Do something to a module: now where it is loaded, else as soon as it is."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, Watcher(name, action))


class Watcher:
    """Acts on one module when the job is the first to import it."""

    def __init__(self, name: str, action: Callable[[Any], object]) -> None:
        self.name = name
        self.action = action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let the real finders do the work, and act behind them."""
        if name != self.name:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run, action = spec.loader.exec_module, self.action

            def exec_and_act(module: Any) -> None:
                run(module)
                action(module)

            spec.loader.exec_module = exec_and_act  # type: ignore[method-assign]
        return spec


class Result:
    """The file in which the executor looks for the result.

    Args:
        folder: the working directory.
        content: what the file says.
    """

    def __init__(self, folder: str, content: dict[str, Any]) -> None:
        self._folder = f"{folder}/{RESULT_FOLDER}"
        self._path = f"{self._folder}/{RESULT_FILE}"
        self._content = "".join(_pieces(content, 0)).encode()

    def write(self) -> None:
        """Write the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        borrowed = False
        try:
            target = _open(self._path, flags, 0o600)
        except FileNotFoundError:  # the job has removed the folder
            os.mkdir(self._folder, 0o700)
            target = _open(self._path, flags, 0o600)
        except OSError as problem:
            if problem.errno != errno.EMFILE:
                raise
            # The job holds all that it may open, and its data is in there; what it could read is not.
            os.close(0)
            borrowed = True
            target = _open(self._path, flags, 0o600)
        try:
            view = memoryview(self._content)
            while view:
                view = view[os.write(target, view) :]
        finally:
            os.close(target)
        if borrowed:
            _open(os.devnull, os.O_RDONLY)

    def restore(self) -> None:
        """Write the file again if what the job does at its end has changed it."""
        if self._read() != self._content:
            self.write()

    def _read(self) -> bytes:
        try:
            source = _open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            data = b""
            while len(data) <= len(self._content) and (piece := os.read(source, 1 << 20)):
                data += piece
        except OSError:
            return b""
        finally:
            os.close(source)
        return data
