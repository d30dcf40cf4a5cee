"""Traces: one per execution, with the times of then, under the trace of whoever asked."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.control.observe.telemetry import Telemetry, Traceparent, traceparent_of
from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.model import EventType, NewEvent, Options, Usage
from praxis_sdk.states import ErrorType
from tests.control.failure_samples import ASKED, NOW, Life, execution, failure

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[tuple[Telemetry, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(exporter, batch=False)
    yield telemetry, exporter
    telemetry.close()


def told(telemetry: Telemetry, exporter: InMemorySpanExporter, life: Life) -> dict[str, list[ReadableSpan]]:
    exporter.clear()
    telemetry.tell(life.execution, life.attempts, life.events)
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name.rstrip("0123456789 "), []).append(span)
    return found


def test_a_life_is_one_trace(spans: tuple[Telemetry, InMemorySpanExporter]) -> None:
    life = Life.of(execution(traceparent=CALLER))
    life.start(worker="w1")
    life.now += 1
    life.apply(
        transitions.note(life.execution.id, [NewEvent(EventType.DECISION, "took the left path", at=life.now)])
    )
    life.fail(failure(ErrorType.CRASH, message="gone", detail="Segmentation fault"))
    life.start(worker="w2")
    life.succeed({"secret": "output"})
    found = told(*spans, life)
    [root] = found["execution job"]
    first, second = sorted(found["attempt"], key=lambda span: span.start_time or 0)
    everything = [span for some in found.values() for span in some]
    assert {span.context.trace_id for span in everything} == {int(CALLER[3:35], 16)}
    assert root.parent is not None
    assert root.parent.span_id == int(CALLER[36:52], 16)
    assert root.context.span_id == traceparent_of(life.execution).span_id
    assert all(
        span.parent and span.parent.span_id == root.context.span_id for span in everything if span != root
    )
    assert len({span.context.span_id for span in everything}) == len(everything) == 5
    assert (root.start_time, root.end_time) == (int(NOW * 1e9), int(life.now * 1e9))
    assert [round((one.end_time - one.start_time) / 1e9, 3) for one in found["queued"]] == [0.5, 0.5]
    assert (first.name, second.name) == ("attempt 1", "attempt 2")
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes["error.type"] == "some_code"
    assert first.attributes["praxis.worker.id"] == "w1"
    assert [event.name for event in first.events] == [
        "praxis.decision",
        "praxis.action",
        "praxis.retry",
        "exception",
    ]
    assert first.events[-1].attributes["exception.stacktrace"] == "Segmentation fault"
    assert second.status.status_code is StatusCode.UNSET
    assert second.attributes["praxis.usage.cpu_s"] == 1.0
    assert root.status.status_code is StatusCode.UNSET
    assert root.attributes["praxis.execution.retries"] == 1
    assert root.resource.attributes["service.name"] == "praxis"
    assert "secret" not in str([span.to_json() for span in everything])


def test_a_failed_execution_is_an_error(spans: tuple[Telemetry, InMemorySpanExporter]) -> None:
    life = Life.of(execution()).run(
        [failure(ErrorType.PERMANENT, message="no", detail="the work's own words")]
    )
    [root] = told(*spans, life)["execution job"]
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes["praxis.failure.category"] == "USER_CODE_ERROR"
    assert root.parent is None
    assert "own words" not in root.to_json()


def test_one_that_never_ran_has_no_attempt(spans: tuple[Telemetry, InMemorySpanExporter]) -> None:
    life = Life.of(execution(kind="sop", traceparent="nonsense"))
    life.apply(transitions.cancel_waiting(life.execution, "not wanted", NOW + 5, "someone"))
    found = told(*spans, life)
    assert list(found) == ["execution sop"]


def test_a_trace_is_told_although_its_events_are_gone(spans: tuple[Telemetry, InMemorySpanExporter]) -> None:
    life = Life.of(execution()).run([])
    life.events = []
    found = told(*spans, life)
    assert [len(found[name]) for name in ("execution job", "queued", "attempt")] == [1, 1, 1]


@given(
    st.text(max_size=30),
    st.lists(st.sampled_from([ErrorType.TRANSIENT, ErrorType.CRASH]), max_size=4),
    st.one_of(st.just(""), st.just(CALLER), st.text(max_size=60)),
)
@settings(max_examples=100)
def test_every_life_can_be_told(execution_id: str, whys: list[ErrorType], traceparent: str) -> None:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(exporter, batch=False)
    life = Life.of(execution(execution_id, traceparent=traceparent)).run(map(failure, whys))
    found = told(telemetry, exporter, life)
    assert len(found["attempt"]) == len(found["queued"]) == len(life.attempts)
    place = traceparent_of(life.execution)
    [root] = found["execution job"]
    assert (root.context.trace_id, root.context.span_id) == (place.trace_id, place.span_id)
    assert Traceparent.parse(str(place)) == place


def test_a_child_is_told_under_its_parent(spans: tuple[Telemetry, InMemorySpanExporter]) -> None:
    parent = execution("parent")
    child = Life.of(execution("child", parent_id="parent", traceparent=str(traceparent_of(parent)))).run([])
    [span] = told(*spans, child)["execution job"]
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (
        traceparent_of(parent).trace_id,
        traceparent_of(parent).span_id,
    )


def test_a_trace_that_the_caller_does_not_keep_is_not_told(
    spans: tuple[Telemetry, InMemorySpanExporter],
) -> None:
    life = Life.of(execution(traceparent=CALLER[:-1] + "0")).run([])
    assert told(*spans, life) == {}
    other = Life.of(execution("e2")).run([])
    assert told(*spans, other)["execution job"][0].context.span_id == traceparent_of(other.execution).span_id


@pytest.mark.parametrize(
    "text",
    ["", "x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", CALLER.upper(), "ff" + CALLER[2:], CALLER + "-more"],
)
def test_what_is_no_traceparent_is_ignored(text: str) -> None:
    assert Traceparent.parse(text) is None


def test_a_later_version_of_traceparent_is_read() -> None:
    place = Traceparent.parse("01" + CALLER[2:] + "-more")
    assert place is not None
    assert str(place) == CALLER


# -- configuration


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
    ],
)
def test_without_a_word_nothing_is_told(environment: dict[str, str]) -> None:
    assert Telemetry.from_environment(environment) is None


def test_an_unknown_exporter_is_refused() -> None:
    with pytest.raises(ValidationError, match="OTEL_TRACES_EXPORTER"):
        Telemetry.from_environment({"OTEL_TRACES_EXPORTER": "zipkin"})


def test_without_the_extra_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert Telemetry.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}) is None
    with pytest.raises(MissingExtra, match=r"praxis-sdk\[telemetry\]"):
        Telemetry(object())


def test_spans_reach_the_collector_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_SERVICE_NAME": "praxis-of-ours",
            "no_proxy": "127.0.0.1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        telemetry = Telemetry.from_environment(environment)
        assert telemetry is not None
        life = Life.of(execution(terms=Options(ASKED))).run([])
        assert life.execution.usage == Usage(wall_s=2.0, cpu_s=1.0, peak_memory_bytes=1 << 20)
        telemetry.tell(life.execution, life.attempts, life.events)
        assert telemetry.flush()
        telemetry.close()
        server.shutdown()
        thread.join()
    [(path, body)] = bodies
    assert path == "/v1/traces"
    assert b"attempt 1" in body
    assert b"praxis-of-ours" in body
