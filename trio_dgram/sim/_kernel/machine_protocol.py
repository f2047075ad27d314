"""What a socket asks of the host that it is on."""

from __future__ import annotations

from typing import Any, Protocol

from .._values.places import Kind
from .._values.records import Packet


class Machine(Protocol):
    """What a socket asks of the host that it is on."""

    name: str
    paused: bool

    def own_address(self, destination: str) -> str:
        """Return the address that packets to ``destination`` come from; ENETUNREACH if there is no way to it."""
        ...

    def owns(self, host: str) -> bool:
        """Whether ``host`` is an address of this machine."""
        ...

    def kind_of(self, host: str) -> Kind:
        """Return what kind of place a plain address is to this machine."""
        ...

    def index_of(self, host: str) -> int:
        """Return the interface that has the address ``host``; ENODEV if none has."""
        ...

    def attach(self, endpoint: Any, host: str, port: int) -> int:
        """Reserve a port for a socket and return it: one of the machine's choice where ``port`` is 0."""
        ...

    def detach(self, endpoint: Any) -> None:
        """Free the port of a socket."""

    def path_mtu(self, destination: str) -> int:
        """Return the largest packet that is known to pass to ``destination``, in bytes."""
        ...

    def remember(self, endpoint: Any) -> None:
        """Note that a socket was made."""

    def forget(self, endpoint: Any) -> None:
        """Note that a socket was closed."""

    def next_number(self) -> int:
        """Return the number of the next datagram."""
        ...

    def time(self) -> float:
        """Return the time, in seconds since the network was opened."""
        ...

    def nanoseconds(self, time: float) -> int:
        """Return the time of day at a time of the network's, as a Unix time in nanoseconds."""
        ...

    def interface_mtu(self, destination: str) -> int:
        """Return the largest packet that the interface towards ``destination`` takes, in bytes."""
        ...

    def send(self, packet: Packet, index: int, *, back: bool) -> None:
        """Send a packet out by the interface ``index``, 0 for whichever the route takes; with ``back`` what is for
        many is for this machine's sockets, too."""
