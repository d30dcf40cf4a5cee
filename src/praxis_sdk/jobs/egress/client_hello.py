"""The name in a TLS ClientHello, read before anything of it is passed on (RFC 8446, section 4.1.2; RFC 6066).

Pure: bytes in, a `ClientHello` out, `Incomplete` when more is needed, `NotTls` when it is something else. Stricter
than a server has to be: whoever reads it differently than the server does must not get through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
_MAX_RECORD_BYTES: Final = 1 << 14
_RANDOM_AND_VERSION_BYTES: Final = 34


class NotTls(ValueError):
    """These bytes are not the beginning of a TLS connection."""


class Incomplete(Exception):
    """So far it may be a ClientHello; the rest is yet to come."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for.

    Args:
        server_name: the host, lower-case; None where it names none.
        encrypted: it may ask for another name in an encrypted part.
    """

    server_name: str | None
    encrypted: bool


def parse_client_hello(data: bytes) -> ClientHello:
    """Read the first message of a TLS connection, in however many records.

    Raises:
        Incomplete: it goes on.
        NotTls: it is none, or a malformed one.
    """
    handshake = bytearray()
    offset = 0
    while True:
        if data[offset : offset + 1] not in (b"", bytes([_HANDSHAKE])):
            raise NotTls("not a TLS handshake")
        if data[offset + 1 : offset + 2] not in (b"", b"\x03"):
            raise NotTls("not a version of TLS")
        if len(data) < offset + 5:
            raise Incomplete
        length = int.from_bytes(data[offset + 3 : offset + 5], "big")
        if not 0 < length <= _MAX_RECORD_BYTES:
            raise NotTls("a TLS record of an impossible length")
        handshake += data[offset + 5 : offset + 5 + length]
        if handshake[0:1] not in (b"", bytes([_CLIENT_HELLO])):
            raise NotTls("not a ClientHello")
        if len(handshake) >= 4:
            wanted = 4 + int.from_bytes(handshake[1:4], "big")
            if len(handshake) > wanted:
                raise NotTls("a ClientHello with something behind it")
            if len(handshake) == wanted and len(data) >= offset + 5 + length:
                return _read_body(bytes(handshake[4:]))
        if len(data) < offset + 5 + length:
            raise Incomplete
        offset += 5 + length


class _Reader:
    """Takes vectors off a message, and never more than there is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if self.left < count:
            raise NotTls("a ClientHello shorter than it says")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def _read_body(body: bytes) -> ClientHello:
    reader = _Reader(body)
    reader.take(_RANDOM_AND_VERSION_BYTES)
    reader.vector(1)  # session
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression
    if not reader.left:
        return ClientHello(None, encrypted=False)
    extensions = _Reader(reader.vector(2))
    if reader.left:
        raise NotTls("a ClientHello longer than it says")
    seen: dict[int, bytes] = {}
    while extensions.left:
        kind = extensions.number(2)
        if kind in seen:
            raise NotTls("a ClientHello with an extension twice")
        seen[kind] = extensions.vector(2)
    name = _read_name(seen[_SERVER_NAME]) if _SERVER_NAME in seen else None
    return ClientHello(name, encrypted=_ENCRYPTED_CLIENT_HELLO in seen)


def _read_name(extension: bytes) -> str:
    reader = _Reader(extension)
    names = _Reader(reader.vector(2))
    kind = names.number(1)
    name = names.vector(2)
    if kind != _HOST_NAME or names.left or reader.left or not name:
        raise NotTls("a ClientHello that names other than one host")
    try:
        return name.decode("ascii").lower()
    except UnicodeDecodeError:
        raise NotTls("a ClientHello that names no host in ASCII") from None
