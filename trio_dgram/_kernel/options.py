"""The options that the kernel keeps: their documentation, checks, and how each is read and written.

Every value is checked here first, since the kernel accepts some nonsense (a TTL of -1, a buffer of 0 bytes).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from sys import byteorder
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import attrs

from .._codecs.families import UDP6, Family, is_literal
from .._values.arguments import check_bool, check_choice, check_integer, describe_value
from .._values.errors import with_context
from .capabilities import IP_MTU_DISCOVER, capabilities_of, not_supported
from .interfaces import Interface, find_interface

T = TypeVar("T")
Place: TypeAlias = tuple[int, int]
"""The level and the number of an option in the kernel."""

IPV6_MTU_DISCOVER: Final = 23


@attrs.define
class Target:
    """The socket that an option is read from or written to."""

    socket: Any
    family: Family
    dual_stack: bool
    multicast_interface: str | int | None = None
    """As it was set: for IPv4 the kernel stores an index and reports an address."""

    def places(self, ipv4: Place, ipv6: Place) -> tuple[Place, ...]:
        """Return where an option of the IP layer is stored; the first place is the one to read.

        A dual-stack socket stores it twice: for IPv4 peers only the IPv4 place counts.
        """
        if self.family is not UDP6:
            return (ipv4,)
        return (ipv6, ipv4) if self.dual_stack else (ipv6,)


@attrs.frozen
class Option(Generic[T]):
    """One option: its documentation, and how its value is checked, written and read."""

    type: str
    """The annotation that the documentation shows."""
    doc: str
    check: Callable[[str, object], T]
    write: Callable[[Target, T], None]
    read: Callable[[Target], T]
    internet_only: bool = True


def _integer(doc: str, lowest: int, highest: int, ipv4: Place, ipv6: Place) -> Option[int]:
    def write(target: Target, value: int) -> None:
        for place in target.places(ipv4, ipv6):
            target.socket.setsockopt(*place, value)

    def read(target: Target) -> int:
        value: int = target.socket.getsockopt(*target.places(ipv4, ipv6)[0])
        return value

    return Option("int", doc, lambda name, value: check_integer(name, value, lowest, highest), write, read)


def _switch(doc: str, ipv4: Place, ipv6: Place) -> Option[bool]:
    number = _integer(doc, 0, 1, ipv4, ipv6)
    return Option("bool", doc, check_bool, number.write, lambda target: bool(number.read(target)))


def _traffic_class_bits(doc: str, shift: int, width: int, highest: int) -> Option[int]:
    # DSCP and ECN share one byte, so writing one keeps the bits of the other (RFC 3168, 23).
    byte = _integer(doc, 0, 255, (socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS))
    mask = (1 << width) - 1

    def write(target: Target, value: int) -> None:
        byte.write(target, byte.read(target) & ~(mask << shift) | value << shift)

    def read(target: Target) -> int:
        return byte.read(target) >> shift & mask

    return Option("int", doc, lambda name, value: check_integer(name, value, 0, highest), write, read)


def _buffer_size(doc: str, number: int) -> Option[int]:
    def write(target: Target, value: int) -> None:
        target.socket.setsockopt(socket.SOL_SOCKET, number, value)

    def read(target: Target) -> int:
        value: int = target.socket.getsockopt(socket.SOL_SOCKET, number)
        return value

    def check(name: str, value: object) -> int:
        return check_integer(name, value, 1, 2**31 - 1)

    return Option("int", doc, check, write, read, internet_only=False)


def _check_device(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be an interface name or None, not {describe_value(value)}")
    # The kernel truncates a longer name (IFNAMSIZ).
    if value is not None and ("\0" in value or not 1 <= len(os.fsencode(value)) <= 15):
        raise ValueError(f"{name} must be an interface name of 1 to 15 bytes, not {value!r}")
    return value


def _bind_to_device() -> int:
    number: int | None = getattr(socket, "SO_BINDTODEVICE", None)
    if number is None:
        raise OSError(errno.ENOTSUP, "this system cannot bind a socket to a device")
    return number


def _write_device(target: Target, value: str | None) -> None:
    target.socket.setsockopt(socket.SOL_SOCKET, _bind_to_device(), os.fsencode(value or "") + b"\0")


def _read_device(target: Target) -> str | None:
    name = target.socket.getsockopt(socket.SOL_SOCKET, _bind_to_device(), 16)
    return os.fsdecode(name.rstrip(b"\0")) or None


def _check_interface(name: str, value: object) -> str | int | None:
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise TypeError(f"{name} must be a local address, interface name, index or None, not {describe_value(value)}")
    if value == "" or (isinstance(value, int) and value < 1):
        raise ValueError(f"{name} must be a local address, interface name or index from 1, not {value!r}")
    return value


def _write_multicast_interface(target: Target, value: str | int | None) -> None:
    interface = None if value is None else find_interface(value, "multicast_interface")
    index = 0 if interface is None else interface.index
    source = bytes(4)
    if isinstance(value, str) and is_literal(value, socket.AF_INET):
        source = socket.inet_aton(value)
    elif interface is not None:
        source = socket.inet_aton(multicast_source(interface) or "0.0.0.0")
    places = target.places((socket.IPPROTO_IP, socket.IP_MULTICAST_IF), (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF))
    for level, number in places:
        # struct ip_mreqn (ip(7)) for IPv4, a plain index for IPv6 (RFC 3493, 5.2).
        ip_mreqn = bytes(4) + source + index.to_bytes(4, byteorder)
        target.socket.setsockopt(level, number, ip_mreqn if level == socket.IPPROTO_IP else index)
    target.multicast_interface = value


def multicast_source(interface: Interface) -> str | None:
    """Return the address to send IPv4 multicast from through ``interface``, ``None`` for the kernel's choice.

    Through a loopback interface the kernel would send from 0.0.0.0, which receivers drop: they cannot answer it.
    """
    if not interface.loopback:
        return None
    return next((host for host in interface.addresses if is_literal(host, socket.AF_INET)), None)


def _read_multicast_interface(target: Target) -> str | int | None:
    return target.multicast_interface


MTUDiscovery: TypeAlias = Literal["dont", "want", "do", "probe"]
"""How a socket treats the MTU of a path."""

_MTU_DISCOVERY: Final = ("dont", "want", "do", "probe")
"""By their numbers in the kernel: IP_PMTUDISC_DONT, _WANT, _DO, _PROBE (ip(7))."""


def _mtu_discovery_places(target: Target) -> tuple[Place, ...]:
    if not capabilities_of(target.socket).path_mtu:
        raise OSError(errno.ENOTSUP, "this system has no path MTU discovery for sockets")
    return target.places((_IP, IP_MTU_DISCOVER), (_IPV6, IPV6_MTU_DISCOVER))


def _write_mtu_discovery(target: Target, value: str) -> None:
    for place in _mtu_discovery_places(target):
        target.socket.setsockopt(*place, _MTU_DISCOVERY.index(value))


def _read_mtu_discovery(target: Target) -> str:
    number = target.socket.getsockopt(*_mtu_discovery_places(target)[0])
    # Beyond these are IP_PMTUDISC_INTERFACE and _OMIT, which differ from _DONT in the ICMP messages that they trust.
    return _MTU_DISCOVERY[number] if number < len(_MTU_DISCOVERY) else "dont"


_IP, _IPV6, _SOCKET = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
_BROADCAST: Final = (_SOCKET, socket.SO_BROADCAST)

OPTIONS: Final[dict[str, Option[Any]]] = {
    "broadcast": _switch(
        "Allow sending to broadcast addresses (SO_BROADCAST, socket(7)).",
        _BROADCAST,
        _BROADCAST,
    ),
    "ttl": _integer(
        "The hop limit of unicast datagrams, 1 to 255 hops (IP_TTL, IPV6_UNICAST_HOPS).",
        1,
        255,
        (_IP, socket.IP_TTL),
        (_IPV6, socket.IPV6_UNICAST_HOPS),
    ),
    "dscp": _traffic_class_bits(
        "The Differentiated Services code point of sent datagrams, 0 to 63 (RFC 2474).",
        2,
        6,
        63,
    ),
    "ecn": _traffic_class_bits(
        "The ECN bits of sent datagrams, 0 to 2 (RFC 3168); 3 means congestion, which only routers report.",
        0,
        2,
        2,
    ),
    "multicast_ttl": _integer(
        "The hop limit of multicast datagrams, 0 to 255 hops; 0 keeps them on this machine.",
        0,
        255,
        (_IP, socket.IP_MULTICAST_TTL),
        (_IPV6, socket.IPV6_MULTICAST_HOPS),
    ),
    "multicast_loopback": _switch(
        "Whether group members on this machine receive the multicast datagrams of the socket (IP_MULTICAST_LOOP).",
        (_IP, socket.IP_MULTICAST_LOOP),
        (_IPV6, socket.IPV6_MULTICAST_LOOP),
    ),
    "multicast_interface": Option(
        "str | int | None",
        "The interface that sends multicast datagrams: a local address, an interface's name or index, read back as it "
        "was set; None restores the system's choice. OSError(ENODEV) if there is no such interface.",
        _check_interface,
        _write_multicast_interface,
        _read_multicast_interface,
    ),
    "device": Option(
        "str | None",
        "The name of the only interface to receive from and to send through (SO_BINDTODEVICE, socket(7)), None for "
        "any. OSError(ENODEV) if it does not exist, or has been removed since; OSError(ENOTSUP) where the system has "
        "no such option.",
        _check_device,
        _write_device,
        _read_device,
    ),
    "mtu_discovery": Option(
        "'dont' | 'want' | 'do' | 'probe'",
        "How packets treat the MTU of their path (IP_MTU_DISCOVER, ip(7)): 'dont' allows fragmentation by routers; "
        "'want' forbids it and sends smaller fragments; 'do' forbids it, and a datagram larger than the known path "
        "MTU raises EMSGSIZE; 'probe' forbids it and ignores the known path MTU. OSError(ENOTSUP) where the system "
        "has no such option.",
        lambda name, value: check_choice(name, value, _MTU_DISCOVERY),
        _write_mtu_discovery,
        _read_mtu_discovery,
    ),
    "receive_buffer_size": _buffer_size(
        "The size of the kernel's receive buffer, in bytes (SO_RCVBUF). Linux doubles the requested size and limits "
        "it to net.core.rmem_max; reading returns the effective size.",
        socket.SO_RCVBUF,
    ),
    "send_buffer_size": _buffer_size(
        "The size of the kernel's send buffer, in bytes (SO_SNDBUF). Linux doubles the requested size and limits it "
        "to net.core.wmem_max; reading returns the effective size.",
        socket.SO_SNDBUF,
    ),
}
"""Every option that has a property, by name, in the order in which they are written at creation."""


def check_option(name: str, value: object) -> Any:
    """Return ``value`` if the option ``name`` accepts it; raise ``TypeError`` or ``ValueError`` otherwise."""
    return OPTIONS[name].check(name, value)


def write_option(target: Target, name: str, value: object) -> None:
    """Check ``value`` and write it to the kernel; ENOTSUP where the kernel does not know the option."""
    checked = check_option(name, value)
    option = _option_of(target, name)
    try:
        option.write(target, checked)
    except OSError as error:
        raise with_context(not_supported(error), f"set {name} to {value!r}", None) from None


def read_option(target: Target, name: str) -> Any:
    """Read the option ``name`` from the kernel; ENOTSUP where the kernel does not know it."""
    try:
        return _option_of(target, name).read(target)
    except OSError as error:
        raise with_context(not_supported(error), f"read {name}", None) from None


def _option_of(target: Target, name: str) -> Option[Any]:
    option = OPTIONS[name]
    if option.internet_only:
        target.family.check_internet(name)
    return option
