"""Runs contracts on the engine that fits: the one door for tools that somebody else wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from praxis_sdk.errors import EngineUnavailable, ValidationError
from praxis_sdk.execution.arguments.arguments import check_arguments
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.contract import ToolContract, Trust
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.outcome import ToolOutcome
from praxis_sdk.execution.registry import EngineRegistry
from praxis_sdk.execution.selection import AUTO, EngineOffer, candidates, isolation_refusal, objection


class ToolRunner:
    """Chooses an engine for a contract and runs it there.

    Args:
        registry: the engines to choose from; custom ones are found by their name.
    """

    def __init__(self, registry: EngineRegistry) -> None:
        self._registry = registry

    async def run(
        self,
        contract: ToolContract,
        args: Mapping[str, Any],
        context: RunContext | Mapping[str, Any] | None = None,
        *,
        engine: str | None = None,
        trusted: bool = False,
    ) -> ToolOutcome:
        """Run a tool.

        Args:
            contract: the tool.
            args: its arguments by name.
            context: the circumstances.
            engine: an engine's type or registered name, or 'auto'; the contract's choice where missing.
            trusted: the caller vouches for the tool, whatever its contract declares.

        Returns:
            The account of the run; its notes say so when another engine than the contract's ran it.

        Raises:
            ValidationError: nothing was started, the contract, the arguments or the wish are unacceptable.
            EngineUnavailable: nothing was started, no engine that may run the contract works here.
            PlatformError: the engine could not do its work.
        """
        if trusted:
            contract = contract.model_copy(update={"trust": Trust.TRUSTED})
        ctx = RunContext.of(context)
        chosen, notes = await self._choose(contract, engine)
        for note in notes:
            ctx.progress(note)
        # A built-in engine checks them as it plans the run; whoever wrote another need not think of it.
        checked = (
            dict(args) if isinstance(chosen, SupervisedEngine) else check_arguments(contract.parameters, args)
        )
        outcome = await chosen.run(contract, checked, ctx)
        return replace(outcome, notes=(*notes, *outcome.notes))

    async def _choose(
        self, contract: ToolContract, wish: str | None
    ) -> tuple[ExecutionEngine, tuple[str, ...]]:
        named = {*self._registry.list_engines(), *self._registry.installed_engines()} if wish else set()
        if wish is not None and wish in named and wish not in tuple(EngineType):
            return _allowed(contract, self._registry.get(wish), wish), ()
        automatic = wish is not None and wish.lower() == AUTO
        objections: dict[EngineType, str] = {}
        remedies: list[str] = []
        tried = candidates(contract, wish)
        for engine_type in tried:
            try:
                engine = self._registry.get_by_type(engine_type)
            except ValidationError:
                objections[engine_type] = f"this installation has no '{engine_type}' engine"
                continue
            refusal = isolation_refusal(contract, engine.isolation, engine_type)
            if refusal is not None and not automatic:
                raise refusal
            offer = EngineOffer.of(engine_type, engine.isolation, await engine.get_capabilities())
            unfit = objection(contract, offer, automatic=automatic and engine_type is not contract.engine)
            unfit = refusal.message if refusal is not None else unfit
            if unfit is None:
                return engine, _notes(contract, engine_type, wish, objections)
            if offer.available and len(tried) == 1:
                raise ValidationError(unfit, remedy=f"change the contract, or run it on '{contract.engine}'")
            objections[engine_type] = unfit
            remedies += [offer.remedy] if offer.remedy else []
        default = self._registry.default
        if wish is None and default is not None and await self._stands_in(default, contract):
            name = str(default.engine_type)
            note = f"ran on '{name}', the default engine: there is no '{contract.engine}' engine here"
            return _allowed(contract, default, name), (note,)
        reasons = "; ".join(f"{engine_type}: {reason}" for engine_type, reason in objections.items())
        raise EngineUnavailable(
            f"engine: no engine here can run '{contract.name}': {reasons}",
            remedy="; ".join(remedies) or "see 'praxis engines'",
        )

    async def _stands_in(self, default: ExecutionEngine, contract: ToolContract) -> bool:
        """Whether the default, an engine of others, runs what is written for an engine that is not registered."""
        engines = [self._registry.get(name) for name in self._registry.list_engines()]
        missing = not any(str(engine.engine_type) == contract.engine for engine in engines)
        return missing and _is_custom(default) and await default.validate_contract(contract)


def _is_custom(engine: ExecutionEngine) -> bool:
    return str(engine.engine_type) not in tuple(EngineType)


def _allowed(contract: ToolContract, engine: ExecutionEngine, name: str) -> ExecutionEngine:
    refusal = isolation_refusal(contract, engine.isolation, name)
    if refusal is not None:
        raise refusal
    return engine


def _notes(
    contract: ToolContract, chosen: EngineType, wish: str | None, objections: Mapping[EngineType, str]
) -> tuple[str, ...]:
    if chosen is contract.engine or (wish is not None and wish.lower() != AUTO):
        return ()
    reason = objections.get(contract.engine, "")
    return (f"ran on '{chosen}' in place of '{contract.engine}': {reason}".rstrip(": "),)
