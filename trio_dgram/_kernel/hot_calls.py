"""The hot calls: what happens per datagram, behind one interface.

Its implementations, in Python (``python_calls``) and compiled, pass the same tests. All calls are synchronous and
never wait: ``BlockingIOError`` reports an empty queue or a full send buffer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs

from .._codecs.ancillary import ControlMessage
from .._codecs.families import SocketAddress
from .._values.datagrams import Datagram


@attrs.define
class ReceiveCounts:
    """What became of the datagrams that one descriptor received."""

    received: int = 0
    filtered: int = 0
    truncated: int = 0
    unsplit_batches: int = 0
    coalesced_receives: int = 0
    coalesced_datagrams: int = 0
    discarded: int = 0


class HotCalls(Protocol):
    """The hot calls of one descriptor."""

    counts: ReceiveCounts
    with_info: bool
    """Whether each datagram gets a PacketInfo."""
    with_local_address: bool
    """Whether each datagram gets at least a PacketInfo with its local address and interface, which is shared by the
    datagrams to one address."""
    coalescing: bool
    """Whether a message may hold several datagrams, of the segment size in its ancillary data (UDP_GRO)."""

    def receive(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Append about ``limit`` datagrams to ``into``, count them, and leave out those with a forbidden source.

        Raises:
          BlockingIOError: if the queue is empty now. Datagrams received before that have been appended.
          OSError: another error of the kernel, likewise after what was received.
        """

    def filter_own(self, port: int, is_own: Callable[[str], bool] | None) -> None:
        """Leave out datagrams whose source is the socket itself: ``port`` and a host that ``is_own``. ``None``: none
        are."""

    @property
    def send(self) -> Callable[[bytes], object]:
        """Sends one datagram, the argument, to the peer; OSError if the kernel refuses it."""
        ...

    @property
    def sendto(self) -> Callable[[bytes, SocketAddress], object]:
        """Sends one datagram, the first argument, to the address; OSError if the kernel refuses it."""
        ...

    @property
    def sendmsg(self) -> Callable[[Sequence[bytes], Sequence[ControlMessage], int, SocketAddress | None], object]:
        """Sends one datagram, the first argument joined, with control messages and flags to the address, or to the
        peer; OSError if the kernel refuses it."""
        ...

    def send_batch(
        self, payloads: Sequence[bytes], sockaddrs: Sequence[SocketAddress | None]
    ) -> tuple[int, OSError | None]:
        """Send datagrams in order, each to its own address or, for ``None``, to the peer, until the kernel refuses one.

        Returns:
          How many were sent, and the error of the one that was refused.
        """
        ...

    def send_segments(
        self, payload: bytes, size: int, ancillary: Sequence[ControlMessage], sockaddr: SocketAddress | None
    ) -> object:
        """Send datagrams of ``size`` bytes each, the last one perhaps shorter, by one call (UDP_SEGMENT); OSError if
        the kernel refuses them all."""

    @property
    def has_former(self) -> bool:
        """Whether a former socket may still have datagrams queued, which the descriptor does not show."""
        ...

    def take_over(self, former: Any) -> None:
        """Receive first what is queued in the socket ``former``, then close it."""

    def close(self) -> None:
        """Close the socket of :meth:`take_over`; the owner of the descriptor closes the descriptor."""

    def disconnect(self) -> None:
        """Dissolve the association with the peer; an automatically chosen port may be lost (connect(2))."""
