"""The job payload: everything that one job is, and nothing that depends on where it runs (spec 3, 9.1).

Unknown optional fields are ignored, required ones are enforced, an unknown major version is refused with
one clear line (spec 3, section 10). All of it is a stranger's data: `parse_payload` bounds it before it
looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Self

import pydantic
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictStr,
    field_validator,
    model_validator,
)

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.problems import field_name
from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.jobs.payload.content import FileContent, JobInput, StandardInput, size_of, text_schema
from praxis_sdk.jobs.payload.limits import JobLimits, JobPart
from praxis_sdk.jobs.payload.network import HOST_PATTERN, MAX_HOSTS, NetworkHost, parse_host
from praxis_sdk.jobs.payload.room import shortage
from praxis_sdk.jobs.payload.wording import (
    ENVIRONMENT_PATTERN,
    ENVIRONMENT_VERSION_PATTERN,
    INPUT_NAME_PATTERN,
    JOB_ID_PATTERN,
    MAJOR,
    MODULE_PATTERN,
    NO_NUL_PATTERN,
    RUNTIME_PATTERN,
    SCHEMA_VERSION_PATTERN,
    first_problem,
)

SCHEMA_MAJOR: Final = MAJOR
SCHEMA_VERSION: Final = "1.0"

MAX_PAYLOAD_BYTES: Final = 16 << 20
MAX_DOCUMENT_DEPTH: Final = strict_json.MAX_DEPTH + 8  # what is around a value of the greatest depth
MAX_CODE_BYTES: Final = 1 << 20
MAX_FILES: Final = 1024
MAX_FILES_BYTES: Final = 8 << 20
MAX_INPUTS: Final = 256
MAX_INPUTS_BYTES: Final = 8 << 20
MAX_PARAMETERS_BYTES: Final = 1 << 20
MAX_ARGUMENTS: Final = 1024
MAX_ARGUMENT_BYTES: Final = 128 << 10
MAX_COMMAND_BYTES: Final = 1 << 20
MAX_LABELS: Final = 64

COMMAND_RUNTIME: Final = "command"

_PATH_PART: Final = r"[^/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]"
_PATH_PATTERN: Final = rf"^(?!\.{{1,2}}(/|$))({_PATH_PART}+/(?!\.{{1,2}}(/|$)))*{_PATH_PART}+$"
_MAX_PATH_BYTES: Final = 1024
_MAX_PART_BYTES: Final = 255
_MAX_PATH_PARTS: Final = 16


def check_path(value: object) -> object:
    """Accept only a relative path that stays below where it is put, whatever reads it."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    shown = ascii(value[:80])
    if value.startswith("/") or "\\" in value:
        raise ValueError(f"{shown} must be a relative path with '/' between its parts")
    parts = value.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{shown} has an empty part, '.' or '..'")
    if not re.fullmatch(_PATH_PATTERN, value):
        raise ValueError(f"{shown} holds a control character")
    if len(parts) > _MAX_PATH_PARTS or len(value.encode("utf-8", "surrogatepass")) > _MAX_PATH_BYTES:
        raise ValueError(f"{shown} is longer than {_MAX_PATH_PARTS} parts or {_MAX_PATH_BYTES} bytes")
    if any(len(part.encode("utf-8", "surrogatepass")) > _MAX_PART_BYTES for part in parts):
        raise ValueError(f"{shown} has a part longer than {_MAX_PART_BYTES} bytes")
    return value


def _check_host(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be text such as 'data.example.org' or 'data.example.org:8443'")
    return str(parse_host(value))


RelativePath = Annotated[
    StrictStr,
    BeforeValidator(check_path),
    text_schema(pattern=_PATH_PATTERN, maxLength=_MAX_PATH_BYTES),
]
InputName = Annotated[StrictStr, Field(pattern=INPUT_NAME_PATTERN)]
Word = Annotated[StrictStr, Field(max_length=MAX_ARGUMENT_BYTES, pattern=NO_NUL_PATTERN)]
Host = Annotated[StrictStr, BeforeValidator(_check_host), text_schema(pattern=HOST_PATTERN, maxLength=300)]
SchemaVersion = Annotated[StrictStr, Field(pattern=SCHEMA_VERSION_PATTERN)]
JobId = Annotated[StrictStr, Field(pattern=JOB_ID_PATTERN)]
RuntimeName = Annotated[StrictStr, Field(pattern=RUNTIME_PATTERN)]
EnvironmentName = Annotated[StrictStr, Field(pattern=ENVIRONMENT_PATTERN, max_length=64)]
EnvironmentVersion = Annotated[StrictStr, Field(pattern=ENVIRONMENT_VERSION_PATTERN, max_length=80)]
ModuleName = Annotated[StrictStr, Field(pattern=MODULE_PATTERN, max_length=_MAX_PATH_BYTES)]
Label = Annotated[StrictStr, Field(max_length=1024, pattern=NO_NUL_PATTERN)]


class Provenance(JobPart):
    """Where a job comes from; kept with its result, and no part of what the job is."""

    document_revision: Label | None = None
    object_id: Label | None = None
    labels: dict[Annotated[StrictStr, Field(min_length=1, max_length=128)], Label] = Field(
        default_factory=dict, max_length=MAX_LABELS
    )


_NULL: Final = {"type": "null"}
_KINDS_OF_WORK: Final[dict[str, Any]] = {
    "if": {"properties": {"runtime": {"const": COMMAND_RUNTIME}}},
    "then": {
        "required": ["command"],
        "properties": {"command": {"type": "array"}, "code": _NULL, "entrypoint": _NULL, "module": _NULL},
    },
    "else": {
        "properties": {"command": _NULL},
        "oneOf": [
            {
                "required": ["code"],
                "properties": {
                    "code": {"type": "string"},
                    "files": _NULL,
                    "entrypoint": _NULL,
                    "module": _NULL,
                },
            },
            {
                "required": ["files", "entrypoint"],
                "properties": {
                    "files": {"type": "object"},
                    "entrypoint": {"type": "string"},
                    "module": _NULL,
                    "code": _NULL,
                },
            },
            {
                "required": ["files", "module"],
                "properties": {
                    "files": {"type": "object"},
                    "module": {"type": "string"},
                    "entrypoint": _NULL,
                    "code": _NULL,
                },
            },
        ],
    },
}


class JobPayload(JobPart):
    """One job.

    The work itself is exactly one of `code`, `files` with an `entrypoint` or a `module`, or (for the runtime
    `command`) a `command`, with or without `files`.
    """

    model_config = ConfigDict(json_schema_extra=_KINDS_OF_WORK)

    schema_version: SchemaVersion = Field(
        description="Version of this schema; minor versions are compatible."
    )
    job_id: JobId = Field(description="Name of the job, chosen by whoever submits it.")
    runtime: RuntimeName = Field(description="Adapter that runs it: 'python', 'latex', 'command', ...")
    code: StrictStr | None = Field(None, description="The source, at most 1 MiB.")
    files: dict[RelativePath, FileContent] | None = Field(
        None, min_length=1, max_length=MAX_FILES, description="Source files by relative path, at most 8 MiB."
    )
    entrypoint: RelativePath | None = Field(None, description="The one of `files` to run.")
    module: ModuleName | None = Field(
        None, description="The module among `files` to run, as `python -m` does; in place of an entrypoint."
    )
    command: list[Word] | None = Field(
        None, min_length=1, max_length=MAX_ARGUMENTS, description="Program and arguments."
    )
    argv: list[Word] = Field(
        default_factory=list,
        max_length=MAX_ARGUMENTS,
        description="Arguments of a script, in `sys.argv` behind its name; a `command` holds its own.",
    )
    stdin: StandardInput | None = Field(
        None, description="What the work reads from standard input; nothing unless given."
    )
    inputs: dict[InputName, JobInput] = Field(
        default_factory=dict, max_length=MAX_INPUTS, description="Inputs by name, by value or by digest."
    )
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="Any JSON object.")
    limits: JobLimits = Field(default_factory=JobLimits, description="What the job may use.")
    env: EnvironmentName = Field("base", description="Name of the environment.")
    env_version: EnvironmentVersion | None = Field(
        None, description="The exact environment; the job is refused where it cannot be had."
    )
    provenance: Provenance = Field(default_factory=lambda: Provenance())
    network: list[Host] = Field(
        default_factory=list,
        max_length=MAX_HOSTS,
        description="Hosts that the job may reach, as 'name' or 'name:port'; exact and public ones only.",
    )
    fresh: StrictBool = Field(False, description="Run it even where the result of an equal job is known.")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "schema_version" in data:
            check_schema_version("payload", data["schema_version"])
        return data

    @field_validator("code")
    @classmethod
    def _code_is_bounded(cls, code: str | None) -> str | None:
        if code is not None and len(code.encode()) > MAX_CODE_BYTES:
            raise ValueError(f"larger than the limit of {MAX_CODE_BYTES} bytes; hand data over as inputs")
        return code

    @field_validator("files")
    @classmethod
    def _files_are_bounded(cls, files: dict[str, FileContent] | None) -> dict[str, FileContent] | None:
        if files is None:
            return None
        folders = {path[:i] for path in files for i, char in enumerate(path) if char == "/"}
        both = next((path for path in files if path in folders), None)
        if both is not None:
            raise ValueError(f"{both[:80]!a} is both a file and a folder")
        if sum(size_of(file.text, file.base64) for file in files.values()) > MAX_FILES_BYTES:
            raise ValueError(f"together larger than {MAX_FILES_BYTES} bytes; hand data over as inputs")
        return files

    @field_validator("command")
    @classmethod
    def _command_is_bounded(cls, command: list[str] | None) -> list[str] | None:
        if command is not None and not command[0]:
            raise ValueError("names no program, which is its first word")
        if command is not None and sum(len(word.encode()) + 1 for word in command) > MAX_COMMAND_BYTES:
            raise ValueError(f"larger than the limit of {MAX_COMMAND_BYTES} bytes; use files or inputs")
        return command

    @field_validator("argv")
    @classmethod
    def _argv_is_bounded(cls, argv: list[str]) -> list[str]:
        if sum(len(word.encode()) + 1 for word in argv) > MAX_COMMAND_BYTES:
            raise ValueError(f"larger than the limit of {MAX_COMMAND_BYTES} bytes; use stdin or inputs")
        return argv

    @field_validator("stdin")
    @classmethod
    def _stdin_is_bounded(cls, stdin: StandardInput | None) -> StandardInput | None:
        if stdin is not None and size_of(stdin.text, stdin.base64) > MAX_INPUTS_BYTES:
            raise ValueError(f"larger than {MAX_INPUTS_BYTES} bytes; hand large data over by digest")
        return stdin

    @field_validator("inputs")
    @classmethod
    def _inputs_are_bounded(cls, inputs: dict[str, JobInput]) -> dict[str, JobInput]:
        total = 0
        for one in inputs.values():
            if one.kind == "json":
                total += len(strict_json.canonical(one.value))
            else:
                total += size_of(one.text, one.base64)
        if total > MAX_INPUTS_BYTES:
            raise ValueError(f"together larger than {MAX_INPUTS_BYTES} bytes; hand large data over by digest")
        return inputs

    @field_validator("parameters")
    @classmethod
    def _parameters_are_bounded(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if len(strict_json.canonical(parameters)) > MAX_PARAMETERS_BYTES:
            raise ValueError(f"larger than the limit of {MAX_PARAMETERS_BYTES} bytes; use an input")
        return parameters

    @field_validator("network")
    @classmethod
    def _hosts_are_a_set(cls, network: list[str]) -> list[str]:
        return sorted(set(network))

    @model_validator(mode="after")
    def _has_one_kind_of_work(self) -> Self:
        if self.runtime == COMMAND_RUNTIME:
            if self.command is None or (self.code, self.entrypoint, self.module) != (None, None, None):
                raise ValueError("runtime 'command' takes 'command', and neither 'code' nor 'entrypoint'")
            if self.argv:
                raise ValueError(
                    "'argv' is for scripts; the arguments of a 'command' follow its program there"
                )
        elif self.command is not None:
            raise ValueError(f"'command' is for the runtime 'command', not for {self.runtime!r}")
        elif (self.code is None) == (self.files is None):
            raise ValueError("must have exactly one of 'code' and 'files'")
        elif self.entrypoint is not None and self.module is not None:
            raise ValueError("must have only one of 'entrypoint' and 'module'")
        elif (self.files is None) != (self.entrypoint is None and self.module is None):
            raise ValueError("'files' and 'entrypoint' go together: the sources, and the one of them to run")
        elif self.files is not None and self.main_file() not in self.files:
            raise ValueError(f"'{'entrypoint' if self.module is None else 'module'}' is none of 'files'")
        short = shortage(self.limits, self.sizes())
        if short is not None:
            raise ValueError(f"{short[0].removeprefix('payload.')}; {short[1]}")
        if self.env_version is not None and self.env_version.rsplit("-", 1)[0] != self.env:
            raise ValueError(
                f"'env_version' is not a version of the environment {self.env!r}; set 'env', too"
            )
        return self

    def main_file(self) -> str | None:
        """Return the one of `files` that is run; None where there is none, as for `code`."""
        if self.module is None:
            return self.entrypoint
        path = self.module.replace(".", "/")
        return f"{path}.py" if f"{path}.py" in (self.files or {}) else f"{path}/__main__.py"

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of all that is here and will be a file of the job; a digest does not say."""
        sizes = {
            f"files.{path}": size_of(file.text, file.base64) for path, file in (self.files or {}).items()
        }
        for name, one in self.inputs.items():
            json_bytes = len(strict_json.canonical(one.value)) if one.kind == "json" else 0
            sizes[f"inputs.{name}"] = json_bytes or size_of(one.text, one.base64)
        if self.stdin is not None:
            sizes["stdin"] = size_of(self.stdin.text, self.stdin.base64)
        return sizes

    def input_digests(self) -> dict[str, str]:
        """Return 'sha256:...' of the bytes of every input, by name."""
        return {name: one.content_digest() for name, one in self.inputs.items()}

    def digests(self) -> Iterator[str]:
        """Go through the artifacts that it names, without which it cannot run."""
        for one in (*self.inputs.values(), self.stdin):
            if one is not None and one.digest is not None:
                yield one.digest

    def granted_hosts(self) -> tuple[NetworkHost, ...]:
        """Return the network grant, host and port apart."""
        return tuple(parse_host(host) for host in self.network)

    def to_json(self) -> dict[str, Any]:
        """Return the payload as JSON values, without what was not given."""
        return self.model_dump(mode="json", exclude_unset=True)


def parse_payload(data: bytes | Mapping[str, Any]) -> JobPayload:
    """Read a payload from a stranger.

    Args:
        data: a JSON document in UTF-8, or the values of one.

    Raises:
        ValidationError: it is not acceptable; the message is one line and names the field.
    """
    try:
        if isinstance(data, bytes):
            data = strict_json.parse(data, max_bytes=MAX_PAYLOAD_BYTES, max_depth=MAX_DOCUMENT_DEPTH)
        else:
            strict_json.check(data, max_depth=MAX_DOCUMENT_DEPTH)
    except strict_json.UnsoundJson as error:
        raise ValidationError(f"{field_name(('payload', *error.path))}: {error}") from error
    if not isinstance(data, Mapping):
        raise ValidationError("payload: must be a JSON object")
    try:
        return JobPayload.model_validate(data)
    except pydantic.ValidationError as error:
        raise ValidationError(first_problem("payload", error)) from error


def check_schema_version(document: str, version: object) -> None:
    """Refuse a version of which the major part is not ours (spec 3, section 10.1).

    Raises:
        ValueError: it is not a version, or not one that this executor understands.
    """
    match = re.fullmatch(r"([0-9]{1,6})\.[0-9]{1,6}", version, re.ASCII) if isinstance(version, str) else None
    if match is None:
        raise ValueError("'schema_version' must be text such as '1.0'")
    if int(match[1]) != SCHEMA_MAJOR:
        raise ValueError(
            f"'schema_version' {version} is not supported; this executor reads {document}s of {SCHEMA_MAJOR}.x"
        )
