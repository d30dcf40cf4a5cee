"""A worker that a network cuts off from PostgreSQL: its side effects end before another's begin, and it comes back.

The ledger is the tools' own: each attempt appends its number and the time to a file of the machine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.cli.home import Home
from praxis_sdk.control.workers.leases import Lease
from praxis_sdk.states import ExecutionStatus
from tests.faults.conftest import Survive
from tests.faults.ledger import prove
from tests.faults.load import work
from tests.faults.processes import worker_child
from tests.faults.proxy import MODES, Proxy, proxied
from tests.faults.worker import Config, open_store

LEASE_S = 6.0
SOON_S = 60.0
BACK_WITHIN_S = 20.0  # promised are 5 on a machine that has nothing else to do

APPENDS = """
import os, time
while not os.path.exists({gate!r}):
    with open({ledger!r}, "a") as ledger:
        ledger.write(f"{{os.getpid()}} {{time.monotonic()}}\\n")
    time.sleep(0.05)
"""


def appending(ledger: Path, gate: Path) -> dict[str, Any]:
    """Return a local tool that appends to a ledger until a gate is there."""
    code = APPENDS.format(ledger=str(ledger), gate=str(gate))
    contract = {"name": "appends", "engine": "local", "engineSpec": {"command": ["python3", "-c", code]}}
    retry = {"max_retries": 1, "first_pause_s": 0.1}
    return {"kind": "tool", "request": {"contract": contract, "trusted": True}, "retry": retry}


def spans(ledger: Path) -> list[tuple[float, float]]:
    """Return from when to when each attempt appended, by its process, the first first."""
    found: dict[str, list[float]] = {}
    for line in ledger.read_text().splitlines() if ledger.exists() else ():
        pid, at = line.split()
        found.setdefault(pid, []).append(float(at))
    return sorted((min(times), max(times)) for times in found.values())


async def until_spans(ledger: Path, count: int) -> None:
    """Wait until so many attempts have appended."""
    async with asyncio.timeout(SOON_S):
        while True:
            if len(spans(ledger)) >= count:
                return
            await asyncio.sleep(0.05)


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before an empty database."""
    async with proxied(postgres_url) as made:
        yield made


@pytest.mark.parametrize("mode", MODES)
async def test_side_effects_are_not_doubled_in_a_partition(
    mode: str, proxy: tuple[Proxy, str], postgres_url: str, tmp_path: Path, home: Home, survive: Survive
) -> None:
    network, address = proxy
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    mine = Config(address, lease_s=LEASE_S, home=str(home.path))
    others = Config(postgres_url, lease_s=LEASE_S, home=str(home.path))
    async with worker_child(mine) as cut_off:
        await cut_off.hear("ready")
        async with survive(postgres_url, home=str(home.path), works=False, lease_s=LEASE_S) as door:
            coordinator = door.plane.coordinator
            one = await coordinator.submit_execution(appending(ledger, gate))
            await until_spans(ledger, 1)
            network.break_down(mode)
            async with worker_child(others) as other:
                await other.hear("ready")
                await until_spans(ledger, 2)
                gate.touch()
                async with asyncio.timeout(SOON_S):
                    done = await coordinator.wait(one)
                assert await other.close() == 0
            assert done.status is ExecutionStatus.COMPLETED
            (_, last), (first, _) = spans(ledger)
            assert last < first, "the attempt that was cut off had ended before the other began"
            assert first - last > Lease(LEASE_S).margin_s / 2, "with time to spare"
            fresh = await coordinator.submit_execution(work(value="back"))
            network.mend()
            async with asyncio.timeout(BACK_WITHIN_S):
                done = await coordinator.wait(fresh)
            assert done.outputs == "back"
        assert await cut_off.close() == 0
    store = await open_store(postgres_url)
    try:
        account = await prove(store, [one, fresh])
        assert account.completed == 2
    finally:
        await store.close()


async def test_an_outage_that_is_shorter_than_half_a_lease_stops_nothing(
    proxy: tuple[Proxy, str], postgres_url: str, survive: Survive
) -> None:
    network, address = proxy
    async with worker_child(Config(address, lease_s=30.0)) as child:
        await child.hear("ready")
        async with survive(postgres_url, works=False) as door:
            one = await door.plane.coordinator.submit_execution(
                work("wait", gate="gate", value=json.dumps(1))
            )
            await child.hear("began", one)
            network.break_down("cuts")
            child.order(open="gate")
            await asyncio.sleep(0)
            network.mend()
            async with asyncio.timeout(SOON_S):
                done = await door.plane.coordinator.wait(one)
            assert (done.attempt, done.status) == (1, ExecutionStatus.COMPLETED)
        assert await child.close() == 0
