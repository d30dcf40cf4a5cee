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
from praxis_sdk.jobs.egress import EgressProxy, proxy_variables
from praxis_sdk.jobs.limits import LIMIT_OF_KILL, JobLimits, LimitName
from praxis_sdk.jobs.payload import MAX_DOCUMENT_DEPTH
from praxis_sdk.jobs.result import NetworkUse
from praxis_sdk.sandbox import Harvest, Launcher, Policy, Sandbox, SandboxExit

_RESULT: Final = (harness.RESULT_FOLDER, harness.RESULT_FILE)
_T = TypeVar("_T")
PROXY_PORT: Final = 3128  # of the loopback device of the sandbox, where nothing else listens
_KILL_BOUND_S: Final = 30.0
_ESCAPES: Final = 6  # how much longer JSON may be than what it says, all of it escaped


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Args:
        exit: the kernel's account.
        limit: the limit that ended it, whoever enforced it.
        timed_out: the wall clock ended it.
        capture: what it wrote.
        result: the harness's result; None where there is none or it is damaged.
        result_too_long: the result exceeded its limit.
        result_problem: why what was left as a result is none; "" where nothing is wrong with it.
    """

    exit: SandboxExit
    limit: LimitName | None
    timed_out: bool
    capture: OutputCapture
    result: Mapping[str, Any] | None = None
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
    """

    launcher: Launcher
    limits: JobLimits
    listener: OutputListener | None = None
    egress: Egress | None = None
    _served: EgressProxy | None = None
    _sandbox: Sandbox | None = None
    _readers: list[PipeReader] = field(default_factory=list)
    _proxy: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._sandbox is not None:
                self._sandbox.kill()
                await asyncio.shield(_bounded(self._sandbox.wait()))
        finally:
            await self._proxy.aclose()
            if self._sandbox is not None:
                self._sandbox.close()
            for reader in self._readers:
                reader.close()

    async def run(self, order: IO[bytes], variables: Mapping[str, str]) -> Ended:
        """Carry out an order.

        Args:
            order: an open order; it stays the caller's.
            variables: environment variables beside those of the environment.

        Raises:
            IsolationUnavailable: this host cannot build the sandbox.
            PlatformError: the launcher died.
        """
        capture = OutputCapture(
            self.limits.stdout_bytes, self.listener, stderr_limit_bytes=self.limits.stderr_bytes
        )
        await self._start(order, variables, capture)
        assert self._sandbox is not None
        if self.egress is not None:
            listening = os.dup(self._sandbox.listener_fd)
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
        # A descriptor of its own for the thread: whoever is cancelled closes the other one.
        folder_fd = os.dup(self.outputs.fd)
        result, too_long, problem = await asyncio.to_thread(self._read_result, folder_fd)
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
        ending = asyncio.ensure_future(sandbox.wait())
        try:
            events: set[asyncio.Future[Any]] = {ending, capture.overflow}
            await asyncio.wait(events, timeout=self.limits.wall_s, return_when=asyncio.FIRST_COMPLETED)
            timed_out = not ending.done() and not capture.overflow.done()
            if not ending.done():
                sandbox.kill()
            exit_ = await _bounded(asyncio.shield(ending))
            for reader in self._readers:
                await reader.wait()
            return exit_, timed_out
        finally:
            ending.cancel()

    def _read_result(self, folder_fd: int) -> tuple[Mapping[str, Any] | None, bool, str]:
        """Read the result file the way one opens what a stranger left: by descriptor, following nothing.

        Returns:
            The result, whether it is too long, and what else is wrong with it.
        """
        most = self.limits.outputs_bytes * _ESCAPES + harness.MAX_TRACEBACK_CHARS * _ESCAPES + (64 << 10)
        try:
            data = _read_below(folder_fd, _RESULT, most + 1)
        finally:
            os.close(folder_fd)
        if data is None:
            return None, False, ""
        if len(data) > most:
            return None, True, ""
        try:
            document = strict_json.parse(data, max_bytes=most, max_depth=MAX_DOCUMENT_DEPTH)
        except strict_json.UnsoundJson as error:
            return None, False, str(error)
        return (document, False, "") if isinstance(document, dict) else (None, False, "not a JSON object")


def _read_below(folder_fd: int, path: tuple[str, str], max_bytes: int) -> bytes | None:
    """Return the start of a regular file in a folder of a folder; None where there is none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    folder, name = path
    try:
        inner_fd = os.open(folder, flags | os.O_DIRECTORY, dir_fd=folder_fd)
    except OSError:
        return None
    try:
        file_fd = os.open(name, flags, dir_fd=inner_fd)
    except OSError:
        return None
    finally:
        os.close(inner_fd)
    try:
        if not stat.S_ISREG(os.fstat(file_fd).st_mode):  # a folder or a fifo can be opened, too
            return None
        with open(file_fd, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(file_fd)


async def _bounded(ending: Awaitable[_T]) -> _T:
    """Wait for what must come soon: a sandbox that was killed, or one that is being made."""
    try:
        return await asyncio.wait_for(ending, _KILL_BOUND_S)
    except TimeoutError as error:
        raise PlatformError(f"a sandbox was neither made nor gone within {_KILL_BOUND_S:g} s") from error
