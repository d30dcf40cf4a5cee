"""Where a Dagger engine is reached: a session that already runs, or one that the `dagger` command starts.

The SDK could start the command itself, but it would download it where it is missing, wait for it in a
thread that nothing can interrupt, and lose what it complains about. So Praxis starts it: nothing is
downloaded, a start that hangs is ended, and the usual failures are told in one line (spec 2,
"Connection Failures"). Nothing here knows the SDK.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from praxis_sdk.errors import EngineUnavailable

CLOSE_BOUND_S: Final = 10.0  # how long `dagger session` may take to end before it is killed
_LOG_LINES: Final = 200
_LOG_LINE_BYTES: Final = 8 << 10  # a longer line is cut there
_LOG_BOUND_S: Final = 2.0
_GREETING_BYTES: Final = 64 << 10
_READ_BYTES: Final = 64 << 10

_INSTALL: Final = "install the Dagger CLI (https://docs.dagger.io/install), or use --engine docker"


@dataclass(frozen=True)
class SessionAddress:
    """A session's endpoint on this machine.

    Args:
        port: TCP port of the GraphQL API on 127.0.0.1.
        token: what the API wants to be shown.
    """

    port: int
    token: str = field(repr=False)


@dataclass(frozen=True)
class SessionCommand:
    """The `dagger` command, which starts an engine where none runs, and a session with it.

    Args:
        path: the program.
        runner_host: the engine that it is told to use by `_EXPERIMENTAL_DAGGER_RUNNER_HOST`.
    """

    path: Path
    runner_host: str | None = None


SessionOrigin = SessionAddress | SessionCommand


def locate_session(environ: Mapping[str, str]) -> SessionOrigin:
    """Say where a session is to be had, in the SDK's order of precedence; nothing is started.

    A running session (`dagger run` gives one to its children), the command that
    `_EXPERIMENTAL_DAGGER_CLI_BIN` names, the command that the SDK once downloaded, the one on PATH.

    Raises:
        EngineUnavailable: nowhere, or what names it is unsound.
    """
    if port := environ.get("DAGGER_SESSION_PORT"):
        token = environ.get("DAGGER_SESSION_TOKEN")
        if not token:
            raise EngineUnavailable(
                "DAGGER_SESSION_PORT is set and DAGGER_SESSION_TOKEN is not", remedy="set both, or neither"
            )
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise EngineUnavailable(
                f"DAGGER_SESSION_PORT: {port[:40]!r} is not a port", remedy="give a number"
            )
        return SessionAddress(int(port), token)
    return SessionCommand(_find_command(environ), environ.get("_EXPERIMENTAL_DAGGER_RUNNER_HOST") or None)


def _find_command(environ: Mapping[str, str]) -> Path:
    if named := environ.get("_EXPERIMENTAL_DAGGER_CLI_BIN"):
        if found := shutil.which(named):
            return Path(found)
        raise EngineUnavailable(
            f"_EXPERIMENTAL_DAGGER_CLI_BIN: '{named}' is not a program that can be run", remedy=_INSTALL
        )
    for candidate in (_downloaded_command(environ), shutil.which("dagger", path=environ.get("PATH"))):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise EngineUnavailable("there is no Dagger CLI here: 'dagger' is not on PATH", remedy=_INSTALL)


def _downloaded_command(environ: Mapping[str, str]) -> Path | None:
    """Return where the SDK keeps the command of its own version, if it ever fetched it."""
    try:
        version = importlib.metadata.version("dagger-io")
    except importlib.metadata.PackageNotFoundError:
        return None
    cache = environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(cache).expanduser() / "dagger" / f"dagger-{version}"


class CommandSession:
    """A session that the `dagger` command holds open: it ends with the command, and with it all that it runs.

    The command leads a process group, which is killed as a whole; and no pipe is ever waited for without bound, since
    whatever the command started may hold it open.
    """

    def __init__(
        self, command: SessionCommand, arguments: Sequence[str], log_output: TextIO | None = None
    ) -> None:
        """Start the command; `address` says when there is a session.

        Args:
            command: the program.
            arguments: further arguments of `dagger session`.
            log_output: gets the engine's log lines.

        Raises:
            EngineUnavailable: it cannot be started.
        """
        self._command = command
        self._log_output = log_output
        self._killed = False
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        try:
            self._process = subprocess.Popen(
                [str(command.path), "session", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # a Ctrl-C is ours to answer
            )
        except OSError as error:
            raise EngineUnavailable(
                f"cannot start '{command.path}': {error.strerror}", remedy=_INSTALL
            ) from error
        self._drain = threading.Thread(target=self._read_log, name="dagger-session-log", daemon=True)
        self._drain.start()

    async def address(self) -> SessionAddress:
        """Wait until the session says where it is reached; called once.

        Raises:
            EngineUnavailable: the command ended in place of it.
        """
        line = (await self._greeting()).decode("utf-8", errors="replace")
        try:
            greeting = json.loads(line)
            return SessionAddress(int(greeting["port"]), str(greeting["session_token"]))
        except (ValueError, KeyError, TypeError) as error:
            await asyncio.to_thread(self._drain.join, _LOG_BOUND_S)
            raise diagnose("\n".join([line, *self._log]), self._command) from error

    async def _greeting(self) -> bytes:
        """Read the first line that the command writes, or what it wrote before it closed its stdout."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        os.set_blocking(stdout, False)
        line = bytearray()
        with self._news(stdout) as news:
            while b"\n" not in line and len(line) < _GREETING_BYTES:
                ended = not self.alive  # asked before the pipe is: what it wrote before it ended is there
                try:
                    piece = os.read(stdout, _READ_BYTES)
                except BlockingIOError:
                    if ended:  # and somebody else holds the pipe
                        break
                    news.clear()
                    await news.wait()
                    continue
                if not piece:
                    break
                line += piece
        return bytes(line).partition(b"\n")[0]

    @contextlib.contextmanager
    def _news(self, *descriptors: int) -> Iterator[asyncio.Event]:
        """Have an event set when the command ends, or when one of some descriptors can be read."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        ends = os.pidfd_open(self._process.pid)
        watched = (ends, *descriptors)
        try:
            for descriptor in watched:
                loop.add_reader(descriptor, news.set)
            yield news
        finally:
            for descriptor in watched:
                loop.remove_reader(descriptor)
            os.close(ends)

    @property
    def alive(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The last line of the command's log that says anything."""
        return next((line for line in reversed(list(self._log)) if line.strip()), "").strip()

    async def close(self) -> None:
        """End the session in order, or by force where it does not end; repeatable."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_BOUND_S):
                while self.alive:
                    with self._news() as news:
                        await news.wait()
        except TimeoutError:
            pass  # it is killed
        finally:
            self.kill()

    def kill(self) -> None:
        """End the command and its process group at once; the engine drops what is left of the session."""
        if not self._killed:  # once, since later its number may be another's
            self._killed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of its group is left
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        with self._process.stderr as pipe:
            while piece := pipe.read(_READ_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._take_log(line)
                rest = rest[:_LOG_LINE_BYTES]
            self._take_log(rest)

    def _take_log(self, line: bytes) -> None:
        text = line[:_LOG_LINE_BYTES].decode("utf-8", errors="replace")
        if text:
            self._log.append(text)
        if text and self._log_output is not None:
            with contextlib.suppress(OSError, ValueError):  # whoever listened has closed it
                self._log_output.write(f"{text}\n")


@dataclass(frozen=True)
class _Diagnosis:
    pattern: re.Pattern[str]
    message: str
    remedy: str


_DIAGNOSES: Final = (
    _Diagnosis(
        re.compile(r"permission denied.*docker|docker.*permission denied", re.IGNORECASE),
        "no permission on the Docker socket, through which the Dagger CLI starts its engine",
        "add this user to the group 'docker', or point DOCKER_HOST at a daemon of its own",
    ),
    _Diagnosis(
        re.compile(
            r"cannot connect to the docker daemon|is the docker daemon running|error during connect"
            r"|(docker|container runtime)\W.*(not found|no such file)",
            re.IGNORECASE,
        ),
        "no Docker daemon is running, in which the Dagger CLI could start its engine",
        "start Docker, or name a running engine by _EXPERIMENTAL_DAGGER_RUNNER_HOST",
    ),
    _Diagnosis(
        re.compile(
            r"no such host|name resolution|i/o timeout|network is unreachable|no route to host"
            r"|connection refused|connection reset|handshake timeout|deadline exceeded",
            re.IGNORECASE,
        ),
        "the Dagger CLI cannot reach the network",
        "check proxy and DNS: it needs registry.dagger.io, or the engine that _EXPERIMENTAL_DAGGER_RUNNER_HOST names",
    ),
)


def diagnose(log: str, command: SessionCommand) -> EngineUnavailable:
    """Say in one line, with a remedy, why the `dagger` command gave no session.

    Args:
        log: what it wrote before it ended.
        command: the program.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for diagnosis in _DIAGNOSES:
        for line in reversed(lines):
            if diagnosis.pattern.search(line):
                where = f" at {command.runner_host}" if command.runner_host else ""
                return EngineUnavailable(
                    f"{diagnosis.message}{where}: {one_line(line)}", remedy=diagnosis.remedy
                )
    said = one_line(lines[-1]) if lines else "it ended without a word"
    return EngineUnavailable(
        f"'{command.path} session' gave no session: {said}", remedy=f"see what '{command.path} version' says"
    )


def one_line(text: str, limit_chars: int = 300) -> str:
    """Return the first line of a message that may be long, without control characters."""
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    shown = "".join(c for c in first if c.isprintable())
    return shown if len(shown) <= limit_chars else shown[: limit_chars - 3] + "..."
