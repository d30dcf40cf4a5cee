"""A real scientific job: a fit and two plots of the CO2 concentration at Mauna Loa, in a fresh sandbox.

The job runs twice: the second time anew, and every artifact must have the same digest as the first
time. Then it is asked for once more, and answered from the kept result. Run it by `make demo`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.jobs.payload.payload import JobPayload, parse_payload
from praxis_sdk.units import format_bytes

SCIENCE = Path(__file__).parent / "science"
HOME = Path(__file__).parent.parent / ".cache" / "demo-home"

out = Console(highlight=False)


def job(job_id: str, *, fresh: bool) -> JobPayload:
    """Make the payload: code, data by value, limits."""
    return parse_payload(
        {
            "schema_version": "1.0",
            "job_id": job_id,
            "runtime": "python",
            "env": "science",
            "code": (SCIENCE / "fit_co2.py").read_text(),
            "inputs": {"co2": {"text": (SCIENCE / "mauna_loa_co2.csv").read_text()}},
            "limits": {"wall_s": "30s", "memory_bytes": "512M", "processes": 16},
            "provenance": {"document_revision": "demo", "labels": {"source": "examples/science/README.md"}},
            "fresh": fresh,
        }
    )


def show(result: JobResult) -> None:
    """Print what the job returned, left behind and used."""
    for name, value in (result.outputs if isinstance(result.outputs, dict) else {}).items():
        out.print(f"  {name:<26} {value}")
    table = Table(title="artifacts", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("name", "kind", "type", "size", "digest"):
        table.add_column(column)
    for one in result.artifacts:
        table.add_row(
            one.name, one.kind, one.content_type, format_bytes(one.size_bytes), one.digest[:26] + "..."
        )
    out.print(table)
    usage = result.usage
    out.print(
        f"  {result.env_version}: {usage.wall_s:.2f} s, {usage.cpu_s or 0:.2f} s of processor time, "
        f"{format_bytes(usage.peak_memory_bytes or 0)} of memory"
    )


async def timed(executor: JobExecutor, payload: JobPayload) -> tuple[JobResult, float]:
    """Run a job; returns its result and the seconds it took to get it."""
    began = time.monotonic()
    result = await executor.run(payload, on_progress=lambda line: out.print(f"[dim]{line}"))
    return result, time.monotonic() - began


async def run() -> int:
    """Run the job twice and ask for it once more."""
    out.rule("[bold]a scientific job: CO2 at Mauna Loa, 1958 to 2001", align="left")
    artifacts = ArtifactStore.open(HOME / "artifacts")
    executor = JobExecutor(artifacts, EnvironmentStore(HOME), ResultStore(HOME))
    try:
        first, _ = await timed(executor, job("co2-1", fresh=True))
        if not first.succeeded:
            out.print(f"[red]The job failed:[/] {json.dumps(first.to_json()['failure'])}")
            return 1
        show(first)
        second, again_s = await timed(executor, job("co2-2", fresh=True))
        equal, answer_s = await timed(executor, job("co2-3", fresh=False))
    finally:
        await executor.close()
    same = [one.digest for one in first.artifacts] == [one.digest for one in second.artifacts]
    out.print(f"  run anew in {again_s:.2f} s: every artifact has {'the same' if same else 'ANOTHER'} digest")
    out.print(
        f"  asked for once more: answered in {answer_s * 1000:.0f} ms",
        "from the kept result" if equal.from_cache else "ANEW",
    )
    return 0 if same and equal.from_cache else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(run()))
