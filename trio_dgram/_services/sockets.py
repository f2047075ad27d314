"""The sockets of services, which live in no nursery: a listener or a channel closes them."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import attrs
import trio

from .._codecs.families import UDP6, is_unspecified
from .._socket.config import SocketOptions, check_options
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._socket.reply_address import enable_reply_address
from .._values.addresses import Address
from .._values.arguments import describe_value
from .._values.construction import create
from .._values.errors import AlreadyConnectedError

_REPORTED_BY_NETWORK: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.EACCES,
        errno.EPERM,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EMSGSIZE,
    }
)
"""The errnos of ICMP errors: the socket can still receive."""


@defer_interrupts
class _NoNursery:
    """The owner of a socket that its listener or its channels close."""

    def start_background(self, _async_fn: Callable[..., Awaitable[object]], /, *_args: Any) -> None:
        """Never called: such a socket has no event channels."""
        raise AssertionError

    def state_changed(self, socket: Any, /) -> None:
        """Nothing depends on the state."""


@trio.lowlevel.enable_ki_protection
def make_socket(type_: str, options: SocketOptions) -> DatagramSocket:
    """Create a socket that lives in no nursery; a udp6 one receives no IPv4 datagrams unless ``options`` enable it."""
    given: Any = {"ipv6_only": True, **options}
    if type_ != UDP6.type:
        del given["ipv6_only"]
    config = attrs.evolve(check_options(type_, given), ipv6_only_named="ipv6_only" in options)
    return create(DatagramSocket, config, _NoNursery())


@trio.lowlevel.enable_ki_protection
async def bind_socket(type_: str, local: tuple[Any, ...], options: SocketOptions) -> DatagramSocket:
    """Create a socket and bind it to ``local``, the arguments of ``bind``; it is closed if that fails."""
    sock = make_socket(type_, options)
    try:
        await sock.bind(*local)
    except BaseException:
        sock.close()
        raise
    return sock


def listenable_address(socket: DatagramSocket) -> Address:
    """Return the local address of a socket that a listener can use, or raise what is wrong with the socket.

    Raises:
      TypeError: if it is no :class:`DatagramSocket`.
      NotBoundError: if it is not bound.
      AlreadyConnectedError: if it is connected.
      trio.ClosedResourceError: if it is closed.
    """
    if not isinstance(cast("object", socket), DatagramSocket):
        raise TypeError(f"socket must be a DatagramSocket, not {describe_value(socket)}")
    address = socket.address
    if socket._association.peer is not None:  # noqa: SLF001 -- the socket is the layer below
        raise AlreadyConnectedError("socket must not be connected: a listener receives from many peers")
    return address


def answer_from_asked_address(socket: DatagramSocket) -> None:
    """Enable the report of local addresses on a wildcard address. A socket that is bound to one address has no other
    to answer from, so the report would only cost time."""
    if is_unspecified(socket.address.host):
        enable_reply_address(socket)


def is_reported_by_network(error: Exception) -> bool:
    """Whether an error of receiving was reported by the network: the socket can still receive."""
    return isinstance(error, OSError) and error.errno in _REPORTED_BY_NETWORK
