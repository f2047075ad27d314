"""Addresses: who sent a datagram, and whom one is for."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self, TypeAlias, cast

from .arguments import check_integer, describe_value

new_tuple: Callable[..., Any] = tuple.__new__
"""Makes a named tuple without going through its constructor, which is written in Python: one is made per datagram."""


class Address(NamedTuple):
    """An IP address and a UDP port, of either family.

    A named tuple, equal to and hashed like the plain ``(host, port)``, so that one will do wherever an
    address is taken. A scoped IPv6 address carries its zone in the host (RFC 4007, 11), and sending to it
    works as it is::

        >>> from trio_dgram import Address
        >>> Address("fe80::1%eth0", 5353).family
        <AddressFamily.AF_INET6: 10>
    """

    host: str
    """A numeric IPv4 or IPv6 address, the latter with its ``%zone`` where it has one; or a name yet to be
    resolved."""

    port: int
    """The UDP port, 0 to 65535."""

    @property
    def family(self) -> socket.AddressFamily:
        """The address family that the host belongs to.

        Raises:
          ValueError: if the host is a name, which belongs to no family until it is resolved.
        """
        host = self.host.partition("%")[0]
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            raise ValueError(f"{self.host!r} is no numeric address: resolve it to learn its family") from None
        return socket.AF_INET if version == 4 else socket.AF_INET6

    def __repr__(self) -> str:
        return f"Address(host={self.host!r}, port={self.port!r})"


class ReceivedAddress(Address):
    """An address that the network chose: where a received datagram says that it came from.

    The kind is what lets ``send`` tell it from an address that the program chose, whose errors it raises.
    Everywhere else it is an :class:`Address` like any other.
    """

    __slots__ = ()

    def _replace(self, **changes: Any) -> Address:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        # What the program has changed, it has chosen.
        chosen: Address = new_tuple(UnixAddress if isinstance(self, UnixAddress) else Address, self)
        return chosen._replace(**changes)


class ReceivedIPv4Address(ReceivedAddress):
    """One that the kernel has written, and that sockets of its family take as it is."""

    __slots__ = ()


class ReceivedIPv6Address(ReceivedAddress):
    """One that the kernel has written, and that sockets of its family take as it is: without a zone."""

    __slots__ = ()


class ScopedReceivedAddress(ReceivedAddress):
    """One that the kernel has written, with a zone: it takes it in another form than it is written here."""

    __slots__ = ()


_WRITTEN_BY_THE_KERNEL: Final = frozenset({ReceivedIPv4Address, ReceivedIPv6Address, ScopedReceivedAddress})


_LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103
"""In bytes, without the null character that ends it (unix(7))."""

UnixPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
"""The name of a ``"unix"`` socket: a path or, with a null character first, an abstract name (unix(7))."""


class UnixAddress(Address):
    """The address of a ``"unix"`` socket: the path of a file, or an abstract name, which begins with a null
    character (unix(7)). An empty one is that of a socket without a name.

    It is an :class:`Address` whose host is the path and whose port is 0, so that it goes wherever one goes::

        >>> from trio_dgram import UnixAddress
        >>> UnixAddress(b"/run/log").path
        '/run/log'
    """

    __slots__ = ()

    def __new__(cls, path: UnixPath) -> Self:
        """Make the address of ``path``; bytes are decoded as ``os.fsdecode`` does it."""
        return tuple.__new__(cls, (_check_path("path", path), 0))

    def __getnewargs__(self) -> tuple[str]:
        return (self.host,)

    @property
    def path(self) -> str:
        """The path or abstract name, as ``os.fsdecode`` writes it."""
        return self.host

    @property
    def family(self) -> socket.AddressFamily:
        """``socket.AF_UNIX``."""
        return socket.AF_UNIX

    def __repr__(self) -> str:
        return f"UnixAddress({self.host!r})"


class ReceivedUnixAddress(UnixAddress, ReceivedAddress):  # type: ignore[misc]
    """The address of a ``"unix"`` socket that a datagram came from."""

    __slots__ = ()


def as_received(address: Address) -> ReceivedAddress:
    """Return ``address`` as one that the network chose."""
    kind = ReceivedUnixAddress if isinstance(address, UnixAddress) else ReceivedAddress
    received: ReceivedAddress = new_tuple(kind, address)
    return received


def is_link_local(host: str) -> bool:
    """Whether a numeric address means something on its link only (RFC 3927, RFC 4291)."""
    return host.startswith(("fe80:", "169.254."))


def check_unix_address(name: str, value: object) -> UnixAddress:
    """Return ``value`` as the address of a ``"unix"`` socket that can be sent to."""
    # What came from a socket without a name has an empty one: that it cannot be answered is not the program's mistake.
    return value if isinstance(value, ReceivedUnixAddress) else check_unix_path(name, value)


def check_unix_path(name: str, value: object) -> UnixAddress:
    """Return ``value`` as the address of a ``"unix"`` socket that can be bound."""
    address: UnixAddress = (
        value if isinstance(value, UnixAddress) else new_tuple(UnixAddress, (_check_path(name, value), 0))
    )
    if not address.host:
        raise ValueError(f"{name} must be a path or an abstract name, not an empty one")
    return address


def _check_path(name: str, value: object) -> str:
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"{name} must be a path (str, bytes or os.PathLike), not {describe_value(value)}")
    path = os.fsdecode(value)
    if "\0" in path[1:] and not path.startswith("\0"):
        raise ValueError(f"{name} must not contain a null character but as the first one: {path!r}")
    longest = _LONGEST_PATH + path.startswith("\0")
    if len(os.fsencode(path)) > longest:
        raise ValueError(f"{name} must be at most {longest} bytes long: {path!r}")
    return path


def check_port(name: str, value: object, *, lowest: int = 0) -> int:
    """Return ``value`` if it is a port from ``lowest`` to 65535."""
    return check_integer(name, value, lowest, 65535)


def check_host(name: str, value: object) -> str:
    """Return ``value`` if it is a host, ``""`` for ``None``."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string or None, not {describe_value(value)}")
    if "\0" in value:
        raise ValueError(f"{name} must not contain a null character: {value!r}")
    return value


def check_address(name: str, value: object) -> Address:
    """Return ``value`` as an :class:`Address` if it is a pair of a host and a port that can be sent to."""
    if type(value) in _WRITTEN_BY_THE_KERNEL:
        return cast("Address", value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} must be a (host, port) tuple, not {describe_value(value)}")
    host, port = value
    # The answer to a datagram that the program has made.
    kind = ReceivedAddress if isinstance(value, ReceivedAddress) else Address
    return kind(check_host(f"the host of {name}", host), check_port(f"the port of {name}", port, lowest=1))


def written(address: Address) -> str:
    """Return ``address`` as texts show it: ``host:port``, ``[host]:port``, without a port that is 0."""
    if isinstance(address, UnixAddress):
        return address.host.replace("\0", "@") or "a socket without a name"
    if not address.port:
        return address.host
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
