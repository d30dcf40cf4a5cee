"""What the executor asks of a collector, and what comes back: one memory file, first the question, then the answer.

question    JSON
answer      one line of JSON, a line of JSON for each file, then the text of a long result
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from praxis_sdk.jobs.artifacts.collect import (
    ArtifactLimits,
    CollectedFile,
    Collection,
    LimitExceeded,
    Reason,
    Rejected,
)
from praxis_sdk.jobs.artifacts.names import name_problem
from praxis_sdk.jobs.artifacts.types.kind import ArtifactKind
from praxis_sdk.jobs.artifacts.types.sniff import Sniffed
from praxis_sdk.jobs.collector.reading import LeftResult, as_text, is_short
from praxis_sdk.json_text import JsonText

_MIB: Final = 1 << 20
WRAPPING_BYTES: Final = 256 << 10  # what a harness adds to a value: names, a traceback
_FILE_LINE_BYTES: Final = (
    8 << 10
)  # most that one file's line is long: its name, six bytes a byte, and the rest
_ASCII_FACTOR: Final = (
    3  # how much longer ASCII JSON is than UTF-8 at most, where it is not control characters
)
MEMORY_BYTES: Final = 256 * _MIB
MEMORY_FACTOR: Final = 40  # bytes of Python objects for a byte of JSON, at worst


@dataclass(frozen=True)
class Wanted:
    """What is to be read of what a job left.

    Args:
        result: the folder and the name of the result file.
        result_bytes: most that is read of it.
        outputs_bytes: the limit on the value, in its canonical form.
        max_depth: deepest nesting of the value.
        artifacts: the limits of artifacts; None where nothing is collected.
        exclude: names that are no artifacts.
        cpu_s: processor time that it may take, in seconds.
    """

    result: tuple[str, str]
    result_bytes: int
    outputs_bytes: int
    max_depth: int
    artifacts: ArtifactLimits | None
    exclude: frozenset[str] = field(default=frozenset())
    cpu_s: float = 20.0

    @property
    def memory_bytes(self) -> int:
        """Memory that reading may take."""
        return MEMORY_BYTES + MEMORY_FACTOR * self.outputs_bytes

    @property
    def answer_bytes(self) -> int:
        """How long the answer may be."""
        files = 0 if self.artifacts is None else self.artifacts.artifact_count
        return 2 * _MIB + _ASCII_FACTOR * self.outputs_bytes + files * _FILE_LINE_BYTES

    def to_json(self) -> bytes:
        """Return the question."""
        return json.dumps({**asdict(self), "exclude": sorted(self.exclude)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Wanted:
        """Read the question."""
        said = json.loads(data)
        limits = said["artifacts"]
        return cls(
            **{
                **said,
                "result": tuple(said["result"]),
                "artifacts": None if limits is None else ArtifactLimits(**limits),
                "exclude": frozenset(said["exclude"]),
            }
        )


def answer(result: LeftResult, collection: Collection, outputs_bytes: int) -> Iterator[bytes]:
    """Go through the pieces of an answer.

    Args:
        result: what was left as a result.
        collection: what was found beside it.
        outputs_bytes: the limit on the value; a longer one is not worth passing on.
    """
    head: dict[str, Any] = {"too_long": result.too_long, "problem": result.problem[:4096]}
    text = ""
    if result.value is not None:
        value = as_text(result.value)
        if value.size_bytes > outputs_bytes + WRAPPING_BYTES:
            head["too_long"] = True
        elif is_short(value):
            head["value"] = result.value
        else:
            text = value.text
            head["text"] = {"size_bytes": value.size_bytes, "members": dict(value.places)}
    exceeded = collection.exceeded
    head |= {
        "chars": len(text),
        "files": len(collection.files),
        "rejected_count": collection.rejected_count,
        "rejected": [[one.name, one.reason.name, one.detail] for one in collection.rejected],
        "exceeded": None if exceeded is None else [exceeded.limit, exceeded.allowed, exceeded.found],
    }
    yield json.dumps(head).encode() + b"\n"
    for file in collection.files:
        sniffed = file.sniffed
        line = [file.name, file.size_bytes, file.digest, list(file.identity)]
        line += [sniffed.format, sniffed.content_type, sniffed.kind, sniffed.active]
        yield json.dumps(line).encode() + b"\n"
    yield text.encode("ascii")


def result_of(head: Mapping[str, Any], text: str) -> LeftResult:
    """Return the result that an answer tells of.

    Args:
        head: the first line.
        text: what stands behind the lines.
    """
    value = head.get("value")
    long = head.get("text")
    if long is not None:
        members = {str(name): tuple(map(int, place)) for name, place in long["members"].items()}
        value = JsonText(text, int(long["size_bytes"]), members)  # type: ignore[arg-type]
    return LeftResult(value, bool(head["too_long"]), str(head["problem"]))


def collection_of(head: Mapping[str, Any], files: Iterable[CollectedFile]) -> Collection:
    """Return the collection that an answer tells of."""
    exceeded = head["exceeded"]
    return Collection(
        files=tuple(files),
        rejected=tuple(
            Rejected(str(name), Reason[reason], str(detail)) for name, reason, detail in head["rejected"]
        ),
        rejected_count=int(head["rejected_count"]),
        exceeded=None if exceeded is None else LimitExceeded(str(exceeded[0]), *map(int, exceeded[1:])),
    )


def file_of(line: bytes) -> CollectedFile:
    """Return the file that a line of an answer tells of.

    Raises:
        ValueError: the line is not acceptable; whoever wrote it has read untrusted data.
    """
    name, size_bytes, digest, identity, form, content_type, kind, active = json.loads(line)
    problem = name_problem(name)
    if problem:
        raise ValueError(problem)
    inode, size, changed_ns = map(int, identity)
    sniffed = Sniffed(str(form), str(content_type), ArtifactKind(kind), bool(active))
    return CollectedFile(name, int(size_bytes), str(digest), sniffed, (inode, size, changed_ns))
