"""Command jobs: any program of the environment, with the parameters as a JSON file."""

from __future__ import annotations

import json
from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters.base import Findings, Report, RuntimeAdapter, Work, WorkFile
from praxis_sdk.jobs.adapters.inputs import came_in, placed_files
from praxis_sdk.jobs.payload import JobPayload

PARAMETERS_FILE: Final = "parameters.json"
_NOT_FOUND: Final = 127


class CommandAdapter(RuntimeAdapter):
    """Becomes the program; what it leaves in its folder are its outputs."""

    name = "command"
    version = "1"

    def prepare(self, payload: JobPayload) -> Work:
        """Say what has to be placed and run; see `RuntimeAdapter.prepare`."""
        if not payload.command:
            raise ValidationError("payload.command: missing", remedy="give the program and its arguments")
        files = placed_files(payload)
        if payload.parameters:
            if any(file.path == PARAMETERS_FILE for file in files):
                raise ValidationError(f"payload.files: '{PARAMETERS_FILE}' belongs to the parameters")
            content = json.dumps(payload.parameters, sort_keys=True).encode()
            files = (*files, WorkFile(PARAMETERS_FILE, content))
        # A script that came with the job and is named as its program must be executable.
        files = tuple(
            WorkFile(file.path, file.content, executable=payload.command[0] in (file.path, f"./{file.path}"))
            for file in files
        )
        return Work(files=files, argv=tuple(payload.command), leave=came_in(files))

    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Say how the program ended; see `RuntimeAdapter.collect_outputs`."""
        if report.exit_code == 0:
            return Findings()
        if report.exit_code == _NOT_FOUND:
            return Findings(code="exit_nonzero", message=f"exited with code {_NOT_FOUND}: command not found")
        return Findings(code="exit_nonzero", message=f"exited with code {report.exit_code}")
