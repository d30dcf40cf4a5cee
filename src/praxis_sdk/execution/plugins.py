"""Engines of others: named in this process by registration, or by the entry points `praxis.engines` of packages.

[project.entry-points."praxis.engines"]
my-engine = "my_package:MyEngine"          # a class or function without arguments that makes the engine
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.errors import EngineUnavailable

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "praxis.engines"
CUSTOM: Final = "custom"  # the name that spec 1 gives to an engine of others

_registered: set[str] = {CUSTOM}


def note_name(name: str) -> None:
    """Make a name of an engine valid in contracts of this process."""
    _registered.add(name)


def is_custom(name: str) -> bool:
    """Whether a name is that of an engine of others: one registered here, or one that a package brings."""
    return name in _registered or name in entry_points()


@cache
def entry_points() -> dict[str, EntryPoint]:
    """Return the engines that installed packages bring, by name; looked up once, as that takes milliseconds."""
    from importlib.metadata import entry_points as installed

    return {found.name: found for found in installed(group=GROUP)}


def load(name: str) -> Any:
    """Make the engine that a package brings.

    Raises:
        EngineUnavailable: the package cannot be used; the message names it.
    """
    found = entry_points()[name]
    try:
        make: Callable[[], Any] = found.load()
        return make()
    except Exception as error:
        package = found.dist.name if found.dist is not None else found.value
        raise EngineUnavailable(
            f"engine '{name}' of the package '{package}' cannot be loaded: {type(error).__name__}: {error}",
            remedy=f"repair or uninstall '{package}'",
        ) from error
