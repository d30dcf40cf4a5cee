"""`praxis submit`: work for a worker, kept until one has room for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from praxis_sdk.cli.chosen_store import StoreOption
from praxis_sdk.cli.input import job_options
from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.cli.input.submission import CommandSubmission
    from praxis_sdk.model import Execution

_NO_WORKER = "no worker takes such work now: 'praxis worker' runs one, 'praxis logs -f {}' runs this"


def submit(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [-- ARGUMENTS]",
            help="A script, notebook, folder, contract or payload, or a submission ('-': from stdin).",
        ),
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="FILE", help="A job: the source, '-' for stdin.")
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", "-c", metavar="CODE", help="A job: the source itself.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", "-r", metavar="NAME", help="Of a job: python, latex or command."),
    ] = None,
    env: Annotated[
        str, typer.Option("--env", "-e", metavar="NAME", help="Of a job: the environment.")
    ] = "base",
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=PATH", help="A file for a job; repeatable."),
    ] = None,
    input_json: Annotated[
        list[str] | None, typer.Option(metavar="NAME=JSON", help="A JSON value for a job; repeatable.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter of a job; repeatable."),
    ] = None,
    entrypoint: job_options.Entrypoint = None,
    module: job_options.Module = None,
    stdin: job_options.Stdin = None,
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
        typer.Option("--network", metavar="HOST[:PORT]", help="A host that a job may reach; repeatable."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run a job also where an equal one has a result.")
    ] = False,
    tool: Annotated[
        Path | None, typer.Option("--tool", "-t", metavar="CONTRACT", help="A tool: its contract.")
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", metavar="NAME=VALUE", help="An argument of a tool; repeatable."),
    ] = None,
    args_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Arguments of a tool as a JSON object.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="ENGINE", help="Run a tool on this engine, or 'auto'.")
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where relative mounts of a tool count from.")
    ] = None,
    allow_mount: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Let an untrusted contract mount this path, too; repeatable."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Vouch for a tool: it may run without isolation.")
    ] = False,
    allow_secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Let a tool's contract have this secret; repeatable."),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="End an attempt after this time: 90, 90s, 5m.")
    ] = None,
    retry_exit: Annotated[
        list[int] | None,
        typer.Option(metavar="CODE", help="An exit code that means: try again; repeatable."),
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="NAME", help="critical, high, normal (the default) or low.")
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Nobody waits for it: all other work goes before.")
    ] = False,
    opens: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before: +2h, 22:00, or 2026-01-31T22:00.")
    ] = None,
    closes: Annotated[str | None, typer.Option(metavar="TIME", help="It should end before.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="To find it by; repeatable."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Idempotency: again under the same key is the same execution."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow it to its end; its exit status is this command's.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log on stderr.")] = False,
) -> int:
    """Submit work: a job, a tool, or a file that describes work.

    What FILE is decides: a script (.py, .tex), a notebook (.ipynb) or a folder is a job, a contract is a tool, and a
    payload or a submission is a JSON or YAML document. With -r command the words behind '--' are a program.

    Prints its id. It is kept until a worker has run it, whatever happens to this process. With --wait what it
    writes passes through, and where no worker runs, this command is the worker meanwhile.
    """
    from praxis_sdk.cli.input.given import read_args_file, read_arguments, read_pairs
    from praxis_sdk.cli.input.submitted import Named
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.following import Following
    from praxis_sdk.control.observe.output import with_output

    streams: Streams = context.obj
    logs.configure(verbose=verbose)
    labels = read_pairs(label or (), "--label")
    named = Named(tuple(words or ()), job, code, tool, runtime).recognised()
    if named.tool is not None:
        from praxis_sdk.cli.input.submission import tool_submission

        submission = tool_submission(
            named.tool,
            read_arguments(arg or ()),
            args=read_args_file(args_file) if args_file is not None else {},
            engine=engine,
            trusted=trust,
            allow_mounts=allow_mount or (),
            allow_secrets=allow_secret or (),
            workspace=workspace or Path.cwd(),
            timeout=timeout,
        )
    elif named.runtime is not None:
        from praxis_sdk.cli.input.job_request import JobWords, read_request
        from praxis_sdk.cli.input.submission import CommandSubmission

        said = JobWords(
            words=named.words,
            code=code,
            runtime=named.runtime,
            env=env,
            entrypoint=entrypoint,
            module=module,
            inputs=inputs or (),
            json_inputs=input_json or (),
            parameters=param or (),
            limits={
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
            },
            network=network or (),
            fresh=fresh,
            stdin=stdin,
        )
        request = read_request(said, lambda line: None if quiet else streams.say(line, "doubt"))
        submission = CommandSubmission({"kind": "job"}, job=request)
    else:
        submission = _from_file(named.words[0], timeout)
    if retry_exit:
        submission = submission.retried_on(retry_exit)
    submission = submission.but(priority=priority, opens=opens, closes=closes, idempotency_key=key)
    submission = submission.labelled(labels).with_work(batch=batch or None)
    following = Following(streams, show=not as_json, quiet=quiet)

    async def work(control: Control) -> tuple[Execution, bool]:
        kept = await _submit(control, submission)
        if not wait:
            kept = await with_output(control.store, kept) if as_json else kept
            return kept, await control.served([kept.kind])
        if not as_json:
            following.tell(f"submitted {kept.id}")
        return await following.follow(control, kept.id, kept.kind), True

    execution, served = following.perform(store, work)
    return report(streams, execution, wait=wait, served=served, as_json=as_json, quiet=quiet)


def report(
    streams: Streams, execution: Execution, *, wait: bool, served: bool, as_json: bool, quiet: bool
) -> int:
    """Print what was submitted, or how it ended, and return the exit status that it means."""
    from praxis_sdk.cli.terminal.exits import exit_status_of

    status = exit_status_of(execution) if wait else 0
    if as_json:
        from praxis_sdk.control.lifecycle.info import execution_to_json

        document = execution_to_json(execution, execution.elapsed_s(execution.ended_at or 0.0))
        streams.emit_json({"execution": document, "exit_status": status})
    elif not wait:
        streams.emit_lines([execution.id])
    if not served and not quiet and not as_json and not execution.status.final:
        streams.say(_NO_WORKER.format(execution.id), "doubt")
    return status


async def _submit(control: Control, submission: CommandSubmission) -> Execution:
    from praxis_sdk.cli.input.submission import window_of

    window = window_of(submission.opens, submission.closes, control.clock.time())
    kept = await control.coordinator.submit_execution(
        await submission.complete(control),
        submission.mode,
        submission.priority or "normal",
        window,
        submission.idempotency_key,
    )
    return await control.store.get(kept)


def _from_file(name: str, timeout: str | None) -> CommandSubmission:
    from praxis_sdk.cli.input.documents import folder_of, read_object
    from praxis_sdk.cli.input.moments import read_duration
    from praxis_sdk.cli.input.submission import submission_of

    submission = submission_of(read_object(name), folder_of(name))
    given: dict[str, Any] = {}
    if timeout is not None:
        given["timeout_s"] = read_duration(timeout, "--timeout")
    return submission.with_work(**given)
