"""Routes: how the datagrams of a socket to one destination are sent."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

import attrs

from ..._values.addresses import Address
from .._values.places import INTERFACES, LOOPBACK_INDEX, Kind, is_ipv6, kind_of, refusal
from .._values.records import IPV4_HEADER, IPV6_HEADER, UDP_HEADER
from .control import Instructions
from .machine_protocol import Machine
from .settings import (
    HOP_LIMIT,
    MTU_DISCOVERY,
    MULTICAST_HOP_LIMIT,
    MULTICAST_LOOPBACK,
    TRAFFIC_CLASS,
    Settings,
)
from .socket_errors import DISCOVER_PROBE

_HEADERS: Final = {False: IPV4_HEADER + UDP_HEADER, True: IPV6_HEADER + UDP_HEADER}
"""The bytes of the headers of a datagram, by whether it is IPv6."""


@attrs.frozen(kw_only=True)
class Route:
    """How the datagrams of a socket to one destination are sent, as the options and the host are."""

    destination: Address
    source: Address
    index: int
    """The interface; 0 for that of the destination."""
    hop_limit: int
    traffic_class: int
    mtu: int
    """The size to which datagrams are fragmented, in bytes."""
    largest: int
    """The largest payload that is not fragmented, in bytes."""
    largest_segment: int
    """The largest segment (UDP_SEGMENT), in bytes."""
    discovery: int
    """The path MTU discovery (IP_MTU_DISCOVER)."""
    loops: bool
    """Whether this host's sockets receive them, too, if they are multicast or broadcast."""
    leaves: bool
    """Whether they are for another host alone."""


def find_route(
    machine: Machine,
    settings: Settings,
    local: str,
    destination: Address,
    instructions: Instructions,
    bind: Callable[[], int],
) -> Route:
    """Return the route of a datagram.

    Args:
      machine: the host.
      settings: the options of the socket.
      local: the local address of the socket.
      destination: the destination.
      instructions: the options of the datagram.
      bind: binds the socket if it is not bound, and returns its port; called once nothing forbids the datagram.

    Raises:
      OSError: the errno of Linux if the datagram cannot be sent.
    """
    host = destination.host
    ipv6 = is_ipv6(host)
    kind = machine.kind_of(host)
    if kind == "broadcast" and not settings.is_on(socket.SOL_SOCKET, socket.SO_BROADCAST):
        raise refusal(errno.EACCES)
    index = _outgoing(settings, kind, instructions)
    source = instructions.source or (local if machine.kind_of(local) in ("unicast", "loopback") else "")
    if instructions.source is not None and not machine.owns(instructions.source):
        raise refusal(errno.EINVAL if ipv6 else errno.ENETUNREACH)
    check_leaves_loopback(machine, source, host, kind)
    if not source:
        source = machine.own_address(host) if index != LOOPBACK_INDEX or ipv6 else "127.0.0.1"
    port = bind()
    mtu = path_mtu = machine.path_mtu(host)
    discovery = settings[MTU_DISCOVERY[ipv6]]
    if discovery == DISCOVER_PROBE:
        mtu = max(mtu, machine.interface_mtu(host))
    hop_limit, traffic_class = instructions.hop_limit, instructions.traffic_class
    if hop_limit is None:
        hop_limit = settings[(MULTICAST_HOP_LIMIT if kind == "group" else HOP_LIMIT)[ipv6]]
    if traffic_class is None:
        traffic_class = settings[TRAFFIC_CLASS[ipv6]]
    return Route(
        destination=destination,
        source=Address(source, port),
        index=index,
        hop_limit=hop_limit,
        traffic_class=traffic_class,
        mtu=mtu,
        largest=mtu - _HEADERS[ipv6],
        largest_segment=path_mtu - _HEADERS[ipv6],
        discovery=discovery,
        loops=kind == "broadcast" or bool(settings[MULTICAST_LOOPBACK[ipv6]]),
        leaves=kind == "unicast" and not machine.owns(host) and index != LOOPBACK_INDEX,
    )


def check_leaves_loopback(machine: Machine, source: str, host: str, kind: Kind) -> None:
    """Raise EINVAL if a loopback address would leave this machine; Linux checks IPv4 only."""
    is_loopback = source != "" and not is_ipv6(source) and kind_of(source) == "loopback"
    if is_loopback and kind == "unicast" and not machine.owns(host):
        raise refusal(errno.EINVAL)


def _outgoing(settings: Settings, kind: Kind, instructions: Instructions) -> int:
    index = instructions.index
    if not index and settings.device:
        index = next(number for number, name in INTERFACES.items() if name == settings.device)
    if not index and kind == "group":
        index = settings.multicast_index
    if index and index not in INTERFACES:
        raise refusal(errno.ENODEV)
    return index
