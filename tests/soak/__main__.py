"""Thousands of hostile and honest jobs on one executor, and a look for leaks every few hundred.

    python -m tests.soak --jobs 10000 --concurrency 8 --report .cache/soak.json

As root it runs twice, the second time as an ordinary user.
The hostile jobs are those of tests/security, each judged as there; between them run as many honest ones. At every
look no job runs, and the executor must hold what it held at the first: processes, mounts, control groups,
descriptors, temporary files. Memory may move, but not climb: the number of live objects is what tells, because the
allocator keeps what a burst has scattered.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog

from tests.security import (
    artifacts,
    files,
    kernel,
    memory,
    network,
    output,
    processes,
    python,
    results,
    test_shared_quotas,
    tex,
)
from tests.security.case import OK, RAISES, Case
from tests.security.laboratory import Census, Laboratory, private_kib

QUOTAS = tuple(
    Case(
        f"all of {attack.name}",
        {"code": test_shared_quotas.PROLOGUE + attack.code + "\nheld", **attack.fields},
        OK,
        limits={"cpu_s": 20, "memory_bytes": 256 << 20, **attack.fields.get("limits", {})},
    )
    for attack in test_shared_quotas.ATTACKS
    if attack.name not in ("processes", "disks and the page cache")  # these do not end by themselves
)
THEMES = (artifacts, files, kernel, memory, network, output, processes, python, results)
HONEST = (
    Case("a value", "1 + 1", OK, outputs=2),
    Case("output", "print('x' * 1000); print('y', file=__import__('sys').stderr)", OK, says="xxx"),
    Case("artifacts", "for i in range(5): open(f'a{i}.txt', 'w').write(str(i) * 1000)", OK),
    Case("children", "import subprocess; subprocess.check_output(['echo', 'hi'], text=True)", OK, outputs="hi\n"),
    Case("memory", "len(bytearray(b'x') * 20_000_000)", OK, outputs=20_000_000),
    Case("inputs", {"code": "open(inputs['a']).read()", "inputs": {"a": {"text": "z" * 100_000}}}, OK,
         limits={"outputs_bytes": 1 << 20}),
    Case("a program", {"runtime": "command", "command": ["sh", "-c", "seq 100 | tail -1 > n"]}, OK, artifacts=("n",)),
    Case("a mistake", "1 / 0", RAISES),
)  # fmt: skip
MAX_BLOCKS_PER_1000_JOBS = 2000  # two objects of Python for each job would be a leak
MAX_HELPER_KIB_PER_1000_JOBS = 512
MAX_EXECUTOR_KIB = 256 << 10  # free memory that is scattered is bounded by the largest burst
MIN_LOOKS_FOR_SLOPE = 10
MAX_FAILURES_KEPT = 20
MAX_SECONDS_AS_USER = 24 * 3600.0
MAX_CALLBACK_S = 0.05  # of processor time: while one runs, the event loop serves nobody else
MAX_RESIDENT_GROWTH = 1.15  # from a fifth of the jobs to the last, beside what one burst scatters
MAX_RESIDENT_NOISE_KIB = 16 << 10


@dataclass
class Look:
    """What was found at one moment, with no job running."""

    jobs: int
    seconds: float
    executor_kib: int
    executor_blocks: int
    helper_kib: int
    excess: dict[str, Any]


@dataclass
class Report:
    """What a soak found; written as JSON."""

    wanted_jobs: int
    concurrency: int
    seed: int
    privileged: bool
    cgroups: bool
    jobs: int = 0
    seconds: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    executor_blocks_per_1000_jobs: float = 0.0
    helper_kib_per_1000_jobs: float = 0.0
    executor_kib_at_a_fifth: int = 0
    executor_kib_at_the_end: int = 0
    honest_jobs: int = 0
    honest_jobs_harmed: int = 0
    longest_callback_s: float = 0.0
    longest_callback: str = ""
    failures: list[str] = field(default_factory=list)
    failure_count: int = 0

    def fail(self, text: str) -> None:
        """Note a failure; the first ones in words."""
        self.failure_count += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(text[:2000])


async def soak(laboratory: Laboratory, report: Report, every: int) -> None:
    """Run all jobs, in rounds of `every`, and look after each."""
    choose = random.Random(report.seed)
    quick, slow = _hostile()
    baseline: Census | None = None
    began = time.monotonic()
    while report.jobs < report.wanted_jobs:
        count = min(every, report.wanted_jobs - report.jobs)
        cases = [
            choose.choice(HONEST if choose.random() < 0.5 else quick if choose.random() < 0.98 else slow)
            for _ in range(count)
        ]
        await _round(laboratory, report, cases)
        report.jobs += count
        report.seconds = time.monotonic() - began
        if baseline is None:
            baseline = await _first(laboratory)
        excess = await laboratory.settled(baseline)
        excess.pop("helper_kib", None)  # the slope tells
        _trim()
        look = Look(
            jobs=report.jobs,
            seconds=round(report.seconds, 1),
            executor_kib=private_kib(),
            executor_blocks=sys.getallocatedblocks(),
            helper_kib=laboratory.census().helper_kib,
            excess=excess,
        )
        if look.executor_kib > MAX_EXECUTOR_KIB:
            report.fail(f"after {report.jobs} jobs: the executor holds {look.executor_kib} KiB")
        report.looks.append(look)
        if excess:
            report.fail(f"after {report.jobs} jobs: {excess}")
        _progress(report, look)
    report.executor_blocks_per_1000_jobs = _slope([(one.jobs, one.executor_blocks) for one in report.looks])
    report.helper_kib_per_1000_jobs = _slope([(one.jobs, one.helper_kib) for one in report.looks])
    early = next(one for one in report.looks if one.jobs * 5 >= report.wanted_jobs)
    report.executor_kib_at_a_fifth, report.executor_kib_at_the_end = (
        early.executor_kib,
        report.looks[-1].executor_kib,
    )
    if report.executor_kib_at_the_end > early.executor_kib * MAX_RESIDENT_GROWTH + MAX_RESIDENT_NOISE_KIB:
        report.fail(
            f"executor: {early.executor_kib} KiB at a fifth, {report.executor_kib_at_the_end} at the end"
        )
    if report.longest_callback_s > MAX_CALLBACK_S:
        report.fail(
            f"the event loop was held for {report.longest_callback_s:.3f} s by {report.longest_callback}"
        )
    if len(report.looks) >= MIN_LOOKS_FOR_SLOPE:
        if report.executor_blocks_per_1000_jobs > MAX_BLOCKS_PER_1000_JOBS:
            report.fail(f"executor: {report.executor_blocks_per_1000_jobs:.0f} more objects in 1000 jobs")
        if report.helper_kib_per_1000_jobs > MAX_HELPER_KIB_PER_1000_JOBS:
            report.fail(f"helpers: {report.helper_kib_per_1000_jobs:.0f} more KiB in 1000 jobs")


@contextlib.contextmanager
def _callbacks_timed(report: Report) -> Iterator[None]:
    """Measure the processor time of every callback of the event loop; what a busy machine takes does not count."""
    run = asyncio.Handle._run

    def timed(handle: Any) -> None:
        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        if took > report.longest_callback_s:
            report.longest_callback_s, report.longest_callback = took, repr(handle)[:500]

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


async def _round(laboratory: Laboratory, report: Report, cases: list[Case]) -> None:
    waiting = iter(cases)

    async def worker() -> None:
        for case in waiting:
            await _one(laboratory, report, case)

    # Only while jobs run: the census between the rounds is the soak's own work.
    with _callbacks_timed(report):
        await asyncio.gather(*(worker() for _ in range(report.concurrency)))


async def _one(laboratory: Laboratory, report: Report, case: Case) -> None:
    from praxis_sdk.jobs.payload.payload import parse_payload

    report.honest_jobs += case in HONEST
    try:
        result = await laboratory.executor.run(
            parse_payload(case.payload(laboratory.job_id())), on_progress=lambda _: None
        )
        category = str(result.failure.category) if result.failure else "none"
        verdict = f"{result.status}/{category}/{result.limit or '-'}"
        report.verdicts[verdict] = report.verdicts.get(verdict, 0) + 1
        laboratory.check_verdict(case, result)
        laboratory.check_nothing_of_the_host(result)
    except Exception as error:  # noqa: BLE001 - whatever one job does, the soak goes on and tells
        report.honest_jobs_harmed += case in HONEST
        report.fail(f"{case.name}: {type(error).__name__}: {error}")


async def _first(laboratory: Laboratory) -> Census:
    """Learn what an executor holds that has been as busy as it will be."""
    await laboratory.next_job()
    seen = laboratory.census()
    for _ in range(20):
        await laboratory.next_job()
        seen = seen.highest(laboratory.census())
    return seen


def _trim() -> None:
    """Give free memory back to the kernel, so that what is measured is held and not merely scattered."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _hostile() -> tuple[list[Case], list[Case]]:
    """Return the hostile jobs that end at once, and those that burn time until a limit ends them."""
    quick: list[Case] = list(QUOTAS)
    slow: list[Case] = list(tex.CASES)
    for case in (case for theme in THEMES for case in theme.CASES):
        verdicts = case.ends if isinstance(case.ends, tuple) else (case.ends,)
        burns = any(verdict.limit in ("cpu_s", "wall_s") for verdict in verdicts)
        (slow if burns or "memory_bytes" in case.limits or case.growth_mib > 48 else quick).append(case)
    return quick, slow


def _slope(points: list[tuple[int, int]]) -> float:
    """Return by how much more after 1000 jobs, by least squares over the later half: the earlier one warms up."""
    points = points[len(points) // 2 :]
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 1000 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def _progress(report: Report, look: Look) -> None:
    rate = report.jobs / report.seconds
    left = (report.wanted_jobs - report.jobs) / rate
    state = "nothing left behind" if not look.excess else f"LEFT BEHIND: {look.excess}"
    print(
        f"soak: {report.jobs}/{report.wanted_jobs} jobs, {rate:.0f}/s, about {left:.0f} s to go; executor "
        f"{look.executor_kib // 1024} MiB, helpers {look.helper_kib // 1024} MiB; "
        f"{report.failure_count} failures; {state}",
        flush=True,
    )


async def _main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="praxis-soak-") as place:
        Path(place).chmod(0o755)
        home = Path(place, "home")
        home.mkdir(mode=0o755)
        laboratory = Laboratory(home, Path(place, "temporary"))
        await laboratory.open()
        report = Report(
            arguments.jobs, arguments.concurrency, arguments.seed, os.geteuid() == 0, laboratory.cgroups
        )
        try:
            await soak(laboratory, report, arguments.every)
        finally:
            try:
                await laboratory.close()
            except AssertionError as error:
                report.fail(f"after the end: {error}")
            arguments.report.parent.mkdir(parents=True, exist_ok=True)
            arguments.report.write_text(json.dumps(asdict(report), indent=1) + "\n")
    for failure in report.failures:
        print(f"soak: FAILED: {failure}")
    print(
        f"soak: {report.jobs} jobs in {report.seconds:.0f} s, {report.failure_count} failures, "
        f"{report.honest_jobs_harmed} of {report.honest_jobs} honest jobs harmed, "
        f"executor {report.executor_kib_at_a_fifth} KiB at a fifth and {report.executor_kib_at_the_end} at the end, "
        f"longest callback {report.longest_callback_s * 1000:.0f} ms; memory per 1000 jobs: "
        f"executor {report.executor_blocks_per_1000_jobs:+.0f} objects, "
        f"helpers {report.helper_kib_per_1000_jobs:+.0f} KiB; report: {arguments.report}"
    )
    return 1 if report.failure_count else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--every", type=int, default=500, help="look for leaks after so many jobs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only-root", action="store_true", help="do not run all once more as an ordinary user"
    )
    parser.add_argument("--report", type=Path, default=Path(".cache/soak.json"))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    arguments = parser.parse_args()
    status = asyncio.run(_main(arguments))
    if os.geteuid() == 0 and not arguments.only_root:
        status |= _again_as_ordinary_user(arguments)
    return status


def _again_as_ordinary_user(arguments: argparse.Namespace) -> int:
    """Run the same jobs on an executor without privileges; its report lies beside the other."""
    from devservices.ordinary_user import ordinary_user

    with ordinary_user() as user:
        report = user.home / "soak.json"
        options = {name: getattr(arguments, name) for name in ("jobs", "concurrency", "every", "seed")}
        command = [str(user.python), "-m", "tests.soak", "--report", str(report)]
        command += [f"--{name}={value}" for name, value in options.items()]
        path = f"{user.environment.get('PYTHONPATH', '')}:{user.checkout}"
        print("soak: once more, as an ordinary user", flush=True)
        done = user.run(command, cwd=user.checkout, env={"PYTHONPATH": path}, timeout_s=MAX_SECONDS_AS_USER)
        print(done.stdout + done.stderr, end="")
        if report.exists():
            beside = arguments.report.with_stem(f"{arguments.report.stem}-ordinary-user")
            beside.write_text(report.read_text())
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
