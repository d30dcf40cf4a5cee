"""Programs that are measured, and the services that they need: begun for one measurement, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devservices.postgres import PostgresServer

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".cache" / "bench-peers" / "bin" / "python"
PATIENCE_S = 300.0
_LINE_BYTES = 1 << 24


class Program:
    """A program that does what it is told line by line (`benchmarks/peers/serve.py`)."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def ask(self, command: str, number: int) -> Any:
        """Have it do something, and return its answer.

        Raises:
            RuntimeError: it ended, or took longer than is bearable; with the end of what it said.
        """
        assert self._process.stdin
        self._process.stdin.write(f"{command} {number}\n".encode())
        return await self.answer()

    async def answer(self) -> Any:
        """Return its next answer; raises as `ask` does."""
        assert self._process.stdout
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)
        except TimeoutError:
            line = b""
        if not line:
            raise RuntimeError(f"no answer; it said: {self._log.read_text(errors='replace')[-2000:]}")
        return json.loads(line)


@contextlib.asynccontextmanager
async def program(*command: str, cwd: Path = ROOT) -> AsyncIterator[Program]:
    """Run a program for as long as the context lasts; all that it started ends with it.

    Args:
        command: what runs.
        cwd: where.
    """
    with tempfile.TemporaryDirectory(prefix="praxis-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=said,
                cwd=cwd,
                start_new_session=True,
                limit=_LINE_BYTES,
            )
        one = Program(process, log)
        try:
            await one.answer()  # it is ready
            yield one
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                print(f"{command[1]} did not end by itself", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@contextlib.asynccontextmanager
async def redis() -> AsyncIterator[Path]:
    """Run a private Redis that keeps nothing for as long as the context lasts; yields its socket."""
    server = shutil.which("redis-server", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/bin")
    if server is None:
        raise RuntimeError("redis-server is missing: run scripts/system-packages bench")
    with tempfile.TemporaryDirectory(prefix="praxis-redis-") as folder:
        socket = Path(folder) / "socket"
        options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", server, *options, "--dir", folder, stdout=PIPE
        )
        assert process.stdout
        try:
            while b"eady to accept" not in (line := await process.stdout.readline()):
                if not line:
                    raise RuntimeError("redis-server did not start")
            yield socket
        finally:
            process.kill()
            await process.communicate()


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Run a private PostgreSQL that waits for the disk, for as long as the context lasts."""
    scripts = str(ROOT / "scripts")
    if scripts not in sys.path:
        sys.path.insert(0, scripts)
    from devservices.postgres import postgres_server

    with postgres_server(durable=True) as server:
        yield server


@contextlib.contextmanager
def database(server: PostgresServer, name: str) -> Iterator[str]:
    """Make an empty database for as long as the context lasts; yields its name."""
    server.sql(f"CREATE DATABASE {name}")
    try:
        yield name
    finally:
        server.sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.sql("CHECKPOINT")  # what one has written is not written while another is measured


@contextlib.contextmanager
def disk_folder() -> Iterator[Path]:
    """Make a folder on the disk of this checkout, which is none in memory, for as long as the context lasts."""
    parent = ROOT / ".cache" / "bench-control"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds a path."""
    real, best, kind = os.path.realpath(path), "", ""
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, where, type_, *_ = line.split()
            inside = real == where or real.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, type_
    return kind
