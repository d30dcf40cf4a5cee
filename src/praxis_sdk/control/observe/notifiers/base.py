"""What a notifier is."""

from __future__ import annotations

from typing import Protocol

from praxis_sdk.control.observe.alerts import Alert
from praxis_sdk.errors import PlatformError


class NotificationFailed(PlatformError):
    """People could not be told; the message names the way, never an address's secret part."""


class Notifier(Protocol):
    """A way to tell people of an alert (spec 4, "Failure Escalation")."""

    @property
    def name(self) -> str:
        """What it is called in logs and metrics; it holds no secret."""

    async def notify(self, alert: Alert) -> None:
        """Tell people of an alert, within a bounded time.

        Raises:
            NotificationFailed: it could not be delivered.
        """
