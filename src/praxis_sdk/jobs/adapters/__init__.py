"""Runtime adapters: how a job of one runtime becomes work for a sandbox (spec 3, section 6).

Adapters are found through the entry-point group `praxis.runtimes`; those that come with Praxis are in this
package. An adapter decides and describes; it never starts anything, opens no network and sees no secret.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.adapters.base import RuntimeAdapter

ENTRY_POINTS: Final = "praxis.runtimes"


def find_adapter(name: str) -> RuntimeAdapter | None:
    """Return a new adapter for one job, or None where no installed package offers that runtime.

    Raises:
        PlatformError: the package that offers it cannot be loaded.
    """
    adapter = _adapter_class(name)
    return None if adapter is None else adapter()


@lru_cache(maxsize=64)
def _adapter_class(name: str) -> type[RuntimeAdapter] | None:
    """Look through the installed packages, which takes milliseconds, once."""
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            found = entry.load()
        except Exception as error:
            raise PlatformError(f"the runtime '{name}' of {entry.value} cannot be loaded: {error}") from error
        if isinstance(found, type) and issubclass(found, RuntimeAdapter):
            return found
        raise PlatformError(f"the runtime '{name}' of {entry.value} is no RuntimeAdapter")
    return None
