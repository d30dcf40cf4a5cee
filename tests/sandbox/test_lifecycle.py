"""Launchers and sandboxes come and go, also by accident, and nothing is left."""

import asyncio
import os
import resource
import signal
from pathlib import Path

import pytest

from praxis_sdk.errors import IsolationUnavailable, PlatformError
from praxis_sdk.sandbox import Launcher, Policy
from praxis_sdk.sandbox.client import connection
from praxis_sdk.sandbox.launcher.pool import MAX_SIZE

from .conftest import children, groups_of, read_all


async def ready(reader: int) -> None:
    assert await asyncio.to_thread(os.read, reader, 6) == b"ready\n"


async def test_twenty_sandboxes_run_at_once(launcher: Launcher) -> None:
    async def one(number: int) -> str:
        reader, writer = os.pipe()
        try:
            with await launcher.spawn(
                Policy(), ["sh", "-c", f"echo {number}; id -u"], stdout=writer
            ) as sandbox:
                os.close(writer)
                output = await read_all(reader)
                assert (await sandbox.wait()).ok
                return output.decode()
        finally:
            os.close(reader)

    results = await asyncio.gather(*(one(number) for number in range(24)))
    assert results == [f"{number}\n1000\n" for number in range(24)]


async def test_live_sandboxes_have_host_ids_of_their_own(launcher: Launcher) -> None:
    sandboxes = [await launcher.spawn(Policy(), ["sleep", "1000"]) for _ in range(5)]
    maps = {Path(f"/proc/{sandbox.pid}/uid_map").read_text() for sandbox in sandboxes}
    if launcher.enforcement.privileged:
        assert len(maps) == 5
    else:  # nobody else's id can be given away
        assert {tuple(text.split()) for text in maps} == {("1000", str(os.getuid()), "1")}
    for sandbox in sandboxes:
        sandbox.close()
        await sandbox.wait()


async def test_closing_the_launcher_kills_what_still_runs_and_can_be_repeated(launcher: Launcher) -> None:
    sandboxes = [await launcher.spawn(Policy(), ["sleep", "1000"]) for _ in range(3)]
    waiting = asyncio.create_task(sandboxes[0].wait())
    await launcher.close()
    await launcher.close()
    with pytest.raises(PlatformError):
        await waiting
    for sandbox in sandboxes:
        assert not Path(f"/proc/{sandbox.pid}").exists()
        sandbox.close()
        sandbox.close()
    with pytest.raises(PlatformError, match="closed"):
        await launcher.spawn(Policy(), ["true"])


async def test_a_dead_launcher_takes_its_sandboxes_along_and_is_replaced(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    first = launcher.pid
    assert first is not None
    script = "setsid sleep 1000 & echo ready; sleep 1000"
    sandbox = await launcher.spawn(Policy(), ["sh", "-c", script], stdout=writer)
    os.close(writer)
    await ready(reader)
    pidfd = os.pidfd_open(sandbox.pid)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(PlatformError, match="died"):
        await sandbox.wait()
    assert await read_all(reader) == b""  # end of file: every holder of the pipe is dead
    os.close(pidfd)
    os.close(reader)
    sandbox.close()
    with await launcher.spawn(Policy(), ["true"]) as again:
        assert (await again.wait()).ok
    assert launcher.pid != first
    assert groups_of(first) == []  # swept by the next launcher


async def test_a_dead_launcher_that_is_not_replaced_leaves_nothing(launcher: Launcher) -> None:
    pid = launcher.pid
    assert pid is not None
    sandbox = await launcher.spawn(Policy(), ["sleep", "1000"])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PlatformError):
        await sandbox.wait()
    sandbox.close()
    await launcher.close()
    assert groups_of(pid) == []


async def test_a_host_that_refuses_a_step_is_reported_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage = (
        "from praxis_sdk.sandbox import kernel\nfrom praxis_sdk.sandbox.init import main as init\n"
        "def refuse(*_, **__): raise PermissionError(1, 'mount proc: refused')\n"
        "class Kernel:\n"
        "    mount = staticmethod(refuse)\n"
        "    def __getattr__(self, name): return getattr(kernel, name)\n"
        "init.kernel = Kernel()\n"
    )
    monkeypatch.setattr(connection, "_MAIN", sabotage + connection._MAIN)
    with pytest.raises(IsolationUnavailable, match="mount proc: refused"):
        await Launcher.start()


async def test_a_cancelled_wait_can_be_repeated(launcher: Launcher) -> None:
    with await launcher.spawn(Policy(), ["sleep", "1000"]) as sandbox:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await sandbox.wait()
        sandbox.kill()
        assert (await sandbox.wait()).signal == signal.SIGKILL


async def test_a_cancelled_spawn_leaves_nothing_running(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    tasks = [
        asyncio.create_task(launcher.spawn(Policy(), ["sleep", "1000"], stdout=writer)) for _ in range(8)
    ]
    await asyncio.sleep(0)
    for turns, task in enumerate(tasks):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    os.close(writer)
    for outcome in outcomes:
        if not isinstance(outcome, BaseException):
            outcome.close()
    assert await read_all(reader) == b""  # end of file: no sleeper holds the pipe
    os.close(reader)


async def test_a_sandbox_that_is_closed_early_is_killed(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    sandbox = await launcher.spawn(Policy(), ["sleep", "1000"], stdout=writer)
    os.close(writer)
    sandbox.close()
    assert await read_all(reader) == b""
    os.close(reader)
    assert (await sandbox.wait()).signal == signal.SIGKILL


async def test_a_kill_works_while_the_launcher_is_stopped(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    assert launcher.pid is not None
    sandbox = await launcher.spawn(
        Policy(), ["sh", "-c", "trap '' TERM; echo ready; sleep 1000"], stdout=writer
    )
    os.close(writer)
    await ready(reader)
    os.kill(launcher.pid, signal.SIGSTOP)
    try:
        sandbox.kill()
        assert await read_all(reader) == b""
    finally:
        os.kill(launcher.pid, signal.SIGCONT)
    os.close(reader)
    assert (await sandbox.wait()).signal == signal.SIGKILL
    sandbox.close()


async def test_a_launcher_holds_nothing_of_its_client(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Path(f"/proc/{launcher.pid}/environ").read_bytes()
    assert environment == b""
    modules = Path(f"/proc/{launcher.pid}/maps").read_text()
    assert "site-packages" not in modules


async def test_many_runs_do_not_grow_the_launcher(launcher: Launcher) -> None:
    async def one() -> None:
        with await launcher.spawn(Policy(), ["true"]) as sandbox:
            await sandbox.wait()

    def fds() -> int:
        return len(os.listdir(f"/proc/{launcher.pid}/fd"))

    def resident_kib() -> int:
        status = Path(f"/proc/{launcher.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    await asyncio.gather(*(one() for _ in range(20)))
    waiting = 3 * MAX_SIZE  # what children ahead of need hold, more or less of them at any moment
    before = fds(), resident_kib()
    for _ in range(5):
        await asyncio.gather(*(one() for _ in range(20)))
    assert fds() <= before[0] + waiting
    assert resident_kib() <= before[1] + 512


async def test_two_launchers_do_not_disturb_each_other(launcher: Launcher) -> None:
    async with await Launcher.start() as other:
        one = await launcher.spawn(Policy(), ["sleep", "1000"])
        two = await other.spawn(Policy(), ["sh", "-c", "exit 4"])
        assert (await two.wait()).exit_code == 4
        two.close()
        one.kill()
        await one.wait()
        one.close()
    assert len(children()) >= 1


async def test_a_shortage_of_descriptors_fails_one_start_and_no_other_sandbox(launcher: Launcher) -> None:
    """Wherever the shortage hits, asking or receiving, it is the platform's fault, and the launcher lives on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    launcher_pid = launcher.pid
    with await launcher.spawn(Policy(), ["sleep", "1000"]) as neighbour:
        refused = 0
        open_now = {int(fd) for fd in os.listdir("/proc/self/fd")}
        for number in range(min(set(range(max(open_now) + 2)) - open_now), max(open_now) + 12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
            try:
                with await launcher.spawn(Policy(), ["true"]) as sandbox:
                    ended = await sandbox.wait()
            except PlatformError:
                refused += 1
            else:
                assert ended.ok
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert refused > 0
        assert launcher.pid == launcher_pid
        neighbour.kill()
        assert (await neighbour.wait()).signal == signal.SIGKILL
