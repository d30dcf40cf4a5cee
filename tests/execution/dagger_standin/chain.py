"""Chains: what a request builds up step by step, and the ids by which later requests go on from there."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chain:
    """An object of the API: the steps that lead to it, as JSON, and its type."""

    type_name: str
    steps: tuple[str, ...] = ()

    def then(self, type_name: str, name: str, args: dict[str, Any]) -> Chain:
        """Go one step further."""
        return Chain(type_name, (*self.steps, json.dumps([self.type_name, name, args], sort_keys=True)))

    @property
    def parent(self) -> Chain:
        """The chain without its last step."""
        return Chain(json.loads(self.steps[-1])[0], self.steps[:-1])

    @property
    def last(self) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the last step; empty for the root."""
        if not self.steps:
            return "", {}
        _, name, args = json.loads(self.steps[-1])
        return name, args

    @property
    def id(self) -> str:
        """The object's id: equal for equal chains, opaque for clients."""
        return base64.b64encode(json.dumps([self.type_name, self.steps]).encode()).decode()

    @classmethod
    def of(cls, id_: str) -> Chain:
        """Return the object that an id names."""
        type_name, steps = json.loads(base64.b64decode(id_))
        return cls(type_name, tuple(steps))
