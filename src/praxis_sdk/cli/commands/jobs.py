"""`praxis jobs` and `praxis job`: what has been run here, and the full account of one job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.jobs import JobInput
    from praxis_sdk.jobs.executor.results import Record

_DEFAULT_LIMIT: Final = 20


def jobs(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Show so many at most.")
    ] = _DEFAULT_LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """List the jobs that were run here, the youngest first."""
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()
    records = Home.of_user().results().list()
    shown = records[:limit]
    if as_json:
        streams.emit_json({"jobs": [_brief(record) for record in shown], "total": len(records)})
        return 0
    if not records:
        streams.emit_lines(["no job yet; 'praxis exec' runs one"])
        return 0
    columns = ("job", "when (UTC)", "runtime", "environment", "status", "reason", "seconds", "artifacts")
    streams.emit(render(streams, columns, [_row(record) for record in shown]))
    if len(records) > len(shown):
        streams.emit_lines([f"and {len(records) - len(shown)} more (--limit {len(records)})"])
    return 0


def job(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, as 'praxis jobs' shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show the full account of a job: what was run, how it ended, what it left and used."""
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal import logging as logs

    streams: Streams = context.obj
    logs.configure()
    record = Home.of_user().results().get(job_id)
    if as_json:
        streams.emit_json({"payload": record.payload.to_json(), "result": record.result.to_json()})
    else:
        streams.emit_lines(_account(record))
    return 0


def _row(record: Record) -> tuple[str, ...]:
    payload, result = record.payload, record.result
    status = "completed (equal job)" if result.from_cache and result.succeeded else str(result.status)
    return (
        payload.job_id,
        _when(record),
        payload.runtime,
        result.env_version or payload.env,
        status,
        result.failure.code if result.failure else "-",
        "-" if result.timings.run_s is None else f"{result.timings.run_s:.2f}",
        str(len(result.artifacts)),
    )


def _brief(record: Record) -> dict[str, Any]:
    payload, result = record.payload, record.result
    return {
        "job_id": payload.job_id,
        "runtime": payload.runtime,
        "env_version": result.env_version,
        "status": str(result.status),
        "code": result.failure.code if result.failure else None,
        "from_cache": result.from_cache,
        "queued_at": _queued_at(record),
        "run_s": result.timings.run_s,
        "artifacts": len(result.artifacts),
    }


def _queued_at(record: Record) -> str | None:
    moment = record.result.timings.queued_at
    return None if moment is None else moment.isoformat()


def _when(record: Record) -> str:
    moment = record.result.timings.queued_at
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _account(record: Record) -> Iterator[str]:
    from praxis_sdk.cli.terminal.job_report import artifact_lines, network_lines, outcome_line, usage_line

    payload, result = record.payload, record.result
    yield outcome_line(result)
    yield f"asked for    {_when(record)} UTC"
    yield f"runtime      {payload.runtime}"
    yield f"environment  {result.env_version or payload.env}"
    yield f"usage        {usage_line(result).removeprefix('used ')}"
    yield f"limits       {json.dumps(payload.limits.model_dump(mode='json'))}"
    if result.dedupe_key is not None:
        yield f"dedupe key   {result.dedupe_key}"
    if payload.network:
        yield f"network      {', '.join(payload.network)}"
    if payload.parameters:
        yield f"parameters   {json.dumps(payload.parameters, ensure_ascii=False)}"
    for name, one in payload.inputs.items():
        yield f"input        {name}: {_input(one)}"
    if payload.argv:
        yield f"arguments    {json.dumps(payload.argv, ensure_ascii=False)}"
    if payload.stdin is not None:
        yield f"stdin        {payload.stdin.content_digest()}"
    yield from _section("work", _work(record))
    if result.outputs is not None:
        yield from _section("output", json.dumps(result.outputs, ensure_ascii=False, indent=2))
    for name, stream in (("stdout", result.stdout), ("stderr", result.stderr)):
        cut = f" (the first part of {stream.total_bytes} bytes)" if stream.truncated else ""
        yield from _section(name + cut, stream.text)
    if result.failure is not None:
        yield from _section(
            "failure", f"{result.failure.category} {result.failure.code}: {result.failure.message}"
        )
    uses = (
        line.removeprefix("network: ") for line in network_lines(result.network, most=len(result.network))
    )
    yield from _section("network", "\n".join(uses))
    yield from _section("artifacts", "\n".join(artifact_lines(result.artifacts, most=len(result.artifacts))))
    rejected = (f"{one.name}: {one.reason}" for one in result.rejected_artifacts)
    yield from _section("left behind, and no artifact", "\n".join(rejected))


def _section(title: str, text: str) -> Iterator[str]:
    if text:
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in text.splitlines())


def _work(record: Record) -> str:
    payload = record.payload
    if payload.command is not None:
        return json.dumps(payload.command, ensure_ascii=False)
    if payload.code is not None:
        return payload.code
    main = payload.main_file() or ""
    source = (payload.files or {})[main].content().decode("utf-8", "replace")
    return source if len(payload.files or {}) == 1 else f"{main}:\n{source}"


def _input(one: JobInput) -> str:
    if one.kind == "json":
        return json.dumps(one.value, ensure_ascii=False)
    return one.content_digest()
