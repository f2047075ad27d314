"""Socket addresses: between an :class:`Address` and what the kernel takes and gives, by family."""

from __future__ import annotations

import socket
from typing import Any, Final, TypeAlias, cast

import attrs

from ._addresses import Address, ReceivedAddress, ScopedReceivedAddress, new_tuple
from ._arguments import describe_value

SocketAddress: TypeAlias = tuple[Any, ...]
"""An address as the socket module has it: two items on IPv4, two or four on IPv6."""

Destination: TypeAlias = tuple[Address, SocketAddress | None]
"""Where a datagram goes: as a value, and as the kernel takes it; None for the peer of a connected socket."""


def is_literal(host: str, family: socket.AddressFamily) -> bool:
    """Whether ``host`` is a numeric address of ``family``, without a zone."""
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


@attrs.frozen
class Family:
    """What differs between the kinds of sockets, as data and as the way its addresses are written."""

    type: str
    """The name it has in this library, such as ``"udp4"``."""
    family: socket.AddressFamily
    loopback: str
    wildcard: str

    def sockaddr(self, address: Address, *, dual_stack: bool) -> SocketAddress | None:
        """Return ``address`` as the kernel takes it, or ``None`` if its host is a name.

        Raises:
          socket.gaierror: if the host is a literal that a socket of this family cannot reach.
        """
        host = address[0]
        if self.family == socket.AF_INET:
            if is_literal(host, socket.AF_INET):
                return address
            if is_literal(host.partition("%")[0], socket.AF_INET6):
                raise _wrong_family(host, self.type)
            return None
        unscoped, _, zone = host.partition("%")
        if is_literal(unscoped, socket.AF_INET6):
            return (unscoped, address[1], 0, _scope(host, zone)) if zone else address
        if is_literal(host, socket.AF_INET):
            if not dual_stack:
                raise _wrong_family(host, "udp6 without IPv4")
            return (f"::ffff:{host}", address[1])
        return None

    def wrote(self, address: Address) -> bool:
        """Whether a received address, without a zone, is one that sockets of this family receive from."""
        return (":" in address[0]) == (self.family == socket.AF_INET6)

    def address(self, sockaddr: SocketAddress) -> Address:
        """Return an address of the kernel's as a value."""
        return Address(_host(sockaddr), sockaddr[1])

    def received_address(self, sockaddr: SocketAddress) -> ReceivedAddress:
        """Return the source of a datagram over IPv6 as a value."""
        if not sockaddr[3]:
            return cast("ReceivedAddress", new_tuple(ReceivedAddress, sockaddr[:2]))
        return ScopedReceivedAddress(_host(sockaddr), sockaddr[1])


UDP4: Final = Family("udp4", socket.AF_INET, "127.0.0.1", "0.0.0.0")
UDP6: Final = Family("udp6", socket.AF_INET6, "::1", "::")
FAMILIES: Final = {family.type: family for family in (UDP4, UDP6)}


def check_type(value: object) -> Family:
    """Return the family that the type ``value`` of a socket stands for."""
    names = ", ".join(map(repr, FAMILIES))
    if not isinstance(value, str):
        raise TypeError(f"type must be one of {names}, not {describe_value(value)}")
    if value not in FAMILIES:
        raise ValueError(f"type must be one of {names}, not {value!r}")
    return FAMILIES[value]


def _host(sockaddr: SocketAddress) -> str:
    host: str = sockaddr[0]
    # The zone is not cached: an index can come to mean another interface.
    if len(sockaddr) == 4 and sockaddr[3]:
        try:
            return f"{host}%{socket.if_indextoname(sockaddr[3])}"
        except OSError:
            return f"{host}%{sockaddr[3]}"
    return host


def _scope(host: str, zone: str) -> int:
    if zone.isascii() and zone.isdigit():
        return int(zone) & 0xFFFFFFFF
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise socket.gaierror(socket.EAI_NONAME, f"no interface {zone!r} for {host}") from None


def _wrong_family(host: str, type_: str) -> socket.gaierror:
    number = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_FAMILY)
    return socket.gaierror(number, f"{host} is not an address that a {type_} socket can reach")
