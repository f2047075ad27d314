"""What happens to a socket, as its user is told of it: event channels and counts."""

from __future__ import annotations

from builtins import type as Kind  # noqa: N812 -- the socket's own ``type`` hides it
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from .._values.events import Connected, Event, Listening
from .._values.statistics import SocketStatistics
from .association import Association
from .budget import Budget
from .event_channel import ChannelOptions, EventChannel, Overflow, check_buffer_size, check_event_types, check_overflow
from .inbox import Inbox
from .outbox import Outbox
from .socket_options import SocketWithOptions
from .subscriptions import Subscriptions

A = TypeVar("A", bound=Event)
B = TypeVar("B", bound=Event)
C = TypeVar("C", bound=Event)
D = TypeVar("D", bound=Event)


class SocketWithEvents(SocketWithOptions):
    """The part of a socket that is about what happens to it."""

    __slots__ = ("_association", "_budget", "_inbox", "_outbox", "_subscriptions")

    _association: Association
    _budget: Budget
    _inbox: Inbox
    _outbox: Outbox
    _subscriptions: Subscriptions

    @overload
    def events(self, /, **options: Unpack[ChannelOptions]) -> EventChannel[Event]: ...
    @overload
    def events(self, a: Kind[A], /, **options: Unpack[ChannelOptions]) -> EventChannel[A]: ...
    @overload
    def events(self, a: Kind[A], b: Kind[B], /, **options: Unpack[ChannelOptions]) -> EventChannel[A | B]: ...
    @overload
    def events(
        self, a: Kind[A], b: Kind[B], c: Kind[C], /, **options: Unpack[ChannelOptions]
    ) -> EventChannel[A | B | C]: ...
    @overload
    def events(
        self, a: Kind[A], b: Kind[B], c: Kind[C], d: Kind[D], /, **options: Unpack[ChannelOptions]
    ) -> EventChannel[A | B | C | D]: ...
    @overload
    def events(self, *types: Kind[Event], **options: Unpack[ChannelOptions]) -> EventChannel[Event]: ...
    def events(
        self, *types: Kind[Any], max_buffer_size: float = 1024, overflow: Overflow = "block"
    ) -> EventChannel[Any]:
        """Subscribe to what happens to the socket, from this call on, and return the channel that tells of it.

        Args:
          types: the events to be told of, all where none is named; being bound or connected already is told first.
          max_buffer_size: how many datagrams, and failures, may wait in the channel: from 1, or ``math.inf``.
          overflow: what becomes of a datagram without room. ``"block"``: the socket is not read until every such
            channel has some; ``"drop-newest"``, ``"drop-oldest"``: dropped, and counted.

        Raises:
          TypeError, ValueError: if an argument is wrong.
          trio.BusyResourceError: if the channel takes :class:`Datagram` and a task is receiving.

        While a channel takes datagrams, the nursery reads the socket for it, and ``receive`` raises
        ``trio.BusyResourceError``. The channel ends after :class:`Closed`.
        """
        kinds = check_event_types(types)
        size, policy = check_buffer_size(max_buffer_size), check_overflow(overflow)
        self._lifetime.check()
        changed = partial(self._subscriptions.changed, self._inbox)
        channel: EventChannel[Any] = EventChannel(kinds, size, policy, self._budget, changed)
        self._subscriptions.add(channel, self._inbox)
        if self._association.bound:
            channel.offer(Listening(self._kernel.local_address()))
            self._subscriptions.read(self._inbox)
        if self._association.peer is not None:
            channel.offer(Connected(self._association.peer))
        return channel

    def statistics(self) -> SocketStatistics:
        """Return what became of every datagram until now; also after the socket was closed."""
        kernel, inbox, outbox = self._kernel, self._inbox, self._outbox
        receiver = kernel.receiver
        return SocketStatistics(
            sent=outbox.sent,
            received=receiver.received,
            dropped_by_kernel=kernel.drops(),
            kernel_drops_exact=kernel.drops_are_datagrams,
            filtered=receiver.filtered + inbox.filtered,
            truncated=receiver.truncated,
            discarded_at_close=inbox.discarded,
            receive_errors=inbox.errors,
            send_errors=outbox.errors,
            coalesced_receives=receiver.coalesced_receives,
            coalesced_datagrams=receiver.coalesced_datagrams,
            segmented_sends=outbox.segmented_sends,
            segmented_datagrams=outbox.segmented_datagrams,
        )
