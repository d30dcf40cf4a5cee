"""`praxis exec`: one job of untrusted code in a fresh sandbox, its output as it arrives, its artifacts as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from praxis_sdk.cli.input import job_options
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.terminal.delivery import Delivered
    from praxis_sdk.jobs import JobResult
    from praxis_sdk.jobs.artifacts import Artifact


def exec_(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [-- ARGUMENTS]",
            help="A script, a notebook or a folder; '-' for stdin. With -r command: -- PROGRAM ARGUMENTS...",
        ),
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", "-c", metavar="CODE", help="The source itself.")
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", "-r", metavar="NAME", help="python, latex or command.")
    ] = "python",
    env: Annotated[
        str, typer.Option("--env", "-e", metavar="NAME", help="The environment, or one version of it.")
    ] = "base",
    entrypoint: job_options.Entrypoint = None,
    module: job_options.Module = None,
    stdin: job_options.Stdin = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=PATH", help="A file to hand over; repeatable."),
    ] = None,
    input_json: Annotated[
        list[str] | None, typer.Option(metavar="NAME=JSON", help="A JSON value to hand over; repeatable.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter: JSON, else text; repeatable."),
    ] = None,
    artifacts: Annotated[
        Path | None, typer.Option("--artifacts", "-a", metavar="DIR", help="Copy all artifacts there.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Copy the only artifact there.")
    ] = None,
    timeout: job_options.Timeout = None,
    cpu_time: job_options.CpuTime = None,
    collect_time: job_options.CollectTime = None,
    memory: job_options.Memory = None,
    processes: job_options.Processes = None,
    file_size: job_options.FileSize = None,
    files: job_options.Files = None,
    scratch: job_options.Scratch = None,
    stdout_limit: job_options.StdoutLimit = None,
    stderr_limit: job_options.StderrLimit = None,
    output_limit: job_options.OutputLimit = None,
    max_artifacts: job_options.MaxArtifacts = None,
    artifact_bytes: job_options.ArtifactBytes = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", metavar="HOST[:PORT]", help="A host that it may reach; repeatable."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run it, also where an equal job has a result.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log on stderr.")] = False,
) -> int:
    """Run untrusted code in a fresh sandbox.

    FILE is a script, a notebook, or a folder, of which --entrypoint or -m says what to run. Arguments behind '--'
    are its own, and a file or a pipe as standard input is read to its end and handed over. What it prints passes
    through as it arrives; what it returns and leaves behind is kept. Exit status: 0
    completed, the job's own exit code where it failed, 124 when its time was up, 137 when another limit
    ended it.
    """
    from praxis_sdk.cli.home import Home
    from praxis_sdk.cli.input.job_request import JobWords, read_request
    from praxis_sdk.cli.job_run import JobRun
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.job_report import exit_status

    streams: Streams = context.obj
    logs.configure(verbose=verbose)
    if artifacts is not None and output is not None:
        raise ValidationError("-o: cannot be combined with --artifacts", remedy="leave out one of them")
    limits: dict[str, str | int | None] = {
        "wall_s": timeout,
        "cpu_s": cpu_time,
        "collect_s": collect_time,
        "memory_bytes": memory,
        "processes": processes,
        "file_size_bytes": file_size,
        "files": files,
        "scratch_bytes": scratch,
        "stdout_bytes": stdout_limit,
        "stderr_bytes": stderr_limit,
        "outputs_bytes": output_limit,
        "artifact_count": max_artifacts,
        "artifact_total_bytes": artifact_bytes,
    }
    said = JobWords(
        words=words or (),
        code=code,
        runtime=runtime,
        env=env,
        entrypoint=entrypoint,
        module=module,
        inputs=inputs or (),
        json_inputs=input_json or (),
        parameters=param or (),
        limits=limits,
        output=output,
        network=network or (),
        fresh=fresh,
        stdin=stdin,
    )
    request = read_request(said, lambda line: None if quiet else streams.say(line, "doubt"))
    streams.reserve_stdout()
    home = Home.of_user()
    request.check().limits.within(home.job_limits())  # before anything is built for it
    delivered: list[Delivered] = []
    run = JobRun(home, streams, show=not as_json, quiet=quiet)

    async def deliver(result: JobResult) -> None:
        for one in await _deliver(home, result, artifacts, output):
            delivered.append(one)
            if not as_json:
                run.tell(f"wrote {one.path}")

    result = run.perform(env, lambda: request.payload(home.artifacts()), deliver)
    status = exit_status(result)
    if as_json:
        document: dict[str, Any] = {
            "result": result.to_json(),
            "served_by": run.served_by,
            "written": [one.to_json() for one in delivered],
            "exit_status": status,
        }
        streams.emit_json(document)
    return status


async def _deliver(
    home: Home, result: JobResult, folder: Path | None, file: Path | None
) -> Sequence[Delivered]:
    from praxis_sdk.cli.terminal.delivery import Delivered, deliver_all, deliver_one

    if folder is not None:
        return await deliver_all(home.artifacts(), result.artifacts, folder)
    if file is not None and result.succeeded:
        pages = _pages(result, file)
        if pages:
            for artifact, page in pages:
                await deliver_one(home.artifacts(), artifact.digest, page)
            return tuple(Delivered(artifact.name, page, artifact.digest) for artifact, page in pages)
        artifact = _only(result, file)
        await deliver_one(home.artifacts(), artifact.digest, file)
        return (Delivered(artifact.name, file, artifact.digest),)
    return ()


def _pages(result: JobResult, file: Path) -> Sequence[tuple[Artifact, Path]]:
    """Return the file of each page, where what was left is the pages of one document: 'plan-1.png', 'plan-2.png'."""
    count = result.outputs.get("pages") if isinstance(result.outputs, dict) else None
    names = {one.name: one for one in result.artifacts}
    numbered = [name for name in names if re.fullmatch(rf"output[0-9]*-[0-9]+{re.escape(file.suffix)}", name)]
    if not isinstance(count, int) or count < 2 or len(numbered) != count:
        return ()
    numbers = {name: int(re.findall("[0-9]+", name)[-1]) for name in numbered}
    return [
        (names[name], file.with_name(f"{file.stem}-{numbers[name]}{file.suffix}"))
        for name in sorted(numbered, key=lambda name: numbers[name])
    ]


def _only(result: JobResult, file: Path) -> Artifact:
    """Return the one artifact that a file name can mean."""
    found = result.artifacts
    if len(found) > 1:
        found = tuple(one for one in found if one.name == file.name)
    if len(found) != 1:
        if not result.artifacts:
            raise ValidationError(f"-o: {result.job_id} left no artifact", remedy="leave -o out")
        names = ", ".join(one.name for one in result.artifacts[:8])
        raise ValidationError(
            f"-o: {result.job_id} left {len(result.artifacts)} artifacts: {names}",
            remedy="use --artifacts DIR, or give the file the name of one of them",
        )
    return found[0]
