"""What the end of a job means (DESIGN, table of failures): pure, from facts to a failure."""

from __future__ import annotations

import os

from praxis_sdk.jobs.adapters.base import Findings
from praxis_sdk.jobs.environments.inspection import INSIDE
from praxis_sdk.jobs.environments.store import Environment
from praxis_sdk.jobs.executor.attempt import SandboxRunEnd
from praxis_sdk.jobs.executor.result import CODE_OF_LIMIT, FailureCode, JobFailure, JobUsage
from praxis_sdk.jobs.executor.sanitize import Sanitizer
from praxis_sdk.jobs.payload.limits import LimitName
from praxis_sdk.jobs.payload.payload import JobPayload
from praxis_sdk.jobs.payload.wording import signal_name
from praxis_sdk.states import FailureCategory
from praxis_sdk.units import format_bytes


def failure_of(
    payload: JobPayload, ended: SandboxRunEnd, findings: Findings, usage: JobUsage
) -> tuple[LimitName | None, JobFailure | None]:
    """Decide why a job failed, if it did; the most certain account wins.

    Args:
        payload: the job, for its limits.
        ended: the kernel's account, and the executor's own timers.
        findings: what the adapter read out of the job's own report.
        usage: what it used.

    Returns:
        The limit that ended it, and the failure; None where there is none.
    """
    exit_ = ended.exit
    limit = ended.limit
    message = ""
    left = ended.left
    if limit is None and left.out_of_time:
        limit, message = LimitName.COLLECT, "what it left takes too long to read and to hash"
    elif limit is None and left.result.too_long:
        limit = LimitName.OUTPUTS
    elif limit is None and left.collection.exceeded is not None:
        limit, message = LimitName(left.collection.exceeded.limit), left.collection.exceeded.message
    elif limit is None and usage.outputs_bytes > payload.limits.outputs_bytes:
        limit = LimitName.OUTPUTS
    if limit is not None:
        allowed = getattr(payload.limits, limit)
        shown = format_bytes(allowed) if limit.endswith("_bytes") else f"{allowed:g}"
        if limit is LimitName.OUTPUTS:
            message = f"the returned value is longer than its limit {limit} of {shown} (write it to a file)"
        text = message or f"ended by its limit {limit} of {shown}"
        return limit, JobFailure(
            category=FailureCategory.RESOURCE_LIMIT, code=CODE_OF_LIMIT[limit], message=text
        )
    if exit_.killed_by == "seccomp":
        return None, JobFailure(
            category=FailureCategory.SANDBOX_VIOLATION,
            code=FailureCode.FORBIDDEN_SYSTEM_CALL,
            message="made a forbidden system call and was killed",
        )
    if exit_.signal is not None and exit_.from_outside:
        return None, JobFailure(
            category=FailureCategory.INTERNAL_ERROR,
            code=FailureCode.KILLED_FROM_OUTSIDE,
            message=f"ended by {signal_name(exit_.signal)}, which nobody inside can have sent",
        )
    if exit_.signal is not None:
        return None, JobFailure(
            category=FailureCategory.USER_CODE_ERROR,
            code=FailureCode.KILLED_BY_SIGNAL,
            message=f"ended by {signal_name(exit_.signal)}",
        )
    if findings.code is not None or exit_.exit_code != 0:
        code = findings.code or ("exception" if findings.traceback else FailureCode.EXIT_NONZERO)
        return None, JobFailure(
            category=_category(code, findings),
            code=code,
            message=findings.message or f"exited with code {exit_.exit_code}",
            traceback=findings.traceback or None,
        )
    return None, None


def _category(code: str, findings: Findings) -> FailureCategory:
    if code == FailureCode.INVALID_PAYLOAD:
        return FailureCategory.VALIDATION_ERROR
    return FailureCategory.DEPENDENCY_ERROR if findings.dependency else FailureCategory.USER_CODE_ERROR


def sanitized(failure: JobFailure, clean: Sanitizer) -> JobFailure:
    """Return a failure whose texts name nothing of the host."""
    traceback = clean.traceback(failure.traceback) if failure.traceback else None
    return failure.model_copy(update={"message": clean.message(failure.message), "traceback": traceback})


def sanitizer_for(environment: Environment | None) -> Sanitizer:
    """Return what keeps the host out of a result's messages."""
    paths = {INSIDE: "<environment>"}
    if environment is not None:
        paths |= {str(path): "<environment>" for path in environment.bind_paths}
    return Sanitizer(paths=paths, host_names=(os.uname().nodename,))
