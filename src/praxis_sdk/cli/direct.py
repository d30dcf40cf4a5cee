"""Running one thing at once, in this process, so that it is on record like all that Praxis runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from praxis_sdk.cli.chosen_store import ChosenStore
from praxis_sdk.cli.control_plane import LOCKS
from praxis_sdk.cli.terminal.interrupts import uninterrupted

if TYPE_CHECKING:
    from praxis_sdk.control.kinds import Kind
    from praxis_sdk.control.lifecycle.submission import Submission


async def run_directly(kind: Kind, work: Submission) -> Any:
    """Run work of a kind as an execution of this user's store, and return what the kind's `run` returned.

    Args:
        kind: the kind of work; the caller closes it.
        work: what runs.

    Raises:
        StoreUnavailable: what happens cannot be recorded, so nothing happens.
        PraxisError: whatever the kind raises.
    """
    from praxis_sdk.control.lifecycle.direct import DirectRun
    from praxis_sdk.control.observe.telemetry import Telemetry
    from praxis_sdk.control.observe.tracing import Tracing
    from praxis_sdk.control.workers.liveness import Liveness

    chosen = ChosenStore.of_user()
    telemetry = Telemetry.from_environment(os.environ)
    store = await chosen.open()
    tracing = Tracing(store, telemetry) if telemetry is not None else None
    try:
        if tracing is not None:
            tracing.start()
        liveness = Liveness(chosen.home.path / LOCKS)
        _, ending = await DirectRun(store, kind, liveness=liveness, tracing=tracing).run(work)
        return ending
    finally:
        if tracing is not None:
            await uninterrupted(tracing.close())
        await uninterrupted(store.close())
