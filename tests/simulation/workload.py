"""What clients want in a run: submissions of every sort, repeated, cancelled, waited for and followed."""

import random
from dataclasses import dataclass, field
from typing import Any

from praxis_sdk.resources import Resources
from praxis_sdk.states import Priority
from tests.simulation.kind import KIND

# The largest worker there is; nothing asks for more, and one such worker is there when a run comes to its end.
LARGEST = Resources(cpu_cores=4, memory_mb=4096, network_mbps=1000, gpus=1, storage_mb=10_000)
SMALLER = (
    Resources(cpu_cores=1, memory_mb=1024, network_mbps=1000, gpus=0, storage_mb=5000),
    Resources(cpu_cores=2, memory_mb=4096, network_mbps=100, gpus=0, storage_mb=10_000),
    LARGEST,
)
HORIZON_S = 90.0
LONGEST_IN_STREAM_S = 8.0
MOST_DEAF_S = 12.0


@dataclass
class Wish:
    """What one client does.

    Args:
        at: when it begins, seconds from the start of the run.
        works: what it submits; more than one, or `batch_name`: as a batch.
        priority: of all of it.
        window: opens and closes so many seconds after its submission; None: no window.
        key: its idempotency key.
        again: it submits the same once more though it was answered.
        cancel_s: it asks for the end so long after the answer.
        waits, follows: it waits for the end, or reads the stream to its end.
        retries: it has it run once more when it has ended.
        cron: it adds a schedule instead.
    """

    at: float
    works: list[dict[str, Any]]
    priority: Priority = Priority.NORMAL
    window: tuple[float, float] | None = None
    key: str | None = None
    again: bool = False
    cancel_s: float | None = None
    waits: bool = False
    follows: bool = False
    retries: bool = False
    cron: str | None = None
    batch_name: str | None = None
    ids: list[str] = field(default_factory=list)


def draw_wishes(random_: random.Random, *, calm: bool) -> list[Wish]:
    """Choose what clients want."""
    count = random_.choice((6, 12, 24, 36))
    busy_s = random_.choice((5.0, 30.0, 60.0))  # a burst, or a trickle
    wishes = [_wish(random_, number, random_.uniform(0, busy_s), calm=calm) for number in range(count)]
    if random_.random() < 0.4:
        every_s = random_.choice((10, 15, 20))
        work = {"kind": KIND, "request": {"acts": [_act(random_)]}}
        wishes.append(Wish(random_.uniform(0, 10), [work], cron=f"*/{every_s} * * * * *"))
    return wishes


def draw_stream(random_: random.Random) -> list[Wish]:
    """Choose a stream of small urgent work that never leaves a gap, and large humble work that needs one."""
    wishes = []
    lasts_s = random_.choice((4.0, LONGEST_IN_STREAM_S))
    gap_s = lasts_s / LARGEST.cpu_cores / random_.uniform(0.85, 0.95)
    for number in range(int(HORIZON_S / gap_s)):
        acts = [{"s": random_.uniform(0.5, 1.0) * lasts_s, "end": "return"}]
        request = {"acts": acts, "needs": {"cpu_cores": 1.0}}
        wishes.append(Wish(number * gap_s, [{"kind": KIND, "request": request}], Priority.CRITICAL))
    for _ in range(random_.randint(1, 2)):
        needs = {"cpu_cores": random_.choice((3.0, 4.0))}
        work = {"kind": KIND, "request": {"acts": [{"s": 3.0, "end": "return"}], "needs": needs}}
        work["batch"] = random_.random() < 0.5
        wishes.append(Wish(random_.uniform(1, 10), [work], Priority.LOW))
    return wishes


def _wish(random_: random.Random, number: int, at: float, *, calm: bool) -> Wish:
    chance = random_.random
    wish = Wish(at, [_work(random_)], random_.choice(tuple(Priority)))
    if chance() < 0.15:
        wish.works = [_work(random_) for _ in range(random_.randint(1, 5))]
        wish.batch_name = f"batch-{number}"
    elif chance() < 0.4:
        wish.key = f"key-{number}" if chance() < 0.8 else "key-shared"
        wish.again = chance() < 0.5
    if chance() < 0.2:
        opens_s = random_.choice((-5.0, 0.0, 10.0, 30.0))
        wish.window = (
            opens_s,
            max(opens_s, 0.0) + random_.choice((60.0, 120.0) if calm else (5.0, 30.0, 60.0)),
        )
    if chance() < 0.2:
        wish.cancel_s = random_.choice((0.0, 0.01, 1.0, 5.0, 20.0))
    wish.waits, wish.follows = chance() < 0.3, chance() < 0.15
    wish.retries = wish.waits and chance() < 0.1
    return wish


def _work(random_: random.Random) -> dict[str, Any]:
    chance = random_.random
    request: dict[str, Any] = {"max_retries": random_.choice((0, 1, 3, 3))}
    acts = [_act(random_) for _ in range(random_.randint(1, 3))]
    parent = chance() < 0.1
    if parent:
        acts[-1]["children"] = [
            {"acts": [_act(random_)], **_needs(random_)} for _ in range(random_.randint(1, 3))
        ]
    else:
        request |= _needs(
            random_
        )  # a parent that held room while its children wait for it could wait for ever
    request["acts"] = acts
    if chance() < 0.2:
        request["timeout_s"] = random_.choice((0.5, 3.0, 10.0))
    if chance() < 0.15:
        request["dependency"] = "orders"
    request["control"] = random_.choice(("work", "known-5", "known-20"))
    return {"kind": KIND, "request": request, "batch": chance() < 0.4}


def _needs(random_: random.Random) -> dict[str, Any]:
    needs: dict[str, Any] = {"cpu_cores": random_.choice((0.0, 0.1, 0.3, 0.5, 1.0, 1.0, 2.0, 4.0))}
    if random_.random() < 0.4:
        needs["memory_mb"] = random_.choice((100, 1000, 1024, 3000))
    if random_.random() < 0.1:
        needs["gpus"] = 1
    return {"needs": needs}


def _act(random_: random.Random) -> dict[str, Any]:
    chance = random_.random
    ends = ("return",) * 10 + ("errors", "raise", "unavailable", "unreadable", "odd")
    ends += ("permanent", "transient", "transient", "resource", "resource", "crash", "crash")
    act: dict[str, Any] = {
        "s": random_.choice((0.0, 0.1, 1.0, 3.0, 8.0)) * random_.uniform(0.5, 1.0),
        "end": random_.choice(ends),
    }
    if chance() < 0.3:
        act["logs"] = random_.randint(1, 10)
        act["progress"] = random_.choice((0.5, -3.0, 7.0, float("nan")))
    if chance() < 0.2:
        act["deaf_s"] = random_.choice((0.1, 2.0, MOST_DEAF_S))
        act["lies"] = chance() < 0.5
    elif chance() < 0.3:
        act["hears"] = True
    return act
