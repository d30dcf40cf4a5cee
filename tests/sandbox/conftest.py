"""What the sandbox's tests share: a launcher, a way to run a command in it, and the proof that nothing is left."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from praxis_sdk.sandbox import Harvest, Launcher, Limits, Policy, SandboxExit

DEADLINE_S = 30.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Result:
    end: SandboxExit
    output: str
    written: dict[str, dict[str, bytes]]

    @property
    def ok(self) -> bool:
        return self.end.ok


Run = Callable[..., Awaitable[Result]]


def descriptors() -> set[str]:
    gc.collect()
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _open(fd)}


def _open(fd: str) -> bool:
    try:
        os.fstat(int(fd))
    except OSError:
        return False
    return True


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def groups_of(launcher_pid: int) -> list[str]:
    """The cgroups that a launcher made."""
    mounts = [
        line.split(" ")[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup" in line
    ]
    return [
        path
        for mount in mounts
        for path, _, _ in os.walk(mount)
        if os.path.basename(path).startswith("praxis-") and f"-{launcher_pid}-" in os.path.basename(path)
    ]


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    """A launcher; when the test is over, no process, group, mount or descriptor of it may be left."""
    descriptors_before = descriptors()
    children_before = children()
    started = await Launcher.start()
    pid = started.pid
    assert pid is not None
    yield started
    await started.close()
    assert children() == children_before
    assert descriptors() == descriptors_before
    assert groups_of(pid) == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert " praxis-root " not in mounts
    assert " scratch " not in mounts


@pytest.fixture
def run(launcher: Launcher) -> Run:
    """Run a command to its end: ``await run(["id"])`` or ``await run("python code")``."""

    async def run(
        argv: Sequence[str] | str,
        policy: Policy | None = None,
        *,
        limits: Limits | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Result:
        command = ["python", "-c", argv] if isinstance(argv, str) else list(argv)
        policy = policy or Policy(limits=limits or Limits())
        reader, writer = os.pipe()
        try:
            sandbox = await launcher.spawn(policy, command, env=env, cwd=cwd, stdout=writer, stderr=writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        with sandbox:
            try:
                async with asyncio.timeout(deadline_s):
                    output = await read_all(reader)
                    end = await sandbox.wait()
            finally:
                os.close(reader)
            written = {item.target: contents(item) for item in sandbox.harvest}
        return Result(end, output.decode(errors="replace"), written)

    return run


async def read_all(fd: int, limit: int = 4 * MIB) -> bytes:
    """Read a pipe to its end, keeping at most `limit` bytes."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    kept = bytearray()
    while True:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(fd)
            continue
        if not chunk:
            return bytes(kept)
        kept += chunk[: limit - len(kept)]


def contents(item: Harvest) -> dict[str, bytes]:
    """Every regular file below a harvest, and `<name>: deleted` for whiteouts; follows nothing."""
    found: dict[str, bytes] = {}
    for path, _, names, directory in os.fwalk(".", dir_fd=item.fd, follow_symlinks=False):
        for name in names:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            key = os.path.normpath(os.path.join(path, name))
            if os.path.stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                found[key] = b"<deleted>"
            elif os.path.stat.S_ISREG(status.st_mode) and status.st_size <= MIB:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
                with open(fd, "rb") as file:
                    found[key] = file.read()
            else:
                found[key] = b"<other>"
    return found


def children_of(pid: int) -> list[int]:
    """The processes that have this parent."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def ended(pidfd: int) -> None:
    """Wait for the end of the process behind a descriptor."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(pidfd, event.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await event.wait()
    finally:
        loop.remove_reader(pidfd)
