"""The client's end of one launcher process: start it, ask it for sandboxes, hear how they ended.

A launcher that dies fails everything that was asked of it; whether to start another is the client's decision. It is
dead when its socket or its process says so, and never because this process or the kernel is short of something: that
fails the one request that it happens to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import select
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from praxis_sdk.errors import IsolationUnavailable, PlatformError
from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.client.run import Harvest, Sandbox
from praxis_sdk.sandbox.exits import SandboxExit, judge
from praxis_sdk.sandbox.host import process
from praxis_sdk.sandbox.launcher import cgroup_place
from praxis_sdk.sandbox.policy import PolicyError

START_TIMEOUT_S = 30.0
CRASH_REPORT_BYTES = 4096
SWEEP_ROUNDS = 10
END_AGAIN_S = 0.1
POLL_S = 0.02

_SCARCE = frozenset(
    {
        errno.EAGAIN,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.ENOBUFS,
        errno.ETOOMANYREFS,
        errno.EDQUOT,
    }
)

_MAIN = "from praxis_sdk.sandbox.launcher.main import main; main(int(sys.argv[2]))"


@dataclass(frozen=True, slots=True)
class Enforcement:
    """How this launcher enforces limits.

    Args:
        privileged: every sandbox has host ids of its own; False: it has the caller's.
        cgroup_version: 2, 1, or 0 for none.
        memory: "cgroup" (all processes and scratch space together) or "address_space" (each process,
            RLIMIT_AS).
        processes: "cgroup" or "rlimit".
        cpu_quota: `cpu_cores` can be enforced.
        path: the PATH inside, unless the caller's environment has one.
    """

    privileged: bool
    cgroup_version: int
    memory: str
    processes: str
    cpu_quota: bool
    path: str


class _Request:
    """A start that has been asked for: first `started` resolves, then `ended`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kinds: Mapping[str, tuple[str, str]]) -> None:
        self.started: asyncio.Future[Sandbox] = loop.create_future()
        self.ended: asyncio.Future[SandboxExit] = loop.create_future()
        self.kinds = kinds
        # Nobody may ever wait; the loop need not complain about that.
        self.ended.add_done_callback(_retrieve)
        self.started.add_done_callback(_retrieve)

    def fail(self, problem: Exception) -> None:
        for future in (self.started, self.ended):
            if not future.done():
                future.set_exception(problem)


class LauncherConnection:
    """One launcher process and the socket to it."""

    def __init__(self, launcher: subprocess.Popen[bytes], channel: socket.socket, stderr: int) -> None:
        self.process = launcher
        self.channel = channel
        self.enforcement: Enforcement | None = None
        self.dead = False
        self._stderr = stderr
        self._requests: dict[int, _Request] = {}
        self._keys = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._gone: asyncio.Future[None] = self._loop.create_future()

    async def greet(self, programs: Sequence[bytes], zygote: Mapping[str, Any] | None) -> None:
        """Exchange the first messages; raises IsolationUnavailable when the launcher cannot work here."""
        descriptors = [wire.memory_file("praxis-filter", program) for program in programs]
        try:
            wire.send(self.channel, wire.encode({"event": "hello", "zygote": zygote}), descriptors)
        finally:
            wire.close_all(descriptors)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await _readable(self.channel.fileno())
        except TimeoutError as problem:
            raise PlatformError("the sandbox launcher did not answer") from problem
        received = wire.receive(self.channel)
        if received is None:
            self.process.wait()
            raise PlatformError(f"the sandbox launcher died at start: {self.last_words()}")
        message, _ = received
        if message["event"] != "ready":
            raise IsolationUnavailable(
                f"this host cannot build the sandbox: {message['message']}",
                remedy="run `praxis doctor` for what is missing",
            )
        controllers = message["controllers"]
        self.enforcement = Enforcement(
            privileged=message["privileged"],
            cgroup_version=message["cgroup_version"],
            memory="cgroup" if "memory" in controllers else "address_space",
            processes="cgroup" if "pids" in controllers else "rlimit",
            cpu_quota="cpu" in controllers,
            path=message["path"],
        )
        self._loop.add_reader(self.channel, self._read)

    async def start(
        self, request: dict[str, Any], stdio: Sequence[int], kinds: Mapping[str, tuple[str, str]]
    ) -> Sandbox:
        """Send a request and wait until its sandbox is locked, verified and running the command."""
        key = next(self._keys)
        payload = wire.encode({**request, "id": key})
        entry = _Request(self._loop, kinds)
        async with self._sending:
            if self.dead:
                raise PlatformError("the sandbox launcher is gone")
            self._requests[key] = entry
            try:
                await self._send(payload, stdio)
            except BaseException:
                self._requests.pop(key, None)
                raise
        try:
            return await asyncio.shield(entry.started)
        except asyncio.CancelledError:
            # The sandbox may come to life all the same: it must not outlive the one who wanted it.
            entry.started.add_done_callback(_abandon)
            raise

    async def _send(self, payload: bytes, descriptors: Sequence[int]) -> None:
        while True:
            try:
                wire.send(self.channel, payload, descriptors)
                return
            except BlockingIOError:
                await _writable(self.channel.fileno())
            except OSError as problem:
                if wire.is_scarcity(problem):
                    raise PlatformError(
                        f"the sandbox could not be asked for: {problem.strerror}",
                        remedy="raise the limit on open files (ulimit -n), or run fewer jobs at once",
                    ) from problem
                self._die()
                raise PlatformError("the sandbox launcher is gone") from problem

    def _read(self) -> None:
        while not self.dead:
            try:
                received = wire.receive(self.channel)
            except BlockingIOError:
                return
            except wire.DescriptorsLost as problem:
                self._lose(problem.message)
                continue
            except OSError as problem:
                if wire.is_scarcity(problem):
                    return  # what could not be read is still there
                received = None
            except wire.WireError:
                received = None
            if received is None:
                self._die()
                return
            self._handle(*received)

    def _lose(self, message: dict[str, Any]) -> None:
        """A sandbox was made whose descriptors this process could not take: have the launcher end it."""
        entry = self._requests.get(message["id"])
        if entry is None:
            return
        entry.fail(
            PlatformError(
                "the sandbox was made and lost: this process may hold no more descriptors",
                remedy="raise the limit on open files (ulimit -n), or run fewer jobs at once",
            )
        )
        self._end(message["id"])

    def _end(self, key: int) -> None:
        """Ask the launcher to end a sandbox that nobody here holds."""
        try:
            wire.send(self.channel, wire.encode({"id": key, "end": True}))
        except OSError as problem:
            if isinstance(problem, BlockingIOError) or wire.is_scarcity(problem):
                self._loop.call_later(END_AGAIN_S, self._end, key)

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        entry = self._requests.get(message["id"])
        if entry is None:
            wire.close_all(descriptors)
            return
        event = message["event"]
        if event == "started":
            pidfd, *directories = descriptors
            listener_fd = directories.pop() if message["door"] else -1
            harvest = [
                Harvest(target, entry.kinds[target][0], fd, entry.kinds[target][1])
                for target, fd in zip(message["targets"], directories, strict=True)
                if target in entry.kinds
            ]
            kept = {item.fd for item in harvest}
            wire.close_all([fd for fd in directories if fd not in kept])
            entry.started.set_result(Sandbox(message["pid"], pidfd, harvest, entry.ended, listener_fd))
            return
        del self._requests[message["id"]]
        if entry.ended.done():
            return  # it was lost, and is gone now
        if event == "failed":
            entry.fail(_failure(message))
        elif entry.started.done():
            entry.ended.set_result(judge(message))
        else:
            entry.fail(_died_early(message))

    def _die(self) -> None:
        """The launcher is gone: the kernel has killed every sandbox of it."""
        if self.dead:
            return
        self.dead = True
        self._loop.remove_reader(self.channel)
        self.channel.close()
        requests, self._requests = self._requests, {}
        for entry in requests.values():
            entry.fail(PlatformError("the sandbox launcher died; its sandboxes were killed"))
        if not self._gone.done():
            self._gone.set_result(None)

    async def close(self) -> None:
        """End the launcher, which kills its sandboxes, and wait until it is gone."""
        self._die()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._until_gone()
        except TimeoutError:
            self.process.kill()
        if self.process.wait() != 0:
            await _sweep()  # it had no chance to
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1

    async def _until_gone(self) -> None:
        try:
            pidfd = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            return
        except OSError:  # no descriptor left
            await asyncio.to_thread(self.process.wait, START_TIMEOUT_S)
            return
        try:
            await _readable(pidfd)
        finally:
            os.close(pidfd)

    def last_words(self) -> str:
        """Return the end of what the launcher wrote to its standard error, such as a traceback."""
        size = os.fstat(self._stderr).st_size
        text = os.pread(self._stderr, CRASH_REPORT_BYTES, max(0, size - CRASH_REPORT_BYTES))
        return text.decode(errors="replace").strip()


def start_launcher() -> LauncherConnection:
    """Start a launcher process, which has yet to be greeted; raises PlatformError when it cannot be started."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stderr = wire.memory_file("praxis-launcher-stderr", b"")
    try:
        launcher = subprocess.Popen(
            process.command(_MAIN, str(theirs.fileno())),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={},
            cwd="/",
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except OSError as problem:
        ours.close()
        os.close(stderr)
        raise PlatformError(f"the sandbox launcher cannot be started: {problem}") from problem
    finally:
        theirs.close()
    ours.setblocking(False)
    return LauncherConnection(launcher, ours, stderr)


async def _sweep() -> None:
    """Remove what a crashed launcher left in the cgroup hierarchies, once the kernel has killed its children."""
    for _ in range(SWEEP_ROUNDS):
        dying = cgroup_place.sweep()
        if not dying:
            return
        for pid in dying:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    await _readable(pidfd)
                finally:
                    os.close(pidfd)


async def _readable(fd: int) -> None:
    """Wait until `fd` can be read (a socket has a frame, a pidfd's process has ended)."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    try:
        loop.add_reader(fd, event.set)
    except OSError:  # this user may watch no more descriptors: jobs under the same id can use that up
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll(0):  # noqa: ASYNC110 - no event can announce it
            await asyncio.sleep(POLL_S)
        return
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)


async def _writable(fd: int) -> None:
    """Wait until a full socket has room again."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_writer(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(fd)


def _failure(message: Mapping[str, Any]) -> Exception:
    text = f"{message['stage']}: {message['message']}"
    if message["stage"] in ("preload", "zygote") and message["errno"] == 0:
        return PlatformError(f"the environment's zygote cannot be had: {message['message']}")
    if not message.get("by_host", True):
        return PolicyError(message["message"])
    # Running out of something is the host's state of the moment; anything else is what it cannot do.
    if message["errno"] in _SCARCE:
        return PlatformError(f"the sandbox could not be started: {text}")
    return IsolationUnavailable(
        f"the sandbox could not be built: {text}", remedy="run `praxis doctor` for what this host can do"
    )


def _died_early(message: Mapping[str, Any]) -> Exception:
    killed = message["events"].get("memory", 0) > 0
    hint = ": its memory limit is too small to start in" if killed else ""
    return (
        PolicyError(f"limit memory_bytes{hint}")
        if killed
        else PlatformError("the sandbox died while being built")
    )


def _abandon(started: asyncio.Future[Sandbox]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().close()


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
