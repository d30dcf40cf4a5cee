"""News from other processes: one connection that listens, made anew whenever it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from praxis_sdk.log import get_logger
from praxis_sdk.store.hub import Hub
from praxis_sdk.store.postgres.clock import ServerClock
from praxis_sdk.store.postgres.connection import (
    CONNECT_TIMEOUT_S,
    RECONNECT_TIMEOUT_S,
    PostgresConnection,
    connect,
    passes,
    unavailable,
)
from praxis_sdk.store.postgres.transactions import unpacked
from praxis_sdk.supervisor import Supervisor

CHANNEL: Final = "praxis"
# How often a silent connection is asked for the time, and so whether it still stands, and for how long it may think.
_PROBE_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 3.0
_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0

log = get_logger("praxis.store")


class Listener:
    """Rings the hub for what other processes did.

    What they did while the connection was lost is not known, so then everyone is woken.

    Args:
        url: where the database is; a connection pooler that shares sessions cannot listen.
        origin: notifications of this origin are our own; the hub was told when they were kept.
        hub: is rung.
        clock: is told the server's time.
        renewed: called when the connection was made anew, before anybody is woken.
    """

    def __init__(
        self, url: str, origin: str, hub: Hub, clock: ServerClock, *, renewed: Callable[[], None]
    ) -> None:
        self._url = url
        self._origin = origin
        self._hub = hub
        self._clock = clock
        self._renewed = renewed
        self._first: tuple[PostgresConnection, asyncio.Event] | None = None
        self.tasks = Supervisor()

    async def open(self) -> None:
        """Listen; returns when it does.

        Raises:
            StoreUnavailable: there is no server, or it does not let us in.
        """
        self._first = await self._connected(CONNECT_TIMEOUT_S)
        self.tasks.start("store.news", self._run)

    async def close(self) -> None:
        """Listen no longer; repeatable."""
        await self.tasks.stop()
        if self._first is not None:
            self._first[0].terminate()

    async def _run(self) -> None:
        while True:
            first, self._first = self._first, None
            if first is None:
                first = await self._again()
                self._renewed()
                self._hub.ring_all()
            connection, ended = first
            try:
                await self._until_lost(connection, ended)
            finally:
                connection.terminate()
            log.info("postgres.listener_lost")

    async def _until_lost(self, connection: PostgresConnection, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), _PROBE_S)
            except TimeoutError:
                try:
                    await asyncio.wait_for(self._ask_for_the_time(connection), _PROBE_TIMEOUT_S)
                except Exception as error:  # noqa: BLE001 whatever it is, a new connection is the answer
                    log.info("postgres.listener_silent", error=type(error).__name__)
                    return

    async def _again(self) -> tuple[PostgresConnection, asyncio.Event]:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._connected(RECONNECT_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 who reads or writes is told; here nobody asked
                log.warning("postgres.listener_down", error=type(error).__name__, pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _connected(self, timeout_s: float) -> tuple[PostgresConnection, asyncio.Event]:
        try:
            connection = await connect(self._url, timeout_s=timeout_s)
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            await asyncio.wait_for(self._ask_for_the_time(connection), timeout_s)
            await asyncio.wait_for(connection.add_listener(CHANNEL, self._told), timeout_s)
        except Exception as error:
            if not passes(error):
                raise
            raise unavailable(error) from error
        return connection, ended

    async def _ask_for_the_time(self, connection: PostgresConnection) -> None:
        asked = self._clock.boottime()
        server = await connection.fetchval(_TIME)
        self._clock.heard(asked, server, self._clock.boottime())

    def _told(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        origin, topics = unpacked(payload)
        if origin != self._origin:
            self._hub.ring(topics)
