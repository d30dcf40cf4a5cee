"""The queue in memory: the conformance suite, and a state machine against a small model."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from praxis_sdk.jobs.payload import parse_payload
from praxis_sdk.jobs.queue import Claim, JobState, MemoryQueue, UnknownJob, first_of
from tests.jobs.queue_conformance import (
    CANCELLED,
    COMPLETED,
    LEASE_S,
    MAX_LOST,
    MAX_QUEUED,
    ManualClock,
    QueueConformance,
    claimed,
    document,
    result_of,
)


class TestMemoryQueue(QueueConformance):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def queue(self, clock: ManualClock) -> MemoryQueue:
        return MemoryQueue(max_queued=MAX_QUEUED, lease_s=LEASE_S, max_lost=MAX_LOST, clock=clock)


async def test_a_parsed_payload_is_kept_as_it_is() -> None:
    queue = MemoryQueue()
    payload = parse_payload(document())
    await queue.submit(payload)
    assert (await claimed(queue)).document is payload


async def test_only_the_youngest_results_are_kept() -> None:
    queue = MemoryQueue(max_finished=2)
    for job_id in ("a", "b", "c"):
        await queue.submit(document(job_id))
        claim = await claimed(queue)
        await queue.complete(claim, result_of(claim))
    with pytest.raises(UnknownJob):
        await queue.status("a")
    assert await queue.status("b") is JobState.COMPLETED


async def test_who_waits_for_a_result_gets_it_even_where_it_is_forgotten() -> None:
    queue = MemoryQueue(max_finished=0)
    await queue.submit(document())
    waiting = asyncio.ensure_future(queue.result("a"))
    claim = await claimed(queue)
    await asyncio.sleep(0)
    await queue.complete(claim, result_of(claim))
    assert (await waiting).status is COMPLETED


async def test_first_of_passes_a_failure_on_and_leaves_nothing_running() -> None:
    async def fail() -> None:
        raise OSError("gone")

    before = asyncio.all_tasks()
    with pytest.raises(OSError, match="gone"):
        await first_of(asyncio.Event().wait(), fail())
    assert asyncio.all_tasks() == before


class QueueMachine(RuleBasedStateMachine):
    """Any order of calls: one accepted end per job, tokens grow, nothing is lost and nothing doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.queue = MemoryQueue(
            max_queued=1_000, max_finished=1_000, lease_s=LEASE_S, max_lost=MAX_LOST, clock=self.clock
        )
        self.submitted = 0
        self.claims: list[Claim] = []
        self.tokens: dict[str, int] = {}
        self.ends: dict[str, JobState] = {}
        self.cancelled: set[str] = set()
        self.accepted: dict[str, int] = {}

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    @rule()
    def submit(self) -> None:
        self.do(self.queue.submit(document(f"job-{self.submitted}")))
        self.submitted += 1

    @rule()
    def claim(self) -> None:
        claim = self.do(self.queue.claim("w"))
        if claim is not None:
            assert claim.token > self.tokens.get(claim.job_id, 0)
            assert claim.job_id not in self.cancelled
            self.tokens[claim.job_id] = claim.token
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), as_cancelled=st.booleans())
    def complete(self, data: st.DataObject, as_cancelled: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        if as_cancelled and claim.job_id not in self.cancelled:
            return
        if self.do(self.queue.complete(claim, result_of(claim, CANCELLED if as_cancelled else COMPLETED))):
            assert claim.token == self.tokens[claim.job_id], "only the youngest claim counts"
            assert as_cancelled == (claim.job_id in self.cancelled), "a cancelled job never turns green"
            self.accepted[claim.job_id] = self.accepted.get(claim.job_id, 0) + 1

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        if self.do(self.queue.release(claim)):
            assert claim.token == self.tokens[claim.job_id]
            assert claim.job_id not in self.cancelled

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        if self.do(self.queue.heartbeat(claim)):
            assert claim.token == self.tokens[claim.job_id]

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = f"job-{data.draw(st.integers(0, self.submitted - 1))}"
        state = self.do(self.queue.cancel(job_id))
        if state in (JobState.CANCELLED, JobState.CANCELLING):
            self.cancelled.add(job_id)

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S]))
    def pass_time(self, seconds: float) -> None:
        self.do(self.clock.advance(seconds))

    @invariant()
    def every_job_is_somewhere_and_ends_once(self) -> None:
        counts = self.do(self.queue.counts())
        states = {n: self.do(self.queue.status(f"job-{n}")) for n in range(self.submitted)}
        assert counts.queued == sum(state is JobState.QUEUED for state in states.values())
        assert counts.running == sum(
            state in (JobState.RUNNING, JobState.CANCELLING) for state in states.values()
        )
        for number, state in states.items():
            job_id = f"job-{number}"
            assert self.ends.get(job_id, state) is state, "an end never changes"
            if state.final:
                self.ends[job_id] = state
            if job_id in self.cancelled:
                assert state in (JobState.CANCELLING, JobState.CANCELLED)
        assert all(count == 1 for count in self.accepted.values())

    def teardown(self) -> None:
        self.loop.close()


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase
