"""Telling by an HTTP request."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from praxis_sdk.clock import Clock
from praxis_sdk.control.observe.alerts import Alert
from praxis_sdk.control.observe.notifiers.base import NotificationFailed

TIMEOUT_S: Final = 10.0
RETRIES: Final = 2
FIRST_PAUSE_S: Final = 1.0

_WORTH_ANOTHER_TRY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the POST into a GET, which tells nobody; it is an answer like any other error."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class WebhookNotifier:
    """Posts each alert as JSON.

    Args:
        url: where to, http or https. Its path and query may be secret, so only its host is ever shown.
        timeout_s: how long one try may take, in seconds.
        retries: further tries where the first found the receiver away or busy.
        first_pause_s: pause before the first of them, in seconds; each later one is twice the one before.
        headers: sent along, such as an authorization.
        clock: waits between tries.
    """

    url: str = field(repr=False)
    timeout_s: float = TIMEOUT_S
    retries: int = RETRIES
    first_pause_s: float = FIRST_PAUSE_S
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    clock: Clock = field(default_factory=Clock, repr=False)

    @property
    def name(self) -> str:
        """The way and the host."""
        return f"webhook:{urllib.parse.urlsplit(self.url).hostname}"

    async def notify(self, alert: Alert) -> None:
        """Post an alert.

        Raises:
            NotificationFailed: no try was answered by a 2xx.
        """
        body = json.dumps(alert.to_json(), ensure_ascii=False).encode("utf-8", "replace")
        for retry in range(self.retries + 1):
            try:
                async with asyncio.timeout(self.timeout_s * 2):  # a trickle of bytes resets the socket's own
                    status = await asyncio.to_thread(self._post, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                # The text of these may hold the address with its secret; the type says enough.
                problem, worth_another = f"no answer ({_reason(error)})", True
            else:
                if 200 <= status < 300:
                    return
                problem, worth_another = f"answered {status}", status in _WORTH_ANOTHER_TRY
            if not worth_another or retry == self.retries:
                raise NotificationFailed(f"{self.name}: {problem}", remedy="check PRAXIS_NOTIFY")
            await self.clock.sleep(self.first_pause_s * 2**retry)

    def _post(self, body: bytes) -> int:
        """Post once, in a thread, and return the status of the answer."""
        headers = {"User-Agent": "praxis", **self.headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url, body, headers, method="POST")  # noqa: S310
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=self.timeout_s) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return type(cause).__name__ if isinstance(cause, Exception) else "unreachable"
