"""Measures alternatives in turn, so that a machine's ups and downs hit all of them alike.

A figure is the median over rounds of a round's median; a ratio is taken round by round against the peer
measured in the same round, and its median is what counts. Absolute times are printed, ratios are meant.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One alternative.

    Args:
        name: what is measured.
        call: one piece of work, from request to result.
        peer: the name of the case that it is compared with; None for a peer itself.
        aim: the highest ratio that counts as good; None where nothing was promised.
        calls: pieces of work in a round.
    """

    name: str
    call: Callable[[], Awaitable[object]]
    peer: str | None = None
    aim: float | None = None
    calls: int = 20


@dataclass
class Figures:
    """What a case cost: one entry per round, in milliseconds."""

    case: str
    peer: str | None
    aim: float | None
    medians_ms: list[float] = field(default_factory=list)
    worst_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.medians_ms)


@dataclass(frozen=True)
class Comparison:
    """A case beside its peer."""

    figures: Figures
    ratio: float | None
    lowest: float | None
    highest: float | None


async def measure(cases: Sequence[Case], rounds: int, say: Callable[[str], None]) -> list[Comparison]:
    """Measure cases in turn, `rounds` times, after one call of each to warm up."""
    figures = {case.name: Figures(case.name, case.peer, case.aim) for case in cases}
    for case in cases:
        await case.call()
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        taken: dict[str, list[float]] = {case.name: [] for case in cases}
        # Call by call in turn, not case by case: a slow second is then nobody's alone.
        for turn in range(max(case.calls for case in cases)):
            for case in cases:
                if turn < case.calls:
                    began = time.perf_counter()
                    await case.call()
                    taken[case.name].append((time.perf_counter() - began) * 1000)
        for name, times in taken.items():
            figures[name].medians_ms.append(statistics.median(times))
            figures[name].worst_ms.append(max(times))
    return [_compare(figures[case.name], figures) for case in cases]


def _compare(mine: Figures, all_figures: dict[str, Figures]) -> Comparison:
    if mine.peer is None or mine.peer not in all_figures:
        return Comparison(mine, None, None, None)
    theirs = all_figures[mine.peer].medians_ms
    ratios = [a / b for a, b in zip(mine.medians_ms, theirs, strict=True)]
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
        }
        for one in comparisons
    ]
    path.write_text(json.dumps({"conditions": setting, "notes": list(notes), "cases": rows}, indent=1) + "\n")
    return path
