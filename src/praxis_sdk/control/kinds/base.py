"""Kinds of work: what differs between a tool, a job, and whatever comes next.

A kind says four things: whether a request is acceptable and under which terms it runs (`validate`), what an
attempt runs (`run`), what its end means (`collect`), and which kinds an attempt of it may submit (`children`).
Everything else (queue, retries, cancellation, events, audit) is the same for all and knows no kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.execution.context import StreamName
from praxis_sdk.model import (
    NO_RETRIES,
    WORK,
    EventType,
    Execution,
    Failure,
    Level,
    NewEvent,
    RetryPolicy,
    Usage,
)
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import ExecutionMode, ExecutionStatus
from praxis_sdk.termination import Remains, Termination

REMAINS: Final = "remains"  # in the data of events: what may still run of an attempt


class CancellationRequested(PraxisError):
    """The work looked at its flag and found that its end is wanted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a kind makes of an acceptable request.

    Args:
        control: what of that kind it runs; expectations and requirements are learned per control.
        request: the request as it is kept and run, JSON.
        requirements: what is reserved unless the submitter says otherwise or history knows better.
        timeout_s: wall-clock limit of one attempt, in seconds; None: the work ends itself for certain.
        retry: what happens when it fails, unless the submitter says otherwise.
        version: of what runs: of a procedure, a contract, an environment; for the audit.
        agent_id: the agent that carries it out, where it has one; for the audit.
        mode: how a procedure is executed; None for other kinds.
        data_sources: what it reads from outside (spec 4, property 1).
        agent_config: how its agent is made, where it has one (spec 4, property 1).
        learns: whether requirements are learned from what earlier executions of the control used.
    """

    control: str
    request: Mapping[str, Any]
    requirements: Resources = ZERO
    timeout_s: float | None = None
    retry: RetryPolicy = NO_RETRIES
    version: str = ""
    agent_id: str = ""
    mode: ExecutionMode | None = None
    data_sources: tuple[str, ...] = ()
    agent_config: Mapping[str, Any] | None = None
    learns: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to.

    Args:
        status: a final status.
        outputs: what it returned, JSON.
        result: the kind's whole account, JSON; for whoever knows the kind.
        failure: why it did not succeed.
        usage: what it consumed.
        events: what shall be told about the end, such as the proof that its processes are gone.
    """

    status: ExecutionStatus
    outputs: Any = None
    result: Any = None
    failure: Failure | None = None
    usage: Usage | None = None
    events: tuple[NewEvent, ...] = ()


Tell = Callable[[NewEvent], None]
Room = asyncio.Future[None] | None  # done when whoever listens takes more
Listen = Callable[[str, StreamName, bytes], Room]  # is told of an execution's output as it arrives
Submit = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Awaitable[str]]
Await = Callable[[str], Awaitable[Execution]]


IN_PROCESS: Final = Termination("its work was a task of the worker's own process, and has returned")


@dataclass(eq=False)
class AttemptHandle:
    """What an attempt may ask and tell while it runs.

    Args:
        execution: what runs, with its request.
        cancelled: set when the end is wanted; work that looks at it may end by itself within the grace period.
        terminated: set when that was not heard: now SIGTERM is due, and SIGKILL follows.
        termination: what is known of its end once `run` has returned or raised. A kind whose work lives in other
            processes or elsewhere says here what it knows; without evidence there is no proof.
    """

    execution: Execution
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    terminated: asyncio.Event = field(default_factory=asyncio.Event)
    termination: Termination = IN_PROCESS
    _tell: Tell = lambda draft: None
    _submit: Submit | None = None
    _await: Await | None = None

    def outside(self, remains: Remains) -> None:
        """Tell for whoever comes later of what is about to be started where this process's death does not end it."""
        data = {REMAINS: remains.to_json(), "token": self.execution.token}
        self._tell(NewEvent(EventType.ACTION, f"starts {remains}", data, component="engine"))

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of an execution: for services that must not do a thing twice."""
        return self.execution.idempotency_key or self.execution.id

    @property
    def identity(self) -> dict[str, str]:
        """The variables that tell work outside which attempt it is.

        Work with effects elsewhere hands them on: the key is the same for every attempt, so that a service does a thing
        once, and the token grows with each, so that it can refuse an attempt that was replaced.
        """
        return {
            "PRAXIS_EXECUTION_ID": self.execution.id,
            "PRAXIS_ATTEMPT": str(self.execution.attempt),
            "PRAXIS_IDEMPOTENCY_KEY": self.idempotency_key,
            "PRAXIS_FENCING_TOKEN": str(self.execution.token),
        }

    def check_cancelled(self) -> None:
        """Raise when the end is wanted (spec 5, section 3.2).

        Raises:
            CancellationRequested: it is.
        """
        if self.cancelled.is_set():
            raise CancellationRequested("its cancellation was asked for")

    def log(self, line: str, *, level: Level = Level.INFO, component: str = "work", **data: Any) -> None:
        """Append a log line to the stream."""
        self._tell(NewEvent(EventType.LOG, line, data, level, component))

    def output(self, stream: str, data: bytes) -> None:
        """Append bytes that the work wrote to one of its streams ('stdout', 'stderr'); they are kept as they are."""
        if data:
            self._tell(NewEvent(EventType.LOG, "", {"stream": stream}, component=WORK, chunk=data))

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the work is, 0.0 to 1.0."""
        bounded = min(1.0, max(0.0, fraction))
        self._tell(NewEvent(EventType.PROGRESS, message, {"progress": bounded}, component="work"))

    def checkpoint(self, message: str = "checkpoint") -> None:
        """Tell that what was done so far would not be lost if the attempt ended now."""
        self._tell(NewEvent(EventType.PROGRESS, message, {"checkpoint": True}, component="work"))

    def action(self, message: str, *, component: str = "work", **data: Any) -> None:
        """Tell for the audit what was done."""
        self._tell(NewEvent(EventType.ACTION, message, data, component=component))

    def decision(self, message: str, *, component: str = "work", **data: Any) -> None:
        """Tell for the audit what was decided, and why."""
        self._tell(NewEvent(EventType.DECISION, message, data, component=component))

    def data_access(self, source: str, *, component: str = "work", **data: Any) -> None:
        """Tell for the audit what was read or written outside."""
        self._tell(NewEvent(EventType.DATA_ACCESS, source, data, component=component))

    async def submit(self, kind: str, request: Mapping[str, Any], **terms: Any) -> str:
        """Submit a child execution, which is cancelled with this one, and return its id.

        Raises:
            ValidationError: the kind of this attempt may not submit such children, or the request is wrong.
        """
        if self._submit is None:
            raise ValidationError(f"a '{self.execution.kind}' submits no children here")
        return await self._submit(kind, request, terms)

    async def wait(self, execution_id: str) -> Execution:
        """Wait for the end of a child and return it."""
        if self._await is None:
            raise ValidationError(f"a '{self.execution.kind}' has no children here")
        return await self._await(execution_id)


@dataclass(frozen=True, slots=True)
class Grace:
    """How long an attempt is given to end before the next, harder means.

    Args:
        cooperative_s: from the flag to SIGTERM, in seconds; 0: this kind cannot see the flag.
        terminate_s: from SIGTERM to SIGKILL, in seconds; 0: this kind has no process to signal.
    """

    cooperative_s: float = 1.0
    terminate_s: float = 1.0

    def within(self, seconds: float) -> Grace:
        """Return what fits into so many seconds: the same, or less of both in the same proportion."""
        whole_s = self.cooperative_s + self.terminate_s
        if whole_s <= seconds:
            return self
        share = max(0.0, seconds) / whole_s
        return Grace(self.cooperative_s * share, self.terminate_s * share)


class Kind(Protocol):
    """A kind of work (DESIGN, "everything is an Execution")."""

    @property
    def name(self) -> str:
        """The name of the kind, such as 'job'."""

    @property
    def children(self) -> frozenset[str]:
        """The kinds that an attempt may submit."""

    @property
    def grace(self) -> Grace:
        """How long an attempt is given to end by itself."""

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        """Accept a request, or refuse it.

        Raises:
            ValidationError: it is not acceptable; the message names the field and the remedy.
        """

    async def run(self, attempt: AttemptHandle) -> Any:
        """Run an attempt to its end; when this returns or raises, also when cancelled, nothing of it is alive.

        Where that cannot be confirmed in bounded time, `attempt.termination` says so.
        """

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        """Say what came of an attempt, from what `run` returned; no I/O."""

    def dependency(self, execution: Execution) -> str | None:
        """Name the service that an attempt stands on, for its circuit breaker; None: none outside."""

    async def close(self) -> None:
        """Let go of everything; repeatable."""


@runtime_checkable
class LeavesRemains(Protocol):
    """A kind whose attempts may leave something running that outlives the worker, such as a container."""

    async def end_remains(self, remains: Remains) -> Termination:
        """End what an attempt of any worker left, and say what is known then."""

    async def sweep(self) -> None:
        """Remove what dead processes of this installation left."""


class Kinds:
    """The kinds of one installation, by name.

    Args:
        kinds: the kinds.
    """

    def __init__(self, *kinds: Kind) -> None:
        self._by_name: Final = {kind.name: kind for kind in kinds}

    @property
    def names(self) -> frozenset[str]:
        """The names of all kinds."""
        return frozenset(self._by_name)

    def get(self, name: str) -> Kind:
        """Return a kind.

        Raises:
            ValidationError: there is none of this name.
        """
        kind = self._by_name.get(name)
        if kind is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise ValidationError(f"kind: there is no kind of work '{name[:64]}'", remedy=f"known: {known}")
        return kind

    async def close(self) -> None:
        """Close every kind; repeatable."""
        for kind in self._by_name.values():
            await kind.close()
