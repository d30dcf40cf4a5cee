"""Batch reports: what came of executions that were submitted together (spec 4, property 40).

One record, and three ways to write it: JSON for programs, Markdown for tickets and mails, and a page for people
(`control.report_page`). Pure: what is reported is handed over.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from praxis_sdk.control.observe.metrics import percent, percentile
from praxis_sdk.model import Attempt, AttemptEnd, Batch, Execution
from praxis_sdk.states import ExecutionStatus

MAX_RESULT_CHARS: Final = 200

_MARKDOWN_SPECIAL: Final = frozenset("\\`*_{}[]<>()#+!|~&")


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """One execution of a batch.

    Args:
        id, kind, control, labels: what it was.
        status, reason: how it stands or ended.
        submitted_at, started_at, ended_at: when, seconds since 1970.
        wait_s: from its submission to its first attempt.
        duration_s: from its first attempt to its end, or until now.
        attempts, retries, preemptions: what it took.
        workers: who worked on it, in order.
        cpu_s, peak_memory_bytes: what its attempts used together, and at most.
        error: why it failed: category, error type, code and message; None where it did not.
        flags: what somebody should look at.
        outputs: what it returned, JSON.
    """

    id: str
    kind: str
    control: str
    labels: Mapping[str, str]
    status: ExecutionStatus
    reason: str
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    wait_s: float | None
    duration_s: float | None
    attempts: int
    retries: int
    preemptions: int
    workers: tuple[str, ...]
    cpu_s: float | None
    peak_memory_bytes: int | None
    error: Mapping[str, str] | None
    flags: tuple[str, ...]
    outputs: Any


@dataclass(frozen=True, slots=True)
class Stretch:
    """One attempt on the time line.

    Args:
        execution_id, number: which.
        worker_id: who made it.
        started_at, ended_at: from when to when.
        ending: how it ended.
    """

    execution_id: str
    number: int
    worker_id: str
    started_at: float
    ended_at: float
    ending: AttemptEnd


@dataclass(frozen=True, slots=True)
class Summary:
    """A batch in numbers; rates in percent, None where nothing is known.

    Args:
        total: executions.
        ended: those that ended.
        by_status: how many stand where; statuses of none are left out.
        success_rate, error_rate, errors_by_type: as in `ExecutionMetrics`.
        started_at, ended_at: when the first began, and when the last ended; seconds since 1970.
        makespan_s: between the two.
        total_duration_s: the sum of all durations.
        average_duration_s, min_duration_s, p50_duration_s, p95_duration_s, p99_duration_s, max_duration_s: of those
            that ended.
        p50_wait_s, p95_wait_s: from submission to the first attempt.
        retries, preemptions: in all.
        cpu_s: processor time of all attempts, as far as it is known.
        ended_late: those that ended after the batch's window, or still go on after it.
    """

    total: int
    ended: int
    by_status: Mapping[str, int]
    success_rate: float | None
    error_rate: float | None
    errors_by_type: Mapping[str, int]
    started_at: float | None
    ended_at: float | None
    makespan_s: float | None
    total_duration_s: float
    average_duration_s: float | None
    min_duration_s: float | None
    p50_duration_s: float | None
    p95_duration_s: float | None
    p99_duration_s: float | None
    max_duration_s: float | None
    p50_wait_s: float | None
    p95_wait_s: float | None
    retries: int
    preemptions: int
    cpu_s: float | None
    ended_late: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What came of a batch.

    Args:
        batch: which.
        made_at: when this was written, seconds since 1970.
        complete: every execution of it has ended.
        summary: in numbers.
        entries: each execution's result, in the order of submission.
        stretches: every attempt, by time.
    """

    batch: Batch
    made_at: float
    complete: bool
    summary: Summary
    entries: tuple[ReportEntry, ...]
    stretches: tuple[Stretch, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "batch": dataclasses.asdict(self.batch),
            "made_at": self.made_at,
            "complete": self.complete,
            "summary": dataclasses.asdict(self.summary),
            "executions": [
                {**dataclasses.asdict(entry), "status": str(entry.status), "workers": list(entry.workers)}
                for entry in self.entries
            ],
            "attempts": [{**dataclasses.asdict(one), "ending": str(one.ending)} for one in self.stretches],
        }


def report_batch(
    batch: Batch,
    executions: Iterable[Execution],
    attempts: Mapping[str, Sequence[Attempt]],
    now: float,
) -> BatchReport:
    """Return the report of a batch (spec 4, property 40).

    Args:
        batch: which.
        executions: all of it, with outputs where they shall be reported.
        attempts: the attempts that ended, by execution.
        now: seconds since 1970.
    """
    ordered = sorted(executions, key=lambda execution: (execution.submitted_at, execution.id))
    entries = tuple(_entry(execution, attempts.get(execution.id, ()), now) for execution in ordered)
    stretches = [
        Stretch(one.execution_id, one.number, one.worker_id, one.started_at, one.ended_at, one.ending)
        for execution in ordered
        for one in attempts.get(execution.id, ())
    ]
    stretches.sort(key=lambda one: (one.started_at, one.execution_id, one.number))
    summary = _summary(batch, entries, now)
    return BatchReport(
        batch=batch,
        made_at=now,
        complete=len(entries) >= batch.size and summary.ended == summary.total,
        summary=summary,
        entries=entries,
        stretches=tuple(stretches),
    )


def _entry(execution: Execution, attempts: Sequence[Attempt], now: float) -> ReportEntry:
    usages = [attempt.usage for attempt in attempts if attempt.usage is not None]
    cpu_s = [usage.cpu_s for usage in usages if usage.cpu_s is not None]
    memory = [usage.peak_memory_bytes for usage in usages if usage.peak_memory_bytes is not None]
    failure = None if execution.status.succeeded else execution.failure
    started = execution.started_at
    return ReportEntry(
        id=execution.id,
        kind=execution.kind,
        control=execution.control,
        labels=dict(execution.labels),
        status=execution.status,
        reason=execution.reason,
        submitted_at=execution.submitted_at,
        started_at=started,
        ended_at=execution.ended_at,
        wait_s=None if started is None else max(0.0, started - execution.submitted_at),
        duration_s=None if started is None else execution.elapsed_s(now),
        attempts=execution.attempt,
        retries=execution.retries,
        preemptions=execution.preemptions,
        workers=tuple(dict.fromkeys(attempt.worker_id for attempt in attempts)),
        cpu_s=sum(cpu_s) if cpu_s else None,
        peak_memory_bytes=max(memory, default=None),
        error=None
        if failure is None
        else {
            "category": str(failure.category),
            "error_type": str(failure.error_type),
            "code": failure.code,
            "message": failure.message,
        },
        flags=tuple(str(flag) for flag in execution.flags),
        outputs=execution.outputs,
    )


def _summary(batch: Batch, entries: Sequence[ReportEntry], now: float) -> Summary:
    ended = [entry for entry in entries if entry.status.final]
    judged = [entry for entry in ended if entry.status is not ExecutionStatus.CANCELLED]
    failed = [e for e in judged if e.status in (ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT)]
    durations = sorted(entry.duration_s for entry in ended if entry.duration_s is not None)
    waits = sorted(entry.wait_s for entry in entries if entry.wait_s is not None)
    started_at = min((entry.started_at for entry in entries if entry.started_at is not None), default=None)
    ended_at = max((entry.ended_at for entry in ended if entry.ended_at is not None), default=None)
    cpu_s = [entry.cpu_s for entry in entries if entry.cpu_s is not None]
    by_status = Counter(str(entry.status) for entry in entries)
    errors = Counter(entry.error["error_type"] if entry.error else "unknown" for entry in failed)
    closes_at = batch.closes_at
    late = [entry for entry in entries if closes_at is not None and (entry.ended_at or now) > closes_at]
    return Summary(
        total=len(entries),
        ended=len(ended),
        by_status={str(status): by_status[status] for status in ExecutionStatus if by_status[status]},
        success_rate=percent(sum(entry.status.succeeded for entry in judged), len(judged)),
        error_rate=percent(len(failed), len(judged)),
        errors_by_type=dict(sorted(errors.items())),
        started_at=started_at,
        ended_at=ended_at,
        makespan_s=None if started_at is None or ended_at is None else max(0.0, ended_at - started_at),
        total_duration_s=sum(durations),
        average_duration_s=sum(durations) / len(durations) if durations else None,
        min_duration_s=durations[0] if durations else None,
        p50_duration_s=percentile(durations, 50),
        p95_duration_s=percentile(durations, 95),
        p99_duration_s=percentile(durations, 99),
        max_duration_s=durations[-1] if durations else None,
        p50_wait_s=percentile(waits, 50),
        p95_wait_s=percentile(waits, 95),
        retries=sum(entry.retries for entry in entries),
        preemptions=sum(entry.preemptions for entry in entries),
        cpu_s=sum(cpu_s) if cpu_s else None,
        ended_late=len(late),
    )


# -- for people


def facts(report: BatchReport) -> list[tuple[str, str]]:
    """Return the summary as pairs of a name and a text."""
    summary = report.summary
    return [
        ("Executions", f"{summary.total}, of which {summary.ended} have ended"),
        ("Success rate", percents(summary.success_rate)),
        ("Error rate", percents(summary.error_rate)),
        ("Began", moment(summary.started_at)),
        ("Last end", moment(summary.ended_at)),
        ("Makespan", seconds(summary.makespan_s)),
        ("Average duration", seconds(summary.average_duration_s)),
        (
            "Median, 95 %, 99 %",
            ", ".join(
                seconds(value)
                for value in (summary.p50_duration_s, summary.p95_duration_s, summary.p99_duration_s)
            ),
        ),
        ("Waiting, median, 95 %", f"{seconds(summary.p50_wait_s)}, {seconds(summary.p95_wait_s)}"),
        ("Processor time", seconds(summary.cpu_s)),
        ("Retries, preemptions", f"{summary.retries}, {summary.preemptions}"),
        *([("Ended after the window", str(summary.ended_late))] if report.batch.closes_at else []),
    ]


def result_line(entry: ReportEntry) -> str:
    """Return an execution's result in one bounded line: why it failed, or what it returned."""
    if entry.error is not None:
        return _short(f"{entry.error['code']}: {entry.error['message']}")
    if entry.outputs is None:
        return _short(entry.reason)
    return _short(json.dumps(entry.outputs, ensure_ascii=False, default=str))


def to_markdown(report: BatchReport) -> str:
    """Write the report as Markdown."""
    state = "complete" if report.complete else "not complete yet"
    lines = [
        f"# Batch {_escaped(report.batch.name or report.batch.id)}",
        "",
        f"{_escaped(report.batch.id)}, {state}, as of {moment(report.made_at)}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {_escaped(text)} |" for name, text in facts(report)),
        "",
        "## Statuses",
        "",
        "| Status | Executions |",
        "| --- | ---: |",
        *(f"| {_escaped(status)} | {count} |" for status, count in report.summary.by_status.items()),
        "",
    ]
    if report.summary.errors_by_type:
        lines += ["## Errors", "", "| Type | Executions |", "| --- | ---: |"]
        lines += [f"| {name} | {count} |" for name, count in report.summary.errors_by_type.items()] + [""]
    lines += [
        "## Executions",
        "",
        "| Execution | Control | Status | Duration | Attempts | Result |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for entry in report.entries:
        names = (entry.id, entry.control, str(entry.status))
        cells = (*map(_escaped, names), seconds(entry.duration_s), str(entry.attempts))
        lines.append(f"| {' | '.join(cells)} | {_escaped(result_line(entry))} |")
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Return a text on one line without characters that control a terminal or turn the direction of writing."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


def seconds(value: float | None) -> str:
    """Write a duration: '0.123 s', '12.3 s', '5 m 12 s', '2 h 05 m'."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.3f} s"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def moment(at: float | None) -> str:
    """Write a time in UTC, to the second."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percents(value: float | None) -> str:
    """Write a percentage."""
    return "–" if value is None else f"{value:.1f} %"


def _short(text: str) -> str:
    line = " ".join(plain(text).split())
    return line if len(line) <= MAX_RESULT_CHARS else line[: MAX_RESULT_CHARS - 1] + "…"


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in _MARKDOWN_SPECIAL else char for char in plain(text))
