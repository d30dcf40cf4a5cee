"""The registry of engines (spec 1, "Custom Engine Development")."""

from __future__ import annotations

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution import plugins
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.contract.specs import EngineType


class EngineRegistry:
    """Engines by name; the first one registered is the default until another is named.

    Args:
        installed: also find the engines that installed packages bring, when one is asked for by its name.
    """

    def __init__(self, *, installed: bool = False) -> None:
        self._engines: dict[str, ExecutionEngine] = {}
        self._default: str | None = None
        self._installed = installed

    def register(self, name: str, engine: ExecutionEngine, is_default: bool = False) -> None:
        """Add an engine.

        Args:
            name: the name to find it by; an engine already there under it is replaced.
            engine: the engine.
            is_default: make it the one that `get()` returns without a name.

        Raises:
            ValidationError: the name is empty or the engine is none.
        """
        if not name or not isinstance(engine, ExecutionEngine):
            raise ValidationError(
                f"engine {name!r}: {type(engine).__name__} is not an ExecutionEngine",
                remedy="derive it from praxis_sdk.execution.contracts.ExecutionEngine",
            )
        self._engines[name] = engine
        for known in (name, str(engine.engine_type)):
            plugins.note_name(known)
        if is_default or self._default is None:
            self._default = name

    def get(self, name: str | None = None) -> ExecutionEngine:
        """Return an engine by name, or the default one.

        Raises:
            ValidationError: no such engine is registered.
        """
        wanted = name if name is not None else self._default
        if wanted is not None and wanted not in self._engines:
            self._load(wanted)
        if wanted is None or wanted not in self._engines:
            known = ", ".join(sorted(self._engines)) or "none"
            raise ValidationError(f"engine: {wanted!r} is not registered", remedy=f"registered: {known}")
        return self._engines[wanted]

    def get_by_type(self, engine_type: EngineType | str) -> ExecutionEngine:
        """Return the first registered engine of a type.

        Raises:
            ValidationError: there is none of that type.
        """
        try:
            wanted = str(EngineType(engine_type))
        except ValueError:  # the name of an engine that nobody has registered
            wanted = str(engine_type)
        self._load(wanted)
        for engine in self._engines.values():
            if str(engine.engine_type) == wanted:
                return engine
        if wanted in self._engines:  # an engine of others is also known by its name alone
            return self._engines[wanted]
        raise ValidationError(
            f"engine: none of type '{wanted}' is registered",
            remedy=f"registered: {', '.join(sorted(self._engines)) or 'none'}",
        )

    @property
    def default(self) -> ExecutionEngine | None:
        """The engine that `get()` returns; None where there is none."""
        return None if self._default is None else self._engines[self._default]

    def installed_engines(self) -> list[str]:
        """Return the names of the engines that installed packages bring, where this registry finds them."""
        return list(plugins.entry_points()) if self._installed else []

    def _load(self, name: str) -> None:
        wanted = self._installed and name not in self._engines and not _is_builtin(name)
        if wanted and name in plugins.entry_points():
            self.register(name, plugins.load(name))

    def list_engines(self) -> list[str]:
        """Return the names of the registered engines, in the order of their registration."""
        return list(self._engines)

    async def cleanup_all(self) -> None:
        """Clean up every engine, also when one of them fails; repeatable.

        Raises:
            ExceptionGroup: what the failing ones raised.
        """
        errors: list[Exception] = []
        for engine in self._engines.values():
            try:
                await engine.cleanup()
            except Exception as error:  # noqa: BLE001 - the others must be cleaned up all the same
                errors.append(error)
        if errors:
            raise ExceptionGroup("engines failed to clean up", errors)


def _is_builtin(name: str) -> bool:
    return name in tuple(EngineType)
