"""The interface of a host to its sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .._values.places import Kind
from .._values.records import Packet


class Machine(Protocol):
    """The interface of a host to its sockets."""

    name: str
    paused: bool
    next_number: Callable[[], int]
    """Returns the number of the next datagram."""
    time: Callable[[], float]
    """Returns the time, in seconds since the network was opened."""

    def own_address(self, destination: str) -> str:
        """Return the source address of packets to ``destination``; ENETUNREACH without a route."""
        ...

    def owns(self, host: str) -> bool:
        """Whether ``host`` is an address of this machine."""
        ...

    def kind_of(self, host: str) -> Kind:
        """Return the kind of a plain address as seen by this machine."""
        ...

    def index_of(self, host: str) -> int:
        """Return the interface that has the address ``host``; ENODEV if none has."""
        ...

    def attach(self, endpoint: Any, host: str, port: int) -> int:
        """Reserve a port for a socket and return it: an ephemeral port if ``port`` is 0."""
        ...

    def detach(self, endpoint: Any) -> None:
        """Free the port of a socket."""

    def path_mtu(self, destination: str) -> int:
        """Return the known path MTU to ``destination``, in bytes."""
        ...

    def remember(self, endpoint: Any) -> None:
        """Register a new socket."""

    def forget(self, endpoint: Any) -> None:
        """Unregister a socket that is being closed."""

    def nanoseconds(self, time: float) -> int:
        """Return the time of day at a time of the network's, as a Unix time in nanoseconds."""
        ...

    def interface_mtu(self, destination: str) -> int:
        """Return the MTU of the interface towards ``destination``, in bytes."""
        ...

    def send(self, packet: Packet, index: int, *, back: bool) -> None:
        """Send a packet by the interface ``index``, 0 for that of the route; with ``back`` a multicast or broadcast
        packet is also delivered to this machine's sockets."""

    def transmit(self, packet: Packet) -> None:
        """Send a packet to another host; ENETUNREACH if this one is down."""
