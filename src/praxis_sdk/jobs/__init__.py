"""Jobs: untrusted code in a sandbox of its own, with an immutable result (spec 3).

    payload --parse--> JobPayload --adapter in a sandbox of an environment--> JobResult + artifacts

`payload` and `result` are the two records that cross the border, `limits` what a job may use, `dedupe` when
two jobs are the same, `sanitize` what a message may say, `environments` the immutable interpreters that jobs
run in, `artifacts` what they leave behind.
"""

from praxis_sdk.jobs.executor.dedupe import dedupe_key
from praxis_sdk.jobs.executor.result import (
    BoundedText,
    FailureCode,
    JobFailure,
    JobResult,
    JobTimings,
    JobUsage,
    NetworkUse,
    RejectedArtifact,
    parse_result,
)
from praxis_sdk.jobs.payload.content import FileContent, JobInput, StandardInput
from praxis_sdk.jobs.payload.limits import JobLimits, LimitName
from praxis_sdk.jobs.payload.payload import JobPayload, Provenance, parse_payload

__all__ = [
    "BoundedText",
    "FailureCode",
    "FileContent",
    "JobFailure",
    "JobInput",
    "JobLimits",
    "JobPayload",
    "JobResult",
    "JobTimings",
    "JobUsage",
    "LimitName",
    "NetworkUse",
    "Provenance",
    "RejectedArtifact",
    "StandardInput",
    "dedupe_key",
    "parse_payload",
    "parse_result",
]
