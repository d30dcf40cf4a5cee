"""Tools as a kind of work: a contract and its arguments, run on the engine that fits (spec 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.control.kinds.base import AttemptHandle, Grace, Listen, Outcome, Plan, Room
from praxis_sdk.control.lifecycle import failure_policy
from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.execution.context import StreamName
from praxis_sdk.model import Execution, RetryPolicy, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.secrets import SecretSources
from praxis_sdk.states import ErrorType, ExecutionMode
from praxis_sdk.termination import Remains, Termination
from praxis_sdk.units import parse_seconds

if TYPE_CHECKING:
    from praxis_sdk.execution.contract.contract import ToolContract
    from praxis_sdk.execution.outcome import ToolOutcome
    from praxis_sdk.execution.registry import EngineRegistry

NAME: Final = "tool"
CPU_CORES: Final = 0.25
MEMORY_MB: Final = 256
# What a tool did outside may not be done twice unless whoever submits it says so; a service that was away never
# saw it.
RETRIES: Final = RetryPolicy(retry_on=frozenset({ErrorType.TRANSIENT}))
_FIELDS: Final = (
    "contract",
    "args",
    "engine",
    "trusted",
    "workspace",
    "allow_mounts",
    "allow_secrets",
    "timeout",
)
KEEP_OUTPUT_BYTES: Final = 32 << 10  # of an outcome: the stream of events has it all
# What `control.output` adds when somebody reads.
_IN_THE_STREAM: Final = frozenset(
    f"{stream}{part}" for stream in ("stdout", "stderr") for part in ("", "_base64", "_truncated")
)
# Engines whose services others answer for: when one fails, a breaker leaves it alone for a while.
_SERVICES: Final = frozenset({"docker", "dagger", "remote-mcp", "kubernetes"})


class ToolKind:
    """Runs contracts on the engines of a registry, which is made when the first tool comes.

    Args:
        make_registry: makes the registry.
        listen: called with each piece of output of an execution as it arrives, beside the log.
        tell: called with a line when a slow step of an execution begins, beside the log.
        keep_output_bytes: as in `RunContext`.
        secrets: says where this worker finds secrets, when a tool needs some; nowhere unless given.
        stdin: a descriptor from which the tool reads, for a kind that runs one execution of this process.
        outputs: the folder for the files that match a contract's `outputs`; likewise.
    """

    name = NAME
    children: frozenset[str] = frozenset()
    grace = Grace(cooperative_s=0.0, terminate_s=2.0)

    def __init__(
        self,
        make_registry: Callable[[], EngineRegistry],
        *,
        listen: Listen | None = None,
        tell: Callable[[str, str], None] | None = None,
        keep_output_bytes: int = KEEP_OUTPUT_BYTES,
        secrets: Callable[[], SecretSources] = SecretSources,
        stdin: int | None = None,
        outputs: Path | None = None,
    ) -> None:
        self._make_registry = make_registry
        self._secrets = secrets
        self._listen = listen
        self._tell = tell
        self._stdin = stdin
        self._outputs = outputs
        self._keep_output_bytes = keep_output_bytes
        self._registry: EngineRegistry | None = None

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        """Accept a contract with its arguments, or refuse it with the field that is wrong."""
        from praxis_sdk.execution.arguments.credentials import check_references
        from praxis_sdk.execution.selection import check_runnable

        if mode is not None:
            raise ValidationError("mode: a tool has none", remedy="leave it out")
        for name in request:
            if name not in _FIELDS:
                raise ValidationError(f"request.{name}: unknown", remedy=f"known are {', '.join(_FIELDS)}")
        contract = _contract_of(request, strict=True)  # a limit that is misspelt must not be lost
        args = request.get("args") or {}
        if not isinstance(args, Mapping):
            raise ValidationError("request.args: must be an object", remedy="give arguments by name")
        allowed = request.get("allow_secrets") or ()
        if not isinstance(allowed, list | tuple) or not all(isinstance(name, str) for name in allowed):
            raise ValidationError("request.allow_secrets: must be a list of names")
        check_references(contract, args, trusted=bool(request.get("trusted")), allowed=allowed)
        kept: dict[str, Any] = {
            "contract": contract.model_dump(mode="json", exclude_none=True),
            "args": dict(args),
        }
        if allowed:
            kept["allow_secrets"] = list(allowed)
        for name, form in (("engine", str), ("trusted", bool), ("workspace", str)):
            if request.get(name) is not None:
                if not isinstance(request[name], form):
                    raise ValidationError(f"request.{name}: {request[name]!r} has the wrong form")
                kept[name] = request[name]
        check_runnable(contract, kept.get("engine"))
        if request.get("allow_mounts"):
            kept["allow_mounts"] = _folders(request["allow_mounts"])
        if request.get("timeout") is not None:
            kept["timeout"] = _seconds(request["timeout"])
        return Plan(
            control=contract.name,
            request=kept,
            requirements=Resources(cpu_cores=CPU_CORES, memory_mb=MEMORY_MB),
            retry=RETRIES,
            version=contract.version or "",
        )

    async def run(self, attempt: AttemptHandle) -> ToolOutcome:
        """Run a tool on its engine, or on another that fits."""
        from praxis_sdk.execution.arguments.credentials import resolve
        from praxis_sdk.execution.context import RunContext
        from praxis_sdk.execution.runner import ToolRunner

        execution = attempt.execution
        request = execution.request
        assert request is not None
        trusted = bool(request.get("trusted"))
        credentials = resolve(_contract_of(request), request["args"], self._secrets(), trusted=trusted)
        for secret in credentials.used:
            attempt.data_access(f"secret {secret.name}", place=secret.source, version=secret.version)
        mask = credentials.mask
        listen = self._listen
        passed_on: set[StreamName] = set()

        def heard(stream: StreamName, data: bytes) -> Room:
            passed_on.add(stream)
            attempt.output(stream, data)
            return None if listen is None else listen(execution.id, stream, data)

        def told(line: str) -> None:
            line = mask.text(line)
            attempt.log(line, component="engine")
            if self._tell is not None:
                self._tell(execution.id, line)

        def ended(termination: Termination) -> None:
            attempt.termination = termination

        ended(Termination(known="its engine does not say what it leaves running"))
        context = RunContext(
            execution_id=execution.id if execution.attempt == 1 else f"{execution.id}.{execution.attempt}",
            workspace=Path(request.get("workspace") or "."),
            allow_mounts=tuple(Path(path) for path in request.get("allow_mounts") or ()),
            stdin=self._stdin,
            outputs=self._outputs,
            timeout_s=request.get("timeout"),
            on_output=heard,
            on_progress=told,
            keep_output_bytes=self._keep_output_bytes,
            fencing_token=execution.token,
            identity=attempt.identity,
            on_outside=attempt.outside,
            on_termination=ended,
            terminating=attempt.terminated,
            mask=mask,
        )
        try:
            outcome = await ToolRunner(self._engines()).run(
                credentials.contract,
                credentials.args,
                context,
                engine=request.get("engine"),
                trusted=trusted,
            )
        except PraxisError as error:
            if not mask:
                raise
            raise credentials.masked(error) from None  # what caused it may hold a secret
        outcome = credentials.masked_outcome(outcome)
        said: dict[StreamName, str] = {"stdout": outcome.stdout, "stderr": outcome.stderr}
        for stream in said.keys() - passed_on:  # an engine of others may pass nothing on as it arrives
            heard(stream, said[stream].encode("utf-8", "replace"))
        return outcome

    async def end_remains(self, remains: Remains) -> Termination:
        """End a container that an attempt of any worker left."""
        return await self._engines().get_by_type(remains.engine).end_remains(remains)

    async def sweep(self) -> None:
        """Have every engine remove what dead processes left."""
        registry = self._engines()
        for name in registry.list_engines():
            await registry.get(name).sweep()

    def _engines(self) -> EngineRegistry:
        if self._registry is None:
            self._registry = self._make_registry()
        return self._registry

    def collect(self, attempt: AttemptHandle, ending: Any) -> Outcome:
        """Say what came of a tool's run."""
        outcome: ToolOutcome = ending
        return Outcome(
            status=outcome.status,
            outputs={"exit_code": outcome.exit_code},
            result={name: value for name, value in outcome.to_json().items() if name not in _IN_THE_STREAM},
            failure=failure_policy.of_tool(outcome, retry=attempt.execution.terms.retry),
            usage=Usage(
                wall_s=outcome.duration_s,
                cpu_s=outcome.usage.cpu_s,
                peak_memory_bytes=outcome.usage.peak_memory_bytes,
            ),
        )

    def dependency(self, execution: Execution) -> str | None:
        """Name the engine's service."""
        if execution.request is None:
            return None
        engine = execution.request.get("engine") or execution.request["contract"].get("engine")
        return f"engine:{engine}" if engine in _SERVICES else None

    async def close(self) -> None:
        """Clean up every engine; repeatable."""
        registry, self._registry = self._registry, None
        if registry is not None:
            await registry.cleanup_all()


def _contract_of(request: Mapping[str, Any], *, strict: bool = False) -> ToolContract:
    import json

    from praxis_sdk.execution.contract.loading import parse_contract

    contract = request.get("contract")
    if not isinstance(contract, Mapping):
        raise ValidationError("request.contract: missing or no object", remedy="give the tool's contract")
    # JSON is YAML: one reader, with its messages, for what comes from files and what comes from programs.
    return parse_contract(json.dumps(contract), source="request.contract", strict=strict).contract


def _folders(value: object) -> list[str]:
    if not isinstance(value, list) or not all(
        isinstance(path, str) and path.startswith("/") for path in value
    ):
        raise ValidationError("request.allow_mounts: must be a list of absolute paths", remedy="write /data")
    return list(value)


def _seconds(value: object) -> float:
    try:
        return parse_seconds(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValidationError(f"request.timeout: {error}") from error


__all__ = ["NAME", "ToolKind"]
