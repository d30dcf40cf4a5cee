"""Executions, failures and a small life cycle in memory, for tests of the failure policy and of what reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from praxis_sdk.control.lifecycle import failure_policy, transitions
from praxis_sdk.control.lifecycle.failure_policy import FailureDecision
from praxis_sdk.model import Attempt, Event, Execution, Failure, Options, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionStatus, FailureCategory
from praxis_sdk.store.changes import AppliedChange, Change, apply_change, created

NOW = 1_000_000.0
ASKED = Resources(cpu_cores=1.0, memory_mb=512, network_mbps=10, storage_mb=64)
ERROR_TYPES = list(ErrorType)


def execution(execution_id: str = "e1", **fields: Any) -> Execution:
    terms = fields.pop("terms", Options(requirements=ASKED))
    given = {
        "kind": "job",
        "control": "python",
        "request": {},
        "submitted_at": NOW,
        "granted": terms.requirements,
    }
    return Execution(id=execution_id, terms=terms, **{**given, **fields})


def failure(error_type: ErrorType = ErrorType.TRANSIENT, **fields: Any) -> Failure:
    category = {
        ErrorType.TRANSIENT: FailureCategory.INTERNAL_ERROR,
        ErrorType.PERMANENT: FailureCategory.USER_CODE_ERROR,
        ErrorType.RESOURCE: FailureCategory.RESOURCE_LIMIT,
        ErrorType.CRASH: FailureCategory.INTERNAL_ERROR,
    }[error_type]
    given = {"code": "some_code", "message": "it failed", "detail": ""}
    return Failure(category, error_type, **{**given, **fields})


def failures(*error_types: ErrorType) -> st.SearchStrategy[Failure]:
    return st.builds(
        failure,
        st.sampled_from(error_types or tuple(ErrorType)),
        code=st.sampled_from(["timeout", "exit_nonzero", "memory_exceeded", "worker_lost", "x"]),
        message=st.text(max_size=40),
        detail=st.text(max_size=200),
    )


@dataclass
class Life:
    """One execution with its stream, as a store keeps it."""

    execution: Execution
    now: float = NOW
    events: list[Event] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    verdicts: list[FailureDecision] = field(default_factory=list)

    @classmethod
    def of(cls, one: Execution) -> Life:
        life = cls(one)
        life._keep(created(one, life.now))
        return life

    def apply(self, change: Change) -> AppliedChange:
        settled = apply_change(self.execution, change, self.now)
        assert settled is not None, f"the change does not hold for {self.execution.status}"
        return self._keep(settled)

    def start(self, worker: str = "w1", wait_s: float = 0.5) -> None:
        due = self.execution.due_at
        if due is not None:
            self.now = due
        self.apply(transitions.release(self.execution, self.now))
        self.now += wait_s
        self.apply(transitions.start(self.execution, worker, self.now))

    def fail(self, why: Failure, **options: Any) -> FailureDecision:
        self.now += 2.0
        return self.judge(failure_policy.after_failure(self.execution, why, self.now, **options))

    def judge(self, verdict: FailureDecision) -> FailureDecision:
        self.verdicts.append(verdict)
        self.apply(verdict.change)
        if self.execution.due_at is not None:
            self.pauses.append(self.execution.due_at - self.now)
        return verdict

    def succeed(self, outputs: Any = None) -> None:
        self.now += 2.0
        usage = Usage(wall_s=2.0, cpu_s=1.0, peak_memory_bytes=1 << 20)
        self.apply(
            transitions.finish(
                self.execution, self.now, ExecutionStatus.COMPLETED, outputs=outputs, usage=usage
            )
        )

    def run(self, whys: Iterable[Failure]) -> Life:
        """Fail again and again, and succeed where nothing more fails and a try is left."""
        for why in whys:
            self.start()
            self.fail(why)
            if self.execution.status.final:
                return self
        self.start()
        self.succeed({"answer": 42})
        return self

    def _keep(self, settled: AppliedChange) -> AppliedChange:
        self.execution = settled.after
        self.events += settled.events
        if settled.attempt is not None:
            self.attempts.append(settled.attempt)
        return settled
