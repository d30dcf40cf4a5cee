"""What every store promises; a test module per implementation derives from `StoreConformance`.

A deriving class supplies the fixtures `store` (empty at the start of each test) and `peer`: a second store on the
same data, as another process would have it, or the same one where there can be no second. No test depends on the
store's clock: what is due is long past, what is not is far in the future.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.model import (
    AUDITED,
    AttemptEnd,
    Batch,
    CronSchedule,
    Event,
    EventType,
    Execution,
    Failure,
    Flag,
    Level,
    NewEvent,
    Options,
    RetryPolicy,
    Stop,
    Usage,
    Worker,
    WorkerState,
)
from praxis_sdk.resources import Resources, total
from praxis_sdk.states import (
    HELD,
    ErrorType,
    ExecutionMode,
    ExecutionStatus,
    FailureCategory,
    Priority,
    ServiceClass,
)
from praxis_sdk.store.changes import AppliedChange, Change, verify_chain
from praxis_sdk.store.protocol import (
    EventFilter,
    ExecutionFilter,
    Round,
    RoundScope,
    Store,
    StoreConflict,
    UnknownExecution,
)

S = ExecutionStatus
FAR = 4e9  # seconds since 1970: the year 2096
# The suite is one class for several stores, and each test's examples share its store.
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
WAKE_S = 30.0  # a wake that does not come at all ends the test

NEEDS = Resources(cpu_cores=0.1, memory_mb=64, network_mbps=1, gpus=0, storage_mb=8)
FAILURE = Failure(FailureCategory.INTERNAL_ERROR, ErrorType.TRANSIENT, "unreachable", "no answer", "trace")
# What text and JSON may hold and stores find hard: NUL, half a surrogate pair, other planes, an escape of ours.
HARD = "a\0b\ud800c\U0001f600\x01d\n\u2028"

_numbers = itertools.count(1)


def new_id() -> str:
    """Return an id that is greater than all before it, as those of executions are."""
    return f"{next(_numbers):012x}"


def execution(**fields: Any) -> Execution:
    """Return an execution as it is submitted."""
    given_fields: dict[str, Any] = {
        "id": new_id(),
        "kind": "job",
        "control": "python",
        "request": {"code": "1"},
        "terms": Options(requirements=NEEDS),
        "submitted_at": 1000.0,
        "granted": NEEDS,
    }
    return Execution(**(given_fields | fields))


def worker(worker_id: str = "w", **fields: Any) -> Worker:
    """Return a worker that has room for all that a test starts."""
    given_fields: dict[str, Any] = {
        "id": worker_id,
        "capacity": Resources(1000.0, 10**6, 10**6, 8, 10**6),
        "slots": 1000,
        "kinds": frozenset({"job"}),
        "lease_until": FAR,
    }
    return Worker(**(given_fields | fields))


async def queued(store: Store, *executions: Execution) -> list[Execution]:
    """Submit executions and queue them."""
    await store.submit(executions)
    settled = await store.apply([transitions.release(one, 1000.0) for one in executions])
    return [one.after for one in settled if one is not None]


async def running(store: Store, *executions: Execution, worker_id: str = "w") -> list[Execution]:
    """Submit executions, queue them and start them."""
    waiting = await queued(store, *executions)
    settled = await store.apply([transitions.start(one, worker_id, 1001.0) for one in waiting])
    return [one.after for one in settled if one is not None]


async def finished(store: Store, one: Execution, status: S = S.COMPLETED, at: float = 1002.0) -> Execution:
    """End an execution that runs."""
    failure = None if status.succeeded else FAILURE
    settled = await change(store, transitions.finish(one, at, status, failure=failure))
    return settled.after


async def change(store: Store, wanted: Change) -> AppliedChange:
    """Apply one change that must hold."""
    (settled,) = await store.apply([wanted])
    assert settled is not None
    return settled


async def look(store: Store, scope: RoundScope | None = None) -> Round:
    """Return what a round sees."""
    seen: list[Round] = []

    def decide(shown: Round) -> Sequence[Change]:
        seen.append(shown)
        return ()

    assert await store.schedule(scope or RoundScope(), decide) == []
    (shown,) = seen
    return shown


def ids(executions: Iterable[Execution]) -> list[str]:
    return [one.id for one in executions]


def bare(one: Execution) -> Execution:
    """Return an execution as lists show it."""
    return one.but(request=None, context=None, outputs=None, result=None)


class StoreConformance:
    # -- submitting

    async def test_what_was_submitted_is_kept_to_the_last_field(self, store: Store) -> None:
        submitted = execution(
            request={"b": [1, 2.5, None, True, HARD], "a": {}},
            context={"agents": [HARD]},
            terms=Options(
                requirements=Resources(1.5, 2, 3, 4, 5),
                priority=Priority.CRITICAL,
                service_class=ServiceClass.BATCH,
                opens_at=1.5,
                closes_at=FAR,
                timeout_s=2.5,
                expected_s=3.5,
                retry=RetryPolicy(1, 0.5, frozenset({ErrorType.CRASH}), 1.5, 4.0),
            ),
            mode=ExecutionMode.AGENT_CENTRIC_RUN,
            idempotency_key="key",
            batch_id="batch",
            parent_id="parent",
            schedule_id="schedule",
            labels={"team": "a", "": "empty", "with 'quotes' \"and\" $.": "ä"},
            traceparent="00-1-2-01",
            reason=HARD,
            rank=-5,
            due_at=FAR,
            granted=Resources(2.5, 1, 1, 1, 1),
        )
        (kept,) = await store.submit([submitted])
        assert await store.get(submitted.id) == kept
        assert kept == submitted.but(next_seq=kept.next_seq, chain=kept.chain)
        assert kept.next_seq == 1

    async def test_a_submission_is_in_the_stream_and_in_the_audit(self, store: Store) -> None:
        (kept,) = await store.submit([execution()])
        (event,) = await store.events(kept.id)
        assert (event.seq, event.type, event.message) == (0, EventType.STATUS, "submitted")
        assert event.hash == kept.chain != ""

    async def test_nothing_is_kept_where_one_of_several_is_refused(self, store: Store) -> None:
        (taken,) = await store.submit([execution()])
        first, last = execution(), execution()
        with pytest.raises(StoreConflict, match=taken.id):
            await store.submit([first, execution(id=taken.id), last])
        for one in (first, last):
            with pytest.raises(UnknownExecution, match=one.id):
                await store.get(one.id)
        assert await store.get(taken.id) == taken

    async def test_equal_work_under_the_same_key_is_submitted_once(self, store: Store) -> None:
        (first,) = await store.submit([execution(idempotency_key="k", request={"a": 1, "b": (2,)})])
        await store.apply([transitions.release(first, 5.0)])
        (again,) = await store.submit([execution(idempotency_key="k", request={"b": [2], "a": 1})])
        assert again == await store.get(first.id)
        assert again.status is S.QUEUED
        assert len(await store.find(ExecutionFilter())) == 1

    @pytest.mark.parametrize(
        "other",
        [{"request": {"code": "2"}}, {"kind": "tool"}, {"control": "latex"}, {"request": {"code": 1}}],
    )
    async def test_a_key_used_for_something_else_is_refused(
        self, store: Store, other: dict[str, Any]
    ) -> None:
        await store.submit([execution(idempotency_key="the-key")])
        with pytest.raises(StoreConflict, match="the-key"):
            await store.submit([execution(), execution(**({"idempotency_key": "the-key"} | other))])
        assert len(await store.find(ExecutionFilter())) == 1

    async def test_a_key_twice_in_one_submission_is_one_execution(self, store: Store) -> None:
        first, second = await store.submit([execution(idempotency_key="k"), execution(idempotency_key="k")])
        assert first == second

    async def test_many_submissions_at_once_under_one_key_are_one_execution(
        self, store: Store, peer: Store
    ) -> None:
        stores = [store, peer] * 10
        kept = await asyncio.gather(*(one.submit([execution(idempotency_key="k")]) for one in stores))
        assert len({one.id for (one,) in kept}) == 1
        assert len(await store.find(ExecutionFilter())) == 1

    async def test_an_unknown_execution_is_named(self, store: Store) -> None:
        with pytest.raises(UnknownExecution, match="nobody"):
            await store.get("nobody")
        assert await store.events("nobody") == []
        assert await store.attempts("nobody") == []

    # -- changing

    async def test_a_life_from_submission_to_its_end(self, store: Store) -> None:
        await store.put_worker(worker())
        (one,) = await running(store, execution())
        assert (one.status, one.token, one.attempt, one.worker_id) == (S.RUNNING, 1, 1, "w")
        usage = Usage(1.5, 0.5, 1024, None, 0)
        finish = transitions.finish(
            one, 1005.0, S.COMPLETED_WITH_ERRORS, outputs={"x": HARD}, result=[1], usage=usage
        )
        settled = await change(store, finish)
        kept = await store.get(one.id)
        assert kept == settled.after.but(request=kept.request)
        assert (kept.outputs, kept.result, kept.usage, kept.ended_at) == ({"x": HARD}, [1], usage, 1005.0)
        (attempt,) = await store.attempts(one.id)
        assert attempt == settled.attempt
        assert (attempt.ending, attempt.token, attempt.worker_id) == (AttemptEnd.COMPLETED, 1, "w")
        events = await store.events(one.id)
        assert [event.message for event in events] == [
            "submitted",
            "queued",
            "running",
            "completed_with_errors",
            "usage",
        ]
        assert tuple(events[3:]) == settled.events

    async def test_failures_flags_and_attempts_are_kept(self, store: Store) -> None:
        (one,) = await running(store, execution())
        crash = replace(FAILURE, code="crashed", error_type=ErrorType.CRASH)
        more = NEEDS.scaled(2.0)
        retry = transitions.retry(one, crash, FAR, granted=more, ending=AttemptEnd.LOST, usage=Usage(1.0))
        flags = (Flag.CRASHED, Flag.ESCALATED)
        retried = await change(store, replace(retry, update={**retry.update, "flags": flags}))
        kept = await store.get(one.id)
        assert bare(kept) == bare(retried.after)
        assert (kept.failure, kept.flags, kept.granted, kept.due_at) == (crash, flags, more, FAR)
        (attempt,) = await store.attempts(one.id)
        assert (attempt.ending, attempt.failure, attempt.usage) == (AttemptEnd.LOST, crash, Usage(1.0))

    async def test_a_change_that_does_not_hold_changes_nothing(self, store: Store) -> None:
        (one,) = await running(store, execution())
        before = await store.get(one.id)
        log = NewEvent(EventType.LOG, "late")
        results = await store.apply(
            [
                Change(one.id, frozenset({S.QUEUED}), update={"progress": 0.5}, events=(log,)),
                Change(one.id, token=one.token - 1, update={"outputs": 1}, events=(log,)),
                Change(one.id, token=one.token + 1, events=(log,), ending=AttemptEnd.LOST),
            ]
        )
        assert results == [None, None, None]
        assert await store.get(one.id) == before
        assert await store.attempts(one.id) == []

    async def test_the_late_word_of_a_lost_attempt_is_discarded(self, store: Store) -> None:
        (first,) = await running(store, execution())
        await change(store, transitions.give_back(first, "its worker ended"))
        (again,) = await store.apply([transitions.start(await store.get(first.id), "other", 1003.0)])
        assert again is not None
        assert again.after.token > first.token
        assert await store.apply([transitions.finish(first, 1004.0, S.FAILED, failure=FAILURE)]) == [None]
        ended = await finished(store, again.after)
        assert await store.apply([transitions.finish(again.after, 1005.0, S.FAILED)]) == [None]
        assert (await store.get(first.id)).status is ended.status is S.COMPLETED

    async def test_what_has_ended_still_takes_events(self, store: Store) -> None:
        (one,) = await running(store, execution())
        ended = await change(
            store, transitions.finish(one, 1002.0, S.COMPLETED, outputs=[7], result={"r": 1})
        )
        note = transitions.note(one.id, [NewEvent(EventType.LOG, "late line")], flags=(Flag.LONG_RUNNING,))
        await change(store, note)
        kept = await store.get(one.id)
        assert (kept.status, kept.flags, kept.next_seq) == (
            S.COMPLETED,
            (Flag.LONG_RUNNING,),
            ended.after.next_seq + 1,
        )
        assert (kept.outputs, kept.result) == ([7], {"r": 1})

    async def test_the_last_result_counts(self, store: Store) -> None:
        (one,) = await running(store, execution())
        await change(store, transitions.note(one.id, [], outputs=[1], result=[2]))
        await change(store, transitions.note(one.id, [], outputs=[3]))
        kept = await store.get(one.id)
        assert (kept.outputs, kept.result) == ([3], [2])
        await finished(store, one)
        kept = await store.get(one.id)
        assert (kept.outputs, kept.result) == (None, None)

    async def test_changes_of_one_call_build_on_each_other(self, store: Store) -> None:
        (one,) = await store.submit([execution()])
        queue = transitions.release(one, 5.0)
        begin = transitions.start(one.but(status=S.QUEUED), "w", 6.0)
        results = await store.apply([queue, begin, queue])
        assert [result and result.after.status for result in results] == [S.QUEUED, S.RUNNING, None]
        assert [event.seq for event in await store.events(one.id)] == [0, 1, 2]

    async def test_nothing_changes_where_one_execution_is_unknown(self, store: Store) -> None:
        (one,) = await store.submit([execution()])
        with pytest.raises(UnknownExecution, match="nobody"):
            await store.apply([transitions.release(one, 5.0), transitions.note("nobody", [])])
        assert await store.get(one.id) == one
        assert len(await store.events(one.id)) == 1

    async def test_what_never_changes_cannot_be_changed(self, store: Store) -> None:
        (one,) = await store.submit([execution()])
        with pytest.raises(ValueError, match="control"):
            await store.apply([Change(one.id, update={"control": "other"})])
        assert await store.get(one.id) == one

    async def test_streams_have_no_gaps_whoever_writes(self, store: Store, peer: Store) -> None:
        started = await running(store, *(execution() for _ in range(3)))

        async def write(at: Store, writer: int) -> None:
            for number in range(5):
                types = (EventType.LOG, EventType.ACTION) if number % 2 else (EventType.DECISION,)
                drafts = [NewEvent(type_, f"{writer}.{number}", {"n": number}) for type_ in types]
                await at.apply([transitions.note(one.id, drafts) for one in started])

        await asyncio.gather(*(write(at, number) for number, at in enumerate([store, peer] * 8)))
        for one in started:
            events = await store.events(one.id)
            kept = await peer.get(one.id)
            assert [event.seq for event in events] == list(range(kept.next_seq)) == list(range(3 + 16 * 7))
            assert verify_chain(events, kept.chain) == ""
            for writer in range(16):
                said = [event.message for event in events if event.message.startswith(f"{writer}.")]
                assert said == sorted(said)

    async def test_the_audit_trail_proves_what_was_kept(self, store: Store) -> None:
        (one,) = await running(store, execution())
        drafts = [
            NewEvent(
                EventType.ACTION, HARD, {"z": 1, "a": [0.1, 1e300, HARD]}, Level.WARN, f"agent {HARD}", 5
            ),
            NewEvent(EventType.LOG, "noise", at=6.5),
            NewEvent(EventType.PROOF, "dead", {"pids": []}),
        ]
        settled = await change(store, transitions.note(one.id, drafts, token=one.token, progress=0.25))
        events, kept = await store.events(one.id), await store.get(one.id)
        assert tuple(events[-3:]) == settled.events
        assert kept.progress == 0.25
        assert verify_chain(events, kept.chain) == ""
        assert verify_chain([*events[:-3], *events[-2:]], kept.chain) != ""

    async def test_pieces_of_output_come_back_byte_by_byte(self, store: Store, peer: Store) -> None:
        (one,) = await store.submit([execution()])
        pieces = [bytes(range(256)), b"\0", b"\xff" * 70_000, "grün".encode()[:3], b"\n" * 65_536]
        drafts = [NewEvent(EventType.LOG, "", {"stream": "stdout"}, chunk=piece) for piece in pieces]
        drafts.insert(2, NewEvent(EventType.ACTION, "an audited entry has none"))
        await store.apply([transitions.note(one.id, drafts)])
        events = (await peer.events(one.id))[1:]
        assert [event.chunk for event in events if event.type is EventType.LOG] == pieces
        assert events[2].chunk == b""
        assert verify_chain(await peer.events(one.id), (await peer.get(one.id)).chain) == ""
        wanted = EventFilter(execution_id=one.id, types=frozenset({EventType.LOG}))
        assert [event.chunk for event in await peer.query_events(wanted)] == pieces[::-1]

    # -- rounds of scheduling

    async def test_a_round_sees_what_waits_in_rank_order(self, store: Store) -> None:
        await store.put_worker(worker())
        ranks = [50, -3, 20, 20, 7]
        waiting = await queued(store, *(execution() for _ in ranks))
        await store.apply(
            [transitions.note(one.id, [], rank=rank) for one, rank in zip(waiting, ranks, strict=True)]
        )
        shown = await look(store)
        assert [one.rank for one in shown.waiting] == [-3, 7, 20, 20, 50]
        assert shown.waiting[2].id < shown.waiting[3].id
        assert all(one.request is None for one in shown.waiting)
        assert [one.id for one in shown.workers] == ["w"]
        assert [one.rank for one in (await look(store, RoundScope(candidates=2))).waiting] == [-3, 7]

    async def test_a_round_sees_what_is_due_the_oldest_first(self, store: Store) -> None:
        past, later, now, future = (execution(due_at=at) for at in (10.0, 20.0, None, FAR))
        await store.submit([later, future, past, now])
        shown = await look(store)
        assert set(ids(shown.due)) == {past.id, later.id, now.id}
        assert [one.id for one in shown.due if one.due_at] == [past.id, later.id]
        assert shown.waiting == ()
        assert len((await look(store, RoundScope(candidates=1))).due) == 1

    async def test_a_round_sees_the_kinds_it_asks_for(self, store: Store) -> None:
        tool, job = execution(kind="tool"), execution()
        await queued(store, tool, job)
        due = execution(kind="tool")
        await store.submit([due, execution()])
        shown = await look(store, RoundScope(kinds=frozenset({"tool", "other"})))
        assert (ids(shown.waiting), ids(shown.due)) == ([tool.id], [due.id])

    async def test_a_round_sees_the_batch_work_that_runs_where_it_asks(self, store: Store) -> None:
        batch = Options(requirements=NEEDS, service_class=ServiceClass.BATCH)
        _real_time, *started = await running(store, execution(), *(execution(terms=batch) for _ in range(3)))
        await change(store, transitions.cancel_running(started[0], "", "somebody"))
        assert (await look(store)).running == ()
        shown = await look(store, RoundScope(batch_running=10))
        assert set(ids(shown.running)) == {
            one.id for one in started
        }  # also what is being ended: its room comes
        assert len((await look(store, RoundScope(batch_running=1))).running) == 1

    async def test_a_round_does_what_was_decided(self, store: Store) -> None:
        await store.put_worker(worker())
        first, second, late = await queued(store, execution(), execution(), execution())

        def decide(shown: Round) -> Sequence[Change]:
            assert ids(shown.waiting) == [first.id, second.id, late.id]
            start = transitions.start(shown.waiting[0], "w", shown.now)
            cancel = transitions.cancel_waiting(shown.waiting[1], "not wanted", shown.now, "test")
            return [start, cancel, start]

        settled = await store.schedule(RoundScope(), decide)
        assert [one.after.status for one in settled] == [S.RUNNING, S.CANCELLED]
        assert ids((await look(store)).waiting) == [late.id]
        (holder,) = await store.workers()
        assert (holder.running, holder.reserved) == (1, NEEDS)

    async def test_a_round_that_fails_changes_nothing(self, store: Store) -> None:
        def decide(shown: Round) -> Sequence[Change]:
            raise ArithmeticError("a mistake")

        (one,) = await queued(store, execution())
        with pytest.raises(ArithmeticError, match="a mistake"):
            await store.schedule(RoundScope(), decide)

        def unknown(shown: Round) -> Sequence[Change]:
            return [transitions.start(shown.waiting[0], "w", 5.0), transitions.note("nobody", [])]

        with pytest.raises(UnknownExecution):
            await store.schedule(RoundScope(), unknown)
        assert bare(await store.get(one.id)) == bare(one)

    async def test_no_execution_is_started_twice_by_rounds_at_once(self, store: Store, peer: Store) -> None:
        await store.put_worker(worker())
        waiting = await queued(store, *(execution() for _ in range(40)))

        def decide(shown: Round) -> Sequence[Change]:
            return [transitions.start(one, "w", shown.now) for one in shown.waiting[:3]]

        started: list[AppliedChange] = []
        while len(started) < len(waiting):
            rounds = [at.schedule(RoundScope(candidates=10), decide) for at in (store, peer) * 4]
            found = list(itertools.chain.from_iterable(await asyncio.gather(*rounds)))
            assert found, "nothing was started although something waits"
            started += found
        assert sorted(one.after.id for one in started) == ids(waiting)
        assert {one.after.token for one in started} == {1}
        (holder,) = await store.workers()
        assert holder.running == len(waiting)

    async def test_when_the_next_is_due(self, store: Store) -> None:
        assert await store.next_due() is None
        await store.submit([execution(due_at=FAR), execution(due_at=FAR - 5)])
        await queued(store, execution(due_at=3.0))
        assert await store.next_due() == FAR - 5

    async def test_what_a_worker_holds_comes_with_its_request(self, store: Store) -> None:
        await queued(store, execution())
        mine = await running(store, execution(context={"c": 1}), execution())
        await running(store, execution(), worker_id="other")
        await change(store, transitions.cancel_running(mine[1], "", "somebody"))
        held = await store.held("w")
        assert ids(held) == ids(mine)
        assert (held[0].request, held[0].context) == ({"code": "1"}, {"c": 1})
        assert held[1].stop is Stop.CANCEL
        await finished(store, mine[0])
        assert ids(await store.held("w")) == [mine[1].id]

    async def test_counts_of_what_waits_and_runs(self, store: Store) -> None:
        counts = await store.counts()
        assert (sum(counts.by_status.values()), counts.oldest_queued_at) == (0, None)
        await store.submit([execution(), execution()])
        (first, *_) = await queued(store, *(execution() for _ in range(3)))
        await change(store, transitions.note(first.id, [], queued_at=7.0))
        one, other = await running(store, execution(), execution())
        await finished(store, one)
        await change(store, transitions.cancel_running(other, "", "somebody"))
        counts = await store.counts()
        assert {status: number for status, number in counts.by_status.items() if number} == {
            S.SUBMITTED: 2,
            S.QUEUED: 3,
            S.CANCELLING: 1,
        }
        assert not any(status.final for status in counts.by_status)
        assert counts.oldest_queued_at == 7.0

    async def test_what_ended_in_a_time_the_latest_first(self, store: Store) -> None:
        for at, control in ((10.0, "a"), (20.0, "b"), (30.0, "a"), (40.0, "a")):
            (one,) = await running(store, execution(control=control, kind="tool" if at == 30.0 else "job"))
            await finished(store, one, S.FAILED if at == 20.0 else S.COMPLETED, at)
        ended = await store.ended(10.0, 40.0)
        assert [(one.ended_at, one.status) for one in ended] == [
            (30.0, S.COMPLETED),
            (20.0, S.FAILED),
            (10.0, S.COMPLETED),
        ]
        assert [one.error_type for one in ended] == [None, str(FAILURE.error_type), None]
        assert [one.ended_at for one in await store.ended(0.0, 99.0, control="a", kind="job")] == [40.0, 10.0]
        assert [one.ended_at for one in await store.ended(0.0, 99.0, limit=1)] == [40.0]

    # -- reading events

    async def test_events_are_read_in_parts(self, store: Store) -> None:
        (one,) = await store.submit([execution()])
        types = [EventType.LOG, EventType.ACTION, EventType.LOG, EventType.PROGRESS]
        await change(store, transitions.note(one.id, [NewEvent(type_, "") for type_ in types]))
        assert [event.seq for event in await store.events(one.id, after=1)] == [2, 3, 4]
        assert [event.seq for event in await store.events(one.id, after=1, limit=2)] == [2, 3]
        noise = frozenset({EventType.LOG, EventType.PROGRESS})
        assert [event.seq for event in await store.events(one.id, types=noise)] == [1, 3, 4]
        assert [event.seq for event in await store.events(one.id, types=noise, after=1, limit=1)] == [3]

    async def test_executions_are_listed_youngest_first_in_pages(self, store: Store) -> None:
        submitted = [execution(labels={"odd": str(number % 2)}) for number in range(7)]
        kept = await store.submit(submitted)
        wanted = ExecutionFilter(labels={"odd": "0"})
        first = await store.find(wanted, limit=2)
        assert first == [bare(kept[6]), bare(kept[4])]
        assert ids(await store.find(wanted, limit=2, before=first[-1].id)) == ids([kept[2], kept[0]])
        assert await store.find(wanted, before=kept[0].id) == []

    @settings(max_examples=100, deadline=None, suppress_health_check=SUPPRESSED)
    @given(data=st.data())
    async def test_a_list_holds_what_matches_and_nothing_else(
        self, store: Store, data: st.DataObject
    ) -> None:
        mark = new_id()
        kept = [await _placed(store, data, mark) for _ in range(data.draw(st.integers(0, 5)))]
        wanted = data.draw(_execution_filters)
        found = await store.find(replace(wanted, labels={**(wanted.labels or {}), "mark": mark}))
        assert found == [bare(one) for one in reversed(kept) if _matches(one, wanted)]

    @settings(max_examples=150, deadline=None, suppress_health_check=SUPPRESSED)
    @given(data=st.data())
    async def test_a_query_of_events_holds_what_matches_and_nothing_else(
        self, store: Store, data: st.DataObject
    ) -> None:
        """Feature: execution-engine, Property 25: a log query returns only entries that match all its filters."""
        mark = new_id()
        kept = {one.id: one for one in [await _placed(store, data, mark) for _ in range(3)]}
        drafts = st.lists(_drafts, max_size=4)
        events: list[Event] = []
        for one in kept.values():
            await store.apply([transitions.note(one.id, data.draw(drafts))])
            events += await store.events(one.id)
        wanted = data.draw(_event_filters(list(kept)))
        found = await store.query_events(wanted, limit=100_000)
        mine = [event for event in found if event.execution_id in kept]
        assert all(_event_matches(event, wanted) for event in found)
        expected = [
            event
            for event in events
            if _event_matches(event, wanted)
            and (wanted.control is None or kept[event.execution_id].control == wanted.control)
            and (not wanted.statuses or kept[event.execution_id].status in wanted.statuses)
        ]
        assert sorted(mine, key=_place) == sorted(expected, key=_place)
        assert [event.at for event in found] == sorted((event.at for event in found), reverse=True)
        for other in {event.execution_id for event in found} - set(kept):
            whole = await store.get(other)
            assert wanted.control in (None, whole.control)
            assert not wanted.statuses or whole.status in wanted.statuses

    async def test_a_query_of_events_is_limited_to_the_latest(self, store: Store) -> None:
        (one,) = await store.submit([execution()])
        drafts = [NewEvent(EventType.LOG, str(at), at=FAR + at) for at in (3, 1, 2)]
        await change(store, transitions.note(one.id, drafts))
        found = await store.query_events(EventFilter(), limit=2)
        assert [event.message for event in found] == ["3", "2"]

    # -- forgetting

    async def test_what_is_old_is_removed_and_nothing_else(self, store: Store) -> None:
        started = await running(store, *(execution(labels={"a": "b"}) for _ in range(4)))
        logs = [NewEvent(EventType.LOG, "line"), NewEvent(EventType.PROGRESS, "half")]
        await store.apply([transitions.note(one.id, logs) for one in started])
        oldest, older, young, active = started
        for one, at in ((oldest, 10.0), (older, 20.0), (young, 30.0)):
            await finished(store, one, at=at)
        before = {one.id: await store.events(one.id) for one in started}

        assert await store.prune(noise_before=10.0, all_before=10.0) == (0, 0)
        assert await store.prune(noise_before=25.0, all_before=5.0) == (4, 0)
        assert await store.prune(noise_before=25.0, all_before=5.0) == (0, 0)
        for one in (oldest, older):
            events, kept = await store.events(one.id), await store.get(one.id)
            assert events == [event for event in before[one.id] if event.type in AUDITED]
            assert verify_chain(events, kept.chain) == ""
        for one in (young, active):
            assert await store.events(one.id) == before[one.id]

        assert await store.prune(noise_before=5.0, all_before=15.0) == (4, 1)
        with pytest.raises(UnknownExecution):
            await store.get(oldest.id)
        assert await store.events(oldest.id) == []
        assert await store.attempts(oldest.id) == []
        remaining = await store.find(ExecutionFilter(labels={"a": "b"}))
        assert ids(remaining) == ids([active, young, older])

    async def test_pruning_stops_at_its_limit(self, store: Store) -> None:
        for one in await running(store, *(execution() for _ in range(5))):
            await finished(store, one)
        assert (await store.prune(noise_before=0.0, all_before=FAR, limit=3))[1] == 3
        assert (await store.prune(noise_before=0.0, all_before=FAR, limit=3))[1] == 2
        assert await store.find(ExecutionFilter()) == []

    # -- workers

    async def test_a_worker_that_changes_keeps_what_it_reserves(self, store: Store) -> None:
        await store.put_worker(worker())
        await running(store, execution(), execution())
        changed = worker(
            capacity=Resources(2.5, 1),
            slots=7,
            kinds=frozenset({"a", "b"}),
            state=WorkerState.DRAINING,
            host="h",
        )
        await store.put_worker(changed)
        assert await store.workers() == []
        (kept,) = await store.workers(active_only=False)
        assert kept == replace(changed, reserved=NEEDS + NEEDS, running=2)

    async def test_workers_come_in_the_order_in_which_they_came(self, store: Store) -> None:
        for name, at in (("b", 2.0), ("a", 3.0), ("c", 1.0)):
            await store.put_worker(worker(name, started_at=at))
        assert [one.id for one in await store.workers()] == ["c", "b", "a"]

    async def test_a_lost_worker_stays_lost(self, store: Store) -> None:
        await store.put_worker(worker("late", lease_until=100.0))
        await store.put_worker(worker("idle", lease_until=100.0))
        await store.put_worker(worker("well", lease_until=100.0))
        await running(store, execution(), worker_id="late")
        (held,) = await running(store, execution(), worker_id="well")
        assert await store.beat("well", 200.0)
        assert await store.expire_workers({}) == []
        seen = {"late": 100.0, "idle": 100.0, "well": 100.0}
        assert await store.expire_workers(seen) == ["late"], (
            "the lease of 'well' was renewed since it was seen"
        )
        assert await store.expire_workers({}) == ["late"], "as long as it holds work"
        assert not await store.beat("late", 500.0)
        assert not await store.beat("nobody", 500.0)
        await store.put_worker(worker("late", lease_until=FAR))
        states = {one.id: one.state for one in await store.workers(active_only=False)}
        assert states == {"late": WorkerState.LOST, "idle": WorkerState.LOST, "well": WorkerState.ACTIVE}
        assert ids(await store.held("well")) == [held.id]

    async def test_a_lost_worker_is_named_until_its_work_is_taken_from_it(self, store: Store) -> None:
        await store.put_worker(worker(lease_until=100.0))
        (one,) = await running(store, execution())
        assert await store.expire_workers({"w": 100.0}) == ["w"]
        await change(store, transitions.retry(one, FAILURE, FAR, ending=AttemptEnd.LOST))
        assert await store.expire_workers({"w": 100.0}) == []

    async def test_a_worker_that_is_gone_or_drains(self, store: Store) -> None:
        await store.put_worker(worker("drains", state=WorkerState.DRAINING, lease_until=100.0))
        assert await store.beat("drains", 200.0)
        await store.put_worker(worker("gone", state=WorkerState.GONE, lease_until=100.0))
        assert [(one.id, one.lease_until) for one in await store.living_workers()] == [("drains", 200.0)]
        assert not await store.beat("gone", 200.0)
        assert (await look(store)).workers == ()

    @settings(max_examples=60, deadline=None, suppress_health_check=SUPPRESSED)
    @given(data=st.data())
    async def test_reservations_are_the_sum_of_what_is_held(self, store: Store, data: st.DataObject) -> None:
        names = [f"{new_id()}-{number}" for number in range(2)]
        for name in names:
            await store.put_worker(worker(name))
        amounts = st.builds(Resources, st.sampled_from([0.1, 0.2, 1.0]), st.integers(0, 9), st.integers(0, 3))
        kept = [execution(granted=data.draw(amounts)) for _ in range(3)]
        await store.submit(kept)
        for _ in range(data.draw(st.integers(1, 12))):
            one = await store.get(data.draw(st.sampled_from(ids(kept))))
            possible = _steps(one, data.draw(st.sampled_from(names)), data.draw(amounts))
            await store.apply([data.draw(st.sampled_from(possible))])
        for holder in await store.workers():
            if holder.id in names:
                held = await store.held(holder.id)
                assert holder.running == len(held)
                assert holder.reserved.amounts() == pytest.approx(total(x.granted for x in held).amounts())

    # -- schedules, batches, settings

    async def test_schedules_are_kept_replaced_and_removed(self, store: Store) -> None:
        first = CronSchedule(
            "b", "0 3 * * *", "Europe/Berlin", {"kind": "job", "request": {"x": HARD}}, 5.5, 1.0
        )
        await store.put_schedule(first)
        await store.put_schedule(CronSchedule("a", "* * * * *", "UTC", {}, None, 2.0, 3.0, "id", paused=True))
        second, kept = await store.schedules()
        assert (kept, second.id, second.paused, second.last_at) == (first, "a", True, 3.0)
        await store.put_schedule(replace(first, cron="1 3 * * *"))
        assert (await store.schedules())[1].cron == "1 3 * * *"
        assert await store.remove_schedule("a")
        assert not await store.remove_schedule("a")
        assert [one.id for one in await store.schedules()] == ["b"]

    async def test_a_schedule_fires_once_however_many_try(self, store: Store, peer: Store) -> None:
        before = CronSchedule("s", "* * * * *", "UTC", {}, 60.0, 1.0)
        await store.put_schedule(before)

        async def fire(at: Store) -> bool:
            one = execution(schedule_id="s")
            after = replace(before, next_at=120.0, last_at=60.0, last_execution_id=one.id)
            return await at.fire(before, after, one)

        fired = await asyncio.gather(*(fire(at) for at in (store, peer) * 8))
        assert fired.count(True) == 1
        (submitted,) = await store.find(ExecutionFilter(schedule_id="s"))
        (kept,) = await store.schedules()
        assert (kept.next_at, kept.last_at, kept.last_execution_id) == (120.0, 60.0, submitted.id)

    async def test_a_schedule_that_is_gone_does_not_fire(self, store: Store) -> None:
        before = CronSchedule("s", "* * * * *", "UTC", {}, 60.0, 1.0)
        assert not await store.fire(before, replace(before, next_at=120.0), execution())
        assert await store.find(ExecutionFilter()) == []
        assert await store.schedules() == []

    async def test_a_schedule_does_not_move_on_where_its_work_is_refused(self, store: Store) -> None:
        before = CronSchedule("s", "* * * * *", "UTC", {}, 60.0, 1.0)
        await store.put_schedule(before)
        (taken,) = await store.submit([execution()])
        with pytest.raises(StoreConflict):
            await store.fire(before, replace(before, next_at=120.0), execution(id=taken.id))
        assert await store.schedules() == [before]

    async def test_a_batch_comes_whole_or_not_at_all(self, store: Store) -> None:
        batch = Batch("b1", "nightly", 10.0, 2, 1.0, FAR)
        parts = [execution(batch_id="b1"), execution(batch_id="b1")]
        kept = await store.put_batch(batch, parts)
        assert ids(kept) == ids(parts)
        assert await store.batch("b1") == batch
        assert ids(await store.find(ExecutionFilter(batch_id="b1"))) == ids(reversed(parts))
        with pytest.raises(StoreConflict):
            await store.put_batch(replace(batch, id="b2"), [execution(batch_id="b2"), parts[0]])
        assert await store.batch("b2") is None
        assert await store.find(ExecutionFilter(batch_id="b2")) == []
        with pytest.raises(StoreConflict, match="b1"):
            await store.put_batch(batch, [execution()])

    async def test_batches_are_listed_the_youngest_first(self, store: Store) -> None:
        for name, at in (("x", 1.0), ("z", 2.0), ("y", 3.0)):
            await store.put_batch(Batch(name, "", at, 0), [])
        assert [one.id for one in await store.batches()] == ["y", "z", "x"]
        assert [one.id for one in await store.batches(limit=1)] == ["y"]

    async def test_settings_are_shared(self, store: Store, peer: Store) -> None:
        assert await store.get_setting("limit") is None
        for value in ({"a": [1, HARD]}, 0, False, "", None):
            await store.put_setting("limit", value)
            assert await peer.get_setting("limit") == value

    # -- being told

    async def test_the_first_look_at_a_topic_never_waits(self, store: Store) -> None:
        async with asyncio.timeout(WAKE_S):
            for topic in ("queue", "worker:w", "execution:e"):
                assert await store.changed(topic, 0) != 0

    async def test_news_between_two_looks_is_not_missed(self, store: Store, peer: Store) -> None:
        seen = await store.changed("queue", 0)
        await peer.submit([execution()])
        async with asyncio.timeout(WAKE_S):
            await store.changed("queue", seen)

    @pytest.mark.parametrize("ours", [True, False], ids=["this process", "another process"])
    async def test_who_waits_is_woken_by_what_concerns_it(
        self, store: Store, peer: Store, ours: bool
    ) -> None:
        at = store if ours else peer
        await store.put_worker(worker())

        async with asyncio.timeout(WAKE_S):
            (one,) = await _woken(store, "queue", at.submit([execution()]))
            topic = f"execution:{one.id}"
            await _woken(store, "queue", at.apply([transitions.release(one, 5.0)]))
            (started,) = await _woken(
                store, "worker:w", at.schedule(RoundScope(), lambda shown: _start_all(shown, "w"))
            )
            held = started.after
            log = transitions.note(one.id, [NewEvent(EventType.LOG, "line")])
            await _woken(store, topic, at.apply([log]))
            await _woken(store, "worker:w", at.apply([transitions.preempt(held, "other")]))
            await _woken(store, "worker:w", at.apply([transitions.cancel_running(held, "", "somebody")]))
            finish = transitions.finish_cancelled(held, 9.0, (), None)
            await _woken(store, f"ended:{one.id}", at.apply([finish]))
            (other,) = await running(store, execution())
            await _woken(store, "queue", at.apply([transitions.finish(other, 9.0, S.COMPLETED)]))

    async def test_no_wake_is_missed_under_load(self, store: Store, peer: Store) -> None:
        (one,) = await store.submit([execution()])
        lines = 60

        async def follow() -> int:
            last, seen = 0, 0
            while last < lines:
                seen = await store.changed(f"execution:{one.id}", seen)
                events = await store.events(one.id, after=last)
                last = events[-1].seq if events else last
            return last

        async def write(at: Store) -> None:
            for _ in range(lines // 2):
                await at.apply([transitions.note(one.id, [NewEvent(EventType.LOG, "")])])

        async with asyncio.timeout(WAKE_S * 2):
            last, *_ = await asyncio.gather(follow(), write(store), write(peer))
        assert last == lines

    async def test_closing_is_repeatable_and_keeps_what_was_acknowledged(
        self, store: Store, peer: Store
    ) -> None:
        (kept,) = await store.submit([execution()])
        if peer is not store:
            await store.close()
            await store.close()
        assert await peer.get(kept.id) == kept


async def _woken(store: Store, topic: str, doing: Any) -> Any:
    """Do something that must wake who waits for a topic."""
    seen = await store.changed(topic, 0)
    waiting = asyncio.ensure_future(store.changed(topic, seen))
    await asyncio.sleep(0)
    done = await doing
    await waiting
    return done


def _start_all(shown: Round, worker_id: str) -> list[Change]:
    return [transitions.start(one, worker_id, shown.now) for one in shown.waiting]


def _steps(one: Execution, worker_id: str, amount: Resources) -> list[Change]:
    """Return the changes that may come next."""
    if one.status is S.SUBMITTED:
        return [transitions.release(one, 5.0), transitions.cancel_waiting(one, "", 6.0, "test")]
    if one.status is S.QUEUED:
        return [transitions.start(one, worker_id, 6.0)] * 3 + [
            transitions.cancel_waiting(one, "", 6.0, "test")
        ]
    if one.status is S.RUNNING:
        return [
            transitions.finish(one, 7.0, S.COMPLETED),
            transitions.retry(one, FAILURE, 1.0, granted=amount),
            transitions.give_back(one, "test"),
            transitions.requeue_preempted(one, (), None),
            transitions.cancel_running(one, "", "test"),
            transitions.note(one.id, [], token=one.token, progress=0.5),
        ]
    if one.status is S.CANCELLING:
        return [transitions.finish_cancelled(one, 8.0, (), None)]
    return [transitions.note(one.id, [NewEvent(EventType.LOG, "")])]


# -- filters

_CONTROLS = st.sampled_from(["python", "latex", "o'clock"])
_MOMENTS = st.sampled_from([5.0, 10.0, 15.0, 20.0])
_STATUSES = st.frozensets(st.sampled_from(list(S)), max_size=4)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_execution_filters = st.builds(
    ExecutionFilter,
    statuses=_STATUSES,
    kind=_maybe(st.sampled_from(["job", "tool"])),
    control=_maybe(_CONTROLS),
    batch_id=_maybe(st.sampled_from("bc")),
    parent_id=_maybe(st.sampled_from("pq")),
    worker_id=_maybe(st.sampled_from(["w", "v", ""])),
    schedule_id=_maybe(st.sampled_from("st")),
    labels=_maybe(st.dictionaries(st.sampled_from(["l", "m"]), st.sampled_from("12"))),
    since=_maybe(_MOMENTS),
    until=_maybe(_MOMENTS),
    ended_since=_maybe(_MOMENTS),
    ended_until=_maybe(_MOMENTS),
    flagged=_maybe(st.booleans()),
)
_drafts = st.builds(
    NewEvent,
    st.sampled_from(EventType),
    st.text(max_size=3),
    data=st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    level=st.sampled_from(Level),
    component=st.sampled_from(["control", "agent-1", HARD]),
    at=_MOMENTS,
)


def _event_filters(known: list[str]) -> st.SearchStrategy[EventFilter]:
    return st.builds(
        EventFilter,
        execution_id=_maybe(st.sampled_from(known)),
        control=_maybe(_CONTROLS),
        component=_maybe(st.sampled_from(["control", "agent-1", HARD])),
        types=st.frozensets(st.sampled_from(EventType), max_size=4),
        levels=st.frozensets(st.sampled_from(Level), max_size=2),
        since=_maybe(_MOMENTS),
        until=_maybe(_MOMENTS),
        statuses=_STATUSES,
    )


async def _placed(store: Store, data: st.DataObject, mark: str) -> Execution:
    """Submit an execution somewhere, and move it somewhere."""
    one = execution(
        kind=data.draw(st.sampled_from(["job", "tool"])),
        control=data.draw(_CONTROLS),
        batch_id=data.draw(_maybe(st.sampled_from("bc"))),
        parent_id=data.draw(_maybe(st.sampled_from("pq"))),
        schedule_id=data.draw(_maybe(st.sampled_from("st"))),
        labels={"mark": mark}
        | data.draw(st.dictionaries(st.sampled_from(["l", "m"]), st.sampled_from("12"))),
        submitted_at=data.draw(_MOMENTS),
    )
    await store.submit([one])
    status = data.draw(st.sampled_from(S))
    update: dict[str, Any] = {"status": status, "flags": data.draw(st.sampled_from([(), (Flag.ESCALATED,)]))}
    if status in HELD:
        update["worker_id"] = data.draw(st.sampled_from(["w", "v"]))
    if status.final:
        update["ended_at"] = data.draw(_MOMENTS)
    return (await change(store, Change(one.id, update=update))).after


def _matches(one: Execution, wanted: ExecutionFilter) -> bool:
    exact = ("kind", "control", "batch_id", "parent_id", "worker_id", "schedule_id")
    return (
        (not wanted.statuses or one.status in wanted.statuses)
        and all(getattr(wanted, name) in (None, getattr(one, name)) for name in exact)
        and (wanted.labels or {}).items() <= dict(one.labels).items()
        and (wanted.since is None or one.submitted_at >= wanted.since)
        and (wanted.until is None or one.submitted_at < wanted.until)
        and (wanted.ended_since is None or (one.ended_at is not None and one.ended_at >= wanted.ended_since))
        and (wanted.ended_until is None or (one.ended_at is not None and one.ended_at < wanted.ended_until))
        and (wanted.flagged is None or bool(one.flags) is wanted.flagged)
    )


def _event_matches(event: Event, wanted: EventFilter) -> bool:
    return (
        wanted.execution_id in (None, event.execution_id)
        and wanted.component in (None, event.component)
        and (not wanted.types or event.type in wanted.types)
        and (not wanted.levels or event.level in wanted.levels)
        and (wanted.since is None or event.at >= wanted.since)
        and (wanted.until is None or event.at < wanted.until)
    )


def _place(event: Event) -> tuple[str, int]:
    return event.execution_id, event.seq
