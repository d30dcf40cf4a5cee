"""Ways to tell people of an alert: one small protocol, and a module per way.

`log` writes a line, `webhook` posts JSON, `smtp` sends a mail; `configuration` reads which ones are wanted, and
`dispatch` hands each alert to all of them, beside the work and never in its way.
"""

from praxis_sdk.control.observe.notifiers.base import NotificationFailed, Notifier
from praxis_sdk.control.observe.notifiers.configuration import parse_notifiers
from praxis_sdk.control.observe.notifiers.dispatch import Delivery, Notifications
from praxis_sdk.control.observe.notifiers.log import LogNotifier
from praxis_sdk.control.observe.notifiers.smtp import SmtpNotifier, SmtpSecurity
from praxis_sdk.control.observe.notifiers.webhook import WebhookNotifier

__all__ = [
    "Delivery",
    "LogNotifier",
    "NotificationFailed",
    "Notifications",
    "Notifier",
    "SmtpNotifier",
    "SmtpSecurity",
    "WebhookNotifier",
    "parse_notifiers",
]
