"""The zygote's own program: imports what is to be preloaded, then forks one child per request.

Runs in the environment's interpreter, already confined by `bootstrap`, and knows nothing of any job. It is single-
threaded and says so before every fork: a lock that another thread holds would stay locked in the child for ever.
"""

from __future__ import annotations

import array
import functools
import gc
import importlib
import importlib.util
import os
import signal
import socket
import sys
import types

from praxis_sdk.sandbox import kernel, wire
from praxis_sdk.sandbox.init import main as init
from praxis_sdk.sandbox.init import verify
from praxis_sdk.sandbox.zygote import forked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Handler = Callable[[], object]

MAX_ERROR_CHARS = 2000
_THREADS = "/proc/self/task"
_ONLY_LOCKS = frozenset({"threading", "logging", "concurrent.futures.thread"})
_BORN = (b'{"born":true}',)
_REQUEST_BYTES = 64
_ANCILLARY_BYTES = socket.CMSG_SPACE(8 * 4)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_SOCKET_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)


class PreloadError(Exception):
    """A module cannot be preloaded."""


def main(fd: int) -> NoReturn:
    """Serve the launcher on the inherited socket `fd`; exits when it closes."""
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    received = wire.receive(channel)
    if received is None:
        os._exit(0)
    settings, descriptors = received
    surroundings = init.Surroundings(
        verify.own_namespaces(),
        settings["last_capability"],
        wire.read_memory_file(descriptors[0]),
        address_space=settings["address_space"],
        tasks_counted=settings["tasks_counted"],
        cpu_counted=settings["cpu_counted"],
        privileged=settings["privileged"],
        filters=verify.own_filters(),
        forked=True,
    )
    handlers = _collect_handlers()
    try:
        program = _load(channel, settings)
    except PreloadError as problem:
        wire.send(channel, wire.encode({"unable": str(problem)[:MAX_ERROR_CHARS]}))
        os._exit(1)
    for name in [name for name in sys.modules if name.split(".")[0] == "praxis_sdk"]:
        del sys.modules[name]  # a job that imports the real one shall find that
    forked.prepare(program, surroundings)
    gc.collect()
    gc.disable()
    gc.freeze()  # a collection in the children would copy the pages that they share
    wire.send(channel, wire.encode({"loaded": True}))
    handlers = [one for one in handlers if getattr(one, "__module__", None) not in program.seeded]
    _serve(channel, surroundings, program, handlers, settings["isolation"])


def _collect_handlers() -> list[Handler]:
    """Note from now on what modules want to be called in a forked child; `kernel.clone3` does not do that."""
    handlers: list[Handler] = []
    register = os.register_at_fork

    def collect(**named: Any) -> None:
        register(**named)
        handler = named.get("after_in_child")
        # These make new locks, in case that another thread holds the old ones.
        if handler is not None and getattr(handler, "__module__", None) not in _ONLY_LOCKS:
            handlers.append(handler)

    os.register_at_fork = collect
    return handlers


def _load(channel: socket.socket, settings: dict[str, Any]) -> forked.Program:
    sys.path.extend(path for path in settings["search_paths"] if path not in sys.path)
    for name in settings["preload"]:
        wire.send(channel, wire.encode({"loading": name}))
        try:
            importlib.import_module(name)
        except BaseException as problem:
            raise PreloadError(f"'{name}': {type(problem).__name__}: {problem}") from problem
        if (count := _other_threads()) > 0:
            raise PreloadError(
                f"'{name}': it left {count} threads running; nothing may be forked beside them"
                " (number libraries: OPENBLAS_NUM_THREADS=1, OMP_NUM_THREADS=1)"
            )
    path = settings["program"]
    wire.send(channel, wire.encode({"loading": path}))
    try:
        name = settings["program_name"]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        parts = name.split(".")
        for end in range(1, len(parts)):  # the packages around it, of which nothing else is here
            parent = ".".join(parts[:end])
            sys.modules.setdefault(parent, types.ModuleType(parent)).__path__ = []
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for own in [own for own in sys.modules if own.split(".")[0] == parts[0]]:
            del sys.modules[own]  # a job that imports one of this name shall find its own
        begin = getattr(module, "begin", None) or functools.partial(functools.partial, module.main)
        program = forked.Program(
            begin, getattr(module, "rehearse", None), getattr(module, "SEEDED", frozenset())
        )
    except BaseException as problem:
        raise PreloadError(f"'{path}': {type(problem).__name__}: {problem}") from problem
    return program


def _serve(
    channel: socket.socket,
    surroundings: init.Surroundings,
    program: forked.Program,
    handlers: list[Handler],
    isolation: int,
) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # After each fork the first write to a page copies it, here as in the child: so no more Python than there must be.
    receive, send, close = channel.recvmsg, channel.sendmsg, os.close
    while True:
        packet, ancillary, _, _ = receive(_REQUEST_BYTES, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
        if not packet:
            os._exit(0)
        descriptors = array.array("i", ancillary[0][2])
        if (count := _other_threads()) > 0:
            wire.send(channel, wire.encode({"unable": f"{count} threads are running beside the zygote"}))
            os._exit(1)
        try:
            pid, pidfd = kernel.clone3(isolation)
        except OSError as problem:
            wire.send(channel, wire.encode({"barren": [problem.errno, str(problem)]}))
            wire.close_all(descriptors.tolist())
            continue
        if pid == 0:
            ours, *entrances = descriptors
            forked.live(channel, ours, entrances, surroundings, program, handlers)
        send(_BORN, ((_SOCKET_LEVEL, _RIGHTS, array.array("i", (pidfd,))),))
        close(pidfd)
        for fd in descriptors:
            close(fd)


def _other_threads() -> int:
    return os.stat(_THREADS).st_nlink - 3
