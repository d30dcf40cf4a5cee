"""What is known of the end of an attempt's processes: evidence, or the lack of it.

A proof of termination is written from evidence only: the kernel or a daemon said that no process is left. Where
nothing says so, what may still run is named precisely enough that any process can find it and end it later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Remains:
    """What may still run of an attempt, named for all who can reach it.

    Args:
        engine: the engine that started it, such as 'docker'.
        name: what it is called there, such as a container's name.
        place: the daemon that runs it, by the daemon's own id: what another one says of the name counts nothing.
        host: the daemon's address, for people.
    """

    engine: str
    name: str
    place: str
    host: str = ""

    def __str__(self) -> str:
        return f"{self.engine} container '{self.name}' at {self.host or self.place}"

    def to_json(self) -> dict[str, str]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, value: object) -> Remains | None:
        """Read what `to_json` returned; None where it is something else."""
        if not isinstance(value, Mapping):
            return None
        fields: dict[str, Any] = {name: value.get(name, "") for name in ("engine", "name", "place", "host")}
        known = (
            all(isinstance(field, str) for field in fields.values()) and fields["engine"] and fields["name"]
        )
        return cls(**fields) if known else None


@dataclass(frozen=True, slots=True)
class Termination:
    """What is known of an attempt's end.

    Args:
        evidence: what says that no process of it is left; empty: nothing does.
        known: what was done and is known, for people, where there is no evidence.
        remains: what may still run and can be pursued; None: nothing that could be ended from here.
    """

    evidence: str = ""
    known: str = ""
    remains: Remains | None = None

    @property
    def confirmed(self) -> bool:
        """Whether something says that no process of it is left."""
        return bool(self.evidence)

    @property
    def pursued(self) -> Remains | None:
        """What must still be ended; None where the end is confirmed or cannot be brought about from here."""
        return None if self.confirmed else self.remains
