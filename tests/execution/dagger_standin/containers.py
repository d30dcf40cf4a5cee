"""Execs of the stand-in, in real Docker: nothing of the host is mounted, everything travels in archives."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import aiodocker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from tests.execution.dagger_standin.tree import Entry, Tree, read_archive, write_archive

LABEL = "praxis.dagger-stand-in"


@dataclass(frozen=True)
class MountedTree:
    """A directory mounted from a snapshot."""

    tree: Tree
    read_only: bool


@dataclass(frozen=True)
class ContainerState:
    """A container before its exec."""

    image: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    directories: Mapping[str, MountedTree] = field(default_factory=dict)
    caches: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Entry] = field(default_factory=dict)
    mounted_files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ExecOutcome:
    """What came of an exec: the mounts are as the command left them."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    directories: Mapping[str, Tree]
    files: Mapping[str, Tree]


class Containers:
    """Runs execs in one Docker daemon.

    Args:
        docker_host: its address.
        session: names the stand-in in labels and volumes.
        on_start: called with the arguments of each exec once its process runs.
    """

    def __init__(self, docker_host: str, session: str, on_start: Callable[[list[str]], None]) -> None:
        self._docker = aiodocker.Docker(url=docker_host)
        self._session = session
        self._on_start = on_start

    async def close(self) -> None:
        """Remove the cache volumes and hang up."""
        volumes = await self._docker.volumes.list(filters={"name": [f"standin-{self._session}"]})
        for volume in volumes.get("Volumes") or []:
            await (await self._docker.volumes.get(volume["Name"])).delete()
        await self._docker.close()

    async def image_env(self, image: str) -> dict[str, str] | None:
        """Return the environment that an image sets; None where there is no such image."""
        try:
            config = (await self._docker.images.inspect(image))["Config"]
        except DockerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return dict(line.split("=", 1) for line in config.get("Env") or [])

    async def execute(self, state: ContainerState, args: list[str], *, privileged: bool) -> ExecOutcome:
        """Run a command to its end; whoever cancels this ends it, and finds its container gone."""
        async with self._container(state, args, privileged=privileged) as (container, volumes):
            stream = container.attach(stdout=True, stderr=True)
            async with stream:
                written = asyncio.ensure_future(_collect(stream))
                await container.start()
                self._on_start(args)
                status = await container.wait()
                streams = await written
            directories = {target: await self._read(container, target, volumes) for target in volumes}
            files = {path: read_archive(await container.get_archive(path)) for path in state.mounted_files}
        return ExecOutcome(status["StatusCode"], streams[1], streams[2], directories, files)

    async def has(self, state: ContainerState, path: str) -> bool:
        """Tell whether a container has a path before its exec."""
        async with self._container(state, ["true"], privileged=False) as (container, _):
            try:
                await container.get_archive(path)
            except DockerError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return False
                raise
        return True

    async def _read(self, container: DockerContainer, target: str, volumes: Mapping[str, str]) -> Tree:
        """Read one mount, without the mounts nested in it."""
        tree = read_archive(await container.get_archive(target))
        nested = [
            f"{other.removeprefix(target + '/')}/" for other in volumes if other.startswith(target + "/")
        ]
        return {path: entry for path, entry in tree.items() if not any(path.startswith(n) for n in nested)}

    @contextlib.asynccontextmanager
    async def _container(
        self, state: ContainerState, args: list[str], *, privileged: bool
    ) -> AsyncIterator[tuple[DockerContainer, dict[str, str]]]:
        name = f"standin-exec-{uuid.uuid4().hex}"
        volumes = {target: f"{name}-{index}" for index, target in enumerate(sorted(state.directories))}
        try:
            await self._fill(state, volumes, f"{name}-fill")
            mounts = [
                _volume(volumes[target], target, read_only=mount.read_only)
                for target, mount in sorted(state.directories.items())
            ]
            mounts += [
                _volume(f"standin-{self._session}-{key}", target) for target, key in state.caches.items()
            ]
            config = {
                "Image": state.image,
                "Cmd": args,
                "Entrypoint": [],
                "Env": [f"{name}={value}" for name, value in state.env.items()],
                "User": state.user,
                "WorkingDir": state.workdir,
                "Labels": {LABEL: self._session},
                "HostConfig": {
                    "Init": True,
                    "NetworkMode": "none",
                    "Mounts": mounts,
                    # Machines that are containers themselves cannot hand out all of them.
                    "CapAdd": ["SYS_ADMIN", "NET_ADMIN"] if privileged else [],
                },
            }
            container = await self._docker.containers.create(config, name=name)
            files = {path.lstrip("/"): entry for path, entry in state.files.items()}
            if files:
                await container.put_archive("/", write_archive(files))
            yield container, volumes
        finally:
            await asyncio.shield(self._remove([name, f"{name}-fill"], [*volumes.values()]))

    async def _fill(self, state: ContainerState, volumes: Mapping[str, str], name: str) -> None:
        """Fill new volumes by way of a container that is never started: the real one may have them read-only."""
        if not volumes:
            return
        places = {target: str(index) for index, target in enumerate(volumes)}
        mounts = [_volume(volume, f"/fill/{places[target]}") for target, volume in volumes.items()]
        config = {
            "Image": state.image,
            "Cmd": ["true"],
            "Labels": {LABEL: self._session},
            "HostConfig": {"NetworkMode": "none", "Mounts": mounts},
        }
        filler = await self._docker.containers.create(config, name=name)
        for target, mount in state.directories.items():
            # From above: the daemon leaves alone what an archive says of the folder that it is unpacked in.
            await filler.put_archive("/fill", write_archive(mount.tree, places[target]))

    async def _remove(self, containers: list[str], volumes: list[str]) -> None:
        for name in containers:
            with _absent_is_fine():
                await self._docker.containers.container(name).delete(force=True)
        for name in volumes:
            with _absent_is_fine():
                await (await self._docker.volumes.get(name)).delete()


@contextlib.contextmanager
def _absent_is_fine():
    try:
        yield
    except DockerError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise


def _volume(name: str, target: str, *, read_only: bool = False) -> dict[str, object]:
    return {
        "Type": "volume",
        "Source": name,
        "Target": target,
        "ReadOnly": read_only,
        "VolumeOptions": {"NoCopy": True},
    }


async def _collect(stream: aiodocker.stream.Stream) -> dict[int, bytes]:
    """Read the output streams to their end, by descriptor."""
    pieces: dict[int, list[bytes]] = {1: [], 2: []}
    while (message := await stream.read_out()) is not None:
        pieces[message.stream].append(message.data)
    return {number: b"".join(parts) for number, parts in pieces.items()}
