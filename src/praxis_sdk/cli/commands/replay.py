"""`praxis replay`: runs a job again and says whether everything came out the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import PlatformError
from praxis_sdk.ids import new_id

if TYPE_CHECKING:
    from praxis_sdk.jobs import JobPayload, JobResult

EXIT_DIFFERS: Final = 1
_ABSENT: Final = "-"
_SHORT_DIGEST: Final = len("sha256:") + 12  # characters in the table; --json has all


@dataclass(frozen=True)
class Comparison:
    """One thing of two runs.

    Args:
        what: 'status', 'outputs' or 'artifact NAME'.
        same: whether both runs agree on it.
        before, after: what it was, in short: a status, a digest; '-' where it was not there.
    """

    what: str
    same: bool
    before: str
    after: str


def compare(before: JobResult, after: JobResult) -> tuple[Comparison, ...]:
    """Compare two results of the same job: status, outputs and the digest of every artifact."""
    return tuple(Comparison(what, one == other, one, other) for what, one, other in _compared(before, after))


def replay(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, as 'praxis jobs' shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Run a job again, in the same environment, and compare.

    Exit status 0 where status, outputs and every artifact are the same, 1 where something differs.
    """
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.job_run import JobRun
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.tables import render

    streams: Streams = context.obj
    logs.configure()
    home = Home.of_user()
    record = home.results().get(job_id)
    payload = _again(record.payload, record.result)
    streams.reserve_stdout()

    async def make() -> JobPayload:
        return payload

    run = JobRun(home, streams, show=False, quiet=quiet)
    after = run.perform(payload.env_version or payload.env, make)
    if _refused(record.result, after):
        message = after.failure.message if after.failure else ""
        raise PlatformError(f"{job_id} cannot be run again: {message}")
    compared = compare(record.result, after)
    equal = all(one.same for one in compared)
    if as_json:
        streams.emit_json(
            {
                "job_id": job_id,
                "replayed_as": after.job_id,
                "env_version": after.env_version,
                "equal": equal,
                "comparison": [asdict(one) for one in compared],
            }
        )
    else:
        rows = [
            (one.what, "same" if one.same else "different", _short(one.before), _short(one.after))
            for one in compared
        ]
        streams.emit(render(streams, ("what", "verdict", job_id, after.job_id), rows))
        different = sum(not one.same for one in compared)
        run.tell(
            f"{after.job_id}: all is the same as in {job_id}"
            if equal
            else f"{after.job_id}: {different} of {len(compared)} differ from {job_id}",
            "good" if equal else "bad",
        )
    return 0 if equal else EXIT_DIFFERS


def _short(text: str) -> str:
    return text[:_SHORT_DIGEST] if text.startswith("sha256:") else text


def _refused(before: JobResult, after: JobResult) -> bool:
    """Tell whether the second run could not even begin, and the first one could."""
    if after.failure is None or after.timings.started_at is not None:
        return False
    return before.failure is None or before.failure.code != after.failure.code


def _again(payload: JobPayload, result: JobResult) -> JobPayload:
    """Return the same job under another id, to be run anew in the very environment that ran it."""
    update: dict[str, object] = {"job_id": new_id(), "fresh": True}
    if result.env_version is not None:
        update["env_version"] = result.env_version
    return payload.model_copy(update=update)


def _compared(before: JobResult, after: JobResult) -> Iterator[tuple[str, str, str]]:
    yield "status", _status(before), _status(after)
    yield "outputs", _outputs(before), _outputs(after)
    first = {one.name: one.digest for one in before.artifacts}
    second = {one.name: one.digest for one in after.artifacts}
    for name in sorted(first.keys() | second.keys()):
        yield f"artifact {name}", first.get(name, _ABSENT), second.get(name, _ABSENT)


def _status(result: JobResult) -> str:
    return f"{result.status} ({result.failure.code})" if result.failure else str(result.status)


def _outputs(result: JobResult) -> str:
    """Return a digest of the outputs' canonical form, in which 1 and 1.0 are two values."""
    from praxis_sdk.jobs.payload import strict_json
    from praxis_sdk.jobs.payload.content import sha256_of

    return _ABSENT if result.outputs is None else sha256_of(strict_json.canonical(result.outputs))
