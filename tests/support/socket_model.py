"""The rules of a socket's states, without a socket.

Rule 1: a socket is unbound, bound, or bound and connected, and in the end closed. Binding and connecting take time
where a name is resolved, and only one bind and one connect can be in progress.
Rule 2: a bound socket receives from every source, a connected one from its peer only. A datagram from another source
that was queued before it was connected is filtered when it is read or returns from an event channel.
Rule 3: one task receives, or event channels take the datagrams.
Rule 4: an ICMP error of a connected socket is reported to its Failure channels, or raised by the next receive, once.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import trio

from trio_dgram import (
    Address,
    AlreadyBoundError,
    AlreadyConnectedError,
    Closed,
    Connected,
    Datagram,
    Failure,
    Listening,
    NotBoundError,
    NotConnectedError,
)

from .channel_model import ChannelModel

ErrorType: TypeAlias = type[Exception] | None
"""What a call must raise, if anything."""


@attrs.define(eq=False)
class Queued:
    """A datagram that waits to be received."""

    datagram: Datagram
    doubtful: bool = False
    """Whether it may have been filtered: the socket was connected to another peer for a while, and the datagram was
    read ahead then, or it was not."""


@attrs.define(eq=False)
class SocketModel:
    """One socket."""

    loopback: str
    bound_to: Address | None = None
    peer: Address | None = None
    closed: bool = False
    binding: bool = False
    connecting: bool = False
    receiving: bool = False
    keeps_open: bool = True
    refused: bool = False
    """Whether the next receive must raise an ICMP error, unless a Failure channel has got it."""
    may_be_refused: bool = False
    sent: int = 0
    filtered: int = 0
    queue: list[Queued] = attrs.field(factory=list)
    channels: list[ChannelModel] = attrs.field(factory=list)

    # What must be raised

    @property
    def bind_error(self) -> ErrorType:
        return self._closed_or(AlreadyBoundError if self.bound_to or self.binding else None)

    @property
    def connect_error(self) -> ErrorType:
        return self._closed_or(AlreadyConnectedError if self.peer or self.connecting else None)

    @property
    def unbound_error(self) -> ErrorType:
        return self._closed_or(None if self.bound_to else NotBoundError)

    @property
    def unconnected_error(self) -> ErrorType:
        return self._closed_or(None if self.peer else NotConnectedError)

    @property
    def receive_error(self) -> ErrorType:
        return self.unbound_error or (trio.BusyResourceError if self.receiving or self.listened_to else None)

    def send_error(self, to: Address | None, *, in_datagram: bool) -> ErrorType:
        if self.peer is None:
            return self._closed_or(NotConnectedError if to is None else None)
        return self._closed_or(None if to is None or (in_datagram and to == self.peer) else AlreadyConnectedError)

    def events_error(self, types: frozenset[type]) -> ErrorType:
        return self._closed_or(trio.BusyResourceError if Datagram in types and self.receiving else None)

    def _closed_or(self, error: ErrorType) -> ErrorType:
        return trio.ClosedResourceError if self.closed else error

    # What it is

    @property
    def own_address(self) -> Address:
        """The source of its datagrams: all are sent over loopback."""
        assert self.bound_to is not None
        return Address(self.loopback, self.bound_to.port)

    @property
    def address(self) -> Address | None:
        """Its local address: on a connected socket the one towards its peer."""
        return self.own_address if self.peer else self.bound_to

    @property
    def keeps_nursery_open(self) -> bool:
        return self.keeps_open and self.bound_to is not None and not self.closed

    @property
    def listened_to(self) -> bool:
        return any(channel.takes_datagrams for channel in self.channels)

    @property
    def reports_failures(self) -> bool:
        return any(Failure in channel.types for channel in self.channels)

    # What happens to it

    def bound(self, address: Address) -> None:
        self.bound_to, self.binding = address, False
        self._announce(Listening(address))

    def connected(self, peer: Address) -> None:
        self.peer, self.connecting = peer, False
        self._announce(Connected(peer))

    def disconnected(self) -> None:
        for each in self.queue:
            each.doubtful = each.doubtful or each.datagram.address != self.peer
        self.peer = None
        self.refused = self.may_be_refused = False

    def accepts(self, source: Address, to: Address) -> bool:
        """Whether the kernel queues a datagram from ``source`` to ``to`` here."""
        here = not self.closed and self.bound_to is not None and self.own_address == to
        return here and self.peer in (None, source)

    def arrived(self, datagram: Datagram) -> None:
        if self.listened_to:
            self._announce(datagram)
        else:
            self.queue.append(Queued(datagram))

    def was_refused(self) -> None:
        """The machine of the peer has reported that no socket is there."""
        self.refused = not self.reports_failures
        self.may_be_refused = True

    def open_channel(self, types: frozenset[type]) -> ChannelModel:
        channel = ChannelModel(types)
        self.channels.append(channel)
        if Failure in types:
            self.refused = False
        if self.address is not None:
            channel.offer(Listening(self.address))
        if self.peer is not None:
            channel.offer(Connected(self.peer))
        return channel

    def read_for_channels(self) -> None:
        """What is queued is read for the channels that take datagrams."""
        if self.bound_to and self.listened_to:
            for each in self.queue:
                if self._passes(each):
                    self._announce(each.datagram)
            self.emptied()

    def close_channel(self, channel: ChannelModel) -> None:
        self.channels.remove(channel)
        back = channel.close(last=channel.takes_datagrams and not self.listened_to)
        self.queue[:0] = map(Queued, back)

    def close(self) -> None:
        self.closed = True
        for channel in self.channels:
            channel.end()
        self.channels.clear()

    # What can be received

    @property
    def has_datagrams(self) -> bool:
        """Whether a receive must return at once."""
        return any(self._passes(each) and not each.doubtful for each in self.queue)

    def is_next(self, datagram: Datagram) -> bool:
        """Take ``datagram`` from the queue and return whether it is due."""
        while self.queue:
            first = self.queue.pop(0)
            if self._passes(first) and first.datagram == datagram:
                return True
            if self._passes(first) and not first.doubtful:
                return False
            self.filtered += 1
        return False

    def emptied(self) -> None:
        """The socket has been read until nothing was left."""
        self.filtered += sum(each.doubtful or not self._passes(each) for each in self.queue)
        self.queue.clear()
        self.refused = self.may_be_refused = False

    def raised_refusal(self) -> bool:
        """Note that a receive has raised an ICMP error, and return whether it was due."""
        due = self.may_be_refused and not self.reports_failures
        self.refused = self.may_be_refused = False
        return due

    def _passes(self, queued: Queued) -> bool:
        return self.peer in (None, queued.datagram.address)

    def _announce(self, event: Listening | Connected | Datagram | Closed) -> None:
        for channel in self.channels:
            channel.offer(event)


@attrs.define
class NetworkModel:
    """The sockets of one machine."""

    sockets: list[SocketModel] = attrs.field(factory=list)

    def send(self, source: SocketModel, to: Address | None, data: bytes) -> None:
        """``source`` has sent ``data`` to its peer, or else to ``to``."""
        destination = source.peer or to
        assert destination is not None
        source.sent += 1
        for each in self.sockets:
            if each.accepts(source.own_address, destination):
                each.arrived(Datagram(data, source.own_address))
                return
        if source.peer is not None:
            source.was_refused()
