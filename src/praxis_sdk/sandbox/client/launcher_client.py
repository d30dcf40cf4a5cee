"""The client's side: start sandboxes from asyncio.

`Launcher` owns one launcher process and replaces it when it died. The caller owns pipes and timeouts.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from praxis_sdk.errors import IsolationUnavailable, PlatformError, PraxisError
from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.client.connection import Enforcement, LauncherConnection, start_launcher
from praxis_sdk.sandbox.client.run import Sandbox
from praxis_sdk.sandbox.init import seccomp
from praxis_sdk.sandbox.init.baseroot import INLINE_DIRECTORY, TMP
from praxis_sdk.sandbox.policy import Bind, Limits, Policy, PolicyError, check_target
from praxis_sdk.sandbox.zygote.spec import Zygote

MAX_ARGUMENTS = 65_536
MAX_INLINE_BYTES = 1 << 20
_INLINE_PATH: Final = re.compile(re.escape(INLINE_DIRECTORY) + r"/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class Launcher:
    """Starts sandboxes; one per engine.

    Use `await Launcher.start()`; `await launcher.close()` ends it and everything that it started.
    """

    def __init__(self, zygote: Zygote | None = None) -> None:
        self._zygote = zygote
        self._connection: LauncherConnection | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @classmethod
    async def start(cls, *, zygote: Zygote | None = None) -> Launcher:
        """Start the launcher process.

        Args:
            zygote: the environment from which `fork` takes its children; it is started by the first one.

        Raises:
            IsolationUnavailable: this host cannot build the sandbox; the message says what is missing.
            PlatformError: the launcher died or did not answer.
        """
        launcher = cls(zygote)
        await launcher._connect()
        return launcher

    @property
    def enforcement(self) -> Enforcement:
        """How limits are enforced here."""
        if self._connection is None or self._connection.enforcement is None:
            raise PlatformError("the sandbox launcher is not running")
        return self._connection.enforcement

    @property
    def pid(self) -> int | None:
        """Process id of the launcher; None when there is none."""
        return None if self._connection is None else self._connection.process.pid

    async def spawn(
        self,
        policy: Policy,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        inline_files: Mapping[str, bytes] | None = None,
    ) -> Sandbox:
        """Run a command in a sandbox of its own.

        Args:
            policy: what it may see and use.
            argv: the command; its first word is looked up in PATH when it has no slash.
            env: the whole environment, besides defaults for PATH, HOME, TMPDIR and LANG.
            cwd: working directory inside; None for `policy.workdir`.
            stdin: an open descriptor, which stays the caller's; None for /dev/null.
            stdout: likewise.
            stderr: likewise.
            inline_files: path below `INLINE_DIRECTORY` -> content of a small file (mode 0444) that the command
                finds there; it needs no mount.

        Returns:
            The sandbox, locked and verified. A command that cannot be started shows in `wait().spawn_error`.

        Raises:
            PolicyError: a mount or the command line is not acceptable.
            IsolationUnavailable: the host cannot build this sandbox, or not enforce one of its limits.
            PlatformError: the launcher died.
        """
        _check_command(argv, env or {}, cwd)
        inline = _inline(inline_files or {}, policy.limits)
        connection = await self._connect()
        assert connection.enforcement is not None
        defaults = {"PATH": connection.enforcement.path, "HOME": TMP, "TMPDIR": TMP, "LANG": "C.UTF-8"}
        command = {
            "argv": list(argv),
            "env": {**defaults, **(env or {})},
            "cwd": cwd or policy.workdir,
            "files": inline,
        }
        return await _start(connection, policy, command, (stdin, stdout, stderr), forked=False)

    async def fork(
        self,
        policy: Policy,
        order_fd: int | None,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        variables: Mapping[str, str] | None = None,
        inline_files: Mapping[str, bytes] | None = None,
        canary: bool = False,
    ) -> Sandbox:
        """Run the zygote's program in a fresh child of the zygote, in a sandbox of its own.

        The job is process 1 of its sandbox: its exit code is what `main` returned; SIGTERM ends it with 143 unless it
        handles it; other signals that it has no handler for do nothing to it, except SIGKILL and those of a fault.

        Args:
            policy: what it may see and use. Mounts must be below /tmp and the working directory, which must be the
                default one.
            order_fd: becomes descriptor 0; stays the caller's. None for /dev/null.
            stdout: likewise, descriptor 1.
            stderr: likewise, descriptor 2.
            variables: added to the zygote's environment variables, once Python runs: too late for those that the
                interpreter itself reads.
            inline_files: as in `spawn`.
            canary: run `attack` instead of the program; the order says what it shall look for.

        Returns:
            The sandbox, locked and verified.

        Raises:
            PolicyError: the policy is not acceptable, or this launcher has no zygote.
            IsolationUnavailable: the host cannot build this sandbox, or not enforce one of its limits.
            PlatformError: the launcher died, or the zygote cannot be had: a module that is to be preloaded is named.
        """
        if self._zygote is None:
            raise PolicyError("fork: this launcher was started without a zygote")
        _check_command(["fork"], variables or {}, None)
        inline = _inline(inline_files or {}, policy.limits)
        connection = await self._connect()
        command = {
            "env": dict(variables or {}),
            "cwd": policy.workdir,
            "files": inline,
            "canary": canary,
        }
        return await _start(connection, policy, command, (order_fd, stdout, stderr), forked=True)

    async def close(self) -> None:
        """Kill every sandbox and end the launcher; returns when nothing is left. May be called again."""
        self._closed = True
        async with self._starting:
            connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Launcher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _connect(self) -> LauncherConnection:
        async with self._starting:
            if self._closed:
                raise PlatformError("this launcher has been closed")
            if self._connection is not None and not self._connection.dead:
                return self._connection
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
            programs = [
                seccomp.compile_filter(),
                seccomp.compile_filter(building=True),
                seccomp.compile_closing_filter(),
            ]
            connection = start_launcher()
            try:
                await connection.greet(programs, None if self._zygote is None else self._zygote.settings())
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
            return connection


def _check_command(argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
    words = [*argv, *(text for pair in env.items() for text in pair)]
    if not argv or not argv[0]:
        raise PolicyError("the command is empty")
    if len(words) > MAX_ARGUMENTS or any("\0" in word for word in words):
        raise PolicyError(f"command and environment: at most {MAX_ARGUMENTS} words, without NUL characters")
    if any(not name or "=" in name for name in env):
        raise PolicyError("environment: a variable's name must not be empty or contain '='")
    if cwd is not None and (not cwd.startswith("/") or "\0" in cwd):
        raise PolicyError(f"cwd {cwd!r}: must be an absolute path")


async def _start(
    connection: LauncherConnection,
    policy: Policy,
    command: dict[str, Any],
    stdio: tuple[int | None, int | None, int | None],
    *,
    forked: bool,
) -> Sandbox:
    """Open what the request needs, send it, and close it again.

    Raises:
        PlatformError: also for whatever nobody has foreseen: no work has been looked at, so none is to blame.
    """
    try:
        return await _ask(connection, policy, command, stdio, forked=forked)
    except PraxisError:
        raise
    except OSError as problem:
        raise PlatformError(f"the sandbox could not be asked for: {problem.strerror or problem}") from problem
    except Exception as problem:
        raise PlatformError(f"the sandbox could not be asked for: {problem!r}") from problem


async def _ask(
    connection: LauncherConnection,
    policy: Policy,
    command: dict[str, Any],
    stdio: tuple[int | None, int | None, int | None],
    *,
    forked: bool,
) -> Sandbox:
    assert connection.enforcement is not None
    _check_enforceable(policy.limits, connection.enforcement)
    records: list[dict[str, Any]] = []
    request = {
        "forked": forked,
        "workdir": policy.workdir,
        "limits": _as_dict(policy.limits),
        "mounts": records,
        "loopback_port": policy.loopback_port,
    }
    kinds = {bind.target: ("overlay", "") for bind in policy.mounts if bind.writable}
    if policy.workdir not in {bind.target for bind in policy.mounts}:
        kinds[policy.workdir] = ("scratch", "")
    opened: list[int] = []
    try:
        for bind in policy.mounts:
            record = _resolve(bind, opened)
            records.append(record)
            if bind.writable and not record["directory"]:
                kinds[bind.target] = ("file", os.path.basename(record["source"]))
        if None in stdio:
            opened.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        null = opened[-1] if opened else -1
        # A memory file for the init alone: the launcher passes it on unread, so it keeps nobody's secrets.
        try:
            command_fd = wire.memory_file("praxis-command", wire.encode(command))
        except wire.WireError as problem:
            raise PolicyError(f"command and environment: {problem}") from problem
        opened.append(command_fd)
        streams = [null if fd is None else fd for fd in stdio]
        return await connection.start(request, [command_fd, *streams], kinds)
    finally:
        wire.close_all(opened)


@functools.lru_cache(maxsize=64)
def _as_dict(limits: Limits) -> dict[str, Any]:
    return asdict(limits)


def _inline(files: Mapping[str, bytes], limits: Limits) -> dict[str, str]:
    """Return name -> content of the inline files, each byte a character, as JSON can carry it."""
    if not files:
        return {}
    size = sum(len(content) for content in files.values())
    if size > min(MAX_INLINE_BYTES, limits.scratch_bytes // 2):
        raise PolicyError(f"inline files of {size} bytes: at most 1 MiB and half of the scratch space")
    for path in files:
        if not _INLINE_PATH.fullmatch(path):
            raise PolicyError(f"inline file {path!r}: must be {INLINE_DIRECTORY}/ and a plain name")
    return {path[len(INLINE_DIRECTORY) + 1 :]: content.decode("latin-1") for path, content in files.items()}


def _resolve(bind: Bind, opened: list[int]) -> dict[str, Any]:
    """Follow the source's links once and pin what it leads to; the descriptor keeps the inode from being reused."""
    check_target(bind.target, f"mount of {bind.source} on")
    path = os.path.realpath(bind.source)
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        raise PolicyError(f"mount source {bind.source}: {problem.strerror}") from problem
    opened.append(fd)
    status = os.fstat(fd)
    directory = stat.S_ISDIR(status.st_mode)
    if not directory and not stat.S_ISREG(status.st_mode):
        raise PolicyError(f"mount source {bind.source}: neither a directory nor a regular file")
    return {
        "source": path,
        "device": status.st_dev,
        "inode": status.st_ino,
        "directory": directory,
        "target": bind.target,
        "writable": bind.writable,
    }


def _check_enforceable(limits: Limits, enforcement: Enforcement) -> None:
    if limits.cpu_cores is not None and not enforcement.cpu_quota:
        raise IsolationUnavailable(
            "the limit cpu_cores cannot be enforced on this host: no writable cpu cgroup",
            remedy="leave cpu_cores unset, or delegate the cpu controller",
        )
