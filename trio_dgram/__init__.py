"""A Trio-native structured-concurrency datagram toolkit.

Sockets live in a nursery, ``bind`` and ``send`` are awaited, ``receive`` is iterated, and what happens to a
socket is told by channels.
"""

from __future__ import annotations

from ._addresses import Address, UnixAddress
from ._channels import EventChannel
from ._creation import SocketOptions
from ._datagram_channel import DatagramChannel, PeerStatistics
from ._datagrams import Credentials, Datagram, PacketInfo
from ._errors import (
    AddressBlockedError,
    AlreadyBoundError,
    AlreadyConnectedError,
    AmplificationLimitError,
    DatagramError,
    NotBoundError,
    NotConnectedError,
    PeerUnreachable,
    SendManyError,
    SocketStateError,
)
from ._events import Closed, Connected, Event, Failure, Listening
from ._interfaces import Interface, interfaces
from ._listener import DatagramListener, open_listeners
from ._memberships import Membership
from ._nursery import DatagramNursery, open_nursery, open_socket
from ._peer_limits import ListenerOptions
from ._peers import ListenerStatistics
from ._resolution import resolve
from ._retry import retry
from ._serving import open_connection, serve
from ._socket import DatagramSocket
from ._statistics import ChannelStatistics, SocketStatistics

__all__ = [
    "Address",
    "AddressBlockedError",
    "AlreadyBoundError",
    "AlreadyConnectedError",
    "AmplificationLimitError",
    "ChannelStatistics",
    "Closed",
    "Connected",
    "Credentials",
    "Datagram",
    "DatagramChannel",
    "DatagramError",
    "DatagramListener",
    "DatagramNursery",
    "DatagramSocket",
    "Event",
    "EventChannel",
    "Failure",
    "Interface",
    "ListenerOptions",
    "ListenerStatistics",
    "Listening",
    "Membership",
    "NotBoundError",
    "NotConnectedError",
    "PacketInfo",
    "PeerStatistics",
    "PeerUnreachable",
    "SendManyError",
    "SocketOptions",
    "SocketStateError",
    "SocketStatistics",
    "UnixAddress",
    "interfaces",
    "open_connection",
    "open_listeners",
    "open_nursery",
    "open_socket",
    "resolve",
    "retry",
    "serve",
]


# What is public is shown by its public name, wherever it is written down.
def _show_public_names() -> None:
    for name in __all__:
        public = globals()[name]
        if getattr(public, "__module__", "").startswith(f"{__name__}."):
            public.__module__ = __name__


_show_public_names()
