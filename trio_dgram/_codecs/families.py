"""Socket types: conversion between an :class:`Address` and the kernel's form of it, by address family."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import attrs

from .._values.addresses import (
    Address,
    ReceivedAddress,
    ReceivedIPv4Address,
    ReceivedIPv6Address,
    ReceivedUnixAddress,
    ScopedReceivedAddress,
    UnixAddress,
    UnixPath,
    check_address,
    check_host,
    check_pair,
    check_port,
    check_unix_address,
    check_unix_path,
    new_tuple,
    unmapped,
)
from .._values.arguments import check_choice
from .ancillary import ControlMessage

SocketType: TypeAlias = Literal["udp4", "udp6", "unix"]
"""The types of sockets: UDP over IPv4, UDP over IPv6 (dual-stack by default), and AF_UNIX datagram sockets."""

SocketAddress: TypeAlias = tuple[Any, ...] | str | bytes
"""An address as the socket module has it: two items on IPv4, two or four on IPv6, a path or an abstract name."""

AnyAddress: TypeAlias = "tuple[str | None, int] | UnixPath"
"""An address argument: a host and a port, or the path of a ``"unix"`` socket."""

PackedAddress: TypeAlias = int | bytes
"""A source as the kernel returns it: a struct sockaddr_in6, or the first half of a struct sockaddr_in (the rest is
padding) as an integer, which is four times as fast to create and to look up as bytes."""


class Destination(NamedTuple):
    """The destination of a datagram. Hot loops create and unpack it as a plain tuple."""

    address: Address
    sockaddr: SocketAddress | None
    """The kernel's form of the address; ``None`` for the peer of a connected socket."""
    ancillary: list[ControlMessage] | None
    """The control messages to send with the payload."""


def is_literal(host: str, family: socket.AddressFamily) -> bool:
    """Whether ``host`` is a numeric address of ``family``, without a zone."""
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        # ValueError: the text cannot be encoded.
        return False
    return True


SourceType: TypeAlias = type[ReceivedAddress]


@attrs.frozen
class Family:
    """One type of internet sockets: its address family and how its addresses are converted."""

    type: SocketType
    family: socket.AddressFamily
    loopback: str
    wildcard: Address
    """The local address of a socket that is bound without one."""
    packed_size: int = 0
    """The size of a struct sockaddr_in or sockaddr_in6, in bytes."""
    source_type: SourceType | None = None
    """The class of a source that can be passed back to the kernel unchanged."""

    @property
    def is_internet(self) -> bool:
        """Whether the type has ports, interfaces, groups and hop limits."""
        return True

    def check_internet(self, feature: str) -> None:
        """Raise ENOTSUP if ``feature``, which exists for internet sockets only, is asked of another type."""
        if not self.is_internet:
            raise OSError(errno.ENOTSUP, f"a {self.type} socket has no {feature}")

    def check_address(self, name: str, value: object) -> Address:
        """Return the argument ``name`` as an address that can be sent to."""
        return check_address(name, value)

    def check_local(self, port: object, host: object) -> Address:
        """Return the address that the arguments of ``bind`` name."""
        if isinstance(port, tuple):
            if host is not None:
                raise TypeError("bind takes a (host, port) tuple alone, or port and host, not both")
            local = check_pair("the local address", port, lowest_port=0)
            return local if local.host else Address(self.wildcard.host, local.port)
        return Address(check_host("host", host) or self.wildcard.host, check_port("port", port))

    def sockaddr(self, address: Address, *, dual_stack: bool) -> SocketAddress | None:
        """Return the kernel's form of ``address``, or ``None`` if its host is a name.

        Raises:
          socket.gaierror: if the host is a numeric address that a socket of this type cannot reach.
        """
        host = address[0]
        if self.family == socket.AF_INET:
            if is_literal(host, socket.AF_INET):
                return address
            if is_literal(host.partition("%")[0], socket.AF_INET6):
                # A dual-stack socket reports its IPv4 peers in this form.
                mapped = unmapped(host)
                if mapped is host:
                    raise _wrong_family(host, f"{self.type} socket")
                return (mapped, address[1])
            return None
        unscoped, percent, zone = host.partition("%")
        if is_literal(unscoped, socket.AF_INET6):
            return (unscoped, address[1], 0, _scope(address, zone)) if percent else address
        if is_literal(host, socket.AF_INET):
            if not dual_stack:
                raise _wrong_family(host, "udp6 socket without IPv4")
            return (f"::ffff:{host}", address[1])
        return None

    def locate(self, destination: Address, *, dual_stack: bool) -> tuple[Address, SocketAddress | None]:
        """Return ``destination``, an empty host replaced by loopback, and its :meth:`sockaddr`."""
        host = _HOST_NAMES.get(destination.host)
        if host is None:
            return destination, self.sockaddr(destination, dual_stack=dual_stack)
        address = Address(host or self.loopback, destination.port)
        return address, self.sockaddr(address, dual_stack=dual_stack)

    def address(self, sockaddr: Any) -> Address:
        """Return an address of the kernel as a value."""
        return Address(_host(sockaddr), sockaddr[1])

    def split(self, sources: bytes) -> Sequence[PackedAddress]:
        """Return each of the sources in ``sources``, where the kernel has put them one after the other."""
        if self.family == socket.AF_INET:
            return memoryview(sources).cast("Q")[::2].tolist()
        return list(chain.from_iterable(_PACKED_IPV6.iter_unpack(sources)))

    def sources(self, packed: bytes) -> list[ReceivedAddress | None]:
        """Return the :meth:`source` of each of the addresses in ``packed``."""
        if self.family == socket.AF_INET:
            # Not by a call of source() each: a flood from many addresses takes this path per datagram.
            text = _OCTETS
            return [
                new_tuple(ReceivedIPv4Address, (f"{text[a]}.{text[b]}.{text[c]}.{text[d]}", port))
                if port and (a or b or c or d)
                else None
                for port, a, b, c, d in _IPV4.iter_unpack(packed)
            ]
        return [
            self.source((_ipv6_host(octets), port, flow_info, int.from_bytes(scope, sys.byteorder)))
            for port, flow_info, octets, scope in _IPV6.iter_unpack(packed)
        ]

    def is_bound(self, sockaddr: Any) -> bool:
        """Whether a socket whose local address is ``sockaddr`` is bound."""
        return bool(sockaddr[1])

    def source(self, sockaddr: Any) -> ReceivedAddress | None:
        """Return the source of a datagram as a value, ``None`` for one that must not be answered.

        That is port 0, where nothing can listen, and an unspecified address, which can be forged: the kernel would
        deliver the answer to this machine.
        """
        if not sockaddr[1] or sockaddr[0] in _UNSPECIFIED:
            return None
        if len(sockaddr) == 2 or not sockaddr[3]:
            return cast("ReceivedAddress", new_tuple(self.source_type, sockaddr[:2]))
        return ScopedReceivedAddress(_host(sockaddr), sockaddr[1])


@attrs.frozen
class UnixFamily(Family):
    """Sockets of this machine, named by paths (unix(7))."""

    @property
    def is_internet(self) -> bool:
        """Whether the type has ports, interfaces, groups and hop limits: it has paths instead."""
        return False

    def check_address(self, name: str, value: object) -> UnixAddress:
        """Return the argument ``name`` as an address that can be sent to."""
        return check_unix_address(name, value)

    def check_local(self, port: object, host: object) -> UnixAddress:
        """Return the address that the arguments of ``bind`` name; the first one is a path."""
        if host is not None:
            raise ValueError(f"a {self.type} socket is bound to a path, without a host, not to host {host!r}")
        return UnixAddress("") if type(port) is int and not port else check_unix_path("path", port)

    def sockaddr(self, address: Address, *, dual_stack: bool) -> SocketAddress | None:  # noqa: ARG002 -- the internet's
        """Return the kernel's form of ``address``."""
        return os.fsencode(address.host)

    def locate(self, destination: Address, *, dual_stack: bool) -> tuple[Address, SocketAddress | None]:
        """Return ``destination`` and its :meth:`sockaddr`: an empty path has no default."""
        return destination, self.sockaddr(destination, dual_stack=dual_stack)

    def address(self, sockaddr: Any) -> UnixAddress:
        """Return an address of the kernel as a value."""
        return UnixAddress(sockaddr or "")

    def is_bound(self, sockaddr: Any) -> bool:
        """Whether a socket whose local address is ``sockaddr`` is bound."""
        return bool(sockaddr)

    def source(self, sockaddr: Any) -> ReceivedAddress:
        """Return the source of a datagram as a value, with an empty path for an unnamed socket."""
        return cast("ReceivedAddress", new_tuple(ReceivedUnixAddress, (os.fsdecode(sockaddr or ""), 0)))


_OCTETS: Final = tuple(map(str, range(256)))
_IPV4: Final = struct.Struct("!2xHBBBB8x")
"""struct sockaddr_in: port and address."""
_IPV6: Final = struct.Struct("!2xHI16s4s")
"""struct sockaddr_in6: port, flow information, address and, in the byte order of the machine, zone."""
_PACKED_IPV6: Final = struct.Struct("28s")
_ipv6_host: Final = partial(socket.inet_ntop, socket.AF_INET6)

_UNSPECIFIED: Final = frozenset({"0.0.0.0", "::", "::ffff:0.0.0.0"})


def is_unspecified(host: str) -> bool:
    """Whether ``host`` is a wildcard address, as the kernel writes it: a socket bound there has every address."""
    return host in _UNSPECIFIED


_HOST_NAMES: Final = {"": "", "<broadcast>": "255.255.255.255"}
"""Hosts with a meaning of their own: the empty one is loopback; the other is the socket module's name."""

UDP4: Final = Family("udp4", socket.AF_INET, "127.0.0.1", Address("0.0.0.0", 0), 16, ReceivedIPv4Address)
UDP6: Final = Family("udp6", socket.AF_INET6, "::1", Address("::", 0), 28, ReceivedIPv6Address)
FAMILIES: Final[dict[str, Family]] = {family.type: family for family in (UDP4, UDP6)}
if hasattr(socket, "AF_UNIX"):  # pragma: no branch -- Windows lacks it
    UNIX: Final = UnixFamily("unix", socket.AF_UNIX, "", UnixAddress(""))
    FAMILIES[UNIX.type] = UNIX


def check_type(value: object) -> Family:
    """Return the family of the socket type ``value``."""
    return FAMILIES[check_choice("type", value, FAMILIES)]


def _host(sockaddr: Any) -> str:
    host: str = sockaddr[0]
    # The name of the zone is not cached: an index can be reused by another interface.
    if len(sockaddr) == 4 and sockaddr[3]:
        try:
            return f"{host}%{socket.if_indextoname(sockaddr[3])}"
        except OSError:
            return f"{host}%{sockaddr[3]}"
    return host


_NO_INTERFACE: Final = 2**31 - 1
"""An index that no interface has."""


def _scope(address: Address, zone: str) -> int:
    if zone.isascii() and zone.isdigit():
        # Linux has indices of 31 bits; a larger number would wrap around to another interface.
        if 0 < (index := int(zone[:11])) <= _NO_INTERFACE:
            return index
    else:
        try:
            return socket.if_nametoindex(zone)
        except (OSError, ValueError):
            pass
    if isinstance(address, ReceivedAddress):
        # The interface does not exist any more. The kernel then refuses the datagram, as for any unanswerable source.
        return _NO_INTERFACE
    raise socket.gaierror(socket.EAI_NONAME, f"there is no interface {zone!r}, the zone of {address.host}")


def _wrong_family(host: str, type_: str) -> socket.gaierror:
    number = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_FAMILY)
    return socket.gaierror(number, f"{host} is not an address that a {type_} can reach")
