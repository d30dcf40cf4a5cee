"""The one module that knows asyncpg: the pool, and which errors pass when one waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.log import get_logger
from praxis_sdk.store.protocol import StoreUnavailable

CONNECT_TIMEOUT_S: Final = 10.0
RECONNECT_TIMEOUT_S: Final = 3.0  # of what must be back soon after the server is: it tries again
COMMAND_TIMEOUT_S: Final = 60.0
# What the sessions of the store are told. Plans never depend on what the statistics know of a table that is
# filling up quickly: everything hot has its index, and compiling a statement of a millisecond never pays. A
# client that hangs amid a transaction loses its locks, sooner than a worker must stop its attempts for want of a
# heartbeat that waits for them, and nobody waits for a lock for ever.
SESSION: Final = {
    "application_name": "praxis",
    "enable_seqscan": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "20s",
}
# What those that write are told besides. Their statements take arrays, for whose length PostgreSQL would plan each
# anew, which costs more than to run it; and their plans are good ones for any length.
WRITING: Final = SESSION | {"plan_cache_mode": "force_generic_plan"}
# Classes of SQLSTATE that pass: connection (08), resources (53), intervention (57, without 57014, a statement
# that was cancelled), rollback because of others (40), a lock that did not come (55P03), a server that is a
# standby still (25006), a session that was ended for idling (25P03).
_PASSING: Final = ("08", "40", "53", "57", "55P03", "25006", "25P03")
_LASTING: Final = ("57014",)
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0

log = get_logger("praxis.store")


class PostgresTransaction(Protocol):
    """A transaction of asyncpg."""

    async def start(self) -> None:
        """Begin."""

    async def commit(self) -> None:
        """Keep all of it."""

    async def rollback(self) -> None:
        """Keep none of it."""


class PostgresConnection(Protocol):
    """As much of an asyncpg connection as the store uses."""

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Return rows."""

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """Return the first value of the first row, or None."""

    async def execute(self, query: str, *arguments: Any) -> str:
        """Run statements."""

    def transaction(self) -> PostgresTransaction:
        """Return a transaction that is not begun."""

    def is_closed(self) -> bool:
        """Whether it is of no use any longer."""

    def terminate(self) -> None:
        """Close it at once."""

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        """Be told of notifications."""

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        """Be told of the connection's end."""


def _asyncpg() -> Any:
    try:
        import asyncpg  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra("asyncpg", "postgres") from None
    return asyncpg


async def connect(
    url: str, *, timeout_s: float = CONNECT_TIMEOUT_S, command_timeout_s: float | None = COMMAND_TIMEOUT_S
) -> PostgresConnection:
    """Open one connection outside of any pool.

    Args:
        url: where the database is.
        timeout_s: how long it may take, in seconds.
        command_timeout_s: how long one statement may take, in seconds; None: as long as it takes.

    Raises:
        ValidationError: the address makes no sense.
    """
    connection: PostgresConnection = await _asyncpg().connect(
        **_addressed(url),
        timeout=timeout_s,
        command_timeout=command_timeout_s,
        server_settings=SESSION if command_timeout_s else SESSION | {"lock_timeout": "0"},
    )
    return connection


def _addressed(url: str) -> dict[str, Any]:
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValidationError(
            "the address of the store is no PostgreSQL URL", remedy="postgresql://host/database"
        )
    return {"dsn": url}


def passes(error: BaseException) -> bool:
    """Whether what failed may succeed when it is done again a little later."""
    if isinstance(error, (OSError, EOFError, asyncio.TimeoutError)):
        return True
    asyncpg = _asyncpg()
    if isinstance(error, asyncpg.InterfaceError):  # the connection was closed meanwhile
        return not isinstance(error, ValueError)
    if isinstance(
        error, asyncpg.InternalClientError
    ):  # the driver lost track of its connection: a new one helps
        return True
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(_PASSING) and state not in _LASTING


def refused(error: BaseException) -> ValidationError | None:
    """Return what is wrong with values that PostgreSQL does not take; None for any other error."""
    asyncpg = _asyncpg()
    unsendable = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    if unsendable or isinstance(error, (asyncpg.DataError, UnicodeError)):
        return ValidationError(f"PostgreSQL cannot keep a value: {error}")
    return None


def explained(error: Exception) -> Exception:
    """Return what an error that does not pass is called here; what is none of PostgreSQL's stays as it is."""
    if (wrong := refused(error)) is not None:
        return wrong
    if isinstance(error, _asyncpg().PostgresError):
        return StoreUnavailable(
            f"PostgreSQL refuses: {error}", remedy="see to the address and the rights of its user"
        )
    return error


class ConnectionPool:
    """Connections for whoever needs one for a moment, made anew when the server was away.

    Args:
        url: where the database is.
        size: at most so many connections.
        patience_s: for how long the server may be away, in seconds, before `StoreUnavailable`. The machine's
            time counts here, not the injected clock's: the server's absence is real.
        session: what the sessions are told.
    """

    def __init__(
        self, url: str, *, size: int, patience_s: float, session: Mapping[str, str] = SESSION
    ) -> None:
        self._url = url
        self._size = size
        self.patience_s = patience_s
        self._session = session
        self._pool: Any = None
        self._lent: set[PostgresConnection] = set()

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            StoreUnavailable: there is no server, or it does not let us in.
        """
        self._pool = _asyncpg().create_pool(
            **_addressed(self._url),
            min_size=0,
            max_size=self._size,
            timeout=RECONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings=dict(self._session),
            reset=_nothing_to_reset,
        )
        await self._pool

    async def close(self) -> None:
        """Close every connection; repeatable."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), CONNECT_TIMEOUT_S)
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PostgresConnection]:
        """Lend a connection; one on which something failed is not used again."""
        if self._pool is None:
            raise StoreUnavailable("the store is closed")
        pool = self._pool
        connection = await pool.acquire(timeout=CONNECT_TIMEOUT_S)
        self._lent.add(connection)
        try:
            yield connection
        except BaseException:
            # Whatever state it is in: a new one costs two milliseconds, and locks are let go at once.
            connection.terminate()
            raise
        finally:
            self._lent.discard(connection)
            await pool.release(connection)

    def renew(self) -> None:
        """Close all connections, also those in use: what waits on one fails, and is done again on a new one.

        A connection that was cut hears nothing of it, and would wait for minutes.
        """
        if self._pool is not None:
            for connection in list(self._lent):
                connection.terminate()
            self._expiring = asyncio.ensure_future(self._pool.expire_connections())

    async def read(self, query: str, *arguments: Any) -> list[Any]:
        """Return rows; waits for a server that is away.

        Raises:
            StoreUnavailable: it stayed away.
        """
        patience = Patience(self.patience_s)
        while True:
            try:
                async with self.connection() as connection:
                    return await connection.fetch(query, *arguments)
            except Exception as error:  # noqa: BLE001 patience raises what does not pass
                await patience.spend(error)


class OwnConnection:
    """One connection for what must not wait for others: each statement gets one try, and no transaction.

    Args:
        url: where the database is.
        renewed: called when the connection was made anew, since the server or the way to it was away.
    """

    def __init__(self, url: str, *, renewed: Callable[[], None]) -> None:
        self._url = url
        self._renewed = renewed
        self._connection: PostgresConnection | None = None
        self._failed = False
        self._free = asyncio.Lock()  # a connection takes one statement at a time

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Return rows; whoever is cancelled meanwhile gives the connection up.

        Raises:
            StoreUnavailable: the server is not there, or refuses.
        """
        async with self._free:
            rows = await self._fetch(query, *arguments)
        if self._failed:
            self._failed = False
            self._renewed()
        return rows

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._url, timeout_s=RECONNECT_TIMEOUT_S)
            rows = await self._connection.fetch(query, *arguments)
        except BaseException as error:
            self.close()
            self._failed = True
            if isinstance(error, Exception):
                raise unavailable(error) from error
            raise
        return rows

    def close(self) -> None:
        """Close it; repeatable, and the next statement opens it anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def unavailable(error: Exception) -> Exception:
    """Return what an error of the driver is called here, whether it passes or not."""
    if passes(error):
        return StoreUnavailable(
            f"PostgreSQL is not available: {str(error) or type(error).__name__}",
            remedy="see whether the server runs and takes connections",
        )
    return explained(error)


class Patience:
    """How long an operation that failed goes on trying.

    Args:
        for_s: from the first failure on, in seconds.
    """

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._until: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    async def spend(self, error: Exception) -> None:
        """Pause before the next try.

        Raises:
            StoreUnavailable: enough, or the server refuses.
            ValidationError: a value cannot be kept.
            Exception: the error itself, where it is none of PostgreSQL's.
        """
        if not passes(error):
            meaning = explained(error)
            if meaning is error:
                raise error
            raise meaning from error
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._for_s
        if now >= self._until:
            raise unavailable(error) from error
        log.info("postgres.retry", error=type(error).__name__, pause_s=self._pause_s)
        await asyncio.sleep(min(self._pause_s, self._until - now))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def columns_of(rows: Sequence[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    """Turn rows into one array per column, as `unnest` takes them."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


async def _nothing_to_reset(_: Any) -> None:
    """Save a round trip: a connection of the pool keeps no state between transactions."""
