"""Telling people: real requests and mails, a clear word for what is not acceptable, and no harm to anybody."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from praxis_sdk.clock import Clock
from praxis_sdk.control.observe.alerts import Alert, AlertKind
from praxis_sdk.control.observe.notifiers import (
    Delivery,
    LogNotifier,
    NotificationFailed,
    Notifications,
    SmtpNotifier,
    SmtpSecurity,
    WebhookNotifier,
    parse_notifiers,
)
from praxis_sdk.control.observe.notifiers.configuration import from_environment
from praxis_sdk.errors import ValidationError
from praxis_sdk.model import Level

ALERT = Alert(
    AlertKind.RETRIES_EXHAUSTED,
    "e1",
    "prüfung: failed for good",
    1_700_000_000.0,
    Level.ERROR,
    "e1",
    {"n": 3},
)
SECRET = "T0K3N"


class HandClock(Clock):
    """Does not wait, and keeps for how long it should have."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


# -- a web server


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()

    def url(self, path: str = f"/hook/{SECRET}") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        self.server.hold.wait(10)
        status = self.server.answers.pop(0) if self.server.answers else 204
        with contextlib.suppress(OSError):
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.hold.set()
        server.shutdown()
        thread.join()


async def test_a_webhook_gets_the_alert_as_json(web: Web) -> None:
    await WebhookNotifier(web.url(), headers={"Authorization": "Bearer x"}).notify(ALERT)
    [(method, path, headers, body)] = web.requests
    assert (method, path) == ("POST", f"/hook/{SECRET}")
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer x"
    assert json.loads(body) == ALERT.to_json()


async def test_a_busy_webhook_is_tried_again_after_pauses(web: Web) -> None:
    web.answers = [503, 429]
    clock = HandClock()
    await WebhookNotifier(web.url(), clock=clock).notify(ALERT)
    assert len(web.requests) == 3
    assert clock.pauses == [1.0, 2.0]


@pytest.mark.parametrize(("answers", "tries"), [([500] * 9, 3), ([404], 1), ([302], 1), ([307], 1)])
async def test_a_webhook_that_refuses_is_a_failure_without_its_secret(
    web: Web, answers: list[int], tries: int
) -> None:
    web.answers = list(answers)
    with pytest.raises(NotificationFailed, match=f"answered {answers[0]}") as failed:
        await WebhookNotifier(web.url(), clock=HandClock()).notify(ALERT)
    assert len(web.requests) == tries
    assert SECRET not in f"{failed.value} {failed.value!r}"


async def test_a_webhook_that_does_not_answer_is_given_up(web: Web) -> None:
    web.hold.clear()
    with pytest.raises(NotificationFailed, match="no answer"):
        await WebhookNotifier(web.url(), timeout_s=0.1, retries=0).notify(ALERT)
    assert len(web.requests) == 1


async def test_a_webhook_that_is_away_is_a_failure(web: Web) -> None:
    clock = HandClock()
    with pytest.raises(NotificationFailed, match="no answer") as failed:
        await WebhookNotifier(f"http://127.0.0.1:1/{SECRET}", clock=clock).notify(ALERT)
    assert clock.pauses == [1.0, 2.0]
    assert SECRET not in str(failed.value)


def test_a_notifier_shows_no_secret() -> None:
    shown = f"{WebhookNotifier(f'https://chat.example/{SECRET}')!r}"
    shown += f"{SmtpNotifier('mail', 25, ('a@b',), user='ops', password=SECRET)!r}"
    assert SECRET not in shown


# -- a mail server


@dataclass
class Mail:
    """A small mail server (RFC 5321), which keeps what it is told."""

    tls: ssl.SSLContext | None = None
    refuse: frozenset[str] = frozenset()
    advertise_tls: bool = True
    port: int = 0
    said: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await say("220 mail")
            while line := (await reader.readline()).decode().strip():
                self.said.append(line)
                verb = line.split()[0].upper()
                encrypted = writer.get_extra_info("ssl_object") is not None
                if verb == "EHLO":
                    await say("250-mail")
                    if self.tls and self.advertise_tls and not encrypted:
                        await say("250-STARTTLS")
                    await say("250 AUTH PLAIN")
                elif verb == "STARTTLS":
                    await say("220 go")
                    assert self.tls is not None
                    await writer.start_tls(self.tls)
                elif verb == "AUTH":
                    wanted = "AG9wcwBUMEszTg=="  # \0ops\0T0K3N
                    await say("235 ok" if line.endswith(wanted) else f"535 no: {line}")
                elif verb == "RCPT":
                    await say("550 no" if any(name in line for name in self.refuse) else "250 ok")
                elif verb == "DATA":
                    await say("354 go")
                    self.messages.append((await reader.readuntil(b"\r\n.\r\n"))[:-3])
                    await say("250 ok")
                elif verb == "QUIT":
                    await say("221 bye")
                    break
                else:
                    await say("250 ok")
        writer.close()


@contextlib.asynccontextmanager
async def mail_server(mail: Mail, *, encrypted: bool = False) -> AsyncIterator[Mail]:
    server = await asyncio.start_server(mail.talk, "127.0.0.1", 0, ssl=mail.tls if encrypted else None)
    mail.port = server.sockets[0].getsockname()[1]
    async with server:
        yield mail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(path), "-out", f"{path}.crt", "-subj", "/CN=localhost", "-days", "2"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=f"{certificate}.crt")


def smtp(mail: Mail, security: SmtpSecurity = SmtpSecurity.NONE, **options: Any) -> SmtpNotifier:
    return SmtpNotifier(
        "127.0.0.1",
        mail.port,
        options.pop("recipients", ("ops@example.org", "night@example.org")),
        security=security,
        timeout_s=5,
        **options,
    )


async def test_a_mail_tells_the_alert() -> None:
    async with mail_server(Mail()) as mail:
        await smtp(mail).notify(ALERT)
    message = email.message_from_bytes(mail.messages[0], policy=email.policy.default)
    assert message["To"] == "ops@example.org, night@example.org"
    assert message["Subject"] == "[praxis] retries_exhausted: prüfung: failed for good"
    text = message.get_content()
    assert json.loads(text[text.index("{") :]) == ALERT.to_json()
    assert [line for line in mail.said if line.startswith("rcpt")] == [
        "rcpt TO:<ops@example.org>",
        "rcpt TO:<night@example.org>",
    ]


@pytest.mark.parametrize("security", [SmtpSecurity.STARTTLS, SmtpSecurity.TLS])
async def test_a_password_travels_encrypted_only(
    server_tls: ssl.SSLContext, trust: ssl.SSLContext, security: SmtpSecurity
) -> None:
    mail = Mail(server_tls)
    async with mail_server(mail, encrypted=security is SmtpSecurity.TLS):
        await smtp(mail, security, user="ops", password=SECRET, tls_context=trust).notify(ALERT)
    verbs = [line.split()[0].upper() for line in mail.said]
    assert len(mail.messages) == 1
    if security is SmtpSecurity.STARTTLS:
        assert verbs.index("STARTTLS") < verbs.index("AUTH")


async def test_a_server_that_cannot_encrypt_hears_nothing(server_tls: ssl.SSLContext) -> None:
    mail = Mail(server_tls, advertise_tls=False)
    async with mail_server(mail):
        with pytest.raises(NotificationFailed):
            await smtp(mail, SmtpSecurity.STARTTLS, user="ops", password=SECRET).notify(ALERT)
    assert {line.split()[0].upper() for line in mail.said} <= {"EHLO", "QUIT"}


async def test_a_server_that_nobody_vouches_for_is_not_told(server_tls: ssl.SSLContext) -> None:
    mail = Mail(server_tls)
    async with mail_server(mail):
        with pytest.raises(NotificationFailed, match="SSLCertVerificationError"):
            await smtp(mail, SmtpSecurity.STARTTLS, user="ops", password=SECRET).notify(ALERT)
    assert mail.messages == []


async def test_a_refused_password_is_not_repeated(server_tls: ssl.SSLContext, trust: ssl.SSLContext) -> None:
    mail = Mail(server_tls)
    async with mail_server(mail):
        notifier = smtp(mail, SmtpSecurity.STARTTLS, user="ops", password="wrong", tls_context=trust)
        with pytest.raises(NotificationFailed, match="answered 535") as failed:
            await notifier.notify(ALERT)
    assert "AUTH" not in str(failed.value)


async def test_a_refused_recipient_is_a_failure_although_others_got_it() -> None:
    mail = Mail(refuse=frozenset({"night@"}))
    async with mail_server(mail):
        with pytest.raises(NotificationFailed, match="refused 1 of 2"):
            await smtp(mail).notify(ALERT)
    assert len(mail.messages) == 1


async def test_no_message_can_add_a_header() -> None:
    alert = Alert(AlertKind.WORKER_LOST, "w", "x\r\nBcc: all@example.org\u2028y" + "z" * 500, 0.0)
    async with mail_server(Mail()) as mail:
        await smtp(mail).notify(alert)
    message = email.message_from_bytes(mail.messages[0], policy=email.policy.default)
    assert message["Bcc"] is None
    assert "Bcc: all@example.org" in message["Subject"]
    assert len(message["Subject"]) <= 150


# -- the configuration


def test_the_variable_names_the_notifiers() -> None:
    log, hook, mail, safe = parse_notifiers(
        "log, webhook:https://chat.example/T0K3N?a=1%2C2 ,smtp://u%40x:p@mail.example:2525/?to=a@b.org%2Cc@d.org"
        "&from=praxis@b.org,smtps://mail.example/?to=a@b.org"
    )
    assert isinstance(log, LogNotifier)
    assert isinstance(hook, WebhookNotifier)
    assert (hook.url, hook.name) == ("https://chat.example/T0K3N?a=1%2C2", "webhook:chat.example")
    assert isinstance(mail, SmtpNotifier)
    assert (mail.host, mail.port, mail.recipients, mail.sender) == (
        "mail.example",
        2525,
        ("a@b.org", "c@d.org"),
        "praxis@b.org",
    )
    assert (mail.user, mail.password, mail.security) == ("u@x", "p", SmtpSecurity.STARTTLS)
    assert isinstance(safe, SmtpNotifier)
    assert (safe.port, safe.security, safe.user, safe.password) == (465, SmtpSecurity.TLS, "", "")


def test_a_password_may_come_from_a_variable_of_its_own() -> None:
    environment = {
        "PRAXIS_NOTIFY": "smtp://ops@mail.example/?to=a@b.org",
        "PRAXIS_SMTP_PASSWORD": SECRET,
    }
    [mail] = from_environment(environment)
    assert isinstance(mail, SmtpNotifier)
    assert (mail.port, mail.user, mail.password) == (587, "ops", SECRET)


def test_without_a_word_the_log_is_told() -> None:
    assert from_environment({}) == [LogNotifier()]
    assert from_environment({"PRAXIS_NOTIFY": ""}) == []
    assert parse_notifiers("none") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pager", "entry 1 is not log, webhook, smtp or smtps"),
        ("log,log:x", "entry 2 is not"),
        ("webhook:", "entry 1 .webhook.: the address is not http"),
        ("webhook:ftp://T0K3N/", "the address is not http"),
        ("webhook:https://user:T0K3N@host/", "must not hold a user"),
        ("webhook:https://host:T0K3N/", "entry 1 .webhook.: the host or the port"),
        ("webhook:https://[T0K3N/", "the host or the port"),
        ("webhook:https://T0K3N\u2100/", "the host or the port"),
        ("webhook:https://host/a b", "%XX"),
        ("log,smtp://mail/", "entry 2 .smtp.: says nobody"),
        ("smtp://mail/?to=T0K3N", "is not a mail address"),
        ("smtp://mail/?to=a@b%0ARCPT", "is not a mail address"),
        ("smtp:///?to=a@b", "the address is not smtp"),
        ("smtp://mail:x/?to=a@b", "entry 1"),
        ("smtp://mail/?to=a@b&pass=T0K3N", "knows 'to', 'from' and 'tls'"),
        ("smtp://mail/?to=a@b&tls=some", "'tls=' is one of"),
        ("smtps://mail/?to=a@b&tls=none", "does not go with it"),
        ("smtp://ops:T0K3N@mail/?to=a@b&tls=none", "not sent in the clear"),
        ("log," * 30, "more than 20"),
    ],
)
def test_a_bad_entry_is_named_without_its_secret(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as refused:
        parse_notifiers(text)
    assert refused.value.message.startswith("PRAXIS_NOTIFY: ")
    assert SECRET not in str(refused.value)


# -- passing on


class Told:
    """Keeps what it is told; or fails, or never comes to an end."""

    def __init__(self, name: str, error: BaseException | None = None, *, hangs: bool = False) -> None:
        self.name = name
        self.alerts: list[Alert] = []
        self._error = error
        self._hangs = hangs

    async def notify(self, alert: Alert) -> None:
        if self._hangs:
            await asyncio.Event().wait()
        self.alerts.append(alert)
        if self._error is not None:
            raise self._error


@pytest.fixture
def captured() -> Iterator[LogCapture]:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture
    structlog.reset_defaults()


def numbered(number: int) -> Alert:
    return Alert(AlertKind.WORKER_LOST, f"w{number}", f"{number}", float(number))


async def test_one_notifier_that_fails_or_hangs_keeps_nothing_from_the_others(captured: LogCapture) -> None:
    good, hanging = Told("good"), Told("hanging", hangs=True)
    bad, worse = (
        Told("bad", NotificationFailed("bad: away")),
        Told("worse", ValueError(f"https://x/{SECRET}")),
    )
    told: list[tuple[str, Delivery]] = []
    notifications = Notifications(
        [hanging, worse, bad, good], told=lambda name, outcome: told.append((name, outcome))
    )
    async with notifications:
        for number in range(3):
            notifications.post(numbered(number))
        await notifications.close(timeout_s=0.1)
    assert [alert.subject for alert in good.alerts] == ["w0", "w1", "w2"]
    assert notifications.counts == {
        ("good", Delivery.DELIVERED): 3,
        ("bad", Delivery.FAILED): 3,
        ("worse", Delivery.FAILED): 3,
        ("hanging", Delivery.DROPPED): 3,
    }
    assert len(told) == 12
    failures = [entry for entry in captured.entries if entry["event"] == "notification_failed"]
    assert {(entry["notifier"], entry["reason"]) for entry in failures} == {
        ("bad", "bad: away"),
        ("worse", "ValueError"),
    }
    assert SECRET not in str(captured.entries)


async def test_too_many_alerts_drop_the_oldest() -> None:
    good = Told("good")
    notifications = Notifications([good], max_pending=3)
    for number in range(10):
        notifications.post(numbered(number))
    async with notifications:
        await notifications.drain()
    assert [alert.subject for alert in good.alerts] == ["w7", "w8", "w9"]
    assert notifications.counts["good", Delivery.DROPPED] == 7


async def test_what_waits_is_told_before_the_end() -> None:
    good = Told("good")
    async with Notifications([good]) as notifications:
        for number in range(50):
            notifications.post(numbered(number))
    assert len(good.alerts) == 50


async def test_the_log_tells_without_data(captured: LogCapture) -> None:
    await LogNotifier().notify(ALERT)
    [entry] = captured.entries
    assert (entry["event"], entry["log_level"], entry["kind"]) == ("alert", "error", "retries_exhausted")
    assert "data" not in entry
