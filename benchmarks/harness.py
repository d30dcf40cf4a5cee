"""Measures alternatives in turn, so that a machine's ups and downs hit all of them alike.

A figure is the median over rounds of a round's median; a ratio is taken round by round against the peer
measured in the same round, and its median is what counts. Absolute times are printed, ratios are meant.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import statistics
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
IMAGE = "python:3.11-slim"
_BWRAP = [
    "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
    "--clearenv", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink",
    "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev",
    "--tmpfs", "/tmp", "--chdir", "/tmp",
]  # fmt: skip
_DOCKER_RUN = ["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--read-only", IMAGE]


@dataclass(frozen=True)
class Case:
    """One alternative.

    Args:
        name: what is measured.
        call: one piece of work, from request to result.
        peer: the name of the case that it is compared with; None for a peer itself.
        aim: the highest ratio that counts as good; None where nothing was promised.
        calls: pieces of work in a round.
        callers: how many are under way at once; with more than one, what counts is the rate.
        at_least: the lowest ratio of rates that counts as good.
    """

    name: str
    call: Callable[[], Awaitable[object]]
    peer: str | None = None
    aim: float | None = None
    calls: int = 20
    callers: int = 1
    at_least: float | None = None


@dataclass
class Figures:
    """What a case cost: one entry per round, in milliseconds per piece of work."""

    case: str
    peer: str | None
    aim: float | None
    at_least: float | None
    callers: int
    medians_ms: list[float] = field(default_factory=list)
    worst_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.medians_ms)


@dataclass(frozen=True)
class Comparison:
    """A case beside its peer: the ratio of times, or of rates where several callers were served."""

    figures: Figures
    ratio: float | None
    lowest: float | None
    highest: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the aim was reached; None where there is none or nothing to compare with."""
        if self.ratio is None:
            return None
        if self.figures.aim is not None:
            return self.ratio <= self.figures.aim
        return None if self.figures.at_least is None else self.ratio >= self.figures.at_least


async def spawn(*command: str) -> None:
    """Run a command the way a program without Praxis would, and read its output."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    _, complaint = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {process.returncode}: {complaint.decode()}")


def bwrap(
    name: str, *command: str, shown: Iterable[Path] = (), calls: int = 20, callers: int = 1
) -> Case | str:
    """Make the case of a command in bwrap, locked as far as bwrap goes.

    Args:
        name: what is measured.
        command: what runs inside.
        shown: host folders that it sees, besides /usr.
        calls: pieces of work in a round.
        callers: how many are under way at once.

    Returns:
        The case, or why it cannot be measured here.
    """
    if shutil.which("bwrap") is None:
        return f"{name}: bwrap is not installed"
    binds = [word for path in shown for word in ("--ro-bind", str(path), str(path))]
    return Case(name, lambda: spawn(*_BWRAP, *binds, *command), calls=calls, callers=callers)


def docker_run(name: str, *command: str, calls: int = 5, callers: int = 1) -> Case | str:
    """Make the case of a command in `docker run`, locked as far as its options go; see `bwrap`."""
    if shutil.which("docker") is None or not os.environ.get("DOCKER_HOST"):
        return f"{name}: no Docker here"
    return Case(name, lambda: spawn(*_DOCKER_RUN, *command), calls=calls, callers=callers)


def available(*wanted: Case | str) -> tuple[list[Case], list[str]]:
    """Part cases from the reasons why others are none; a rate that is compared with a missing one is none, too."""
    cases = [one for one in wanted if isinstance(one, Case)]
    names = {case.name for case in cases}
    cases = [case for case in cases if case.at_least is None or case.peer in names]
    return cases, [one for one in wanted if isinstance(one, str)]


async def measure(cases: Sequence[Case], rounds: int, say: Callable[[str], None]) -> list[Comparison]:
    """Measure cases in turn, `rounds` times, after one call of each to warm up."""
    figures = {
        case.name: Figures(case.name, case.peer, case.aim, case.at_least, case.callers) for case in cases
    }
    for case in cases:
        await case.call()
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        taken: dict[str, list[float]] = {case.name: [] for case in cases}
        # Call by call in turn, not case by case: a slow second is then nobody's alone.
        single = [case for case in cases if case.callers == 1]
        for turn in range(max((case.calls for case in single), default=0)):
            for case in single:
                if turn < case.calls:
                    began = time.perf_counter()
                    await case.call()
                    taken[case.name].append((time.perf_counter() - began) * 1000)
        for case in cases:
            if case.callers > 1:
                taken[case.name] = [await _served(case)]
        for name, times in taken.items():
            figures[name].medians_ms.append(statistics.median(times))
            figures[name].worst_ms.append(max(times))
    return [_compare(figures[case.name], figures) for case in cases]


async def _served(case: Case) -> float:
    """Serve several callers at once; returns the milliseconds per piece of work, the inverse of the rate."""
    left = case.calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await case.call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(case.callers)))
    return (time.perf_counter() - began) * 1000 / case.calls


def _compare(mine: Figures, all_figures: dict[str, Figures]) -> Comparison:
    if mine.peer is None or mine.peer not in all_figures:
        return Comparison(mine, None, None, None)
    theirs = all_figures[mine.peer].medians_ms
    ratios = [a / b if mine.callers == 1 else b / a for a, b in zip(mine.medians_ms, theirs, strict=True)]
    return Comparison(mine, statistics.median(ratios), min(ratios), max(ratios))


def conditions() -> dict[str, object]:
    """Describe the machine, as far as the figures depend on it."""
    with open("/proc/meminfo") as file:
        memory_kib = int(file.readline().split()[1])
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory_kib / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
        "load_before": round(os.getloadavg()[0], 2),
    }


def keep(
    suite: str, comparisons: Sequence[Comparison], setting: dict[str, object], notes: Sequence[str]
) -> Path:
    """Write a suite's figures with their conditions to `benchmarks/results`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{suite}.json"
    rows = [
        {
            **asdict(one.figures),
            "median_ms": one.figures.median_ms,
            "ratio": one.ratio,
            "range": [one.lowest, one.highest],
            "reached": one.reached,
        }
        for one in comparisons
    ]
    path.write_text(json.dumps({"conditions": setting, "notes": list(notes), "cases": rows}, indent=1) + "\n")
    return path
