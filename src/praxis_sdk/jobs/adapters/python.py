"""Python jobs: the value of the last expression or of `main()` is the output, figures and tables are artifacts."""

from __future__ import annotations

from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters.base import NOT_A_FILE, Findings, Report, RuntimeAdapter, Work
from praxis_sdk.jobs.adapters.inputs import came_in, input_values, placed_files
from praxis_sdk.jobs.payload import JobPayload
from praxis_sdk.jobs.result import FailureCode

DEFAULT_NAME: Final = "job.py"


class PythonAdapter(RuntimeAdapter):
    """Runs `code`, or `files` from their entrypoint, in the harness's own process."""

    name = "python"
    version = "1"

    def prepare(self, payload: JobPayload) -> Work:
        """Say what has to be placed and run; see `RuntimeAdapter.prepare`."""
        files = placed_files(payload)
        name, code = DEFAULT_NAME, payload.code
        if payload.files and payload.entrypoint:
            name = payload.entrypoint
            try:
                code = payload.files[payload.entrypoint].content().decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValidationError(
                    f"payload.files.{payload.entrypoint}: not UTF-8", remedy="save the source as UTF-8"
                ) from error
        if code is None:
            raise ValidationError(
                "payload.code: missing", remedy="give 'code', or 'files' and an 'entrypoint'"
            )
        return Work(
            files=files,
            python={
                "name": name,
                "code": code,
                "parameters": payload.parameters,
                "inputs": input_values(payload),
            },
            leave=came_in(files),
        )

    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Read the returned value, or the exception; see `RuntimeAdapter.collect_outputs`."""
        result, problem = report.result, report.result_problem
        if result is not None and not isinstance(result, dict):
            problem = "not a JSON object"
        if problem and problem != NOT_A_FILE:
            return Findings(code=FailureCode.INVALID_RESULT, message=f"the result is no JSON data: {problem}")
        if not isinstance(result, dict):
            return Findings(code="no_result", message="ended before it had a result")
        error = result.get("error")
        if isinstance(error, dict):
            kind, message = str(error.get("type", "Exception")), str(error.get("message", ""))
            return Findings(
                code="exception",
                message=f"{kind}: {message}" if message else kind,
                traceback=str(error.get("traceback", "")),
            )
        if "bad_value" in result:
            return Findings(code="bad_value", message=f"the returned value is no JSON: {result['bad_value']}")
        if report.exit_code != 0:
            return Findings(code="exit_nonzero", message=f"exited with code {report.exit_code}")
        return Findings(outputs=result.get("value"))
