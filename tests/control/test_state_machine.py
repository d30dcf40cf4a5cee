"""The whole life cycle against a small model, on each store."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from praxis_sdk.store import Store
from praxis_sdk.store.sqlite import SqliteStore
from tests.control.machine import LifeCycle, ManualClock

SETTINGS = settings(
    max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
Open = Callable[[ManualClock], Coroutine[Any, Any, Store]]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def drive(open_store: Open, loop: asyncio.AbstractEventLoop) -> None:
    clock = ManualClock()
    store = loop.run_until_complete(open_store(clock))
    accepted: list[int] = []

    class Machine(LifeCycle):
        def __init__(self) -> None:
            super().__init__(store, loop, clock)

        def teardown(self) -> None:
            super().teardown()
            accepted.append(self.accepted)

    try:
        run_state_machine_as_test(Machine, settings=SETTINGS)
    finally:
        loop.run_until_complete(store.close())
    assert sum(accepted) >= 20, "a machine that completes nothing proves nothing"


def test_the_life_cycle_holds_on_sqlite(loop: asyncio.AbstractEventLoop) -> None:
    async def open_store(clock: ManualClock) -> Store:
        return await SqliteStore.open(":memory:", inline=True, clock=clock)

    drive(open_store, loop)


@pytest.mark.timeout(300)
def test_the_life_cycle_holds_on_postgresql(postgres_url: str, loop: asyncio.AbstractEventLoop) -> None:
    from praxis_sdk.store.postgres import PostgresStore

    async def open_store(clock: ManualClock) -> Store:
        return await PostgresStore.open(postgres_url, clock=clock)

    drive(open_store, loop)
