"""Stations: the environments in use, each held so that nobody removes it, each with a zygote to fork from.

A name is looked up again after a while, because a newer version may have been built under it; jobs that
are under way keep the station that they began at.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from praxis_sdk.jobs import harness
from praxis_sdk.jobs.environments.inspection import INSIDE
from praxis_sdk.jobs.environments.record import Environment, is_system_path, variables_at
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.sandbox import Bind, Launcher, Zygote
from praxis_sdk.sandbox.client import canary

LOOK_AGAIN_S: Final = 5.0


@dataclass(frozen=True)
class WarmEnvironment:
    """One environment, ready for jobs.

    Args:
        environment: the environment.
        launcher: forks from its zygote.
    """

    environment: Environment
    launcher: Launcher


@dataclass
class WarmEnvironments:
    """All stations of one executor.

    Args:
        environments: where environments come from.
        clock: monotonic time in seconds.
    """

    environments: EnvironmentStore
    clock: Callable[[], float] = time.monotonic
    _by_version: dict[str, WarmEnvironment] = field(default_factory=dict)
    _by_name: dict[str, tuple[float, WarmEnvironment]] = field(default_factory=dict)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self, name_or_version: str, say: Callable[[str], None]) -> WarmEnvironment:
        """Return the station of an environment, and open it where it is not.

        Raises:
            EnvironmentMissing: there is no such environment.
            PlatformError: it cannot be built, or this host cannot build the sandbox.
        """
        known = self._by_name.get(name_or_version)
        if known is not None and self.clock() - known[0] < LOOK_AGAIN_S:
            return known[1]
        async with self._opening:
            environment = await asyncio.to_thread(self.environments.ensure, name_or_version, say=say)
            station = self._by_version.get(environment.env_version)
            if station is None:
                self._held.enter_context(self.environments.hold(environment))
                station = WarmEnvironment(environment, await _proven(environment))
                self._by_version[environment.env_version] = station
            self._by_name[name_or_version] = (self.clock(), station)
            return station

    async def close(self) -> None:
        """End every sandbox and let the environments go; repeatable."""
        stations = list(self._by_version.values())
        self._by_version.clear()
        self._by_name.clear()
        await asyncio.gather(*(station.launcher.close() for station in stations))
        self._held.close()


async def _proven(environment: Environment) -> Launcher:
    """Start a launcher, and attack a sandbox of it from inside before the first job is let in.

    Raises:
        IsolationUnavailable: something got through; the message names it.
    """
    launcher = await Launcher.start(zygote=zygote_of(environment))
    try:
        await canary.check(launcher, zygote=True, shown=[str(environment.base_prefix)])
    except BaseException:
        await launcher.close()
        raise
    return launcher


def zygote_of(environment: Environment) -> Zygote:
    """Say how an environment's zygote is made; what it sees of the host has no path of the host."""
    base = environment.base_prefix
    return Zygote(
        python=Path(INSIDE, "bin/python"),
        program=Path(harness.__file__).parent,
        search_paths=(Path(INSIDE, environment.site_packages.relative_to(environment.prefix)),),
        binds=(Bind(environment.prefix, INSIDE), *(() if is_system_path(base) else (base,))),
        preload=environment.preload,
        variables=variables_at(INSIDE),
    )
