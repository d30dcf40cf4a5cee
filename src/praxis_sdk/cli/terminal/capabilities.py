"""What the engines of this host say of themselves, asked all at once and none for long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.cli.terminal.interrupts import uninterrupted
from praxis_sdk.errors import PraxisError
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.enforcement import LimitSupports, limits_of
from praxis_sdk.execution.registry import EngineRegistry
from praxis_sdk.execution.selection import EngineOffer

ANSWER_BOUND_S: Final = 10.0  # an engine that has not answered by then does not work here


@dataclass(frozen=True)
class EngineReport:
    """What is known of an engine here.

    Args:
        name: how contracts and `--engine` call it.
        available: whether it works on this host.
        isolation: what it puts between a tool and the host; empty where there is no such engine yet.
        reason, remedy: why it does not work, and what to do about it.
        capabilities: its own words; empty where it has none.
    """

    name: str
    available: bool
    isolation: str = ""
    reason: str = ""
    remedy: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    def supports(self, what: str) -> bool:
        """Tell whether the engine claims `supports_<what>`."""
        return bool(self.capabilities.get(f"supports_{what}"))

    @property
    def limits(self) -> LimitSupports:
        """Which limits it enforces here."""
        return limits_of(self.capabilities)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "name": self.name,
            "available": self.available,
            "isolation": self.isolation or None,
            "reason": self.reason or None,
            "remedy": self.remedy or None,
            "capabilities": dict(self.capabilities),
        }


async def survey(registry: EngineRegistry) -> list[EngineReport]:
    """Ask every engine, and name those that contracts can name and nobody has built yet.

    The registry is cleaned up afterwards.
    """
    brought = [name for name in registry.installed_engines() if name not in registry.list_engines()]
    names = [*registry.list_engines(), *brought]
    try:
        reports = await asyncio.gather(*(_ask(name, registry) for name in names))
    finally:
        await uninterrupted(registry.cleanup_all())
    unbuilt = [str(engine_type) for engine_type in EngineType if engine_type not in names]
    return [
        *reports,
        *(EngineReport(name, available=False, reason="not in this version") for name in unbuilt),
    ]


async def _ask(name: str, registry: EngineRegistry) -> EngineReport:
    try:
        engine = registry.get(name)
    except PraxisError as error:
        return EngineReport(name, available=False, reason=error.message, remedy=error.remedy)
    isolation = engine.isolation.label
    try:
        async with asyncio.timeout(ANSWER_BOUND_S):
            capabilities = await engine.get_capabilities()
    except TimeoutError:
        reason = f"gave no answer within {ANSWER_BOUND_S:g} s"
        return EngineReport(name, available=False, isolation=isolation, reason=reason)
    except PraxisError as error:
        return EngineReport(name, False, isolation, error.message, error.remedy)
    offer = EngineOffer.of(EngineType(engine.engine_type), engine.isolation, capabilities)
    return EngineReport(name, offer.available, isolation, offer.reason, offer.remedy, capabilities)
