"""What a job leaves is read by something that can be killed: no callback of the event loop pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.executor.results import ResultStore
from tests.jobs.conftest import payload

Run = Callable[..., Awaitable[JobResult]]
MIB = 1 << 20
MOST_CALLBACK_S = 0.05  # of processor time
LARGE = {
    "outputs_bytes": 16 * MIB,
    "scratch_bytes": 512 * MIB,
    "file_size_bytes": 256 * MIB,
    "memory_bytes": 1 << 30,
}
_RESULT = ".praxis/result.json"


@contextlib.contextmanager
def callbacks_watched() -> Iterator[list[float]]:
    """Note the processor time of every callback of the event loop that takes long; not time on the wall."""
    slow: list[float] = []
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        if took > MOST_CALLBACK_S:
            slow.append(took)

    asyncio.Handle._run = measured  # type: ignore[method-assign]
    try:
        yield slow
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


def forged(content: str) -> str:
    """Code that writes a result past the harness."""
    return f"import os\nopen({_RESULT!r}, 'w').write({content})\nos._exit(0)"


def peak_bytes() -> int:
    """The most memory that this process has had since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def reset_peak() -> int:
    """Forget the most memory that this process has had; returns what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


# -- results


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("""'{"value": [' + '1.5,' * 4_190_000 + '1]}'""", None),
        ("""'{"value": {' + ','.join('"%x":0' % n for n in range(1_500_000)) + '}}'""", None),
        (r"""'{"value": "' + '\\u00e9' * 8_000_000 + '"}'""", None),
        (r"""'{"value": "' + '\\u0001' * 2_700_000 + '"}'""", None),
        ("""'{"value": ' + '[' * 4_000_000""", "invalid_result"),
        ("""'{"value": [' + '[],' * 5_000_000 + '[]]}'""", "invalid_result"),
        ("""'{"value": [' + '"a","a",' * 1_500_000 + 'NaN]}'""", "invalid_result"),
        ("""'x' * (100 << 20)""", "outputs_exceeded"),
    ],
)
async def test_a_result_at_its_limit_never_holds_the_loop_up(
    run: Run, content: str, code: str | None
) -> None:
    with callbacks_watched() as slow:
        hostile, *honest = await asyncio.gather(
            run(forged(content), limits={**LARGE, "memory_bytes": 3 << 30}),
            *(run(f"{n} + 1") for n in range(3)),
        )
    assert slow == []
    assert [one.outputs for one in honest] == [1, 2, 3]
    assert (None if hostile.failure is None else hostile.failure.code) == code, hostile.failure
    if code is None:
        assert 0 < hostile.usage.outputs_bytes <= LARGE["outputs_bytes"]
        assert hostile.usage.collect_s > 0


async def test_a_long_value_comes_back_as_it_was(run: Run) -> None:
    code = "[{'n': n, 'x': n / 7, 'text': 'gr\\u00f6\\u00dfe \\U0001f600 \"' * 3, 'none': None} for n in range(3000)]"
    result = await run(code)
    assert result.succeeded, result.failure
    assert result.outputs == eval(code)
    again = await run(code)
    assert (again.from_cache, again.outputs) == (True, result.outputs)


async def test_a_program_returns_a_long_object(run: Run) -> None:
    script = (
        'printf \'{"a": "%s", "b": [1]}\' "$(head -c 400000 /dev/zero | tr "\\0" x)" > "$PRAXIS_RESULT_FILE"'
    )
    result = await run(runtime="command", command=["sh", "-c", script])
    assert result.succeeded, result.failure
    assert result.outputs == {"a": "x" * 400_000, "b": [1]}


async def test_reading_a_long_result_takes_a_small_multiple_of_its_limit(run: Run) -> None:
    await run("1")
    before = reset_peak()
    result = await run(forged("""'{"value": [' + '1.5,' * 4_190_000 + '1]}'"""), limits=LARGE)
    assert result.succeeded, result.failure
    assert peak_bytes() - before < 6 * LARGE["outputs_bytes"]


# -- what lies beside the result


@pytest.mark.parametrize(
    ("code", "limits", "failure"),
    [
        (
            "for n in range(10_000): open(f'{n:05}', 'w').write(str(n % 100))",
            {"artifact_count": 10_000, "files": 16_000},
            None,
        ),
        (
            "for n in range(6):\n    with open(str(n), 'wb') as f: f.truncate(20 << 30)",
            {"artifact_total_bytes": 1 << 40, "file_size_bytes": 1 << 40},
            None,  # each is longer than an artifact can be
        ),
        (
            "for n in range(6):\n    with open(str(n), 'wb') as f: f.truncate(12 << 30)",
            {"artifact_total_bytes": 1 << 40, "file_size_bytes": 1 << 40},
            "scratch_exceeded",
        ),
        (
            "import os\nfor n in range(1000):\n    os.mkdir('d'); os.chdir('d')\nopen('x', 'w').write('x')",
            {},
            None,
        ),
        (
            (
                "import os\nfd = os.open('holes', os.O_CREAT | os.O_WRONLY)\n"
                "for n in range(10_000): os.pwrite(fd, b'x', n * 50_000)"
            ),
            {"artifact_total_bytes": 1 << 40, "file_size_bytes": 1 << 40},
            None,
        ),
        (
            "import os\nfor n in range(12_000):\n    os.symlink('/etc/passwd', f'{n}')",
            {"files": 16_000},
            None,
        ),
        (
            (
                "head = '<svg xmlns=\"http://www.w3.org/2000/svg\">'\n"
                "for n in range(60): open(f'{n}.svg', 'w').write(head + '<g>' * 100_000)"
            ),
            {},
            None,
        ),
        (
            "for n in range(60):\n    open(f'{n}.json', 'w').write('[' + '1.5,' * 250_000 + '1]')",
            {},
            None,
        ),
    ],
    ids=["10000 files", "6 x 20 GiB", "6 x 12 GiB", "1000 deep", "10000 holes", "links", "svg", "json"],
)
async def test_no_harvest_holds_the_loop_up(
    run: Run, code: str, limits: dict[str, Any], failure: str | None
) -> None:
    with callbacks_watched() as slow:
        hostile, *honest = await asyncio.gather(
            run(code, limits=limits), *(run(f"open('mine', 'w').write('{n}')") for n in range(3))
        )
    assert slow == []
    assert [one.artifacts[0].size_bytes for one in honest] == [1, 1, 1]
    assert (None if hostile.failure is None else hostile.failure.code) == failure, hostile.failure
    if failure is not None:
        assert hostile.artifacts == ()


async def test_what_cannot_be_an_artifact_is_told_and_does_not_fail_the_job(
    run: Run, executor: JobExecutor
) -> None:
    result = await run(
        "import os, socket\n"
        "open('fine.txt', 'w').write('x')\n"
        "os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo'); open('Fine.txt', 'w').write('y')\n"
        "open('one', 'w').close(); os.link('one', 'two'); open('a\\u202eb', 'w').close(); open(b'\\xff', 'w').close()\n"
        "socket.socket(socket.AF_UNIX).bind('socket')\n"
        "'done'"
    )
    assert (result.status, result.outputs, result.failure) == ("completed", "done", None)
    assert [one.name for one in result.artifacts] == ["Fine.txt"]
    reasons = {one.name: one.reason for one in result.rejected_artifacts}
    assert reasons == {
        "link": "it is a symbolic link",
        "fifo": "it is a fifo",
        "fine.txt": "its name is that of 'Fine.txt' but for case or form",
        "one": "it has more than one name (hard link)",
        "two": "it has more than one name (hard link)",
        "a\\u202eb": "its name holds control or invisible characters",
        "\\udcff": "its name is not UTF-8",
        "socket": "it is a socket",
    }


async def test_what_takes_too_long_to_read_ends_as_its_limit(run: Run) -> None:
    """Not as the platform's failure, and its neighbour waits for nothing."""
    slow, honest = await asyncio.gather(
        run(
            "with open('zeros', 'wb') as f: f.truncate(16 << 30)",
            limits={
                "collect_s": 1,
                "artifact_total_bytes": 1 << 40,
                "file_size_bytes": 1 << 40,
                "scratch_bytes": 1 << 40,
                "memory_bytes": 64 * MIB,
            },
        ),
        run("open('mine', 'w').write('x')"),
    )
    assert slow.failure is not None
    assert (slow.limit, slow.failure.category, slow.failure.code) == (
        "collect_s",
        "RESOURCE_LIMIT",
        "collect_time_exceeded",
    )
    assert [one.name for one in honest.artifacts] == ["mine"]


# -- the platform's own trouble


async def test_a_collector_that_is_killed_is_the_platforms_failure_and_is_replaced(run: Run) -> None:
    first = await run("open('a', 'w').write('x')")
    assert first.succeeded
    os.kill(collector_of(os.getpid()), signal.SIGKILL)
    with contextlib.suppress(PlatformError):
        await run("open('a', 'w').write('x')", fresh=True)
    after = await run("open('b', 'w').write('x')")
    assert [one.name for one in after.artifacts] == ["b"]


async def test_a_child_of_the_collector_that_dies_while_it_waits_is_no_jobs_trouble(run: Run) -> None:
    assert (await run("open('a', 'w').write('x')")).succeeded
    collector = collector_of(os.getpid())
    children = Path(f"/proc/{collector}/task/{collector}/children")
    while not (waiting := children.read_text().split()):
        pass
    for child in waiting:
        os.kill(int(child), signal.SIGKILL)
    while any(Path(f"/proc/{child}").exists() for child in waiting):
        pass
    found = [await run(f"open('{name}', 'w').write('x')") for name in ("b", "c")]
    assert [one.name for result in found for one in result.artifacts] == ["b", "c"]


async def test_closing_the_executor_leaves_no_collector(
    environments: EnvironmentStore, tmp_path: Path
) -> None:
    executor = JobExecutor(ArtifactStore.open(tmp_path / "artifacts"), environments, ResultStore(tmp_path))
    await executor.run(payload(code="open('a', 'w').write('x')"), on_progress=lambda _: None)
    pid = collector_of(os.getpid())
    await executor.close()
    assert not Path(f"/proc/{pid}").exists()


def collector_of(parent: int) -> int:
    """The process of this test's own collector; there may be several, of other tests' executors."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                if b"jobs.collector.process" in words and int(status[1]) == parent and status[0] != "Z":
                    found.append(int(folder.name))
    assert found
    return max(found)
