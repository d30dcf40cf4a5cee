"""Batch reports: every result, the numbers over them, and pages that nothing can break out of."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.control.observe.report_charts import bins, lanes_of
from praxis_sdk.control.observe.report_page import to_html
from praxis_sdk.control.observe.reports import BatchReport, Stretch, report_batch, seconds, to_markdown
from praxis_sdk.model import AttemptEnd, Batch, Options
from praxis_sdk.states import ErrorType, ExecutionStatus
from tests.control.failure_samples import ASKED, NOW, Life, execution, failure

HOSTILE = "<script>alert(1)</script>\"'&|`*_\n\x1b[31m\u202e\ud800"
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Reads a page, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def reported(lives: list[Life], **fields: Any) -> BatchReport:
    given_ = {"id": "b1", "name": "nightly", "created_at": NOW, "size": len(lives)}
    batch = Batch(**{**given_, **fields})
    attempts = {life.execution.id: life.attempts for life in lives}
    now = max((life.now for life in lives), default=NOW)
    return report_batch(batch, [life.execution for life in lives], attempts, now)


def lived(number: int, fate: str, text: str = "", worker: str = "w1") -> Life:
    life = Life.of(execution(f"e{number}", batch_id="b1", terms=Options(ASKED), submitted_at=NOW + number))
    life.now = NOW + number
    if fate == "waiting":
        return life
    if fate == "cancelled":
        life.apply(transitions.cancel_waiting(life.execution, text, life.now, "someone"))
        return life
    life.start(worker)
    if fate == "running":
        return life
    if fate == "retried":
        life.fail(failure(ErrorType.CRASH, message=text))
        life.start(worker)
    if fate in ("completed", "retried"):
        life.succeed({"text": text})
    else:
        why = failure(ErrorType.PERMANENT, message=text or "no")
        life.fail(why, timed_out=fate == "timed_out")
    return life


fates = st.lists(
    st.tuples(
        st.sampled_from(["waiting", "cancelled", "running", "retried", "completed", "failed", "timed_out"]),
        st.text(max_size=30) | st.just(HOSTILE),
        st.sampled_from(["w1", "w2", HOSTILE]),
    ),
    max_size=12,
)


@given(fates)
@settings(max_examples=200)
def test_a_report_has_every_result_and_adds_up(wanted: list[tuple[str, str, str]]) -> None:
    """Feature: execution-engine, Property 40: Batch Result Aggregation and Reporting

    For any batch execution completion, the Execution_Engine should aggregate results from all executions in the batch
    and generate a batch execution report containing summary statistics and individual execution results.
    """
    lives = [lived(number, *fate) for number, fate in enumerate(wanted)]
    report = reported(list(reversed(lives)))
    summary = report.summary
    assert [entry.id for entry in report.entries] == [life.execution.id for life in lives]
    for entry, life in zip(report.entries, lives, strict=True):
        one = life.execution
        assert (entry.status, entry.outputs, entry.attempts) == (one.status, one.outputs, one.attempt)
        assert (entry.error is not None) == (one.status in ("failed", "timed_out"))
        assert entry.ended_at == one.ended_at
    statuses = Counter(str(life.execution.status) for life in lives)
    assert summary.by_status == statuses
    assert summary.total == len(lives)
    assert summary.ended == sum(life.execution.status.final for life in lives)
    assert report.complete == all(life.execution.status.final for life in lives)
    good, bad = statuses["completed"], statuses["failed"] + statuses["timed_out"]
    if good + bad:
        assert summary.success_rate == pytest.approx(100 * good / (good + bad))
        assert summary.error_rate == pytest.approx(100 * bad / (good + bad))
    assert sum(summary.errors_by_type.values()) == bad
    durations = [entry.duration_s for entry in report.entries if entry.status.final and entry.duration_s]
    assert summary.total_duration_s == pytest.approx(sum(durations))
    assert summary.max_duration_s == max(durations, default=None)
    assert summary.retries == sum(life.execution.retries for life in lives)
    assert len(report.stretches) == sum(len(life.attempts) for life in lives)
    document = json.loads(json.dumps(report.to_json()))
    assert document["summary"]["total"] == len(document["executions"]) == len(lives)
    assert len(document["attempts"]) == len(report.stretches)
    page = Page(to_html(report))
    assert page.seen["tr"] == len(lives) + 1
    assert page.seen["script"] == 0
    rows = [line for line in to_markdown(report).splitlines() if re.match(r"\| e\d+ ", line)]
    assert len(rows) == len(lives)


def test_nothing_breaks_out_of_the_page() -> None:
    lives = [lived(0, "failed", HOSTILE, HOSTILE), lived(1, "completed", HOSTILE)]
    report = reported(lives, name=HOSTILE, id=HOSTILE)
    text = to_html(report)
    page = Page(text)
    structure = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "code",
        "dl",
        "div",
        "dt",
        "dd",
    }
    tables, drawings = {"table", "thead", "tbody", "tr", "th", "td", "span"}, {"svg", "text", "rect", "line"}
    assert set(page.seen) <= structure | tables | drawings
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src")]
    assert "default-src 'none'" in text
    for char in "\x1b\u202e":
        assert char not in text
    text.encode()  # half a surrogate pair would not go
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(drawing)


def test_nothing_breaks_out_of_a_markdown_table() -> None:
    lives = [lived(0, "failed", HOSTILE)]
    text = to_markdown(reported(lives, name=HOSTILE))
    row = next(line for line in text.splitlines() if line.startswith("| e0 "))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "<script" not in text.replace("\\<", "")
    text.encode()


def test_a_batch_that_is_over_its_window_says_so() -> None:
    lives = [lived(number, "completed") for number in range(4)]
    report = reported(lives, opens_at=NOW, closes_at=NOW + 4)
    assert report.summary.ended_late == 2
    assert "Ended after the window" in to_markdown(report)


def test_an_empty_batch_has_a_report() -> None:
    report = reported([])
    assert report.complete
    assert report.summary.success_rate is None
    assert "no executions" in to_html(report)
    assert to_markdown(report)


def test_a_batch_of_which_a_part_is_missing_is_not_complete() -> None:
    assert not reported([lived(0, "completed")], size=2).complete


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
@settings(max_examples=200)
def test_bins_hold_every_duration(values: list[float]) -> None:
    edges = bins(values)
    assert 2 <= len(edges) <= 22
    assert edges == sorted(set(edges))
    assert edges[0] == 0
    assert edges[-1] >= max(values) * (1 - 1e-9)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(1, 20)), max_size=40))
@settings(max_examples=200)
def test_lanes_never_overlap_and_are_as_few_as_possible(spans: list[tuple[str, int, int]]) -> None:
    stretches = [
        Stretch(f"e{number}", 1, worker, float(start), float(start + length), AttemptEnd.COMPLETED)
        for number, (worker, start, length) in enumerate(sorted(spans, key=lambda span: span[1]))
    ]
    lanes = lanes_of(stretches)
    assert sorted(one.execution_id for _, lane in lanes for one in lane) == sorted(
        one.execution_id for one in stretches
    )
    for worker, lane in lanes:
        assert {one.worker_id for one in lane} == {worker}
        assert all(one.ended_at <= other.started_at for one, other in itertools.pairwise(lane))
    for worker in "ab":
        own = [one for one in stretches if one.worker_id == worker]
        busiest = max(
            (sum(o.started_at <= one.started_at < o.ended_at for o in own) for one in own), default=0
        )
        assert sum(name == worker for name, _ in lanes) == busiest


def test_durations_are_written_for_people() -> None:
    assert [seconds(value) for value in (None, 0.1234, 12.34, 312, 7500)] == [
        "–",
        "0.123 s",
        "12.3 s",
        "5 m 12 s",
        "2 h 05 m",
    ]
    assert ExecutionStatus.COMPLETED in {entry.status for entry in reported([lived(0, "completed")]).entries}
