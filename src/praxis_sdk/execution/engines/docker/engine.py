"""The docker engine: each tool in a container of its own, on a real daemon (spec 1, "Docker SDK Engine").

A run is told in `docker_run`, what its container is made of in `docker_container`, and how the daemon is
spoken to in `docker_daemon`. Here is what outlasts a run: the connection, and the sweep for what a killed
Praxis left behind, which is known by its labels.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.enforcement import (
    NO_LIMITS,
    LimitSupport,
    LimitSupports,
    Scope,
    limits_to_json,
    tree,
)
from praxis_sdk.execution.engines.docker.container import LABEL_INSTALLATION, LABEL_OWNER, check_demands
from praxis_sdk.execution.engines.docker.daemon import DockerDaemon, find_docker_host
from praxis_sdk.execution.engines.docker.facts import DaemonFacts
from praxis_sdk.execution.engines.docker.run import DockerRun, in_thread, to_the_end
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.engines.run_directory import remove_leftovers
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.outcome import Isolation
from praxis_sdk.execution.output import OutputCapture
from praxis_sdk.installation import installation_id
from praxis_sdk.log import get_logger
from praxis_sdk.termination import Remains, Termination

log = get_logger("praxis.execution.docker")

PURSUIT_BOUND_S: Final = 20.0
SWEEP_EVERY_S: Final = 60.0
LEAVING_BOUND_S: Final = 2.0  # for what could not be removed before, as the engine ends


class DockerSDKExecutionEngine(SupervisedEngine):
    """Runs tools in containers of a Docker daemon.

    May be used from several event loops, each with connections of its own; call `cleanup` in the loop
    that used the engine, before it closes.

    Args:
        docker_host: the daemon's address, for example 'unix:///var/run/docker.sock'; DOCKER_HOST or the
            usual socket where missing.
    """

    engine_type = EngineType.DOCKER
    isolation = Isolation.CONTAINER

    def __init__(self, docker_host: str | None = None) -> None:
        self._docker_host = docker_host
        self._daemons: dict[asyncio.AbstractEventLoop, DockerDaemon] = {}
        self._runs: set[DockerRun] = set()
        self._left: set[str] = set()  # containers that could not be removed in their time
        self._swept_at: float | None = None

    async def launch(self, invocation: Invocation, capture: OutputCapture) -> DockerRun:
        """Start a tool; see `SupervisedEngine.launch`."""
        daemon = self._daemon()
        facts = await daemon.facts()
        check_demands(invocation, facts, shares_files=daemon.shares_files)
        now = asyncio.get_running_loop().time()
        if self._swept_at is None or now >= self._swept_at + SWEEP_EVERY_S:
            self._swept_at = now
            await self._sweep()
        await self._remove_left(daemon)
        run = DockerRun(daemon, facts, invocation, capture, on_close=self._closed)
        self._runs.add(run)
        try:
            await run.start()
        except BaseException:
            await to_the_end(run.close())
            invocation.context.ended(run.termination)
            raise
        return run

    async def end_remains(self, remains: Remains) -> Termination:
        """Remove a container of an earlier run, of any process; see `ExecutionEngine.end_remains`."""
        try:
            daemon = self._daemon()
            facts = await daemon.facts(fresh=True)
            if facts.id != remains.place:
                known = f"{remains} is on another daemon than the one at {daemon.host}"
                return Termination(known=known, remains=remains)
            return Termination(await daemon.remove(remains.name, PURSUIT_BOUND_S))
        except PlatformError as error:
            return Termination(known=error.message, remains=remains)

    async def get_capabilities(self) -> dict[str, Any]:
        """Say what this engine can do, after asking the daemon."""
        capabilities: dict[str, Any] = {
            "engine_type": str(self.engine_type),
            "available": False,
            "isolation": self.isolation.label,
            "docker_host": find_docker_host(self._docker_host),
            "supports_containers": True,
            "supports_environment": True,
            "supports_network_isolation": True,
            "supports_mounts": False,
            **limits_to_json(NO_LIMITS),
        }
        try:
            daemon = self._daemon()
            facts = await daemon.facts(fresh=True)
        except PlatformError as error:
            return capabilities | {"unavailable_reason": error.message, "remedy": error.remedy}
        capabilities |= {
            "available": facts.os_type == "linux",
            "supports_mounts": daemon.shares_files,
            **limits_to_json(_limits(facts)),
            "server_version": facts.version,
            "runtimes": list(facts.runtimes),
            "rootless": facts.rootless,
            "cgroup_version": facts.cgroup_version,
            "seccomp": facts.seccomp,
        }
        if not capabilities["available"]:
            capabilities["unavailable_reason"] = f"this Docker daemon runs {facts.os_type} containers"
            capabilities["remedy"] = "use one that runs Linux containers"
        return capabilities

    async def limits(self) -> LimitSupports:
        """Say which limits the daemon enforces; see `SupervisedEngine.limits`."""
        return _limits(await self._daemon().facts())

    async def remove_orphans(self) -> int:
        """Remove the containers and files of Praxis processes that are dead; runs do so now and then, too.

        Returns:
            How many containers were removed. What may belong to a living process, or belongs to another
            installation, is left alone.
        """
        daemon = self._daemon()
        removed = 0
        for container in await daemon.containers(LABEL_OWNER):
            owner = ProcessOwner.parse(container.labels[LABEL_OWNER])
            ours = container.labels.get(LABEL_INSTALLATION, installation_id()) == installation_id()
            if owner is None or not ours:
                continue
            # After a reboot a container of ours cannot run; one that runs is another machine's.
            may_run = container.state not in ("created", "exited", "dead")
            if owner.is_dead() or (owner.is_of_another_boot() and daemon.shares_files and not may_run):
                await daemon.remove(container.id)
                log.info("docker.orphan_removed", container=container.id[:12])
                removed += 1
        await in_thread(remove_leftovers)
        return removed

    async def sweep(self) -> None:
        """Remove what dead processes left, where there is a daemon at all; see `ExecutionEngine.sweep`."""
        host = find_docker_host(self._docker_host)
        if not host.startswith("unix://") or Path(host.removeprefix("unix://")).exists():
            await self._sweep()

    async def cleanup(self) -> None:
        """Kill and remove what still runs, and end the connections; repeatable, and the engine serves again."""
        loop = asyncio.get_running_loop()
        for run in list(self._runs):
            if run.loop is loop:
                await run.close()
        daemon = self._daemons.pop(loop, None)
        if daemon is not None:
            try:
                await self._remove_left(daemon, LEAVING_BOUND_S)
            finally:
                await daemon.close()

    def _daemon(self) -> DockerDaemon:
        loop = asyncio.get_running_loop()
        for other in [other for other in self._daemons if other.is_closed()]:
            del self._daemons[other]
        if loop not in self._daemons:
            self._daemons[loop] = DockerDaemon(find_docker_host(self._docker_host))
        return self._daemons[loop]

    def _closed(self, run: DockerRun, left: str | None) -> None:
        self._runs.discard(run)
        if left is not None:
            self._left.add(left)

    async def _remove_left(self, daemon: DockerDaemon, bound_s: float = PURSUIT_BOUND_S) -> None:
        for name in list(self._left):
            await daemon.remove(name, bound_s)
            self._left.discard(name)

    async def _sweep(self) -> None:
        try:
            await self.remove_orphans()
        except (PlatformError, OSError) as error:
            # What others left is no reason not to run; if the daemon is gone, the run itself will say so.
            log.warning("docker.orphans_left", reason=str(error))


def _limits(facts: DaemonFacts) -> LimitSupports:
    cgroup = f"cgroup v{facts.cgroup_version}"
    able = {"memory": facts.memory_limit, "cpu": facts.cpu_limit, "processes": facts.pids_limit}
    return {
        **NO_LIMITS,
        **{name: tree(cgroup) for name, enforced in able.items() if enforced},
        "open_files": LimitSupport(Scope.PROCESS, "RLIMIT_NOFILE"),
        "file_size": tree("RLIMIT_FSIZE of every process"),
        "disk": tree("size of the writable file systems, which are in memory"),
    }
