"""How long a decision takes with a long queue and many workers, and how a simulated day goes.

The day drives the real `decide` with a clock of its own and executions in memory: they come with the hours,
last as long as was drawn for them, and are stopped where real-time work needs their room.
"""

from __future__ import annotations

import dataclasses
import gc
import heapq
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import RESULTS, conditions
from praxis_sdk.control.lifecycle.transitions import rank_of
from praxis_sdk.control.scheduling.scheduler import Decision, decide
from praxis_sdk.model import Execution, Options, Stop, Worker
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import ExecutionStatus, Priority, ServiceClass
from praxis_sdk.store.protocol import Round

TITLE = "decisions of the scheduler, and a simulated day"
MOST_DECISION_MS = 50.0
DAY_S = 86_400
KINDS = frozenset({"job"})
_SHAPES = [
    Resources(cores, memory, storage_mb=64)
    for cores, memory in [(0.5, 256), (1, 512), (1, 2048), (2, 1024), (2, 4096), (4, 8192), (8, 4096)]
]
_SHAPE_WEIGHTS = [20, 30, 15, 15, 10, 8, 2]
_PRIORITIES = [*Priority]
_PRIORITY_WEIGHTS = [2, 18, 60, 20]


@dataclass(frozen=True)
class Size:
    """How large the simulated day is.

    Args:
        executions, workers: how many.
        tick_s: how often a round is run, in simulated seconds.
        candidates: how much of the queue a round sees.
        load: the share of the cores that is wanted over the whole day; at its height it is half as much more.
        seed: of everything that is drawn.
    """

    executions: int = 1_000_000
    workers: int = 10_000
    tick_s: float = 5.0
    candidates: int = 2_000
    load: float = 0.66
    seed: int = 1


# Fewer, with more to do than there is room for in the afternoon: queues, and real-time work that preempts.
BUSY = Size(executions=50_000, workers=500, tick_s=15.0, load=0.75)
SMOKE = Size(executions=5_000, workers=50, tick_s=30.0, load=0.8)

Say = Callable[[str], None]


# -- how long a decision takes


def _queue(count: int, draw: random.Random, shapes: Callable[[], Resources]) -> tuple[Execution, ...]:
    made = []
    for number in range(count):
        priority = draw.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0]
        made.append(_execution(number, shapes(), priority, ServiceClass.BATCH, draw.random() * 600, None))
    return tuple(sorted(made, key=lambda one: one.rank))


def _execution(
    number: int,
    needs: Resources,
    priority: Priority,
    service_class: ServiceClass,
    at: float,
    expected_s: float | None,
) -> Execution:
    return Execution(
        id=f"{number:08}",
        kind="job",
        control="simulated",
        request=None,
        terms=Options(needs, priority, service_class, expected_s=expected_s),
        submitted_at=at,
        status=ExecutionStatus.QUEUED,
        rank=rank_of(priority, service_class, at),
        queued_at=at,
        granted=needs,
    )


def decisions(say: Say, queued: int = 10_000, workers: int = 1_000, rounds: int = 15) -> dict[str, object]:
    """Measure decisions over a long queue: an idle fleet, one in use, one that is full; few shapes or many."""
    figures: dict[str, object] = {}
    for shapes in ("few shapes", "any shape"):
        for share in (0.0, 0.5, 0.9, 1.0):
            draw = random.Random(1)
            fleet = []
            for number in range(workers):
                used = share if share in (0.0, 1.0) else min(1.0, max(0.0, draw.gauss(share, 0.1)))
                held = Resources(round(16 * used, 2), int(65_536 * used))
                fleet.append(
                    Worker(
                        f"w{number}", Resources(16, 65_536, 1000, 0, 10**6), 16, KINDS, held, int(16 * used)
                    )
                )

            def any_shape(draw: random.Random = draw) -> Resources:
                return Resources(
                    round(draw.uniform(0.1, 6), 2), draw.randint(64, 16_384), draw.randint(0, 50)
                )

            def few_shapes(draw: random.Random = draw) -> Resources:
                return draw.choices(_SHAPES, _SHAPE_WEIGHTS)[0]

            waiting = _queue(queued, draw, few_shapes if shapes == "few shapes" else any_shape)
            seen = Round(700.0, (), waiting, tuple(fleet))
            taken, computed = [], []
            started = 0
            for _ in range(rounds):
                gc.collect()
                began, computing = time.perf_counter(), time.process_time()
                started = decide(seen).started
                computed.append((time.process_time() - computing) * 1000)
                taken.append((time.perf_counter() - began) * 1000)
            name = f"{shapes}, {share:.0%} in use"
            figures[name] = {
                "median_ms": round(statistics.median(taken), 2),
                "computed_median_ms": round(statistics.median(computed), 2),
                "best_ms": round(min(taken), 2),
                "worst_ms": round(max(taken), 2),
                "started": started,
            }
            say(
                f"{name}: {statistics.median(taken):.1f} ms, of these {statistics.median(computed):.1f} ms "
                f"computed; {started} started"
            )
    return figures


# -- the day


@dataclass
class Series:
    """What is plotted: one entry per span of time."""

    hours: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    real_time_p95_s: list[float] = field(default_factory=list)
    batch_p95_s: list[float] = field(default_factory=list)


class Day:
    """A day of executions on many workers."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.now = 0.0
        draw = random.Random(size.seed)
        self.draw = draw
        self.fleet: list[Worker] = []
        for number in range(size.workers):
            cores, memory = draw.choices([(8, 32_768), (16, 65_536), (32, 65_536)], [6, 3, 1])[0]
            whole = Resources(cores, memory, 1000, 0, 10**6)
            self.fleet.append(Worker(f"w{number:05}", whole, 2 * cores, KINDS))
        self.place = {worker.id: number for number, worker in enumerate(self.fleet)}
        self.cores = sum(worker.capacity.cpu_cores for worker in self.fleet)
        self.used_cores = 0.0
        self.waiting: list[Execution] = []
        self.running: dict[str, Execution] = {}
        self.batch: dict[str, Execution] = {}
        self.left_s: dict[str, float] = {}
        self.ends: list[tuple[float, str, int]] = []
        self.waited: dict[ServiceClass, list[float]] = {one: [] for one in ServiceClass}
        self.all_waited: dict[ServiceClass, list[float]] = {one: [] for one in ServiceClass}
        self.decision_ms: list[float] = []
        self.finished = self.preempted = self.lost_s = 0
        mean_cores = sum(s.cpu_cores * w for s, w in zip(_SHAPES, _SHAPE_WEIGHTS, strict=True)) / 100
        self.mean_s = size.load * self.cores * DAY_S / (size.executions * mean_cores)

    def arrivals(self) -> Iterator[Execution]:
        """Go through the executions as they come: more by day than by night, real-time work above all."""
        size, draw = self.size, self.draw
        moments: list[float] = []
        while len(moments) < size.executions:
            at = draw.random() * DAY_S
            if draw.random() * 1.5 < 1 + 0.5 * math.sin((at / DAY_S - 0.33) * 2 * math.pi):
                moments.append(at)
        moments.sort()
        for number, at in enumerate(moments):
            service_class = ServiceClass.REAL_TIME if draw.random() < 0.3 else ServiceClass.BATCH
            priority = draw.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0]
            needs = draw.choices(_SHAPES, _SHAPE_WEIGHTS)[0]
            one = _execution(number, needs, priority, service_class, at, self.mean_s)
            # Real-time work is short, batch work long, and some of it very long.
            mean = 0.2 * self.mean_s if service_class is ServiceClass.REAL_TIME else 1.34 * self.mean_s
            self.left_s[one.id] = draw.lognormvariate(math.log(mean) - 0.32, 0.8)
            yield one

    def run(self, say: Say) -> Series:
        """Let the day pass, and what is left of it after midnight."""
        series = Series()
        coming = self.arrivals()
        following = next(coming, None)
        next_sample = sample_s = 300.0
        began = time.perf_counter()
        said_hour = 0
        while following is not None or self.waiting or self.running:
            self.now += self.size.tick_s
            self._end()
            fresh = False
            while following is not None and following.submitted_at <= self.now:
                self.waiting.append(following)
                fresh = True
                following = next(coming, None)
            if fresh:
                self.waiting.sort(key=_place_of)
            if self.waiting:
                self._round()
            if self.now >= next_sample:
                next_sample += sample_s
                if self.now <= DAY_S:
                    self._sample(series)
            if self.now >= (said_hour + 4) * 3600:
                said_hour += 4
                say(
                    f"{said_hour:2} h: {self.finished} finished, {len(self.running)} run, "
                    f"{len(self.waiting)} wait, {time.perf_counter() - began:.0f} s"
                )
        return series

    def _end(self) -> None:
        changed: dict[int, tuple[Resources, int]] = {}
        again = False
        while self.ends and self.ends[0][0] <= self.now:
            _, name, token = heapq.heappop(self.ends)
            one = self.running.get(name)
            if one is None or one.token != token:
                continue
            del self.running[name]
            self.batch.pop(name, None)
            self._hold(changed, one, -1)
            if one.stop is Stop.PREEMPT:
                began = one.attempt_at or 0.0
                self.lost_s += int(self.now - began)
                self.preempted += 1
                back = {"status": ExecutionStatus.QUEUED, "worker_id": "", "stop": None}
                self.waiting.append(one.but(**back, preemptions=one.preemptions + 1))
                again = True
            else:
                self.finished += 1
                del self.left_s[name]
        self._settle(changed)
        if again:
            self.waiting.sort(key=_place_of)

    def _round(self) -> None:
        seen = Round(self.now, (), tuple(self.waiting[: self.size.candidates]), tuple(self.fleet))
        decision = self._decide(seen)
        if decision.blocked:
            lowest = heapq.nlargest(2_000, self.batch.values(), key=_place_of)
            left = tuple(self.waiting[: self.size.candidates])
            self._decide(Round(self.now, (), left, tuple(self.fleet), tuple(lowest)))

    def _decide(self, seen: Round) -> Decision:
        began = time.perf_counter()
        decision = decide(seen)
        self.decision_ms.append((time.perf_counter() - began) * 1000)
        known = {one.id: one for one in seen.waiting}
        changed: dict[int, tuple[Resources, int]] = {}
        moved = {}
        for change in decision.changes:
            name = change.execution_id
            one = known.get(name) or self.running[name]
            after = one.but(**change.update)
            if after.stop is Stop.PREEMPT:
                self.running[name] = self.batch[name] = after
                heapq.heappush(self.ends, (self.now + 1, name, after.token))
                continue
            moved[name] = after
            if after.status is ExecutionStatus.RUNNING:
                self.running[name] = after
                if after.terms.service_class is ServiceClass.BATCH:
                    self.batch[name] = after
                self._hold(changed, after, 1)
                heapq.heappush(self.ends, (self.now + self.left_s[name], name, after.token))
                if after.attempt == 1:
                    waited = self.now - after.submitted_at
                    self.waited[after.terms.service_class].append(waited)
                    self.all_waited[after.terms.service_class].append(waited)
        self._settle(changed)
        self.waiting = [
            after
            for one in self.waiting
            if (after := moved.get(one.id, one)).status is ExecutionStatus.QUEUED
        ]
        return decision

    def _hold(self, changed: dict[int, tuple[Resources, int]], one: Execution, sign: int) -> None:
        number = self.place[one.worker_id]
        worker = self.fleet[number]
        reserved, count = changed.get(number, (worker.reserved, worker.running))
        changed[number] = (
            reserved + one.granted if sign > 0 else reserved - one.granted,
            count + sign,
        )
        self.used_cores += sign * one.granted.cpu_cores

    def _settle(self, changed: Mapping[int, tuple[Resources, int]]) -> None:
        for number, (reserved, count) in changed.items():
            worker = dataclasses.replace(self.fleet[number], reserved=reserved, running=count)
            assert reserved.fits_in(worker.capacity), "a worker holds more than it has"
            assert 0 <= count <= worker.slots, "a worker runs more than it has slots"
            self.fleet[number] = worker

    def _sample(self, series: Series) -> None:
        series.hours.append(round(self.now / 3600, 3))
        series.utilisation.append(round(self.used_cores / self.cores, 4))
        series.waiting.append(len(self.waiting))
        series.real_time_p95_s.append(round(_quantile(self.waited[ServiceClass.REAL_TIME], 0.95), 2))
        series.batch_p95_s.append(round(_quantile(self.waited[ServiceClass.BATCH], 0.95), 2))
        for waited in self.waited.values():
            waited.clear()


def _place_of(one: Execution) -> tuple[int, str]:
    return one.rank, one.id


def _quantile(amounts: Sequence[float], share: float) -> float:
    ordered = sorted(amounts)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def day(say: Say, size: Size) -> tuple[dict[str, object], Series]:
    """Simulate a day; its figures and what is plotted."""
    began, computing = time.perf_counter(), time.process_time()
    simulated = Day(size)
    series = simulated.run(say)
    assert simulated.finished == size.executions, "an execution was lost"
    assert simulated.used_cores < 1e-3, "room was lost"
    assert all(worker.reserved.amounts()[1:] == ZERO.amounts()[1:] for worker in simulated.fleet)
    took_s = time.perf_counter() - began
    waits = {
        str(name): {
            "count": len(waited),
            "median_s": round(_quantile(waited, 0.5), 2),
            "p95_s": round(_quantile(waited, 0.95), 2),
            "p99_s": round(_quantile(waited, 0.99), 2),
            "longest_s": round(max(waited, default=0.0), 2),
        }
        for name, waited in simulated.all_waited.items()
    }
    figures: dict[str, object] = {
        **dataclasses.asdict(size),
        "took_minutes": round(took_s / 60, 2),
        "computed_minutes": round((time.process_time() - computing) / 60, 2),
        "rounds": len(simulated.decision_ms),
        "decision_median_ms": round(_quantile(simulated.decision_ms, 0.5), 2),
        "decision_p99_ms": round(_quantile(simulated.decision_ms, 0.99), 2),
        "finished": simulated.finished,
        "preempted": simulated.preempted,
        "lost_hours_of_work": round(simulated.lost_s / 3600, 1),
        "utilisation_mean": round(statistics.fmean(series.utilisation), 4) if series.utilisation else 0.0,
        "utilisation_highest": max(series.utilisation, default=0.0),
        "waited": waits,
    }
    return figures, series


# -- the plot


def plot(series: Series, size: Size) -> str:
    """Draw utilisation, the queue and waiting times over the day, as SVG."""
    panels: list[tuple[str, list[tuple[str, str, Sequence[float]]]]] = [
        ("share of all cores in use", [("", "#2a6f97", series.utilisation)]),
        ("executions that wait", [("", "#2a6f97", [float(count) for count in series.waiting])]),
        (
            "seconds until the start, 95th percentile",
            [
                ("batch", "#2a6f97", series.batch_p95_s),
                ("real-time", "#c1121f", series.real_time_p95_s),
            ],
        ),
    ]
    width, height, left, top, gap = 860, 150, 70, 50, 55
    bottom = top + len(panels) * (height + gap)
    heading = f"A simulated day: {size.executions:,} executions on {size.workers:,} workers"
    view = f'viewBox="0 0 {width + left + 30} {bottom}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="22" font-size="15">{heading}</text>',
    ]
    for number, (title, lines) in enumerate(panels):
        y = top + number * (height + gap)
        highest = max((max(values, default=0.0) for _, _, values in lines), default=0.0) or 1.0
        if number == 0:
            highest = 1.0
        parts.append(f'<text x="{left}" y="{y - 6}" fill="#333">{title}</text>')
        for step in range(5):
            at = y + height * step / 4
            value = highest * (4 - step) / 4
            label = f"{value:.0%}" if number == 0 else f"{value:,.4g}"
            parts.append(
                f'<line x1="{left}" y1="{at}" x2="{left + width}" y2="{at}" stroke="#ddd"/>'
                f'<text x="{left - 6}" y="{at + 4}" text-anchor="end" fill="#555">{label}</text>'
            )
        for hour in range(0, 25, 3):
            x = left + width * hour / 24
            parts.append(
                f'<text x="{x}" y="{y + height + 16}" text-anchor="middle" fill="#555">{hour} h</text>'
            )
        for place, (name, colour, values) in enumerate(lines):
            points = " ".join(
                f"{left + width * hour / 24:.1f},{y + height * (1 - min(1.0, value / highest)):.1f}"
                for hour, value in zip(series.hours, values, strict=True)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            if name:
                x = left + width - 160 + 80 * place
                parts.append(f'<text x="{x}" y="{y - 6}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def run(
    say: Say, size: Size | None = None, *, queued: int = 10_000, workers: int = 1_000
) -> dict[str, object]:
    """Measure decisions and simulate days; keeps the figures, the series and plots.

    Args:
        say: told how far it is.
        size: of the day; `SMOKE` for a quick look, whose figures are not kept.
        queued, workers: for the decisions.
    """
    size = size or Size()
    setting = conditions()
    taken = decisions(say, queued, workers)
    # A decision is computation alone: on a busy machine the time that others took is not its own.
    slowest = max(one["computed_median_ms"] for one in taken.values() if isinstance(one, dict))
    result: dict[str, object] = {
        "decisions": taken,
        "slowest_median_ms": slowest,
        "reached": slowest < MOST_DECISION_MS,
    }
    kept: dict[str, Series] = {}
    days = {"day": size, "busy_day": BUSY} if size == Size() else {"day": size}
    for name, one in days.items():
        result[name], kept[name] = day(say, one)
    if size == Size():
        keep(setting, result, {"day": (size, kept["day"]), "busy_day": (BUSY, kept["busy_day"])})
    return result


def keep(
    setting: dict[str, object], result: dict[str, object], days: Mapping[str, tuple[Size, Series]]
) -> None:
    """Write figures, series and plots to `benchmarks/results`."""
    RESULTS.mkdir(exist_ok=True)
    series = {name: dataclasses.asdict(one) for name, (_, one) in days.items()}
    kept = {"conditions": setting, "figures": result, "series": series}
    (RESULTS / "scheduling.json").write_text(json.dumps(kept) + "\n")
    for name, (size, one) in days.items():
        (RESULTS / f"scheduling_{name}.svg").write_text(plot(one, size))


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="benchmarks.scheduling", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small day, in seconds; nothing is kept")
    chosen = parser.parse_args()
    print(json.dumps(run(lambda line: print(line, flush=True), SMOKE if chosen.smoke else None), indent=1))
