"""What the tests of real faults share: the plane that goes on where others were hit."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.cli.home import Home
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers import maintenance
from praxis_sdk.control.workers.liveness import Liveness
from praxis_sdk.control.workers.worker import LEASE_S, WorkerCapacity
from tests.faults import worker
from tests.faults.acts import FaultKind


@dataclass(frozen=True)
class Survivor:
    """A whole plane in the process of the test.

    Args:
        plane: it.
        store: its own opened store.
        kind: its scripted kind.
    """

    plane: ControlPlane
    store: Any
    kind: FaultKind


Survive = Callable[..., AbstractAsyncContextManager[Survivor]]


@pytest.fixture(autouse=True)
def quick_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have keepers look around often, so that no test waits for them."""
    monkeypatch.setattr(maintenance, "ROUND_S", worker.ROUND_S)


@pytest.fixture
def survive() -> Survive:
    """Make planes on a store: ``async with survive(address, locks) as survivor``."""

    @contextlib.asynccontextmanager
    async def make(
        address: str,
        locks: Path | None = None,
        *,
        home: str = "",
        works: bool = True,
        lease_s: float = LEASE_S,
    ) -> AsyncIterator[Survivor]:
        store = await worker.open_store(address)
        kind = FaultKind()
        offer = WorkerCapacity(worker.CAPACITY, 64, lease_s) if works else None
        liveness = Liveness(locks) if locks is not None else None
        try:
            made = ControlPlane(
                store, worker.make_kinds(kind, home), PlaneOptions(worker=offer), liveness=liveness
            )
            async with made as plane:
                yield Survivor(plane, store, kind)
        finally:
            await store.close()

    return make


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A Praxis home with the environment `base`, built once."""
    made = Home(tmp_path_factory.mktemp("home"))
    made.environments().ensure("base")
    return made
