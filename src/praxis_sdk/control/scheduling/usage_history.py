"""Experience: what history teaches of a control, looked up now and then and remembered meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.kinds import Plan
from praxis_sdk.control.scheduling.estimates import NOTHING_LEARNED, RULES, Estimate, learn
from praxis_sdk.resources import Resources
from praxis_sdk.store import Store

GOOD_FOR_S: Final = 60.0
MAX_CONTROLS: Final = 1000
_SAMPLES: Final = 100
_LOOK_BACK_S: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of work before it runs.

    Args:
        requirements: what it is likely to need; None where it is not learned.
        expected_s: how long it is likely to take, in seconds; None where nothing is known.
    """

    requirements: Resources | None
    expected_s: float | None


class UsageHistory:
    """Lessons per control, as old as `GOOD_FOR_S` at most (spec 4, property 32).

    Args:
        store: where the history is.
        clock: the time.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lessons: dict[tuple[str, str], tuple[float, Estimate]] = {}

    async def of(self, kind: str, plan: Plan) -> Learned:
        """Return what history teaches of the work that a plan is about."""
        lesson = await self._lesson(kind, plan.control)
        recommended = lesson.recommended(plan.requirements) if plan.learns else None
        return Learned(recommended, lesson.expected_s)

    async def _lesson(self, kind: str, control: str) -> Estimate:
        now = self._clock.monotonic()
        known = self._lessons.get((kind, control))
        if known is not None and now < known[0]:
            return known[1]
        until = self._clock.time()
        history = await self._store.ended(
            until - _LOOK_BACK_S, until, kind=kind, control=control, limit=_SAMPLES
        )
        lesson = learn(history, RULES) if history else NOTHING_LEARNED
        self._lessons.pop((kind, control), None)
        self._lessons[kind, control] = now + GOOD_FOR_S, lesson
        if len(self._lessons) > MAX_CONTROLS:
            del self._lessons[next(iter(self._lessons))]
        return lesson
