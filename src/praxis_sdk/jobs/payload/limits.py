"""What one job may use: defaults, bounds, and the forms in which people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from praxis_sdk.errors import ValidationError
from praxis_sdk.sandbox import KilledBy
from praxis_sdk.sandbox import Limits as SandboxLimits
from praxis_sdk.units import format_bytes, parse_bytes, parse_seconds

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_SIZE_PATTERN: Final = r"^\s*[0-9]{1,15}(\.[0-9]{1,9})?\s*[kKmMgGtT]?[iI]?[bB]?\s*$"
_NUMBER: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_DURATION_PATTERN: Final = r"^\s*[0-9]{1,9}(\.[0-9]{1,9})?\s*([mM][sS]|[sSmMhHdD])?\s*$"


class JobPart(BaseModel):
    """What all records of jobs share: they never change, and fields of later minor versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _read_size(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch(_SIZE_PATTERN, value, re.ASCII):
            raise ValueError("is not a size; write for example '512M' or a number of bytes")
        return parse_bytes(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError("must be a whole number of bytes, or a size such as '512M'")
    return int(value)


def _read_seconds(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch(_DURATION_PATTERN, value, re.ASCII):
            raise ValueError("is not a duration; write for example '90s' or a number of seconds")
        return parse_seconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a duration such as '90s', or a number of seconds")
    return value


def _read_count(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError("must be a whole number")
    return int(value)


def _bytes_between(minimum: int, maximum: int) -> Any:
    forms = [
        {"type": "integer", "minimum": minimum, "maximum": maximum},
        {"type": "string", "pattern": _SIZE_PATTERN},
    ]
    return (
        Field(ge=minimum, le=maximum),
        BeforeValidator(_read_size),
        WithJsonSchema({"anyOf": forms}),
    )


def _seconds_to(maximum: float) -> Any:
    forms = [
        {"type": "number", "exclusiveMinimum": 0, "maximum": maximum},
        {"type": "string", "pattern": _DURATION_PATTERN},
    ]
    return (Field(gt=0, le=maximum), BeforeValidator(_read_seconds), WithJsonSchema({"anyOf": forms}))


def _count_between(minimum: int, maximum: int) -> Any:
    return (Field(ge=minimum, le=maximum), BeforeValidator(_read_count))


class JobLimits(JobPart):
    """The limits of one job; every one is always on, and each is a number in every result's usage.

    Sizes are bytes or text such as '512M' (powers of 1024), durations seconds or text such as '90s'.
    """

    wall_s: Annotated[float, *_seconds_to(24 * 3600)] = Field(
        60.0, description="Time from the start of the work to its end, in seconds."
    )
    cpu_s: Annotated[float, *_seconds_to(7 * 24 * 3600)] = Field(
        60.0, description="Processor time of all processes together, in seconds."
    )
    collect_s: Annotated[float, *_seconds_to(24 * 3600)] = Field(
        20.0, description="Processor time for reading, checking and hashing what the work leaves, in seconds."
    )
    memory_bytes: Annotated[int, *_bytes_between(16 * MIB, 1 << 40)] = Field(
        1 * GIB, description="Memory of all processes and of the scratch space."
    )
    processes: Annotated[int, *_count_between(1, 32_768)] = Field(
        128, description="Processes and threads at once."
    )
    file_size_bytes: Annotated[int, *_bytes_between(4 * KIB, 1 << 40)] = Field(
        256 * MIB, description="The largest single file."
    )
    files: Annotated[int, *_count_between(64, 4_000_000)] = Field(
        16_384, description="Files and folders in the scratch space."
    )
    scratch_bytes: Annotated[int, *_bytes_between(64 * KIB, 1 << 40)] = Field(
        512 * MIB, description="All that is written to the scratch space, together."
    )
    stdout_bytes: Annotated[int, *_bytes_between(1 * KIB, 64 * MIB)] = Field(
        1 * MIB, description="Standard output; a job that writes more is ended."
    )
    stderr_bytes: Annotated[int, *_bytes_between(1 * KIB, 64 * MIB)] = Field(
        1 * MIB, description="Standard error; a job that writes more is ended."
    )
    outputs_bytes: Annotated[int, *_bytes_between(1 * KIB, 16 * MIB)] = Field(
        1 * MIB, description="The returned JSON value, as JSON."
    )
    artifact_count: Annotated[int, *_count_between(0, 10_000)] = Field(
        64, description="Artifacts that the job may leave."
    )
    artifact_total_bytes: Annotated[int, *_bytes_between(1, 1 << 40)] = Field(
        256 * MIB, description="All artifacts together."
    )

    def for_sandbox(self) -> SandboxLimits:
        """Return what the kernel enforces; wall clock, streams, outputs and artifacts are the executor's."""
        return SandboxLimits(
            cpu_seconds=max(self.cpu_s, 0.001),
            memory_bytes=self.memory_bytes,
            processes=self.processes,
            file_size_bytes=self.file_size_bytes,
            scratch_bytes=self.scratch_bytes,
            scratch_inodes=self.files,
        )

    def check_within(self, ceiling: JobLimits) -> None:
        """Refuse limits above those that the operator of this executor grants.

        Raises:
            ValidationError: one is higher; the message names it.
        """
        for name in type(self).model_fields:
            asked, granted = getattr(self, name), getattr(ceiling, name)
            if asked > granted:
                shown = [_shown(name, amount) for amount in (asked, granted)]
                raise ValidationError(
                    f"payload.limits.{name}: {shown[0]} is more than the {shown[1]} that this executor grants",
                    remedy="ask for less, or have the operator raise it",
                )

    def within(self, ceiling: JobLimits) -> JobLimits:
        """Return these limits as an operator grants them: what was not asked for is lowered to what is granted.

        Raises:
            ValidationError: one that was asked for is higher; the message names it.
        """
        if ceiling == HIGHEST:
            return self
        lowered = {
            name: granted
            for name, granted in dict(ceiling).items()
            if name not in self.model_fields_set and getattr(self, name) > granted
        }
        limits = self.model_copy(update=lowered)
        limits.check_within(ceiling)
        return limits


def _shown(name: str, amount: float) -> str:
    if name.endswith("_bytes"):
        return format_bytes(int(amount))
    return f"{amount:g} s" if name.endswith("_s") else f"{amount}"


def _highest(name: str) -> Any:
    return next(one.le for one in JobLimits.model_fields[name].metadata if hasattr(one, "le"))


HIGHEST: Final = JobLimits(**{name: _highest(name) for name in JobLimits.model_fields})


def read_ceiling(texts: Iterable[str], source: str, base: JobLimits = HIGHEST) -> JobLimits:
    """Read the most that an operator grants.

    Args:
        texts: `NAME=VALUE` each, values as in a payload: `memory_bytes=4G`.
        source: the option or variable that they come from, for messages.
        base: what holds for limits that are not named.

    Raises:
        ValidationError: one is not acceptable; the message names it.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or name not in JobLimits.model_fields:
            raise ValidationError(
                f"{source}: {text[:80]!r} does not name a limit and a value",
                remedy=f"write NAME=VALUE; limits are {', '.join(JobLimits.model_fields)}",
            )
        try:
            # Counts and plain numbers are written as text here, and as numbers in a payload.
            read = JobLimits.model_validate({name: float(value) if _NUMBER.fullmatch(value) else value})
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValidationError(f"{source}: {name}: {value[:40]!r} {reason}") from error
        values[name] = getattr(read, name)
    return base.model_copy(update=values)


class LimitName(StrEnum):
    """The limits that can end a job, by the names under which a payload sets them."""

    WALL = "wall_s"
    CPU = "cpu_s"
    COLLECT = "collect_s"
    MEMORY = "memory_bytes"
    PROCESSES = "processes"
    FILE_SIZE = "file_size_bytes"
    FILES = "files"
    SCRATCH = "scratch_bytes"
    STDOUT = "stdout_bytes"
    STDERR = "stderr_bytes"
    OUTPUTS = "outputs_bytes"
    ARTIFACT_COUNT = "artifact_count"
    ARTIFACT_TOTAL = "artifact_total_bytes"


# What the kernel enforced -> the limit behind it; a forbidden system call ('seccomp') is not a limit.
LIMIT_OF_KILL: Final[Mapping[KilledBy, LimitName]] = {
    "memory": LimitName.MEMORY,
    "processes": LimitName.PROCESSES,
    "cpu": LimitName.CPU,
    "file_size": LimitName.FILE_SIZE,
    "scratch": LimitName.SCRATCH,
}
