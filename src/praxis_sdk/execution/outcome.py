"""How a run of a tool ended: facts from the kernel or the daemon, and what they mean."""

from __future__ import annotations

import base64
import signal as signals
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from itertools import islice
from typing import Any, Final

from praxis_sdk.errors import ExecutionError
from praxis_sdk.execution.context import StreamName
from praxis_sdk.states import ExecutionStatus, FailureCategory

MAX_REPLACED_BYTES: Final = 1 << 20  # of output that is not UTF-8, as text
EXIT_TIMED_OUT: Final = 124  # what coreutils' `timeout` returns
EXIT_CANCELLED: Final = 130
_MAX_NOTES: Final = 100  # on changes that were lost; the list of files has them all
# A tool that was never started: as a shell says it of a missing command, and Praxis of a user's mistake.
_STATUS_OF_REFUSAL: Final = {FailureCategory.DEPENDENCY_ERROR: 127, FailureCategory.VALIDATION_ERROR: 2}


class Isolation(IntEnum):
    """What stands between a tool and the host; a higher value is never replaced by a lower one."""

    NONE = 0  # a process of the host, with the caller's rights
    NAMESPACES = 1  # own namespaces, no capabilities, seccomp; the host's kernel
    CONTAINER = 2  # the same and the root file system of an image
    REMOTE = 3  # another machine, which answers for it

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name.lower()


class Limit(StrEnum):
    """The limits that can end a tool."""

    MEMORY = "memory"
    CPU_TIME = "cpu_time"
    PROCESSES = "processes"
    FILE_SIZE = "file_size"
    DISK_SPACE = "disk_space"
    OUTPUT = "output"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class ResourceUsage:
    """What a run consumed; None where the engine cannot know.

    Args:
        cpu_s: processor time of all its processes, in seconds.
        peak_memory_bytes: most memory in use at once.
    """

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Exit:
    """How a tool ended, as the kernel or the daemon tells it.

    Args:
        exit_code: its exit code; None when a signal ended it or it never started.
        signal: the signal that ended it.
        limit: the limit that ended it.
        refusal: why it was never started or gave no result, with the category of that failure.
        usage: what it consumed.
    """

    exit_code: int | None = None
    signal: int | None = None
    limit: Limit | None = None
    refusal: ToolFailure | None = None
    usage: ResourceUsage = ResourceUsage()


@dataclass(frozen=True)
class ToolFailure:
    """Why a run did not succeed.

    Args:
        category: who must act (spec 3, section 8.1).
        message: one line for people.
    """

    category: FailureCategory
    message: str


@dataclass(frozen=True)
class ExportedFile:
    """A file that the tool wrote to a read-write mount and that was copied back to the host.

    Args:
        mount: the mount's path inside.
        path: the file's path below the mount.
        size_bytes: its size.
        overtook_change: whether the host's file changed while the tool ran, so that this change is lost.
    """

    mount: str
    path: str
    size_bytes: int
    overtook_change: bool = False


@dataclass(frozen=True)
class Exports:
    """What the read-write mounts gave: files copied back, and entries left out with the reason."""

    files: tuple[ExportedFile, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know: changes of others that were lost, and what was left out."""
        lost = (
            f"{file.mount}/{file.path}".rstrip("/")
            + " changed on the host while the tool ran; the tool's version replaced that change"
            for file in self.files
            if file.overtook_change
        )
        return (*islice(lost, _MAX_NOTES), *self.skipped)


@dataclass(frozen=True)
class ToolOutcome:
    """The full account of one run.

    Args:
        tool, execution_id, engine: what ran, under which id, on which kind of engine.
        isolation: what stood between the tool and the host.
        status: completed, failed, timed_out or cancelled.
        exit_code, signal, limit: how it ended.
        stdout, stderr: what is kept of what it wrote, as text: all of it, or beginning and end with a line between
            them that says how much is left out. Where it is not UTF-8, the first MiB with undecodable bytes replaced.
        stdout_bytes, stderr_bytes: how much it wrote before it ended.
        stdout_base64, stderr_base64: what is kept, where it is not UTF-8; else None.
        stdout_truncated, stderr_truncated: more was written than is kept.
        stdout_sha256, stderr_sha256: of all that it wrote up to its output limit; empty where that is nothing.
        duration_s: wall-clock time from launch to end, in seconds.
        usage: processor time and memory.
        exports: what changed in read-write mounts.
        outputs: the files that matched the contract's `outputs`, and where they are.
        failure: why it did not succeed; None when it did.
        notes: what the caller should know: another engine ran it, a limit is enforced differently.
    """

    tool: str
    execution_id: str
    engine: str
    isolation: Isolation
    status: ExecutionStatus
    exit_code: int | None = None
    signal: int | None = None
    limit: Limit | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_base64: str | None = field(default=None, repr=False)
    stderr_base64: str | None = field(default=None, repr=False)
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    stdout_sha256: str = ""
    stderr_sha256: str = ""
    duration_s: float = 0.0
    usage: ResourceUsage = ResourceUsage()
    exports: Exports = field(default_factory=Exports)
    outputs: tuple[ExportedFile, ...] = ()
    failure: ToolFailure | None = None
    notes: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether the tool ended by itself with exit code 0."""
        return self.status is ExecutionStatus.COMPLETED

    @property
    def exit_status(self) -> int:
        """The exit status that a shell would show for this outcome."""
        if self.status is ExecutionStatus.TIMED_OUT:
            return EXIT_TIMED_OUT
        if self.status is ExecutionStatus.CANCELLED:
            return EXIT_CANCELLED
        if self.exit_code is not None:
            return self.exit_code
        if self.signal is not None:
            return 128 + self.signal
        return _STATUS_OF_REFUSAL.get(self.failure.category, 1) if self.failure else 0

    def output_or_raise(self) -> str:
        """Return stdout, as `ExecutionEngine.execute` does (spec 1, "Error Propagation").

        Raises:
            ExecutionError: the tool did not succeed; carries the exit code and both streams.
        """
        if self.failure is None:
            return self.stdout
        raise ExecutionError(
            f"tool '{self.tool}': {self.failure.message}",
            exit_code=self.exit_code,
            output=self.stdout + self.stderr,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values, for `--json` and for stores."""
        return {**asdict(self), "isolation": self.isolation.label}


def written(stream: StreamName, kept: bytes) -> dict[str, Any]:
    """Return what an outcome says of a stream's bytes: text, and the bytes themselves where they are no text."""
    text, encoded = text_of(kept)
    return {stream: text, f"{stream}_base64": encoded}


def text_of(kept: bytes) -> tuple[str, str | None]:
    """Return bytes as text, and as base64 where they are not UTF-8: then the text is their beginning."""
    try:
        return kept.decode(), None
    except UnicodeDecodeError:
        return kept[:MAX_REPLACED_BYTES].decode(errors="replace"), base64.b64encode(kept).decode("ascii")


def classify(exit_: Exit, *, timeout_s: float, timed_out: bool) -> tuple[ExecutionStatus, ToolFailure | None]:
    """Decide what an end means (DESIGN, table of failures).

    Args:
        exit_: the facts.
        timeout_s: the wall-clock limit that applied, in seconds.
        timed_out: whether Praxis killed the tool because that limit was used up.

    Returns:
        The final status, and the failure where there is one.
    """
    if timed_out:
        message = f"ran longer than its {timeout_s:g} s and was killed"
        return ExecutionStatus.TIMED_OUT, ToolFailure(FailureCategory.RESOURCE_LIMIT, message)
    if exit_.refusal is not None:
        return ExecutionStatus.FAILED, exit_.refusal
    if exit_.limit is not None:
        message = f"ended by its limit of {_LIMIT_NOUNS[exit_.limit]}"
        return ExecutionStatus.FAILED, ToolFailure(FailureCategory.RESOURCE_LIMIT, message)
    if exit_.signal is not None:
        return ExecutionStatus.FAILED, _signal_failure(exit_.signal)
    if exit_.exit_code == 0:
        return ExecutionStatus.COMPLETED, None
    message = f"exited with code {exit_.exit_code}"
    return ExecutionStatus.FAILED, ToolFailure(FailureCategory.USER_CODE_ERROR, message)


def _signal_failure(number: int) -> ToolFailure:
    name = signals.Signals(number).name if number in set(signals.Signals) else f"signal {number}"
    if number == signals.SIGSYS:
        return ToolFailure(FailureCategory.SANDBOX_VIOLATION, "made a forbidden system call and was killed")
    if number == signals.SIGKILL:
        # Nobody here sent it (the caller would know), and a tool cannot be told from an intruder.
        return ToolFailure(FailureCategory.INTERNAL_ERROR, "killed by SIGKILL from outside the run")
    return ToolFailure(FailureCategory.USER_CODE_ERROR, f"ended by {name}")


_LIMIT_NOUNS: Final[Mapping[Limit, str]] = {
    Limit.MEMORY: "memory",
    Limit.CPU_TIME: "processor time",
    Limit.PROCESSES: "processes",
    Limit.FILE_SIZE: "file size",
    Limit.DISK_SPACE: "disk space",
    Limit.OUTPUT: "output",
    Limit.TIMEOUT: "time",
}
