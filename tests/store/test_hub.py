"""The hub: whoever waits is woken, and what nobody waits for takes no room."""

from __future__ import annotations

import asyncio

import pytest

from praxis_sdk.store.hub import Hub
from praxis_sdk.store.protocol import StoreUnavailable


async def waiting(hub: Hub, topic: str, seen: int) -> asyncio.Task[int]:
    task = asyncio.create_task(hub.changed(topic, seen))
    await asyncio.sleep(0)
    return task


async def test_only_those_concerned_wake() -> None:
    hub = Hub()
    seen = await hub.changed("a", 0)
    concerned, other = await waiting(hub, "a", seen), await waiting(hub, "b", seen)
    hub.ring(["a"])
    assert await concerned > seen
    assert not other.done()
    hub.ring_all()
    await other


async def test_a_ring_before_the_look_is_not_missed() -> None:
    hub = Hub()
    seen = await hub.changed("a", 0)
    hub.ring(["a"])
    later = await hub.changed("a", seen)
    again = await waiting(hub, "a", later)
    assert not again.done()
    again.cancel()


async def test_topics_nobody_waits_for_do_not_pile_up() -> None:
    hub = Hub(max_topics=10)
    seen = await hub.changed("first", 0)
    for number in range(1000):
        hub.ring([f"execution:{number}"])
    assert len(hub._last) == 10
    hub.ring(["first"])
    for number in range(1000):
        hub.ring([f"execution:{number}"])
    assert await hub.changed("first", seen) > seen, "forgotten, and yet told"


async def test_one_wakes_without_need_at_most_once_for_what_was_forgotten() -> None:
    hub = Hub(max_topics=1)
    seen = await hub.changed("quiet", 0)
    hub.ring(["a", "b"])
    seen = await hub.changed("quiet", seen)
    task = await waiting(hub, "quiet", seen)
    assert not task.done()
    task.cancel()


async def test_who_gives_up_leaves_nothing_behind() -> None:
    hub = Hub()
    seen = await hub.changed("a", 0)
    tasks = [await waiting(hub, "a", seen) for _ in range(3)]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert hub._waiting == {}


async def test_nobody_waits_for_a_store_that_is_closed() -> None:
    hub = Hub()
    task = await waiting(hub, "a", await hub.changed("a", 0))
    hub.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await task
