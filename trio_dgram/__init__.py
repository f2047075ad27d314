"""A Trio-native structured-concurrency datagram toolkit.

Sockets live in a nursery, ``bind`` and ``send`` are awaited, ``receive`` is iterated, and the events of a socket arrive
in channels.
"""

from __future__ import annotations

import os as _os

from ._codecs.families import SocketType
from ._kernel.capabilities import Capabilities, capabilities
from ._kernel.interfaces import Interface, interfaces
from ._kernel.memberships import Membership
from ._nursery import DatagramNursery, open_nursery, open_socket
from ._peers.channel import DatagramChannel
from ._peers.connection import open_connection
from ._peers.exchange import Exchange, open_exchange
from ._peers.limits import ListenerOptions, PeerOptions
from ._peers.listener import DatagramListener, open_listeners
from ._peers.retry import retry
from ._peers.serving import serve
from ._socket.config import SocketOptions
from ._socket.datagram_socket import DatagramSocket
from ._socket.event_channel import ChannelOptions, EventChannel
from ._socket.resolution import resolve
from ._socket.trio_socket import as_trio_socket
from ._values.addresses import Address, ProxiedAddress, UnixAddress
from ._values.datagrams import Credentials, Datagram, PacketInfo, ProxyHeader
from ._values.errors import (
    AddressBlockedError,
    AlreadyBoundError,
    AlreadyConnectedError,
    AmplificationLimitError,
    DatagramError,
    NotBoundError,
    NotConnectedError,
    PeerUnreachable,
    ProxyHeaderError,
    SendManyError,
    SocketStateError,
)
from ._values.events import Closed, Connected, Event, Failure, Listening
from ._values.statistics import (
    ChannelStatistics,
    ExchangeStatistics,
    ListenerStatistics,
    PeerStatistics,
    SocketStatistics,
)

__all__ = [
    "Address",
    "AddressBlockedError",
    "AlreadyBoundError",
    "AlreadyConnectedError",
    "AmplificationLimitError",
    "Capabilities",
    "ChannelOptions",
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
    "Exchange",
    "ExchangeStatistics",
    "Failure",
    "Interface",
    "ListenerOptions",
    "ListenerStatistics",
    "Listening",
    "Membership",
    "NotBoundError",
    "NotConnectedError",
    "PacketInfo",
    "PeerOptions",
    "PeerStatistics",
    "PeerUnreachable",
    "ProxiedAddress",
    "ProxyHeader",
    "ProxyHeaderError",
    "SendManyError",
    "SocketOptions",
    "SocketStateError",
    "SocketStatistics",
    "SocketType",
    "UnixAddress",
    "as_trio_socket",
    "capabilities",
    "interfaces",
    "open_connection",
    "open_exchange",
    "open_listeners",
    "open_nursery",
    "open_socket",
    "resolve",
    "retry",
    "serve",
]


# Documentation and tracebacks show the public name of a class, not the module that defines it.
def _show_public_names() -> None:
    for name in __all__:
        public = globals()[name]
        if getattr(public, "__module__", "").startswith(f"{__name__}."):
            public.__module__ = __name__


_show_public_names()

if "LISTEN_FDS" in _os.environ:  # pragma: no cover -- tests import it so in processes of their own
    # Read before the program opens descriptors: a missing one would have the number of another.
    __import__(f"{__name__}.workers")
