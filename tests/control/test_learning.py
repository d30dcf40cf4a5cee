"""Learning: what history says of needs and durations, and how far it is believed."""

from __future__ import annotations

import math
import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.scheduling.estimates import RULES, Estimate, LearningRules, learn
from praxis_sdk.control.scheduling.scheduler import decide
from praxis_sdk.model import Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionStatus
from praxis_sdk.store.protocol import FinishedExecution, Round
from tests.control.rounds import NOW, cores, in_order, queued, worker

MIB = 1 << 20
ASKED = Resources(cpu_cores=2, memory_mb=1024, network_mbps=100, gpus=1, storage_mb=512)


def ended(
    seconds: float,
    *,
    memory_mb: float | None = None,
    cpu_s: float | None = None,
    status: ExecutionStatus = ExecutionStatus.COMPLETED,
    error: ErrorType | None = None,
    control: str = "c",
) -> FinishedExecution:
    memory = None if memory_mb is None else round(memory_mb * MIB)
    usage = Usage(seconds, cpu_s, memory, network_bytes=round(seconds * 1e6), storage_bytes=100 * MIB)
    return FinishedExecution("job", control, status, error, NOW, NOW, NOW + seconds, usage, 0)


def test_too_few_executions_teach_nothing() -> None:
    lesson = learn([ended(5, memory_mb=10, cpu_s=1)] * (RULES.least_samples - 1))
    assert lesson.expected_s is None
    assert lesson.recommended(ASKED) == ASKED


def test_what_all_got_along_with_is_recommended_with_headroom() -> None:
    lesson = learn([ended(10, memory_mb=1000, cpu_s=10)] * 20)
    assert lesson.expected_s == 10
    assert lesson.memory_mb == 1200
    assert lesson.cpu_cores == 1.2
    assert lesson.network_mbps == 10
    assert lesson.storage_mb == 128


def test_a_rare_giant_does_not_set_the_recommendation() -> None:
    history = [ended(10, memory_mb=1000)] * 99 + [ended(10, memory_mb=50_000)]
    assert learn(history).memory_mb == 1200


def test_a_recommendation_stays_near_what_was_asked_for() -> None:
    assert Estimate(memory_mb=10).recommended(ASKED).memory_mb == 256
    assert Estimate(memory_mb=10**6).recommended(ASKED).memory_mb == 4096
    assert Estimate(memory_mb=640).recommended(ASKED).memory_mb == 640


def test_nothing_is_reserved_of_what_was_not_asked_for() -> None:
    lesson = Estimate(cpu_cores=2, memory_mb=100, network_mbps=5, storage_mb=3)
    assert lesson.recommended(Resources()) == Resources()


def test_graphics_processors_stay_as_they_were_asked_for() -> None:
    assert learn([ended(1, memory_mb=1, cpu_s=1)] * 50).recommended(ASKED).gpus == 1


def test_failures_teach_no_duration() -> None:
    failed = ended(1, status=ExecutionStatus.FAILED, error=ErrorType.PERMANENT)
    assert learn([failed] * 50 + [ended(30)] * 20).expected_s == 30


def test_what_was_killed_for_want_of_memory_needed_at_least_what_it_had() -> None:
    killed = ended(1, memory_mb=2048, status=ExecutionStatus.FAILED, error=ErrorType.RESOURCE)
    lesson = learn([killed] * 5 + [ended(10, memory_mb=100)] * 40)
    assert lesson.memory_mb is not None
    assert lesson.memory_mb >= 2048


def test_only_the_latest_count() -> None:
    rules = LearningRules(most_samples=20)
    assert learn([ended(5)] * 20 + [ended(500)] * 100, rules).expected_s == 5


def test_unknown_usage_teaches_duration_alone() -> None:
    history = [
        FinishedExecution("job", "c", ExecutionStatus.COMPLETED, None, NOW, NOW, NOW + 7, None, 0)
    ] * 20
    assert learn(history) == Estimate(samples=20, expected_s=7)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 10_000), st.floats(0, 100_000), st.floats(0, 8)), min_size=20, max_size=200
    ),
    st.builds(
        Resources,
        cpu_cores=st.floats(0.1, 16),
        memory_mb=st.integers(1, 65_536),
        gpus=st.integers(0, 2),
    ),
)
def test_property_32_history_decides_what_is_reserved(made, asked: Resources) -> None:
    """Feature: execution-engine, Property 32: Metrics-Driven Resource Optimization.

    95 of 100 executions get along with what is recommended, unless that is too far from what was asked for;
    the expected duration is the median; the order of the history does not matter; and the scheduler packs by
    what was learned.
    """
    history = [ended(seconds, memory_mb=memory, cpu_s=busy * seconds) for seconds, memory, busy in made]
    lesson = learn(history)
    assert lesson == learn(history[::-1])
    assert lesson.expected_s == statistics.median(seconds for seconds, _, _ in made)
    got = lesson.recommended(asked)
    assert asked.memory_mb * RULES.least_share - 1 <= got.memory_mb <= asked.memory_mb * RULES.most_share + 1
    assert asked.cpu_cores * 0.249 <= got.cpu_cores <= asked.cpu_cores * 4.001
    assert got.gpus == asked.gpus
    if got.memory_mb < asked.memory_mb * RULES.most_share:
        enough = sum(memory <= got.memory_mb for _, memory, _ in made)
        assert enough >= math.floor(0.95 * len(made))
    if got.cpu_cores < asked.cpu_cores * RULES.most_share:
        assert sum(busy <= got.cpu_cores + 1e-6 for _, _, busy in made) >= math.floor(0.95 * len(made))
    host = worker("w", Resources(got.cpu_cores * 3.5, got.memory_mb * 4, 0, 3 * got.gpus))
    waiting = in_order(queued(f"e{number}", got) for number in range(5))
    assert decide(Round(NOW, (), waiting, (host,))).started == 3


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 1.9))
def test_property_32_more_runs_at_once_where_less_is_used_than_was_asked_for(busy: float) -> None:
    """Feature: execution-engine, Property 32: Metrics-Driven Resource Optimization (what it is good for)."""
    learned = learn([ended(10, memory_mb=100, cpu_s=10 * busy)] * 30).recommended(cores(4))
    host = worker("w", cores(16))

    def at_once(needs: Resources) -> int:
        waiting = in_order(queued(f"e{number}", needs) for number in range(40))
        return decide(Round(NOW, (), waiting, (host,))).started

    assert at_once(cores(4)) == 4
    assert at_once(learned) > 4
    assert learned.cpu_cores >= busy
