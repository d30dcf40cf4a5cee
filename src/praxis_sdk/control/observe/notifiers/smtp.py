"""Telling by mail."""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from enum import StrEnum
from typing import Final

from praxis_sdk.control.observe.alerts import Alert
from praxis_sdk.control.observe.notifiers.base import NotificationFailed

TIMEOUT_S: Final = 20.0
MAX_SUBJECT_CHARS: Final = 150


class SmtpSecurity(StrEnum):
    """How the connection to a mail server is encrypted."""

    TLS = "tls"  # from its first byte
    STARTTLS = "starttls"  # before anything is said
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SmtpNotifier:
    """Sends each alert as a mail.

    Args:
        host, port: the mail server.
        recipients: whom it tells.
        sender: in whose name.
        security: how the connection is encrypted; a server that cannot do so is not talked to.
        user, password: where the server asks for them.
        timeout_s: how long each step of the conversation may take, in seconds.
        tls_context: whom to trust; None: what this machine trusts.
    """

    host: str
    port: int
    recipients: tuple[str, ...]
    sender: str = "praxis@localhost"
    security: SmtpSecurity = SmtpSecurity.STARTTLS
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The way and the server."""
        return f"smtp:{self.host}"

    async def notify(self, alert: Alert) -> None:
        """Send a mail.

        Raises:
            NotificationFailed: the server did not accept it for every recipient.
        """
        message = self._message(alert)
        try:
            async with asyncio.timeout(self.timeout_s * 10):  # the sum of the steps
                refused = await asyncio.to_thread(self._send, message)
        except smtplib.SMTPResponseException as error:
            # The server's words may repeat what it was told, a password too; its code does not.
            raise NotificationFailed(f"{self.name}: answered {error.smtp_code}") from None
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise NotificationFailed(f"{self.name}: {type(error).__name__}") from None
        if refused:
            raise NotificationFailed(
                f"{self.name}: refused {len(refused)} of {len(self.recipients)} recipients"
            )

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = ", ".join(self.recipients)
        message["Subject"] = _one_line(f"[praxis] {alert.kind}: {alert.message}")
        message["Date"] = format_datetime(datetime.fromtimestamp(alert.at, UTC))
        facts = json.dumps(alert.to_json(), indent=2, ensure_ascii=False)
        text = f"{alert.message}\n\n{facts}\n"
        message.set_content(text.encode("utf-8", "replace").decode())
        return message

    def _send(self, message: EmailMessage) -> dict[str, tuple[int, bytes]]:
        """Send it, in a thread, and return the recipients that the server refused."""
        context = self.tls_context or ssl.create_default_context()
        server: smtplib.SMTP
        if self.security is SmtpSecurity.TLS:
            server = smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_s, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout_s)
        with server:
            if self.security is SmtpSecurity.STARTTLS:
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password)
            return server.send_message(message)


def _one_line(text: str) -> str:
    """Return a text that a header may hold: no line of the work's making starts another header."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_SUBJECT_CHARS else line[: MAX_SUBJECT_CHARS - 1] + "…"
