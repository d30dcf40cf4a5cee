"""What goes wrong in a run: each seed draws some faults and leaves others out, so that combinations differ."""

import random
from dataclasses import dataclass, fields, replace

# Share of seeds in which nothing goes wrong, so that promises can be checked that hold without faults only.
CALM_SHARE = 0.2


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong.

    Args:
        fails: share of store calls that fail before anything is written.
        unheard: share of store calls that are done, and whose answer is lost.
        slow: share of store calls that take long.
        slow_s: how long at most.
        repeats: share of store calls that reach the store twice.
        lost_rings: share of rings that other processes do not hear; they look again after a while.
        odd: share of the calls of lasting tasks that fail by an error that nobody foresaw.
        kills, freezes, leaves, skews, cuts, outages: how many of each in the whole run; a cut keeps one process
            from the store, an outage all.
        suspends: how often the machine of a process is suspended.
        newcomers: how many processes come, look after the others for a while by a clock that is hours wrong, and go.
        liveness: whether processes notice at once that another one died.
    """

    fails: float = 0.0
    unheard: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.0
    repeats: float = 0.0
    lost_rings: float = 0.0
    odd: float = 0.0
    kills: int = 0
    freezes: int = 0
    leaves: int = 0
    skews: int = 0
    cuts: int = 0
    outages: int = 0
    suspends: int = 0
    newcomers: int = 0
    liveness: bool = False

    @property
    def disturbs(self) -> bool:
        """Whether anything goes wrong that may cost an attempt: clocks that are wrong may not."""
        return replace(self, skews=0, newcomers=0, lost_rings=0.0).any

    @property
    def any(self) -> bool:
        """Whether anything goes wrong at all."""
        return self != replace(Faults(), liveness=self.liveness)


HARD = Faults(
    fails=0.2, unheard=0.2, slow=0.2, slow_s=12.0, repeats=0.2, lost_rings=1.0,
    kills=8, freezes=8, leaves=6, skews=6, cuts=6, outages=4, liveness=True,
)  # fmt: skip


def draw_faults(random_: random.Random) -> Faults:
    """Choose what goes wrong in a run."""
    liveness = random_.random() < 0.5
    if random_.random() < CALM_SHARE:
        return Faults(liveness=liveness)
    drawn = Faults(
        fails=random_.choice((0.01, 0.05, 0.2)),
        unheard=random_.choice((0.01, 0.05, 0.2)),
        slow=random_.choice((0.01, 0.05, 0.2)),
        slow_s=random_.choice((0.5, 3.0, 12.0)),
        repeats=random_.choice((0.02, 0.2)),
        lost_rings=random_.choice((0.05, 0.5, 1.0)),
        kills=random_.randint(1, 5),
        freezes=random_.randint(1, 5),
        leaves=random_.randint(1, 4),
        skews=random_.randint(1, 4),
        cuts=random_.randint(1, 4),
        outages=random_.randint(1, 3),
        odd=random_.choice((0.02, 0.2)),
        suspends=random_.randint(1, 4),
        newcomers=random_.randint(1, 4),
        liveness=liveness,
    )
    without = {
        field.name: field.default
        for field in fields(Faults)
        if field.name not in ("liveness", "slow_s") and random_.random() < 0.5
    }
    return replace(drawn, **without)
