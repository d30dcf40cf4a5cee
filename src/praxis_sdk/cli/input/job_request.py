"""From the words of the command line to a job payload: code, inputs, parameters, limits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

from praxis_sdk.cli.input.given import read_pairs
from praxis_sdk.cli.input.job_source import JobSource, read_source
from praxis_sdk.cli.input.standard_input import read_standard_input
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
    "collect_s": "--collect-time",
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
    "module": "--module",
    "argv": "the arguments",
    "stdin": "standard input",
    "command": "the command",
    "inputs": "--input",
    "parameters": "--param",
    "network": "--network",
}
_PLACE: Final = re.compile(r"payload\.(limits\.\w+|\w+)(?:(?<=network)\[\d+\])?")
_UNKNOWN_DIGEST: Final = "sha256:" + "0" * 64  # of an input that is not in the store yet
_LATEX_FORMATS: Final = ("svg", "png", "pdf")


@dataclass(frozen=True)
class JobWords:
    """What the command line says of a job.

    Args:
        words: the source and its arguments, or for the runtime 'command' the program and its arguments.
        code: the source itself, in place of a file.
        runtime: name of the adapter.
        env: name of an environment, or one version of it.
        entrypoint, module: which file of a folder is run, by its path or as `python -m` names it.
        inputs, json_inputs, parameters: `NAME=...` each.
        limits: by their names in a payload; None where not given.
        output: the file that the only artifact becomes; its suffix says what LaTeX makes.
        network: the hosts that it may reach, as `HOST` or `HOST:PORT`.
        fresh: run it even where an equal job is known.
        stdin: True hands standard input over whatever it is, False does not, None decides by what it is.
    """

    words: Sequence[str] = ()
    code: str | None = None
    runtime: str = "python"
    env: str = "base"
    entrypoint: str | None = None
    module: str | None = None
    inputs: Iterable[str] = ()
    json_inputs: Iterable[str] = ()
    parameters: Iterable[str] = ()
    limits: Mapping[str, str | int | None] = field(default_factory=dict)
    output: Path | None = None
    network: Iterable[str] = ()
    fresh: bool = False
    stdin: bool | None = None


@dataclass(frozen=True)
class JobRequest:
    """A job as the command line describes it.

    Args:
        document: the payload, but for the digests of inputs.
        inputs: the file of every input by digest, by name.
        stdin: what standard input holds, where it is too long for the payload itself.
    """

    document: Mapping[str, Any]
    inputs: Mapping[str, Path] = field(default_factory=dict)
    stdin: IO[bytes] | None = None

    def check(self) -> JobPayload:
        """Return the payload as it would be, with made-up digests.

        Raises:
            ValidationError: a word of the command line is not acceptable; the message names the option.
        """
        payload = self._payload(dict.fromkeys(self.inputs, _UNKNOWN_DIGEST))
        sizes = {f"inputs.{name}": path.stat().st_size for name, path in self.inputs.items()}
        from praxis_sdk.jobs.payload.room import shortage

        short = shortage(payload.limits, {**payload.sizes(), **sizes})
        if short is not None:
            raise ValidationError(_named(short[0]), remedy=short[1])
        return payload

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
        if self.stdin is None:
            return self._payload(digests)
        with self.stdin:
            stdin = {"digest": (await store.put(self.stdin.fileno())).digest}
        return self._payload(digests, stdin=stdin)

    def _payload(self, digests: Mapping[str, str], **fields: Any) -> JobPayload:
        from praxis_sdk.jobs import parse_payload

        inputs = {**self.document["inputs"], **{name: {"digest": value} for name, value in digests.items()}}
        try:
            return parse_payload({**self.document, "inputs": inputs, **fields})
        except ValidationError as error:
            raise ValidationError(_named(error.message), remedy=error.remedy) from error


def _named(message: str) -> str:
    """Call a field of the payload as the command line does."""
    return _PLACE.sub(lambda match: _OPTIONS.get(match[1], match[0]), message, count=1)


def read_request(said: JobWords, tell: Callable[[str], None] = lambda line: None) -> JobRequest:
    """Read what the command line says of a job; files of inputs are only looked at.

    Args:
        said: what it says.
        tell: called with a line that people should know.

    Raises:
        ValidationError: something cannot be understood or read; the message names the option.
    """
    files = {name: Path(path) for name, path in read_pairs(said.inputs, "--input").items()}
    values = {
        name: {"value": _read_json(name, text)}
        for name, text in read_pairs(said.json_inputs, "--input-json").items()
    }
    both = sorted(files.keys() & values.keys())
    if both:
        raise ValidationError(f"--input: {both[0][:80]!r} is given twice", remedy="keep one of them")
    for name, path in files.items():
        with _open_input(name, path):
            pass  # a missing file is told before anything begins
    given = {name: _read_parameter(text) for name, text in read_pairs(said.parameters, "--param").items()}
    source = read_source(said.words, said.code, said.runtime, entrypoint=said.entrypoint, module=said.module)
    if source.note:
        tell(source.note)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "job_id": new_id(),
        "runtime": said.runtime,
        **source.document,
        **_environment(said.env),
        "inputs": values,
        "parameters": _with_format(given, said.runtime, said.output),
        "limits": {name: value for name, value in said.limits.items() if value is not None},
        "network": list(said.network),
        "fresh": said.fresh,
    }
    request = JobRequest(document, files)
    limits = request.check().limits
    return _with_stdin(request, said, source, limits.file_size_bytes, tell)


def _with_stdin(
    request: JobRequest, said: JobWords, source: JobSource, max_bytes: int, tell: Callable[[str], None]
) -> JobRequest:
    """Add what standard input holds, once all else is known to be right."""
    wanted = said.stdin
    if source.from_stdin or said.runtime == "latex":
        if wanted:
            held = "the source" if source.from_stdin else "nothing that LaTeX reads"
            raise ValidationError(f"--stdin: standard input holds {held}", remedy="leave it out")
        return request
    given = read_standard_input(wanted, max_bytes, tell)
    if given is None:
        return request
    if given.file is not None:
        return replace(request, stdin=given.file)
    request = replace(request, document={**request.document, "stdin": given.document})
    request.check()
    return request


def _environment(name: str) -> dict[str, str]:
    from praxis_sdk.jobs.environments.definition import is_version

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
    from praxis_sdk.jobs.payload import strict_json
    from praxis_sdk.jobs.payload.payload import MAX_INPUTS_BYTES

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
