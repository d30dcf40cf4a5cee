"""A control plane in this process, on each kind of store."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.control.kinds import Kinds
from praxis_sdk.control.plane import ControlPlane, PlaneOptions
from praxis_sdk.control.workers.worker import WorkerCapacity
from praxis_sdk.resources import Resources
from praxis_sdk.store import Store
from praxis_sdk.store.sqlite import SqliteStore
from tests.control.scripted import ScriptedKind

OFFER = WorkerCapacity(
    Resources(cpu_cores=4, memory_mb=4096, network_mbps=1000, gpus=1, storage_mb=10_000), slots=64
)
MakePlane = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store."""
    opened = await SqliteStore.open(tmp_path / "praxis.db")
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def kind() -> ScriptedKind:
    """The scripted kind, whose retries do not wait long."""
    return ScriptedKind(first_pause_s=0.001)


@pytest.fixture
def make_plane(store: Store, kind: ScriptedKind) -> MakePlane:
    """Makes planes on the store; each is ended with its context."""

    @contextlib.asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[ControlPlane]:
        given = {"worker": OFFER, **options}
        liveness = given.pop("liveness", None)
        clock = given.pop("clock", None)
        kinds = given.pop("kinds", None) or Kinds(kind)
        async with ControlPlane(store, kinds, PlaneOptions(**given), clock=clock, liveness=liveness) as plane:
            yield plane

    return make


@pytest.fixture
async def plane(make_plane: MakePlane) -> AsyncIterator[ControlPlane]:
    """A whole plane: coordinator, dispatcher, keeper and a worker."""
    async with make_plane() as made:
        yield made


def work(act: str = "return", **request: Any) -> dict[str, Any]:
    """A submission of the scripted kind."""
    return {"kind": "scripted", "request": {"act": act, **request}}
