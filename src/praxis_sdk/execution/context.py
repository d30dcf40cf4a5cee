"""The circumstances of one run: where it happens, under which id, who listens."""

from __future__ import annotations

import asyncio
import difflib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from praxis_sdk.errors import ValidationError
from praxis_sdk.termination import Remains, Termination
from praxis_sdk.units import parse_seconds

if TYPE_CHECKING:
    from praxis_sdk.secrets import Mask

StreamName = Literal["stdout", "stderr"]
# What it returns, if anything, is done when it takes more.
OutputListener = Callable[[StreamName, bytes], asyncio.Future[None] | None]
ProgressListener = Callable[[str], None]

_EXECUTION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class RunContext:
    """What an engine is told beside the contract and the arguments.

    Args:
        execution_id: names the run in logs, labels and container names; made up where missing.
        workspace: directory from which relative mount sources count.
        allow_mounts: folders below which an untrusted contract may mount, beside the workspace.
        stdin: what the tool reads on standard input: bytes, or an open descriptor, which stays the caller's and
            is read as data comes; None for nothing.
        outputs: folder for the files that match the contract's `outputs`; made where it is missing.
        timeout_s: wall-clock limit in seconds; replaces the contract's.
        on_output: called with each piece of output as it arrives; a future that it returns must be done before it
            is called again, and holds up the tool.
        keep_output_bytes: most bytes of the beginning, and of the end, of each stream that the outcome has; a
            caller that listens may need few.
        on_progress: called with a line for people when a slow step begins (pulling an image).
        fencing_token: of the attempt that this run is, for labels; 0: it is no attempt.
        identity: variables that tell the tool which attempt it is; no contract and no argument changes them.
        on_outside: told of what is about to be started where this process's death does not end it.
        on_termination: told what is known of the tool's end; the last word counts.
        mask: replaces secrets in what the tool writes.
        terminating: when it is set, the tool is asked to end (SIGTERM); cancelling the run kills it.
    """

    execution_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    workspace: Path = field(default_factory=Path.cwd)
    allow_mounts: tuple[Path, ...] = ()
    stdin: bytes | int | None = None
    outputs: Path | None = None
    timeout_s: float | None = None
    on_output: OutputListener | None = None
    keep_output_bytes: int | None = None
    on_progress: ProgressListener | None = None
    fencing_token: int = 0
    identity: Mapping[str, str] = field(default_factory=dict)
    on_outside: Callable[[Remains], None] | None = None
    on_termination: Callable[[Termination], None] | None = None
    terminating: asyncio.Event | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if not _EXECUTION_ID.fullmatch(self.execution_id):
            raise ValidationError(
                f"execution_id: {self.execution_id[:120]!r} is not an id",
                remedy="use up to 100 letters, digits, '_', '.', '-'",
            )

    @classmethod
    def of(cls, context: Mapping[str, Any] | RunContext | None) -> RunContext:
        """Read the `context` of spec 1: a mapping whose keys are the fields here; others are the caller's own.

        Raises:
            ValidationError: a field has the wrong form, or a key looks like a field that is misspelt.
        """
        if isinstance(context, RunContext):
            return context
        names = [f.name for f in fields(cls)]
        for key in context or ():
            near = [] if key in names else difflib.get_close_matches(str(key), names, n=1, cutoff=0.87)
            if near:
                raise ValidationError(
                    f"context: {str(key)[:80]!r} is not a field", remedy=f"did you mean {near[0]!r}?"
                )
        known = {f.name: context[f.name] for f in fields(cls) if context and f.name in context}
        try:
            if "workspace" in known:
                known["workspace"] = Path(known["workspace"])
            if "allow_mounts" in known:
                known["allow_mounts"] = tuple(Path(path) for path in known["allow_mounts"])
            if known.get("outputs") is not None:
                known["outputs"] = Path(known["outputs"])
            if known.get("timeout_s") is not None:
                known["timeout_s"] = parse_seconds(known["timeout_s"])
            if "execution_id" in known:
                known["execution_id"] = str(known["execution_id"])
        except (TypeError, ValueError) as error:
            raise ValidationError(f"context: {error}", remedy="see RunContext for its fields") from error
        return replace(cls(), **known)

    def outside(self, remains: Remains) -> None:
        """Tell of what is about to be started where this process's death does not end it."""
        if self.on_outside is not None:
            self.on_outside(remains)

    def ended(self, termination: Termination) -> None:
        """Tell what is known of the tool's end."""
        if self.on_termination is not None:
            self.on_termination(termination)

    def progress(self, line: str) -> None:
        """Tell whoever listens that a slow step begins."""
        if self.on_progress is not None:
            self.on_progress(line)
