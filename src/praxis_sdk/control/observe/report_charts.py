"""The charts of a batch report, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final

from praxis_sdk.control.observe.reports import BatchReport, Stretch, plain, seconds
from praxis_sdk.model import AttemptEnd
from praxis_sdk.states import ExecutionStatus

# The class of each status and ending; every colour also has its word beside it.
COLOUR: Final[Mapping[ExecutionStatus, str]] = {
    ExecutionStatus.SUBMITTED: "off",
    ExecutionStatus.QUEUED: "off",
    ExecutionStatus.RUNNING: "busy",
    ExecutionStatus.CANCELLING: "busy",
    ExecutionStatus.COMPLETED: "good",
    ExecutionStatus.COMPLETED_WITH_ERRORS: "partial",
    ExecutionStatus.PARTIALLY_COMPLETED: "partial",
    ExecutionStatus.FAILED: "bad",
    ExecutionStatus.TIMED_OUT: "late",
    ExecutionStatus.CANCELLED: "off",
}
_COLOUR_OF_ENDING: Final[Mapping[AttemptEnd, str]] = {
    AttemptEnd.COMPLETED: "good",
    AttemptEnd.FAILED: "bad",
    AttemptEnd.TIMED_OUT: "late",
    AttemptEnd.CANCELLED: "off",
    AttemptEnd.PREEMPTED: "busy",
    AttemptEnd.RELEASED: "busy",
    AttemptEnd.LOST: "lost",
}

_WIDTH: Final = 1000
_LEFT: Final = 190  # for the names beside bars
_RIGHT: Final = 90
_BAR: Final = 18
_STEP: Final = 26
_LANE: Final = 16
_MAX_BINS: Final = 20
_MAX_LANES: Final = 80
_MAX_STRETCHES: Final = 5000
_LONG_TAIL: Final = 50.0  # durations that differ by more are counted in bins that double
_SHORTEST_S: Final = 1e-3  # what is shorter still is counted together
_STEPS_S: Final = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
_DAY_S: Final = 86400.0
_NAME_CHARS: Final = 26


def status_chart(report: BatchReport) -> str:
    """Draw how many executions stand where, as bars."""
    counts = [(status, report.summary.by_status.get(status, 0)) for status in ExecutionStatus]
    counts = [(status, count) for status, count in counts if count]
    if not counts:
        return _nothing("no executions")
    most = max(count for _, count in counts)
    room = _WIDTH - _LEFT - _RIGHT - 20
    parts = []
    for row, (status, count) in enumerate(counts):
        y, width = row * _STEP, max(2.0, room * count / most)
        share = 100.0 * count / report.summary.total
        parts.append(
            _label(_LEFT - 10, y + 13, status.replace("_", " "), "end")
            + _bar(_LEFT, y, width, _BAR, COLOUR[status], "")
            + _label(_LEFT + width + 8, y + 13, f"{count} ({share:.1f} %)")
        )
    return _svg(len(counts) * _STEP, "Executions by status", parts)


def duration_chart(report: BatchReport) -> str:
    """Draw how long executions took, as a histogram."""
    ended = [entry for entry in report.entries if entry.status.final]
    durations = [entry.duration_s for entry in ended if entry.duration_s is not None]
    if not durations:
        return _nothing("nothing has ended")
    edges = bins(durations)
    counts = [0] * (len(edges) - 1)
    for duration in durations:
        counts[_bin_of(duration, edges)] += 1
    height, bottom = 170, 150
    most, width = max(counts), (_WIDTH - 40) / len(counts)
    parts = [f'<line x1="20" y1="{bottom}" x2="{_WIDTH - 20}" y2="{bottom}"/>']
    every = max(1, math.ceil(len(edges) / 11))  # so many labels have room beside each other
    for number, count in enumerate(counts):
        x, tall = 20 + number * width, (bottom - 20) * count / most
        if count:
            title = f"{seconds(edges[number])} to {seconds(edges[number + 1])}: {count}"
            parts.append(_bar(x + 1, bottom - tall, width - 2, tall, "busy", title))
            parts.append(_label(x + width / 2, bottom - tall - 5, str(count), "middle", "soft"))
    for number in range(0, len(edges), every):
        anchor = "start" if number == 0 else "end" if number == len(edges) - 1 else "middle"
        parts.append(_label(20 + number * width, height - 3, _tick(edges[number]), anchor, "soft"))
    return _svg(height, "Histogram of durations", parts)


def timeline_chart(report: BatchReport) -> str:
    """Draw every attempt on its worker over time."""
    shown = report.stretches[:_MAX_STRETCHES]
    if not shown:
        return _nothing("no attempt has ended")
    lanes = lanes_of(shown)
    drawn = lanes[:_MAX_LANES]
    start = min(stretch.started_at for stretch in shown)
    span = max(max(stretch.ended_at for stretch in shown) - start, 1e-3)
    scale = (_WIDTH - _LEFT - 20) / span
    top, bottom = 22, 22 + len(drawn) * _LANE
    parts = []
    for tick in _ticks(span):
        x = _LEFT + tick * scale
        parts.append(f'<line x1="{x:.1f}" y1="{top - 4}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_label(x, 12, _tick(tick), "middle", "soft"))
    named = ""
    for row, (worker, stretches) in enumerate(drawn):
        y = top + row * _LANE
        if worker != named:
            parts.append(_label(_LEFT - 10, y + 12, _name(worker), "end"))
            named = worker
        for one in stretches:
            title = f"{one.execution_id}, attempt {one.number}: {one.ending}, {seconds(one.ended_at - one.started_at)}"
            x, width = _LEFT + (one.started_at - start) * scale, (one.ended_at - one.started_at) * scale
            parts.append(_bar(x, y + 1, max(width, 1.5), _LANE - 3, _COLOUR_OF_ENDING[one.ending], title))
    parts += _legend({stretch.ending for stretch in shown}, bottom + 22)
    chart = _svg(bottom + 30, "Attempts over workers", parts)
    hidden = len(report.stretches) - sum(len(stretches) for _, stretches in drawn)
    return chart + (_nothing(f"{hidden} more attempts are not drawn") if hidden else "")


def bins(values: Sequence[float]) -> list[float]:
    """Return edges of bins that hold all values: of equal width, or doubling where the values have a long tail."""
    longest = max(values)
    shortest = max(min(values), _SHORTEST_S)
    if longest / shortest > _LONG_TAIL:
        first = 2.0 ** math.floor(math.log2(shortest))
        needed = math.ceil(math.log2(longest / first)) or 1
        factor = 2.0 ** math.ceil(needed / (_MAX_BINS - 1))
        edges = [0.0, first]
        while edges[-1] < longest:
            edges.append(edges[-1] * factor)
        return edges
    step = _nice(max(longest, 1e-3) / _MAX_BINS)
    return [step * number for number in range(max(1, math.ceil(longest / step)) + 1)]


def lanes_of(stretches: Sequence[Stretch]) -> list[tuple[str, list[Stretch]]]:
    """Return each worker's attempts in lanes such that none of a lane overlap: as few lanes as that takes.

    Args:
        stretches: attempts by the time they began.
    """
    lanes: dict[str, list[list[Stretch]]] = {}
    for stretch in stretches:
        own = lanes.setdefault(stretch.worker_id, [])
        free = next((lane for lane in own if lane[-1].ended_at <= stretch.started_at), None)
        if free is None:
            own.append([stretch])
        else:
            free.append(stretch)
    return [(worker, lane) for worker, own in sorted(lanes.items()) for lane in own]


def _bin_of(value: float, edges: Sequence[float]) -> int:
    """The bin of a value; an edge belongs to the bin that it ends, so that the longest lies in the last."""
    number = next((number for number, edge in enumerate(edges[1:]) if value <= edge), len(edges) - 2)
    return min(number, len(edges) - 2)


def _ticks(span: float) -> list[float]:
    step = _nice(span / 8)
    return [step * number for number in range(int(span / step) + 1)]


def _nice(step: float) -> float:
    """Return the next number that people count in: 1, 2 or 5 times a power of ten, parts of minutes, hours, days."""
    if step > _DAY_S:
        return math.ceil(step / _DAY_S) * _DAY_S
    if step > 0.5:
        return next(float(larger) for larger in _STEPS_S if step <= larger)
    power = 10.0 ** math.floor(math.log10(step))
    return next((power * factor for factor in (1, 2, 5) if step <= power * factor * (1 + 1e-9)), power * 10)


def _tick(value: float) -> str:
    if value and value % 3600 == 0:
        return f"{value / 3600:.4g} h"
    if (value and value % 60 == 0) or value >= 1000:
        return f"{value / 60:.4g} m"
    return f"{value:.4g} s" if value >= 1 or value == 0 else f"{value * 1000:.4g} ms"


def _name(worker: str) -> str:
    return worker if len(worker) <= _NAME_CHARS else f"…{worker[1 - _NAME_CHARS :]}"


def _legend(endings: set[AttemptEnd], y: float) -> list[str]:
    parts: list[str] = []
    x = float(_LEFT)
    for ending in AttemptEnd:
        if ending in endings:
            parts.append(_bar(x, y - 10, 10, 10, _COLOUR_OF_ENDING[ending], ""))
            parts.append(_label(x + 15, y, ending.replace("_", " ")))
            x += 40 + 7 * len(ending)
    return parts


def _bar(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    inside = f"<title>{_text(title)}</title>" if title else ""
    return (
        f'<rect class="{colour}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2">'
        f"{inside}</rect>"
    )


def _label(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> str:
    class_ = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{class_}>{_text(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{_text(title)}">\n{inside}\n</svg>\n'


def _nothing(text: str) -> str:
    return f'<p class="soft">{_text(text)}</p>\n'


def _text(text: str) -> str:
    return html.escape(plain(text))
