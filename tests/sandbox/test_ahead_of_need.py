"""Sandboxes that are locked before they are needed serve every request as if they had been made for it."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from praxis_sdk.sandbox import INLINE_DIRECTORY, Launcher, Limits, Policy, PolicyError

from .conftest import MIB, Run, children_of, ended, read_all

LIMITS = (
    "import os, resource as r; s = os.statvfs('/tmp');"
    "print([r.getrlimit(n)[1] for n in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_CPU)], s.f_blocks * s.f_frsize)"
)


async def test_every_run_has_its_own_limits_whoever_came_before(run: Run, launcher: Launcher) -> None:
    # Where a cgroup counts the processor time, each process has two seconds more than all of them together.
    spare = 1 + 2 * (launcher.enforcement.cgroup_version != 0)
    for number in range(12):
        limits = Limits(
            open_files=64 + number,
            file_size_bytes=(1 + number) * MIB,
            cpu_seconds=10 + number,
            memory_bytes=(400 - 20 * (number % 3)) * MIB,
        )
        result = await run(LIMITS, limits=limits)
        assert (
            result.output
            == f"[{64 + number}, {(1 + number) * MIB}, {10 + number + spare}] {limits.scratch_bytes}\n"
        )


async def test_the_scratch_space_is_as_large_as_asked_for_in_any_order(run: Run) -> None:
    for mebibytes in (4, 4, 8, 4, 8, 8, 8, 4, 8, 8):
        result = await run(LIMITS, limits=Limits(scratch_bytes=mebibytes * MIB))
        assert result.output.endswith(f" {mebibytes * MIB}\n")


async def test_a_memory_limit_holds_that_is_smaller_than_that_of_the_run_before(run: Run) -> None:
    if (await run("pass")).ok:
        for mebibytes in (512, 64, 512, 64):
            code = f"x = bytearray({mebibytes * 3 // 4} * 2**20); x = bytearray({mebibytes + 8} * 2**20)"
            result = await run(code, limits=Limits(memory_bytes=mebibytes * MIB))
            assert not result.ok
            assert result.end.killed_by == "memory" or "MemoryError" in result.output


async def test_nothing_of_one_run_is_in_the_next(run: Run) -> None:
    look = (
        "import os; print(os.environ.get('SECRET'), os.listdir('/tmp'), os.listdir('.'),"
        " os.listdir('/dev/shm'), sorted(os.listdir('/proc/self/fd')))"
    )
    for _ in range(6):
        result = await run(f"{look}; open('/tmp/a', 'w'); open('b', 'w'); open('/dev/shm/c', 'w')")
        assert result.output == "None [] [] [] ['0', '1', '2', '3']\n"
        await run("pass", env={"SECRET": "x"})


async def test_inline_files_can_be_read_and_not_changed(run: Run, launcher: Launcher) -> None:
    script = "cat a.json; stat -c %a a.json; chmod 600 a.json; echo x > a.json; echo x > b.json; ls"
    for _ in range(3):
        reader, writer = os.pipe()
        files = {
            f"{INLINE_DIRECTORY}/a.json": b'{"x": "\xc3\xa4"}\n',
            f"{INLINE_DIRECTORY}/c.bin": bytes(256),
        }
        with await launcher.spawn(
            Policy(), ["sh", "-c", script], cwd=INLINE_DIRECTORY, stdout=writer, inline_files=files
        ) as sandbox:
            os.close(writer)
            assert await read_all(reader) == b'{"x": "\xc3\xa4"}\n444\na.json\nc.bin\n'
            await sandbox.wait()
        os.close(reader)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", f"{INLINE_DIRECTORY}/../x", f"{INLINE_DIRECTORY}/a/b", INLINE_DIRECTORY, "x"]
)
async def test_inline_files_go_only_where_they_belong(launcher: Launcher, path: str) -> None:
    with pytest.raises(PolicyError, match="inline file"):
        await launcher.spawn(Policy(), ["true"], inline_files={path: b""})


async def test_inline_files_are_small(launcher: Launcher) -> None:
    with pytest.raises(PolicyError, match="inline files"):
        await launcher.spawn(Policy(), ["true"], inline_files={f"{INLINE_DIRECTORY}/a": bytes(2 * MIB)})


async def test_waiting_sandboxes_are_few_and_die_with_the_launcher(launcher: Launcher) -> None:
    async def one() -> None:
        with await launcher.spawn(Policy(), ["true"]) as sandbox:
            await sandbox.wait()

    await asyncio.gather(*(one() for _ in range(40)))
    pid = launcher.pid
    assert pid is not None
    waiting = [os.pidfd_open(child) for child in children_of(pid)]
    assert len(waiting) <= 16
    os.kill(pid, signal.SIGKILL)
    for pidfd in waiting:
        await ended(pidfd)
        os.close(pidfd)
    await launcher.close()


async def test_a_waiting_sandbox_that_was_killed_is_not_used(launcher: Launcher) -> None:
    pid = launcher.pid
    assert pid is not None
    for _ in range(5):
        with await launcher.spawn(Policy(), ["true"]) as sandbox:
            assert (await sandbox.wait()).ok
        for pidfd in [os.pidfd_open(child) for child in children_of(pid)]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await ended(pidfd)
            os.close(pidfd)
    assert Path(f"/proc/{pid}").exists()
