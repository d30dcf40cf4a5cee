"""Traces: one per execution, told to OpenTelemetry when it has ended.

execution job                 submission to end; the caller's `traceparent` is its parent
|-- queued                    each time that it waited for a worker
|-- attempt 1                 each try, with the events of its time: decisions, data accesses, alerts
'-- attempt 2

Everything is built afterwards from what is kept of the execution, with the times of then, so tracing costs the work
nothing and a trace is complete even where several processes took part. The ids of the execution's own span follow
from its id (`traceparent_of`): a child execution or the work itself can name it as parent before it is told.

The variables of OpenTelemetry configure it (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, OTEL_SDK_DISABLED, ...); where none asks for traces, or the extra is missing, nothing is told.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.log import get_logger
from praxis_sdk.model import Attempt, Event, EventType, Execution, Failure
from praxis_sdk.states import FailureCategory

SERVICE_NAME: Final = "praxis"
MAX_SPAN_EVENTS: Final = 128
MAX_ATTEMPT_SPANS: Final = 100
MAX_TEXT_CHARS: Final = 4096

_TRACEPARENT: Final = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
_TOLD: Final = frozenset(EventType) - {EventType.STATUS, EventType.LOG, EventType.PROGRESS}
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"

_log = get_logger("praxis.telemetry")


@dataclass(frozen=True, slots=True)
class Traceparent:
    """A place in a W3C trace.

    Args:
        trace_id, span_id: 128 and 64 bits, not 0.
        sampled: whether the caller keeps the trace.
    """

    trace_id: int
    span_id: int
    sampled: bool = True

    @classmethod
    def parse(cls, text: str) -> Traceparent | None:
        """Read the header `traceparent`; None where it is none, which a receiver ignores (W3C Trace Context)."""
        match = _TRACEPARENT.match(text.strip())
        if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
            return None
        trace_id, span_id = int(match[2], 16), int(match[3], 16)
        return cls(trace_id, span_id, bool(int(match[4], 16) & 1)) if trace_id and span_id else None

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def traceparent_of(execution: Execution) -> Traceparent:
    """Return the place of an execution's own span: what its children and its work name as parent."""
    digest = hashlib.sha256(execution.id.encode()).digest()
    caller = Traceparent.parse(execution.traceparent)
    span_id = int.from_bytes(digest[16:24]) or 1
    if caller is not None:
        return Traceparent(caller.trace_id, span_id, caller.sampled)
    return Traceparent(int.from_bytes(digest[:16]) or 1, span_id)


class Telemetry:
    """Tells executions to OpenTelemetry.

    Args:
        exporter: where spans go, an OpenTelemetry `SpanExporter`.
        batch: send in the background, many at once; False: at once.

    Raises:
        MissingExtra: the SDK is not installed.
    """

    def __init__(self, exporter: Any, *, batch: bool = True) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.context import Context
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider, export
            from opentelemetry.sdk.trace.id_generator import IdGenerator
        except ImportError as error:
            raise MissingExtra("opentelemetry", "telemetry") from error

        ids = self._ids = _Ids()

        class Chosen(IdGenerator):
            """Hands out the ids that are chosen, and else random ones."""

            def generate_span_id(self) -> int:
                return ids.span_id()

            def generate_trace_id(self) -> int:
                return ids.trace_id()

        self._trace = trace
        # Whatever span is current in this process is no part of an execution.
        self._nowhere = Context()
        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
        # The process that ends calls `close`; a hook at exit would hold up one that was told to be gone.
        self._provider = TracerProvider(resource=resource, id_generator=Chosen(), shutdown_on_exit=False)
        processor: Any = export.BatchSpanProcessor if batch else export.SimpleSpanProcessor
        self._provider.add_span_processor(processor(exporter))
        self._tracer = self._provider.get_tracer("praxis_sdk")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Telemetry | None:
        """Return what the variables of OpenTelemetry ask for; None where they ask for nothing.

        Args:
            environment: the process's; the exporter itself reads the rest of its settings from the process.

        Raises:
            ValidationError: they ask for an exporter that Praxis does not know.
        """
        name = environment.get(_EXPORTER, "").strip().lower()
        endpoint = any(environment.get(variable) for variable in _ENDPOINTS)
        disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        if disabled or name == "none" or not (name or endpoint):
            return None
        if name not in ("", "otlp", "console"):
            raise ValidationError(f"{_EXPORTER}: '{name}' is not known", remedy="use otlp, console or none")
        try:
            if name == "console":
                from opentelemetry.sdk.trace.export import ConsoleSpanExporter

                return cls(ConsoleSpanExporter())
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            _log.warning("telemetry_missing", remedy="pip install 'praxis-sdk[telemetry]'")
            return None
        return cls(OTLPSpanExporter())

    def tell(self, execution: Execution, attempts: Sequence[Attempt], events: Sequence[Event]) -> None:
        """Tell an execution that has ended.

        Args:
            execution: as it ended.
            attempts: its attempts, the first first.
            events: its events in order, or those that are left of them.
        """
        assert execution.ended_at is not None, "an execution is told when it has ended"
        own, caller = traceparent_of(execution), Traceparent.parse(execution.traceparent)
        self._ids.choose(own)
        root = self._span(
            f"execution {execution.kind}",
            None if caller is None else self._context(caller),
            execution.submitted_at,
            _attributes_of(execution),
        )
        inside = self._trace.set_span_in_context(root)
        for began, ended in _queued(execution, events):
            self._span("queued", inside, began, {}).end(_ns(ended))
        told = [event for event in events if event.type in _TOLD]
        for attempt in attempts[-MAX_ATTEMPT_SPANS:]:
            span = self._span(
                f"attempt {attempt.number}", inside, attempt.started_at, _attributes_of_attempt(attempt)
            )
            its = [event for event in told if attempt.started_at <= event.at <= attempt.ended_at]
            told = [event for event in told if not attempt.started_at <= event.at <= attempt.ended_at]
            self._events(span, its)
            self._end(span, attempt.failure, attempt.ended_at)
        self._events(root, told)
        self._end(root, execution.failure, execution.ended_at)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Send what waits; False where it did not go out in time."""
        return bool(self._provider.force_flush(int(timeout_s * 1000)))

    def close(self) -> None:
        """Send what waits and end; it may wait for the exporter, so an event loop calls it in a thread."""
        self._provider.shutdown()

    def _context(self, place: Traceparent) -> Any:
        flags = self._trace.TraceFlags(
            self._trace.TraceFlags.SAMPLED if place.sampled else self._trace.TraceFlags.DEFAULT
        )
        context = self._trace.SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=flags)
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(context))

    def _span(self, name: str, context: Any, began: float, attributes: Mapping[str, Any]) -> Any:
        inside = self._nowhere if context is None else context
        return self._tracer.start_span(name, inside, attributes=dict(attributes), start_time=_ns(began))

    def _events(self, span: Any, events: Sequence[Event]) -> None:
        for event in events[-MAX_SPAN_EVENTS:]:
            attributes = {
                "praxis.event.seq": event.seq,
                "praxis.event.message": event.message[:MAX_TEXT_CHARS],
                "praxis.event.level": str(event.level),
                "praxis.event.component": event.component,
            }
            span.add_event(f"praxis.{event.type}", attributes, _ns(event.at))

    def _end(self, span: Any, failure: Failure | None, at: float) -> None:
        if failure is not None:
            attributes = {
                "exception.type": failure.code,
                "exception.message": failure.message[:MAX_TEXT_CHARS],
            }
            if failure.category is FailureCategory.INTERNAL_ERROR:  # what the work itself wrote stays here
                attributes["exception.stacktrace"] = failure.detail[-MAX_TEXT_CHARS:]
            span.add_event("exception", attributes, _ns(at))
            status = self._trace.Status(self._trace.StatusCode.ERROR, failure.message[:MAX_TEXT_CHARS])
            span.set_status(status)
        span.end(_ns(at))


class _Ids:
    """The ids of the next spans: those of an execution's own span are chosen, all others are random."""

    def __init__(self) -> None:
        self._chosen: Traceparent | None = None

    def choose(self, place: Traceparent) -> None:
        """Have the next span take these ids; the two calls follow one another without a wait between them."""
        self._chosen = place

    def trace_id(self) -> int:
        """Return the id of a new trace."""
        return self._chosen.trace_id if self._chosen is not None else secrets.randbits(128) or 1

    def span_id(self) -> int:
        """Return the id of a new span; it comes after its trace's."""
        chosen, self._chosen = self._chosen, None
        return chosen.span_id if chosen is not None else secrets.randbits(64) or 1


def _attributes_of(execution: Execution) -> dict[str, Any]:
    """The attributes of an execution's span: no request, no outputs, no labels, for these may be confidential."""
    attributes: dict[str, Any] = {
        "praxis.execution.id": execution.id,
        "praxis.execution.kind": execution.kind,
        "praxis.execution.control": execution.control,
        "praxis.execution.status": str(execution.status),
        "praxis.execution.priority": str(execution.terms.priority),
        "praxis.execution.service_class": str(execution.terms.service_class),
        "praxis.execution.attempts": execution.attempt,
        "praxis.execution.retries": execution.retries,
        "praxis.execution.preemptions": execution.preemptions,
    }
    if execution.mode is not None:
        attributes["praxis.execution.mode"] = str(execution.mode)
    for name, value in (("batch", execution.batch_id), ("parent", execution.parent_id)):
        if value:
            attributes[f"praxis.{name}.id"] = value
    if execution.flags:
        attributes["praxis.execution.flags"] = [str(flag) for flag in execution.flags]
    return attributes | _attributes_of_failure(execution.failure)


def _attributes_of_attempt(attempt: Attempt) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "praxis.execution.id": attempt.execution_id,
        "praxis.attempt.number": attempt.number,
        "praxis.attempt.ending": str(attempt.ending),
        "praxis.worker.id": attempt.worker_id,
    }
    usage = attempt.usage
    if usage is not None:
        measured = {
            "praxis.usage.cpu_s": usage.cpu_s,
            "praxis.usage.peak_memory_bytes": usage.peak_memory_bytes,
            "praxis.usage.network_bytes": usage.network_bytes,
        }
        attributes |= {name: value for name, value in measured.items() if value is not None}
    return attributes | _attributes_of_failure(attempt.failure)


def _attributes_of_failure(failure: Failure | None) -> dict[str, Any]:
    """`error.type` is the name of OpenTelemetry's conventions; the rest is ours."""
    if failure is None:
        return {}
    return {
        "error.type": failure.code,
        "praxis.failure.category": str(failure.category),
        "praxis.failure.error_type": str(failure.error_type),
    }


def _queued(execution: Execution, events: Iterable[Event]) -> list[tuple[float, float]]:
    """When it waited in the queue; all waits as the stream tells them, or the first where it tells none."""
    waits: list[tuple[float, float]] = []
    since: float | None = None
    for event in events:
        if event.type is not EventType.STATUS:
            continue
        if since is not None:
            waits.append((since, event.at))
        since = event.at if event.data.get("to") == "queued" else None
    if not waits and execution.started_at is not None:
        waits.append((execution.submitted_at, execution.started_at))
    return waits[-MAX_ATTEMPT_SPANS:]


def _ns(at: float) -> int:
    return int(at * 1e9)
