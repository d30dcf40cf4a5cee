"""One piece of work in one fresh sandbox: start it, watch its limits from outside, end it, keep what it left.

The kernel enforces memory, processor time, processes and files; here are the wall clock and the size of the
streams. Whatever ends the attempt, the sandbox is dead when `run` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import IO, Final, Self, TypeVar

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.context import OutputListener
from praxis_sdk.execution.output import OutputCapture, PipeReader
from praxis_sdk.jobs import harness
from praxis_sdk.jobs.artifacts import ArtifactLimits
from praxis_sdk.jobs.artifacts.threads import in_thread
from praxis_sdk.jobs.collector import Collected, Collector, Wanted
from praxis_sdk.jobs.collector.reading import NOT_A_FILE, LeftResult, NoRegularFile, open_below, understood
from praxis_sdk.jobs.egress import EgressProxy, proxy_variables
from praxis_sdk.jobs.executor.result import NetworkUse
from praxis_sdk.jobs.payload.limits import LIMIT_OF_KILL, JobLimits, LimitName
from praxis_sdk.jobs.payload.payload import MAX_DOCUMENT_DEPTH
from praxis_sdk.json_text import SMALL_CHARS
from praxis_sdk.sandbox import Harvest, Launcher, Policy, Sandbox, SandboxExit

_RESULT: Final = (harness.RESULT_FOLDER, harness.RESULT_FILE)
_T = TypeVar("_T")
PROXY_PORT: Final = 3128  # of the loopback device of the sandbox, where nothing else listens
_KILL_BOUND_S: Final = 30.0
_NOT_GONE: Final = f"a sandbox was neither made nor gone within {_KILL_BOUND_S:g} s"
_LARGE_BYTES: Final = 8 << 20  # a folder of this size, or of so many files, is freed in a thread
_LARGE_FILES: Final = 256
_ESCAPES: Final = 6  # how much longer JSON may be than what it says, all of it escaped


@dataclass(frozen=True)
class SandboxRunEnd:
    """How an attempt ended.

    Args:
        exit: the kernel's account.
        limit: the limit that ended it, whoever enforced it.
        timed_out: the wall clock ended it.
        capture: what it wrote.
        left: what it left in its working directory.
    """

    exit: SandboxExit
    limit: LimitName | None
    timed_out: bool
    capture: OutputCapture
    left: Collected = field(default_factory=Collected)


Egress = Callable[[int], AbstractAsyncContextManager[EgressProxy]]


@dataclass
class SandboxRun:
    """A fresh sandbox for one piece of work; use it as a context, which destroys it.

    Args:
        launcher: forks the sandbox.
        collector: reads what the work leaves.
        limits: what the work may use.
        listener: called with each piece of output as it arrives.
        egress: serves the network grant on a listening socket of the sandbox; None for no network.
        terminating: once it is set the work is asked to end (SIGTERM), and may take its time; None for never.
    """

    launcher: Launcher
    collector: Collector
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
                await self._free(self._sandbox)
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

    async def end(self, leave: frozenset[str] = frozenset()) -> SandboxRunEnd:
        """Wait for the end of what was started, bring it about where a limit says so, and read what was left.

        Args:
            leave: names of files in the working directory that are no output.

        Raises:
            PlatformError: the launcher died, or what was left cannot be read.
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
        ended_well = limit is None and exit_.exit_code == 0
        return SandboxRunEnd(exit_, limit, timed_out, capture, await self._left(leave, ended_well=ended_well))

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

    async def _left(self, leave: frozenset[str], *, ended_well: bool) -> Collected:
        """Read what was left; nobody is alive who could change it."""
        leave |= {harness.RESULT_FOLDER, "__pycache__"}
        with_artifacts = ended_well and _holds_more_than(leave, self.outputs.fd)
        if not with_artifacts:
            short = _short_result(self.outputs.fd)
            if short is not None:
                return Collected(short)
        return await self.collector.collect(
            self.outputs.fd,
            Wanted(
                result=_RESULT,
                result_bytes=_most(self.limits),
                outputs_bytes=self.limits.outputs_bytes,
                max_depth=MAX_DOCUMENT_DEPTH,
                artifacts=_artifact_limits(self.limits) if with_artifacts else None,
                exclude=leave,
                cpu_s=self.limits.collect_s,
            ),
        )

    async def _free(self, sandbox: Sandbox) -> None:
        """Close a sandbox; the kernel frees its files while it is being closed, which may take seconds."""
        if sandbox.harvest:
            space = os.fstatvfs(sandbox.harvest[0].fd)
            used_bytes = (space.f_blocks - space.f_bfree) * space.f_frsize
            if used_bytes > _LARGE_BYTES or space.f_files - space.f_ffree > _LARGE_FILES:
                await in_thread(sandbox.close)
                return
        sandbox.close()


def _short_result(folder_fd: int) -> LeftResult | None:
    """Read a result that is understood sooner than another process is asked; None for a longer one."""
    try:
        file_fd = open_below(folder_fd, *_RESULT)
    except NoRegularFile:
        return LeftResult(problem=NOT_A_FILE)
    if file_fd is None:
        return LeftResult()
    try:
        if os.fstat(file_fd).st_size > SMALL_CHARS:
            return None
        return understood(file_fd, SMALL_CHARS, MAX_DOCUMENT_DEPTH)
    finally:
        os.close(file_fd)


def _most(limits: JobLimits) -> int:
    """Return how long a result file may be whose value is within its limit: JSON may be all escapes."""
    return (limits.outputs_bytes + harness.MAX_TRACEBACK_CHARS) * _ESCAPES + (64 << 10)


def _artifact_limits(limits: JobLimits) -> ArtifactLimits:
    return ArtifactLimits(
        artifact_count=limits.artifact_count,
        artifact_total_bytes=limits.artifact_total_bytes,
        scratch_bytes=limits.scratch_bytes,
        file_size_bytes=limits.file_size_bytes,
        files=limits.files,
    )


def _holds_more_than(names: frozenset[str], folder_fd: int) -> bool:
    with os.scandir(folder_fd) as entries:
        return any(entry.name not in names for entry in entries)


async def _ask(sandbox: Sandbox, terminating: asyncio.Event) -> None:
    """Ask a sandbox to end as soon as somebody wants that."""
    await terminating.wait()
    sandbox.terminate()


async def _bounded(ending: Awaitable[_T]) -> _T:
    """Wait for what must come soon: a sandbox that was killed, or one that is being made."""
    try:
        return await asyncio.wait_for(ending, _KILL_BOUND_S)
    except TimeoutError as error:
        raise PlatformError(_NOT_GONE) from error
