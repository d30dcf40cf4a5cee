"""Every order in which puts and sweeps can meet: a scheduler that a property test drives.

Each operation on the store is one step, and the test decides whose turn it is. The store may even repeat a
removal whose answer got lost, as clients of S3 do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.artifacts import ArtifactStore, StoredArtifact, sweep
from praxis_sdk.jobs.artifacts.backends.backend import ObjectStat
from praxis_sdk.jobs.artifacts.body import Body
from praxis_sdk.jobs.artifacts.digest import key_of
from tests.jobs.artifacts.conformance import DAY_S, GRACE_S, Referred, digest_of


class Scheduler:
    """Lets one of the waiting tasks go on at a time."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def turn(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    async def sleep(self, _: float) -> None:
        await self.turn()

    async def run(self, tasks: list[asyncio.Task[object]], draw: st.DataObject) -> None:
        while not all(task.done() for task in tasks):
            # Whoever can go on without a turn does; threads and timers are not involved but for hashing.
            for _ in range(20):
                await asyncio.sleep(0)
            if self.waiting:
                self.waiting.pop(draw.draw(st.integers(0, len(self.waiting) - 1))).set_result(None)


class Steps:
    """A backend in memory whose every operation takes a turn; time stands still at `now_s`."""

    def __init__(self, scheduler: Scheduler, now_s: float, *, repeats: bool) -> None:
        self.turn = scheduler.turn
        self.now_s = now_s
        self.repeats = repeats
        self.objects_by_key: dict[str, tuple[int, float]] = {}

    def uri(self, key: str) -> str:
        return f"artifact:{key}"

    async def create(self, key: str, body: Body) -> bool:
        await self.turn()
        if key in self.objects_by_key:
            return False
        self.objects_by_key[key] = (body.size_bytes, self.now_s)
        return True

    async def renew(self, key: str, body: Body) -> None:
        await self.turn()
        self.objects_by_key[key] = (body.size_bytes, self.now_s)

    async def stat(self, key: str) -> ObjectStat | None:
        await self.turn()
        found = self.objects_by_key.get(key)
        return None if found is None else ObjectStat(key, *found)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        raise FileNotFoundError(key)
        yield b""

    async def objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        await self.turn()
        for key, found in list(self.objects_by_key.items()):
            if key.startswith(prefix):
                yield ObjectStat(key, *found)

    async def remove(self, key: str) -> None:
        await self.turn()
        self.objects_by_key.pop(key, None)
        if self.repeats:
            await self.turn()
            self.objects_by_key.pop(key, None)

    async def tidy(self, before_s: float) -> None:
        await self.turn()


async def race(draw: st.DataObject, *, sweeps: int, puts: int, present: bool, repeats: bool) -> None:
    scheduler = Scheduler()
    backend = Steps(scheduler, 10 * DAY_S, repeats=repeats)
    content = b"the same"
    digest = digest_of(content)
    if present:
        backend.objects_by_key[key_of(digest)] = (len(content), 0.0)
    acknowledged: list[StoredArtifact] = []

    async def put() -> None:
        store = ArtifactStore(backend, clock=lambda: backend.now_s, sleep=scheduler.sleep)
        # A put that had to wait for too long says so, and nothing refers to it.
        with contextlib.suppress(PlatformError):
            acknowledged.append(await store._settle(Body.of_bytes(content)))

    async def collect_garbage() -> None:
        store = ArtifactStore(backend, clock=lambda: backend.now_s, sleep=scheduler.sleep)
        await sweep(store, Referred(), grace_s=GRACE_S)

    tasks: list[asyncio.Task[object]] = [asyncio.ensure_future(put()) for _ in range(puts)]
    tasks += [asyncio.ensure_future(collect_garbage()) for _ in range(sweeps)]
    await scheduler.run(tasks, draw)
    for task in tasks:
        task.result()
    if acknowledged:
        assert key_of(digest) in backend.objects_by_key
    assert not any(key.startswith("doomed/") for key in backend.objects_by_key)


@settings(max_examples=600, deadline=None)
@given(
    draw=st.data(),
    sweeps=st.integers(1, 2),
    puts=st.integers(1, 2),
    present=st.booleans(),
    repeats=st.booleans(),
)
async def test_what_a_put_acknowledged_survives_every_sweep_under_way(
    draw: st.DataObject, sweeps: int, puts: int, present: bool, repeats: bool
) -> None:
    """Feature: artifacts, put during sweep."""
    await race(draw, sweeps=sweeps, puts=puts, present=present, repeats=repeats)


class RepeatedRemoval(Steps):
    """Loses the answer to the removal of one object, does something, and has the removal repeated."""

    def __init__(self, key: str, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(Scheduler(), 10 * DAY_S, repeats=False)
        self.turn = at_once
        self.key = key
        self.meanwhile = meanwhile

    async def remove(self, key: str) -> None:
        await super().remove(key)
        if key == self.key:
            await self.meanwhile()
            await super().remove(key)


async def at_once() -> None:
    await asyncio.sleep(0)


async def test_a_repeated_removal_spares_what_was_stored_meanwhile() -> None:
    content = b"stored between a removal and its repetition"
    key = key_of(digest_of(content))
    swept, waiting = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await swept.wait()

    async def start_a_put() -> None:
        nonlocal put
        put = asyncio.ensure_future(store.put(content))
        waits = asyncio.ensure_future(waiting.wait())
        await asyncio.wait([put, waits], return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()

    put: asyncio.Future[StoredArtifact] | None = None
    backend = RepeatedRemoval(key, start_a_put)
    backend.objects_by_key[key] = (len(content), 0.0)
    store = ArtifactStore(backend, clock=lambda: backend.now_s, sleep=sleep)
    done = await sweep(store, Referred(), grace_s=GRACE_S)
    swept.set()
    assert put is not None
    assert (await put).digest in done.removed
    assert list(backend.objects_by_key) == [key]


async def test_a_put_that_meets_a_removal_waits_and_stores_anew() -> None:
    scheduler = Scheduler()
    backend = Steps(scheduler, 10 * DAY_S, repeats=False)
    backend.turn = at_once
    content = b"dying"
    key = key_of(digest_of(content))
    backend.objects_by_key = {key: (len(content), 0.0), f"doomed/{key}": (0, backend.now_s)}
    waits: list[float] = []

    async def removed_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        backend.objects_by_key.clear()

    store = ArtifactStore(backend, clock=lambda: backend.now_s, sleep=removed_meanwhile)
    stored = await store.put(content)
    assert (stored.created, len(waits), list(backend.objects_by_key)) == (True, 1, [key])


async def test_a_put_does_not_wait_for_ever() -> None:
    backend = Steps(Scheduler(), 10 * DAY_S, repeats=False)
    backend.turn = at_once
    key = key_of(digest_of(b"x"))
    backend.objects_by_key = {f"doomed/{key}": (0, backend.now_s)}
    waits: list[float] = []

    async def count(seconds: float) -> None:
        waits.append(seconds)

    with pytest.raises(PlatformError, match="garbage collection"):
        await ArtifactStore(backend, clock=lambda: backend.now_s, sleep=count).put(b"x")
    assert sum(waits) < 10


async def test_a_short_grace_period_is_refused() -> None:
    backend = Steps(Scheduler(), 0.0, repeats=False)
    with pytest.raises(ValueError, match="at least 7200"):
        await sweep(ArtifactStore(backend), Referred(), grace_s=60)
