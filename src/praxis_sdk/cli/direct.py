"""Running one thing at once, in this process, so that it is on record like all that Praxis runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from praxis_sdk.cli.chosen_store import ChosenStore
from praxis_sdk.cli.interrupts import uninterrupted

if TYPE_CHECKING:
    from praxis_sdk.control.kinds import Kind
    from praxis_sdk.control.submission import Work

LOCKS = "workers"  # of the workers of a home, in it


async def run_directly(kind: Kind, work: Work) -> Any:
    """Run work of a kind as an execution of this user's store, and return what the kind's `run` returned.

    Args:
        kind: the kind of work; the caller closes it.
        work: what runs.

    Raises:
        StoreUnavailable: what happens cannot be recorded, so nothing happens.
        PraxisError: whatever the kind raises.
    """
    from praxis_sdk.control.direct import DirectRun
    from praxis_sdk.control.liveness import Liveness

    chosen = ChosenStore.of_user()
    store = await chosen.open()
    try:
        liveness = Liveness(chosen.home.path / LOCKS)
        _, ending = await DirectRun(store, kind, liveness=liveness).run(work)
        return ending
    finally:
        await uninterrupted(store.close())
