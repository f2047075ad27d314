"""Addresses: the source of a received datagram and the destination of one to send."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self, TypeAlias, cast

from .arguments import check_integer, describe_value, plain_string

new_tuple: Callable[..., Any] = tuple.__new__
"""Creates a named tuple without its constructor, which is Python code: a call per datagram would cost 0.3 us."""


class Address(NamedTuple):
    """An IP address and a UDP port, of either family.

    A named tuple, equal to the plain ``(host, port)`` and with the same hash, so either may be passed wherever an
    address is taken. A scoped IPv6 address has its zone in the host (RFC 4007, 11) and can be sent to as it is. ``str``
    formats it, :meth:`parse` reads that back::

        >>> from trio_dgram import Address
        >>> print(Address("fe80::1%eth0", 5353))
        [fe80::1%eth0]:5353
        >>> Address.parse("127.0.0.1:53")
        Address(host='127.0.0.1', port=53)

    Attributes:
      host (str): a numeric IPv4 or IPv6 address, the latter with its ``%zone`` if it has one; or a name to resolve.
      port (int): the UDP port, 0 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that ``text`` names: the inverse of ``str``.

        Args:
          text: ``host:port`` or ``[host]:port``; an IPv6 address needs the brackets. The host may be a name.

        Raises:
          TypeError: if ``text`` is not a string.
          ValueError: if it is not of that form, or the port is not from 0 to 65535.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {describe_value(text)}")
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not colon or not port.isascii() or not port.isdigit() or "[" in host or "]" in host:
            raise ValueError(f"text must be 'host:port' or '[host]:port', not {text!r}")
        if ":" in host and not bracketed:
            raise ValueError(f"text must have an IPv6 address in brackets, '[{host}]:{port}', not {text!r}")
        return Address(check_host("the host of text", host), check_port("the port of text", int(port[:6])))

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of the host.

        Raises:
          ValueError: if the host is a name, which has no family before it is resolved.
        """
        host = self.host.partition("%")[0]
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            raise ValueError(f"{self.host!r} is not a numeric address: resolve it first") from None
        return socket.AF_INET if version == 4 else socket.AF_INET6

    def __repr__(self) -> str:
        return f"Address(host={self.host!r}, port={self.port!r})"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ReceivedAddress(Address):
    """An address that the network chose: the source of a received datagram.

    Its class is how ``send`` distinguishes it from an address that the program chose, whose errors it raises. In
    every other respect it is an :class:`Address`.
    """

    __slots__ = ()

    def _replace(self, **changes: Any) -> Address:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        # The program chose the changed address.
        chosen: Address = new_tuple(UnixAddress if isinstance(self, UnixAddress) else Address, self)
        return chosen._replace(**changes)


class ReceivedIPv4Address(ReceivedAddress):
    """A source that an IPv4 socket can pass back to the kernel unchanged."""

    __slots__ = ()


class ReceivedIPv6Address(ReceivedAddress):
    """A source without a zone that an IPv6 socket can pass back to the kernel unchanged."""

    __slots__ = ()


class ScopedReceivedAddress(ReceivedAddress):
    """A source with a zone: the kernel takes the zone as an index, apart from the host."""

    __slots__ = ()


class ProxiedAddress(ReceivedAddress):
    """The address of a client behind a proxy, as the PROXY protocol header of its datagram names it.

    It equals, and hashes as, the plain ``(host, port)`` of the client, whatever its proxy. Sending to it sends to the
    proxy, without a header: to the port from which that proxy last forwarded a datagram of that client. ``str``,
    ``tuple`` and ``_replace`` return the client's address alone, and ``Address(*address)`` is sent to directly::

        >>> from trio_dgram import Address, ProxiedAddress
        >>> client = ProxiedAddress("192.0.2.1", 40000, Address("10.0.0.5", 5300))
        >>> client == ("192.0.2.1", 40000), str(client), str(client.proxy)
        (True, '192.0.2.1:40000', '10.0.0.5:5300')

    Args:
      host: the numeric address of the client.
      port: the UDP port of the client, 0 to 65535.
      proxy: the ``(host, port)`` of the proxy, a numeric address.

    Raises:
      TypeError, ValueError: if an argument is not that.
    """

    # Without __slots__: a tuple has no place for another attribute.
    _proxy: Address

    def __new__(cls, host: str, port: int, proxy: tuple[str, int]) -> Self:
        """Create the address of a client behind ``proxy``."""
        client = check_pair("the client", (host, port), lowest_port=0)
        checked = check_pair("proxy", proxy)
        for name, address in (("the client", client), ("proxy", checked)):
            if not _is_numeric(address.host):
                raise ValueError(f"{name} must have a numeric host, not {address.host!r}")
        made: Self = tuple.__new__(cls, client)
        made.__dict__["_proxy"] = checked
        return made

    def __getnewargs__(self) -> tuple[str, int, Address]:
        return (self.host, self.port, self.proxy)

    @property
    def proxy(self) -> Address:
        """The transport address of the client's datagrams: the proxy's."""
        return self._proxy


def behind_proxy(client: Address, proxy: Address) -> ProxiedAddress:
    """Return the address of ``client`` behind ``proxy``, unchecked: it is created per datagram."""
    made: ProxiedAddress = new_tuple(ProxiedAddress, client)
    made.__dict__["_proxy"] = proxy
    return made


def transport_address(address: Address) -> Address:
    """Return the source of the datagrams of ``address``: the proxy's address, if there is a proxy."""
    return address.proxy if isinstance(address, ProxiedAddress) else address


def peer_key(address: Address) -> object:
    """Return what identifies a peer: its address and, if it is behind a proxy, the proxy's host.

    A client's port at the proxy changes, and two proxies may have clients with equal addresses.
    """
    return (address, address.proxy.host) if type(address) is ProxiedAddress else address


_KERNEL_SUPPLIED: Final = frozenset({ReceivedIPv4Address, ReceivedIPv6Address, ScopedReceivedAddress, ProxiedAddress})
"""The classes whose instances need no check before they are sent to."""


_LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103
"""In bytes, without the terminating null character (unix(7))."""

UnixPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
"""The name of a ``"unix"`` socket: a path or, with a leading null character, an abstract name (unix(7))."""


class UnixAddress(Address):
    """The address of a ``"unix"`` socket: the path of a file, or an abstract name, which begins with a null character
    (unix(7)). An empty path is the address of an unnamed socket.

    It is an :class:`Address` whose host is the path and whose port is 0, so that it fits wherever an address is taken::

        >>> from trio_dgram import UnixAddress
        >>> UnixAddress(b"/run/log").path
        '/run/log'

    Args:
      path: a path or abstract name; bytes are decoded by ``os.fsdecode``.
    """

    __slots__ = ()

    def __new__(cls, path: UnixPath) -> Self:
        """Create the address of ``path``; bytes are decoded by ``os.fsdecode``."""
        return tuple.__new__(cls, (_check_path("path", path), 0))

    def __getnewargs__(self) -> tuple[str]:
        return (self.host,)

    @classmethod
    def parse(cls, text: str) -> UnixAddress:
        """Return the address that ``text`` names: the inverse of ``str``.

        Args:
          text: a path or, with a leading ``@``, an abstract name.

        Raises:
          TypeError: if ``text`` is not a string.
          ValueError: if it is not a path.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {describe_value(text)}")
        return check_unix_path("text", f"\0{text[1:]}" if text.startswith("@") else text)

    @property
    def path(self) -> str:
        """The path or abstract name, as ``os.fsdecode`` returns it."""
        return self.host

    @property
    def family(self) -> socket.AddressFamily:
        """``socket.AF_UNIX``."""
        return socket.AF_UNIX

    def __repr__(self) -> str:
        return f"UnixAddress({self.host!r})"

    def __str__(self) -> str:
        return format_address(self)


class ReceivedUnixAddress(UnixAddress, ReceivedAddress):  # type: ignore[misc]
    """The address of the ``"unix"`` socket that sent a datagram."""

    __slots__ = ()


def as_received(address: Address) -> ReceivedAddress:
    """Return ``address`` as one that the network chose."""
    kind = ReceivedUnixAddress if isinstance(address, UnixAddress) else ReceivedAddress
    received: ReceivedAddress = new_tuple(kind, address)
    return received


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_link_local(host: str) -> bool:
    """Whether a numeric address is valid on its link only (RFC 3927, RFC 4291)."""
    return host.startswith(("fe80:", "169.254."))


def is_mapped(host: str) -> bool:
    """Whether ``host``, as the kernel formats it, is an IPv4-mapped address (RFC 4291, 2.5.5.2)."""
    # Without a dot it is another address, such as an IPv4-translated one (RFC 2765).
    return host.startswith("::ffff:") and "." in host


def is_ipv4_group(host: str) -> bool:
    """Whether ``host`` is an IPv4 multicast address, perhaps IPv4-mapped (RFC 5771)."""
    first, dot, _ = unmapped(host).partition(".")
    return bool(dot) and first.isdigit() and 224 <= int(first) <= 239


def unmapped(host: str) -> str:
    """Return the IPv4 address that the IPv4-mapped ``host`` holds, any other host unchanged (RFC 4291, 2.5.5.2)."""
    if ":" not in host:
        return host
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


def check_unix_address(name: str, value: object) -> UnixAddress:
    """Return ``value`` as the address of a ``"unix"`` socket that can be sent to."""
    # An unnamed sender has an empty path; that it cannot be answered is not an argument error of the program.
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
    path = plain_string(os.fsdecode(value))
    if "\0" in path[1:] and not path.startswith("\0"):
        raise ValueError(f"{name} must not contain a null character except as its first one, not {path!r}")
    longest = _LONGEST_PATH + path.startswith("\0")
    if len(os.fsencode(path)) > longest:
        raise ValueError(f"{name} must be at most {longest} bytes long, not {path!r}")
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
    host = plain_string(value)
    if "\0" in host:
        raise ValueError(f"{name} must not contain a null character, not {host!r}")
    return host


def check_pair(name: str, value: object, *, lowest_port: int = 1) -> Address:
    """Return ``value`` as an :class:`Address` if it is a ``(host, port)`` tuple."""
    # A subclass may override __len__ and __iter__.
    items = tuple.__getitem__(value, slice(None)) if isinstance(value, tuple) else ()
    if tuple.__len__(items) != 2:
        raise TypeError(f"{name} must be a (host, port) tuple, not {describe_value(value)}")
    host, port = tuple.__iter__(items)
    # Datagram.reply marks the address of a datagram that the program made.
    kind = ReceivedAddress if isinstance(value, ReceivedAddress) else Address
    checked = check_host(f"the host of {name}", host), check_port(f"the port of {name}", port, lowest=lowest_port)
    return cast("Address", new_tuple(kind, checked))


def check_address(name: str, value: object) -> Address:
    """Return ``value`` as an :class:`Address` if it is a ``(host, port)`` tuple that can be sent to."""
    return cast("Address", value) if type(value) in _KERNEL_SUPPLIED else check_pair(name, value)


def format_address(address: Address) -> str:
    """Return ``address`` for a message: ``host:port``, ``[host]:port``, without a port of 0."""
    if isinstance(address, UnixAddress):
        return address.host.replace("\0", "@") or "an unnamed socket"
    return str(address) if address.port else address.host
