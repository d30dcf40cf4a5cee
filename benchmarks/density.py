"""How many sandboxes live at once, what each takes, and whether anything is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import RESULTS, conditions
from praxis_sdk.execution.output import OutputCapture, PipeReader
from praxis_sdk.jobs.adapters.base import PreparedJob
from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.environments.warm import WarmEnvironments
from praxis_sdk.jobs.executor.order import write_order
from praxis_sdk.jobs.payload.limits import JobLimits
from praxis_sdk.sandbox import Policy, Sandbox

TITLE = "sandboxes alive at once, each with a Python job that waits"
LIVE = 4000
AT_ONCE = 16
MOST_MIB = 2.0
# Says that it lives, then waits until the harness is told to end; what it says comes through one pipe for all.
WAITING = "import os, signal; os.write(1, b'.'); signal.sigwait({signal.SIGTERM}); os.write(1, b'!')"


def available_mib() -> float:
    """Return the memory that could be had without swapping."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) / 1024


def identity(pid: int) -> tuple[int, str]:
    """Return what tells a process from a later one of the same number: the number, and when it began."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return pid, file.read().rpartition(")")[2].split()[19]
    return pid, ""


def cgroups(launcher: int) -> int:
    """Return the number of control groups that a launcher has made and not removed."""
    return sum(
        f"-{launcher}-" in folder and "praxis-" in folder for folder, _, _ in os.walk("/sys/fs/cgroup")
    )


async def settled(measure: Callable[[], int]) -> int:
    """Return a number once it is zero, or after ten seconds: the kernel takes down in its own time."""
    until = time.monotonic() + 10
    while measure() > 0 and time.monotonic() < until:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(0.1)
    return measure()


async def run(say: Callable[[str], None], live: int = LIVE) -> dict[str, object]:
    """Start sandboxes until so many live, end them all, and look what is left."""
    home = Path(__file__).parent.parent / ".cache" / "bench-home"
    stations = WarmEnvironments(EnvironmentStore(home))
    station = await stations.get("base", say)
    limits = JobLimits(wall_s=600, memory_bytes="64M", scratch_bytes="4M", processes=8)
    policy = Policy(limits=limits.for_sandbox())
    work = PreparedJob(python={"name": "wait.py", "code": WAITING, "parameters": {}, "inputs": {}})
    store = ArtifactStore.open(home / "artifacts")
    order = await write_order(work, seed=1, store=store, limits=JobLimits())
    content = order.read()
    capture = OutputCapture(1 << 20)
    reader, writer = PipeReader.open_pipe("stdout", capture)
    turn = asyncio.Semaphore(AT_ONCE)

    async def start() -> Sandbox:
        async with turn:
            own = os.memfd_create("order")
            try:
                os.write(own, content)
                os.lseek(own, 0, os.SEEK_SET)
                return await station.launcher.fork(policy, own, stdout=writer)
            finally:
                os.close(own)

    first = await start()  # the zygote is there from here on
    before_mib = available_mib()
    began = time.monotonic()
    sandboxes = [first, *await asyncio.gather(*(start() for _ in range(live - 1)))]
    while capture.seen_bytes("stdout") < live:  # noqa: ASYNC110 - a twentieth of a second matters to nobody
        await asyncio.sleep(0.05)
    started_s = time.monotonic() - began
    mib_each = (before_mib - available_mib()) / live
    say(f"{live} live after {started_s:.1f} s, {mib_each:.2f} MiB each")
    born = [identity(sandbox.pid) for sandbox in sandboxes]
    launcher = station.launcher.pid or 0
    began = time.monotonic()
    for sandbox in sandboxes:
        sandbox.terminate()
    ends = await asyncio.gather(*(sandbox.wait() for sandbox in sandboxes))
    for sandbox in sandboxes:
        sandbox.close()
    ended_s = time.monotonic() - began
    os.close(writer)
    await reader.wait()
    reader.close()
    order.close()
    await stations.close()  # and with it what it keeps ready, which is not what is measured
    left = await settled(lambda: sum(identity(pid) == (pid, start) for pid, start in born if start))
    groups = await settled(lambda: cgroups(launcher))
    figures: dict[str, object] = {
        "live": live,
        "started_s": round(started_s, 2),
        "ended_s": round(ended_s, 2),
        "mib_each": round(mib_each, 3),
        "finished_well": sum(end.exit_code == 0 for end in ends),
        "processes_left": left,
        "control_groups_left": groups,
        "reached": mib_each <= MOST_MIB
        and left == 0
        and groups == 0
        and all(end.exit_code == 0 for end in ends),
    }
    RESULTS.mkdir(exist_ok=True)
    kept = {"conditions": conditions(), "figures": figures}
    (RESULTS / "density.json").write_text(json.dumps(kept, indent=1) + "\n")
    return figures
