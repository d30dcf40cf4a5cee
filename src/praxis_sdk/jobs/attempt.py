"""One piece of work in one fresh sandbox: start it, watch its limits from outside, end it, keep what it left.

The kernel enforces memory, processor time, processes and files; here are the wall clock and the size of the
streams. Whatever ends the attempt, the sandbox is dead when `run` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import IO, Any, Final, Self, TypeVar

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.context import OutputListener
from praxis_sdk.execution.output import OutputCapture, PipeReader
from praxis_sdk.jobs import harness, strict_json
from praxis_sdk.jobs.adapters.base import NOT_A_FILE
from praxis_sdk.jobs.egress import EgressProxy, proxy_variables
from praxis_sdk.jobs.limits import LIMIT_OF_KILL, JobLimits, LimitName
from praxis_sdk.jobs.payload import MAX_DOCUMENT_DEPTH
from praxis_sdk.jobs.result import NetworkUse
from praxis_sdk.sandbox import Harvest, Launcher, Policy, Sandbox, SandboxExit

_RESULT: Final = (harness.RESULT_FOLDER, harness.RESULT_FILE)
_T = TypeVar("_T")
PROXY_PORT: Final = 3128  # of the loopback device of the sandbox, where nothing else listens
_KILL_BOUND_S: Final = 30.0
_NOT_GONE: Final = f"a sandbox was neither made nor gone within {_KILL_BOUND_S:g} s"
_AT_ONCE_BYTES: Final = 64 << 10  # a result that is read and understood sooner than a thread is called
_ESCAPES: Final = 6  # how much longer JSON may be than what it says, all of it escaped


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Args:
        exit: the kernel's account.
        limit: the limit that ended it, whoever enforced it.
        timed_out: the wall clock ended it.
        capture: what it wrote.
        result: the JSON value of the result file; None where there is none or it is damaged.
        result_too_long: the result exceeded its limit.
        result_problem: why what was left as a result is none; "" where nothing is wrong with it.
    """

    exit: SandboxExit
    limit: LimitName | None
    timed_out: bool
    capture: OutputCapture
    result: Any = None
    result_too_long: bool = False
    result_problem: str = ""


Egress = Callable[[int], AbstractAsyncContextManager[EgressProxy]]


@dataclass
class Attempt:
    """A fresh sandbox for one piece of work; use it as a context, which destroys it.

    Args:
        launcher: forks the sandbox.
        limits: what the work may use.
        listener: called with each piece of output as it arrives.
        egress: serves the network grant on a listening socket of the sandbox; None for no network.
        terminating: once it is set the work is asked to end (SIGTERM), and may take its time; None for never.
    """

    launcher: Launcher
    limits: JobLimits
    listener: OutputListener | None = None
    egress: Egress | None = None
    terminating: asyncio.Event | None = None
    _served: EgressProxy | None = None
    _sandbox: Sandbox | None = None
    _capture: OutputCapture | None = None
    _ended: bool = False
    _readers: list[PipeReader] = field(default_factory=list)
    _proxy: contextlib.AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._sandbox is not None and not self._ended:
                self._sandbox.kill()
                await asyncio.shield(_bounded(self._sandbox.wait()))
        finally:
            if self._proxy is not None:
                await self._proxy.aclose()
            if self._sandbox is not None:
                self._sandbox.close()
            for reader in self._readers:
                reader.close()

    async def start(self, order: IO[bytes], variables: Mapping[str, str]) -> None:
        """Begin to carry out an order.

        Args:
            order: an open order; it stays the caller's.
            variables: environment variables beside those of the environment.

        Raises:
            IsolationUnavailable: this host cannot build the sandbox.
            PlatformError: the launcher died.
        """
        self._capture = OutputCapture(
            self.limits.stdout_bytes, self.listener, stderr_limit_bytes=self.limits.stderr_bytes
        )
        await self._start(order, variables, self._capture)

    async def end(self) -> Ended:
        """Wait for the end of what was started, and bring it about where a limit says so.

        Raises:
            PlatformError: the launcher died.
        """
        capture = self._capture
        assert self._sandbox is not None
        assert capture is not None
        if self.egress is not None:
            listening = os.dup(self._sandbox.listener_fd)
            self._proxy = contextlib.AsyncExitStack()
            self._served = await self._proxy.enter_async_context(self.egress(listening))
        exit_, timed_out = await self._until_end(self._sandbox, capture)
        limit = LIMIT_OF_KILL.get(exit_.killed_by) if exit_.killed_by else None
        if limit is LimitName.SCRATCH and os.fstatvfs(self.outputs.fd).f_favail == 0:
            limit = LimitName.FILES  # the scratch space has two limits
        if timed_out:
            limit = LimitName.WALL
        elif capture.overflow.done():
            over = capture.seen_bytes("stdout") > self.limits.stdout_bytes
            limit = LimitName.STDOUT if over else LimitName.STDERR
        result, too_long, problem = await self._read_result()
        return Ended(exit_, limit, timed_out, capture, result, too_long, problem)

    @property
    def outputs(self) -> Harvest:
        """The working directory as the work left it; readable until the context ends."""
        if self._sandbox is None or not self._sandbox.harvest:
            raise PlatformError("the sandbox handed no working directory over")
        return self._sandbox.harvest[0]

    @property
    def uses(self) -> tuple[NetworkUse, ...]:
        """What went through the network grant, or tried to."""
        return () if self._served is None else self._served.uses

    async def _start(self, order: IO[bytes], variables: Mapping[str, str], capture: OutputCapture) -> None:
        writers: list[int] = []
        try:
            for stream in ("stdout", "stderr"):
                reader, writer = PipeReader.open_pipe(stream, capture)
                self._readers.append(reader)
                writers.append(writer)
            port = None if self.egress is None else PROXY_PORT
            if port is not None:
                variables = {**variables, **proxy_variables(port)}
            forking = asyncio.ensure_future(
                self.launcher.fork(
                    Policy(limits=self.limits.for_sandbox(), loopback_port=port),
                    order.fileno(),
                    stdout=writers[0],
                    stderr=writers[1],
                    variables=variables,
                )
            )
            try:
                self._sandbox = await asyncio.shield(forking)
            except asyncio.CancelledError:
                # Whoever cancels is promised that the sandbox is dead, so it must be had before it can be killed.
                with contextlib.suppress(PlatformError, ValidationError):
                    self._sandbox = await _bounded(forking)
                raise
        finally:
            for writer in writers:
                os.close(writer)

    async def _until_end(self, sandbox: Sandbox, capture: OutputCapture) -> tuple[SandboxExit, bool]:
        """Wait for the end, and bring it about when the time is up or a stream is too long."""
        loop = asyncio.get_running_loop()
        timed_out = False
        try:
            async with asyncio.timeout(None) as bound:

                def end(_: object = None) -> None:
                    sandbox.kill()
                    if bound.when() is None:
                        bound.reschedule(loop.time() + _KILL_BOUND_S)

                def expire() -> None:
                    nonlocal timed_out
                    timed_out = not capture.overflow.done()
                    end()

                # Callbacks and no tasks: most jobs end by themselves, and a task costs more than their order does.
                timer = loop.call_later(self.limits.wall_s, expire)
                capture.overflow.add_done_callback(end)
                asking = self.terminating and asyncio.ensure_future(_ask(sandbox, self.terminating))
                try:
                    exit_ = await sandbox.wait()
                finally:
                    timer.cancel()
                    if asking:
                        asking.cancel()
                    capture.overflow.remove_done_callback(end)
        except TimeoutError as error:
            raise PlatformError(_NOT_GONE) from error
        self._ended = True
        for reader in self._readers:
            await reader.wait()
        return exit_, timed_out

    async def _read_result(self) -> tuple[Any, bool, str]:
        """Read the result file; nobody is left who could change it.

        Returns:
            The result, whether it is too long, and what else is wrong with it.
        """
        most = self.limits.outputs_bytes * _ESCAPES + harness.MAX_TRACEBACK_CHARS * _ESCAPES + (64 << 10)
        try:
            file_fd = _open_below(self.outputs.fd, _RESULT)
        except _NoRegularFile:
            return None, False, NOT_A_FILE
        if file_fd is None:
            return None, False, ""
        if os.fstat(file_fd).st_size <= _AT_ONCE_BYTES:
            return _understood(file_fd, most)
        return await asyncio.to_thread(_understood, file_fd, most)


async def _ask(sandbox: Sandbox, terminating: asyncio.Event) -> None:
    """Ask a sandbox to end as soon as somebody wants that."""
    await terminating.wait()
    sandbox.terminate()


class _NoRegularFile(Exception):
    """Something else is where a file should be: a link, a folder, a fifo."""


def _open_below(folder_fd: int, path: tuple[str, str]) -> int | None:
    """Open a file in a folder of a folder the way one opens what a stranger left: following nothing, never waiting.

    Returns:
        A descriptor, which is the caller's; None where there is nothing.

    Raises:
        _NoRegularFile: there is something else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    folder, name = path
    inner_fd = file_fd = -1
    try:
        inner_fd = os.open(folder, flags | os.O_DIRECTORY, dir_fd=folder_fd)
        file_fd = os.open(name, flags, dir_fd=inner_fd)
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, a socket, a file that not even its owner may read
        raise _NoRegularFile from error
    finally:
        if inner_fd >= 0:
            os.close(inner_fd)
    if not stat.S_ISREG(os.fstat(file_fd).st_mode):  # a folder or a fifo can be opened, too
        os.close(file_fd)
        raise _NoRegularFile
    return file_fd


def _understood(file_fd: int, most: int) -> tuple[Any, bool, str]:
    """Read an open result of at most so many bytes, and close it; returns what `_read_result` does."""
    try:
        data = b""
        while len(data) <= most and (piece := os.read(file_fd, most + 1 - len(data))):
            data = data + piece if data else piece
    finally:
        os.close(file_fd)
    if len(data) > most:
        return None, True, ""
    try:
        return strict_json.parse(data, max_bytes=most, max_depth=MAX_DOCUMENT_DEPTH), False, ""
    except strict_json.UnsoundJson as error:
        return None, False, str(error)


async def _bounded(ending: Awaitable[_T]) -> _T:
    """Wait for what must come soon: a sandbox that was killed, or one that is being made."""
    try:
        return await asyncio.wait_for(ending, _KILL_BOUND_S)
    except TimeoutError as error:
        raise PlatformError(_NOT_GONE) from error
