"""The sandbox engine: a tool of the host's own programs in fresh namespaces; the default for untrusted tools.

What isolates is `praxis_sdk.sandbox`; here a contract becomes a policy, and what the kernel says of the
end becomes an `Exit`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.arguments.arguments import ARGS_FILE_VARIABLE
from praxis_sdk.execution.arguments.standard_input import InputPipe
from praxis_sdk.execution.contract.specs import EngineType, SandboxEngineSpec
from praxis_sdk.execution.enforcement import (
    NO_LIMITS,
    LimitSupport,
    LimitSupports,
    Scope,
    limits_to_json,
    tree,
)
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.engines.run_directory import make_run_directory
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.mounts.exports import export_changes
from praxis_sdk.execution.mounts.mounts import ToolMount, nested_names
from praxis_sdk.execution.outcome import Exit, Exports, Isolation, Limit, ResourceUsage, ToolFailure
from praxis_sdk.execution.output import OutputCapture, PipeReader
from praxis_sdk.sandbox import (
    DEFAULT_WORKDIR,
    INLINE_DIRECTORY,
    Bind,
    Harvest,
    Launcher,
    Limits,
    Policy,
    PolicyError,
    Sandbox,
    SandboxExit,
)
from praxis_sdk.sandbox.client.connection import Enforcement
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Termination
from praxis_sdk.units import parse_bytes

_ARGS_FILE: Final = f"{INLINE_DIRECTORY}/args.json"
_MAX_INLINE_BYTES: Final = 256 << 10  # larger arguments come as a mount, which costs more
_MOUNTED_ARGS_FILE: Final = "/praxis/args.json"
_LIMIT_OF: Final = {
    "memory": Limit.MEMORY,
    "processes": Limit.PROCESSES,
    "cpu": Limit.CPU_TIME,
    "file_size": Limit.FILE_SIZE,
    "scratch": Limit.DISK_SPACE,
}


class SandboxExecutionEngine(SupervisedEngine):
    """Runs tools in the namespace sandbox; belongs to the event loop that first used it."""

    engine_type = EngineType.SANDBOX
    isolation = Isolation.NAMESPACES

    def __init__(self) -> None:
        self._launcher: Launcher | None = None
        self._starting = asyncio.Lock()

    async def get_capabilities(self) -> dict[str, Any]:
        """Say what the sandbox can enforce here, after building its launcher."""
        capabilities: dict[str, Any] = {
            "engine_type": str(self.engine_type),
            "available": True,
            "isolation": self.isolation.label,
            "supports_containers": False,
            "supports_mounts": True,
            "supports_environment": True,
            "supports_network_isolation": True,
        }
        try:
            enforcement = (await self._ready()).enforcement
        except PlatformError as error:
            return (
                capabilities
                | limits_to_json(NO_LIMITS)
                | {
                    "available": False,
                    "unavailable_reason": error.message,
                    "remedy": error.remedy,
                }
            )
        return capabilities | {
            **limits_to_json(_limits(enforcement)),
            "memory_enforcement": enforcement.memory,
            "cgroup_version": enforcement.cgroup_version,
            "privileged": enforcement.privileged,
        }

    async def limits(self) -> LimitSupports:
        """Say which limits hold here; see `SupervisedEngine.limits`."""
        return _limits((await self._ready()).enforcement)

    async def cleanup(self) -> None:
        """End the launcher and every sandbox; repeatable, and a later run starts it anew."""
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            await launcher.close()

    async def launch(self, invocation: Invocation, capture: OutputCapture) -> _SandboxTool:
        """Start a tool; see `SupervisedEngine.launch`."""
        spec = invocation.spec
        if not isinstance(spec, SandboxEngineSpec):
            raise ValidationError(f"engine: a {type(spec).__name__} is not for the sandbox")
        if spec.network not in (None, "none"):
            raise ValidationError(
                f"engineSpec.network: the sandbox has no network, and the tool asks for '{spec.network}'",
                remedy="run it on docker, or leave the field out",
            )
        launcher = await self._ready()
        if spec.cpu_limit and not launcher.enforcement.cpu_quota:
            raise ValidationError(
                "engineSpec.cpu_limit: cannot be enforced here, no cpu cgroup can be written",
                remedy="see 'praxis doctor', or leave the field out",
            )
        tool = _SandboxTool(invocation, capture)
        try:
            await tool.start(launcher, spec)
        except BaseException:
            await tool.close()
            raise
        return tool

    async def _ready(self) -> Launcher:
        async with self._starting:
            if self._launcher is None:
                self._launcher = await Launcher.start()
            return self._launcher


def _limits(enforcement: Enforcement) -> LimitSupports:
    cgroup = f"cgroup v{enforcement.cgroup_version}"
    memory = tree(cgroup) if enforcement.memory == "cgroup" else LimitSupport(Scope.PROCESS, "RLIMIT_AS")
    own_user = "RLIMIT_NPROC of the sandbox's own user namespace"
    return {
        **NO_LIMITS,
        "memory": memory,
        "cpu": tree(cgroup) if enforcement.cpu_quota else LimitSupport(),
        "processes": tree(cgroup if enforcement.processes == "cgroup" else own_user),
        "open_files": LimitSupport(Scope.PROCESS, "RLIMIT_NOFILE"),
        "file_size": tree("RLIMIT_FSIZE of every process"),
        "disk": tree("size of the scratch file system"),
    }


class _SandboxTool:
    """One tool in its sandbox."""

    def __init__(self, invocation: Invocation, capture: OutputCapture) -> None:
        self._invocation = invocation
        self._capture = capture
        self._readers: list[PipeReader] = []
        self._sandbox: Sandbox | None = None
        self._private: Path | None = None
        self._input = InputPipe(invocation.stdin)
        self._gone = False

    async def start(self, launcher: Launcher, spec: SandboxEngineSpec) -> None:
        content = self._invocation.arguments_json
        args_file = self._write(content) if len(content) > _MAX_INLINE_BYTES else None
        where = _ARGS_FILE if args_file is None else _MOUNTED_ARGS_FILE
        writers = []
        try:
            for stream in ("stdout", "stderr"):
                reader, writer = PipeReader.open_pipe(stream, self._capture)
                self._readers.append(reader)
                writers.append(writer)
            self._sandbox = await launcher.spawn(
                _policy(self._invocation, spec, args_file),
                self._invocation.argv,
                env={**self._invocation.env, ARGS_FILE_VARIABLE: where},
                cwd=spec.working_dir,
                stdin=self._input.reading_fd,
                stdout=writers[0],
                stderr=writers[1],
                inline_files=None if args_file else {_ARGS_FILE: content},
            )
        except PolicyError as error:
            raise ValidationError(f"engineSpec: {error.message}", remedy=error.remedy) from error
        finally:
            self._input.release()
            for writer in writers:
                os.close(writer)

    async def wait(self) -> Exit:
        end = await self._started.wait()
        for reader in self._readers:
            await reader.wait()
        return _exit(end)

    async def terminate(self) -> None:
        self._started.terminate()

    async def kill(self) -> None:
        self._started.kill()

    async def export(self) -> Exports:
        mounts = {mount.target: mount for mount in self._invocation.mounts if mount.writable}
        exported = [
            await asyncio.to_thread(self._export, mounts[harvest.target], harvest)
            for harvest in self._started.harvest
            if harvest.target in mounts
        ]
        return Exports(
            files=tuple(file for one in exported for file in one.files),
            skipped=tuple(line for one in exported for line in one.skipped),
        )

    async def close(self) -> None:
        try:
            if self._sandbox is not None:
                self._sandbox.kill()
                await self._sandbox.wait()
                self._gone = True
        finally:
            await self._input.close()
            if self._sandbox is not None:
                self._sandbox.close()
            for reader in self._readers:
                reader.close()
            if self._private is not None:
                shutil.rmtree(self._private, ignore_errors=True)

    @property
    def termination(self) -> Termination:
        if self._gone:
            return Termination(
                "the launcher waited for process 1 of its PID namespace, which is gone with all in it"
            )
        return Termination(known="the launcher died, and the kernel was left to kill its sandboxes")

    @property
    def _started(self) -> Sandbox:
        if self._sandbox is None:
            raise PlatformError("the sandbox was not started")
        return self._sandbox

    def _write(self, content: bytes) -> Path:
        """Write the arguments where the sandbox can mount them from: it may have another uid."""
        self._private = make_run_directory(ProcessOwner.current())
        args_file = self._private / "args.json"
        args_file.write_bytes(content)
        args_file.chmod(0o444)
        return args_file

    def _export(self, mount: ToolMount, harvest: Harvest) -> Exports:
        if harvest.kind == "overlay":
            nested = nested_names(mount, self._invocation.mounts)
            return export_changes(
                harvest.fd, mount.source, mount.target, nested=nested, since_ns=mount.seen_ns
            )
        try:
            file_fd = os.open(
                harvest.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=harvest.fd
            )
        except PermissionError:
            return Exports(skipped=(f"{mount.target} was not exported: the tool made it unreadable",))
        try:
            return export_changes(file_fd, mount.source, mount.target, since_ns=mount.seen_ns)
        finally:
            os.close(file_fd)


def _policy(invocation: Invocation, spec: SandboxEngineSpec, args_file: Path | None) -> Policy:
    """Say in the sandbox's terms what a contract asks for."""
    defaults = Limits()
    limits = Limits(
        # The wall clock is the tool's limit; all processors together cannot use more than this in that time.
        cpu_seconds=invocation.timeout_s * (os.cpu_count() or 1),
        cpu_cores=spec.cpu_limit,
        memory_bytes=invocation.memory_bytes or defaults.memory_bytes,
        processes=spec.pids_limit,
        file_size_bytes=parse_bytes(spec.file_size_limit)
        if spec.file_size_limit
        else defaults.file_size_bytes,
        scratch_bytes=parse_bytes(spec.scratch_size),
    )
    mounts = invocation.mounts
    workdir = DEFAULT_WORKDIR
    if spec.working_dir and spec.working_dir != "/tmp":
        inside = any(
            spec.working_dir == m.target or m.covers(ToolMount(spec.working_dir, Path(), False))
            for m in mounts
        )
        workdir = DEFAULT_WORKDIR if inside else spec.working_dir
    return Policy(
        mounts=(
            *(Bind(source=mount.source, target=mount.target, writable=mount.writable) for mount in mounts),
            *([Bind(source=args_file, target=_MOUNTED_ARGS_FILE)] if args_file else []),
        ),
        limits=limits,
        workdir=workdir,
    )


def _exit(end: SandboxExit) -> Exit:
    """Say in an engine's terms how a sandbox ended."""
    usage = ResourceUsage(cpu_s=end.usage.cpu_seconds, peak_memory_bytes=end.usage.peak_memory_bytes)
    if end.spawn_error is not None:
        return Exit(
            refusal=ToolFailure(FailureCategory.DEPENDENCY_ERROR, end.spawn_error.message), usage=usage
        )
    limit = _LIMIT_OF.get(end.killed_by or "")
    return Exit(exit_code=end.exit_code, signal=end.signal, limit=limit, usage=usage)
