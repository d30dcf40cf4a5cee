"""The program that stands inside the sandbox and carries out one order; it imports nothing of Praxis.

It runs after lock-down, as the job's own user, in the job's own process; so whatever it reports is as
trustworthy as the job itself, and the executor treats it so. It is loaded in two ways: by a zygote, which
forks children that call `main`, or as a script by a bare interpreter (`python -I harness.py`), which is
slower and does the same. The order comes on standard input:

    8 bytes: length of the header | header (JSON) | content of the files, one after the other

The header says what to place in the working directory (`files`) and what to do then: `python` (code to run
here, with `parameters` and `inputs`) or `argv` (a program to start or to become). For Python the value and the error go
to `.praxis/result.json` in the working directory.
"""

from __future__ import annotations

import ast
import builtins
import functools
import gc
import json
import linecache
import math
import os
import random
import signal
import sys
import traceback
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RESULT_FOLDER = ".praxis"
RESULT_FILE = "result.json"
STDIN_FILE = f"{RESULT_FOLDER}/stdin"
MAX_HEADER_BYTES = 8 << 20
MAX_TRACEBACK_CHARS = 20_000
MAX_MESSAGE_CHARS = 4_000
MAX_DEPTH = 64
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126

# The job may replace what these names mean; the harness keeps what they meant.
_dumps = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_open, _print_exception = os.open, traceback.print_exception
_FIRST_PIECE = 1 << 16
_prepared = False
_seed = 0


class BadValue(Exception):
    """The job returned something that is no JSON value."""


def main(fd: int = 0) -> int:
    """Carry out the order that can be read from a descriptor; returns the exit code."""
    act = begin(fd)
    return act() if callable(act) else become(act)


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
    open_streams()
    when_imported("numpy.random", lambda module: module.seed(_seed % (1 << 32)))
    watch_figures()


def rehearse() -> None:
    """Go through what every order needs, so that the interpreter has learnt it before the first order comes.

    Nothing of the rehearsal is left for the job to see.
    """
    if not _prepared:
        prepare()
    order: dict[str, Any] = {"name": "rehearsal", "code": "None", "parameters": {}, "inputs": {}}
    main_module = sys.modules["__main__"]
    evaluate(_scan(_dumps(order), 0)[0])
    _dumps({"value": jsonable({}, [], "result", 0)}).encode()
    linecache.cache.pop("rehearsal", None)
    sys.modules["__main__"] = main_module


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
    """Replace `sys.stdin`, `sys.stdout` and `sys.stderr`."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
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


def become(argv: list[str]) -> int:
    """Turn into a program; returns only where it cannot be started."""
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print(f"{argv[0]}: command not found", file=sys.stderr)
        return EXIT_NOT_FOUND
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_NOT_EXECUTABLE


def run_python(order: dict[str, Any], folder: str) -> int:
    """Run Python code in a folder and write its result there; returns the exit code."""
    seed(order["seed"])
    sys.argv = [order["name"], *order.get("argv", ())]
    sys.path[:0] = import_folders(order, folder)  # files that came with the job can be imported
    result: dict[str, Any] = {}
    code, value = 0, None
    owner = os.getpid()
    try:
        try:
            value = evaluate(order)
        except SystemExit as stop:
            code = exit_code(stop)
        join_threads()
        if code == 0:
            os.chdir(folder)
            artifacts = save_figures()
            result = {"value": jsonable(value, artifacts, "result", 0)}
    except BadValue as problem:
        code, result = 1, {"bad_value": storable(str(problem)[:MAX_MESSAGE_CHARS])}
    except BaseException as error:  # whatever the job raises is its own, and is told
        code, result = 1, {"error": describe(error, order["name"])}
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # the job closed or replaced them
        code = code or 1
    if os.getpid() != owner:  # a fork of the job that came to its end; the result is the job's own
        os._exit(code)
    write_result(result, folder)
    return code


def import_folders(order: dict[str, Any], folder: str) -> list[str]:
    """Return where imports look first: beside the script, as Python does, then in the folder of the job."""
    beside = os.path.dirname(order["name"])
    return [f"{folder}/{beside}", folder] if beside and "package" not in order else [folder]


def join_threads() -> None:
    """Wait for the job's threads, as an interpreter does before it ends."""
    threading = sys.modules.get("threading")
    if threading is None:
        return
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()


def evaluate(order: dict[str, Any]) -> Any:
    """Run the code in a fresh `__main__`; returns the last expression's value, or that of `main()`."""
    name, source = order["name"], order["code"]
    module: Any = types.ModuleType("__main__")
    module.__file__ = name
    module.__builtins__ = builtins
    module.parameters = order["parameters"]
    module.inputs = order["inputs"]
    if order.get("package"):  # as `python -m`: what the package does first, and relative imports
        module.__package__ = order["package"]
        __import__(order["package"])
    sys.modules["__main__"] = module
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), module.__dict__)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), module.__dict__)
        if value is not None or calls_main(last):
            return value
    entry = getattr(module, "main", None)
    if isinstance(entry, types.FunctionType) and not any(map(is_main_guard, tree.body)):
        wanted = entry.__code__.co_varnames[: entry.__code__.co_argcount + entry.__code__.co_kwonlyargcount]
        if entry.__code__.co_flags & 0x08:  # takes **keywords
            return entry(**order["parameters"])
        return entry(**{key: item for key, item in order["parameters"].items() if key in wanted})
    return None


def is_main_guard(node: ast.stmt) -> bool:
    """Tell whether a statement is `if __name__ == "__main__":`, which has called main already."""
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def calls_main(node: ast.Expr) -> bool:
    """Tell whether the last expression is the call of main itself."""
    call = node.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "main"


def seed(value: int) -> None:
    """Give every generator that a fork would have copied a state of this job's own."""
    global _seed
    _seed = value
    random.seed(value)
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed(value % (1 << 32))


def watch_figures() -> None:
    """Have figures remember that the job saved them."""

    def wrap(module: Any) -> None:
        save = module.Figure.savefig

        def savefig(self: Any, *args: Any, **keywords: Any) -> Any:
            self._praxis_saved = True
            return save(self, *args, **keywords)

        module.Figure.savefig = savefig

    when_imported("matplotlib.figure", wrap)


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


def save_figures() -> list[str]:
    """Save the figures that the job left open and did not save itself; returns the names of the files."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    names = []
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        if getattr(figure, "_praxis_saved", False):
            continue
        name = free_name(f"figure-{number}", "png")
        figure.savefig(name)
        names.append(name)
    pyplot.close("all")
    return names


def free_name(stem: str, suffix: str) -> str:
    """Return a file name that nothing has yet."""
    name, count = f"{stem}.{suffix}", 1
    while os.path.lexists(name):
        count += 1
        name = f"{stem}-{count}.{suffix}"
    return name


def jsonable(value: Any, artifacts: list[str], where: str, depth: int) -> Any:
    """Turn a value into JSON; tables become files, and the value names them."""
    if depth > MAX_DEPTH:
        raise BadValue(f"{where} is nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {
            text_key(key, where): jsonable(item, artifacts, f"{where}.{key}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [jsonable(item, artifacts, f"{where}.{index}", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item, artifacts, where, depth + 1) for item in value), key=repr)
    return from_library(value, artifacts, where, depth)


def text_key(key: Any, where: str) -> str:
    """Return a mapping's key as JSON wants it."""
    if isinstance(key, str):
        return key
    if isinstance(key, (bool, int, float)) or key is None:
        return str(key)
    item = getattr(key, "item", None)
    if callable(item) and type(key).__module__ == "numpy":
        return str(item())
    raise BadValue(f"{where} has a key of type {type(key).__name__}")


def from_library(value: Any, artifacts: list[str], where: str, depth: int) -> Any:
    """Turn what numpy, pandas and matplotlib make into JSON or a file."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        name = free_name("".join(c if c.isalnum() or c in "-_" else "-" for c in where)[:80], "csv")
        value.to_csv(name, lineterminator="\n")
        artifacts.append(name)
        return {"artifact": name}
    if numpy is not None and isinstance(value, numpy.generic):
        return jsonable(value.item(), artifacts, where, depth + 1)
    if numpy is not None and isinstance(value, numpy.ndarray):
        return jsonable(value.tolist(), artifacts, where, depth + 1)
    if type(value).__module__.startswith("matplotlib."):
        return None  # a figure is an artifact, and what draws on it is nothing
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    raise BadValue(f"{where} is a {type(value).__name__}")


def describe(error: BaseException, name: str) -> dict[str, str]:
    """Describe an exception from the job's own frames on, bounded, and print it as Python would."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != name:
        frame = frame.tb_next
    error = error.with_traceback(frame or error.__traceback__)
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        message = str(error)
    except BaseException:  # a __str__ that fails is the job's, too
        lines, message = [type(error).__name__], ""
    text = "".join(lines)
    if len(text) > MAX_TRACEBACK_CHARS:
        half = MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    try:
        print(text, end="", file=sys.stderr)
    except Exception:  # the job closed or replaced it
        text += "\n"
    return {
        "type": storable(type(error).__name__[:200]),
        "message": storable(message[:MAX_MESSAGE_CHARS]),
        "traceback": storable(text),
    }


def storable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which no JSON data may hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def exit_code(stop: SystemExit) -> int:
    """Return the exit code that an interpreter would give for a SystemExit."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def write_result(result: dict[str, Any], folder: str) -> None:
    """Write the result where the executor looks for it."""
    content = _dumps(result).encode()
    path = f"{folder}/{RESULT_FOLDER}/{RESULT_FILE}"
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the job is over, and may have left none to open
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        target = _open(path, flags, 0o600)
    except FileNotFoundError:  # the job has removed the folder
        os.mkdir(f"{folder}/{RESULT_FOLDER}", 0o700)
        target = _open(path, flags, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(target, view) :]
    finally:
        os.close(target)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    status = main()
    gc.disable()
    os._exit(status)
