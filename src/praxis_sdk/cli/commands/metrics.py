"""`praxis metrics`: the executions of a time in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Final

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.observe.metrics import Average, ExecutionMetrics

DEFAULT_WINDOW: Final = "1h"
_MOST_CONTROLS: Final = 10


def metrics(
    context: typer.Context,
    window: Annotated[
        str, typer.Option("--window", "-w", metavar="TIME", help="Of what ended in this time: 15m, 1h, 7d.")
    ] = DEFAULT_WINDOW,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print the page that Prometheus reads.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show how many executions wait, run and ended, how well, how fast, and what they use."""
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.input.moments import read_duration
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    window_s = read_duration(window, "--window")
    if prometheus and as_json:
        raise ValidationError("--prometheus: cannot be combined with --json", remedy="leave out one of them")

    async def found(control: Control) -> ExecutionMetrics:
        return await measured(control, window_s)

    numbers = ask(store, found)
    if as_json:
        streams.emit_json({"metrics": numbers.to_json()})
    elif prometheus:
        from praxis_sdk.control.observe.prometheus import ControlMetrics

        page = ControlMetrics()
        page.update(numbers)
        streams.emit(page.render().decode())
    else:
        streams.emit_lines(_lines(numbers, window))
    return 0


async def measured(control: Control, window_s: float) -> ExecutionMetrics:
    """Return the numbers of the time up to now.

    Args:
        control: what the command works with.
        window_s: how long that time is, in seconds.
    """
    from praxis_sdk.control.observe.monitor import ExecutionMonitor

    return await ExecutionMonitor(control.store, control.clock).get_metrics(control.clock.time() - window_s)


def _lines(numbers: ExecutionMetrics, window: str) -> Iterator[str]:
    from praxis_sdk.cli.input.moments import write_span

    def percents(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} %"

    def spans(*values: float | None) -> str:
        return ", ".join(map(write_span, values))

    by_status = {str(status): count for status, count in numbers.by_status.items() if count}
    yield f"workers              {numbers.workers}"
    yield f"waiting              {numbers.queue_depth}, and {numbers.scheduled_executions} for their time"
    yield f"longest wait         {write_span(numbers.oldest_wait_s)}"
    yield f"running              {numbers.running_executions}"
    yield f"ended well           {numbers.completed_executions} in the last {window}"
    yield f"failed               {numbers.failed_executions}"
    yield f"success rate         {percents(numbers.success_rate)}"
    yield f"error rate           {percents(numbers.error_rate)}"
    for name, value in numbers.errors_by_type.items():
        yield f"  {name:<18} {percents(value)}"
    durations = spans(numbers.average_duration_s, numbers.p95_duration_s, numbers.p99_duration_s)
    yield f"duration             {durations} (mean, 95 %, 99 %)"
    yield f"wait                 {spans(numbers.p50_wait_s, numbers.p95_wait_s)} (median, 95 %)"
    yield f"throughput           {numbers.throughput_per_s:.3g} per second"
    yield f"retries              {numbers.retries}"
    reserved, used = numbers.resource_utilization, numbers.resource_usage
    for name in ("cpu", "memory", "network"):
        values = (getattr(reserved, f"{name}_usage"), getattr(used, f"{name}_usage"))
        yield f"{name:<20} {percents(values[0])} reserved, {percents(values[1])} used"
    yield f"by status            {', '.join(f'{count} {name}' for name, count in by_status.items()) or '-'}"
    yield from _averages(numbers.by_control)


def _averages(by_control: Mapping[str, Average]) -> Iterator[str]:
    from praxis_sdk.cli.input.moments import write_span

    most = sorted(by_control.items(), key=lambda item: (-item[1].count, item[0]))
    for name, average in most[:_MOST_CONTROLS]:
        yield f"  {name}: {average.count}, {write_span(average.mean_s)} on average"
    if len(most) > _MOST_CONTROLS:
        yield f"  and {len(most) - _MOST_CONTROLS} more (--json)"
