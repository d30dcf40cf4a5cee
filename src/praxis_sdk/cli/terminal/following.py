"""Following an execution to its end: what it writes passes through as it arrives, and what becomes of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from praxis_sdk.cli.chosen_store import ChosenStore
from praxis_sdk.cli.control_plane import Control, connected
from praxis_sdk.cli.own_worker import OwnWorker
from praxis_sdk.cli.terminal.interrupts import Interrupted, run_interruptibly
from praxis_sdk.cli.terminal.live import LiveOutput
from praxis_sdk.cli.terminal.streams import Streams, Tone
from praxis_sdk.control.observe.output import with_output
from praxis_sdk.model import WORK, Event, EventType, Execution, Level
from praxis_sdk.states import ExecutionStatus

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from praxis_sdk.execution.context import StreamName

TOLD: Final = frozenset(EventType) - {EventType.ACTION, EventType.DATA_ACCESS, EventType.PROOF}
_WRITTEN_AT_ONCE: Final = 256  # events, or 4 KiB of output, before whoever reads stdout is waited for

T = TypeVar("T")


class Following:
    """Follows executions and tells people of them.

    Args:
        streams: where people are told.
        show: pass the work's output on.
        quiet: no lines for people but errors.
    """

    def __init__(self, streams: Streams, *, show: bool, quiet: bool) -> None:
        self._streams = streams
        self._show = show
        self._quiet = quiet
        self._live: LiveOutput | None = None
        self._unseen = 0  # since whoever reads was waited for
        self.followed = ""  # the execution, once it is known
        self.gave_back = False  # this process would have run it
        self.on_leaving = ""  # said in place of that, where something else was waited for

    def tell(self, text: str, tone: Tone = "plain") -> None:
        """Tell people a line, in order with the work's output."""
        if not self._quiet:
            (self._live or self._streams).say(text, tone)

    def perform(self, given: str | None, work: Callable[[Control], Coroutine[Any, Any, T]]) -> T:
        """Open the store that the user names and do something with live output.

        Args:
            given: the option `--store`.
            work: what is done.

        Raises:
            Interrupted: a signal ended it; the execution that was followed is not ended by that.
        """
        chosen = ChosenStore.of_user(given)
        self._streams.reserve_stdout()
        try:
            return run_interruptibly(self._perform(chosen, work), on_signal=lambda _: None)
        except Interrupted as interruption:
            raise Interrupted(interruption.number, self._left(interruption)) from None

    async def _perform(self, chosen: ChosenStore, work: Callable[[Control], Coroutine[Any, Any, T]]) -> T:
        async with connected(chosen) as control:
            doing = asyncio.ensure_future(work(control))
            live = self._live = LiveOutput(self._streams, on_failure=doing.cancel)
            try:
                result = await doing
                live.end()
                await live.drain()
            except BaseException:
                if not doing.done():
                    doing.cancel()
                    await asyncio.wait([doing])
                await live.break_off()
                if live.failure is not None:
                    raise live.failure from None
                raise
            finally:
                self._live = None
        if live.failure is not None:
            raise live.failure
        return result

    async def follow(self, control: Control, execution_id: str, kind: str, *, after: int = -1) -> Execution:
        """Show what an execution writes and becomes until it ends; where nobody would run it, run it here.

        Args:
            control: what the command works with.
            execution_id, kind: of the execution.
            after: the sequence number after which to begin.

        Returns:
            The execution as it ended.
        """
        self.followed = execution_id
        known = await control.store.get(execution_id)
        own = OwnWorker(control, [] if known.status.final else [kind], self.tell)
        try:
            async with own:
                async for event in control.coordinator.tail(execution_id, after=after, types=TOLD):
                    if self._show:
                        self.pass_on(event)
                        await self.written(event)
                execution = await control.store.get(execution_id)
                if not self._show:  # the caller has nothing of what it wrote
                    execution = await with_output(control.store, execution)
                self.followed = ""
                self._sum_up(execution)
                if self._live is not None:
                    await self._live.drain()
        finally:
            self.gave_back = own.was_needed
        return execution

    def pass_on(self, event: Event) -> None:
        """Pass the work's own output on to where it wrote it, as it is, and tell of all else."""
        if event.type is EventType.LOG and event.component == WORK:
            stream: StreamName = "stderr" if event.data.get("stream") == "stderr" else "stdout"
            if event.chunk:
                assert self._live is not None
                self._live.feed(stream, event.chunk)
            else:
                self.write(event.message, stream)
            return
        for text in told(event):
            self.tell(text, "doubt" if event.level is Level.WARN else "plain")

    def write(self, line: str, stream: StreamName = "stdout") -> None:
        """Write a line as it is."""
        assert self._live is not None
        self._live.feed(stream, f"{line}\n".encode("utf-8", "replace"))

    async def written(self, event: Event | None = None) -> None:
        """Wait until whoever reads has taken what was passed on.

        Args:
            event: what was passed on last: it is waited for only where that is much by now.
        """
        if event is not None:
            self._unseen += 1 + (len(event.chunk) >> 12)
            if self._unseen < _WRITTEN_AT_ONCE:
                return
        self._unseen = 0
        if self._live is not None:
            await self._live.drain()

    def _sum_up(self, execution: Execution) -> None:
        if not self._show:
            return
        if self._quiet:
            if execution.failure is not None and not execution.status.succeeded:
                (self._live or self._streams).say(execution.failure.message, "bad")
            return
        *lines, verdict = summary(execution)
        for line in lines:
            self.tell(line)
        self.tell(verdict, "good" if execution.status.succeeded else "bad")

    def _left(self, interruption: Interrupted) -> str:
        name = interruption.number.name
        if self.on_leaving:
            return f"{name}: {self.on_leaving}"
        if not self.followed:
            return f"ended by {name}"
        goes_on = "went back to the queue" if self.gave_back else "goes on"
        return (
            f"{name}: {self.followed} {goes_on}: 'praxis logs -f {self.followed}' follows it, "
            f"'praxis cancel {self.followed}' ends it"
        )


def told(event: Event) -> Iterator[str]:
    """Say in words what an event means for whoever waits; nothing where it means nothing to them."""
    data = event.data
    match event.type:
        case EventType.LOG | EventType.RETRY | EventType.ALERT:
            yield event.message
        case EventType.DECISION if event.level is Level.WARN:
            yield event.message
        case EventType.PROGRESS if "progress" in data:
            yield f"{data['progress']:.0%} {event.message}".rstrip()
        case EventType.STATUS if data.get("to") == ExecutionStatus.RUNNING:
            attempt = f"attempt {data['attempt']} " if data.get("attempt", 1) > 1 else ""
            yield f"{attempt}runs on {data.get('worker', 'a worker')}"
        case EventType.STATUS if data.get("to") == ExecutionStatus.CANCELLING:
            yield f"is being cancelled: {data.get('reason', '')}"
        case EventType.STATUS if data.get("from") == ExecutionStatus.RUNNING and data.get("to") == "queued":
            yield f"waits in the queue again: {data.get('reason', '')}"


def summary(execution: Execution) -> Iterable[str]:
    """Say how an execution ended, in lines for people, the verdict last."""
    if execution.kind == "job" and isinstance(execution.result, dict):
        from praxis_sdk.cli.terminal import job_report
        from praxis_sdk.jobs.executor.result import parse_result

        return [*job_report.summary(parse_result({**execution.result, "outputs": execution.outputs}))]
    status = str(execution.status).replace("_", " ")
    took = f" in {execution.elapsed_s(execution.ended_at or 0.0):.2f} s" if execution.started_at else ""
    why = f": {execution.reason}" if execution.reason else ""
    return [f"{execution.id} {status}{took}{why}"]
