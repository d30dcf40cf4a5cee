"""The interface of a runtime adapter (spec 3, section 6.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from praxis_sdk.jobs.payload.payload import JobPayload

if TYPE_CHECKING:
    from praxis_sdk.jobs.environments.store import Environment


@dataclass(frozen=True)
class WorkFile:
    """A file to place in the job's working directory before it starts.

    Args:
        path: relative to the working directory.
        content: the bytes, or the digest under which the artifact store has them.
        executable: whether it may be executed.
    """

    path: str
    content: bytes | str
    executable: bool = False


@dataclass(frozen=True)
class PreparedJob:
    """What an adapter wants done inside the sandbox.

    Args:
        files: what the working directory holds at the start.
        python: code for the harness to run, with `name`, `code`, `parameters`, `inputs`; or None.
        argv: a program to run; or None. Exactly one of both is given.
        stdin: what standard input holds, as the content of a `WorkFile`; None for nothing.
        variables: environment variables beside those of the environment.
        leave: names of files in the working directory that are no output: they came in, or are by-products.
        requires: programs that must exist inside; where one is missing the job fails as DEPENDENCY_ERROR.
    """

    files: tuple[WorkFile, ...] = ()
    python: Mapping[str, Any] | None = None
    argv: tuple[str, ...] | None = None
    stdin: bytes | str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    leave: frozenset[str] = frozenset()
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the job wrote about itself: data, as trustworthy as the job.

    Args:
        exit_code: from the kernel; None where a signal ended it.
        result: the JSON value of the result file, checked and bounded, a long one as `JsonText`; None where there is
            none. The harness writes an object there for Python, and a program of its own what it likes.
        stdout, stderr: the end of each stream, at most a MiB of it.
        result_problem: why what was left in place of the result file is no result.
    """

    exit_code: int | None
    result: Any
    stdout: str
    stderr: str
    result_problem: str = ""


@dataclass(frozen=True)
class Findings:
    """What an adapter reads out of a report.

    Args:
        outputs: the job's JSON value, or `JsonText`.
        code: a machine word for a failure, None where the job did well by its own account.
        message: one line about it.
        traceback: the job's own traceback.
        asked_for: what the environment lacks by the job's own word, such as a module; the adapter is asked about it.
        dependency: the environment does lack it.
        signal: the signal that the work sent to itself, which its exit code (128 and the number) stands for.
    """

    outputs: Any = None
    code: str | None = None
    message: str = ""
    traceback: str = ""
    asked_for: str = ""
    dependency: bool = False
    signal: int | None = None


RunInSandbox = Callable[[PreparedJob], Awaitable[Report]]


class RuntimeAdapter(ABC):
    """Knows one language or task; one instance serves one job, in this order of calls.

    What a job of this runtime does happens inside the sandbox; the adapter itself describes work and
    reads reports.
    """

    name: ClassVar[str]
    version: ClassVar[str]

    @abstractmethod
    def prepare(self, payload: JobPayload) -> PreparedJob:
        """Say what has to be placed and run for a payload.

        Raises:
            ValidationError: the payload is nothing for this runtime; the message names the field.
        """

    async def execute(self, work: PreparedJob, run: RunInSandbox) -> Report:
        """Have the work done; `run` carries it out in a fresh sandbox within the job's limits."""
        return await run(work)

    @abstractmethod
    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Read the outputs out of what the job left."""

    def lack(self, asked_for: str, payload: JobPayload, environment: Environment) -> str:
        """Look whether the environment really lacks what a job says it does; may block.

        Args:
            asked_for: as in `Findings`.
            payload: the job.
            environment: the one that ran it.

        Returns:
            What is missing and what to do about it, in one line; empty where it is there, or cannot be told.
        """
        return ""

    def cleanup(self) -> None:  # noqa: B027 - most adapters hold nothing
        """Free what `prepare` took; called once per job, whatever happened."""
