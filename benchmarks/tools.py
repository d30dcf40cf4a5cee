"""What a no-op tool costs on each engine, beside what that engine is made of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from benchmarks.harness import IMAGE, Case, available, bwrap, docker_run, spawn
from praxis_sdk.execution.contracts import EngineType, ToolContract, ToolOutcome
from praxis_sdk.execution.engine import DockerSDKExecutionEngine, LocalExecutionEngine, SandboxExecutionEngine

NO_OP = "/bin/true"
TITLE = "a no-op tool on each engine, from request to result"


def succeeded(outcome: ToolOutcome) -> None:
    """Refuse to measure what does not work."""
    if not outcome.succeeded:
        raise RuntimeError(f"{outcome.engine}: {outcome.failure} {outcome.stderr}")


@contextlib.asynccontextmanager
async def cases() -> AsyncIterator[tuple[list[Case], list[str]]]:
    """Make the cases of this machine; yields them and what could not be measured, with the reason."""
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

        docker = await stack.enter_async_context(_docker_cases())
        yield available(
            Case("asyncio subprocess", lambda: spawn(NO_OP)),
            Case("praxis local", run_local, peer="asyncio subprocess", aim=1.5),
            bwrap("bwrap", NO_OP),
            Case("praxis sandbox", run_sandbox, peer="bwrap", aim=1.0),
            bwrap("bwrap, 8 callers", NO_OP, calls=80, callers=8),
            Case("praxis sandbox, 8 callers", run_sandbox, peer="bwrap, 8 callers", calls=80, callers=8),
            *docker,
        )


@contextlib.asynccontextmanager
async def _docker_cases() -> AsyncIterator[list[Case | str]]:
    host = os.environ.get("DOCKER_HOST")
    engine = DockerSDKExecutionEngine()
    capabilities = await engine.get_capabilities()
    if not capabilities["available"]:
        await engine.cleanup()
        yield [f"docker: {capabilities['unavailable_reason']}"]
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
        docker_run("docker run", NO_OP),
    ]
    try:
        yield found
    finally:
        await client.close()
        await engine.cleanup()
