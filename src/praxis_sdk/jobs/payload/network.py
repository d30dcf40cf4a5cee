"""The network grant of a job: exact hosts and ports, nothing that could mean more than it says.

Decided here, from the text alone: no wildcards (a job that may name any host below a domain can carry data
out in the name), no single-label or local names, no numbers dressed up as names, no addresses that are not
public. Whether a granted *name* resolves to a private address is for the proxy to see, at the time of use.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

MAX_HOSTS: Final = 32
DEFAULT_PORT: Final = 443
HOST_PATTERN: Final = r"^[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]{0,299}$"

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Names that mean a network nearby (RFC 6761, 6762, 8375, 9476 and ICANN's `.internal`).
_LOCAL_SUFFIXES: Final = (
    ".localhost",
    ".local",
    ".internal",
    ".intranet",
    ".lan",
    ".home",
    ".corp",
    ".home.arpa",
    ".localdomain",
    ".in-addr.arpa",
    ".ip6.arpa",
    ".onion",
    ".alt",
)
# IPv6 ranges that carry an IPv4 address inside, which could be a private one.
_TRANSLATING: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
    )
)
# The only part of IPv6 that is given out; the rest is local (fec0::/10 too), reserved or special.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# Global by their numbers: relays that are no more, and an example's network that this Python may be too old to know.
_UNASSIGNED: Final = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv6Network("3fff::/20"))


@dataclass(frozen=True, slots=True)
class NetworkHost:
    """One granted destination.

    Args:
        host: lower-case name, or IP address without brackets.
        port: TCP port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host(text: str) -> NetworkHost:
    """Read 'name', 'name:port', 'address:port' or '[address]:port'; the port is 443 unless given.

    Raises:
        ValueError: it is none of these, or not an exact public destination.
    """
    host, port = _split(text)
    host = host.lower().removesuffix(".")
    address = _address(host)
    if address is not None:
        if not _is_public(address):
            raise ValueError(f"{text[:80]!r} is not a public address")
        return NetworkHost(address.compressed, port)
    if "*" in host:
        raise ValueError(f"{text[:80]!r} holds a wildcard; name each host")
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise ValueError(f"{text[:80]!r} is not a host name with a domain, such as 'data.example.org'")
    if _NUMERIC_LABEL.fullmatch(host.rsplit(".", 1)[1]):
        raise ValueError(f"{text[:80]!r} is a number and not a name")
    if host.endswith(_LOCAL_SUFFIXES):
        raise ValueError(f"{text[:80]!r} is a name of a local network")
    return NetworkHost(host, port)


def _split(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError(f"{text[:80]!r} is not an address in brackets, such as '[2606:4700::1]:443'")
        port_text = rest[1:] if rest else None
    else:
        if text.count(":") > 1:
            raise ValueError(f"{text[:80]!r}: write an IPv6 address in brackets")
        host, colon, after = text.partition(":")
        port_text = after if colon else None
    if port_text is None:
        return host, DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", port_text, re.ASCII) or not 1 <= int(port_text) <= 65_535:
        raise ValueError(f"{text[:80]!r} has no port between 1 and 65535")
    return host, int(port_text)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _GLOBAL_UNICAST or any(address in network for network in _TRANSLATING)
    ):
        return False
    if any(address in network for network in _UNASSIGNED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
