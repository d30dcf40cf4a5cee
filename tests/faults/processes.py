"""Worker processes as tests hold them: started, spoken with, stopped, killed, and gone in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from praxis_sdk.store.protocol import StoreUnavailable
from praxis_sdk.store.sqlite.turn import Turns
from tests.faults.worker import Config

ROOT = Path(__file__).parents[2]
TOLD_WITHIN_S = 60.0


class WorkerChild:
    """A worker process.

    Args:
        process: the process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def hear(self, word: str, value: Any = None) -> dict[str, Any]:
        """Wait until it says something, and return all of the line; what comes before is kept in `said`."""
        async with asyncio.timeout(TOLD_WITHIN_S):
            while line := await self._line():
                if word in line and value in (None, line[word]):
                    return line
        raise AssertionError(f"it ended and never said {word!r}: {self.said}")

    async def ended(self) -> int:
        """Read it to its end; returns how it ended."""
        async with asyncio.timeout(TOLD_WITHIN_S):
            while await self._line():
                pass
            return await self._process.wait()

    def order(self, **words: Any) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self, address: str) -> None:
        """Stop it (SIGSTOP) outside of transactions: whoever stops within one keeps the lock of an embedded store."""
        while True:
            self.send(signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)
            if address.startswith("postgresql:"):
                return
            turns = Turns(f"{address}-turn", wait_s=0)
            try:
                with turns.taken():
                    return
            except StoreUnavailable:
                self.send(signal.SIGCONT)
            finally:
                turns.close()

    def end(self) -> None:
        """Have it end in good order."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def close(self) -> int:
        """Have it end in good order, and wait for that; returns how it ended."""
        self.end()
        return await self.ended()

    async def _line(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):  # the end, or what a killed process did not say to the end
            return None
        self.said.append(json.loads(line))
        return self.said[-1]


@contextlib.asynccontextmanager
async def worker_child(config: Config) -> AsyncIterator[WorkerChild]:
    """Start a worker process; it is gone afterwards, whatever happens."""
    words = [sys.executable, "-m", "tests.faults.worker", config.to_json()]
    process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        yield WorkerChild(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
