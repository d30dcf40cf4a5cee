"""Python jobs: the value of the last expression or of `main()` is the output, figures and tables are artifacts."""

from __future__ import annotations

import errno
import re
import sys
from typing import TYPE_CHECKING, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters.base import Findings, PreparedJob, Report, RuntimeAdapter, WorkFile
from praxis_sdk.jobs.adapters.inputs import came_in, given_stdin, input_values, placed_files
from praxis_sdk.jobs.collector.reading import NOT_A_FILE
from praxis_sdk.jobs.environments.definition import shipped_definitions
from praxis_sdk.jobs.executor.result import FailureCode
from praxis_sdk.jobs.payload.payload import JobPayload
from praxis_sdk.jobs.payload.wording import signal_name
from praxis_sdk.json_text import JsonText
from praxis_sdk.units import format_bytes

if TYPE_CHECKING:
    from praxis_sdk.jobs.environments.store import Environment

DEFAULT_NAME: Final = "job.py"
_NO_MODULE: Final = re.compile(r"No module named '([A-Za-z_][A-Za-z0-9_]{0,99})[.']")
MOST_SIGNALS: Final = 65


class PythonAdapter(RuntimeAdapter):
    """Runs `code`, or `files` from their entrypoint, in the harness's own process."""

    name = "python"
    version = "1"

    def prepare(self, payload: JobPayload) -> PreparedJob:
        """Say what has to be placed and run; see `RuntimeAdapter.prepare`."""
        files = placed_files(payload)
        name, code = DEFAULT_NAME, payload.code
        main = payload.main_file()
        if payload.files and main:
            name = main
            try:
                code = payload.files[main].content().decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValidationError(
                    f"payload.files.{main}: not UTF-8", remedy="save the source as UTF-8"
                ) from error
        if code is None:
            raise ValidationError(
                "payload.code: missing", remedy="give 'code', or 'files' and an 'entrypoint'"
            )
        if not payload.files:  # as a script has it: for those who read it, or start it again
            files = (*files, WorkFile(name, code.encode("utf-8", "surrogatepass")))
        return PreparedJob(
            files=files,
            python={
                "name": name,
                "code": code,
                "argv": payload.argv,
                **_package(payload, name),
                "parameters": payload.parameters,
                "inputs": input_values(payload),
            },
            stdin=given_stdin(payload),
            leave=came_in(files),
        )

    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Read the returned value, or the exception; see `RuntimeAdapter.collect_outputs`."""
        result, problem = report.result, report.result_problem
        if isinstance(result, JsonText):
            result = result.members() or []  # not an object, or not one that the harness would write
        if result is not None and not isinstance(result, dict):
            problem = "not a JSON object"
        if problem and problem != NOT_A_FILE:
            return Findings(
                code=FailureCode.INVALID_RESULT, message=f"the result is not JSON data: {problem}"
            )
        if not isinstance(result, dict):
            return Findings(code=FailureCode.NO_RESULT, message=_without_result(report.exit_code))
        error = result.get("error")
        if isinstance(error, dict):
            kind, message = str(error.get("type", "Exception")), str(error.get("message", ""))
            absent = _NO_MODULE.match(message) if kind == "ModuleNotFoundError" else None
            return Findings(
                code="exception",
                message=f"{kind}: {message}{_limit_behind(kind, message, payload)}" if message else kind,
                traceback=str(error.get("traceback", "")),
                asked_for=absent[1] if absent else "",
            )
        if "bad_value" in result:
            return Findings(
                code="bad_value", message=f"main returned what is not JSON: {result['bad_value']}"
            )
        if "bad_parameter" in result:
            return Findings(code=FailureCode.INVALID_PAYLOAD, message=f"payload.{result['bad_parameter']}")
        number = result.get("signal")
        if isinstance(number, int) and 0 < number < MOST_SIGNALS and report.exit_code == 128 + number:
            return Findings(
                code=FailureCode.KILLED_BY_SIGNAL, message=f"ended by {signal_name(number)}", signal=number
            )
        if report.exit_code != 0:
            return Findings(code="exit_nonzero", message=f"exited with code {report.exit_code}")
        return Findings(outputs=result.get("value"))

    def lack(self, asked_for: str, payload: JobPayload, environment: Environment) -> str:
        """Look for a module where the environment's interpreter would; see `RuntimeAdapter.lack`."""
        own = {part for path in payload.files or () for part in path.removesuffix(".py").split("/")}
        if asked_for in own or environment.has_module(asked_for):
            return ""
        holding = [name for name, one in shipped_definitions().items() if one.names_package(asked_for)]
        if asked_for in sys.stdlib_module_names:
            remedy = "it belongs to Python, whose interpreter here was installed without it"
        elif holding:
            remedy = f"run with --env {holding[0]}"
        else:
            remedy = "build one: praxis env build NAME -r requirements.txt with its package, then run with --env NAME"
            if not payload.files or len(payload.files) == 1:
                remedy += "; if it is your own file, run its folder: praxis exec FOLDER --entrypoint FILE"
        return f"the environment {environment.env_version} has no module '{asked_for}' ({remedy})"


def _limit_behind(kind: str, message: str, payload: JobPayload) -> str:
    """Name the limit that an exception speaks of; Python says that a file is too large, and not for what."""
    if kind != "OSError" or not message.startswith(f"[Errno {errno.EFBIG}]"):
        return ""
    allowed = format_bytes(payload.limits.file_size_bytes)
    return f" (limits.file_size_bytes is {allowed}; on the command line --file-size)"


def _without_result(exit_code: int | None) -> str:
    """Say how a process came past the end of its interpreter, which hands the value over."""
    if exit_code is None:  # the signal says more
        return "ended before it had a result"
    return (
        f"ended with exit code {exit_code} before it had a result (as os._exit, os.exec* and exit() in C do)"
    )


def _package(payload: JobPayload, name: str) -> dict[str, str]:
    """Return the package that a module belongs to; nothing for a script."""
    if payload.module is None:
        return {}
    module = payload.module
    return {"package": module if name.endswith("/__main__.py") else module.rpartition(".")[0]}
