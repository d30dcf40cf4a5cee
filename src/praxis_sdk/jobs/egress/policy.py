"""What an operator decides about egress, and what no grant changes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from praxis_sdk.jobs.payload.network import NetworkHost, parse_host

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Public by their numbers, and yet the services of a cloud to the machines inside it.
_METADATA: Final = frozenset({ipaddress.ip_address("168.63.129.16")})


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """The bounds of one job's egress.

    Args:
        permitted_networks: networks that are reached although they are not public, such as a mirror's.
        plain_tunnel_ports: ports to which a tunnel may carry something else than TLS.
        max_connections: most connections at once; more wait until one has ended.
        max_uses: most connections in all; each is recorded.
        head_bytes: longest head of a request or a response.
        client_hello_bytes: longest ClientHello, records and all.
        head_s: how long a head or a ClientHello may take, in seconds.
        connect_s: how long resolving and connecting may take, in seconds.
        idle_s: how long a connection may be silent in both directions, in seconds.
        total_s: how long a connection may last, in seconds.
        sent_bytes: most bytes to all hosts together.
        received_bytes: most bytes from all hosts together.
    """

    permitted_networks: tuple[Network, ...] = ()
    plain_tunnel_ports: frozenset[int] = frozenset()
    max_connections: int = 32
    max_uses: int = 1_000
    head_bytes: int = 16 << 10
    client_hello_bytes: int = 32 << 10
    head_s: float = 10.0
    connect_s: float = 10.0
    idle_s: float = 60.0
    total_s: float = 600.0
    sent_bytes: int = 64 << 20
    received_bytes: int = 1 << 30

    def permits(self, address: Address) -> bool:
        """Tell whether an operator opened a network that is not public."""
        return any(address in network for network in self.permitted_networks)

    def reaches(self, address: Address) -> bool:
        """Tell whether an address may be connected to: it is public, or permitted all the same."""
        return self.permits(address) or (address not in _METADATA and is_public(address))


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the open internet, by the same rule that grants are read by."""
    try:
        parse_host(str(NetworkHost(str(address), 443)))
    except ValueError:
        return False
    return True
