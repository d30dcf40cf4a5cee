"""Circuit breakers: a dependency that fails is left alone for a while (spec 4, "Circuit Breaker Pattern").

closed --more than half of the last 100 calls failed--> open --30 s--> half-open --one probe--> closed, or open

Pure but for the calls themselves: the time is injected, and every decision is made without waiting, so calls of
one event loop never see a breaker half-changed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from praxis_sdk.errors import EngineUnavailable, ValidationError

WINDOW_CALLS: Final = 100
MAX_FAILURE_RATE: Final = 0.5
MIN_CALLS: Final = 10
COOLDOWN_S: Final = 30.0

T = TypeVar("T")


class BreakerState(StrEnum):
    """Whether a dependency is called."""

    CLOSED = "closed"  # it is
    OPEN = "open"  # it is not; calls fail at once
    HALF_OPEN = "half_open"  # one call tests whether it has recovered


class BreakerOpen(EngineUnavailable):
    """A dependency failed too often of late, so this call was not attempted.

    Args:
        name: the dependency.
        retry_in_s: in how many seconds it is worth while to ask again.
    """

    def __init__(self, name: str, retry_in_s: float) -> None:
        super().__init__(
            f"'{name}' failed too often and is left alone", remedy=f"try again in {retry_in_s:.0f} s"
        )
        self.name = name
        self.retry_in_s = retry_in_s


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and closes.

    Args:
        window_calls: how many of the last calls are looked at.
        max_failure_rate: it opens above, 0.0 to 1.0.
        min_calls: it does not open before so many calls are known.
        cooldown_s: how long it stays open, and how long a probe may take to answer, in seconds.
    """

    window_calls: int = WINDOW_CALLS
    max_failure_rate: float = MAX_FAILURE_RATE
    min_calls: int = MIN_CALLS
    cooldown_s: float = COOLDOWN_S

    def __post_init__(self) -> None:
        sound = 1 <= self.min_calls <= self.window_calls and 0 <= self.max_failure_rate < 1
        if not sound or not self.cooldown_s > 0:
            raise ValidationError(
                "breaker: needs 1 <= min_calls <= window_calls, 0 <= max_failure_rate < 1 and a cooldown_s above 0"
            )


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A breaker changed its state.

    Args:
        name: the dependency.
        before, after: its states.
        failures, calls: what the window held when it changed.
    """

    name: str
    before: BreakerState
    after: BreakerState
    failures: int
    calls: int


@dataclass(frozen=True, slots=True)
class Permit:
    """A call that was let through.

    Args:
        era: between which changes of state; an answer from an earlier one no longer counts.
        probe: whether it is the one that tests recovery.
    """

    era: int
    probe: bool = False


Listener = Callable[[BreakerChange], None]


def speaks_of_failure(error: Exception) -> bool:
    """Whether an exception says that the dependency failed; a mistake of the caller's does not."""
    return not isinstance(error, ValidationError)


class Breaker:
    """Watches the calls to one dependency.

    Args:
        name: the dependency, such as 'mcp-fleet'.
        policy: when it opens and closes.
        monotonic: seconds that never go back.
        listener: is told each change of state; it must not raise.
    """

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy = BreakerPolicy(),
        *,
        monotonic: Callable[[], float] = time.monotonic,
        listener: Listener | None = None,
    ) -> None:
        self.name = name
        self._policy = policy
        self._monotonic = monotonic
        self._listener = listener
        self._state = BreakerState.CLOSED
        self._era = 0
        self._since_s = monotonic()  # when the era began
        self._outcomes: deque[bool] = deque(maxlen=policy.window_calls)
        self._failures = 0

    @property
    def state(self) -> BreakerState:
        """Whether the dependency is called."""
        return self._state

    @property
    def failure_rate(self) -> float:
        """The part of the calls in the window that failed, 0.0 to 1.0."""
        return self._failures / len(self._outcomes) if self._outcomes else 0.0

    def admit(self) -> Permit:
        """Let a call through; each permit is answered by `record` or `forget`.

        Raises:
            BreakerOpen: the dependency is left alone, or another call is testing it.
        """
        if self._state is BreakerState.CLOSED:
            return Permit(self._era)
        # Half-open for a whole cooldown means that the probe hangs: it counts as failed, another may try.
        remaining_s = self._since_s + self._policy.cooldown_s - self._monotonic()
        if remaining_s > 0:
            raise BreakerOpen(self.name, remaining_s)
        self._enter(BreakerState.HALF_OPEN)
        return Permit(self._era, probe=True)

    def record(self, permit: Permit, *, succeeded: bool) -> None:
        """Tell how a call went that was let through."""
        if permit.era != self._era:
            return
        if permit.probe:
            self._enter(BreakerState.CLOSED if succeeded else BreakerState.OPEN)
            return
        if len(self._outcomes) == self._outcomes.maxlen:
            self._failures -= not self._outcomes[0]
        self._outcomes.append(succeeded)
        self._failures += not succeeded
        if (
            len(self._outcomes) >= self._policy.min_calls
            and self.failure_rate > self._policy.max_failure_rate
        ):
            self._enter(BreakerState.OPEN)

    def forget(self, permit: Permit) -> None:
        """Tell that a call was abandoned, which says nothing of the dependency; another may probe at once."""
        if permit.probe and permit.era == self._era:
            self._enter(BreakerState.OPEN)
            self._since_s -= self._policy.cooldown_s

    @contextmanager
    def guard(self, is_failure: Callable[[Exception], bool] = speaks_of_failure) -> Iterator[None]:
        """Watch one call, made in the body of a `with`.

        Args:
            is_failure: whether an exception says that the dependency failed.

        Raises:
            BreakerOpen: the call was not attempted.
        """
        permit = self.admit()
        try:
            yield
        except Exception as error:
            self.record(permit, succeeded=not is_failure(error))
            raise
        except BaseException:  # cancelled: the dependency had no chance to answer
            self.forget(permit)
            raise
        else:
            self.record(permit, succeeded=True)

    async def call(
        self,
        function: Callable[[], Awaitable[T]],
        is_failure: Callable[[Exception], bool] = speaks_of_failure,
    ) -> T:
        """Call a dependency, unless it is left alone.

        Args:
            function: makes the call.
            is_failure: as in `guard`.

        Raises:
            BreakerOpen: the call was not attempted.
        """
        with self.guard(is_failure):
            return await function()

    def _enter(self, state: BreakerState) -> None:
        change = BreakerChange(self.name, self._state, state, self._failures, len(self._outcomes))
        self._state = state
        self._era += 1
        self._since_s = self._monotonic()
        if state is BreakerState.CLOSED:
            self._outcomes.clear()
            self._failures = 0
        if self._listener is not None and change.before is not change.after:
            self._listener(change)


class Breakers:
    """The breakers of a process, one per dependency, made when they are first asked for.

    Args:
        policy: of all of them.
        policies: of those that need another, by name.
        monotonic: seconds that never go back.
        listener: is told each change of state.
    """

    def __init__(
        self,
        policy: BreakerPolicy = BreakerPolicy(),
        *,
        policies: Mapping[str, BreakerPolicy] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        listener: Listener | None = None,
    ) -> None:
        self._policy = policy
        self._policies = dict(policies or {})
        self._monotonic = monotonic
        self._listener = listener
        self._breakers: dict[str, Breaker] = {}

    def of(self, name: str) -> Breaker:
        """Return the breaker of a dependency."""
        breaker = self._breakers.get(name)
        if breaker is None:
            policy = self._policies.get(name, self._policy)
            breaker = Breaker(name, policy, monotonic=self._monotonic, listener=self._listener)
            self._breakers[name] = breaker
        return breaker

    def states(self) -> dict[str, BreakerState]:
        """Return the state of each, by name."""
        return {name: breaker.state for name, breaker in sorted(self._breakers.items())}
