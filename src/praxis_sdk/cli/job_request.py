"""From the words of the command line to a job payload: code, inputs, parameters, limits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from praxis_sdk.cli.given import read_pairs
from praxis_sdk.errors import ValidationError
from praxis_sdk.ids import new_id

if TYPE_CHECKING:
    from praxis_sdk.jobs import JobPayload
    from praxis_sdk.jobs.artifacts import ArtifactStore

SCHEMA_VERSION: Final = "1.0"
# The options that set a limit, by the limit's name in a payload.
LIMIT_OPTIONS: Final[Mapping[str, str]] = {
    "wall_s": "--timeout",
    "cpu_s": "--cpu-time",
    "memory_bytes": "--memory",
    "processes": "--processes",
    "file_size_bytes": "--file-size",
    "files": "--files",
    "scratch_bytes": "--scratch",
    "stdout_bytes": "--stdout-limit",
    "stderr_bytes": "--stderr-limit",
    "outputs_bytes": "--output-limit",
    "artifact_count": "--max-artifacts",
    "artifact_total_bytes": "--artifact-bytes",
}
_OPTIONS: Final[Mapping[str, str]] = {
    **{f"limits.{name}": option for name, option in LIMIT_OPTIONS.items()},
    "env": "--env",
    "env_version": "--env",
    "runtime": "--runtime",
    "code": "the code",
    "files": "the code",
    "entrypoint": "the code",
    "command": "the command",
    "inputs": "--input",
    "parameters": "--param",
    "network": "--network",
}
_PLACE: Final = re.compile(r"payload\.(limits\.\w+|\w+)(?:(?<=network)\[\d+\])?")
_UNKNOWN_DIGEST: Final = "sha256:" + "0" * 64  # of an input that is not in the store yet
_LATEX_FORMATS: Final = ("svg", "png", "pdf")


@dataclass(frozen=True)
class JobRequest:
    """A job as the command line describes it.

    Args:
        document: the payload, but for the digests of inputs.
        inputs: the file of every input by digest, by name.
    """

    document: Mapping[str, Any]
    inputs: Mapping[str, Path] = field(default_factory=dict)

    def check(self) -> JobPayload:
        """Return the payload as it would be, with made-up digests.

        Raises:
            ValidationError: a word of the command line is not acceptable; the message names the option.
        """
        return self._payload(dict.fromkeys(self.inputs, _UNKNOWN_DIGEST))

    async def payload(self, store: ArtifactStore) -> JobPayload:
        """Put the inputs into a store and return the payload that names them.

        Raises:
            ValidationError: a file cannot be read.
            PlatformError: the store cannot be written.
        """
        digests = {}
        for name, path in self.inputs.items():
            with _open_input(name, path) as fd:
                digests[name] = (await store.put(fd)).digest
        return self._payload(digests)

    def _payload(self, digests: Mapping[str, str]) -> JobPayload:
        from praxis_sdk.jobs import parse_payload

        inputs = {**self.document["inputs"], **{name: {"digest": value} for name, value in digests.items()}}
        try:
            return parse_payload({**self.document, "inputs": inputs})
        except ValidationError as error:
            message = _PLACE.sub(lambda match: _OPTIONS.get(match[1], match[0]), error.message, count=1)
            raise ValidationError(message, remedy=error.remedy) from error


def read_request(
    words: Sequence[str],
    code: str | None,
    runtime: str,
    environment: str,
    *,
    inputs: Iterable[str],
    json_inputs: Iterable[str],
    parameters: Iterable[str],
    limits: Mapping[str, str | int | None],
    output: Path | None,
    network: Iterable[str] = (),
    fresh: bool,
) -> JobRequest:
    """Read what the command line says of a job; files of inputs are only looked at.

    Args:
        words: the source file, or for the runtime 'command' the program and its arguments.
        code: the source itself, in place of a file.
        runtime: name of the adapter.
        environment: name of an environment, or one version of it.
        inputs, json_inputs, parameters: `NAME=...` each.
        limits: by their names in a payload; None where not given.
        output: the file that the only artifact becomes; its suffix says what LaTeX makes.
        network: the hosts that it may reach, as `HOST` or `HOST:PORT`.
        fresh: run it even where an equal job is known.

    Raises:
        ValidationError: something cannot be understood or read; the message names the option.
    """
    files = {name: Path(path) for name, path in read_pairs(inputs, "--input").items()}
    values = {
        name: {"value": _read_json(name, text)}
        for name, text in read_pairs(json_inputs, "--input-json").items()
    }
    both = sorted(files.keys() & values.keys())
    if both:
        raise ValidationError(f"--input: {both[0][:80]!r} is given twice", remedy="keep one of them")
    for name, path in files.items():
        with _open_input(name, path):
            pass  # a missing file is told before anything begins
    given = {name: _read_parameter(text) for name, text in read_pairs(parameters, "--param").items()}
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "job_id": new_id(),
        "runtime": runtime,
        **_work(words, code, runtime),
        **_environment(environment),
        "inputs": values,
        "parameters": _with_format(given, runtime, output),
        "limits": {name: value for name, value in limits.items() if value is not None},
        "network": list(network),
        "fresh": fresh,
    }
    request = JobRequest(document, files)
    request.check()
    return request


def _work(words: Sequence[str], code: str | None, runtime: str) -> dict[str, Any]:
    if runtime == "command":
        if code is not None:
            raise ValidationError(
                "-c: the runtime 'command' runs a program", remedy="write -- PROGRAM ARGUMENTS..."
            )
        if not words:
            raise ValidationError("the program is missing", remedy="write -- PROGRAM ARGUMENTS...")
        return {"command": list(words)}
    if len(words) + (code is not None) != 1:
        wrong = "nothing to run" if not words and code is None else "more than one thing to run"
        raise ValidationError(
            wrong, remedy="name one FILE, or give -c CODE; arguments of the work are --param NAME=VALUE"
        )
    if code is not None:
        return {"code": code}
    source = _read_source(words[0])
    if runtime == "python" and words[0] != "-":
        name = Path(words[0]).name  # so that a traceback names the file
        return {"files": {name: {"text": source}}, "entrypoint": name}
    return {"code": source}


def _read_source(name: str) -> str:
    from praxis_sdk.jobs.payload import MAX_CODE_BYTES

    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_CODE_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_CODE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ValidationError(
            f"{name[:200]}: {os.strerror(error.errno or 0)}", remedy="name a source file, or give -c CODE"
        ) from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"{name[:200]}: not UTF-8", remedy="save it as UTF-8") from error
    except ValueError as error:  # a NUL in the name
        raise ValidationError(f"{name[:200]!r} is not a file name") from error
    if len(data) > MAX_CODE_BYTES:
        raise ValidationError(
            f"{name[:200]}: larger than {MAX_CODE_BYTES >> 20} MiB", remedy="hand data over with --input"
        )
    return text


def _environment(name: str) -> dict[str, str]:
    from praxis_sdk.jobs.environment_definition import is_version

    return {"env": name.rpartition("-")[0], "env_version": name} if is_version(name) else {"env": name}


def _with_format(parameters: dict[str, Any], runtime: str, output: Path | None) -> dict[str, Any]:
    """Add the format that the suffix of -o asks LaTeX for."""
    if runtime != "latex" or output is None:
        return parameters
    wanted = output.suffix.removeprefix(".").lower()
    if wanted not in _LATEX_FORMATS:
        raise ValidationError(
            f"-o: {output.name[:80]!r} does not say what to make", remedy="end it in .svg, .png or .pdf"
        )
    if parameters.get("format", wanted) != wanted:
        raise ValidationError("--param: 'format' and the suffix of -o differ", remedy="leave out one of them")
    return {**parameters, "format": wanted}


def _read_parameter(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _read_json(name: str, text: str) -> Any:
    from praxis_sdk.jobs import strict_json
    from praxis_sdk.jobs.payload import MAX_INPUTS_BYTES

    try:
        return strict_json.parse(text.encode("utf-8", "surrogateescape"), max_bytes=MAX_INPUTS_BYTES)
    except strict_json.UnsoundJson as error:
        raise ValidationError(
            f"--input-json: {name[:80]!r}: {error}", remedy="write text in double quotes: NAME='\"text\"'"
        ) from error


@contextlib.contextmanager
def _open_input(name: str, path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits, also not at a fifo
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "not a file name"
        raise ValidationError(f"--input: {name[:80]!r}: {str(path)[:200]}: {reason}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValidationError(f"--input: {name[:80]!r}: {str(path)[:200]}: not a regular file")
        yield fd
    finally:
        os.close(fd)
