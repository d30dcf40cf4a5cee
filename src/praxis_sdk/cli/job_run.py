"""One job, run by an executor of this process's own, and what people are told about it meanwhile."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from praxis_sdk.cli.home import Home, ready_environment
from praxis_sdk.cli.terminal.interrupts import interruptible, run_interruptibly, uninterrupted
from praxis_sdk.cli.terminal.job_report import summary
from praxis_sdk.cli.terminal.live import LiveOutput
from praxis_sdk.cli.terminal.streams import Streams, Tone

if TYPE_CHECKING:
    from praxis_sdk.execution.context import StreamName
    from praxis_sdk.jobs import JobPayload, JobResult

_TOLD_BY_THE_JOB: Final = ("exception", "exit_nonzero")
Deliver = Callable[["JobResult"], Awaitable[None]]


class JobRun:
    """Runs one job; whatever happens, nothing of it is left running.

    Args:
        home: where everything is kept.
        streams: where people are told.
        show: pass the job's output on as it arrives, and sum up.
        quiet: no lines for people but errors.
    """

    def __init__(self, home: Home, streams: Streams, *, show: bool, quiet: bool) -> None:
        self._home = home
        self._streams = streams
        self._show = show
        self._quiet = quiet
        self._live: LiveOutput | None = None
        self.served_by: str | None = None

    def tell(self, text: str, tone: Tone = "plain") -> None:
        """Tell people a line, in order with the job's output."""
        if not self._quiet:
            (self._live or self._streams).say(text, tone)

    def perform(
        self, environment: str, make: Callable[[], Awaitable[JobPayload]], deliver: Deliver | None = None
    ) -> JobResult:
        """Make an environment ready, run a job in it and hand over what it leaves.

        Args:
            environment: its name or version.
            make: makes the payload.
            deliver: called with the result when all output is shown.

        Raises:
            Interrupted: a signal ended it.
            ValidationError: no such environment.
            PlatformError: the platform failed.
        """
        with interruptible(self.tell):
            self._home.make_writable()
            ready_environment(self._home.environments(), environment, self.tell)
        return run_interruptibly(self._perform(make, deliver), on_signal=self.tell)

    async def _perform(self, make: Callable[[], Awaitable[JobPayload]], deliver: Deliver | None) -> JobResult:
        running = asyncio.ensure_future(self._run(make))
        live = self._live = LiveOutput(self._streams, on_failure=running.cancel)
        try:
            result = await running
            live.end()
            self._sum_up(result)
            await live.drain()
            if deliver is not None:
                await deliver(result)
                await live.drain()
        except BaseException:
            await live.break_off()
            if live.failure is not None:
                raise live.failure from None
            raise
        if live.failure is not None:
            raise live.failure
        self._live = None  # whatever is told from here on is told at once
        return result

    async def _run(self, make: Callable[[], Awaitable[JobPayload]]) -> JobResult:
        from praxis_sdk.cli.direct import run_directly
        from praxis_sdk.control.kinds.job import JobKind
        from praxis_sdk.control.lifecycle.submission import Submission

        payload = await make()
        kind = JobKind(
            functools.partial(self._home.executor, for_one=True),
            ceiling=self._home.job_limits,
            listen=self._hear if self._show else None,
            tell=lambda _, line: self.tell(line),
        )
        try:
            result: JobResult = await run_directly(
                kind, Submission(kind.name, payload.to_json(), id=payload.job_id)
            )
        finally:
            await uninterrupted(kind.close())
        if result.from_cache and result.dedupe_key is not None:
            origin = self._home.results().equal(result.dedupe_key)
            self.served_by = origin.job_id if origin is not None else None
        return result

    def _hear(self, _: str, stream: StreamName, data: bytes) -> asyncio.Future[None] | None:
        assert self._live is not None
        return self._live.feed(stream, data)

    def _sum_up(self, result: JobResult) -> None:
        if not self._show:
            return
        if self._quiet and result.failure is not None and result.failure.code not in _TOLD_BY_THE_JOB:
            # Neither an exit code nor a traceback of the job's own: without this line nobody would know.
            (self._live or self._streams).say(result.failure.message, "bad")
        *lines, verdict = summary(result, self.served_by)
        for line in lines:
            self.tell(line)
        self.tell(verdict, "good" if result.succeeded else "bad")
