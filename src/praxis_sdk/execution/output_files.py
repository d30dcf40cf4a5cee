"""The files that a tool is run for: what matches the contract's `outputs` in its working directory.

The working directory is then fresh, empty and writable on every engine: a folder of this run, mounted like any
other read-write mount, whose changes come back as theirs do. What matches goes where the caller wants it,
by the same reader, which follows nothing; the rest goes with the folder.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.contract.specs import (
    EngineSpec,
    IsolatedEngineSpec,
    LocalEngineSpec,
    ProcessEngineSpec,
)
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.engines.run_directory import make_run_directory
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.mounts.exports import export_changes
from praxis_sdk.execution.mounts.mounts import ToolMount
from praxis_sdk.execution.mounts.staging import remove_tree
from praxis_sdk.execution.outcome import Exports, ToolOutcome

WORKING_DIR: Final = "/work"
_MAX_NAMED: Final = 20


class OutputFolder:
    """The working directory of one run whose contract has `outputs`; without them it does nothing.

    Args:
        invocation: the plan of the run.

    Attributes:
        invocation: the plan with the folder in it.
    """

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self._path: Path | None = None
        self._cleanup = ExitStack()
        spec = invocation.spec
        if not (isinstance(spec, ProcessEngineSpec) and spec.outputs):
            return
        if invocation.context.outputs is not None:
            _make_destination(invocation.context.outputs)
        self._patterns = [_pattern(text) for text in spec.outputs]
        self._path = make_run_directory(ProcessOwner.current()).resolve()
        self._cleanup.callback(remove_tree, self._path)
        if isinstance(spec, LocalEngineSpec):
            self.invocation = replace(invocation, spec=spec.model_copy(update={"cwd": str(self._path)}))
        elif isinstance(spec, IsolatedEngineSpec):
            mount = ToolMount(spec.working_dir or WORKING_DIR, self._path, writable=True)
            mounts = tuple(sorted((*invocation.mounts, mount)))
            placed = spec.model_copy(update={"working_dir": mount.target})
            self.invocation = replace(invocation, spec=placed, mounts=mounts)

    @property
    def used(self) -> bool:
        """Whether the contract has outputs, or the caller asks for them."""
        return self._path is not None or self.invocation.context.outputs is not None

    def collect(self, outcome: ToolOutcome) -> ToolOutcome:
        """Hand the files over that match, and say so in the outcome; blocks, so call it in a thread.

        Raises:
            PlatformError: they cannot be written where the caller wants them.
        """
        if self._path is None:
            if self.invocation.context.outputs is None:
                return outcome
            note = "no output file was collected: the contract has no 'outputs'"
            return replace(outcome, notes=(*outcome.notes, note))
        target = self._mount_target()
        unasked = {line for line in outcome.exports.skipped if not self._asked_for(line, f"{target}/")}
        own = [file for file in outcome.exports.files if file.mount == target]
        others = tuple(file for file in outcome.exports.files if file.mount != target)
        outcome = replace(
            outcome,
            exports=replace(
                outcome.exports,
                files=others,
                skipped=tuple(line for line in outcome.exports.skipped if line not in unasked),
            ),
            notes=tuple(line for line in outcome.notes if line not in unasked),
        )
        found = self._keep_matching(self._path)
        destination = self.invocation.context.outputs
        if destination is None:
            named = ", ".join(found[:_MAX_NAMED]) + (", ..." if len(found) > _MAX_NAMED else "")
            note = f"output files were not kept: {named} (name a folder with --output DIR)"
            return replace(outcome, notes=(*outcome.notes, *([note] if found else [])))
        exports = self._export(self._path, destination)
        missed = () if found or not own else ("no output file matches the contract's 'outputs'",)
        notes = (*outcome.notes, *exports.skipped, *missed)
        return replace(outcome, outputs=exports.files, notes=notes)

    def close(self) -> None:
        """Remove the folder; repeatable."""
        self._cleanup.close()

    def _mount_target(self) -> str:
        spec = self.invocation.spec
        return (spec.working_dir or "") if isinstance(spec, IsolatedEngineSpec) else ""

    def _asked_for(self, line: str, folder: str) -> bool:
        """Whether a line about a file that was left out is of interest: no pattern, no interest."""
        path = line.removeprefix(folder).partition(" was not exported: ")[0]
        return not line.startswith(folder) or any(one.fullmatch(path) for one in self._patterns)

    def _keep_matching(self, folder: Path) -> list[str]:
        """Remove what does not match; returns the paths of what is left."""
        found = []
        for top, folders, files in os.walk(folder, topdown=False):
            for name in (*files, *(f for f in folders if os.path.islink(os.path.join(top, f)))):
                path = Path(top, name)
                below = path.relative_to(folder).as_posix()
                if stat.S_ISREG(path.lstat().st_mode) and any(p.fullmatch(below) for p in self._patterns):
                    found.append(below)
                else:
                    path.unlink()
            if top != str(folder) and not os.listdir(top):
                os.rmdir(top)
        return sorted(found)

    def _export(self, folder: Path, destination: Path) -> Exports:
        try:
            destination.mkdir(parents=True, exist_ok=True)
            folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise PlatformError(
                f"outputs: '{destination}' cannot be written: {error.strerror}", remedy="name another folder"
            ) from error
        try:
            return export_changes(folder_fd, destination.resolve(), str(destination))
        finally:
            os.close(folder_fd)


def _make_destination(folder: Path) -> None:
    """Make the folder for the files before the tool runs, rather than lose what it made.

    Raises:
        ValidationError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ValidationError(
            f"outputs: '{folder}' cannot be written: {reason}", remedy="name another folder"
        )


def check_outputs(spec: EngineSpec, mounts: Iterable[ToolMount]) -> None:
    """Refuse outputs that have no fresh working directory.

    Raises:
        ValidationError: the working directory lies in a mount, or is chosen by 'cwd'.
    """
    if not isinstance(spec, ProcessEngineSpec) or not spec.outputs:
        return
    if isinstance(spec, LocalEngineSpec) and spec.cwd is not None:
        raise ValidationError(
            "engineSpec.outputs: 'cwd' and 'outputs' exclude one another", remedy="leave 'cwd' out"
        )
    place = ToolMount(getattr(spec, "working_dir", None) or WORKING_DIR, Path(), writable=True)
    if any(mount.target == place.target or mount.covers(place) for mount in mounts):
        raise ValidationError(
            f"engineSpec.outputs: the working directory '{place.target}' lies in a mount",
            remedy="name another working_dir; what changes in a mount is copied back anyway",
        )


def _pattern(text: str) -> re.Pattern[str]:
    """Read a glob: '*' and '?' stay in one folder, '**' goes through all below."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", text.removeprefix("./"))
    return re.compile("".join(pieces.get(part) or re.escape(part) for part in parts), re.DOTALL)
