"""The one module that speaks to the Dagger SDK: a connection, the chain of a run, and what came of it.

    connect -> prepare(image, mount sources) -> execute(chain) -> read_back(changed mounts) -> close

Every step is a few GraphQL requests; the tool itself runs in the one that evaluates the chain. That
request is the tool's lifeline: an engine drops an exec when the last request that waits for it is gone.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.metadata
import logging
import posixpath
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from praxis_sdk.errors import EngineUnavailable, MissingExtra, PlatformError, ValidationError
from praxis_sdk.execution.arguments.arguments import ARGS_FILE_VARIABLE
from praxis_sdk.execution.engines.dagger.session import (
    CommandSession,
    SessionAddress,
    SessionCommand,
    SessionOrigin,
    one_line,
)
from praxis_sdk.execution.mounts.mounts import ToolMount

if TYPE_CHECKING:
    import dagger
    from dagger.client._session import SingleConnection

CONNECT_BOUND_S: Final = 60.0  # an engine that is started first fetches its own image
PING_BOUND_S: Final = 5.0
ARGS_FILE: Final = "/praxis/args.json"
PIP_CACHE: Final = "/praxis/pip-cache"
PIP_CACHE_VOLUME: Final = "praxis-pip-cache"
EXECUTION_ID_VARIABLE: Final = "PRAXIS_EXECUTION_ID"
CACHE_BUST_VARIABLE: Final = "PRAXIS_CACHE_BUST"
UNPRIVILEGED: Final = "65534:65534"

T = TypeVar("T")

_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# With these an init or a shell says that there was nothing to run; a tool may use them as well.
_START_FAILURE_CODES: Final = frozenset({1, 126, 127})
_ABSENT_IMAGE: Final = re.compile(
    r"not found|pull access denied|manifest unknown|does not exist|invalid reference|authoriz", re.IGNORECASE
)


@dataclass(frozen=True)
class ConnectionOptions:
    """Checked options of `dagger.Config`.

    Args:
        config: the SDK's own object.
        connect_bound_s: how long a connection may take to be made, in seconds.
    """

    config: dagger.Config
    connect_bound_s: float

    @property
    def session_arguments(self) -> list[str]:
        """The arguments of `dagger session` that carry them."""
        arguments = ["--label", "dagger.io/sdk.name:python"]
        arguments += ["--label", f"dagger.io/sdk.version:{importlib.metadata.version('dagger-io')}"]
        if self.config.workdir:
            arguments += ["--workdir", str(Path(self.config.workdir).absolute())]
        if self.config.config_path:
            arguments += ["--project", str(Path(self.config.config_path).absolute())]
        if self.config.load_workspace_modules:
            arguments.append("--load-workspace-modules")
        return arguments


def read_options(options: Mapping[str, Any]) -> ConnectionOptions:
    """Check options of `dagger.Config`.

    Requests are never repeated unless `retry` asks for it: repeating one may run a tool twice.

    Raises:
        ValidationError: an option is unknown or of the wrong type.
        MissingExtra: the SDK is not installed.
    """
    try:
        import dagger
    except ModuleNotFoundError as error:
        raise MissingExtra("dagger", "dagger") from error
    # Requests carry arguments and environments: what the SDK has to say comes as exceptions, not as logs.
    for logger in (logging.getLogger("dagger"), logging.getLogger("gql")):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
    known = [f.name for f in fields(dagger.Config) if f.init]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else f"known options: {', '.join(known)}"
            raise ValidationError(f"dagger connection: there is no option '{name}'", remedy=remedy)
    try:
        config = dagger.Config(**{"retry": None, **options})
    except (TypeError, ValueError) as error:
        raise ValidationError(
            f"dagger connection: {error}", remedy="see dagger.Config for its options"
        ) from error
    chosen_s = config.timeout.connect if "timeout" in options and config.timeout else None
    return ConnectionOptions(config, chosen_s or CONNECT_BOUND_S)


@dataclass(frozen=True)
class DaggerPlan:
    """What one run asks of an engine.

    Args:
        image, argv, env, stdin, working_dir, mounts, arguments_json: as in the invocation.
        execution_id: told to the tool.
        privileged: run with the host's privileges, as root.
        trusted: run as the image's user; otherwise as one without rights.
        pip_cache: give pip a cache that outlives the run.
    """

    image: str
    argv: Sequence[str]
    env: Mapping[str, str]
    stdin: str
    working_dir: str | None
    mounts: Sequence[ToolMount]
    arguments_json: bytes
    execution_id: str
    privileged: bool
    trusted: bool
    pip_cache: bool


@dataclass(frozen=True)
class Prepared:
    """A container that has all but the tool's process, and the mounts' sources as they went into it."""

    container: dagger.Container
    directories: Mapping[str, dagger.Directory]


@dataclass(frozen=True)
class ExecResult:
    """What came of a command.

    Args:
        exit_code: its exit code; 128 + n where signal n ended it.
        stdout, stderr: what it wrote; bytes that are not UTF-8 arrive replaced.
        command_missing: there was no such program to run.
        output_withheld: it wrote more than the engine hands out.
        container: its container afterwards; None where the engine keeps none.
    """

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    command_missing: bool = False
    output_withheld: bool = False
    container: dagger.Container | None = None


class DaggerConnection:
    """One connection to one session; serves any number of runs of one event loop.

    `users` counts the runs that hold it. A `retired` connection is given to no new run.
    """

    def __init__(
        self,
        origin: SessionOrigin,
        session: CommandSession | None,
        conn: SingleConnection,
        client: dagger.Client,
        engine_version: str,
    ) -> None:
        self.origin = origin
        self.engine_version = engine_version
        self.users = 0
        self.retired = False
        self._session = session
        self._conn = conn
        self._client = client

    @classmethod
    async def open(cls, origin: SessionOrigin, options: ConnectionOptions) -> DaggerConnection:
        """Connect, starting a session where the origin is a command; whoever gives up leaves nothing behind.

        Raises:
            EngineUnavailable: no engine answered, or not in time.
            ValidationError: an option does not fit the origin.
        """
        if isinstance(origin, SessionAddress) and options.config.workdir:
            raise ValidationError(
                "dagger connection: 'workdir' cannot be set for a session that runs already",
                remedy="leave it out, or unset DAGGER_SESSION_PORT",
            )
        session: CommandSession | None = None
        try:
            async with asyncio.timeout(options.connect_bound_s):
                if isinstance(origin, SessionCommand):
                    log_output = options.config.log_output
                    session = CommandSession(origin, options.session_arguments, log_output)
                    address = await session.address()
                else:
                    address = origin
                return await cls._connect(origin, address, session, options)
        except BaseException as error:
            if session is not None:
                session.kill()
            if isinstance(error, TimeoutError):
                raise _too_slow(origin, session, options.connect_bound_s) from error
            raise

    @classmethod
    async def _connect(
        cls,
        origin: SessionOrigin,
        address: SessionAddress,
        session: CommandSession | None,
        options: ConnectionOptions,
    ) -> DaggerConnection:
        import dagger

        # The public `dagger.Connection` takes its address from the environment alone.
        from dagger.client._config import ConnectConfig
        from dagger.client._session import ConnectParams, SingleConnection

        conn = SingleConnection(
            ConnectParams(port=address.port, session_token=address.token),
            ConnectConfig(timeout=options.config.timeout, retry=options.config.retry),
        )
        try:
            await conn.connect()
            client = dagger.Client.from_connection(conn)
            version = await client.version()
        except BaseException as error:
            await asyncio.shield(conn.close())
            if isinstance(error, dagger.DaggerError):
                raise _refused(error, address) from error
            raise
        return cls(origin, session, conn, client, version)

    async def answers(self) -> bool:
        """Tell whether the engine still answers."""
        import dagger

        if self._session is not None and not self._session.alive:
            return False
        try:
            async with asyncio.timeout(PING_BOUND_S):
                await self._client.version()
        except (dagger.DaggerError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Close the connection, and end the session if it was started for it; repeatable."""
        self.retired = True
        await self._conn.close()
        if self._session is not None:
            await self._session.close()

    def abandon(self) -> None:
        """End the session without its event loop, which is gone."""
        self.retired = True
        if self._session is not None:
            self._session.kill()

    # -- one run

    async def prepare(self, plan: DaggerPlan) -> Prepared:
        """Fetch the image and take in the mounts' sources.

        Raises:
            ValidationError: there is no such image.
            PlatformError: the engine could not do it.
        """
        async with self._translated("prepare the run"):
            image, directories, files = await asyncio.gather(
                self._image(plan.image),
                self._take_in(plan, Path.is_dir, self._directory),
                self._take_in(plan, Path.is_file, self._file),
            )
        container = image
        for mount in plan.mounts:  # outer mounts come before nested ones
            if mount.target in directories:
                container = container.with_mounted_directory(
                    mount.target, directories[mount.target], read_only=not mount.writable
                )
            else:
                container = container.with_mounted_file(mount.target, files[mount.target])
        if plan.pip_cache:
            container = container.with_mounted_cache(PIP_CACHE, self._client.cache_volume(PIP_CACHE_VOLUME))
            container = container.with_env_variable("PIP_CACHE_DIR", PIP_CACHE)
        if not plan.trusted:
            container = container.with_user(UNPRIVILEGED).with_env_variable("HOME", "/tmp")
        if plan.working_dir is not None:
            container = container.with_workdir(plan.working_dir)
        for name, value in plan.env.items():
            container = container.with_env_variable(name, value)
        container = container.with_new_file(ARGS_FILE, plan.arguments_json.decode(), permissions=0o444)
        container = container.with_env_variable(ARGS_FILE_VARIABLE, ARGS_FILE)
        container = container.with_env_variable(EXECUTION_ID_VARIABLE, plan.execution_id)
        # Dagger answers equal chains from its cache; a tool that is run twice must run twice.
        container = container.with_env_variable(CACHE_BUST_VARIABLE, uuid.uuid4().hex)
        return Prepared(container, directories)

    async def execute(self, plan: DaggerPlan, prepared: Prepared) -> ExecResult:
        """Run the command to its end; whoever cancels this ends the command.

        Raises:
            PlatformError: the engine failed, or is gone.
        """
        import dagger

        async with self._translated("run the tool"):
            try:
                done = await prepared.container.with_exec(
                    list(plan.argv),
                    stdin=plan.stdin,
                    expect=dagger.ReturnType.ANY,
                    insecure_root_capabilities=plan.privileged,
                ).sync()
            except dagger.ExecError as error:  # codes from 128 to 191 are errors even under ANY
                return ExecResult(error.exit_code, error.stdout, error.stderr)
            exit_code, stdout, stderr = await asyncio.gather(
                done.exit_code(), _stream(done.stdout), _stream(done.stderr)
            )
            withheld = stdout is None or stderr is None
            missing = (
                exit_code in _START_FAILURE_CODES
                and stdout == ""
                and not await _finds(prepared.container, plan.argv[0])
            )
        return ExecResult(exit_code, stdout or "", stderr or "", missing, withheld, done)

    async def read_back(
        self, container: dagger.Container, mount: ToolMount, prepared: Prepared, place: Path
    ) -> Path:
        """Copy what a tool changed in a mount to an empty directory of this machine.

        Args:
            container: the tool's container afterwards.
            mount: a writable mount.
            prepared: the container before.
            place: the directory.

        Returns:
            The mount's side: `place` itself for a directory, a file in it for a file.

        Raises:
            PlatformError: the engine could not do it, or wrote to another machine.
        """
        # The session writes where its command runs, which need not be here; only the marker tells.
        marker = f".praxis-{uuid.uuid4().hex}"
        before = prepared.directories.get(mount.target)
        async with self._translated(f"read back '{mount.target}'"):
            if before is not None:
                changed = before.diff(container.directory(mount.target))
                await changed.with_new_file(marker, "").export(str(place))
            else:
                name = "file"
                changed = self._client.directory().with_file(name, container.file(mount.target))
                await changed.with_new_file(marker, "").export(str(place))
        try:
            (place / marker).unlink()
        except FileNotFoundError as error:
            raise PlatformError(
                "the Dagger session runs on another machine: it exports to a file system that is not this one's",
                remedy="start the session here, or use mounts read-only (':ro')",
            ) from error
        return place if before is not None else place / "file"

    async def _image(self, address: str) -> dagger.Container:
        import dagger

        try:
            return await self._client.container().from_(address).sync()
        except dagger.QueryError as error:
            said = one_line(str(error))
            if _ABSENT_IMAGE.search(said):
                raise ValidationError(
                    f"engineSpec.image: the Dagger engine cannot get '{address}': {said}",
                    remedy="check its name, and that the engine may pull it",
                ) from error
            raise PlatformError(f"the Dagger engine cannot get image '{address}': {said}") from error

    async def _take_in(
        self,
        plan: DaggerPlan,
        kind: Callable[[Path], bool],
        load: Callable[[DaggerPlan, ToolMount], Awaitable[T]],
    ) -> dict[str, T]:
        mounts = [mount for mount in plan.mounts if kind(mount.source)]
        loaded = await asyncio.gather(*(load(plan, mount) for mount in mounts))
        return {mount.target: item for mount, item in zip(mounts, loaded, strict=True)}

    async def _directory(self, plan: DaggerPlan, mount: ToolMount) -> dagger.Directory:
        # Without `no_cache` a session keeps what it saw of a path at first.
        directory = self._client.host().directory(str(mount.source), no_cache=True)
        if not plan.trusted:
            directory = directory.chown("/", UNPRIVILEGED)
        return await directory.sync()

    async def _file(self, plan: DaggerPlan, mount: ToolMount) -> dagger.File:
        mode = mount.source.stat().st_mode & 0o777
        file = self._client.host().file(str(mount.source), no_cache=True)
        if mount.writable:
            owner = "" if plan.trusted else UNPRIVILEGED
            shaped = self._client.directory().with_file("file", file, permissions=mode, owner=owner)
        else:  # a file cannot be mounted read-only, so nobody but root may write it, and it is not read back
            shaped = self._client.directory().with_file("file", file, permissions=(mode | 0o444) & ~0o222)
        return await shaped.file("file").sync()

    @asynccontextmanager
    async def _translated(self, doing: str) -> AsyncIterator[None]:
        """Turn what the SDK raises into errors of Praxis; a connection that broke serves nobody any more."""
        import dagger

        try:
            yield
        except dagger.TransportError as error:
            self.retired = True
            raise PlatformError(
                f"the connection to the Dagger engine broke (to {doing}): {one_line(str(error))}",
                remedy="run it again; where the engine lives on, it has ended the tool",
            ) from error
        except dagger.InvalidQueryError as error:
            raise PlatformError(
                f"the Dagger engine ({self.engine_version}) does not know what the SDK asks it to {doing}",
                remedy=f"use an engine of version {importlib.metadata.version('dagger-io')}",
            ) from error
        except dagger.DaggerError as error:
            raise PlatformError(f"the Dagger engine could not {doing}: {one_line(str(error))}") from error


async def _stream(read: Callable[[], Awaitable[str]]) -> str | None:
    """Read one output stream; None where there is more of it than the engine hands out (128 MiB)."""
    import dagger

    try:
        return await read()
    except dagger.QueryError as error:
        if "exceeds limit" in str(error):
            return None
        raise


async def _finds(container: dagger.Container, program: str) -> bool:
    """Tell whether a container has a program, searching as exec does."""
    if "/" in program:
        return await container.exists(program)
    path = await container.env_variable("PATH") or _DEFAULT_PATH
    candidates = [posixpath.join(folder, program) for folder in path.split(":") if folder]
    return any(await asyncio.gather(*(container.exists(candidate) for candidate in candidates)))


def _refused(error: dagger.DaggerError, address: SessionAddress) -> EngineUnavailable:
    cause = error.__cause__
    if getattr(cause, "code", None) in (401, 403):
        return EngineUnavailable(
            f"the Dagger session at port {address.port} refuses the session token",
            remedy="start anew inside 'dagger run', or unset DAGGER_SESSION_PORT and DAGGER_SESSION_TOKEN",
        )
    said = one_line(str(cause or error)) or type(error).__name__
    return EngineUnavailable(
        f"no Dagger engine answers at port {address.port}: {said}",
        remedy="start anew inside 'dagger run', or unset DAGGER_SESSION_PORT and DAGGER_SESSION_TOKEN",
    )


def _too_slow(origin: SessionOrigin, session: CommandSession | None, bound_s: float) -> EngineUnavailable:
    if isinstance(origin, SessionAddress):
        return EngineUnavailable(
            f"the Dagger session at port {origin.port} did not answer within {bound_s:g} s",
            remedy="see whether its engine is still alive, or raise the connection's 'timeout'",
        )
    said = f": {one_line(session.last_words)}" if session is not None and session.last_words else ""
    return EngineUnavailable(
        f"'{origin.path} session' did not connect to an engine within {bound_s:g} s{said}",
        remedy="check that it can fetch the engine's image, or raise the connection's 'timeout'",
    )
