"""Telling by a line in the log."""

from __future__ import annotations

from dataclasses import dataclass

from praxis_sdk.control.observe.alerts import Alert
from praxis_sdk.log import get_logger
from praxis_sdk.model import Level

_log = get_logger("praxis.alerts")


@dataclass(frozen=True, slots=True)
class LogNotifier:
    """Writes alerts to the log of Praxis."""

    name: str = "log"

    async def notify(self, alert: Alert) -> None:
        """Write a line."""
        write = _log.error if alert.level is Level.ERROR else _log.warning
        write(
            "alert",
            kind=str(alert.kind),
            subject=alert.subject,
            message=alert.message,
            execution_id=alert.execution_id,
        )
