"""A TCP proxy before PostgreSQL that cuts, freezes or slowly refuses, as broken networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

CHUNK_BYTES = 65536
SLOWLY_S = 2.0
MODES = ("hangs", "refuses slowly", "cuts")


class Proxy:
    """Carries connections to a server until it is broken.

    Args:
        socket_path: of the server.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._mode = ""
        self._whole = asyncio.Event()
        self._whole.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def break_down(self, mode: str) -> None:
        """Carry nothing any more; what comes new is held, refused after a while, or cut."""
        assert mode in MODES
        self._mode = mode
        self._whole.clear()
        if mode == "cuts":
            for writer in self._writers:
                writer.transport.abort()

    def mend(self) -> None:
        """Carry what comes new; of what was frozen, nothing hears any more."""
        self._mode = ""
        self._whole.set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1")

    async def close(self) -> None:
        """Listen no longer, and cut everything."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._mode == "refuses slowly":
            await asyncio.sleep(SLOWLY_S)
        if self._mode in ("refuses slowly", "cuts"):
            writer.transport.abort()
            return
        if self._mode:
            return  # it is held, and nobody answers
        there, back = await asyncio.open_unix_connection(self._socket_path)
        self._writers.add(back)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                if not self._whole.is_set():
                    return  # lost; and this connection stays deaf for good
                writer.write(data)
                await writer.drain()
        if self._whole.is_set():
            writer.close()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy before a server that is reached by a socket in a folder; yields it with its address."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    proxy = Proxy(f"{folder}/.s.PGSQL.5432")
    await proxy.open()
    try:
        yield proxy, f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}?sslmode=disable"
    finally:
        await proxy.close()
