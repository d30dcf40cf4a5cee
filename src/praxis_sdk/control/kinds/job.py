"""Jobs as a kind of work: untrusted code in a fresh sandbox (spec 3)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.control.kinds.base import AttemptHandle, Grace, Listen, Outcome, Plan, Room
from praxis_sdk.control.lifecycle import failure_policy
from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.context import StreamName
from praxis_sdk.model import EventType, Execution, NewEvent, RetryPolicy, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionMode
from praxis_sdk.store.changes import request_digest
from praxis_sdk.termination import Termination

if TYPE_CHECKING:
    from praxis_sdk.jobs import JobPayload, JobResult
    from praxis_sdk.jobs.executor.executor import JobExecutor
    from praxis_sdk.jobs.executor.metrics import JobMetrics
    from praxis_sdk.jobs.payload.limits import JobLimits

NAME: Final = "job"
# Most jobs wait for others or end soon; memory is what cannot be shared. History corrects both.
CPU_CORES: Final = 0.25
_MIB: Final = 1 << 20
_SANDBOX_GONE: Final = Termination(
    "the launcher waited for process 1 of its PID namespace, which is gone with all in it"
)
_SOURCE: Final = ("code", "files", "entrypoint", "module", "command")
# What a job does by itself is deterministic: the same again would come to the same.
RETRIES: Final = RetryPolicy(retry_on=frozenset({ErrorType.TRANSIENT, ErrorType.CRASH}))


class JobKind:
    """Runs jobs with an executor of this process, which is made when the first job comes.

    Args:
        make_executor: makes the executor.
        ceiling: returns the most that a job may ask for; None: what a payload can say.
        listen: called with each piece of output of an execution as it arrives, beside the log.
        tell: called with a line when a slow step of an execution begins, beside the log.
        metrics: told of each job that ended.
    """

    name = NAME
    children: frozenset[str] = frozenset()
    # A sandboxed job sees no flag of ours; SIGTERM is what it is told by.
    grace = Grace(cooperative_s=0.0, terminate_s=1.0)

    def __init__(
        self,
        make_executor: Callable[[], JobExecutor],
        *,
        ceiling: Callable[[], JobLimits] | None = None,
        listen: Listen | None = None,
        tell: Callable[[str, str], None] | None = None,
        metrics: JobMetrics | None = None,
    ) -> None:
        self._make_executor = make_executor
        self._ceiling = functools.cache(ceiling or (lambda: None))  # read when the first job comes
        self._listen = listen
        self._tell = tell
        self._metrics = metrics
        self._executor: JobExecutor | None = None

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        """Accept a job's payload, or refuse it with the field that is wrong."""
        from praxis_sdk.jobs.adapters import find_adapter
        from praxis_sdk.jobs.payload.payload import parse_payload

        if mode is not None:
            raise ValidationError("mode: a job has none", remedy="leave it out")
        # The execution names the job; a payload without a name of its own is as good.
        payload = parse_payload({"job_id": "job", **request})
        if find_adapter(payload.runtime) is None:
            raise ValidationError(
                f"payload.runtime: there is no runtime '{payload.runtime}' here",
                remedy="python, latex and command come with Praxis; packages can add others",
            )
        kept = payload.to_json()
        limits = self._granted(payload).limits
        return Plan(
            control=_control_of(payload, kept),
            request=kept,
            requirements=Resources(
                cpu_cores=CPU_CORES,
                memory_mb=-(-limits.memory_bytes // _MIB),
                storage_mb=-(-limits.scratch_bytes // _MIB),
            ),
            retry=RETRIES,
            version=payload.env_version or "",
            data_sources=tuple(payload.network),
        )

    def _granted(self, payload: JobPayload) -> JobPayload:
        """Return a payload with its limits as the operator grants them, or refuse it."""
        ceiling = self._ceiling()
        if ceiling is None:
            return payload
        return payload.model_copy(update={"limits": payload.limits.within(ceiling)})

    async def run(self, attempt: AttemptHandle) -> JobResult:
        """Run a job in a sandbox of its own."""
        payload = self._granted(_payload_of(attempt))
        payload = _with_more_memory(payload, attempt.execution, self._ceiling())
        if self._executor is None:
            self._executor = self._make_executor()
        execution_id, listen = attempt.execution.id, self._listen

        def heard(stream: StreamName, data: bytes) -> Room:
            attempt.output(stream, data)
            return None if listen is None else listen(execution_id, stream, data)

        def told(line: str) -> None:
            attempt.log(line, component="executor")
            if self._tell is not None:
                self._tell(execution_id, line)

        attempt.termination = Termination(known="its sandbox was lost while it was being ended")
        try:
            result = await self._executor.run(
                payload,
                on_output=heard,
                on_progress=told,
                terminating=attempt.terminated,
                identity=attempt.identity,
                counts=lambda: not attempt.cancelled.is_set(),
            )
        except BaseException as error:
            if not isinstance(error, PlatformError):  # else its launcher may have died
                attempt.termination = _SANDBOX_GONE
            raise
        attempt.termination = _SANDBOX_GONE
        if result.from_cache:  # what an equal job wrote is shown as if this one had written it
            heard("stdout", result.stdout.content())
            heard("stderr", result.stderr.content())
        if self._metrics is not None:
            self._metrics.ended(result)
        return result

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        """Say what came of a job."""
        result: JobResult = ending
        uses = (
            NewEvent(
                EventType.DATA_ACCESS,
                f"{use.host}:{use.port}",
                {"allowed": use.allowed, "sent_bytes": use.sent_bytes, "received_bytes": use.received_bytes},
                component="egress",
            )
            for use in result.network
        )
        return Outcome(
            status=result.status,
            outputs=result.returned.carried,
            result=_without_output(result.account()),
            failure=failure_policy.of_job(result, retry=attempt.execution.terms.retry),
            usage=Usage(
                wall_s=result.usage.wall_s,
                cpu_s=result.usage.cpu_s,
                peak_memory_bytes=result.usage.peak_memory_bytes,
                network_bytes=sum(use.sent_bytes + use.received_bytes for use in result.network) or None,
                storage_bytes=result.usage.scratch_bytes,
            ),
            events=tuple(uses),
        )

    def dependency(self, execution: object) -> str | None:
        """Name nothing: a job stands on this host alone."""
        return None

    async def close(self) -> None:
        """End every sandbox; repeatable."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await executor.close()


def _control_of(payload: JobPayload, kept: Mapping[str, Any]) -> str:
    """Name what a job runs, such as 'python:base:5d41402a': what one source needs says nothing of another."""
    source = {name: kept[name] for name in _SOURCE if kept.get(name) is not None}
    return f"{payload.runtime}:{payload.env}:{request_digest(source)[:8]}"


def _without_output(result: dict[str, Any]) -> dict[str, Any]:
    """Leave the streams out of a result, but for what names them: `control.output` adds them when somebody reads."""
    for stream in ("stdout", "stderr"):
        result[stream] = {name: result[stream][name] for name in ("total_bytes", "truncated", "sha256")}
    return result


def _payload_of(attempt: AttemptHandle) -> JobPayload:
    """Return the payload of an attempt, named by its execution."""
    from praxis_sdk.jobs.payload.payload import parse_payload

    execution = attempt.execution
    assert execution.request is not None
    request = dict(execution.request)
    if request.get("job_id", "job") == "job":
        request["job_id"] = execution.id
    return parse_payload(request)


def _with_more_memory(payload: JobPayload, execution: Execution, ceiling: JobLimits | None) -> JobPayload:
    """Return a payload with what the execution was granted after a failure for want of memory."""
    asked, granted = execution.terms.requirements.memory_mb, execution.granted.memory_mb
    if granted <= asked or asked <= 0:
        return payload
    memory_bytes = payload.limits.memory_bytes * granted // asked
    if ceiling is not None:
        memory_bytes = min(memory_bytes, ceiling.memory_bytes)
    limits = payload.limits.model_copy(update={"memory_bytes": memory_bytes})
    return payload.model_copy(update={"limits": limits})


__all__ = ["NAME", "JobKind"]
