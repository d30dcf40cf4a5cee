"""An MCP server over HTTP: how to present oneself to it, and what its responses may be.

What a server answers is data from a stranger: it is bounded before it is parsed, and never decompressed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from praxis_sdk.errors import EngineUnavailable, PraxisError, ValidationError
from praxis_sdk.execution.contract.specs import RemoteMCPEngineSpec
from praxis_sdk.execution.engines.mcp.answer import CallRefusedError
from praxis_sdk.states import FailureCategory

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING_HEADERS: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_CANCELLED: Final = b'"notifications/cancelled"'


@dataclass(frozen=True)
class Server:
    """An MCP server and how to present oneself to it.

    Args:
        url: its streamable HTTP endpoint.
        headers: HTTP headers to send.
        token: bearer token; None for none.
    """

    url: httpx2.URL
    headers: Mapping[str, str] = field(repr=False)
    token: str | None = field(repr=False)

    @classmethod
    def of(cls, spec: RemoteMCPEngineSpec) -> Server:
        """Read the server from a spec.

        Raises:
            ValidationError: address, headers or token cannot be sent; none of them is quoted.
        """
        try:
            url = httpx2.URL(spec.address)
        except httpx2.InvalidURL as error:
            raise ValidationError(
                "engineSpec.address: not a URL", remedy="write https://host/path"
            ) from error
        if not url.host:
            raise ValidationError("engineSpec.address: names no host", remedy="write https://host/path")
        for name, value in spec.headers.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _FRAMING_HEADERS:
                raise ValidationError(f"engineSpec.headers: {name[:100]!r} is not a header that can be set")
            if not _fits_in_header(value):
                raise ValidationError(f"engineSpec.headers.{name}: only printable ASCII can be sent")
        if spec.auth_token is not None and not (spec.auth_token and _fits_in_header(spec.auth_token)):
            raise ValidationError("engineSpec.auth_token: only printable ASCII can be sent, and not nothing")
        return cls(url=url, headers=spec.headers, token=spec.auth_token)

    @property
    def place(self) -> str:
        """The address for people: without user name, password, query and fragment, which may be secret."""
        return str(self.url.copy_with(userinfo=b"", query=None, fragment=None))

    def sign(self, request: httpx2.Request) -> httpx2.Request:
        """Put the bearer token on a request; the SDK sends none to another origin."""
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class Wire:
    """Watches the HTTP responses of one session, and bounds them."""

    def __init__(self, server: Server, limit_bytes: int) -> None:
        self._server = server
        self._limit_bytes = limit_bytes
        self.failure: PraxisError | None = None
        self.too_large = False
        self.notified = False  # the server took the word that the call is over

    @property
    def failed(self) -> bool:
        """Whether the latest message got no MCP answer, for a reason that was seen here."""
        return self.too_large or self.failure is not None

    async def see(self, response: httpx2.Response) -> None:
        """Judge a response before the SDK does.

        Raises:
            PraxisError: going on makes no sense.
        """
        response.stream = _Bounded(response.stream, self, self._limit_bytes)
        if response.request.method != "POST":
            return  # the SDK can do without the optional GET stream, and without DELETE
        self.failure = None
        with contextlib.suppress(httpx2.RequestNotRead):  # one that was redirected is not kept
            self.notified |= response.status_code < 300 and _CANCELLED in response.request.content
        place, status = self._server.place, response.status_code
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            self.failure = EngineUnavailable(f"{place} compresses its answers, though it was asked not to")
            raise self.failure
        if status in (401, 403):
            self.failure = self._refused(status)
            raise self.failure
        if status == 413:
            message = f"args: larger than {place} takes (HTTP 413)"
            self.failure = CallRefusedError(FailureCategory.VALIDATION_ERROR, message)
        elif response.has_redirect_location:
            # The SDK follows within the same origin; then the next response takes this one's place.
            self.failure = EngineUnavailable(
                f"{place} redirects to {_origin_of(response)} and was not followed there (HTTP {status})",
                remedy="put the final URL in engineSpec.address",
            )
        elif status >= 400 and not await _is_json_rpc(response):
            found = "no MCP endpoint there" if status in (404, 405) else "the server did not take the message"
            self.failure = EngineUnavailable(f"{place} answers HTTP {status}: {found}")

    def _refused(self, status: int) -> CallRefusedError:
        fault, remedy = "does not accept it", "is it right, not expired, and meant for this server?"
        if self._server.token is None:
            fault, remedy = "wants credentials", "set engineSpec.auth_token"
        message = f"engineSpec.auth_token: {self._server.place} {fault} (HTTP {status})"
        return CallRefusedError(FailureCategory.VALIDATION_ERROR, message, remedy=remedy)


class _Bounded(httpx2.AsyncByteStream):
    """The body of a response, up to a limit."""

    def __init__(self, body: Any, wire: Wire, limit_bytes: int) -> None:
        self._body = body
        self._wire = wire
        self._room_bytes = limit_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            self._room_bytes -= len(chunk)
            if self._room_bytes < 0:
                self._wire.too_large = True
                # Of this type, because the SDK would try to resume a stream that broke otherwise.
                raise httpx2.SSEError("over the limit")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def _is_json_rpc(response: httpx2.Response) -> bool:
    """Tell whether an HTTP error carries an answer of MCP; the SDK reads the body again from memory."""
    if not response.headers.get("content-type", "").lower().startswith("application/json"):
        return False
    try:
        body = await response.aread()
    except httpx2.TransportError:
        return False
    return b'"jsonrpc"' in body


def printable(text: str, limit_chars: int) -> str:
    """Make one bounded line of what a stranger wrote, without control characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: limit_chars + 1])
    return line if len(line) <= limit_chars else line[: limit_chars - 1] + "…"


def _origin_of(response: httpx2.Response) -> str:
    """Name where a redirect leads: scheme, host and port, for the rest is the server's to write."""
    try:
        target = response.request.url.join(response.headers["location"])
    except (httpx2.InvalidURL, ValueError):
        return "an address that is none"
    return printable(f"{target.scheme}://{target.netloc.decode('ascii', errors='replace')}", 200)


def _fits_in_header(value: str) -> bool:
    return value.isascii() and value.isprintable()
