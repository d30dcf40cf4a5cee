"""Command jobs: any program of the environment, with the parameters as a JSON file.

A program that has a JSON value for an output writes it to the file that `PRAXIS_RESULT_FILE` names.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters.base import Findings, PreparedJob, Report, RuntimeAdapter, WorkFile
from praxis_sdk.jobs.adapters.inputs import came_in, given_stdin, placed_files
from praxis_sdk.jobs.executor.result import FailureCode
from praxis_sdk.jobs.harness import RESULT_FILE, RESULT_FOLDER
from praxis_sdk.jobs.payload.payload import JobPayload
from praxis_sdk.sandbox import DEFAULT_WORKDIR

if TYPE_CHECKING:
    from praxis_sdk.jobs.environments.store import Environment

PARAMETERS_FILE: Final = "parameters.json"
RESULT_VARIABLE: Final = "PRAXIS_RESULT_FILE"
_NOT_FOUND: Final = 127


class CommandAdapter(RuntimeAdapter):
    """Becomes the program; the JSON value in its result file is the output, what else it leaves are artifacts."""

    name = "command"
    version = "2"

    def prepare(self, payload: JobPayload) -> PreparedJob:
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
        return PreparedJob(
            files=files,
            argv=tuple(payload.command),
            stdin=given_stdin(payload),
            # An absolute path, which also means something to a program that changes its directory.
            variables={RESULT_VARIABLE: f"{DEFAULT_WORKDIR}/{RESULT_FOLDER}/{RESULT_FILE}"},
            leave=came_in(files),
        )

    def lack(self, asked_for: str, payload: JobPayload, environment: Environment) -> str:
        """Look for the program where the environment would; see `RuntimeAdapter.lack`."""
        if shutil.which(asked_for, path=environment.variables["PATH"]) is not None:
            return ""
        return (
            f"neither this host nor the environment {environment.env_version} has a program {asked_for[:80]!r} "
            "(install it, or hand it over among the files and name it as ./PROGRAM)"
        )

    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Read the value, or say how the program ended; see `RuntimeAdapter.collect_outputs`."""
        if report.exit_code == 0 and report.result_problem:
            return Findings(
                code=FailureCode.INVALID_RESULT,
                message=f"the file that {RESULT_VARIABLE} names holds no JSON data: {report.result_problem}",
            )
        if report.exit_code == 0:
            return Findings(outputs=report.result)
        if report.exit_code == _NOT_FOUND:
            program = (payload.command or [""])[0]
            return Findings(
                code="exit_nonzero",
                message=f"exited with code {_NOT_FOUND}: command not found",
                asked_for="" if "/" in program else program,
            )
        return Findings(code="exit_nonzero", message=f"exited with code {report.exit_code}")
