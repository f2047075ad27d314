"""The options of a socket: which values they take, and where the kernel keeps them.

The kernel accepts some nonsense (a TTL of -1, a buffer of 0 bytes), so every value is checked here first.
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
from .._values.errors import annotated
from . import system_socket as _system
from .awaited import KernelSocket
from .interfaces import find_interface

T = TypeVar("T")
Place: TypeAlias = tuple[int, int]
"""The level and the number of an option in the kernel."""


@attrs.define
class Target:
    """The socket whose options are meant."""

    socket: KernelSocket
    family: Family
    dual_stack: bool
    multicast_interface: str | int | None = None
    """As it was chosen: IPv4 in the kernel keeps an index but tells an address."""

    def places(self, ipv4: Place, ipv6: Place) -> tuple[Place, ...]:
        """Where an option of the IP layer is kept, the place to read it from first.

        A dual-stack socket has it twice: towards IPv4 peers only the IPv4 one counts.
        """
        if self.family is not UDP6:
            return (ipv4,)
        return (ipv6, ipv4) if self.dual_stack else (ipv6,)


@attrs.frozen
class Option(Generic[T]):
    """One option: how its value is checked, written and read."""

    check: Callable[[str, object], T]
    write: Callable[[Target, T], None]
    read: Callable[[Target], T]
    is_internets: bool = True
    """Whether only the internet's sockets have it."""


def _integer(lowest: int, highest: int, ipv4: Place, ipv6: Place) -> Option[int]:
    def write(target: Target, value: int) -> None:
        for place in target.places(ipv4, ipv6):
            target.socket.setsockopt(*place, value)

    def read(target: Target) -> int:
        return target.socket.getsockopt(*target.places(ipv4, ipv6)[0])

    return Option(lambda name, value: check_integer(name, value, lowest, highest), write, read)


def _switch(ipv4: Place, ipv6: Place) -> Option[bool]:
    number = _integer(0, 1, ipv4, ipv6)
    return Option(check_bool, number.write, lambda target: bool(number.read(target)))


def _traffic_class_bits(shift: int, width: int, highest: int) -> Option[int]:
    # DSCP and ECN share one byte, so either is written around the other (RFC 3168, 23).
    byte = _integer(0, 255, (socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS))
    mask = (1 << width) - 1

    def write(target: Target, value: int) -> None:
        byte.write(target, byte.read(target) & ~(mask << shift) | value << shift)

    def read(target: Target) -> int:
        return byte.read(target) >> shift & mask

    return Option(lambda name, value: check_integer(name, value, 0, highest), write, read)


def _buffer_size(number: int) -> Option[int]:
    def write(target: Target, value: int) -> None:
        target.socket.setsockopt(socket.SOL_SOCKET, number, value)

    def read(target: Target) -> int:
        return target.socket.getsockopt(socket.SOL_SOCKET, number)

    return Option(lambda name, value: check_integer(name, value, 1, 2**31 - 1), write, read, is_internets=False)


def _check_device(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be an interface name or None, not {describe_value(value)}")
    # The kernel would cut a longer name off (IFNAMSIZ).
    if value is not None and ("\0" in value or not 1 <= len(os.fsencode(value)) <= 15):
        raise ValueError(f"{name} must be an interface name of 1 to 15 bytes, not {value!r}")
    return value


def _write_device(target: Target, value: str | None) -> None:
    number = getattr(socket, "SO_BINDTODEVICE", None)
    if number is None:  # pragma: no cover -- Linux has it
        raise OSError(errno.ENOTSUP, "this platform cannot bind a socket to a device")
    target.socket.setsockopt(socket.SOL_SOCKET, number, os.fsencode(value or "") + b"\0")


def _read_device(target: Target) -> str | None:
    number = getattr(socket, "SO_BINDTODEVICE", None)
    if number is None:  # pragma: no cover -- Linux has it
        return None
    name = target.socket.getsockopt(socket.SOL_SOCKET, number, 16)
    return os.fsdecode(name.rstrip(b"\0")) or None


def _check_interface(name: str, value: object) -> str | int | None:
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise TypeError(f"{name} must be a local address, interface name, index or None, not {describe_value(value)}")
    if value == "" or (isinstance(value, int) and value < 1):
        raise ValueError(f"{name} must be a local address, interface name or index from 1, not {value!r}")
    return value


def _write_multicast_interface(target: Target, value: str | int | None) -> None:
    index = 0 if value is None else find_interface(value, "multicast_interface").index
    source = socket.inet_aton(value) if isinstance(value, str) and is_literal(value, socket.AF_INET) else bytes(4)
    places = target.places((socket.IPPROTO_IP, socket.IP_MULTICAST_IF), (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF))
    for level, number in places:
        # struct ip_mreqn (ip(7)) for IPv4, a plain index for IPv6 (RFC 3493, 5.2).
        ip_mreqn = bytes(4) + source + index.to_bytes(4, byteorder)
        target.socket.setsockopt(level, number, ip_mreqn if level == socket.IPPROTO_IP else index)
    target.multicast_interface = value


def _read_multicast_interface(target: Target) -> str | int | None:
    return target.multicast_interface


_MTU_DISCOVERY: Final = ("dont", "want", "do", "probe")
"""By their numbers in the kernel: IP_PMTUDISC_DONT, _WANT, _DO, _PROBE (ip(7))."""

MTUDiscovery: TypeAlias = Literal["dont", "want", "do", "probe"]
"""How a socket goes about the MTU of a path."""


def _mtu_discovery_places(target: Target) -> tuple[Place, ...]:
    if not _system.capabilities_of(target.socket).path_mtu:
        raise OSError(errno.ENOTSUP, "this platform has no mtu_discovery for sockets")
    return target.places((_IP, _system.IP_MTU_DISCOVER), (_IPV6, _system.IPV6_MTU_DISCOVER))


def _write_mtu_discovery(target: Target, value: str) -> None:
    for place in _mtu_discovery_places(target):
        target.socket.setsockopt(*place, _MTU_DISCOVERY.index(value))


def _read_mtu_discovery(target: Target) -> str:
    number = target.socket.getsockopt(*_mtu_discovery_places(target)[0])
    # Beyond these are IP_PMTUDISC_INTERFACE and _OMIT, which differ from _DONT in what they trust.
    return _MTU_DISCOVERY[number] if number < len(_MTU_DISCOVERY) else "dont"


_IP, _IPV6, _SOCKET = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
_BROADCAST: Final = (_SOCKET, socket.SO_BROADCAST)

OPTIONS: Final[dict[str, Option[Any]]] = {
    "broadcast": _switch(_BROADCAST, _BROADCAST),
    "ttl": _integer(1, 255, (_IP, socket.IP_TTL), (_IPV6, socket.IPV6_UNICAST_HOPS)),
    "dscp": _traffic_class_bits(2, 6, 63),
    "ecn": _traffic_class_bits(0, 2, 2),
    "multicast_ttl": _integer(0, 255, (_IP, socket.IP_MULTICAST_TTL), (_IPV6, socket.IPV6_MULTICAST_HOPS)),
    "multicast_loopback": _switch((_IP, socket.IP_MULTICAST_LOOP), (_IPV6, socket.IPV6_MULTICAST_LOOP)),
    "multicast_interface": Option(_check_interface, _write_multicast_interface, _read_multicast_interface),
    "device": Option(_check_device, _write_device, _read_device),
    "mtu_discovery": Option(
        lambda name, value: check_choice(name, value, _MTU_DISCOVERY), _write_mtu_discovery, _read_mtu_discovery
    ),
    "receive_buffer_size": _buffer_size(socket.SO_RCVBUF),
    "send_buffer_size": _buffer_size(socket.SO_SNDBUF),
}
"""Every option that has a property, by name, in the order in which they are written at creation."""


def check_option(name: str, value: object) -> Any:
    """Return ``value`` if the option ``name`` takes it; raise what says why not otherwise."""
    return OPTIONS[name].check(name, value)


def write_option(target: Target, name: str, value: object) -> None:
    """Check ``value`` and write it to the kernel."""
    checked = check_option(name, value)
    option = _option_of(target, name)
    try:
        option.write(target, checked)
    except OSError as error:
        raise annotated(error, f"set {name} to {value!r}", None) from None


def read_option(target: Target, name: str) -> Any:
    """Read the option ``name`` from the kernel."""
    return _option_of(target, name).read(target)


def _option_of(target: Target, name: str) -> Option[Any]:
    option = OPTIONS[name]
    if option.is_internets:
        target.family.check_internet(name)
    return option
