"""Socket addresses: between an :class:`Address` and what the kernel takes and gives, by family."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, TypeAlias, cast

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
    check_port,
    check_unix_address,
    check_unix_path,
    new_tuple,
)
from .._values.arguments import check_choice
from .ancillary import ControlMessage

SocketAddress: TypeAlias = tuple[Any, ...] | str | bytes
"""An address as the socket module has it: two items on IPv4, two or four on IPv6, a path or an abstract name."""

AnyAddress: TypeAlias = "tuple[str | None, int] | UnixPath"
"""Whatever names a peer: a host and a port, or the path of a ``"unix"`` socket."""

PackedAddress: TypeAlias = int | bytes
"""An address as the kernel writes it: struct sockaddr_in6, or of struct sockaddr_in, whose second half is padding, the
first half as an integer, which takes a quarter of the time to make and to find again."""

Destination: TypeAlias = tuple[Address, SocketAddress | None, list[ControlMessage] | None]
"""Where a datagram goes: as a value, as the kernel takes it (None for the peer of a connected socket), and what is to
be told to the kernel beside the payload. A plain tuple, since it is taken apart for every datagram."""


def is_literal(host: str, family: socket.AddressFamily) -> bool:
    """Whether ``host`` is a numeric address of ``family``, without a zone."""
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


SenderType: TypeAlias = type[ReceivedAddress]


@attrs.frozen
class Family:
    """What differs between the kinds of sockets, as data and as the way their addresses are written.

    These are the internet's kinds.
    """

    type: str
    """The name it has in this library, such as ``"udp4"``."""
    family: socket.AddressFamily
    loopback: str
    wildcard: Address
    """The local address that is bound to where none is named."""
    packed_size: int = 0
    """How many bytes the kernel writes an address in, a struct sockaddr_in or sockaddr_in6."""
    sender: SenderType | None = None
    """What a source is that the kernel takes as it is written, if there is any."""

    @property
    def is_internet(self) -> bool:
        """Whether it has what the internet protocols have: ports, interfaces, groups, hop limits."""
        return True

    def check_internet(self, wanted: str) -> None:
        """Raise ENOTSUP if these sockets have no ``wanted``, which only the internet's have."""
        if not self.is_internet:
            raise OSError(errno.ENOTSUP, f"a {self.type} socket has no {wanted}")

    def check_address(self, name: str, value: object) -> Address:
        """Return the argument ``name`` as an address that can be sent to."""
        return check_address(name, value)

    def check_local(self, port: object, host: object) -> Address:
        """Return the arguments of ``bind`` as the address that they name."""
        return Address(check_host("host", host) or self.wildcard.host, check_port("port", port))

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
            return (unscoped, address[1], 0, _scope(address, zone)) if zone else address
        if is_literal(host, socket.AF_INET):
            if not dual_stack:
                raise _wrong_family(host, "udp6 without IPv4")
            return (f"::ffff:{host}", address[1])
        return None

    def locate(self, wanted: Address, *, dual_stack: bool) -> tuple[Address, SocketAddress | None]:
        """Return ``wanted``, an empty host as loopback, and the same as :meth:`sockaddr` does: ``None`` for a name."""
        address = wanted if wanted.host else Address(self.loopback, wanted.port)
        return address, self.sockaddr(address, dual_stack=dual_stack)

    def address(self, sockaddr: Any) -> Address:
        """Return an address of the kernel's as a value."""
        return Address(_host(sockaddr), sockaddr[1])

    def split(self, sources: bytes) -> Sequence[PackedAddress]:
        """Return each of the addresses that the kernel has written one after the other (ip(7), ipv6(7))."""
        if self.family == socket.AF_INET:
            return memoryview(sources).cast("Q")[::2].tolist()
        return list(chain.from_iterable(_PACKED_IPV6.iter_unpack(sources)))

    def received(self, sources: bytes) -> list[ReceivedAddress | None]:
        """Do as :meth:`received_address` does, with all the addresses that the kernel has written."""
        if self.family == socket.AF_INET:
            # Written out, since a flood from many addresses has it done for each datagram.
            text = _OCTETS
            return [
                new_tuple(ReceivedIPv4Address, (f"{text[a]}.{text[b]}.{text[c]}.{text[d]}", port)) if port else None
                for port, a, b, c, d in _IPV4.iter_unpack(sources)
            ]
        return [
            self.received_address((_ipv6_host(octets), port, flow_info, int.from_bytes(scope, sys.byteorder)))
            for port, flow_info, octets, scope in _IPV6.iter_unpack(sources)
        ]

    def is_bound(self, sockaddr: Any) -> bool:
        """Whether a socket whose local address is ``sockaddr`` is bound."""
        return bool(sockaddr[1])

    def received_address(self, sockaddr: Any) -> ReceivedAddress | None:
        """Return the source of a datagram as a value, ``None`` for one that nobody can answer."""
        # From port 0, or from the unspecified address, which Linux lets in over IPv6: an answer to the latter would go
        # to this machine itself.
        if not sockaddr[1] or sockaddr[0] == "::":
            return None
        if len(sockaddr) == 2 or not sockaddr[3]:
            return cast("ReceivedAddress", new_tuple(self.sender, sockaddr[:2]))
        return ScopedReceivedAddress(_host(sockaddr), sockaddr[1])


@attrs.frozen
class UnixFamily(Family):
    """Sockets of this machine, named by paths (unix(7))."""

    @property
    def is_internet(self) -> bool:
        """No: it has paths and file permissions."""
        return False

    def check_address(self, name: str, value: object) -> UnixAddress:
        """Return the argument ``name`` as an address that can be sent to."""
        return check_unix_address(name, value)

    def check_local(self, port: object, host: object) -> UnixAddress:
        """Return the arguments of ``bind``, the first of which is a path, as the address that they name."""
        if host is not None:
            raise ValueError(f"a {self.type} socket is bound to a path alone, without a host, and not to {host!r}")
        return UnixAddress("") if type(port) is int and not port else check_unix_path("path", port)

    def sockaddr(self, address: Address, *, dual_stack: bool) -> SocketAddress | None:  # noqa: ARG002 -- the internet's
        """Return ``address`` as the kernel takes it."""
        return os.fsencode(address.host)

    def locate(self, wanted: Address, *, dual_stack: bool) -> tuple[Address, SocketAddress | None]:
        """Return ``wanted`` and the same as the kernel takes it: there is no path that an empty one stands for."""
        return wanted, self.sockaddr(wanted, dual_stack=dual_stack)

    def address(self, sockaddr: Any) -> UnixAddress:
        """Return an address of the kernel's as a value."""
        return UnixAddress(sockaddr or "")

    def is_bound(self, sockaddr: Any) -> bool:
        """Whether a socket whose local address is ``sockaddr`` is bound."""
        return bool(sockaddr)

    def received_address(self, sockaddr: Any) -> ReceivedAddress:
        """Return the source of a datagram as a value; an empty one for a socket that has no name."""
        return cast("ReceivedAddress", new_tuple(ReceivedUnixAddress, (os.fsdecode(sockaddr or ""), 0)))


_OCTETS: Final = tuple(map(str, range(256)))
_IPV4: Final = struct.Struct("!2xHBBBB8x")
"""struct sockaddr_in: port and address."""
_IPV6: Final = struct.Struct("!2xHI16s4s")
"""struct sockaddr_in6: port, flow information, address and, in the byte order of the machine, zone."""
_PACKED_IPV6: Final = struct.Struct("28s")
_ipv6_host: Final = partial(socket.inet_ntop, socket.AF_INET6)

UDP4: Final = Family("udp4", socket.AF_INET, "127.0.0.1", Address("0.0.0.0", 0), 16, ReceivedIPv4Address)
UDP6: Final = Family("udp6", socket.AF_INET6, "::1", Address("::", 0), 28, ReceivedIPv6Address)
FAMILIES: Final = {family.type: family for family in (UDP4, UDP6)}
if hasattr(socket, "AF_UNIX"):  # pragma: no branch -- Windows has none
    UNIX: Final = UnixFamily("unix", socket.AF_UNIX, "", UnixAddress(""))
    FAMILIES[UNIX.type] = UNIX


def check_type(value: object) -> Family:
    """Return the family that the type ``value`` of a socket stands for."""
    return FAMILIES[check_choice("type", value, FAMILIES)]


def _host(sockaddr: Any) -> str:
    host: str = sockaddr[0]
    # The zone is not cached: an index can come to mean another interface.
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
        return int(zone) & 0xFFFFFFFF
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        if isinstance(address, ReceivedAddress):
            # It has gone since. The kernel shall refuse the datagram, as it does what else cannot be answered.
            return _NO_INTERFACE
        raise socket.gaierror(socket.EAI_NONAME, f"no interface {zone!r} for {address.host}") from None


def _wrong_family(host: str, type_: str) -> socket.gaierror:
    number = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_FAMILY)
    return socket.gaierror(number, f"{host} is not an address that a {type_} socket can reach")
