"""The one exception tree of Praxis.

    PraxisError
    |-- ValidationError          the user's mistake: contract, arguments, command line   (exit status 2)
    |-- ExecutionError           the tool itself failed: exit code and output            (the tool's status)
    '-- PlatformError            Praxis or its host could not do what was asked          (exit status 3)
        |-- IsolationUnavailable this host cannot build the sandbox that the work needs
        |-- EngineUnavailable    a daemon, service or command that an engine needs is not there
        |-- TerminationUnconfirmed nothing says yet that what was ended is really gone
        '-- MissingExtra         an optional dependency is not installed

A failing tool is a result (`ToolOutcome`); it becomes an exception only where the caller asked for the
output alone (`ExecutionEngine.execute`). A failing platform is always an exception.
"""

from __future__ import annotations


class PraxisError(Exception):
    """Any error that Praxis raises on purpose.

    Args:
        message: one line that says what is wrong and names the field, file or service concerned.
        remedy: one line that says what to do about it; may be empty.
    """

    exit_status = 3

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ValidationError(PraxisError):
    """The contract, an argument or an option is not acceptable; nothing was started."""

    exit_status = 2


class ExecutionError(PraxisError):
    """A tool was started and did not succeed.

    Args:
        message: one line that says how it ended.
        exit_code: the tool's exit code; None when it has none (killed, timed out, never answered).
        output: what the tool wrote, stdout before stderr, bounded by the output limit.
    """

    def __init__(
        self, message: str, exit_code: int | None = None, output: str | None = None, *, remedy: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code
        self.output = output


class PlatformError(PraxisError):
    """Praxis or its host failed; the work is not to blame."""


class IsolationUnavailable(PlatformError):
    """The isolation that the work needs cannot be had here, so the work does not run."""


class EngineUnavailable(PlatformError):
    """What an engine stands on (daemon, server, command) is missing or does not answer."""


class TerminationUnconfirmed(PlatformError):
    """Work was ended, and nothing says yet that no process of it is left."""


class MissingExtra(PlatformError):
    """An optional dependency is not installed.

    Args:
        module: the import that failed.
        extra: the extra of `praxis-sdk` that brings it.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"the Python package '{module}' is not installed",
            remedy=f"pip install 'praxis-sdk[{extra}]'",
        )
