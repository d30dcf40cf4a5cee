"""Learning: what work of a control needs and how long it takes, from how it went before.

Recommended is what 95 of 100 executions got along with, and some more; never far from what was asked for, and
nothing at all before there is enough to go by (spec 4, property 32).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from praxis_sdk.model import Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType
from praxis_sdk.store.protocol import FinishedExecution

_MIB: Final = 1 << 20
_CPU_STEP: Final = 0.05  # cores are recommended in steps, so that shapes stay few
_MIB_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class LearningRules:
    """How is learned from history.

    Args:
        least_samples: fewer executions than this teach nothing.
        most_samples: only so many of the latest count, since work changes.
        quantile: the share of executions whose need is met.
        headroom: by how much more than that is recommended.
        least_share, most_share: how far a recommendation may go from what was asked for.
    """

    least_samples: int = 20
    most_samples: int = 1000
    quantile: float = 0.95
    headroom: float = 1.2
    least_share: float = 0.25
    most_share: float = 4.0


RULES: Final = LearningRules()


@dataclass(frozen=True, slots=True)
class Estimate:
    """What history teaches of a control.

    Args:
        samples: how many executions it rests on.
        expected_s: how long one takes, in seconds: the median; None where too few are known.
        cpu_cores, memory_mb, network_mbps, storage_mb: what one needs, headroom included; None where too few
            are known.
    """

    samples: int = 0
    expected_s: float | None = None
    cpu_cores: float | None = None
    memory_mb: int | None = None
    network_mbps: int | None = None
    storage_mb: int | None = None

    def recommended(self, asked: Resources, rules: LearningRules = RULES) -> Resources:
        """Return what to reserve for an execution that asked for something (spec 4, property 32).

        Args:
            asked: what its submitter asked for; what was not asked for is not reserved, and graphics
                processors stay as they are, since nobody measures what is used of one.
            rules: how far from that a recommendation may go.
        """
        return Resources(
            cpu_cores=_near(asked.cpu_cores, self.cpu_cores, rules),
            memory_mb=math.ceil(_near(asked.memory_mb, self.memory_mb, rules)),
            network_mbps=math.ceil(_near(asked.network_mbps, self.network_mbps, rules)),
            gpus=asked.gpus,
            storage_mb=math.ceil(_near(asked.storage_mb, self.storage_mb, rules)),
        )


NOTHING_LEARNED: Final = Estimate()


def learn(history: Iterable[FinishedExecution], rules: LearningRules = RULES) -> Estimate:
    """Learn from executions of one control.

    Args:
        history: the latest first, as `Store.ended` returns it.
        rules: how.

    Returns:
        What it teaches. How long work takes is learned from what succeeded alone; what it needs also from
        what was ended by a limit, which needed at least what it had.
    """
    seconds: list[float] = []
    usages: list[Usage] = []
    for one in history:
        if max(len(seconds), len(usages)) >= rules.most_samples:
            break
        if one.status.succeeded:
            took = _seconds(one)
            if took is not None:
                seconds.append(took)
        elif one.error_type != ErrorType.RESOURCE:
            continue
        if one.usage is not None:
            usages.append(one.usage)
    long_enough = [usage for usage in usages if usage.wall_s > 0]
    cores = [usage.cpu_s / usage.wall_s for usage in long_enough if usage.cpu_s is not None]
    memory = [usage.peak_memory_bytes / _MIB for usage in usages if usage.peak_memory_bytes is not None]
    network = [
        usage.network_bytes * 8 / 1e6 / usage.wall_s
        for usage in long_enough
        if usage.network_bytes is not None
    ]
    storage = [usage.storage_bytes / _MIB for usage in usages if usage.storage_bytes is not None]
    return Estimate(
        samples=len(seconds),
        expected_s=statistics.median(seconds) if len(seconds) >= rules.least_samples else None,
        cpu_cores=_stepped(_needed(cores, rules), _CPU_STEP),
        memory_mb=_whole(_stepped(_needed(memory, rules), _MIB_STEP)),
        network_mbps=_whole(_stepped(_needed(network, rules), 1)),
        storage_mb=_whole(_stepped(_needed(storage, rules), _MIB_STEP)),
    )


def _seconds(one: FinishedExecution) -> float | None:
    if one.usage is not None and one.usage.wall_s > 0:
        return one.usage.wall_s
    return None if one.started_at is None else max(0.0, one.ended_at - one.started_at)


def _needed(amounts: Sequence[float], rules: LearningRules) -> float | None:
    """Return the quantile of amounts (by nearest rank, so that it is one that occurred) with headroom."""
    known = sorted(amount for amount in amounts if math.isfinite(amount) and amount >= 0)
    if len(known) < rules.least_samples:
        return None
    return known[math.ceil(rules.quantile * len(known)) - 1] * rules.headroom


def _stepped(amount: float | None, step: float) -> float | None:
    return None if amount is None else round(math.ceil(amount / step - 1e-9) * step, 9)


def _whole(amount: float | None) -> int | None:
    return None if amount is None else math.ceil(amount)


def _near(asked: float, learned: float | None, rules: LearningRules) -> float:
    """Return what was learned, as far as it may differ from what was asked for."""
    if learned is None:
        return asked
    return min(max(learned, asked * rules.least_share), asked * rules.most_share)
