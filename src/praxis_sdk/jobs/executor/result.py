"""The job result: how one job ended, what it left behind and what it used (spec 3, sections 7 and 8)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

import pydantic
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.problems import field_name
from praxis_sdk.execution.outcome import text_of
from praxis_sdk.jobs.artifacts.record import Artifact
from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.jobs.payload.limits import JobPart
from praxis_sdk.jobs.payload.payload import (
    MAX_DOCUMENT_DEPTH,
    SCHEMA_VERSION,
    EnvironmentVersion,
    JobId,
    SchemaVersion,
    check_schema_version,
)
from praxis_sdk.jobs.payload.wording import CODE_WORD_PATTERN, DEDUPE_KEY_PATTERN, first_problem
from praxis_sdk.json_text import JsonText
from praxis_sdk.states import ExecutionStatus, FailureCategory

MAX_RESULT_BYTES: Final = 256 << 20  # two streams of 64 MiB each, where every character is escaped

FinalStatus = Literal[
    ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT, ExecutionStatus.CANCELLED
]
Count = Annotated[StrictInt, Field(ge=0)]
Duration = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)]
CodeWord = Annotated[str, Field(pattern=CODE_WORD_PATTERN)]


def _check_moment(value: object) -> object:
    if not isinstance(value, str | datetime):
        raise ValueError("must be a date and time with its zone, such as '2026-01-31T12:00:00Z'")
    return value


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_check_moment),
    AfterValidator(lambda moment: moment.astimezone(UTC)),
]


class FailureCode(StrEnum):
    """The stable words that say why a job failed; later versions may add some."""

    # USER_CODE_ERROR
    EXIT_NONZERO = "exit_nonzero"  # a program ended with another exit code than 0
    EXCEPTION = "exception"  # the code raised; the traceback is there
    KILLED_BY_SIGNAL = "killed_by_signal"  # it ended itself or crashed
    NO_RESULT = "no_result"  # it ended before it handed its result over
    INVALID_RESULT = "invalid_result"  # what it returned is not JSON data
    # RESOURCE_LIMIT, one for each limit
    WALL_CLOCK_EXCEEDED = "wall_clock_exceeded"
    CPU_TIME_EXCEEDED = "cpu_time_exceeded"
    COLLECT_TIME_EXCEEDED = "collect_time_exceeded"
    MEMORY_EXCEEDED = "memory_exceeded"
    PROCESSES_EXCEEDED = "processes_exceeded"
    FILE_SIZE_EXCEEDED = "file_size_exceeded"
    FILES_EXCEEDED = "files_exceeded"
    SCRATCH_EXCEEDED = "scratch_exceeded"
    STDOUT_EXCEEDED = "stdout_exceeded"
    STDERR_EXCEEDED = "stderr_exceeded"
    OUTPUTS_EXCEEDED = "outputs_exceeded"
    ARTIFACT_COUNT_EXCEEDED = "artifact_count_exceeded"
    ARTIFACT_TOTAL_EXCEEDED = "artifact_total_exceeded"
    # SANDBOX_VIOLATION
    FORBIDDEN_SYSTEM_CALL = "forbidden_system_call"
    # VALIDATION_ERROR
    INVALID_PAYLOAD = "invalid_payload"
    UNSUPPORTED_SCHEMA = "unsupported_schema"
    ENVIRONMENT_MISMATCH = "environment_mismatch"  # the pinned env_version is not what is here
    # DEPENDENCY_ERROR
    UNKNOWN_RUNTIME = "unknown_runtime"
    ENVIRONMENT_MISSING = "environment_missing"
    PROGRAM_MISSING = "program_missing"
    DEPENDENCY_MISSING = "dependency_missing"  # the environment lacks what the code asked for
    INPUT_MISSING = "input_missing"  # no store has the bytes of an input by digest
    # INTERNAL_ERROR
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    WORKER_LOST = "worker_lost"
    KILLED_FROM_OUTSIDE = "killed_from_outside"
    INTERNAL = "internal"


CODE_OF_LIMIT: Final[Mapping[str, FailureCode]] = {
    "wall_s": FailureCode.WALL_CLOCK_EXCEEDED,
    "cpu_s": FailureCode.CPU_TIME_EXCEEDED,
    "collect_s": FailureCode.COLLECT_TIME_EXCEEDED,
    "memory_bytes": FailureCode.MEMORY_EXCEEDED,
    "processes": FailureCode.PROCESSES_EXCEEDED,
    "file_size_bytes": FailureCode.FILE_SIZE_EXCEEDED,
    "files": FailureCode.FILES_EXCEEDED,
    "scratch_bytes": FailureCode.SCRATCH_EXCEEDED,
    "stdout_bytes": FailureCode.STDOUT_EXCEEDED,
    "stderr_bytes": FailureCode.STDERR_EXCEEDED,
    "outputs_bytes": FailureCode.OUTPUTS_EXCEEDED,
    "artifact_count": FailureCode.ARTIFACT_COUNT_EXCEEDED,
    "artifact_total_bytes": FailureCode.ARTIFACT_TOTAL_EXCEEDED,
}


class BoundedText(JobPart):
    """What a job wrote to one stream: all of it, or its beginning, or beginning and end with a line between them."""

    text: str = Field("", description="As text; the first MiB, with bytes replaced, where it is not UTF-8.")
    base64: str | None = Field(None, description="What is kept, where it is not UTF-8.", repr=False)
    total_bytes: Count = Field(0, description="How much was written, kept or not.")
    truncated: StrictBool = Field(False, description="More was written than is kept.")
    sha256: str = Field(
        "", description="Of all that was written up to the limit; empty where that is nothing."
    )

    @classmethod
    def of(
        cls, kept: bytes, *, max_bytes: int, total_bytes: int | None = None, sha256: str = ""
    ) -> BoundedText:
        """Make it from bytes.

        Args:
            kept: what was captured.
            max_bytes: most bytes to keep of it.
            total_bytes: how much was written; unless given, what was captured is all.
            sha256: the digest of what was written.
        """
        total = max(len(kept), total_bytes or 0)
        part = kept[:max_bytes]
        truncated = total > len(part)
        if truncated:
            part = _without_split_end(part)
        text, encoded = text_of(part)
        return cls(text=text, base64=encoded, total_bytes=total, truncated=truncated, sha256=sha256)

    def content(self) -> bytes:
        """Return what is kept, as it was written."""
        return self.text.encode() if self.base64 is None else base64.b64decode(self.base64)


class JobUsage(JobPart):
    """What a job used; every limit has its number here. None where the host cannot tell."""

    wall_s: Duration = 0.0
    cpu_s: Duration | None = None
    collect_s: Duration = Field(0.0, description="Processor time for reading and hashing what it left.")
    peak_memory_bytes: Count | None = None
    peak_processes: Count | None = Field(None, description="The most processes and threads at once.")
    largest_file_bytes: Count | None = None
    files: Count | None = Field(None, description="Files and folders in the scratch space at the end.")
    scratch_bytes: Count | None = Field(None, description="Bytes in the scratch space at the end.")
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0
    outputs_bytes: Count = 0
    artifact_count: Count = 0
    artifact_total_bytes: Count = 0


class JobFailure(JobPart):
    """Why a job did not succeed (spec 3, section 8)."""

    category: FailureCategory = Field(description="Who must act.")
    code: CodeWord = Field(description="Stable word for programs; see `FailureCode`.")
    message: str = Field(description="One line for people, sanitized.")
    traceback: str | None = Field(None, description="Where the code raised, sanitized and bounded.")


class RejectedArtifact(JobPart):
    """Something that a job left behind and that did not become an artifact."""

    name: str = Field(description="Its path, control characters escaped.")
    reason: str


class NetworkUse(JobPart):
    """One use of the network grant, or an attempt at more (spec 3, section 5.3)."""

    at: Moment
    host: str
    port: Annotated[StrictInt, Field(ge=0, le=65_535)]
    allowed: StrictBool
    sent_bytes: Count = 0
    received_bytes: Count = 0
    reason: str = Field("", description="Why it was refused, or how it failed.")


class JobTimings(JobPart):
    """When things happened (UTC), and how long they took by a clock that never goes back."""

    queued_at: Moment | None = None
    prepared_at: Moment | None = Field(None, description="The sandbox and the inputs were ready.")
    started_at: Moment | None = Field(None, description="The work began.")
    finished_at: Moment | None = Field(None, description="The result was complete.")
    queue_s: Duration | None = None
    prepare_s: Duration | None = None
    run_s: Duration | None = None
    collect_s: Duration | None = None


_FAILURE_FITS_STATUS: Final[dict[str, Any]] = {
    "if": {"properties": {"status": {"const": "completed"}}},
    "then": {"properties": {"failure": {"type": "null"}, "limit": {"type": "null"}}},
    "else": {
        "if": {"properties": {"status": {"enum": ["failed", "timed_out"]}}},
        "then": {"required": ["failure"], "properties": {"failure": {"type": "object"}}},
    },
}


def _read_outputs(value: object) -> JsonText:
    """Take JSON data, or text that a collector has checked."""
    if not isinstance(value, JsonText):
        strict_json.check(value)
    return JsonText.of(value)


class JobResult(JobPart):
    """The full account of one job."""

    model_config = ConfigDict(
        json_schema_extra=_FAILURE_FITS_STATUS, arbitrary_types_allowed=True, serialize_by_alias=True
    )

    schema_version: SchemaVersion = SCHEMA_VERSION
    job_id: JobId
    status: FinalStatus
    returned: Annotated[
        JsonText,
        BeforeValidator(_read_outputs),
        PlainSerializer(lambda text: text.value),
        WithJsonSchema({}),
    ] = Field(
        default_factory=lambda: JsonText.of(None),
        alias="outputs",
        description="What the code returned.",
        json_schema_extra={"default": None},
    )
    stdout: BoundedText = BoundedText()
    stderr: BoundedText = BoundedText()
    exit_code: StrictInt | None = Field(None, description="Exit code of the work; null where it has none.")
    signal: StrictInt | None = Field(None, description="The signal that ended the work; null where none did.")
    artifacts: tuple[Artifact, ...] = ()
    rejected_artifacts: tuple[RejectedArtifact, ...] = ()
    usage: JobUsage = JobUsage()
    limit: CodeWord | None = Field(
        None, description="The limit that ended it, by its name in the payload's `limits`."
    )
    failure: JobFailure | None = Field(None, description="Null where the job succeeded.")
    env_version: EnvironmentVersion | None = Field(
        None, description="The environment that ran it; null where none did."
    )
    executor_version: str = ""
    timings: JobTimings = JobTimings()
    dedupe_key: Annotated[str, Field(pattern=DEDUPE_KEY_PATTERN)] | None = None
    from_cache: StrictBool = Field(False, description="The result of an equal, earlier job.")
    network: tuple[NetworkUse, ...] = Field((), description="Every use of the network, in order.")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "schema_version" in data:
            check_schema_version("result", data["schema_version"])
        return data

    @model_validator(mode="after")
    def _failure_fits_status(self) -> Self:
        completed = self.status is ExecutionStatus.COMPLETED
        if completed and (self.failure is not None or self.limit is not None):
            raise ValueError("a completed job has no 'failure' and no 'limit'")
        if self.failure is None and self.status in (ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT):
            raise ValueError(f"a job that is {self.status} has a 'failure'")
        return self

    @property
    def outputs(self) -> JsonValue:
        """What the code returned; read from `returned`, which may take long, when it is first asked for."""
        value: JsonValue = self.returned.value
        return value

    @property
    def succeeded(self) -> bool:
        """Whether the work ended by itself and well."""
        return self.status is ExecutionStatus.COMPLETED

    def served_from_cache(self, job_id: str, at: datetime) -> JobResult:
        """Return this result as that of an equal job.

        Args:
            job_id: the other job.
            at: when it asked, with a time zone.
        """
        timings = JobTimings(queued_at=at, finished_at=at)
        return self.model_copy(update={"job_id": job_id, "from_cache": True, "timings": timings})

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, every field written out."""
        return self.model_dump(mode="json")

    def account(self) -> dict[str, Any]:
        """Return the result as JSON values, without what the code returned."""
        return self.model_dump(mode="json", exclude={"returned"})


def parse_result(data: bytes | Mapping[str, Any]) -> JobResult:
    """Read a result that an executor of the same major version wrote.

    Raises:
        ValidationError: it is not acceptable; the message is one line and names the field.
    """
    try:
        if isinstance(data, bytes):
            data = strict_json.parse(data, max_bytes=MAX_RESULT_BYTES, max_depth=MAX_DOCUMENT_DEPTH)
        else:
            strict_json.check(data, max_depth=MAX_DOCUMENT_DEPTH)
    except strict_json.UnsoundJson as error:
        raise ValidationError(f"{field_name(('result', *error.path))}: {error}") from error
    if not isinstance(data, Mapping):
        raise ValidationError("result: must be a JSON object")
    if "schema_version" not in data:
        raise ValidationError("result.schema_version: is missing, and must be given")
    try:
        return JobResult.model_validate(data)
    except pydantic.ValidationError as error:
        raise ValidationError(first_problem("result", error)) from error


def _without_split_end(part: bytes) -> bytes:
    """Drop the beginning of a character whose end was cut off: at most three bytes."""
    for missing in range(1, min(3, len(part)) + 1):
        byte = part[-missing]
        if byte >= 0xC0:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2
            return part[:-missing] if length > missing else part
        if byte < 0x80:
            break
    return part
