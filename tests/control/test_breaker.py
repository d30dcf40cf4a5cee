"""Circuit breakers: when they open, what they let through, and how they close (spec 4, "Circuit Breaker Pattern")."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.workers.breaker import (
    Breaker,
    BreakerChange,
    BreakerOpen,
    BreakerPolicy,
    Breakers,
    BreakerState,
)
from praxis_sdk.errors import ValidationError

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Watched:
    """A breaker whose time is moved by hand and whose changes are kept."""

    def __init__(self, **policy: Any) -> None:
        self.now = 0.0
        self.changes: list[BreakerChange] = []
        self.breaker = Breaker(
            "mcp", BreakerPolicy(**policy), monotonic=lambda: self.now, listener=self.changes.append
        )

    def told(self, *outcomes: bool) -> None:
        for succeeded in outcomes:
            self.breaker.record(self.breaker.admit(), succeeded=succeeded)

    def opened(self) -> Watched:
        self.told(*[False] * 10)
        assert self.breaker.state is OPEN
        return self

    @property
    def states(self) -> list[tuple[BreakerState, BreakerState]]:
        return [(change.before, change.after) for change in self.changes]


@given(st.lists(st.booleans(), max_size=400), st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=300)
def test_it_opens_exactly_when_more_than_half_of_the_window_failed(
    outcomes: list[bool], one: int, other: int
) -> None:
    """Feature: execution-engine, Circuit Breaker: failure rate over the last 100 requests above 50% opens it."""
    min_calls, window = sorted((one, other))
    watched = Watched(window_calls=window, min_calls=min_calls)
    seen: list[bool] = []
    for succeeded in outcomes:
        watched.told(succeeded)
        seen = [*seen, succeeded][-window:]
        too_many = len(seen) >= min_calls and 2 * seen.count(False) > len(seen)
        assert (watched.breaker.state is OPEN) == too_many
        if too_many:
            change = watched.changes[-1]
            assert (change.failures, change.calls) == (seen.count(False), len(seen))
            return
        assert watched.breaker.failure_rate == pytest.approx(seen.count(False) / len(seen))


def test_half_of_the_calls_may_fail() -> None:
    watched = Watched()
    watched.told(*[True, False] * 100)
    assert watched.breaker.state is CLOSED


def test_a_few_failures_at_the_beginning_do_not_open_it() -> None:
    watched = Watched()
    watched.told(*[False] * 9)
    assert watched.breaker.state is CLOSED
    watched.told(False)
    assert watched.breaker.state is OPEN


async def test_while_open_nothing_is_attempted() -> None:
    watched = Watched().opened()
    called = []

    async def call() -> None:
        called.append(1)

    watched.now = 29.0
    with pytest.raises(BreakerOpen) as refused:
        await watched.breaker.call(call)
    assert called == []
    assert refused.value.name == "mcp"
    assert refused.value.retry_in_s == pytest.approx(1.0)


async def test_of_many_callers_exactly_one_probes() -> None:
    watched = Watched().opened()
    watched.now = 30.0
    gate, called = asyncio.Event(), []

    async def call() -> str:
        called.append(1)
        await gate.wait()
        return "answer"

    callers = [asyncio.create_task(watched.breaker.call(call)) for _ in range(50)]
    await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
    assert watched.breaker.state is HALF_OPEN
    gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert len(called) == 1
    assert results.count("answer") == 1
    assert sum(isinstance(result, BreakerOpen) for result in results) == 49
    assert watched.breaker.state is CLOSED
    assert watched.breaker.failure_rate == 0.0
    assert watched.states == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


def test_a_probe_that_fails_opens_it_for_another_while() -> None:
    watched = Watched().opened()
    watched.now = 30.0
    watched.told(False)
    assert watched.breaker.state is OPEN
    watched.now = 59.0
    with pytest.raises(BreakerOpen):
        watched.breaker.admit()
    watched.now = 60.0
    watched.told(True)
    assert watched.breaker.state is CLOSED


def test_answers_from_before_it_opened_do_not_count() -> None:
    watched = Watched()
    early = [watched.breaker.admit() for _ in range(5)]
    watched.opened()
    for permit in early:
        watched.breaker.record(permit, succeeded=True)
    assert watched.breaker.state is OPEN
    watched.now = 30.0
    probe = watched.breaker.admit()
    watched.breaker.record(early[0], succeeded=True)
    assert watched.breaker.state is HALF_OPEN
    watched.breaker.record(probe, succeeded=True)
    assert watched.breaker.state is CLOSED


def test_a_probe_that_never_answers_is_replaced() -> None:
    watched = Watched().opened()
    watched.now = 30.0
    hanging = watched.breaker.admit()
    watched.now = 59.9
    with pytest.raises(BreakerOpen):
        watched.breaker.admit()
    watched.now = 60.0
    second = watched.breaker.admit()
    assert second.probe
    watched.breaker.record(hanging, succeeded=False)
    assert watched.breaker.state is HALF_OPEN
    watched.breaker.record(second, succeeded=True)
    assert watched.breaker.state is CLOSED


async def test_a_cancelled_probe_lets_another_try_at_once() -> None:
    watched = Watched().opened()
    watched.now = 30.0
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(watched.breaker.call(forever))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watched.breaker.admit().probe


async def test_a_mistake_of_the_caller_is_no_failure_of_the_dependency() -> None:
    watched = Watched(min_calls=1)

    async def refuse() -> None:
        raise ValidationError("no such control")

    with pytest.raises(ValidationError):
        await watched.breaker.call(refuse)
    assert watched.breaker.state is CLOSED

    async def away() -> None:
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            await watched.breaker.call(away)
    assert watched.breaker.state is OPEN


def test_each_dependency_has_a_breaker_of_its_own() -> None:
    changes: list[BreakerChange] = []
    policies = {"fragile": BreakerPolicy(min_calls=1)}
    breakers = Breakers(policies=policies, monotonic=lambda: 0.0, listener=changes.append)
    assert breakers.of("fragile") is breakers.of("fragile")
    fragile = breakers.of("fragile")
    fragile.record(fragile.admit(), succeeded=False)
    assert breakers.of("other").admit()
    assert breakers.states() == {"fragile": OPEN, "other": CLOSED}
    assert [change.name for change in changes] == ["fragile"]


@pytest.mark.parametrize(
    "policy", [{"min_calls": 0}, {"min_calls": 101}, {"max_failure_rate": 1.0}, {"cooldown_s": 0}]
)
def test_a_policy_that_makes_no_sense_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="breaker"):
        BreakerPolicy(**policy)
