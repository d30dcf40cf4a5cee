"""News from other processes: one connection that listens, made anew whenever it is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from praxis_sdk.log import get_logger
from praxis_sdk.store.hub import Hub
from praxis_sdk.store.postgres.connection import Connection, connect, passes
from praxis_sdk.store.postgres.transactions import unpacked
from praxis_sdk.store.protocol import StoreUnavailable

CHANNEL: Final = "praxis"
# How often a silent connection is asked whether it still stands, and for how long it may think.
_PROBE_S: Final = 15.0
_PROBE_TIMEOUT_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0

log = get_logger("praxis.store")


class Listener:
    """Rings the hub for what other processes did.

    What they did while the connection was lost is not known, so then everyone is woken.

    Args:
        url: where the database is; a connection pooler that shares sessions cannot listen.
        origin: notifications of this origin are our own; the hub was told when they were kept.
        hub: is rung.
    """

    def __init__(self, url: str, origin: str, hub: Hub) -> None:
        self._url = url
        self._origin = origin
        self._hub = hub
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen; returns when it does.

        Raises:
            StoreUnavailable: there is no server, or it does not let us in.
        """
        connection, ended = await self._connected()
        self._task = asyncio.create_task(self._run(connection, ended))

    async def close(self) -> None:
        """Listen no longer; repeatable."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, connection: Connection, ended: asyncio.Event) -> None:
        while True:
            try:
                await self._until_lost(connection, ended)
            finally:
                connection.terminate()
            log.info("postgres.listener_lost")
            connection, ended = await self._again()
            self._hub.ring_all()

    async def _until_lost(self, connection: Connection, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), _PROBE_S)
            except TimeoutError:
                try:
                    await asyncio.wait_for(connection.fetchval("SELECT 1"), _PROBE_TIMEOUT_S)
                except Exception as error:  # noqa: BLE001 whatever it is, a new connection is the answer
                    log.info("postgres.listener_silent", error=type(error).__name__)
                    return

    async def _again(self) -> tuple[Connection, asyncio.Event]:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._connected()
            except Exception as error:  # noqa: BLE001 who reads or writes is told; here nobody asked
                log.warning("postgres.listener_down", error=type(error).__name__, pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _connected(self) -> tuple[Connection, asyncio.Event]:
        try:
            connection = await connect(self._url)
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._told)
        except Exception as error:
            if not passes(error):
                raise
            raise StoreUnavailable(
                f"PostgreSQL is not available: {str(error) or type(error).__name__}"
            ) from error
        return connection, ended

    def _told(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        origin, topics = unpacked(payload)
        if origin != self._origin:
            self._hub.ring(topics)
