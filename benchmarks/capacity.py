"""How much one control plane carries: thousands of executions live at once, a hundred thousand that wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, conditions
from benchmarks.noop_kind import WORK, NoopKind
from benchmarks.programs import disk_folder
from benchmarks.subject import JOB, completed, job_kind, store_at
from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.plane import ControlPlane, PlaneOptions, offer_of_this_host
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionStatus

TITLE = "4000 executions live at once, and 100,000 that wait"
LIVE = 4000
QUEUED = 100_000
STATUS_P99_MS = 100.0
ASK_EVERY_S = 0.01
MOST_SLOWER = 1.25  # so much slower may claims be with the whole queue than with the last of it
_CHUNK = 1000

# Each job has its pipes and descriptors, some in this process and some in its launcher; a service is given so many.
OPEN_FILES = 120_000
FILES_PER_JOB = 4
FILES_BESIDE = 1000  # also for the jobs that begin at a time, which hold more

Say = Callable[[str], None]


def allow_open_files(count: int) -> int:
    """Let this process and those that it starts have so many files open, as far as it may; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        with contextlib.suppress(ValueError, OSError):  # not even root may everywhere
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, count))
            hard = count
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
    return min(count, hard)


def quantile(amounts: Sequence[float], share: float) -> float:
    """Return the amount below which a share of them is."""
    ordered = sorted(amounts)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def live_jobs(say: Say, live: int = LIVE) -> dict[str, object]:
    """Submit sandboxed jobs that wait until all of them are there, ask for states meanwhile; all must complete.

    Each job ends by itself at one moment for all. That moment is set before it is known how long it takes to start
    them, so there are several tries with more time.
    """
    fitting = (allow_open_files(OPEN_FILES) - FILES_BESIDE) // FILES_PER_JOB
    if fitting < live:
        say(f"this machine lets a process open files for {fitting} live jobs only")
        live = fitting
    for seconds in (live / 80 + 10, live / 40 + 20, live / 15 + 40):
        with disk_folder() as folder:
            figures = await _live_until(say, live, time.time() + seconds, folder)
        if figures["live_at_once"] == live:
            break
        say(
            f"only {figures['live_at_once']} of {live} were live after {seconds:.0f} s; once more with more time"
        )
    return figures


async def _live_until(say: Say, live: int, until: float, folder: Path) -> dict[str, Any]:
    request = {
        **JOB["request"],
        "code": f"import time; print('live', flush=True); time.sleep(max(0, {until!r} - time.time()))",
        "limits": {**JOB["request"]["limits"], "wall_s": 600},
    }
    work = {**JOB, "request": request}
    # More is promised than the machine has, as it is with memory: most of it is never used.
    offer = WorkerCapacity(Resources(live, 64 * live, 1000, 0, 8 * live), slots=live)
    live_at: dict[str, float] = {}  # each says so from inside its sandbox, and none ends before `until`

    def heard(execution_id: str, stream: object, data: bytes) -> None:
        live_at.setdefault(execution_id, time.time())

    async with store_at(str(folder / "praxis.db")) as store:
        kinds = Kinds(job_kind(folder, heard))
        async with ControlPlane(store, kinds, PlaneOptions(worker=offer)) as plane:
            began_at, began = time.time(), time.perf_counter()
            ids: list[str] = []
            for at in range(0, live, _CHUNK):
                ids += await plane.coordinator.submit_many([work] * min(_CHUNK, live - at))
            submitted_s = time.perf_counter() - began
            asked_ms: list[float] = []
            asking = asyncio.create_task(_ask(plane, ids, asked_ms))
            for ended in await asyncio.gather(*map(plane.coordinator.wait, ids)):
                completed(ended)
            ended_s = time.time() - until
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
    most = sum(at < until for at in live_at.values())
    started_s = max(live_at.values()) - began_at
    say(f"{most} live after {started_s:.1f} s; all completed {ended_s:.1f} s after their moment")
    p99_ms = quantile(asked_ms, 0.99)
    return {
        "executions": live,
        "live_at_once": most,
        "submitted_s": round(submitted_s, 2),
        "all_live_s": round(started_s, 2),
        "ended_s": round(ended_s, 2),
        "completed": live,
        "status_queries": len(asked_ms),
        "status_p50_ms": round(quantile(asked_ms, 0.5), 2),
        "status_p99_ms": round(p99_ms, 2),
        "status_worst_ms": round(max(asked_ms), 2),
        "reached": most >= LIVE and p99_ms < STATUS_P99_MS,
    }


async def _ask(plane: ControlPlane, ids: Sequence[str], taken_ms: list[float]) -> None:
    """Ask again and again how some execution stands."""
    number = 0
    while True:
        began = time.perf_counter()
        await plane.coordinator.get_execution_status(ids[number % len(ids)])
        taken_ms.append((time.perf_counter() - began) * 1000)
        number += 7
        await asyncio.sleep(ASK_EVERY_S)


async def queued(say: Say, count: int = QUEUED) -> dict[str, object]:
    """Let so many no-ops wait, then run them all; claims must be as fast at the beginning as at the end."""
    with disk_folder() as folder:
        async with store_at(str(folder / "praxis.db")) as store:
            kind = NoopKind(timed=True)
            kinds = Kinds(kind)
            async with ControlPlane(store, kinds, PlaneOptions(dispatch=False, keep=False)) as door:
                began = time.perf_counter()
                for at in range(0, count, _CHUNK):
                    await door.coordinator.submit_many([WORK] * min(_CHUNK, count - at))
                submitted_s = time.perf_counter() - began
            say(f"{count} wait after {submitted_s:.1f} s")
            options = PlaneOptions(worker=offer_of_this_host())
            asked_ms: list[float] = []
            async with ControlPlane(store, kinds, options) as plane:
                began = time.perf_counter()
                while (await store.counts()).by_status[ExecutionStatus.QUEUED] or len(kind.begun_at) < count:
                    asked = time.perf_counter()
                    await store.counts()
                    asked_ms.append((time.perf_counter() - asked) * 1000)
                    await asyncio.sleep(0.2)
                assert plane.worker
                await plane.drain()
    # The first tenth warms up; what is compared has nearly all of the queue behind it, or nearly nothing.
    tenth = count // 10
    at = kind.begun_at
    rates = [tenth / (at[(part + 1) * tenth - 1] - at[part * tenth]) for part in range(10)]
    first, last = statistics.median(rates[1:4]), statistics.median(rates[-3:])
    say(f"claims per second by tenths of the queue: {', '.join(f'{rate:.0f}' for rate in rates)}")
    return {
        "queued": count,
        "submitted_s": round(submitted_s, 2),
        "run_s": round(at[-1] - at[0], 2),
        "claims_per_s_by_tenth": [round(rate) for rate in rates],
        "slower_with_whole_queue": round(last / first, 3),
        "counts_p99_ms": round(quantile(asked_ms, 0.99), 2),
        "reached": last / first <= MOST_SLOWER,
    }


async def run(say: Say, live: int = LIVE, waiting: int = QUEUED) -> dict[str, object]:
    """Measure both; keeps the figures."""
    setting = conditions()
    figures: dict[str, object] = {}
    RESULTS.mkdir(exist_ok=True)
    for name, measure, count in (("queued", queued, waiting), ("live", live_jobs, live)):
        figures[name] = await measure(say, count)
        kept = {"conditions": setting, "figures": figures}
        (RESULTS / "capacity.json").write_text(json.dumps(kept, indent=1) + "\n")
    return figures
