"""Handing alerts to notifiers, beside the work and never in its way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Final, Self

from praxis_sdk.control.observe.alerts import Alert
from praxis_sdk.control.observe.notifiers.base import NotificationFailed, Notifier
from praxis_sdk.log import get_logger
from praxis_sdk.supervisor import Supervisor

MAX_WAITING: Final = 1000
CLOSE_S: Final = 10.0

_log = get_logger("praxis.notify")


class Delivery(StrEnum):
    """What became of one alert on one way."""

    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"  # too many waited already, or Praxis ended first


class Notifications:
    """Passes alerts on in the background, each notifier at its own pace.

    Whatever a notifier does, the one who posts neither waits nor hears of it: failures are logged and counted.

    Args:
        notifiers: the ways to tell people.
        max_pending: how many alerts may wait for one notifier; more are dropped, the oldest first.
        told: is called with a notifier's name and what became of an alert, for metrics; it must not raise.
    """

    def __init__(
        self,
        notifiers: Sequence[Notifier],
        *,
        max_pending: int = MAX_WAITING,
        told: Callable[[str, Delivery], None] = lambda _name, _outcome: None,
    ) -> None:
        self._notifiers = tuple(notifiers)
        self._queues: list[asyncio.Queue[Alert]] = [asyncio.Queue(max_pending) for _ in self._notifiers]
        self.tasks = Supervisor()
        self._told = told
        self._started = False
        self.counts: Counter[tuple[str, Delivery]] = Counter()

    async def __aenter__(self) -> Self:
        """Begin to pass alerts on."""
        for number, (notifier, queue) in enumerate(zip(self._notifiers, self._queues, strict=True)):
            self.tasks.start(f"notifier {number} {notifier.name}", partial(self._pass_on, notifier, queue))
        self._started = True
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Pass on what waits, for a bounded time, and end."""
        await self.close()

    def post(self, alert: Alert) -> None:
        """Have an alert told; returns at once and never fails."""
        for notifier, queue in zip(self._notifiers, self._queues, strict=True):
            if queue.full():
                queue.get_nowait()
                queue.task_done()
                self._count(notifier, Delivery.DROPPED)
            queue.put_nowait(alert)

    async def drain(self) -> None:
        """Return when every alert that was posted has been told, or has failed."""
        for queue in self._queues:
            await queue.join()

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Pass on what waits and end; repeatable.

        Args:
            timeout_s: how long that may take; what then still waits is dropped.
        """
        started, self._started = self._started, False
        try:
            if started:
                async with asyncio.timeout(timeout_s):
                    await self.drain()
        except TimeoutError:
            _log.warning("notifications_dropped", reason="time is up")
        finally:
            await self.tasks.stop()
        for notifier, queue in zip(self._notifiers, self._queues, strict=True):
            while not queue.empty():
                queue.get_nowait()
                queue.task_done()
                self._count(notifier, Delivery.DROPPED)

    async def _pass_on(self, notifier: Notifier, queue: asyncio.Queue[Alert]) -> None:
        while True:
            alert = await queue.get()
            outcome = Delivery.DROPPED  # unless the notifier comes to an end
            try:
                await notifier.notify(alert)
                outcome = Delivery.DELIVERED
            except Exception as error:  # noqa: BLE001  whatever a notifier does harms nobody
                outcome = Delivery.FAILED
                # An unforeseen error may hold an address; those that are foreseen hold no secret.
                reason = str(error) if isinstance(error, NotificationFailed) else type(error).__name__
                _log.error("notification_failed", notifier=notifier.name, key=alert.key, reason=reason)
            finally:
                self._count(notifier, outcome)
                queue.task_done()

    def _count(self, notifier: Notifier, outcome: Delivery) -> None:
        self.counts[notifier.name, outcome] += 1
        self._told(notifier.name, outcome)
