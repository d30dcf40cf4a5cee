"""Changes are settled alike by every store: what holds, what comes of it, and what the audit proves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.model import AUDITED, AttemptEnd, Event, EventType, Execution, NewEvent, Options
from praxis_sdk.resources import Resources
from praxis_sdk.states import FINAL, ExecutionStatus
from praxis_sdk.store.changes import Change, Reservations, apply_change, created, verify_chain

S = ExecutionStatus
ONE_CORE = Resources(cpu_cores=1.0, memory_mb=64)


def execution(**fields: object) -> Execution:
    new = Execution(
        "e",
        "job",
        "python",
        {"code": "1"},
        Options(requirements=ONE_CORE),
        submitted_at=1.0,
        granted=ONE_CORE,
    )
    return created(new.but(**fields), 1.0).after


def test_a_change_holds_only_where_the_execution_stands_so() -> None:
    queued = execution(status=S.QUEUED)
    assert apply_change(queued, Change("e", frozenset({S.RUNNING}), update={"progress": 0.5}), 2.0) is None
    settled = apply_change(queued, Change("e", frozenset({S.QUEUED}), update={"progress": 0.5}), 2.0)
    assert settled is not None
    assert (settled.before, settled.after.progress, settled.events) == (queued, 0.5, ())


@pytest.mark.parametrize("token", [0, 2])
def test_the_word_of_another_attempt_is_not_heard(token: int) -> None:
    running = execution(status=S.RUNNING, token=1)
    assert apply_change(running, Change("e", token=token, update={"status": S.FAILED}), 2.0) is None


@pytest.mark.parametrize("status", sorted(FINAL))
def test_what_has_ended_takes_events_alone(status: ExecutionStatus) -> None:
    ended = execution(status=status)
    assert apply_change(ended, Change("e", update={"status": S.QUEUED}), 2.0) is None
    settled = apply_change(ended, transitions.note("e", [NewEvent(EventType.LOG, "late")]), 2.0)
    assert settled is not None
    assert settled.after == ended.but(next_seq=ended.next_seq + 1)


def test_a_change_of_status_comes_before_what_it_tells() -> None:
    running = execution(status=S.RUNNING, worker_id="w", token=1, attempt=1, attempt_at=2.0)
    finish = transitions.finish(running, 5.0, S.COMPLETED, events=[NewEvent(EventType.PROOF, "dead")])
    settled = apply_change(running, finish, 5.0)
    assert settled is not None
    assert [event.message for event in settled.events] == ["completed", "dead"]
    assert [event.seq for event in settled.events] == [1, 2]
    assert settled.attempt is not None
    attempt = settled.attempt
    assert (attempt.worker_id, attempt.started_at, attempt.ended_at) == ("w", 2.0, 5.0)
    assert attempt.ending is AttemptEnd.COMPLETED


def test_a_worker_gets_back_what_was_reserved_for_an_execution() -> None:
    queued = execution(status=S.QUEUED)
    start = apply_change(queued, transitions.start(queued, "w", 2.0), 2.0)
    assert start is not None
    raised = start.after.but(granted=ONE_CORE)
    retry = apply_change(
        raised, Change("e", update={"status": S.SUBMITTED, "granted": ONE_CORE.scaled(2)}), 3.0
    )
    assert retry is not None
    reservations = Reservations()
    reservations.note(start)
    assert reservations.held == {"w": (ONE_CORE, 1)}
    reservations.note(retry)
    assert reservations.held == {"w": (Resources(), 0)}


def test_what_a_worker_goes_on_holding_is_reserved_once() -> None:
    running = execution(status=S.RUNNING, worker_id="w")
    cancel = apply_change(running, transitions.cancel_running(running, "", "somebody"), 2.0)
    assert cancel is not None
    reservations = Reservations()
    reservations.note(cancel)
    assert reservations.held == {}


_drafts = st.lists(
    st.builds(
        NewEvent,
        st.sampled_from(EventType),
        st.text(st.characters(), max_size=5),
        st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=2),
        at=st.none() | st.integers(0, 9) | st.floats(0, 1e10),
    ),
    max_size=8,
)


def stream(drafts: list[NewEvent]) -> tuple[Execution, list[Event]]:
    new = Execution("e", "job", "python", None, Options(), 1.0)
    settled = created(new, 1.0, drafts)
    return settled.after, list(settled.events)


@given(_drafts)
def test_an_untouched_stream_is_proven(drafts: list[NewEvent]) -> None:
    kept, events = stream(drafts)
    assert [event.seq for event in events] == list(range(kept.next_seq))
    assert verify_chain(events, kept.chain) == ""
    audited = [event for event in events if event.type in AUDITED]
    assert verify_chain(audited, kept.chain) == "", "noise may go"


@given(_drafts, st.data())
def test_an_entry_altered_or_removed_is_found(drafts: list[NewEvent], data: st.DataObject) -> None:
    kept, events = stream(drafts)
    audited = [event for event in events if event.type in AUDITED]
    position = data.draw(st.integers(0, len(audited) - 1))
    entry = audited[position]
    forged = data.draw(
        st.sampled_from(
            [
                [],
                [replace(entry, message=entry.message + "x")],
                [replace(entry, at=entry.at + 1)],
                [replace(entry, data={**entry.data, "more": 1})],
                [replace(entry, component="other")],
                [entry, entry],
            ]
        )
    )
    assert verify_chain([*audited[:position], *forged, *audited[position + 1 :]], kept.chain) != ""
