"""Resources: what work needs and what a worker has, in five dimensions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.errors import ValidationError

DEFAULT_STORAGE_MB: Final = 64
_SLACK: Final = 1e-9  # sums of cores are sums of floats


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of each resource (spec 4, "Resource Requirements"); a requirement, a capacity or a sum of them.

    Args:
        cpu_cores: processor cores.
        memory_mb: memory in MiB.
        network_mbps: network bandwidth in Mbit/s.
        gpus: whole graphics processors.
        storage_mb: disk space in MiB.

    Raises:
        ValidationError: an amount is negative or no number.
    """

    cpu_cores: float = 0.0
    memory_mb: int = 0
    network_mbps: int = 0
    gpus: int = 0
    storage_mb: int = 0

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Resources:
        """Read amounts as a person writes them.

        Raises:
            ValidationError: a field is unknown, negative or no number.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name, amount in document.items():
            if name not in names:
                raise ValidationError(f"resources.{name}: unknown", remedy=f"known are {', '.join(names)}")
            whole = name != "cpu_cores"
            kind = int if whole else (int, float)
            if isinstance(amount, bool) or not isinstance(amount, kind) or not 0 <= amount < 1e15:
                wanted = "a whole number of 0 or more" if whole else "a number of 0 or more"
                raise ValidationError(f"resources.{name}: {amount!r} is not {wanted}", remedy="correct it")
        return cls(**document)

    def amounts(self) -> tuple[float, int, int, int, int]:
        """Return the amounts in the order of the fields."""
        return self.cpu_cores, self.memory_mb, self.network_mbps, self.gpus, self.storage_mb

    def fits_in(self, room: Resources) -> bool:
        """Whether every amount is at most that of `room`."""
        return (
            self.cpu_cores <= room.cpu_cores + _SLACK
            and self.memory_mb <= room.memory_mb
            and self.network_mbps <= room.network_mbps
            and self.gpus <= room.gpus
            and self.storage_mb <= room.storage_mb
        )

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_cores + other.cpu_cores,
            self.memory_mb + other.memory_mb,
            self.network_mbps + other.network_mbps,
            self.gpus + other.gpus,
            self.storage_mb + other.storage_mb,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            _whole(self.cpu_cores - other.cpu_cores),
            self.memory_mb - other.memory_mb,
            self.network_mbps - other.network_mbps,
            self.gpus - other.gpus,
            self.storage_mb - other.storage_mb,
        )

    def scaled(self, factor: float) -> Resources:
        """Return each amount times a factor; whole amounts are rounded up, graphics processors stay."""
        return Resources(
            self.cpu_cores * factor,
            _ceil(self.memory_mb * factor),
            _ceil(self.network_mbps * factor),
            self.gpus,
            _ceil(self.storage_mb * factor),
        )

    def at_most(self, cap: Resources) -> Resources:
        """Return the smaller of each pair of amounts."""
        return Resources(
            min(self.cpu_cores, cap.cpu_cores),
            min(self.memory_mb, cap.memory_mb),
            min(self.network_mbps, cap.network_mbps),
            min(self.gpus, cap.gpus),
            min(self.storage_mb, cap.storage_mb),
        )

    def at_least(self, floor: Resources) -> Resources:
        """Return the larger of each pair of amounts."""
        return Resources(
            max(self.cpu_cores, floor.cpu_cores),
            max(self.memory_mb, floor.memory_mb),
            max(self.network_mbps, floor.network_mbps),
            max(self.gpus, floor.gpus),
            max(self.storage_mb, floor.storage_mb),
        )

    def to_json(self) -> dict[str, float | int]:
        """Return the amounts that are not 0, by name."""
        return {name: amount for name, amount in _named(self) if amount}


ZERO: Final = Resources()


def total(amounts: Iterable[Resources]) -> Resources:
    """Return the sum of amounts."""
    return sum(amounts, start=ZERO)


def _named(resources: Resources) -> Iterator[tuple[str, float | int]]:
    names = (field.name for field in dataclasses.fields(resources))
    return zip(names, resources.amounts(), strict=True)


def _whole(cores: float) -> float:
    """Drop what rounding leaves behind, so that what is given back adds up."""
    return 0.0 if abs(cores) < _SLACK else cores


def _ceil(amount: float) -> int:
    return -int(-amount // 1)
