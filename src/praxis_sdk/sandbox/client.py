"""The client's side: start sandboxes from asyncio.

`Launcher` owns one launcher process and replaces it when it died. The caller owns pipes and timeouts.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from praxis_sdk.errors import IsolationUnavailable, PlatformError
from praxis_sdk.sandbox import seccomp, wire
from praxis_sdk.sandbox.baseroot import TMP
from praxis_sdk.sandbox.connection import Connection, Enforcement, start_launcher
from praxis_sdk.sandbox.policy import Bind, Limits, Policy, PolicyError, check_target
from praxis_sdk.sandbox.run import Sandbox

MAX_ARGUMENTS = 65_536


class Launcher:
    """Starts sandboxes; one per engine.

    Use `await Launcher.start()`; `await launcher.close()` ends it and everything that it started.
    """

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @classmethod
    async def start(cls) -> Launcher:
        """Start the launcher process.

        Raises:
            IsolationUnavailable: this host cannot build the sandbox; the message says what is missing.
            PlatformError: the launcher died or did not answer.
        """
        launcher = cls()
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

        Returns:
            The sandbox, locked and verified. A command that cannot be started shows in `wait().spawn_error`.

        Raises:
            PolicyError: a mount or the command line is not acceptable.
            IsolationUnavailable: the host cannot build this sandbox, or not enforce one of its limits.
            PlatformError: the launcher died.
        """
        _check_command(argv, env or {}, cwd)
        connection = await self._connect()
        assert connection.enforcement is not None
        _check_enforceable(policy.limits, connection.enforcement)
        request: dict[str, Any] = {
            "workdir": policy.workdir,
            "limits": asdict(policy.limits),
            "mounts": [],
        }
        kinds = {bind.target: ("overlay", "") for bind in policy.mounts if bind.writable}
        if policy.workdir not in {bind.target for bind in policy.mounts}:
            kinds[policy.workdir] = ("scratch", "")
        opened: list[int] = []
        try:
            for bind in policy.mounts:
                record = _resolve(bind, opened)
                request["mounts"].append(record)
                if bind.writable and not record["directory"]:
                    kinds[bind.target] = ("file", os.path.basename(record["source"]))
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            opened.append(null)
            opened.append(_command_file(argv, env or {}, cwd or policy.workdir, connection.enforcement.path))
            stdio = [null if fd is None else fd for fd in (stdin, stdout, stderr)]
            return await connection.start(request, [opened[-1], *stdio], kinds)
        finally:
            wire.close_all(opened)

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

    async def _connect(self) -> Connection:
        async with self._starting:
            if self._closed:
                raise PlatformError("this launcher has been closed")
            if self._connection is not None and not self._connection.dead:
                return self._connection
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
            program = seccomp.compile_filter()
            connection = start_launcher()
            try:
                await connection.greet(program)
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


def _command_file(argv: Sequence[str], env: Mapping[str, str], cwd: str, path: str) -> int:
    """Return a memory file for the init alone: the launcher passes it on unread, so it keeps nobody's secrets."""
    defaults = {"PATH": path, "HOME": TMP, "TMPDIR": TMP, "LANG": "C.UTF-8"}
    command = {"argv": list(argv), "env": {**defaults, **env}, "cwd": cwd}
    try:
        return wire.memory_file("praxis-command", wire.encode(command))
    except wire.WireError as problem:
        raise PolicyError(f"command and environment: {problem}") from problem


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
