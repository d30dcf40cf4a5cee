"""Reading which notifiers are wanted: `PRAXIS_NOTIFY=log,webhook:https://...,smtp://user@host:587/?to=ops@...`."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Final

from praxis_sdk.control.observe.notifiers.base import Notifier
from praxis_sdk.control.observe.notifiers.log import LogNotifier
from praxis_sdk.control.observe.notifiers.smtp import SmtpNotifier, SmtpSecurity
from praxis_sdk.control.observe.notifiers.webhook import WebhookNotifier
from praxis_sdk.errors import ValidationError

VARIABLE: Final = "PRAXIS_NOTIFY"
PASSWORD_VARIABLE: Final = "PRAXIS_SMTP_PASSWORD"  # noqa: S105  the name of a variable
MAX_NOTIFIERS: Final = 20

_REMEDY: Final = (
    "write for example 'log,webhook:https://host/path,smtp://user@host:587/?to=ops@example.org'; "
    "a comma inside an address is %2C"
)
_PORTS: Final = {SmtpSecurity.TLS: 465, SmtpSecurity.STARTTLS: 587, SmtpSecurity.NONE: 25}


class _Unacceptable(ValueError):
    """What is wrong with an entry, without the entry's own text."""


def from_environment(environment: Mapping[str, str]) -> list[Notifier]:
    """Return the notifiers that the environment asks for; the log alone where it says nothing.

    Raises:
        ValidationError: as `parse_notifiers`.
    """
    text = environment.get(VARIABLE, "log")
    return parse_notifiers(text, smtp_password=environment.get(PASSWORD_VARIABLE, ""))


def parse_notifiers(text: str, *, smtp_password: str = "") -> list[Notifier]:
    """Read a list of notifiers.

    Args:
        text: `log`, `webhook:URL`, `smtp://...` (STARTTLS; `tls=none` for a server inside), `smtps://...`,
            separated by commas; empty, or `none`: nobody is told.
        smtp_password: of mail servers whose address names a user and no password.

    Raises:
        ValidationError: an entry is not acceptable; the message says which by its place, not by its text,
            which may hold a secret.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if entries == ["none"]:
        return []
    if len(entries) > MAX_NOTIFIERS:
        raise ValidationError(f"{VARIABLE}: has more than {MAX_NOTIFIERS} entries", remedy=_REMEDY)
    return [_notifier(number, entry, smtp_password) for number, entry in enumerate(entries, 1)]


def _notifier(number: int, entry: str, smtp_password: str) -> Notifier:
    way = entry.partition(":")[0].lower()
    try:
        match way:
            case "log" if ":" not in entry:
                return LogNotifier()
            case "webhook":
                return _webhook(entry.partition(":")[2])
            case "smtp" | "smtps":
                return _smtp(entry, smtp_password)
    except _Unacceptable as error:
        raise ValidationError(f"{VARIABLE}: entry {number} ({way}): {error}", remedy=_REMEDY) from None
    except ValueError:  # of urllib, which would repeat the address
        message = f"{VARIABLE}: entry {number} ({way}): the host or the port is not acceptable"
        raise ValidationError(message, remedy=_REMEDY) from None
    raise ValidationError(f"{VARIABLE}: entry {number} is not log, webhook, smtp or smtps", remedy=_REMEDY)


def _webhook(url: str) -> WebhookNotifier:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Unacceptable("the address is not http://host/... or https://host/...")
    if parts.username is not None:
        raise _Unacceptable("the address must not hold a user; put the secret into the path or the query")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _Unacceptable("the address has characters that must be written as %XX")
    _ = parts.port  # raises where it is none
    return WebhookNotifier(url)


def _smtp(address: str, password: str) -> SmtpNotifier:
    parts = urllib.parse.urlsplit(address)
    given = urllib.parse.parse_qs(parts.query)
    unknown = given.keys() - {"to", "from", "tls"}
    if unknown:
        raise _Unacceptable(f"knows 'to', 'from' and 'tls', not {len(unknown)} others")
    if not parts.hostname or parts.path not in ("", "/"):
        raise _Unacceptable("the address is not smtp://user@host:port/?to=ops@example.org")
    recipients = tuple(_address(to, "to") for tos in given.get("to", []) for to in tos.split(","))
    if not recipients:
        raise _Unacceptable("says nobody in '?to='")
    user = urllib.parse.unquote(parts.username or "")
    own = urllib.parse.unquote(parts.password or "")
    security = _security(parts.scheme, given.get("tls", [""])[-1])
    if user and security is SmtpSecurity.NONE:
        raise _Unacceptable("a password is not sent in the clear; drop 'tls=none' or the user")
    sender = _address(given["from"][-1], "from") if "from" in given else f"praxis@{parts.hostname}"
    return SmtpNotifier(
        parts.hostname,
        parts.port or _PORTS[security],
        recipients,
        sender,
        security,
        user,
        (own or password) if user else "",
    )


def _security(scheme: str, tls: str) -> SmtpSecurity:
    if scheme == "smtps":
        if tls not in ("", "tls"):
            raise _Unacceptable("smtps:// is encrypted from the first byte; 'tls=' does not go with it")
        return SmtpSecurity.TLS
    known: Mapping[str, SmtpSecurity] = {"": SmtpSecurity.STARTTLS, **{str(way): way for way in SmtpSecurity}}
    if tls not in known:
        raise _Unacceptable("'tls=' is one of tls, starttls, none")
    return known[tls]


def _address(text: str, field: str) -> str:
    local, _, domain = text.strip().rpartition("@")
    special = set(text.strip()) & set(' <>"(),;:')
    if not local or not domain or special or not text.strip().isprintable():
        raise _Unacceptable(f"'{field}=' is not a mail address such as ops@example.org")
    return text.strip()
