"""What a socket is made with: its keyword options, checked before any descriptor exists."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Any, TypedDict

import attrs
import trio

from ._arguments import check_bool, describe_value
from ._block_list import BlockListEntry, IPNetwork, check_block_list
from ._families import UDP6, Family, check_type
from ._kernel import Kernel
from ._options import OPTIONS, check_option, write_option
from ._resolution import Lookup
from ._system import SystemSocket


class SocketOptions(TypedDict, total=False):
    """The keyword options of a socket; what is left out keeps its default, or the system's."""

    reuse_address: bool
    """SO_REUSEADDR: bind even if another socket holds the address. Default: False."""
    reuse_port: bool
    """SO_REUSEPORT: share the port with others that ask for it, the kernel balancing the load by address.
    Default: False. ``bind`` raises ENOTSUP where the system has none."""
    ipv6_only: bool
    """IPV6_V6ONLY: leave IPv4 to other sockets. Default: False. Only for ``"udp6"``."""
    broadcast: bool
    """SO_BROADCAST: allow sending to broadcast addresses."""
    receive_buffer_size: int
    """SO_RCVBUF, in bytes; Linux doubles it and has bounds."""
    send_buffer_size: int
    """SO_SNDBUF, in bytes; Linux doubles it and has bounds."""
    ttl: int
    """The hop limit of unicast datagrams: 1 to 255 hops."""
    dscp: int
    """The Differentiated Services code point of what is sent: 0 to 63."""
    ecn: int
    """The ECN bits of what is sent: 0 to 2."""
    multicast_ttl: int
    """The hop limit of multicast datagrams: 0 to 255 hops."""
    multicast_loopback: bool
    """Whether this machine's members get the multicast datagrams that it sends."""
    multicast_interface: str | int | None
    """Where multicast datagrams leave: a local address, an interface's name or index."""
    device: str | None
    """SO_BINDTODEVICE: the one interface that datagrams come in and go out by."""
    lookup: Lookup | None
    """Resolves names instead of Trio's resolver: ``async (host, port, family) -> Address``."""
    receive_block_list: Iterable[BlockListEntry]
    """Addresses and networks whose datagrams are not received, but counted as filtered."""
    send_block_list: Iterable[BlockListEntry]
    """Addresses and networks that nothing is sent to."""
    offload: bool
    """Whether to use receive and send offload where the system has it. Default: True. ``False`` makes
    ``dropped_by_kernel`` exact."""


@attrs.frozen(kw_only=True)
class Creation:
    """The checked form of :class:`SocketOptions`."""

    family: Family
    reuse_address: bool
    reuse_port: bool
    ipv6_only: bool
    offload: bool
    lookup: Lookup | None
    receive_block_list: tuple[IPNetwork, ...]
    send_block_list: tuple[IPNetwork, ...]
    written: dict[str, Any]
    """The options that are to be written to the kernel."""

    def make(self) -> Kernel:
        """Make the descriptor, with every option set; nothing is left of it if one is refused."""
        sock = _make_socket(self.family)
        try:
            kernel = Kernel(sock, self.family, ipv6_only=self.ipv6_only, offload=self.offload)
            if self.reuse_address:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.reuse_port and hasattr(socket, "SO_REUSEPORT"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for name, value in self.written.items():
                write_option(kernel.options, name, value)
        except BaseException:
            sock.close()
            raise
        return kernel


def check_creation(type_: object, options: SocketOptions) -> Creation:
    """Return what ``create_socket(type, **options)`` asks for, or raise what is wrong with it."""
    family = check_type(type_)
    rest: dict[str, Any] = dict(options)
    reuse_address = check_bool("reuse_address", rest.pop("reuse_address", False))
    reuse_port = check_bool("reuse_port", rest.pop("reuse_port", False))
    ipv6_only = check_bool("ipv6_only", rest.pop("ipv6_only", False))
    offload = check_bool("offload", rest.pop("offload", True))
    if ipv6_only and family is not UDP6:
        raise ValueError(f"ipv6_only is for udp6 sockets, not for {family.type}")
    lookup: Any = rest.pop("lookup", None)
    _check_lookup(lookup)
    receive_block_list = check_block_list("receive_block_list", rest.pop("receive_block_list", ()))
    send_block_list = check_block_list("send_block_list", rest.pop("send_block_list", ()))
    written = {name: check_option(name, rest.pop(name)) for name in OPTIONS if name in rest}
    if rest:
        raise TypeError(f"there is no socket option {', '.join(map(repr, rest))}")
    return Creation(
        family=family,
        reuse_address=reuse_address,
        reuse_port=reuse_port,
        ipv6_only=ipv6_only,
        offload=offload,
        lookup=lookup,
        receive_block_list=receive_block_list,
        send_block_list=send_block_list,
        written=written,
    )


def _check_lookup(value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"lookup must be an async function, not {describe_value(value)}")


def _make_socket(family: Family) -> SystemSocket:
    # Trio has no other public way to ask for the factory that a program or a test has installed.
    factory = trio.socket.set_custom_socket_factory(None)
    trio.socket.set_custom_socket_factory(factory)
    if factory is None:
        sock = SystemSocket(family.family, socket.SOCK_DGRAM)
        sock.settimeout(0)
        return sock
    made: Any = factory.socket(family.family, socket.SOCK_DGRAM, 0)
    if not hasattr(made, "kernel_socket"):
        made.close()
        raise OSError(errno.ENOTSUP, "the sockets of the custom socket factory have no kernel_socket method to run on")
    kernel_socket: SystemSocket = made.kernel_socket()
    return kernel_socket
