"""Which engine runs a contract: pure decisions over what engines say of themselves.

Without a wish a contract runs on the engine it names; a `dagger` contract falls back to Docker, which
isolates as well. A wish (`--engine`) replaces the contract's choice; `auto` tries whatever could fit.
Isolation is never lowered below namespaces for a tool that is not declared trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution import plugins
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.portability import port_spec
from praxis_sdk.execution.contract.specs import EngineType, IsolatedEngineSpec
from praxis_sdk.execution.enforcement import NO_LIMITS, LimitSupports, check_strict, limits_of
from praxis_sdk.execution.outcome import Isolation

AUTO: Final = "auto"

_FALLBACK: Final[Mapping[EngineType, tuple[EngineType, ...]]] = {EngineType.DAGGER: (EngineType.DOCKER,)}
_WITHOUT_ENGINE: Final = frozenset({EngineType.KUBERNETES})  # a package or a program may bring one
_AUTOMATIC: Final = (EngineType.DOCKER, EngineType.DAGGER, EngineType.KUBERNETES, EngineType.SANDBOX)


@dataclass(frozen=True)
class EngineOffer:
    """What an engine can do on this host, as far as selection cares.

    Args:
        engine: its type.
        isolation: what it puts between a tool and the host.
        available: whether it works here.
        reason, remedy: why not, and what to do about it.
        memory_limit, cpu_limit: whether it can enforce them.
        limits: which limits hold, and for what.
    """

    engine: EngineType
    isolation: Isolation
    available: bool = True
    reason: str = ""
    remedy: str = ""
    memory_limit: bool = True
    cpu_limit: bool = True
    limits: LimitSupports = field(default_factory=lambda: NO_LIMITS)

    @classmethod
    def of(cls, engine: EngineType, isolation: Isolation, capabilities: Mapping[str, Any]) -> EngineOffer:
        """Read an engine's capabilities."""
        return cls(
            engine=engine,
            isolation=isolation,
            available=bool(capabilities.get("available", True)),
            reason=str(capabilities.get("unavailable_reason") or ""),
            remedy=str(capabilities.get("remedy") or ""),
            memory_limit=bool(capabilities.get("supports_memory_limit", False)),
            cpu_limit=bool(capabilities.get("supports_cpu_limit", False)),
            limits=limits_of(capabilities),
        )


def candidates(contract: ToolContract, wish: str | None) -> tuple[EngineType, ...]:
    """Name the engines to try, best first.

    Args:
        contract: the tool.
        wish: an engine type, 'auto', or None for the contract's own choice.

    Raises:
        ValidationError: the wish names no engine.
    """
    if wish is None:
        return (contract.engine, *_FALLBACK.get(contract.engine, ()))
    if wish.lower() == AUTO:
        others = () if contract.engine is EngineType.REMOTE_MCP else _AUTOMATIC
        return (contract.engine, *(engine for engine in others if engine is not contract.engine))
    try:
        return (EngineType(wish),)
    except ValueError as error:
        known = ", ".join([*EngineType, AUTO])
        raise ValidationError(f"engine: {wish[:80]!r} is not an engine", remedy=f"known: {known}") from error


def check_runnable(contract: ToolContract, wish: str | None) -> None:
    """Refuse what no worker of this version can run, before it waits for one.

    Args:
        contract: the tool.
        wish: as in `candidates`.

    Raises:
        ValidationError: the wish names no engine, or there is none of its type or the contract's.
    """
    wanted = candidates(contract, wish)
    if all(engine in _WITHOUT_ENGINE and not plugins.is_custom(engine) for engine in wanted):
        raise ValidationError(
            f"engine: no '{wanted[0]}' engine exists in this version of Praxis",
            remedy="use --engine docker or --engine sandbox, or install a package that brings the engine",
        )


def isolation_refusal(
    contract: ToolContract, isolation: Isolation, engine: str = EngineType.LOCAL
) -> ValidationError | None:
    """Say why a tool may not run with so little isolation, or None where it may."""
    if isolation >= Isolation.NAMESPACES or contract.trusted:
        return None
    return ValidationError(
        f"trust: '{contract.name}' is not declared trusted, and the '{engine}' engine isolates nothing",
        remedy="use --engine sandbox, or, if the tool is yours, 'trust: trusted' in the contract or --trust",
    )


def objection(contract: ToolContract, offer: EngineOffer, *, automatic: bool) -> str | None:
    """Say why an engine cannot run a contract, or None where it can.

    Args:
        contract: the tool.
        offer: the engine.
        automatic: nobody asked for this engine, so it must also give the tool the programs it expects.
    """
    if not offer.available:
        return offer.reason or "not available on this host"
    try:
        ported = port_spec(contract, offer.engine)
    except ValidationError as error:
        return error.message
    if automatic and ported.notes:
        return ported.notes[0]
    spec = ported.spec
    if isinstance(spec, IsolatedEngineSpec):
        if spec.memory_limit and not offer.memory_limit:
            return "engineSpec.memory_limit cannot be enforced by it"
        if spec.cpu_limit and not offer.cpu_limit:
            return "engineSpec.cpu_limit cannot be enforced by it"
        try:
            check_strict(spec, offer.limits)
        except ValidationError as error:
            return error.message
    return None
