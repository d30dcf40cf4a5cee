"""Starts local tools and ends all that they started; runs as a small process of its own.

Why a process: to end a tool for certain one must find every descendant, also those that left its
session (`setsid`) and outlived their parents. The kernel hands orphans to the nearest *subreaper*. If
Praxis itself were that, it could not tell a tool's orphans from the children of the program it is part
of. So this process keeps **wardens**, one per tool; the warden is the subreaper, every child it ever has
belongs to its tool, and when the tool ends, or Praxis says so, or Praxis dies, it kills its children
until it has none. It also removes the tool's arguments file, which may hold secrets. Wardens are forked
ahead of need, so a tool does not wait for them.

    Praxis --socket: request + descriptors--> spawner --fork--> warden --posix_spawn--> tool
    Praxis <--status pipe: how it ended-- warden          Praxis --control pipe: end of file means kill--> warden

The file is run as a script by a bare interpreter and imports nothing of Praxis.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
STDIN, STDOUT, STDERR, STATUS, CONTROL, REQUEST = range(6)  # the descriptors that come with a request
MAX_INLINE_BYTES = (
    1 << 16
)  # a longer request comes in a file, the sixth descriptor, and the message is one byte
RESET_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
REAP_INTERVAL_MS = 1000
READY_WARDENS = 2
libc = ctypes.CDLL(None, use_errno=True)


def serve(channel: socket.socket) -> None:
    """Keep wardens ready to take requests until the other side closes the channel."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # wardens report by their pipes; the kernel reaps them
    taken, take = os.pipe()
    gc.freeze()  # what is here now stays in pages that the wardens share
    poll = select.poll()
    poll.register(taken, select.POLLIN)
    poll.register(channel, 0)  # only its end is news; requests are the wardens'
    missing = READY_WARDENS
    while True:
        for _ in range(missing):
            if os.fork() == 0:
                os.close(taken)
                watch(channel, take)
        ready = [descriptor for descriptor, _ in poll.poll()]
        if channel.fileno() in ready:
            return
        missing = len(os.read(taken, 4096))


def watch(channel: socket.socket, take: int) -> None:
    """Be the warden of the next tool; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        os._exit(1)  # the channel stays unanswered, and the client says that no warden took its request
    rehearse()
    message, descriptors, _, _ = socket.recv_fds(channel, MAX_INLINE_BYTES, 6, socket.MSG_CMSG_CLOEXEC)
    if not message:
        os._exit(0)
    os.write(take, b".")
    channel.close()
    if len(descriptors) > REQUEST:
        with open(descriptors[REQUEST], "rb") as file:
            file.seek(0)
            message = file.read()
    request = json.loads(message)
    report = run(request, descriptors)
    with contextlib.suppress(OSError):  # Praxis removes it, too, unless it was killed
        os.unlink(request["args_file"])
    with contextlib.suppress(BrokenPipeError):  # nobody is left to be told
        os.write(descriptors[STATUS], json.dumps(report).encode() + b"\n")
    os._exit(0)


def rehearse() -> None:
    """Go once through what a request will need, up to an exec that fails.

    A forked process pays for every page it writes to for the first time; better now than later.
    """
    null = os.open(os.devnull, os.O_RDWR)
    request = json.dumps({"argv": ["/dev/null/no-program"], "env": {"PATH": "/bin"}, "cwd": "."})
    report = run(json.loads(request), [os.dup(null), os.dup(null), os.dup(null), null, null])
    json.dumps(report)
    resource.getrusage(resource.RUSAGE_CHILDREN)
    children()
    os.close(null)


def run(request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Start the tool, wait for its end or for the order to end it, and leave nothing of it."""
    argv, env = request["argv"], request["env"]
    try:
        os.chdir(request["cwd"])
    except OSError as error:
        return {"errno": error.errno, "what": "cwd"}
    try:
        tool = os.posix_spawn(
            find_program(argv[0], env.get("PATH", os.defpath)),
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, descriptors[STDIN], 0),
                (os.POSIX_SPAWN_DUP2, descriptors[STDOUT], 1),
                (os.POSIX_SPAWN_DUP2, descriptors[STDERR], 2),
            ],
            setsid=True,
            setsigdef=RESET_SIGNALS,
        )
    except OSError as error:
        return {"errno": error.errno, "what": "exec"}
    finally:
        os.close(descriptors[STDIN])
        os.close(descriptors[STDOUT])
        os.close(descriptors[STDERR])
    status = end_all(tool, wait_for_end(tool, descriptors[CONTROL]))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "status": status,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_memory_bytes": used.ru_maxrss * 1024,
    }


def find_program(name: str, path: str) -> str:
    """Find a program the way execvp does.

    Raises:
        OSError: ENOENT or EACCES.
    """
    if "/" in name:
        return name
    number = errno.ENOENT
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
        if os.path.isfile(candidate):
            number = errno.EACCES
    raise OSError(number, os.strerror(number))


def wait_for_end(tool: int, control: int) -> int | None:
    """Wait until the tool ends (returns its wait status) or the control pipe closes (None).

    A byte on the control pipe asks the tool to end (SIGTERM to its process group).
    """
    poll = select.poll()
    exited = os.pidfd_open(tool)
    poll.register(exited, select.POLLIN)
    poll.register(control, select.POLLIN | select.POLLHUP)
    while True:
        ready = dict(poll.poll(REAP_INTERVAL_MS))
        while True:  # orphans that ended by themselves would pile up as zombies
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == tool:
                return status
            if pid == 0:
                break
        if control in ready:
            if not os.read(control, 1):
                return None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tool, signal.SIGTERM)  # a word, and not yet the end, on the pipe: the gentle way


def end_all(tool: int, status: int | None) -> int | None:
    """Kill descendants until none is left; returns the tool's wait status."""
    while True:
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == tool:
            status = ended


def children() -> list[int]:
    """Return the children of this process; killing one turns its own children into ours."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{int(name)}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == me:
                    found.append(int(name))
        return found


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
