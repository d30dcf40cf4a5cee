"""The proxy of one job: accepts on a socket inside its sandbox, connects outside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Final, Self

from praxis_sdk.jobs.egress.connection import ProxyConnection, Traffic
from praxis_sdk.jobs.egress.policy import EgressPolicy
from praxis_sdk.jobs.egress.resolving import Resolve, SystemResolver
from praxis_sdk.jobs.executor.result import NetworkUse
from praxis_sdk.jobs.payload.network import NetworkHost
from praxis_sdk.jobs.payload.payload import JobPayload
from praxis_sdk.log import get_logger

log = get_logger("praxis.egress")

_ACCEPT_AGAIN_S: Final = 0.1
# Accepting fails for the moment: the client is gone again, or this process or the kernel is short of something.
_PASSING: Final = frozenset(
    {errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINTR, errno.EPERM}
)


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
        self._connections: list[ProxyConnection] = []
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
            listening.setblocking(False)
            account = Traffic(self._grant, self._policy, resolve)
            accepting = asyncio.ensure_future(self._accept_all(listening, account))
            try:
                yield self
            finally:
                for task in (accepting, *self._tasks):
                    task.cancel()
                await asyncio.gather(accepting, *self._tasks, return_exceptions=True)
                listening.close()

    async def _accept_all(self, listening: socket.socket, account: Traffic) -> None:
        """Accept while there is room; what does not fit waits in the job's own network, and costs nothing here."""
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(self._policy.max_connections)
        while True:
            await room.acquire()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                room.release()
                if error.errno not in _PASSING:
                    self._log.warning("job.network_broken", error=str(error))
                    return
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            self._accepted += 1
            if self._accepted > self._policy.max_uses:
                self._log.warning("job.network_used_up", max_uses=self._policy.max_uses)
                accepted.close()
                listening.close()  # whoever still waits is refused by the kernel
                return
            task = asyncio.ensure_future(self._serve(accepted, account))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: room.release())

    async def _serve(self, accepted: socket.socket, account: Traffic) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=accepted, limit=self._policy.head_bytes)
        except BaseException:
            accepted.close()
            raise
        connection = ProxyConnection(reader, writer, account, self._now())
        self._connections.append(connection)
        await self._carry_out(connection)

    async def _carry_out(self, connection: ProxyConnection) -> None:
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
