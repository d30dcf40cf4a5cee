"""Runs the benchmark suites: `python -m benchmarks [--rounds N] [--json]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys

import structlog
from rich.console import Console
from rich.table import Table

from benchmarks import tools
from benchmarks.harness import Comparison, conditions, keep, measure

out = Console(highlight=False, stderr=True)


def show(comparisons: list[Comparison]) -> None:
    """Print a suite's figures."""
    table = Table(title="no-op tool, from request to result", title_justify="left")
    for column in ("case", "compared with"):
        table.add_column(column)
    for column in ("median", "worst", "ratio", "range over rounds", "aim"):
        table.add_column(column, justify="right")
    for one in comparisons:
        ratio = aim = span = ""
        if one.ratio is not None:
            ratio, span = f"{one.ratio:.2f}x", f"{one.lowest:.2f} to {one.highest:.2f}"
            good = one.figures.aim is None or one.ratio <= one.figures.aim
            aim = f"{one.figures.aim:g}x {'reached' if good else 'missed'}" if one.figures.aim else ""
        worst = max(one.figures.worst_ms)
        table.add_row(
            one.figures.case,
            one.figures.peer or "",
            f"{one.figures.median_ms:.2f} ms",
            f"{worst:.1f} ms",
            ratio,
            span,
            aim,
        )
    out.print(table)


async def run(rounds: int) -> list[Comparison]:
    """Measure and keep the suite of tools."""
    setting = conditions()
    async with tools.cases() as (cases, missing):
        comparisons = await measure(cases, rounds, lambda line: out.print(f"[dim]{line}"))
    show(comparisons)
    for line in missing:
        out.print(f"[yellow]not measured:[/] {line}")
    path = keep("tools", comparisons, setting, missing)
    out.print(f"kept in {path.relative_to(path.parent.parent.parent)}")
    return comparisons


def main() -> int:
    """Run the benchmarks; the figures are the result, so the exit status is 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases in turn (default 5)")
    parser.add_argument("--json", action="store_true", help="print name and ratio of each case as JSON")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    comparisons = asyncio.run(run(arguments.rounds))
    if arguments.json:
        json.dump({one.figures.case: one.ratio for one in comparisons}, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
