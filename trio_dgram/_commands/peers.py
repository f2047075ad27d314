"""The peer of ``send``, ``ping`` and ``show --to``: its address, and the ICMP errors that name it."""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import cast

import trio

from .._codecs.families import SocketType
from .._kernel.capabilities import capabilities
from .._nursery import open_socket
from .._services.connecting import addresses_of, connect_next
from .._socket.config import SocketOptions
from .._socket.event_channel import EventChannel
from .._values.addresses import Address
from .._values.errors import PeerUnreachable
from .._values.events import Failure
from .command import CommandError, UsageError, explain, unresolved
from .console import Console


async def route_to(peer: Address, family: str | None = None) -> tuple[SocketType, Address]:
    """Return the first address of ``peer`` that has a route, and the type of socket to reach it.

    Args:
      peer: a host and a port.
      family: the type of socket to use, if only one will do.

    Raises:
      CommandError: if the name does not resolve, or has no address of the family.
      OSError: the kernel's error for the last address, if none has a route.
    """

    async def probe(type_: str, host: str, port: int) -> tuple[SocketType, Address]:
        # Connecting a UDP socket looks up the route and sends nothing.
        kind = cast("SocketType", type_)
        async with open_socket(kind, connect=(host, port), broadcast=True):
            return kind, Address(host, port)

    try:
        found = await addresses_of(peer.host, peer.port)
    except socket.gaierror as error:
        raise unresolved(peer.host, error) from None
    usable = deque((type_, host) for type_, host in found if family in (None, type_))
    if not usable:
        kind = UsageError if found[0][1] == peer.host else CommandError
        raise kind(f"{peer.host!r} has no {'IPv4' if family == 'udp4' else 'IPv6'} address")
    return await connect_next(usable, peer.port, probe)


def peer_options() -> SocketOptions:
    """Return the options of a socket for one peer, as far as this system has them."""
    has = capabilities()
    return {"broadcast": True, "icmp_errors": has.error_queue, "packet_info": has.packet_info, "offload": False}


class ErrorReports:
    """Errors of single datagrams: each kind is reported once, so that a flood of them is one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reported: set[str] = set()
        self.unreachable = trio.Event()
        """Set by the first ICMP error."""

    def report(self, error: OSError) -> None:
        """Print an error that no earlier call has printed."""
        if isinstance(error, PeerUnreachable):
            self.unreachable.set()
            text = describe_unreachable(error)
        else:
            text = explain(error)
        if text not in self._reported:
            self._reported.add(text)
            self._console.complain(text)

    async def watch(self, failures: EventChannel[Failure]) -> None:
        """Report what a socket's channel of failures receives."""
        async for failure in failures:
            self.report(failure.error)


def describe_unreachable(error: PeerUnreachable) -> str:
    """Return an ICMP error in words: which destination, the kernel's errno, the reporter and its reason."""
    what = os.strerror(error.errno or 0).lower()
    by = "" if error.offender is None else f" by {error.offender}"
    return f"{error.address}: {what}{by} ({error.reason})"
