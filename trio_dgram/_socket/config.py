"""What a socket is made with: its keyword options, checked before any descriptor exists."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final, TypedDict

import attrs
import trio

from .._codecs.families import FAMILIES, UDP6, Family, check_type
from .._kernel.awaited import AwaitedSocket, KernelSocket
from .._kernel.descriptor import Kernel
from .._kernel.options import OPTIONS, MTUDiscovery, check_option, write_option
from .._kernel.system_socket import SharedSocket, SystemSocket, share
from .._values.arguments import check_bool, describe_value
from .._values.block_lists import BlockListEntry, IPNetwork, check_block_list
from .._values.errors import annotated
from .resolution import Lookup


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
    mtu_discovery: MTUDiscovery
    """IP_MTU_DISCOVER: ``"dont"``, ``"want"``, ``"do"`` or ``"probe"``."""
    lookup: Lookup | None
    """Resolves names instead of Trio's resolver: ``async (host, port, family) -> Address``."""
    receive_block_list: Iterable[BlockListEntry]
    """Addresses and networks whose datagrams are not received, but counted as filtered."""
    send_block_list: Iterable[BlockListEntry]
    """Addresses and networks that nothing is sent to."""
    packet_info: bool
    """Whether received datagrams bring their :class:`PacketInfo`. Default: False."""
    icmp_errors: bool
    """IP_RECVERR: whether what ICMP says about earlier datagrams is reported as ``Failure(PeerUnreachable)``.
    Default: False. Linux only: OSError(ENOTSUP) elsewhere."""
    offload: bool
    """Whether to use receive and send offload where the system has it. Default: True. ``False`` makes
    ``dropped_by_kernel`` exact."""


@attrs.frozen(kw_only=True)
class Creation:
    """The checked form of :class:`SocketOptions`."""

    family: Family
    adopted: SharedSocket | None
    """The descriptor to run on, where there is one already."""
    reuse_address: bool
    reuse_port: bool
    ipv6_only: bool
    packet_info: bool
    icmp_errors: bool
    offload: bool
    lookup: Lookup | None
    receive_block_list: tuple[IPNetwork, ...]
    send_block_list: tuple[IPNetwork, ...]
    written: dict[str, Any]
    """The options that are to be written to the kernel."""

    def make(self) -> Kernel:
        """Return the descriptor, with every option set; nothing is left of one that was made if one is refused."""
        if self.adopted is not None:
            return self._set_up(self.adopted)
        sock = _make_socket(self.family)
        try:
            return self._set_up(sock)
        except BaseException:
            sock.close()
            raise

    def _set_up(self, sock: KernelSocket) -> Kernel:
        dual_stack = self.family is UDP6 and not self.ipv6_only
        kernel = Kernel(sock, self.family, dual_stack=dual_stack)
        if self.offload:
            kernel.offload()
        if self.adopted is None:
            kernel.make_own(ipv6_only=self.ipv6_only)
        else:
            kernel.adopt()
        if self.packet_info:
            kernel.inform()
        if self.icmp_errors:
            kernel.tell_errors()
        if self.reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.reuse_port and hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for name, value in self.written.items():
            write_option(kernel.options, name, value)
        return kernel


def check_creation(type_: object, options: SocketOptions, adopted: SharedSocket | None = None) -> Creation:
    """Return what ``create_socket(type, **options)`` asks for, or raise what is wrong with it."""
    family = check_type(type_)
    rest: dict[str, Any] = dict(options)
    reuse_address = check_bool("reuse_address", rest.pop("reuse_address", False))
    reuse_port = check_bool("reuse_port", rest.pop("reuse_port", False))
    ipv6_only = check_bool("ipv6_only", rest.pop("ipv6_only", False))
    packet_info = check_bool("packet_info", rest.pop("packet_info", False))
    icmp_errors = check_bool("icmp_errors", rest.pop("icmp_errors", False))
    offload = check_bool("offload", rest.pop("offload", True))
    lookup: Any = rest.pop("lookup", None)
    _check_lookup(lookup)
    receive_block_list = check_block_list("receive_block_list", rest.pop("receive_block_list", ()))
    send_block_list = check_block_list("send_block_list", rest.pop("send_block_list", ()))
    written = {name: check_option(name, rest.pop(name)) for name in OPTIONS if name in rest}
    if rest:
        raise TypeError(f"there is no socket option {', '.join(map(repr, rest))}")
    if ipv6_only and family is not UDP6:
        raise ValueError(f"ipv6_only is for udp6 sockets, not for {family.type}")
    if not family.is_internet:
        for name, value in options.items():
            if OPTIONS[name].is_internets if name in OPTIONS else value and name not in _EVERY_SOCKETS:
                raise ValueError(f"{name} is for udp4 and udp6 sockets, not for {family.type}")
    if adopted is not None and family is UDP6:
        ipv6_only = bool(adopted.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    return Creation(
        family=family,
        adopted=adopted,
        reuse_address=reuse_address,
        reuse_port=reuse_port,
        ipv6_only=ipv6_only,
        packet_info=packet_info,
        icmp_errors=icmp_errors,
        offload=offload,
        lookup=lookup,
        receive_block_list=receive_block_list,
        send_block_list=send_block_list,
        written=written,
    )


_EVERY_SOCKETS: Final = frozenset({"packet_info", "offload"})
"""Keywords besides those in ``OPTIONS`` that are not for the internet's sockets alone."""


@contextmanager
def adopting(value: object, options: SocketOptions) -> Generator[Creation]:
    """Check that ``value`` is a datagram socket that can be adopted; it is once the block has made a socket of it.

    What raises in the block leaves ``value`` as it was, and its owner's.
    """
    if isinstance(value, socket.socket):
        descriptor = value.fileno()
    elif isinstance(value, int) and not isinstance(value, bool):
        descriptor = value
    else:
        raise TypeError(f"sock_or_fd must be a socket.socket or a descriptor, not {describe_value(value)}")
    if "ipv6_only" in options:
        raise ValueError("ipv6_only is decided when a socket is made, and an adopted one has been")
    try:
        shared = share(descriptor)
    except OSError as error:
        raise annotated(error, "adopt_socket", descriptor) from None
    try:
        yield check_creation(_type_of(shared), options, shared)
    except BaseException:
        shared.detach()
        raise
    if isinstance(value, socket.socket):
        value.detach()


def _type_of(sock: socket.socket) -> str:
    if sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"sock_or_fd must be a datagram socket, not one of type {sock.type!r}")
    for family in FAMILIES.values():
        # Sockets for ICMP are datagram sockets, too.
        if sock.family == family.family and (not family.is_internet or sock.proto in (0, socket.IPPROTO_UDP)):
            return family.type
    raise ValueError(f"sock_or_fd must be a UDP or AF_UNIX socket, not one of {sock.family!r}, protocol {sock.proto}")


def _check_lookup(value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"lookup must be an async function, not {describe_value(value)}")


def _make_socket(family: Family) -> KernelSocket:
    # Trio has no other public way to ask for the factory that a program or a test has installed.
    factory = trio.socket.set_custom_socket_factory(None)
    trio.socket.set_custom_socket_factory(factory)
    if factory is None:
        sock = SystemSocket(family.family, socket.SOCK_DGRAM)
        sock.settimeout(0)
        return sock
    made: Any = factory.socket(family.family, socket.SOCK_DGRAM, 0)
    if not hasattr(made, "kernel_socket"):
        return AwaitedSocket(made)
    kernel_socket: SystemSocket = made.kernel_socket()
    return kernel_socket
