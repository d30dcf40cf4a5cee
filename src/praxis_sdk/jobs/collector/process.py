"""The collector's own process: forks a child per harvest, kills it when told to, and says how it ended."""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import hashlib
import os
import resource
import select
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

from praxis_sdk.jobs.artifacts.collect import ArtifactLimits, Collection, LimitExceeded, collect, hash_file
from praxis_sdk.jobs.artifacts.types.sniff import sniff_bytes
from praxis_sdk.jobs.collector.confinement import confine
from praxis_sdk.jobs.collector.messages import Wanted, answer
from praxis_sdk.jobs.collector.reading import (
    NOT_A_FILE,
    LeftResult,
    NoRegularFile,
    open_below,
    understood,
)
from praxis_sdk.sandbox import kernel, wire

EXIT_ANSWERED: Final = 0
EXIT_FAILED: Final = 1  # the answer says why
_OPEN_FILES: Final = 256
_REHEARSALS: Final = 20
_REHEARSED: Final = Wanted(
    ("result", "result.json"), 1 << 20, 1 << 20, 64, ArtifactLimits(), frozenset({"result"})
)


def main(fd: int) -> None:
    """Serve the executor at the other end of a socket, until it is gone."""
    channel = socket.socket(fileno=fd)
    received = wire.receive(channel)
    if received is None:
        return
    _, (filter_fd,) = received
    program = wire.read_memory_file(filter_fd)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _rehearse()
    try:
        confine(program)
    except OSError as problem:
        wire.send(channel, wire.encode({"event": "failed", "message": str(problem)}))
        return
    wire.send(channel, wire.encode({"event": "ready"}))
    # What is there before the first fork stays shared with every child.
    gc.collect()
    gc.freeze()
    _Server(channel, pages * resource.getpagesize()).serve()


def _rehearse() -> None:
    """Go through what a child may need while there is a file system to load it from, and all that it always does.

    A child pays for every page that it is the first to write to, and the interpreter writes into the code that it
    learns.
    """
    hashlib.sha256(b"").hexdigest()
    with contextlib.suppress(Exception):  # a library that is missing is told when it is needed
        sniff_bytes(b"\x00\x01\x02\xff rehearsal")
    for text in ("a,b\n1,2\n", '{"a": 1}\n{"b": 2}\n', "<svg xmlns='http://www.w3.org/2000/svg'/>", "[1]"):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "ascii"):
            sniff_bytes(text.encode(encoding))
    codecs.lookup("utf-16-be")
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as name:  # else a child learns it itself
        folder = Path(name)
        (folder / "rehearsal.txt").write_text("rehearsal")
        (folder / "result").mkdir()
        (folder / "result/result.json").write_text('{"value":null}')
        folder_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for _ in range(_REHEARSALS):
            exchange_fd = wire.memory_file("praxis-rehearsal", _REHEARSED.to_json())
            _work(folder_fd, exchange_fd)
            os.close(exchange_fd)
        os.close(folder_fd)


class _Server:
    """What the collector knows: which child works for which request, and which waits for one.

    While nothing is asked it forks a child ahead, which has written to the pages that it will need: so a job does not
    wait for that.
    """

    def __init__(self, channel: socket.socket, base_bytes: int) -> None:
        self._channel = channel
        self._base_bytes = base_bytes
        self._children: dict[int, int] = {}
        self._spare = 0
        self._to_spare: socket.socket | None = None
        self._spare_died = False

    def serve(self) -> None:
        """Serve until the executor is gone; the kernel then kills what is left."""
        awake, waker = socket.socketpair()
        awake.setblocking(False)
        waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(awake, select.POLLIN)
        while True:
            if not self._children and not self._spare and not self._spare_died:
                self._fork_ahead()
            ready = {fd for fd, _ in poll.poll()}
            if awake.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    awake.recv(4096)
                self._reap()
            if self._channel.fileno() in ready:
                received = wire.receive(self._channel)
                if received is None:
                    self._end_spare()
                    return
                self._take(*received)

    def _end_spare(self) -> None:
        """End the child that waits and reap it, so that nothing is left for whoever adopts orphans."""
        if self._spare:
            os.kill(self._spare, signal.SIGKILL)
            os.waitpid(self._spare, 0)

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        key = int(message["id"])
        if message["event"] == "kill":
            pid = next((pid for pid, one in self._children.items() if one == key), None)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            return
        try:
            if not self._pass_on(message, descriptors):
                pid = os.fork()
                if pid == 0:
                    _live(descriptors, message, self._base_bytes)
                self._children[pid] = key
        except OSError as problem:
            self._tell({"event": "failed", "id": key, "message": str(problem)})
        finally:
            wire.close_all(descriptors)

    def _fork_ahead(self) -> None:
        ours = theirs = None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                _wait(theirs, self._base_bytes)
            self._spare, self._to_spare, ours = pid, ours, None
        except OSError:  # whoever needs a child will be told
            return
        finally:
            for end in (ours, theirs):
                if end is not None:
                    end.close()

    def _pass_on(self, message: dict[str, Any], descriptors: list[int]) -> bool:
        """Have the child that waits take a request; returns whether there was one that could."""
        pid, channel = self._spare, self._to_spare
        if channel is None:
            return False
        self._spare, self._to_spare = 0, None
        with channel:
            try:
                wire.send(channel, wire.encode(message), descriptors)
            except OSError:  # it has died, or the kernel lacks something; what it would answer is nobody's
                os.kill(pid, signal.SIGKILL)
                return False
        self._children[pid] = int(message["id"])
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._children:  # nobody has asked it anything
                if pid == self._spare and self._to_spare is not None:
                    self._to_spare.close()
                    self._spare, self._to_spare = 0, None
                    self._spare_died = True  # and another would, too, until something has changed
                continue
            self._spare_died = False
            key = self._children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            cpu_s = usage.ru_utime + usage.ru_stime
            self._tell({"event": "ended", "id": key, "code": code, "cpu_s": cpu_s})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # gone; the next read says so
            wire.send(self._channel, wire.encode(message))


def _wait(channel: socket.socket, base_bytes: int) -> NoReturn:
    """Be the child that waits: do once what will be asked, on nothing, and then what is asked."""
    try:
        kernel.die_with_parent()
        os.dup2(channel.detach(), 3)
        kernel.close_range(4)
        _touch()
        received = wire.receive(socket.socket(fileno=3))
        if received is not None:
            message, descriptors = received
            _live(descriptors, message, base_bytes)
    finally:
        os._exit(EXIT_FAILED)


def _touch() -> None:
    root_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    exchange_fd = wire.memory_file("praxis-rehearsal", _REHEARSED.to_json())
    _work(root_fd, exchange_fd)
    hash_file(exchange_fd, os.fstat(exchange_fd).st_size)
    sniff_bytes(b"rehearsal")
    os.close(exchange_fd)
    os.close(root_fd)


def _live(descriptors: list[int], message: dict[str, Any], base_bytes: int) -> NoReturn:
    """Be the child: read one harvest, write one answer, and end."""
    code = EXIT_FAILED
    try:
        kernel.die_with_parent()
        os.dup2(descriptors[0], 3)
        os.dup2(descriptors[1], 4)
        kernel.close_range(5)
        _limit(message, base_bytes)
        code = _work(3, 4)
    finally:
        os._exit(code)


def _limit(message: dict[str, Any], base_bytes: int) -> None:
    memory = base_bytes + int(message["memory_bytes"])
    cpu = max(1, int(message["cpu_s"]))
    size = int(message["answer_bytes"])
    for which, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_FSIZE, size, size),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(which, (soft, hard))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _work(harvest_fd: int, exchange_fd: int) -> int:
    wanted = Wanted.from_json(os.pread(exchange_fd, os.fstat(exchange_fd).st_size, 0))
    os.ftruncate(exchange_fd, 0)
    os.lseek(exchange_fd, 0, os.SEEK_SET)
    try:
        for piece in _answer(harvest_fd, wanted):
            view = memoryview(piece)
            while view:
                view = view[os.write(exchange_fd, view) :]
    except Exception as problem:  # noqa: BLE001 - whatever it is, the executor is to know
        os.ftruncate(exchange_fd, 0)
        os.pwrite(exchange_fd, f"{type(problem).__name__}: {problem}".encode(errors="replace")[:4096], 0)
        return EXIT_FAILED
    return EXIT_ANSWERED


def _answer(harvest_fd: int, wanted: Wanted) -> list[bytes]:
    collection = Collection()
    if wanted.artifacts is not None:
        try:
            collection = collect(harvest_fd, wanted.artifacts, exclude=wanted.exclude)
        except MemoryError:
            exceeded = LimitExceeded("files", wanted.artifacts.files, wanted.artifacts.files + 1)
            collection = Collection(exceeded=exceeded)
    try:
        return list(answer(_result(harvest_fd, wanted), collection, wanted.outputs_bytes))
    except MemoryError:
        gc.collect()
        return list(answer(LeftResult(too_long=True), collection, wanted.outputs_bytes))


def _result(harvest_fd: int, wanted: Wanted) -> LeftResult:
    try:
        file_fd = open_below(harvest_fd, *wanted.result)
    except NoRegularFile:
        return LeftResult(problem=NOT_A_FILE)
    if file_fd is None:
        return LeftResult()
    try:
        return understood(file_fd, wanted.result_bytes, wanted.max_depth)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return LeftResult(too_long=True)
    finally:
        os.close(file_fd)
