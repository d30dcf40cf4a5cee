"""`praxis run`: one contract, one run, its output as it arrives, its exit status as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from praxis_sdk.cli.terminal.streams import Streams, Tone
from praxis_sdk.errors import ValidationError
from praxis_sdk.units import format_bytes, parse_seconds

if TYPE_CHECKING:
    from asyncio import Future

    from praxis_sdk.cli.terminal.live import LiveOutput
    from praxis_sdk.execution.context import RunContext, StreamName
    from praxis_sdk.execution.contract.loading import LoadedContract
    from praxis_sdk.execution.outcome import ToolOutcome

_MAX_LINES: Final = 20  # of exported files, and of notes, in the summary; --json has them all


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for.

    Args:
        loaded: the contract.
        args: the tool's arguments.
        engine: an engine's name, 'auto', or None for the contract's choice.
        context: where it runs and how long.
        trusted: the caller vouches for the tool.
        allow_secrets: secrets that the contract may name, beside those of a trusted one.
        as_json: one JSON object in place of live output.
        quiet: no lines for people but errors.
        stdin: the descriptor that the tool reads from; None for nothing.
    """

    loaded: LoadedContract
    args: Mapping[str, Any]
    engine: str | None
    context: RunContext
    trusted: bool
    allow_secrets: tuple[str, ...]
    as_json: bool
    quiet: bool
    stdin: int | None


def run(
    context: typer.Context,
    contract: Annotated[Path, typer.Argument(metavar="CONTRACT", help="The contract, a YAML file.")],
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            "-a",
            metavar="NAME=VALUE",
            help="An argument of the tool; repeat it for a list. NAME=@FILE reads the value from a file.",
        ),
    ] = None,
    args_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Arguments as a JSON object, '-' for stdin; --arg takes precedence."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", "-e", metavar="ENGINE", help="Run on this engine, or on what fits: 'auto'."),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="End the tool after this time: 90, 90s, 5m.")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where relative mounts of the contract count from; here by default."
        ),
    ] = None,
    allow_mount: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Let an untrusted contract mount this path, too; by itself it may mount what lies below its own "
            "folder and the workspace. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the contract's output files go."),
    ] = None,
    stdin: Annotated[
        bool | None,
        typer.Option(
            "--stdin/--no-stdin",
            help="Hand standard input over; unless said, a file or a pipe is, and a terminal is not.",
            show_default=False,
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Vouch for the tool: it may run without isolation.")
    ] = False,
    allow_secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Let the contract have this secret; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log on stderr.")] = False,
) -> int:
    """Run a tool.

    Its output passes through as it arrives, and its exit status becomes this command's: 124 when its time
    was up, 128+N when signal N ended it, 130 when it was cancelled.
    """
    from praxis_sdk.cli.input.given import read_args_file, read_arguments
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly
    from praxis_sdk.execution.arguments.arguments import read_values
    from praxis_sdk.execution.context import RunContext
    from praxis_sdk.execution.contract.loading import load_contract

    streams: Streams = context.obj
    logs.configure(verbose=verbose)
    texts = read_arguments(arg or ())
    taken = args_file == "-" or any(pair.partition("=")[2] == "@-" for pair in arg or ())
    if stdin and taken:
        raise ValidationError(
            "--stdin: standard input holds arguments already", remedy="leave one of them out"
        )
    loaded = load_contract(contract)
    args = read_args_file(args_file) if args_file is not None else {}
    request = RunRequest(
        loaded=loaded,
        args={**args, **read_values(loaded.contract.parameters, texts)},
        engine=engine,
        context=RunContext(
            workspace=_workspace(workspace),
            allow_mounts=(contract.resolve().parent, *(path.resolve() for path in allow_mount or ())),
            outputs=output,
            timeout_s=_timeout_s(timeout),
        ),
        trusted=trust,
        allow_secrets=tuple(allow_secret or ()),
        as_json=as_json,
        quiet=quiet,
        stdin=0 if stdin is True or (stdin is None and not taken and _offers_stdin(loaded, engine)) else None,
    )
    streams.reserve_stdout()
    tool_run = _ToolRun(request, streams)
    outcome = run_interruptibly(tool_run.perform(), on_signal=tool_run.tell)
    if as_json:
        streams.emit_json(_document(outcome, loaded, tool_run.doubts))
    return outcome.exit_status


class _ToolRun:
    """One run and what people are told about it meanwhile."""

    def __init__(self, request: RunRequest, streams: Streams) -> None:
        self._request = request
        self._streams = streams
        self._live: LiveOutput | None = None
        self._told: set[str] = set()
        self.doubts: list[str] = []

    def tell(self, text: str, tone: Tone = "plain") -> None:
        """Tell people a line, in order with the tool's output."""
        if not self._request.quiet:
            (self._live or self._streams).say(text, tone)

    async def perform(self) -> ToolOutcome:
        """Run the tool and pass its output on; whatever happens, the engines are cleaned up."""
        import asyncio

        from praxis_sdk.cli.terminal.live import LiveOutput

        running = asyncio.ensure_future(self._run())
        live = self._live = LiveOutput(self._streams, on_failure=running.cancel)
        if not self._request.as_json:
            for warning in self._request.loaded.warnings:
                self.tell(f"warning: {warning}", "doubt")
        try:
            outcome = await running
            live.end()
            self._sum_up(outcome)
            await live.drain()
        except BaseException:
            await live.break_off()
            if live.failure is not None:
                raise live.failure from None
            raise
        if live.failure is not None:
            raise live.failure
        return outcome

    async def _run(self) -> ToolOutcome:
        from praxis_sdk.cli.direct import run_directly
        from praxis_sdk.cli.home import Home
        from praxis_sdk.cli.terminal.interrupts import uninterrupted
        from praxis_sdk.control.kinds.tool import KEEP_OUTPUT_BYTES, ToolKind
        from praxis_sdk.control.lifecycle.submission import Submission
        from praxis_sdk.execution.arguments.credentials import withhold
        from praxis_sdk.execution.engine import builtin_engines
        from praxis_sdk.execution.output import HEAD_BYTES
        from praxis_sdk.secrets import GivenSecrets

        request = self._request
        given = GivenSecrets()
        contract, args = withhold(request.loaded.contract, request.args, given)
        kind = ToolKind(
            builtin_engines,
            listen=None if request.as_json else self._hear,
            tell=lambda _, line: self._tell_progress(line),
            stdin=request.stdin,
            outputs=request.context.outputs,
            keep_output_bytes=HEAD_BYTES if request.as_json else KEEP_OUTPUT_BYTES,
            secrets=lambda: Home.of_user().secret_sources(given),
        )
        asked = {
            "contract": contract.model_dump(mode="json", exclude_none=True),
            "args": args,
            "allow_secrets": list(request.allow_secrets),
            "engine": request.engine,
            "trusted": request.trusted,
            "workspace": str(request.context.workspace),
            "allow_mounts": [str(path) for path in request.context.allow_mounts],
            "timeout": request.context.timeout_s,
        }
        try:
            outcome: ToolOutcome = await run_directly(kind, Submission(kind.name, asked))
        finally:
            try:
                await uninterrupted(kind.close())
            except ExceptionGroup as group:  # the run itself is over, and its result stands
                for error in group.exceptions:
                    self.doubts.append(f"clean-up: {error}")
        return outcome

    def _hear(self, _: str, stream: StreamName, data: bytes) -> Future[None] | None:
        assert self._live is not None
        return self._live.feed(stream, data)

    def _tell_progress(self, line: str) -> None:
        self._told.add(line)
        self.tell(line)

    def _sum_up(self, outcome: ToolOutcome) -> None:
        if self._request.as_json:
            return
        if outcome.failure is not None and self._request.quiet and outcome.exit_code is None:
            # The tool has no exit code of its own, so this line is all that says what happened.
            (self._live or self._streams).say(outcome.failure.message, "bad")
        for doubt in self.doubts:
            self.tell(f"warning: {doubt}", "doubt")
        notes = [note for note in outcome.notes if note not in self._told]
        for note in notes[:_MAX_LINES]:
            self.tell(f"note: {note}")
        for file in outcome.exports.files[:_MAX_LINES]:
            self.tell(f"exported {PurePosixPath(file.mount, file.path)} ({format_bytes(file.size_bytes)})")
        for file in outcome.outputs[:_MAX_LINES]:
            self.tell(f"output {PurePosixPath(file.mount, file.path)} ({format_bytes(file.size_bytes)})")
        self.tell(_summary(outcome), "good" if outcome.succeeded else "bad")


def _summary(outcome: ToolOutcome) -> str:
    place = f"on {outcome.engine} (isolation: {outcome.isolation.label}) in {outcome.duration_s:.2f} s"
    parts = [f"{outcome.tool} {str(outcome.status).replace('_', ' ')} {place}"]
    parts.append(outcome.failure.message if outcome.failure else f"exit code {outcome.exit_code or 0}")
    if count := len(outcome.exports.files):
        parts.append(f"{count} file{'s' if count > 1 else ''} exported")
    return ", ".join(parts)


def _document(outcome: ToolOutcome, loaded: LoadedContract, doubts: list[str]) -> dict[str, Any]:
    warnings = [*(str(warning) for warning in loaded.warnings), *doubts]
    return {**outcome.to_json(), "exit_status": outcome.exit_status, "warnings": warnings}


def _offers_stdin(loaded: LoadedContract, engine: str | None) -> bool:
    """Tell whether standard input is there to be handed over, and the tool can read it as it comes."""
    import os
    import stat

    from praxis_sdk.execution.contract.specs import EngineType, ProcessEngineSpec

    spec = loaded.contract.get_typed_spec()
    if not isinstance(spec, ProcessEngineSpec) or spec.stdin is not None or spec.arguments == "stdin":
        return False
    try:
        mode = os.fstat(0).st_mode
    except OSError:  # closed
        return False
    # A Dagger engine takes it as a whole, and a pipe may never end.
    whole_only = (engine or loaded.contract.engine) == EngineType.DAGGER
    return stat.S_ISREG(mode) or ((stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and not whole_only)


def _timeout_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise ValidationError(f"--timeout: {error}") from error


def _workspace(path: Path | None) -> Path:
    try:
        directory = (path or Path.cwd()).resolve()
        found = directory.is_dir()
    except (OSError, ValueError) as error:
        raise ValidationError(f"--workspace: {str(path)[:200]!r} cannot be used: {error}") from error
    if not found:
        raise ValidationError(
            f"--workspace: {str(directory)[:200]!r} is not a directory", remedy="name an existing one"
        )
    return directory
