"""What a no-op tool costs on each engine, beside what that engine is made of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator

from benchmarks.harness import Case
from praxis_sdk.execution.contracts import EngineType, ToolContract, ToolOutcome
from praxis_sdk.execution.engine import DockerSDKExecutionEngine, LocalExecutionEngine, SandboxExecutionEngine

IMAGE = "python:3.11-slim"
NO_OP = "/bin/true"
TITLE = "a no-op tool on each engine, from request to result"
BWRAP = [
    "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
    "--clearenv", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink",
    "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev",
    "--tmpfs", "/tmp", "--chdir", "/tmp",
]  # fmt: skip


async def spawn(*command: str) -> None:
    """Run a command the way a program without Praxis would, and read its output."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    _, complaint = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {process.returncode}: {complaint.decode()}")


def succeeded(outcome: ToolOutcome) -> None:
    """Refuse to measure what does not work."""
    if not outcome.succeeded:
        raise RuntimeError(f"{outcome.engine}: {outcome.failure} {outcome.stderr}")


@contextlib.asynccontextmanager
async def cases() -> AsyncIterator[tuple[list[Case], list[str]]]:
    """Make the cases of this machine; yields them and what could not be measured, with the reason."""
    missing: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        local = LocalExecutionEngine()
        stack.push_async_callback(local.cleanup)
        sandbox = SandboxExecutionEngine()
        stack.push_async_callback(sandbox.cleanup)
        local_tool = ToolContract.create_local_tool("noop", [NO_OP])
        sandbox_tool = ToolContract(name="noop", engine=EngineType.SANDBOX, engine_spec={"command": [NO_OP]})

        async def run_local() -> None:
            succeeded(await local.run(local_tool, {}))

        async def run_sandbox() -> None:
            succeeded(await sandbox.run(sandbox_tool, {}))

        found = [
            Case("asyncio subprocess", lambda: spawn(NO_OP)),
            Case("praxis local", run_local, peer="asyncio subprocess", aim=1.5),
        ]
        if shutil.which("bwrap"):
            found.append(Case("bwrap", lambda: spawn(*BWRAP, NO_OP)))
        else:
            missing.append("bwrap: not installed")
        found.append(Case("praxis sandbox", run_sandbox, peer="bwrap", aim=1.0))
        if shutil.which("bwrap"):
            found.append(Case("bwrap, 8 callers", lambda: spawn(*BWRAP, NO_OP), calls=80, callers=8))
            found.append(
                Case("praxis sandbox, 8 callers", run_sandbox, peer="bwrap, 8 callers", calls=80, callers=8)
            )
        docker = await stack.enter_async_context(_docker_cases())
        if isinstance(docker, str):
            missing.append(docker)
        else:
            found += docker
        yield found, missing


@contextlib.asynccontextmanager
async def _docker_cases() -> AsyncIterator[list[Case] | str]:
    host = os.environ.get("DOCKER_HOST")
    engine = DockerSDKExecutionEngine()
    capabilities = await engine.get_capabilities()
    if not capabilities["available"]:
        yield f"docker: {capabilities['unavailable_reason']}"
        return
    import aiodocker

    tool = ToolContract(
        name="noop", engine=EngineType.DOCKER, engine_spec={"image": IMAGE, "command": [NO_OP], "timeout": 60}
    )
    client = aiodocker.Docker(url=host)

    async def run_engine() -> None:
        succeeded(await engine.run(tool, {}))

    async def run_sdk() -> None:
        container = await client.containers.create(
            {"Image": IMAGE, "Cmd": [NO_OP], "HostConfig": {"NetworkMode": "none"}, "NetworkDisabled": True}
        )
        await container.start()
        ended = await container.wait()
        await container.delete(force=True)
        if ended["StatusCode"] != 0:
            raise RuntimeError(f"the container exited with {ended['StatusCode']}")

    found = [
        Case("docker SDK create, start, wait, remove", run_sdk, calls=5),
        Case("praxis docker", run_engine, peer="docker SDK create, start, wait, remove", aim=1.2, calls=5),
    ]
    if shutil.which("docker"):
        command = [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--cap-drop",
            "ALL",
            "--read-only",
            IMAGE,
            NO_OP,
        ]
        found.append(Case("docker run", lambda: spawn(*command), calls=5))
    try:
        yield found
    finally:
        await client.close()
        await engine.cleanup()
