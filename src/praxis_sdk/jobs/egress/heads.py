"""The heads of HTTP/1 messages: read strictly, written anew (RFC 9110, 9112).

Pure. A head is never passed on as it came: what this module does not understand exactly, it refuses, so that the
proxy and the server cannot read the same bytes differently (request smuggling).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from praxis_sdk.jobs.payload.network import NetworkHost

Field = tuple[str, str]

TO_END: Final = -1  # a body that ends with its connection

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for it
_REQUEST_LINE: Final = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/1\.([01])")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_FIELD: Final = re.compile(rf"({_TOKEN}):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{1,5}))?")
_ABSOLUTE: Final = re.compile(r"http://([^/?#]*)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "expect",  # answered here
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_MAX_FIELDS: Final = 200


class BadHead(ValueError):
    """A head that is not acceptable; the message is short and says nothing of the peer's."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a client asks of the proxy.

    Args:
        method: 'CONNECT' for a tunnel.
        host: where to, as it was asked for, lower-case and without brackets.
        port: TCP port.
        target: path and query; empty for a tunnel.
        minor: 0 or 1, of HTTP/1.
        fields: the end-to-end fields, without those of the body's framing.
        length: of the body in bytes; None where it is chunked.
        expects_continue: the client waits for '100 Continue'.
    """

    method: str
    host: str
    port: int
    target: str = ""
    minor: int = 1
    fields: tuple[Field, ...] = ()
    length: int | None = 0
    expects_continue: bool = False

    def write(self) -> bytes:
        """Return the head for the server: the host is the one that was checked."""
        authority = NetworkHost(self.host, self.port)
        shown = str(authority).removesuffix(":80")
        framing = [("Transfer-Encoding", "chunked")] if self.length is None else []
        if self.length or (self.length == 0 and self.method in ("PATCH", "POST", "PUT")):
            framing = [("Content-Length", str(self.length))]
        fields = [("Host", shown), *self.fields, *framing, ("Connection", "close")]
        return _write(f"{self.method} {self.target} HTTP/1.{self.minor}", fields)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What a server answers.

    Args:
        status: its number.
        reason: the words after it.
        fields: the end-to-end fields, with those of the body's framing.
        length: of the body in bytes; None where it is chunked, `TO_END` where it says nothing.
    """

    status: int
    reason: str
    fields: tuple[Field, ...]
    length: int | None = TO_END

    def write(self) -> bytes:
        """Return the head for the client, whose connection ends with this response."""
        line = f"HTTP/1.1 {self.status} {self.reason}"
        return _write(line, [*self.fields, ("Connection", "close")])


def parse_request(head: bytes) -> RequestHead:
    """Read a request to a proxy: CONNECT, or a method with an absolute http:// target.

    Raises:
        BadHead: it is not acceptable.
    """
    line, fields = _split(head)
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadHead("malformed request line")
    method, target, minor = match[1], match[2], int(match[3])
    if method == "CONNECT":
        host, port = _authority(target, None)
        return RequestHead(method, host, port, minor=minor)
    if method not in _METHODS:
        raise BadHead("method not supported")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise BadHead("not a request to a proxy for http://")
    host, port = _authority(absolute[1], 80)
    path = absolute[2] or "/"
    length = _length(fields, 0)
    if length is None and minor == 0:
        raise BadHead("HTTP/1.0 knows no chunked body")
    expects = _values(fields, "expect")
    return RequestHead(
        method,
        host,
        port,
        target=path if path.startswith("/") else f"/{path}",
        minor=minor,
        fields=_end_to_end(fields, also=frozenset({"host", "content-length"})),
        length=length,
        expects_continue=minor == 1 and [value.lower() for value in expects] == ["100-continue"],
    )


def parse_response(head: bytes) -> ResponseHead:
    """Read a response.

    Raises:
        BadHead: it is not acceptable.
    """
    line, fields = _split(head)
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadHead("malformed status line")
    length = _length(fields, TO_END)
    framing = [("Transfer-Encoding", "chunked")] if length is None else []
    return ResponseHead(int(match[1]), match[2] or "", (*_end_to_end(fields), *framing), length)


def answer(status: int, reason: str, text: str) -> bytes:
    """Return a whole response of the proxy's own."""
    body = f"praxis: {text}\n".encode()
    fields = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    return _write(f"HTTP/1.1 {status} {reason}", fields) + body


def _split(head: bytes) -> tuple[str, list[Field]]:
    """Take a head apart that ends with an empty line."""
    if not head.endswith(b"\r\n\r\n"):
        raise BadHead("incomplete head")
    line, *rest = head[:-4].decode("latin-1").split("\r\n")
    if len(rest) > _MAX_FIELDS:
        raise BadHead("too many fields")
    fields = []
    for text in rest:
        match = _FIELD.fullmatch(text)
        if match is None:
            raise BadHead("malformed field")
        fields.append((match[1], match[2]))
    return line, fields


def _authority(text: str, default_port: int | None) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise BadHead("malformed host")  # also where it holds a name and a password
    port = int(match[2]) if match[2] else default_port
    if port is None or not 1 <= port <= 65_535:
        raise BadHead("malformed port")
    return match[1].strip("[]").lower().removesuffix("."), port


def _length(fields: list[Field], unsaid: int) -> int | None:
    """Return how long the body is; None where it is chunked. What could be read in two ways is refused."""
    lengths = _values(fields, "content-length")
    codings = [value.lower() for value in _values(fields, "transfer-encoding")]
    if codings:
        if codings != ["chunked"] or lengths:
            raise BadHead("ambiguous length")
        return None
    if not lengths:
        return unsaid
    if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,15}", lengths[0], re.ASCII):
        raise BadHead("ambiguous length")
    return int(lengths[0])


def _values(fields: Iterable[Field], name: str) -> list[str]:
    return [value for key, value in fields if key.lower() == name]


def _end_to_end(fields: list[Field], also: frozenset[str] = frozenset()) -> tuple[Field, ...]:
    """Leave out what is between two neighbours only, and what `Connection` names as such."""
    named = {word.strip().lower() for value in _values(fields, "connection") for word in value.split(",")} - {
        "content-length",
        "host",
    }
    dropped = _HOP_BY_HOP | named | also
    return tuple((key, value) for key, value in fields if key.lower() not in dropped)


def _write(line: str, fields: Iterable[Field]) -> bytes:
    return "\r\n".join([line, *(f"{key}: {value}" for key, value in fields), "", ""]).encode("latin-1")
