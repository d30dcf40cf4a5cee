"""Structured logging of the library: silent until the application configures structlog.

A library that nobody asked to speak must not write to its caller's stdout, which is what structlog does
by default. Arguments, environment values and secrets are never logged at INFO and above.
"""

from __future__ import annotations

import sys
from typing import Any


class Logger:
    """Passes events on to structlog, once the application has configured it.

    Args:
        name: the logger's name, such as 'praxis.execution'.
        bound: values that every event carries.
    """

    def __init__(self, name: str, bound: dict[str, Any] | None = None) -> None:
        self._name = name
        self._bound = bound or {}

    def bind(self, **values: Any) -> Logger:
        """Return a logger whose events also carry these values."""
        return Logger(self._name, {**self._bound, **values})

    def debug(self, event: str, **values: Any) -> None:
        """Log what only a developer of Praxis wants to know."""
        self._log("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Log what happened."""
        self._log("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log what somebody should look at."""
        self._log("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Log what failed."""
        self._log("error", event, values)

    def _log(self, level: str, event: str, values: dict[str, Any]) -> None:
        # Whoever configured it has imported it; who did not shall not pay for it.
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            logger = structlog.get_logger(self._name, **self._bound)
            getattr(logger, level)(event, logger=self._name, **values)


def get_logger(name: str) -> Logger:
    """Return the logger of a room."""
    return Logger(name)
