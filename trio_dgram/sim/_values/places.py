"""Numeric addresses on the simulated network: their canonical form, and their kinds."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

from ..._values.arguments import describe_value

Kind: TypeAlias = Literal["unicast", "loopback", "group", "broadcast", "wildcard"]

NETWORK: Final = ipaddress.IPv4Network("10.0.0.0/8")
"""The one IPv4 network that every host is on."""
LOCAL_BROADCAST: Final = "127.255.255.255"
BROADCASTS: Final = frozenset({"255.255.255.255", str(NETWORK.broadcast_address), LOCAL_BROADCAST})
"""The broadcast addresses of the network, limited and directed, and that of the loopback."""
ROUTER4: Final = "10.0.0.1"
"""The source of ICMP errors on IPv4."""
ROUTER6: Final = "fd00::1"
"""The source of ICMP errors on IPv6."""

LOOPBACK_INDEX: Final = 1
INTERFACE_INDEX: Final = 2
INTERFACES: Final = {LOOPBACK_INDEX: "lo", INTERFACE_INDEX: "eth0"}
"""The interfaces that every host has, by index."""

_MAPPED: Final = "::ffff:"


def refusal(number: int) -> OSError:
    """Return the error that the kernel calls ``number``."""
    return OSError(number, os.strerror(number))


@lru_cache(maxsize=4096)
def plain(host: str) -> str:
    """Return a numeric address as the network writes it: shortest form, an IPv4-mapped one as IPv4, without zone.

    Raises:
      OSError: if it is no numeric address.
    """
    host = host.partition("%")[0]
    if ":" not in host:
        return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, host))
    text = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
    return text.removeprefix(_MAPPED) if text.startswith(_MAPPED) and "." in text else text


def packed(host: str) -> bytes:
    """Return a numeric address as bytes, 4 or 16 of them."""
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


@lru_cache(maxsize=4096)
def kind_of(host: str) -> Kind:
    """Return the kind of a plain address."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return "wildcard"
    if host in BROADCASTS:
        return "broadcast"
    if address.is_loopback:
        return "loopback"
    if address.is_multicast:
        return "group"
    return "unicast"


def is_ipv6(host: str) -> bool:
    """Whether a plain address is an IPv6 one."""
    return ":" in host


def sockaddr_of(family: int, host: str, port: int) -> tuple[Any, ...]:
    """Return a plain address as a socket of ``family`` has it."""
    if family == socket.AF_INET:
        return (host, port)
    return (host if is_ipv6(host) else _MAPPED + host, port, 0, 0)


def numeric(family: int, sockaddr: Any) -> tuple[str, int]:
    """Return the address that a socket of ``family`` is given as a plain host and a port; no host is the wildcard.

    Raises:
      socket.gaierror: if the host is not numeric, or of the other family.
      OverflowError: if the port is none.
    """
    host, port = sockaddr[0] or ("0.0.0.0" if family == socket.AF_INET else "::"), sockaddr[1]
    try:
        text = plain(host)
    except OSError:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    if (family == socket.AF_INET) != (":" not in host):
        raise socket.gaierror(getattr(socket, "EAI_ADDRFAMILY", -9), "Address family for hostname not supported")
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise OverflowError(f"port must be 0-65535, not {port!r}")
    return text, port


def assigned(name: str, taken: Callable[[str], bool]) -> tuple[str, str]:
    """Return an IPv4 and an IPv6 address for the host ``name``, none of them ``taken``.

    They derive from the name alone, so that they do not depend on other hosts.
    """
    attempt = 0
    while True:
        number = int.from_bytes(blake2b(f"{attempt} {name}".encode(), digest_size=3).digest(), "big")
        ipv4 = str(NETWORK[number])
        ipv6 = str(ipaddress.IPv6Address((0xFD00 << 112) | number))
        # The first addresses belong to the router, and the last one is the broadcast address.
        if 256 <= number < NETWORK.num_addresses - 256 and not taken(ipv4) and not taken(ipv6):
            return ipv4, ipv6
        attempt += 1


def check_address(value: object) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Return an address that a host is given; the prefix length is 24 or 64 unless it has one.

    Raises:
      ValueError: if it is no numeric unicast address.
    """
    text = value if isinstance(value, str) else ""
    try:
        host = plain(text.partition("/")[0])
        interface = ipaddress.ip_interface(text if "/" in text else f"{host}/{64 if is_ipv6(host) else 24}")
    except (OSError, ValueError):
        raise ValueError(
            "addresses must be numeric IPv4 or IPv6 addresses, such as 198.18.1.1 or 198.18.1.1/24, not "
            f"{describe_value(value)}"
        ) from None
    if kind_of(host) != "unicast":
        raise ValueError(f"addresses must be unicast addresses, not {value}")
    return interface


def directed_broadcast(address: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    """Return the directed broadcast address of an address's network, an empty text if there is none."""
    network = address.network
    is_broadcast = isinstance(address, ipaddress.IPv4Interface) and network.num_addresses > 2
    return str(network.broadcast_address) if is_broadcast and network.broadcast_address != address.ip else ""
