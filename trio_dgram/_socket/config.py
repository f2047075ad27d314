"""The configuration of a socket: its keyword options, checked before any descriptor exists.

Each option is declared once: those that the kernel keeps in ``_kernel/options.py``, all others in
:class:`SocketConfig`. The documentation of :class:`SocketOptions` is composed of both.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from textwrap import fill
from types import MappingProxyType
from typing import Any, Final, TypedDict, cast

import attrs

from .._codecs.families import FAMILIES, UDP6, Family, check_type
from .._codecs.proxy_header import ALL_VERSIONS
from .._kernel.options import OPTIONS, MTUDiscovery, check_option
from .._kernel.system_socket import SharedSocket, share
from .._values.arguments import check_bool, check_names, describe_value
from .._values.block_lists import BlockListEntry, IPNetwork, check_block_list
from .._values.errors import with_context
from .resolution import Lookup


def _check_lookup(name: str, value: Any) -> Lookup | None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be an async function, not {describe_value(value)}")
    return cast("Lookup | None", value)


def _check_versions(name: str, value: Any) -> frozenset[int]:
    if not isinstance(value, set | frozenset):
        raise TypeError(f"{name} must be a set of 1 and 2, not {describe_value(value)}")
    given: frozenset[object] = frozenset(cast("set[object]", value))
    if not given or not given <= ALL_VERSIONS or any(type(each) is not int for each in given):
        raise ValueError(f"{name} must be a set of 1 and 2, not {describe_value(value)}")
    return cast("frozenset[int]", given)


def _option(
    doc: str, check: Callable[[str, object], Any], *, default: Any, type_: str = "bool", internet_only: bool = True
) -> Any:
    metadata = {"type": type_, "doc": doc, "check": check, "internet_only": internet_only}
    return attrs.field(default=default, metadata=metadata)


_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
"""One for all sockets: an empty dictionary takes 64 bytes."""


@attrs.frozen(kw_only=True)
class SocketConfig:
    """The checked options of one socket."""

    family: Family
    adopted: SharedSocket | None = None
    """The descriptor to run on, if it exists already."""
    kernel_options: Mapping[str, Any] = _NO_OPTIONS
    """The options that the kernel keeps and that the program named, in the order in which to write them."""
    ipv6_only_named: bool = False
    """Whether the program named ``ipv6_only``."""

    reuse_address: bool = _option(
        "SO_REUSEADDR: bind even if another socket is bound to the address.", check_bool, default=False
    )
    reuse_port: bool = _option(
        "SO_REUSEPORT: share the port with other sockets that have this option; the kernel distributes datagrams by "
        "address. ``bind`` raises OSError(ENOTSUP) where the system has no such option.",
        check_bool,
        default=False,
    )
    ipv6_only: bool = _option(
        "IPV6_V6ONLY: do not receive from IPv4, which leaves the port free there. Only for udp6.",
        check_bool,
        default=False,
    )
    lookup: Lookup | None = _option(  # noqa: RUF009 -- an attrs field
        "Resolves a host and a port to an address of the family, instead of Trio's resolver.",
        _check_lookup,
        default=None,
        type_="async (str, int, socket.AddressFamily) -> Address",
    )
    receive_block_list: tuple[IPNetwork, ...] = _option(
        "Drop datagrams from these addresses and networks (text or ipaddress objects; IPv4-mapped addresses match as "
        "IPv4) and count them as filtered.",
        check_block_list,
        default=(),
        type_="iterable of addresses and networks",
    )
    send_block_list: tuple[IPNetwork, ...] = _option(
        "Refuse to send or connect to these addresses and networks with AddressBlockedError.",
        check_block_list,
        default=(),
        type_="iterable of addresses and networks",
    )
    proxy_protocol: tuple[IPNetwork, ...] = _option(
        "Take the address of the client from the PROXY protocol header that each datagram from these addresses and "
        "networks must begin with (see ProxiedAddress). Such a socket cannot be connected.",
        check_block_list,
        default=(),
        type_="iterable of addresses and networks",
    )
    proxy_versions: frozenset[int] = _option(
        "The versions of the PROXY protocol to accept.", _check_versions, default=ALL_VERSIONS, type_="set of 1 and 2"
    )
    proxy_sessions: bool = _option(
        "A PROXY protocol header holds for all datagrams that follow it from the same address and port of the proxy, "
        "until 60 seconds pass without one; a header alone is not delivered.",
        check_bool,
        default=False,
    )
    proxy_stream_ok: bool = _option(
        "Accept PROXY protocol headers of version 2 whose transport is STREAM.", check_bool, default=False
    )
    packet_info: bool = _option(
        "Attach a PacketInfo to each received datagram.", check_bool, default=False, internet_only=False
    )
    icmp_errors: bool = _option(
        "IP_RECVERR: report ICMP errors about earlier datagrams as Failure(PeerUnreachable). OSError(ENOTSUP) where "
        "the system has no such option.",
        check_bool,
        default=False,
    )
    offload: bool = _option(
        "Use receive and send offload (UDP_GRO, UDP_SEGMENT) where the system has them. False makes "
        "``dropped_by_kernel`` exact.",
        check_bool,
        default=True,
        internet_only=False,
    )

    @property
    def has_port_alone(self) -> bool:
        """Whether no other socket can be bound to the same address and port."""
        return not (self.reuse_address or self.reuse_port or self.adopted is not None)


_OWN: Final = {field.name: field.metadata for field in attrs.fields(SocketConfig) if "check" in field.metadata}


class SocketOptions(TypedDict, total=False):
    """The keyword options of a socket. One that is left out has its default."""

    reuse_address: bool
    reuse_port: bool
    ipv6_only: bool
    broadcast: bool
    receive_buffer_size: int
    send_buffer_size: int
    ttl: int
    dscp: int
    ecn: int
    multicast_ttl: int
    multicast_loopback: bool
    multicast_interface: str | int | None
    device: str | None
    mtu_discovery: MTUDiscovery
    lookup: Lookup | None
    receive_block_list: Iterable[BlockListEntry]
    send_block_list: Iterable[BlockListEntry]
    proxy_protocol: Iterable[BlockListEntry]
    proxy_versions: AbstractSet[int]
    proxy_sessions: bool
    proxy_stream_ok: bool
    packet_info: bool
    icmp_errors: bool
    offload: bool


def _document() -> str:
    own = [
        f"  {name} ({option['type']}): {option['doc']} Default: {attrs.fields_dict(SocketConfig)[name].default!r}."
        for name, option in _OWN.items()
    ]
    kernel = [f"  {name} ({option.type}): {option.doc} Default: the system's." for name, option in OPTIONS.items()]
    attributes = [fill(line, 116, subsequent_indent="    ", break_on_hyphens=False) for line in (*own, *kernel)]
    return "\n".join([str(SocketOptions.__doc__), "", "Attributes:", *attributes])


SocketOptions.__doc__ = _document()


def check_options(type_: object, options: SocketOptions, adopted: SharedSocket | None = None) -> SocketConfig:
    """Return the configuration for ``create_socket(type, **options)``, or raise what is wrong with it."""
    family = check_type(type_)
    check_names("socket option", options, SocketOptions.__annotations__)
    given: dict[str, Any] = dict(options)
    own = {name: _OWN[name]["check"](name, given[name]) for name in _OWN if name in given}
    kernel_options = {name: check_option(name, given[name]) for name in OPTIONS if name in given}
    if own.get("ipv6_only") and family is not UDP6:
        raise ValueError(f"ipv6_only is for udp6 sockets, not for {family.type} sockets")
    if not family.is_internet:
        for name, value in given.items():
            internet_only = OPTIONS[name].internet_only if name in OPTIONS else value and _OWN[name]["internet_only"]
            if internet_only:
                raise ValueError(f"{name} is for udp4 and udp6 sockets, not for {family.type} sockets")
    if adopted is not None and own.get("proxy_protocol") and adopted.has_peer:
        raise ValueError("proxy_protocol is for sockets that are not connected")
    if adopted is not None and family is UDP6:
        own["ipv6_only"] = bool(adopted.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    named = "ipv6_only" in given
    return SocketConfig(
        family=family, adopted=adopted, kernel_options=kernel_options or _NO_OPTIONS, ipv6_only_named=named, **own
    )


def check_adoptable(value: object, options: SocketOptions) -> SocketConfig:
    """Return the configuration of the socket that ``adopt_socket(value, **options)`` makes, or raise what is wrong."""
    if isinstance(value, socket.socket):
        descriptor = value.fileno()
    elif isinstance(value, int) and not isinstance(value, bool):
        descriptor = value
    else:
        raise TypeError(f"sock_or_fd must be a socket.socket or a descriptor, not {describe_value(value)}")
    if "ipv6_only" in options:
        raise ValueError("ipv6_only cannot be set on an adopted socket")
    try:
        shared = share(descriptor)
    except OSError as error:
        raise with_context(error, "adopt_socket", descriptor) from None
    try:
        return check_options(_type_of(shared), options, shared)
    except BaseException:
        shared.detach()
        raise


def _type_of(sock: SharedSocket) -> str:
    if sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"sock_or_fd must be a datagram socket, not one of type {sock.type!r}")
    for family in FAMILIES.values():
        # ICMP sockets are datagram sockets as well.
        if sock.family == family.family and (not family.is_internet or sock.proto in (0, socket.IPPROTO_UDP)):
            return family.type
    raise ValueError(f"sock_or_fd must be a UDP or AF_UNIX socket, not one of {sock.family!r}, protocol {sock.proto}")
