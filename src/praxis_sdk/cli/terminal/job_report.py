"""How a job ended: as an exit status, and as lines for people."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.states import ExecutionStatus, FailureCategory
from praxis_sdk.units import format_bytes

if TYPE_CHECKING:
    from praxis_sdk.jobs import JobResult
    from praxis_sdk.jobs.artifacts import Artifact
    from praxis_sdk.jobs.executor.result import NetworkUse

MAX_LINES: Final = 20  # of artifacts in a summary; --json has them all
_MAX_OUTPUT_CHARS: Final = 200
_EXIT_TIMED_OUT: Final = 124
_EXIT_KILLED: Final = 128 + signal.SIGKILL
# Jobs that were never started: as a shell says it of a missing command, and Praxis of its own failures; what
# does not exist and was named on the command line is the user's mistake.
_STATUS_OF_CODE: Final = {"unknown_runtime": 2, "environment_missing": 2}
_STATUS_OF_REFUSAL: Final = {
    FailureCategory.VALIDATION_ERROR: 2,
    FailureCategory.DEPENDENCY_ERROR: 127,
    FailureCategory.INTERNAL_ERROR: 3,
}


def exit_status(result: JobResult) -> int:
    """Return the exit status of a command that ran this job: the job's own where it has one."""
    if result.succeeded or result.failure is None:
        return 0
    if result.status is ExecutionStatus.TIMED_OUT:
        return _EXIT_TIMED_OUT
    if result.exit_code is not None:
        return result.exit_code or 1
    if result.signal is not None and result.failure.code == "killed_by_signal":
        return 128 + result.signal
    if result.limit is not None or result.failure.category is FailureCategory.SANDBOX_VIOLATION:
        return _EXIT_KILLED
    status = _STATUS_OF_REFUSAL.get(result.failure.category, 1)
    return _STATUS_OF_CODE.get(result.failure.code, status)


def outcome_line(result: JobResult, served_by: str | None = None) -> str:
    """Say in one line how a job ended.

    Args:
        result: of the job.
        served_by: the equal, earlier job whose result it is.
    """
    status = str(result.status).replace("_", " ")
    if result.from_cache:
        origin = served_by or "an equal job"
        return f"{result.job_id} {status} as {origin} did, which is the same job (--fresh runs it again)"
    place = f" in {result.env_version}" if result.env_version else ""
    duration_s = result.timings.run_s
    time = f" in {duration_s:.2f} s" if duration_s is not None else ""
    reason = result.failure.message if result.failure else f"exit code {result.exit_code or 0}"
    return f"{result.job_id} {status}{place}{time}: {reason}"


def usage_line(result: JobResult) -> str:
    """Say in one line what a job used."""
    usage = result.usage
    parts = []
    if usage.cpu_s is not None:
        parts.append(f"{usage.cpu_s:.2f} s of processor time")
    if usage.peak_memory_bytes is not None:
        parts.append(f"{format_bytes(usage.peak_memory_bytes)} of memory")
    if usage.peak_processes is not None and usage.peak_processes > 1:
        parts.append(f"{usage.peak_processes} processes at once")
    if usage.scratch_bytes is not None:
        parts.append(f"{format_bytes(usage.scratch_bytes)} in {usage.files} files")
    return "used " + (", ".join(parts) or "what nobody could measure")


def output_line(outputs: Any) -> str:
    """Write a JSON value as one line, cut where it is long."""
    text = json.dumps(outputs, ensure_ascii=False)
    return (
        text if len(text) <= _MAX_OUTPUT_CHARS else f"{text[:_MAX_OUTPUT_CHARS]}... ({len(text)} characters)"
    )


def artifact_lines(artifacts: Sequence[Artifact], *, most: int = MAX_LINES) -> Iterator[str]:
    """Write artifacts as a table: name, kind, format, size, digest; nothing where there are none."""
    if not artifacts:
        return
    rows = [("artifact", "kind", "format", "size", "digest")]
    rows += [
        (one.name, str(one.kind), one.format, format_bytes(one.size_bytes), one.digest)
        for one in artifacts[:most]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(artifacts) > most:
        yield f"and {len(artifacts) - most} more"


def network_lines(uses: Sequence[NetworkUse], *, most: int = MAX_LINES) -> Iterator[str]:
    """Write each use of the network grant, and each attempt at more, as one line."""
    for use in uses[:most]:
        place = f"[{use.host}]:{use.port}" if ":" in use.host else f"{use.host}:{use.port}"
        if use.allowed:
            moved = f"{format_bytes(use.sent_bytes)} sent, {format_bytes(use.received_bytes)} received"
            yield f"network: {place}: {moved}" + (f": {use.reason}" if use.reason else "")
        else:
            yield f"network: {place}: refused: {use.reason}"
    if len(uses) > most:
        yield f"network: and {len(uses) - most} more"


def summary(result: JobResult, served_by: str | None = None) -> Iterator[str]:
    """Say how a job ended, in lines for people, the verdict last."""
    if result.outputs is not None:
        yield f"output: {output_line(result.outputs)}"
    for one in result.rejected_artifacts[:MAX_LINES]:
        yield f"no artifact: {one.name}: {one.reason}"
    yield from artifact_lines(result.artifacts)
    if not result.from_cache:
        yield from network_lines(result.network)
    if result.env_version is not None and not result.from_cache and result.timings.run_s is not None:
        yield usage_line(result)
    yield outcome_line(result, served_by)
