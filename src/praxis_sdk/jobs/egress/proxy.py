"""The proxy of one job: accepts on a socket inside its sandbox, connects outside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Self

from praxis_sdk.jobs.egress.connection import Account, Connection
from praxis_sdk.jobs.egress.policy import EgressPolicy
from praxis_sdk.jobs.egress.resolving import Resolve, SystemResolver
from praxis_sdk.jobs.network import NetworkHost
from praxis_sdk.jobs.payload import JobPayload
from praxis_sdk.jobs.result import NetworkUse
from praxis_sdk.log import get_logger

log = get_logger("praxis.egress")


class EgressProxy:
    """Lets one job reach what it was granted, and keeps account.

        async with EgressProxy(payload.granted_hosts(), policy).serve(listening) as proxy:
            ...                                   # the job runs
        uses = proxy.uses

    Args:
        grant: hosts and ports that may be reached.
        policy: the operator's bounds.
        job_id: named in the log.
        resolve: looks names up; unless given, as this machine does.
        now: the time, for records.
    """

    def __init__(
        self,
        grant: Iterable[NetworkHost],
        policy: EgressPolicy | None = None,
        *,
        job_id: str = "",
        resolve: Resolve | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._grant = frozenset((host.host, host.port) for host in grant)
        self._policy = policy or EgressPolicy()
        self._resolve = resolve
        self._now = now
        self._log = log.bind(job_id=job_id)
        self._accepted = 0
        self._connections: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def uses(self) -> tuple[NetworkUse, ...]:
        """Every use and every refusal so far, in the order in which they began."""
        return tuple(connection.use for connection in self._connections if connection.asked)

    @contextlib.asynccontextmanager
    async def serve(self, listening: socket.socket) -> AsyncIterator[Self]:
        """Accept connections as long as the context lasts; then no connection is left.

        Args:
            listening: a listening TCP socket, in whatever network namespace; it is closed at the end.
        """
        with contextlib.ExitStack() as stack:
            resolve = self._resolve
            if resolve is None:
                resolve = resolver = SystemResolver()
                stack.callback(resolver.close)
            account = Account(self._grant, self._policy, resolve)
            server = await asyncio.start_server(
                lambda reader, writer: self._accept(reader, writer, account),
                sock=listening,
                limit=self._policy.head_bytes,
                backlog=self._policy.max_connections,
            )
            try:
                yield self
            finally:
                server.close()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, account: Account) -> None:
        self._accepted += 1
        if self._accepted > self._policy.max_uses:
            if self._accepted == self._policy.max_uses + 1:
                self._log.warning("job.network_used_up", max_uses=self._policy.max_uses)
            writer.transport.abort()
            return
        connection = Connection(reader, writer, account, self._now())
        self._connections.append(connection)
        task = asyncio.ensure_future(self._carry_out(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            if connection.asked:
                self._log.info("job.network", **connection.use.model_dump(exclude={"at"}))


@contextlib.asynccontextmanager
async def egress_for(
    payload: JobPayload,
    listening: socket.socket | int,
    policy: EgressPolicy | None = None,
    *,
    resolve: Resolve | None = None,
) -> AsyncIterator[EgressProxy]:
    """Serve the network grant of a job while the context lasts.

    Args:
        payload: the job, with a grant.
        listening: the listening socket of its sandbox, or its descriptor; it is taken over and closed.
        policy: the operator's bounds.
        resolve: looks names up; unless given, as this machine does.
    """
    if isinstance(listening, int):
        listening = socket.socket(fileno=listening)
    proxy = EgressProxy(payload.granted_hosts(), policy, job_id=payload.job_id, resolve=resolve)
    async with proxy.serve(listening):
        yield proxy


def proxy_variables(port: int) -> dict[str, str]:
    """Return the environment by which programs inside find the proxy.

    Args:
        port: of the listening socket, on 127.0.0.1 of the sandbox.
    """
    address = f"http://127.0.0.1:{port}"
    # NO_PROXY is empty, and not missing, so that no program excludes anything by a default of its own.
    variables = {"HTTP_PROXY": address, "HTTPS_PROXY": address, "NO_PROXY": ""}
    return variables | {name.lower(): value for name, value in variables.items()}
