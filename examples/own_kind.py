"""A kind of work of one's own: greetings, run by a control plane in this process, over a store in one file.

    python examples/own_kind.py [STORE_FILE]

What a kind says of itself is all there is to it: queue, retries, cancellation, events and audit come with the plane.
"""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from praxis_sdk.control.kinds import AttemptHandle, Grace, Kinds, Outcome, Plan
from praxis_sdk.control.plane import ControlPlane, PlaneOptions, offer_of_this_host
from praxis_sdk.errors import ValidationError
from praxis_sdk.model import Execution, RetryPolicy
from praxis_sdk.states import ExecutionMode, ExecutionStatus
from praxis_sdk.store.sqlite import SqliteStore


class GreetingKind:
    """Greets whom it is told to greet."""

    name = "greeting"
    children: frozenset[str] = frozenset()
    grace = Grace(cooperative_s=1.0, terminate_s=0.0)  # it looks at its flag, and has no process to signal

    def validate(self, request: Mapping[str, Any], mode: ExecutionMode | None) -> Plan:
        """Accept a request that says whom to greet."""
        whom = request.get("whom")
        if not isinstance(whom, str) or not whom:
            raise ValidationError("request.whom: missing", remedy="say whom to greet")
        return Plan(control="greeting", request={"whom": whom}, retry=RetryPolicy(max_retries=3))

    async def run(self, attempt: AttemptHandle) -> str:
        """Greet; what raises here fails the execution, and is told in its record."""
        attempt.check_cancelled()
        attempt.log("clearing the throat")
        attempt.progress(0.5, "about to speak")
        return f"Hello, {(attempt.execution.request or {})['whom']}!"

    def collect(self, attempt: AttemptHandle, ending: str) -> Outcome:
        """Say what came of it."""
        return Outcome(ExecutionStatus.COMPLETED, outputs={"greeting": ending})

    def dependency(self, execution: Execution) -> str | None:
        """Name no service: it stands on nothing that could be away."""
        return None

    async def close(self) -> None:
        """Hold nothing, let nothing go."""


async def main(path: Path) -> None:
    """Greet three people at once, and show how one of them was greeted."""
    store = await SqliteStore.open(path)
    try:
        async with ControlPlane(
            store, Kinds(GreetingKind()), PlaneOptions(worker=offer_of_this_host())
        ) as plane:
            works = [{"kind": "greeting", "request": {"whom": whom}} for whom in ("Ada", "Grace", "Barbara")]
            for execution in await asyncio.gather(*(plane.coordinator.run(work) for work in works)):
                print(execution.status, execution.outputs["greeting"])
            async for event in plane.coordinator.tail(execution.id):
                print(f"  {event.seq} {event.type}: {event.message}")
            print("audit:", await plane.monitor.verify_audit(execution.id) or "intact")
    finally:
        await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/praxis.db")))
