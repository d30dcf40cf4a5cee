"""Runs the benchmark suites: `python -m benchmarks [SUITE ...] [--rounds N] [--json]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys

import structlog
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import capacity, control, density, history, jobs, scheduling, tools
from benchmarks.harness import Comparison, conditions, keep, measure

SUITES = {"tools": tools, "jobs": jobs}
# These measure in their own way, and print what came of it.
OTHERS = {
    "density": density,
    "scheduling": scheduling,
    "control": control,
    "capacity": capacity,
    "history": history,
}

out = Console(highlight=False, stderr=True)


def show(title: str, comparisons: list[Comparison]) -> None:
    """Print a suite's figures."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("case", "compared with"):
        table.add_column(column)
    for column in ("median", "ratio", "over rounds", "aim"):
        table.add_column(column, justify="right")
    for one in comparisons:
        figures = one.figures
        ratio = span = ""
        if one.ratio is not None:
            ratio, span = f"{one.ratio:.2f}x", f"{one.lowest:.2f} to {one.highest:.2f}"
        bound = (
            f"<= {figures.aim:g}x" if figures.aim else f">= {figures.at_least:g}x" if figures.at_least else ""
        )
        aim = "" if one.reached is None else f"{bound} {'reached' if one.reached else 'missed'}"
        cost = f"{figures.median_ms:.2f} ms" if figures.callers == 1 else f"{1000 / figures.median_ms:.0f}/s"
        table.add_row(figures.case, figures.peer or "", cost, ratio, span, aim)
    out.print(table)


async def run(suite: str, rounds: int) -> list[Comparison]:
    """Measure and keep one suite."""
    module = SUITES[suite]
    setting = conditions()
    out.print(f"[bold]{suite}:[/] {module.TITLE}")
    async with module.cases() as (cases, missing):
        comparisons = await measure(cases, rounds, lambda line: out.print(f"[dim]{line}"))
        missing = [*missing]
    show(module.TITLE, comparisons)
    for line in missing:
        out.print(f"[yellow]note:[/] {line}")
    path = keep(suite, comparisons, setting, missing)
    out.print(f"kept in {path.relative_to(path.parent.parent.parent)}")
    return comparisons


def other(suite: str, rounds: int) -> None:
    """Measure and keep a suite that measures in its own way."""

    def say(line: str) -> None:
        out.print(f"[dim]{escape(line)}")

    out.print(f"[bold]{suite}:[/] {OTHERS[suite].TITLE}")
    if suite == "control":
        for table in control.tables(asyncio.run(control.run(say, rounds))):
            out.print(table)
    elif suite == "scheduling":
        out.print(scheduling.run(say))
    elif suite == "history":
        out.print(asyncio.run(history.run(say, rounds)))
    else:
        module = density if suite == "density" else capacity
        out.print(asyncio.run(module.run(say)))
    out.print(f"kept in benchmarks/results/{suite}.json")


def main() -> int:
    """Run the benchmarks; the figures are the result, so the exit status is 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "suites", nargs="*", choices=[*SUITES, *OTHERS, []], help="which to run; all unless given"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases in turn (default 5)")
    parser.add_argument("--json", action="store_true", help="print name and ratio of each case as JSON")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ratios: dict[str, float | None] = {}
    for suite in arguments.suites or [*SUITES, *OTHERS]:
        if suite in OTHERS:
            other(suite, arguments.rounds)
            continue
        comparisons = asyncio.run(run(suite, arguments.rounds))
        ratios |= {one.figures.case: one.ratio for one in comparisons}
    if arguments.json:
        json.dump(ratios, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
