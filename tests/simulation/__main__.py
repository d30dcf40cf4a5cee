"""Runs many seeds of the simulation, or one of them with all that happens in it.

    python -m tests.simulation --seeds 10000 --first 0
    python -m tests.simulation --seed 4711 --trace

Ends with 1 at the first seed that fails, and says how to run it again.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.faults import HARD, Faults
from tests.simulation.world import Report, run

PROGRESS_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--hard", action="store_true", help="have everything go wrong in every seed")
    parser.add_argument("--go-on", action="store_true", help="run all seeds, though some fail")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return one(arguments.seed, HARD if arguments.hard else None, trace=arguments.trace)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return many(seeds, HARD if arguments.hard else None, go_on=arguments.go_on)


def one(seed: int, faults: Faults | None, *, trace: bool) -> int:
    report = run(seed, print if trace else None, faults)
    print(f"seed {seed}: {report.virtual_s:.0f} virtual s, digest {report.digest}")
    print(f"  faults: {dict(report.faults.most_common())}")
    print(f"  counts: {dict(report.counts.most_common())}")
    for problem in report.problems:
        print(f"  FAILED {problem}")
    return 1 if report.problems else 0


def many(seeds: Sequence[int], faults: Faults | None, *, go_on: bool) -> int:
    wrong, counts = Counter(), Counter()
    failed: list[Report] = []
    hard = " --hard" if faults is not None else ""
    began = told = time.monotonic()
    for number, seed in enumerate(seeds, start=1):
        report = run(seed, faults=faults)
        wrong.update(report.faults)
        counts.update(report.counts)
        if report.problems:
            failed.append(report)
            print(
                f"seed {seed} FAILED {report.problems[0]}\n  python -m tests.simulation --seed {seed}{hard} --trace"
            )
            if not go_on:
                print("\n".join(report.tail))
                break
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            print(
                f"{number} of {len(seeds)} seeds, {number / (told - began):.1f} per s, {len(failed)} failed",
                flush=True,
            )
    took_s = time.monotonic() - began
    print(f"{number} seeds in {took_s:.1f} s, {len(failed)} failed: {[report.seed for report in failed]}")
    print(f"  faults: {dict(wrong.most_common())}\n  counts: {dict(counts.most_common())}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
