"""The executor: takes a payload, returns a result (spec 3, section 3).

    validate -> environment -> equal job known? -> adapter.prepare -> sandbox -> collect -> upload -> result

A failing job is a result. An exception means that the platform failed: the store cannot be written, the
sandbox cannot be built. What happened is judged from the kernel's account; what the job says of itself is
its output, its traceback and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import FileIO
from typing import Final

import praxis_sdk
from praxis_sdk.errors import PlatformError, PraxisError, ValidationError
from praxis_sdk.execution.context import OutputListener
from praxis_sdk.jobs.adapters import find_adapter
from praxis_sdk.jobs.adapters.base import Findings, PreparedJob, Report, RuntimeAdapter
from praxis_sdk.jobs.artifacts import (
    Artifact,
    ArtifactMissing,
    ArtifactStore,
    upload,
)
from praxis_sdk.jobs.collector import Collector
from praxis_sdk.jobs.egress import EgressPolicy, egress_for
from praxis_sdk.jobs.egress.resolving import Resolve
from praxis_sdk.jobs.environments.store import Environment, EnvironmentMissing, EnvironmentStore
from praxis_sdk.jobs.environments.warm import WarmEnvironment, WarmEnvironments
from praxis_sdk.jobs.executor.attempt import Egress, SandboxRun, SandboxRunEnd
from praxis_sdk.jobs.executor.dedupe import dedupe_key
from praxis_sdk.jobs.executor.order import write_order
from praxis_sdk.jobs.executor.result import (
    BoundedText,
    FailureCode,
    JobFailure,
    JobResult,
    JobTimings,
    JobUsage,
    NetworkUse,
    RejectedArtifact,
)
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.jobs.executor.verdict import failure_of, sanitized, sanitizer_for
from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.jobs.payload.payload import JobPayload
from praxis_sdk.json_text import JsonText
from praxis_sdk.log import get_logger
from praxis_sdk.states import ExecutionStatus, FailureCategory

MOST_BEGINNING: Final = 64
_NOBODY: Final[Mapping[str, str]] = {}
_TAKES_ITS_TIME_S: Final = 0.2
_AT_ONCE_BYTES: Final = 1 << 20  # of output that is made text of sooner than a thread is called

log = get_logger("praxis.jobs")


class _Refused(Exception):
    """The job ends before it began, for a reason that is its own or its environment's."""

    def __init__(self, category: FailureCategory, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.category = category
        self.code = code


@dataclass
class _Clock:
    """When the steps of one job were reached."""

    queued_at: datetime
    queued: float
    prepared: float = 0.0
    started: float = 0.0
    ended: float = 0.0

    def timings(self) -> JobTimings:
        def at(moment: float) -> datetime | None:
            return (
                datetime.fromtimestamp(self.queued_at.timestamp() + moment - self.queued, UTC)
                if moment
                else None
            )

        now = time.monotonic()
        return JobTimings(
            queued_at=self.queued_at,
            prepared_at=at(self.prepared),
            started_at=at(self.started),
            finished_at=at(now),
            prepare_s=max(0.0, (self.prepared or now) - self.queued),
            run_s=max(0.0, self.ended - self.started) if self.ended else None,
            collect_s=max(0.0, now - self.ended) if self.ended else None,
        )


@dataclass(frozen=True)
class _Call:
    """One call of `execute`."""

    payload: JobPayload
    began: _Clock
    on_output: OutputListener | None
    on_progress: Callable[[str], None]
    terminating: asyncio.Event | None
    identity: Mapping[str, str]


@dataclass(frozen=True)
class _Ran:
    """What is known of a job whose sandbox is gone."""

    ended: SandboxRunEnd
    findings: Findings
    artifacts: tuple[Artifact, ...]
    usage: JobUsage
    network: tuple[NetworkUse, ...]


class JobExecutor:
    """Runs jobs, one sandbox each, as many at once as it is asked to.

    Args:
        artifacts: where artifacts go and inputs by digest come from.
        environments: the environments of this home.
        results: where results are kept and equal jobs are found.
        egress: the operator's bounds for jobs with a network grant.
        resolve: looks names up for them; unless given, as this machine does.
        for_one: it is for a single job, which most likely leaves nothing that would have to be read in a process of its
            own; so that one is started once the job takes its time.
        now: the time, for tests.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        environments: EnvironmentStore,
        results: ResultStore,
        *,
        egress: EgressPolicy | None = None,
        resolve: Resolve | None = None,
        for_one: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._artifacts = artifacts
        self._stations = WarmEnvironments(environments)
        self._results = results
        self._egress = egress
        self._resolve = resolve
        self._now = now
        self._collector = Collector()
        self._for_one = for_one
        self._starting: asyncio.Task[None] | None = None
        # Beginning takes more descriptors than running, and thousands may begin at once.
        self._beginning = asyncio.Semaphore(MOST_BEGINNING)

    async def close(self) -> None:
        """End every sandbox; repeatable."""
        if self._starting is not None:
            self._starting.cancel()
        await self._stations.close()
        await self._collector.close()

    async def run(
        self,
        payload: JobPayload,
        *,
        on_output: OutputListener | None = None,
        on_progress: Callable[[str], None] = lambda line: None,
        terminating: asyncio.Event | None = None,
        identity: Mapping[str, str] = _NOBODY,
        counts: Callable[[], bool] = lambda: True,
    ) -> JobResult:
        """Run one job, or take the stored result of an equal one, and keep the result.

        Args:
            payload: the job.
            on_output: called with each piece of its output as it arrives.
            on_progress: called with a line when a slow step begins.
            terminating: once it is set the job is asked to end (SIGTERM), and may take its time.
            identity: variables that tell a job with network grants which attempt it is; others have no effects outside,
                and would no longer be equal.
            counts: asked at the end; a result that does not count, say of a cancelled job, is not kept.

        Raises:
            PlatformError: the platform failed.
        """
        events = log.bind(job_id=payload.job_id, runtime=payload.runtime)
        events.info("job.status", status="running")
        result = await self.execute(
            payload, on_output=on_output, on_progress=on_progress, terminating=terminating, identity=identity
        )
        if counts():
            await self.keep(payload, result)
        events.info(
            "job.status",
            status=str(result.status),
            category=str(result.failure.category) if result.failure else None,
            code=result.failure.code if result.failure else None,
            env_version=result.env_version,
            from_cache=result.from_cache,
            **{name: value for name, value in vars(result.usage).items() if value is not None},
        )
        return result

    async def execute(
        self,
        payload: JobPayload,
        *,
        on_output: OutputListener | None = None,
        on_progress: Callable[[str], None] = lambda line: None,
        terminating: asyncio.Event | None = None,
        identity: Mapping[str, str] = _NOBODY,
    ) -> JobResult:
        """Do as `run` does, and leave it to the caller whether the result counts.

        When this returns or raises, also when it is cancelled, the job's sandbox is dead.

        Args:
            payload: the job.
            on_output: called with each piece of its output as it arrives.
            on_progress: called with a line when a slow step begins.
            terminating: once it is set the job is asked to end (SIGTERM), and may take its time.
            identity: as in `run`.

        Raises:
            PlatformError: the platform failed.
        """
        began = _Clock(self._now(), time.monotonic())
        try:
            return await self._result(_Call(payload, began, on_output, on_progress, terminating, identity))
        except PraxisError:
            raise
        except OSError as error:
            raise PlatformError(
                f"the executor cannot go on: {error.strerror or error}", remedy="try again"
            ) from error
        except Exception as error:  # the job is data here: what goes wrong with it is not its user's
            log.error("job.executor_failed", job_id=payload.job_id, exc_info=error)  # noqa: TRY400 - it has no other
            raise PlatformError(f"the executor failed: {type(error).__name__}: {error}") from error

    async def keep(self, payload: JobPayload, result: JobResult) -> None:
        """Keep a result that counts; durable when this returns.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        await self._results.keep(payload, result)

    async def _result(self, asked: _Call) -> JobResult:
        payload, began = asked.payload, asked.began
        environment: Environment | None = None
        key: str | None = None
        try:
            adapter = _adapter(payload)
            station = await self._station(payload, asked.on_progress)
            environment = station.environment
            key = dedupe_key(payload, None, environment.env_version, adapter.version)
            known = None
            if not payload.fresh and self._results.may_have_equal(key):
                known = await asyncio.to_thread(self._results.equal, key)
            if known is not None and await self._still_there(known):
                return known.served_from_cache(payload.job_id, began.queued_at)
            work = _prepare(adapter, payload, environment)
            try:
                ran = await self._run(asked, adapter, station, work, key)
            finally:
                adapter.cleanup()
            # Making text of many bytes takes longer than the event loop may be held up.
            if ran.usage.stdout_bytes + ran.usage.stderr_bytes > _AT_ONCE_BYTES:
                return await asyncio.to_thread(_judge, asked, environment, key, ran)
            return _judge(asked, environment, key, ran)
        except _Refused as refusal:
            return JobResult(
                job_id=payload.job_id,
                status=ExecutionStatus.FAILED,
                failure=JobFailure(
                    category=refusal.category,
                    code=refusal.code,
                    message=sanitizer_for(environment).message(str(refusal)),
                ),
                env_version=environment.env_version if environment else None,
                executor_version=praxis_sdk.__version__,
                timings=began.timings(),
                dedupe_key=key,
            )

    async def _run(
        self, asked: _Call, adapter: RuntimeAdapter, station: WarmEnvironment, work: PreparedJob, key: str
    ) -> _Ran:
        payload, began = asked.payload, asked.began
        ended: SandboxRunEnd | None = None
        async with SandboxRun(
            station.launcher,
            self._collector,
            payload.limits,
            asked.on_output,
            self._egress_of(payload),
            asked.terminating,
        ) as attempt:

            async def run(wanted: PreparedJob) -> Report:
                nonlocal ended
                async with self._beginning:
                    with await self._order(payload, wanted, key) as order:
                        began.prepared = began.started = time.monotonic()
                        variables = (
                            {**wanted.variables, **asked.identity} if payload.network else wanted.variables
                        )
                        await attempt.start(order, variables)
                self._start_collector(_TAKES_ITS_TIME_S)
                ended = await attempt.end(wanted.leave)
                began.ended = time.monotonic()
                return _report(ended)

            report = await adapter.execute(work, run)
            assert ended is not None, "an adapter must have its work done"
            findings = _checked(adapter.collect_outputs(payload, report))
            if findings.asked_for:
                findings = await asyncio.to_thread(
                    _looked_up, findings, adapter, payload, station.environment
                )
            collection = ended.left.collection
            artifacts = await upload(collection, attempt.outputs.fd, self._artifacts)
            return _Ran(ended, findings, artifacts, _usage(ended, artifacts, findings, attempt), attempt.uses)

    def _egress_of(self, payload: JobPayload) -> Egress | None:
        if not payload.network:
            return None
        return lambda listening: egress_for(payload, listening, self._egress, resolve=self._resolve)

    async def _order(self, payload: JobPayload, work: PreparedJob, key: str) -> FileIO:
        try:
            return await write_order(
                work, seed=int(key[:12], 16), store=self._artifacts, limits=payload.limits
            )
        except ArtifactMissing as error:
            raise _Refused(
                FailureCategory.DEPENDENCY_ERROR, FailureCode.INPUT_MISSING, error.message
            ) from error
        except ValidationError as error:
            raise _Refused(
                FailureCategory.VALIDATION_ERROR, FailureCode.INVALID_PAYLOAD, str(error)
            ) from error

    async def _station(self, payload: JobPayload, on_progress: Callable[[str], None]) -> WarmEnvironment:
        wanted = payload.env_version or payload.env
        if not self._for_one:
            self._start_collector()  # beside the first zygote, so that no job waits for it
        try:
            station = await self._stations.get(wanted, on_progress)
        except EnvironmentMissing as error:
            raise _Refused(
                FailureCategory.DEPENDENCY_ERROR, FailureCode.ENVIRONMENT_MISSING, str(error)
            ) from error
        if station.environment.name != payload.env:
            message = f"payload.env_version: '{wanted}' is no version of the environment '{payload.env}'"
            raise _Refused(FailureCategory.VALIDATION_ERROR, FailureCode.ENVIRONMENT_MISMATCH, message)
        return station

    def _start_collector(self, after_s: float = 0.0) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(_started(self._collector, after_s))

    async def _still_there(self, result: JobResult) -> bool:
        found = [await self._artifacts.stat(artifact.digest) for artifact in result.artifacts]
        return all(found)


async def _started(collector: Collector, after_s: float) -> None:
    await asyncio.sleep(after_s)
    with contextlib.suppress(PlatformError):  # whoever needs it will try again, and hear why
        await collector.start()


def _adapter(payload: JobPayload) -> RuntimeAdapter:
    adapter = find_adapter(payload.runtime)
    if adapter is None:
        message = f"payload.runtime: there is no adapter for '{payload.runtime}'"
        raise _Refused(FailureCategory.DEPENDENCY_ERROR, FailureCode.UNKNOWN_RUNTIME, message)
    return adapter


def _prepare(adapter: RuntimeAdapter, payload: JobPayload, environment: Environment) -> PreparedJob:
    try:
        work = adapter.prepare(payload)
    except ValidationError as error:
        raise _Refused(FailureCategory.VALIDATION_ERROR, FailureCode.INVALID_PAYLOAD, str(error)) from error
    path = environment.variables["PATH"]
    missing = [program for program in work.requires if shutil.which(program, path=path) is None]
    if missing:
        message = f"the runtime '{adapter.name}' needs {', '.join(missing)}, which this host does not have"
        raise _Refused(FailureCategory.DEPENDENCY_ERROR, FailureCode.PROGRAM_MISSING, message)
    return work


def _report(ended: SandboxRunEnd) -> Report:
    return Report(
        exit_code=ended.exit.exit_code,
        result=ended.left.result.value,
        stdout=ended.capture.last_text("stdout"),
        stderr=ended.capture.last_text("stderr"),
        result_problem=ended.left.result.problem,
    )


def _checked(findings: Findings) -> Findings:
    """Refuse outputs that no JSON can carry; the job may have written them past the harness."""
    if isinstance(findings.outputs, JsonText):
        return findings  # the collector has checked it
    try:
        strict_json.check(findings.outputs)
    except strict_json.UnsoundJson as error:
        return Findings(code=FailureCode.INVALID_RESULT, message=f"the result is not JSON data: {error}")
    return findings


def _looked_up(
    findings: Findings, adapter: RuntimeAdapter, payload: JobPayload, environment: Environment
) -> Findings:
    """Look whether the environment lacks what the job says it does: its word alone is none."""
    lack = adapter.lack(findings.asked_for, payload, environment)
    if not lack:
        return findings
    return replace(findings, code=FailureCode.DEPENDENCY_MISSING, message=lack, dependency=True)


def _usage(
    ended: SandboxRunEnd, artifacts: tuple[Artifact, ...], findings: Findings, attempt: SandboxRun
) -> JobUsage:
    space = os.fstatvfs(attempt.outputs.fd)
    return JobUsage(
        wall_s=ended.exit.usage.wall_seconds,
        cpu_s=ended.exit.usage.cpu_seconds,
        collect_s=ended.left.cpu_s,
        peak_memory_bytes=ended.exit.usage.peak_memory_bytes,
        peak_processes=ended.exit.usage.peak_processes,
        largest_file_bytes=max((artifact.size_bytes for artifact in artifacts), default=0),
        files=space.f_files - space.f_ffree,
        scratch_bytes=(space.f_blocks - space.f_bfree) * space.f_frsize,
        stdout_bytes=ended.capture.seen_bytes("stdout"),
        stderr_bytes=ended.capture.seen_bytes("stderr"),
        outputs_bytes=JsonText.of(findings.outputs).size_bytes,
        artifact_count=len(artifacts),
        artifact_total_bytes=sum(artifact.size_bytes for artifact in artifacts),
    )


def _judge(asked: _Call, environment: Environment, key: str, ran: _Ran) -> JobResult:
    """Decide what the end means (DESIGN, table of failures)."""
    payload, ended, findings = asked.payload, ran.ended, ran.findings
    collection = ended.left.collection
    limit, failure = failure_of(payload, ended, findings, ran.usage)
    status = ExecutionStatus.COMPLETED
    if failure is not None:
        status = ExecutionStatus.TIMED_OUT if ended.timed_out else ExecutionStatus.FAILED
        failure = sanitized(failure, sanitizer_for(environment))
    capture, limits = ended.capture, payload.limits
    return JobResult(
        job_id=payload.job_id,
        status=status,
        outputs=findings.outputs if failure is None else None,
        stdout=BoundedText.of(
            capture.kept("stdout"),
            max_bytes=limits.stdout_bytes,
            total_bytes=capture.seen_bytes("stdout"),
            sha256=capture.sha256("stdout"),
        ),
        stderr=BoundedText.of(
            capture.kept("stderr"),
            max_bytes=limits.stderr_bytes,
            total_bytes=capture.seen_bytes("stderr"),
            sha256=capture.sha256("stderr"),
        ),
        exit_code=None if findings.signal else ended.exit.exit_code,
        signal=findings.signal or ended.exit.signal,
        artifacts=ran.artifacts,
        rejected_artifacts=tuple(
            RejectedArtifact(name=one.name, reason=one.detail) for one in collection.rejected
        ),
        usage=ran.usage,
        limit=limit,
        failure=failure,
        env_version=environment.env_version,
        executor_version=praxis_sdk.__version__,
        timings=asked.began.timings(),
        dedupe_key=key,
        network=ran.network,
    )
