"""What people are told of, and how often."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.control.observe import alerts
from praxis_sdk.control.observe.alerts import Alert, AlertKind, AlertPolicy, QueueWatch, Raised
from praxis_sdk.control.workers.breaker import BreakerChange, BreakerState
from praxis_sdk.model import EventType, Flag, Level, Options
from praxis_sdk.states import ErrorType, ExecutionStatus
from praxis_sdk.store.changes import apply_change
from tests.control.failure_samples import ASKED, NOW, Life, execution, failure


def running(expected_s: float | None, **fields: Any) -> Life:
    life = Life.of(execution(terms=Options(ASKED, expected_s=expected_s), **fields))
    life.start()
    return life


@given(
    st.one_of(st.none(), st.floats(0.001, 1e5)),
    st.floats(0, 1e6),
    st.sampled_from(["running", "cancelling", "completed", "failed", "queued", "retried"]),
)
@settings(max_examples=300)
def test_what_takes_twice_as_long_is_flagged_once(
    expected_s: float | None, elapsed_s: float, state: str
) -> None:
    """Feature: execution-engine, Property 23: Long-Running Execution Alerting

    For any execution whose duration exceeds 2x the expected duration for its control type, the Execution_Monitor
    should generate an alert and flag the execution for investigation.
    """
    life = running(expected_s)
    began = life.now
    if state == "retried":
        life.fail(failure(ErrorType.CRASH))  # a duration counts from the first attempt on
        life.start()
        elapsed_s += life.now - began
    life.now = began + elapsed_s
    if state == "cancelling":
        life.apply(transitions.cancel_running(life.execution, "", "someone"))
    elif state in ("completed", "failed"):
        life.apply(transitions.finish(life.execution, life.now, ExecutionStatus(state)))
    elif state == "queued":
        life.apply(transitions.give_back(life.execution, "drained"))
    now = life.now if state != "completed" else life.now + 1e9  # one that has ended takes no longer
    found = alerts.long_running([life.execution], now)
    elapsed = life.execution.elapsed_s(now)
    due = expected_s is not None and elapsed > 2 * expected_s and state != "queued"
    assert len(found) == due
    for alert, change in found:
        assert (alert.kind, alert.execution_id) == (AlertKind.LONG_RUNNING, "e1")
        before = life.execution.flags
        settled = life.apply(change)
        assert life.execution.flags == (*before, Flag.LONG_RUNNING)
        assert [event.type for event in settled.events] == [EventType.ALERT]
        assert settled.events[0].data["expected_s"] == expected_s
    assert alerts.long_running([life.execution], now + 1e9) == [] or not due


def test_what_runs_for_less_than_anybody_would_look_at_is_passed_over() -> None:
    policy = AlertPolicy(long_running_least_s=1.0)
    life = running(0.01)
    life.now = life.execution.started_at + 0.9
    assert alerts.long_running([life.execution], life.now, policy) == []
    assert len(alerts.long_running([life.execution], life.now + 0.2, policy)) == 1


def test_of_two_monitors_the_second_sees_that_it_was_flagged() -> None:
    life = running(1.0)
    life.now += 10
    [(_, first)], [(_, second)] = (alerts.long_running([life.execution], life.now) for _ in range(2))
    assert Flag.LONG_RUNNING not in life.apply(first).before.flags
    again = life.apply(second)
    assert Flag.LONG_RUNNING in again.before.flags
    assert again.after.flags == (Flag.LONG_RUNNING,)


def test_a_flag_that_came_meanwhile_is_not_lost() -> None:
    life = running(1.0)
    life.now += 10
    [(_, change)] = alerts.long_running([life.execution], life.now)
    life.fail(failure(ErrorType.CRASH))
    assert apply_change(life.execution, change, life.now) is None
    life.start()
    assert apply_change(life.execution, change, life.now) is None
    assert life.execution.flags == (Flag.CRASHED,)


@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(1, 2000))
@settings(max_examples=200)
def test_a_queue_that_hovers_around_its_threshold_tells_once(depths: list[int], threshold: int) -> None:
    policy = AlertPolicy(queue_depth=threshold, queue_cleared=0.5)
    watch, told, armed = QueueWatch(), 0, True
    for depth in depths:
        watch, alert = watch.look(depth, NOW, policy)
        if alert is not None:
            assert armed
            assert depth > threshold
            assert alert.data["depth"] == depth
            armed = False
            told += 1
        elif depth <= threshold * 0.5:
            armed = True
        else:
            assert not armed or depth <= threshold
    assert told <= sum(depth > threshold for depth in depths)


def test_the_same_trouble_is_told_again_after_an_hour() -> None:
    lost = alerts.worker_lost("w1", ["e1", "e2"], NOW)
    raised, fresh = Raised().fresh([lost, lost])
    assert fresh == [lost]
    raised, fresh = raised.fresh([alerts.worker_lost("w1", [], NOW + 3599)])
    assert fresh == []
    raised, fresh = raised.fresh([alerts.worker_lost("w2", [], NOW + 3599)])
    assert [alert.subject for alert in fresh] == ["w2"]
    raised, fresh = raised.fresh([alerts.worker_lost("w1", [], NOW + 3600)])
    assert [alert.subject for alert in fresh] == ["w1"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20)), max_size=60))
@settings(max_examples=200)
def test_within_the_pause_a_key_is_told_at_most_once(seen: list[tuple[str, int]]) -> None:
    policy = AlertPolicy(repeat_s=5)
    raised, told = Raised(), []
    for worker, at in sorted(seen, key=lambda one: one[1]):
        raised, fresh = raised.fresh([alerts.worker_lost(worker, [], float(at))], policy)
        told += fresh
    for worker in "abcd":
        times = [alert.at for alert in told if alert.subject == worker]
        assert all(later - earlier >= 5 for earlier, later in pairwise(times))
        assert bool(times) == any(one == worker for one, _ in seen)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "MAX_RAISED", 3)
    raised, fresh = Raised().fresh(alerts.worker_lost(f"w{number}", [], NOW) for number in range(10))
    assert len(fresh) == 10
    assert list(raised.at) == ["worker_lost:w7", "worker_lost:w8", "worker_lost:w9"]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("closed", "open", True),
        ("half_open", "open", False),
        ("open", "half_open", False),
        ("half_open", "closed", False),
    ],
)
def test_a_breaker_tells_when_it_opens_and_not_at_every_probe(before: str, after: str, told: bool) -> None:
    change = BreakerChange("mcp", BreakerState(before), BreakerState(after), 51, 100)
    alert = alerts.breaker_opened(change, NOW)
    assert (alert is not None) == told
    if alert is not None:
        assert "51 of the last 100" in alert.message


def test_an_escalation_says_what_failed() -> None:
    life = Life.of(execution()).run([failure(ErrorType.TRANSIENT)] * 4)
    assert life.execution.failure is not None
    alert = alerts.retries_exhausted(life.execution, life.execution.failure, life.now)
    assert alert.level is Level.ERROR
    assert alert.data["attempts"] == 4
    assert alert.key == "retries_exhausted:e1"


def test_alerts_are_json_and_events() -> None:
    alert = Alert(AlertKind.QUEUE_DEPTH, "queue", "too many", NOW, data={"depth": 7})
    assert json.loads(json.dumps(alert.to_json()))["data"] == {"depth": 7}
    draft = alerts.draft_of(alert)
    assert (draft.type, draft.data, draft.at) == (EventType.ALERT, {"alert": "queue_depth", "depth": 7}, NOW)
