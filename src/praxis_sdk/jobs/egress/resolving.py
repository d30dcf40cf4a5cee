"""From a granted host to a connection to an address that was checked: that one and no other."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from praxis_sdk.jobs.egress.policy import Address, EgressPolicy

Resolve = Callable[[str], Awaitable[Sequence[str]]]

_MAX_ADDRESSES: Final = 4  # of one host that are tried
_LOOKUPS: Final = 2  # at once, for one job: a slow name server must not use up the threads of others


class AddressRefused(Exception):
    """The host has no address that may be connected to."""


class SystemResolver:
    """Looks names up as this machine does, in threads of its own; `close` it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="praxis-egress")

    async def __call__(self, host: str) -> Sequence[str]:
        """Return the addresses of a host; raises OSError when it has none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Take no more names."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def literal(host: str) -> Address | None:
    """Return the address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def connect(host: str, port: int, policy: EgressPolicy, resolve: Resolve) -> socket.socket:
    """Connect to a host at one of its addresses that the policy reaches.

    Args:
        host: a granted name or address.
        port: TCP port.
        policy: which addresses may be reached.
        resolve: looks names up.

    Raises:
        AddressRefused: none of its addresses may be reached.
        OSError: it has no address, or none answers.
    """
    address = literal(host)
    addresses = [address] if address else [ipaddress.ip_address(text) for text in await resolve(host)]
    reached = [one for one in addresses if policy.reaches(one)]
    if not reached:
        raise AddressRefused("has no public address")
    last: OSError = OSError("has no address")
    for one in reached[:_MAX_ADDRESSES]:
        try:
            return await _connect(one, port, policy)
        except OSError as error:
            last = error
    raise last


async def _connect(address: Address, port: int, policy: EgressPolicy) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (str(address), port))
        # Who reaches this machine by its public address sees what a firewall hides from the rest of the world.
        if made.getsockname()[0] == made.getpeername()[0] and not policy.permits(address):
            raise AddressRefused("is this machine")
        stack.pop_all()
        return made


def _look_up(host: str) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)  # type: ignore[return-value]
