"""The Dagger engine: a container run by a Dagger engine, through the official SDK (spec 2).

A run is a chain that the engine evaluates: image, mounts, environment, exec. The chain has no word for
memory, processor or process limits and none for the network, so a contract that counts on those is
refused here, not run without them. Output arrives when the tool has ended, and so does its limit.

The tool lives as long as the request that evaluates its chain. To end it, the request is cancelled and
the connection given to no new run; with the last run that uses it the connection is closed, and with
that the session, where Praxis started it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import EngineUnavailable, MissingExtra, PlatformError, ValidationError
from praxis_sdk.execution.arguments.standard_input import whole
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.portability import port_spec
from praxis_sdk.execution.contract.specs import DaggerEngineSpec, EngineType
from praxis_sdk.execution.enforcement import NO_LIMITS, limits_to_json
from praxis_sdk.execution.engines.dagger.sdk import (
    DaggerConnection,
    DaggerPlan,
    Prepared,
    read_options,
)
from praxis_sdk.execution.engines.dagger.session import SessionOrigin, locate_session
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.mounts.exports import export_changes
from praxis_sdk.execution.mounts.mounts import ToolMount, nested_names
from praxis_sdk.execution.outcome import Exit, Exports, Isolation, Limit, ToolFailure, ToolOutcome
from praxis_sdk.execution.output import OutputCapture
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Termination

MAX_STDIN_BYTES: Final = 4 << 20
TRANSFER_BOUND_S: Final = 600.0  # for an image or mounts of some gigabytes over a slow line

NETWORK_NOTE: Final = "a Dagger engine cannot switch the network off: the tool could reach it"
_NETWORKS: Final = ("bridge", "default")


class DaggerExecutionEngine(SupervisedEngine):
    """Runs tools in containers of a Dagger engine.

    The session is the one that DAGGER_SESSION_PORT and DAGGER_SESSION_TOKEN name (as inside `dagger
    run`), or one that the `dagger` command starts. One connection serves all runs of an event loop; it
    is made with the first, and made anew when it is found dead.
    """

    engine_type = EngineType.DAGGER
    isolation = Isolation.CONTAINER

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._slots: dict[asyncio.AbstractEventLoop, _Slot] = {}

    def configure_connection(self, **options: Any) -> None:
        """Set options of `dagger.Config` for connections made from now on (spec 2).

        Args:
            options: `timeout` (seconds to connect), `execute_timeout` (seconds for one request, which
                bounds a run), `log_output` (a text stream for the engine's log), `workdir`,
                `config_path`, `load_workspace_modules`, `retry`. They replace those set before.

        Raises:
            ValidationError: an option is unknown or of the wrong type.
            MissingExtra: the SDK is not installed.
        """
        read_options(options)
        self._options = dict(options)
        for slot in self._slots.values():
            if slot.connection is not None:
                slot.connection.retired = True

    async def validate_contract(self, contract: ToolContract) -> bool:
        """Tell whether a Dagger engine can keep what a contract counts on."""
        try:
            spec = port_spec(contract, self.engine_type).spec
            assert isinstance(spec, DaggerEngineSpec)
            refuse_unenforceable(spec, trusted=contract.trusted)
        except ValidationError:
            return False
        return True

    async def run(
        self,
        contract: ToolContract,
        args: Mapping[str, Any],
        context: RunContext | Mapping[str, Any] | None = None,
    ) -> ToolOutcome:
        """Run a tool and return the full account of it; see `ExecutionEngine.run`."""
        outcome = await super().run(contract, args, context)
        spec = port_spec(contract, self.engine_type).spec
        if isinstance(spec, DaggerEngineSpec) and spec.network is None:
            return replace(outcome, notes=(NETWORK_NOTE, *outcome.notes))
        return outcome

    async def launch(self, invocation: Invocation, capture: OutputCapture) -> _DaggerTool:
        """Start a tool; see `SupervisedEngine.launch`."""
        plan = _plan(invocation, await _stdin_text(invocation))
        invocation.context.progress("connecting to the Dagger engine")
        connection = await self._acquire()
        try:
            invocation.context.progress(f"fetching image {plan.image} and taking in mounts")
            async with _transferring("get the image and the mounts"):
                prepared = await connection.prepare(plan)
        except BaseException:
            await asyncio.shield(self._release(connection))
            raise
        return _DaggerTool(connection, plan, prepared, capture, self._release)

    async def get_capabilities(self) -> dict[str, Any]:
        """Say what this engine can do here, after asking the Dagger engine for its version."""
        version, problem = None, None
        try:
            connection = await self._acquire()
        except (EngineUnavailable, MissingExtra, ValidationError) as error:
            problem = error
        else:
            version = connection.engine_version
            await self._release(connection)
        return {
            "engine_type": str(self.engine_type),
            "available": problem is None,
            "unavailable_reason": problem.message if problem else None,
            "remedy": problem.remedy if problem else None,
            "isolation": self.isolation.label,
            "trusted_only": False,
            "supports_containers": True,
            "supports_mounts": True,
            "supports_environment": True,
            **limits_to_json(NO_LIMITS),
            "supports_network_isolation": False,
            "supports_live_output": False,
            "dagger_available": problem is None,
            "real_dagger_engine": version is not None and "stand-in" not in version,
            "engine_version": version,
        }

    async def cleanup(self) -> None:
        """Close the connections, and end the sessions that were started for them; repeatable."""
        here = asyncio.get_running_loop()
        for loop, slot in list(self._slots.items()):
            del self._slots[loop]
            if slot.connection is None:
                continue
            if loop is here:
                await slot.connection.close()
            else:
                slot.connection.abandon()

    async def _acquire(self) -> DaggerConnection:
        """Hand out this event loop's connection, alive; given back by `_release`."""
        slot = self._slot()
        async with slot.lock:
            options = await asyncio.to_thread(read_options, self._options)  # the SDK takes a second to import
            origin = await asyncio.to_thread(locate_session, dict(os.environ))
            if slot.connection is not None and not await _serves(slot.connection, origin):
                await self._retire(slot)
            if slot.connection is None:
                slot.connection = await DaggerConnection.open(origin, options)
            slot.connection.users += 1
            return slot.connection

    async def _release(self, connection: DaggerConnection) -> None:
        connection.users -= 1
        if connection.retired and connection.users == 0:
            await connection.close()

    async def _retire(self, slot: _Slot) -> None:
        connection, slot.connection = slot.connection, None
        if connection is not None:
            connection.retired = True
            if connection.users == 0:
                await connection.close()

    def _slot(self) -> _Slot:
        for loop, slot in list(self._slots.items()):
            if loop.is_closed():
                del self._slots[loop]
                if slot.connection is not None:
                    slot.connection.abandon()
        return self._slots.setdefault(asyncio.get_running_loop(), _Slot())


@dataclass
class _Slot:
    """The place of an event loop's connection."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: DaggerConnection | None = None


class _DaggerTool:
    """One tool that a Dagger engine runs."""

    def __init__(
        self,
        connection: DaggerConnection,
        plan: DaggerPlan,
        prepared: Prepared,
        capture: OutputCapture,
        release: Callable[[DaggerConnection], Awaitable[None]],
    ) -> None:
        self._release = release
        self._connection = connection
        self._plan = plan
        self._prepared = prepared
        self._capture = capture
        self._request = asyncio.ensure_future(connection.execute(plan, prepared))

    async def wait(self) -> Exit:
        await asyncio.wait({self._request})
        if self._request.cancelled():
            return Exit(signal=signal.SIGKILL)
        result = self._request.result()
        self._capture.feed("stdout", result.stdout.encode(errors="replace"))
        self._capture.feed("stderr", result.stderr.encode(errors="replace"))
        if result.output_withheld:
            return Exit(exit_code=result.exit_code, limit=Limit.OUTPUT)
        if result.command_missing:
            message = f"command '{self._plan.argv[0]}' not found in image '{self._plan.image}'"
            return Exit(refusal=ToolFailure(FailureCategory.DEPENDENCY_ERROR, message))
        return Exit(exit_code=result.exit_code)

    async def terminate(self) -> None:
        return  # the engine has no way to pass a signal on

    async def kill(self) -> None:
        # Nothing tells that the engine has ended the tool, except the end of the session.
        self._connection.retired = True
        self._request.cancel()
        await asyncio.wait({self._request})

    @property
    def termination(self) -> Termination:
        if self._request.done() and not self._request.cancelled() and self._request.exception() is None:
            return Termination("the Dagger engine answered the request that ran the tool")
        known = "cancellation requested: the request was dropped, and the Dagger engine does not say what it ended"
        return Termination(known=known)

    async def export(self) -> Exports:
        result = self._request.result()
        writable = [mount for mount in self._plan.mounts if mount.writable]
        if result.container is None:
            reason = f"the engine keeps nothing of a tool that ends with code {result.exit_code}"
            return Exports(skipped=tuple(f"{mount.target} was not exported: {reason}" for mount in writable))
        parts = []
        for mount in writable:
            with tempfile.TemporaryDirectory(prefix="praxis-dagger-") as place:
                async with _transferring("copy back what the tool changed"):
                    read_back = self._connection.read_back
                    changed = await read_back(result.container, mount, self._prepared, Path(place))
                nested = nested_names(mount, self._plan.mounts)
                parts.append(await asyncio.to_thread(_copy_changes, changed, mount, nested))
        return Exports(
            files=tuple(file for part in parts for file in part.files),
            skipped=tuple(line for part in parts for line in part.skipped),
        )

    async def close(self) -> None:
        self._request.cancel()
        await asyncio.gather(self._request, return_exceptions=True)
        await self._release(self._connection)


def refuse_unenforceable(spec: DaggerEngineSpec, *, trusted: bool) -> None:
    """Refuse what a contract counts on and a Dagger engine cannot keep.

    Raises:
        ValidationError: names the field.
    """
    for name in ("memory_limit", "cpu_limit", "pids_limit"):
        if name in spec.model_fields_set and getattr(spec, name) is not None:
            raise ValidationError(
                f"engineSpec.{name}: a Dagger engine cannot enforce it",
                remedy="use --engine docker, or leave the field out",
            )
    if spec.network == "none":
        raise ValidationError(
            "engineSpec.network: a Dagger engine cannot switch the network off", remedy="use --engine docker"
        )
    if spec.network is not None and spec.network not in _NETWORKS:
        raise ValidationError(
            f"engineSpec.network: a Dagger engine cannot join '{spec.network}'",
            remedy=f"it has one network, '{_NETWORKS[0]}'; or use --engine docker",
        )
    if spec.pip_cache and not trusted:
        raise ValidationError(
            "engineSpec.pip_cache: only a trusted tool may write a cache that later runs install from",
            remedy="add 'trust: trusted' to the contract if it is yours",
        )


async def _stdin_text(invocation: Invocation) -> str:
    """Read what goes on standard input to its end: the chain holds it as text."""
    if invocation.stdin is None:
        return ""
    data = await whole(invocation.stdin, MAX_STDIN_BYTES)
    try:
        if data is not None:
            return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise ValidationError(
        f"stdin: a Dagger engine takes text of up to {MAX_STDIN_BYTES >> 20} MiB in UTF-8",
        remedy="use --engine docker, or mount a file",
    )


def _plan(invocation: Invocation, stdin: str) -> DaggerPlan:
    spec = invocation.spec
    if not isinstance(spec, DaggerEngineSpec):
        raise ValidationError(f"engine: a {type(spec).__name__} is not for the Dagger engine")
    refuse_unenforceable(spec, trusted=invocation.contract.trusted)
    return DaggerPlan(
        image=spec.image,
        argv=invocation.argv,
        env=invocation.env,
        stdin=stdin,
        working_dir=spec.working_dir,
        mounts=invocation.mounts,
        arguments_json=invocation.arguments_json,
        execution_id=invocation.context.execution_id,
        privileged=spec.privileged,
        trusted=invocation.contract.trusted,
        pip_cache=spec.pip_cache,
    )


async def _serves(connection: DaggerConnection, origin: SessionOrigin) -> bool:
    return not connection.retired and connection.origin == origin and await connection.answers()


def _copy_changes(changed: Path, mount: ToolMount, nested: frozenset[str]) -> Exports:
    """Copy a mount's changed files to its source; see `exports`."""
    try:
        side_fd = os.open(changed, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Exports(skipped=(f"{mount.target} was not exported: {error.strerror}",))
    try:
        return export_changes(side_fd, mount.source, mount.target, nested=nested, since_ns=mount.seen_ns)
    finally:
        os.close(side_fd)


@asynccontextmanager
async def _transferring(doing: str) -> AsyncIterator[None]:
    """Bound a step that moves data between here and the engine."""
    try:
        async with asyncio.timeout(TRANSFER_BOUND_S):
            yield
    except TimeoutError as error:
        raise PlatformError(
            f"the Dagger engine did not {doing} within {TRANSFER_BOUND_S:g} s",
            remedy="check its network, and the size of the mounts",
        ) from error
