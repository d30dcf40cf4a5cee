"""The executor's side of the collector: start it, ask it, bound it, and replace it when it died."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.artifacts.collect import CollectedFile, Collection
from praxis_sdk.jobs.artifacts.threads import in_thread
from praxis_sdk.jobs.artifacts.types.signatures import library_folder
from praxis_sdk.jobs.collector.messages import Wanted, collection_of, file_of, result_of
from praxis_sdk.jobs.collector.reading import LeftResult
from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.host import process
from praxis_sdk.sandbox.init import seccomp

MAX_CHILDREN: Final = max(4, 2 * (os.cpu_count() or 1))
START_TIMEOUT_S: Final = 30.0
# Processor time is the work's own doing, which its limit bounds; on the wall, a busy machine takes its part.
WALL_FACTOR: Final = 10.0
WALL_GRACE_S: Final = 60.0
_FILES_AT_ONCE: Final = 250  # lines that are read between two looks of the event loop elsewhere
_CPU_ROUNDING_S: Final = 0.5  # the kernel looks at the limit at its ticks
_AT_ONCE_BYTES: Final = 1 << 20  # an answer that is read sooner than a thread is called
_LAST_WORDS_BYTES: Final = 2048
_RETRY_S: Final = 0.05
_MAX_SENDS: Final = 40
# Packages whose own __init__ would load the whole executor.
_MAIN: Final = """
for name in ("jobs", "jobs.artifacts", "jobs.collector"):
    package = types.ModuleType("praxis_sdk." + name)
    package.__path__ = [root + "/" + name.replace(".", "/")]
    sys.modules["praxis_sdk." + name] = package
sys.path += filter(None, sys.argv[3:])
from praxis_sdk.jobs.collector.process import main
main(int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Collected:
    """What was found of what a job left.

    Args:
        result: its result.
        collection: its artifacts, and what cannot be one.
        out_of_time: reading it took more processor time than its limit; nothing else is known then.
        cpu_s: processor time that it took, in seconds.
    """

    result: LeftResult = field(default_factory=LeftResult)
    collection: Collection = field(default_factory=Collection)
    out_of_time: bool = False
    cpu_s: float = 0.0


class Collector:
    """Reads what jobs leave, in a process per job that can be killed; one per executor.

    The process that they are forked from is started by `start` or by the first call, and again when it died.
    """

    def __init__(self) -> None:
        self._connection: _Connection | None = None
        self._starting = asyncio.Lock()
        self._room = asyncio.Semaphore(MAX_CHILDREN)
        self._closed = False

    async def start(self) -> None:
        """Have the process ready before it is needed; harmless when it is.

        Raises:
            PlatformError: it cannot be started.
        """
        await self._connect()

    async def collect(self, harvest_fd: int, wanted: Wanted) -> Collected:
        """Read what a job left; when this returns or raises, nobody reads it any more.

        Args:
            harvest_fd: its folder, whose processes are all gone; it stays the caller's.
            wanted: what to read of it, within which limits.

        Raises:
            PlatformError: the platform failed: no process, no descriptors, no memory, or a machine that is too busy.
        """
        async with self._room:
            try:
                connection = await self._connect()
                exchange_fd = wire.memory_file("praxis-harvest", wanted.to_json())
            except OSError as error:
                raise PlatformError(f"what the job left cannot be read: {error.strerror}") from error
            try:
                ended = await connection.ask(wanted, harvest_fd, exchange_fd)
                return await _understood(ended, wanted, exchange_fd)
            finally:
                os.close(exchange_fd)

    async def close(self) -> None:
        """End the process and all that it forked; repeatable."""
        self._closed = True
        async with self._starting:
            connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> _Connection:
        async with self._starting:
            if self._closed:
                raise PlatformError("this collector has been closed")
            if self._connection is not None and not self._connection.dead:
                return self._connection
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
            connection = _Connection(*_started())
            try:
                await connection.greet()
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
            return connection


class _Connection:
    """One collector process and the socket to it."""

    def __init__(self, started: subprocess.Popen[bytes], channel: socket.socket, stderr_fd: int) -> None:
        self.dead = False
        self._stderr_fd = stderr_fd
        self._process = started
        self._channel = channel
        self._keys = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loop = asyncio.get_running_loop()

    async def greet(self) -> None:
        self._loop.add_reader(self._channel, self._read)
        filter_fd = wire.memory_file("praxis-filter", seccomp.compile_filter())
        try:
            ready = self._expect(0)
            wire.send(self._channel, wire.encode({"event": "hello"}), [filter_fd])
        finally:
            os.close(filter_fd)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                answer = await ready
        except TimeoutError as error:
            raise PlatformError("the collector did not answer") from error
        if answer["event"] != "ready":
            raise PlatformError(
                f"the collector cannot be confined: {answer['message']}",
                remedy="run `praxis doctor` for what is missing",
            )

    async def ask(self, wanted: Wanted, harvest_fd: int, exchange_fd: int) -> dict[str, Any]:
        """Have a child read a harvest; returns how it ended, which is certain."""
        key = next(self._keys)
        limits = {"memory_bytes": wanted.memory_bytes, "answer_bytes": wanted.answer_bytes}
        message = wire.encode({"event": "read", "id": key, "cpu_s": wanted.cpu_s, **limits})
        ended = self._expect(key)
        try:
            await self._send(message, [harvest_fd, exchange_fd])
            async with asyncio.timeout(WALL_GRACE_S + WALL_FACTOR * wanted.cpu_s):
                return await asyncio.shield(ended)
        except TimeoutError as error:
            await self._kill(key, ended)
            raise PlatformError(
                "this machine is too busy: what the job left was not read in time", remedy="try again"
            ) from error
        except asyncio.CancelledError:
            await self._kill(key, ended)
            raise
        finally:
            self._asked.pop(key, None)

    async def close(self) -> None:
        self._die()
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except ProcessLookupError:
            pidfd = -1
        if pidfd >= 0:
            gone = asyncio.Event()
            self._loop.add_reader(pidfd, gone.set)
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await gone.wait()
            except TimeoutError:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                self._loop.remove_reader(pidfd)
                os.close(pidfd)
        self._process.wait()
        if self._stderr_fd >= 0:
            os.close(self._stderr_fd)
            self._stderr_fd = -1

    def _expect(self, key: int) -> asyncio.Future[dict[str, Any]]:
        if self.dead:
            raise PlatformError("the collector is gone")
        expected = self._asked[key] = self._loop.create_future()
        # Nobody may ever wait; the loop need not complain about that.
        expected.add_done_callback(lambda future: future.cancelled() or future.exception())
        return expected

    async def _kill(self, key: int, ended: asyncio.Future[dict[str, Any]]) -> None:
        """Have a child killed, and wait for the proof."""
        if ended.done():
            return
        with contextlib.suppress(PlatformError):
            await asyncio.shield(self._send(wire.encode({"event": "kill", "id": key}), []))
            await asyncio.shield(ended)

    async def _send(self, message: bytes, descriptors: list[int]) -> None:
        for _ in range(_MAX_SENDS):
            if self.dead:
                break
            try:
                wire.send(self._channel, message, descriptors)
                return
            except OSError as error:
                # Full, or this user has as many descriptors under way as the kernel allows: both pass.
                if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
                    self._die()
                    raise PlatformError("the collector is gone") from error
            await asyncio.sleep(_RETRY_S)
        raise PlatformError("the collector cannot be asked", remedy="try again")

    def _read(self) -> None:
        while not self.dead:
            try:
                received = wire.receive(self._channel)
            except BlockingIOError:
                return
            except (wire.WireError, OSError):
                received = None
            if received is None:
                self._die()
                return
            message, _ = received
            expected = self._asked.get(int(message.get("id", 0)))
            if expected is not None and not expected.done():
                expected.set_result(message)

    def _die(self) -> None:
        """The process is gone, or is to go: the kernel kills what it forked."""
        if self.dead:
            return
        self.dead = True
        self._loop.remove_reader(self._channel)
        self._channel.close()
        asked = [expected for expected in self._asked.values() if not expected.done()]
        for expected in asked:
            expected.set_exception(
                PlatformError(f"the collector died: {self._last_words()}", remedy="try again")
            )

    def _last_words(self) -> str:
        """Return the end of what the process wrote to its standard error, such as a traceback."""
        size = os.fstat(self._stderr_fd).st_size
        text = os.pread(self._stderr_fd, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES))
        return text.decode(errors="replace").strip()


def _started() -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    try:
        stderr_fd = wire.memory_file("praxis-collector-stderr", b"")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise PlatformError(f"the collector cannot be started: {error.strerror}") from error
    try:
        started = subprocess.Popen(
            process.command(_MAIN, str(theirs.fileno()), library_folder()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr_fd,
            env={},
            cwd="/",
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        os.close(stderr_fd)
        raise PlatformError(f"the collector cannot be started: {error.strerror}") from error
    finally:
        theirs.close()
    ours.setblocking(False)
    return started, ours, stderr_fd


async def _understood(ended: dict[str, Any], wanted: Wanted, exchange_fd: int) -> Collected:
    """Judge by the wait status, and read the answer of a child that ended well."""
    if ended["event"] == "failed":
        raise PlatformError(f"what the job left cannot be read: {ended['message']}", remedy="try again")
    code = int(ended["code"])
    cpu_s = float(ended["cpu_s"])
    if code < 0 and cpu_s >= wanted.cpu_s - _CPU_ROUNDING_S:
        return Collected(out_of_time=True, cpu_s=cpu_s)
    if code == -signal.SIGXFSZ:
        return Collected(LeftResult(too_long=True), cpu_s=cpu_s)
    try:
        if code != 0:
            said = os.pread(exchange_fd, _LAST_WORDS_BYTES, 0).decode(errors="replace").strip()
            why = said if code > 0 else f"ended by signal {-code}"
            raise PlatformError(f"what the job left cannot be read: {why}", remedy="try again")
        if os.fstat(exchange_fd).st_size > _AT_ONCE_BYTES:
            head, lines, text = await in_thread(_load, exchange_fd)
        else:
            head, lines, text = _load(exchange_fd)
        files: list[CollectedFile] = []
        for line in lines:
            files.append(file_of(line))
            if len(files) % _FILES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return Collected(result_of(head, text), collection_of(head, files), cpu_s=cpu_s)
    except OSError as error:
        raise PlatformError(f"what the job left cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise PlatformError(f"the collector's answer is damaged: {error}", remedy="try again") from error


def _load(exchange_fd: int) -> tuple[dict[str, Any], list[bytes], str]:
    """Return the parts of an answer: its head, the lines of the files, and the text of a long result."""
    data = os.pread(exchange_fd, os.fstat(exchange_fd).st_size, 0)
    first = data.index(b"\n") + 1
    head = json.loads(data[:first])
    at = len(data) - int(head["chars"])
    lines = data[first:at].splitlines()
    if len(lines) != int(head["files"]):
        raise ValueError("it ends early")
    return head, lines, data[at:].decode("ascii")
