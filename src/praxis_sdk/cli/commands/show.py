"""`praxis show`: the full account of one execution."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.model import Attempt, Execution, Failure, Usage

_MOST_CHILDREN: Final = 1000
_MOST_SHOWN: Final = 20
_MOST_OUTPUT_BYTES: Final = 64 << 10  # of each stream, where not all is shown
_MOST_CHARS: Final = 4000  # of outputs and requests; --json has all


@dataclass(frozen=True)
class ExecutionReport:
    """What is known of an execution.

    Args:
        execution: the record.
        attempts: those that ended.
        children: what it submitted.
        served: whether a worker takes work of its kind.
        now: when this was asked.
    """

    execution: Execution
    attempts: Sequence[Attempt]
    children: Sequence[Execution]
    served: bool
    now: float


def show(
    context: typer.Context,
    execution_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, or so much of one end that only one fits.")
    ],
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything.")] = False,
) -> int:
    """Show the full account of an execution: how it stands and why, its attempts, usage and outputs."""
    from praxis_sdk.cli.control_plane import ask
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()

    async def account(control: Control) -> ExecutionReport:
        from praxis_sdk.cli.input.execution_ids import named
        from praxis_sdk.control.observe.output import with_output
        from praxis_sdk.store import ExecutionFilter

        execution = await named(control.store, execution_id)
        return ExecutionReport(
            execution=await with_output(
                control.store, execution, max_bytes=None if as_json else _MOST_OUTPUT_BYTES
            ),
            attempts=await control.store.attempts(execution.id),
            children=await control.store.find(ExecutionFilter(parent_id=execution.id), limit=_MOST_CHILDREN),
            served=execution.status.final or await control.served([execution.kind]),
            now=control.clock.time(),
        )

    found = ask(store, account)
    if as_json:
        streams.emit_json(_document(found))
    else:
        streams.emit_lines(_lines(found))
    return 0


def _document(found: ExecutionReport) -> dict[str, Any]:
    from praxis_sdk.control.lifecycle.info import execution_to_json, iso
    from praxis_sdk.store.changes import failure_to_json, usage_to_json

    execution = found.execution
    return {
        "execution": execution_to_json(execution, execution.elapsed_s(found.now)),
        "why": _why(found),
        "attempts": [
            {
                "number": one.number,
                "token": one.token,
                "worker": one.worker_id,
                "started_at": iso(one.started_at),
                "ended_at": iso(one.ended_at),
                "ending": str(one.ending),
                "failure": failure_to_json(one.failure) if one.failure else None,
                "usage": usage_to_json(one.usage) if one.usage else None,
            }
            for one in found.attempts
        ],
        "children": [
            {"id": one.id, "kind": one.kind, "control": one.control, "status": str(one.status)}
            for one in found.children
        ],
        "request": execution.request,
        "context": execution.context,
        "retry": {
            **dataclasses.asdict(execution.terms.retry),
            "retry_on": sorted(map(str, execution.terms.retry.retry_on)),
            "exit_codes": sorted(execution.terms.retry.exit_codes),
        },
        "timeout_s": execution.terms.timeout_s,
        "expected_s": execution.terms.expected_s,
        "result": execution.result,
        "chain": execution.chain,
    }


def _why(found: ExecutionReport) -> str:
    """Say why an execution stands as it does; empty where nothing is to be said."""
    from praxis_sdk.cli.input.moments import write_moment
    from praxis_sdk.states import PENDING, ExecutionStatus

    execution = found.execution
    if execution.status not in PENDING:
        return execution.reason
    if execution.status is ExecutionStatus.SUBMITTED and execution.due_at is not None:
        until = f"waits until {write_moment(execution.due_at)} UTC"
        return f"{until}: {execution.reason}" if execution.reason else until
    if not found.served:
        return "no worker takes such work now: 'praxis worker' runs one"
    return execution.reason or "waits for room on a worker"


def _lines(found: ExecutionReport) -> Iterator[str]:
    from praxis_sdk.cli.input.moments import write_moment, write_span

    execution, terms = found.execution, found.execution.terms
    why = _why(found)
    yield f"{execution.id} {str(execution.status).replace('_', ' ')}" + (f": {why}" if why else "")
    yield f"work         {execution.kind} {execution.control}"
    yield f"priority     {terms.priority}, {str(terms.service_class).replace('_', '-')}"
    yield f"submitted    {write_moment(execution.submitted_at)} UTC"
    if terms.opens_at is not None or terms.closes_at is not None:
        yield f"window       {write_moment(terms.opens_at)} to {write_moment(terms.closes_at)} UTC"
    if execution.started_at is not None:
        elapsed = write_span(execution.elapsed_s(found.now))
        ended = f", ended {write_moment(execution.ended_at)} UTC" if execution.ended_at is not None else ""
        yield f"started      {write_moment(execution.started_at)} UTC{ended}, {elapsed} in all"
    elif execution.ended_at is not None:
        yield f"ended        {write_moment(execution.ended_at)} UTC, never started"
    if execution.worker_id:
        yield f"worker       {execution.worker_id}"
    if execution.progress and not execution.status.final:
        yield f"progress     {execution.progress:.0%}"
    yield (
        f"attempts     {execution.attempt}, {execution.retries} of {terms.retry.max_retries} retries spent"
        + (f", preempted {execution.preemptions} times" if execution.preemptions else "")
    )
    asked = (execution.context or {}).get("requirements_asked")
    learned = f" (learned from earlier ones; asked for {_amounts(asked)})" if asked is not None else ""
    yield f"reserves     {_amounts(execution.granted.to_json())}{learned}"
    if terms.expected_s is not None:
        yield f"expected     {write_span(terms.expected_s)}, as earlier ones took"
    if execution.usage is not None:
        yield f"usage        {_usage(execution.usage)}"
    if execution.flags:
        yield f"flags        {', '.join(execution.flags)}"
    for name, value in execution.labels.items():
        yield f"label        {name}={value}"
    for title, belongs_to in (
        ("key", execution.idempotency_key),
        ("batch", execution.batch_id),
        ("parent", execution.parent_id),
        ("schedule", execution.schedule_id),
    ):
        if belongs_to:
            yield f"{title:<12} {belongs_to}"
    yield from _section("failure", _failure(execution.failure))
    yield from _section("attempts", "\n".join(map(_attempt, found.attempts)))
    yield from _section("children", _children(found.children))
    if execution.outputs is not None:
        yield from _section("outputs", _json(execution.outputs))
    yield from _section("request", _json(execution.request))


def _section(title: str, text: str) -> Iterator[str]:
    if text:
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in text.splitlines())


def _attempt(one: Attempt) -> str:
    from praxis_sdk.cli.input.moments import write_moment, write_span

    why = f": {one.failure.message}" if one.failure else ""
    took = write_span(one.ended_at - one.started_at)
    return f"{one.number}  {write_moment(one.started_at)}  {took}  {one.worker_id}  {one.ending}{why}"


def _children(children: Sequence[Execution]) -> str:
    lines = [f"{one.id}  {one.status}  {one.kind} {one.control}" for one in children[:_MOST_SHOWN]]
    if len(children) > _MOST_SHOWN:
        lines.append(f"and {len(children) - _MOST_SHOWN} more")
    return "\n".join(lines)


def _failure(failure: Failure | None) -> str:
    if failure is None:
        return ""
    first = f"{failure.category} {failure.code} ({failure.error_type}): {failure.message}"
    return f"{first}\n{failure.detail}".rstrip()


def _usage(usage: Usage) -> str:
    from praxis_sdk.units import format_bytes

    parts = [f"{usage.wall_s:.2f} s"]
    if usage.cpu_s is not None:
        parts.append(f"{usage.cpu_s:.2f} s of processor time")
    if usage.peak_memory_bytes is not None:
        parts.append(f"{format_bytes(usage.peak_memory_bytes)} of memory")
    if usage.network_bytes is not None:
        parts.append(f"{format_bytes(usage.network_bytes)} over the network")
    if usage.storage_bytes is not None:
        parts.append(f"{format_bytes(usage.storage_bytes)} of storage")
    return ", ".join(parts)


def _amounts(amounts: dict[str, float | int]) -> str:
    return ", ".join(f"{name}={amount:g}" for name, amount in amounts.items()) or "nothing"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}\n... ({len(text)} characters; --json)"
