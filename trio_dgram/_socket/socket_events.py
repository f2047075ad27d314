"""The events of a socket and its counts."""

from __future__ import annotations

from builtins import type as Kind  # noqa: N812 -- the socket has a property of that name
from typing import Any, TypeVar, Unpack, overload

from .._values.events import Connected, Event, Listening
from .._values.statistics import SocketStatistics
from .background_reader import BackgroundReader
from .budget import Budget
from .event_channel import (
    ChannelOptions,
    EventChannel,
    Overflow,
    Subscription,
    check_buffer_size,
    check_event_types,
    check_overflow,
    create_channel,
)
from .event_hub import EventHub
from .inbox import Inbox
from .interrupts import defer_interrupts
from .outbox import Outbox
from .pending_errors import PendingErrors
from .proxy import ProxyDecoder
from .socket_options import SocketWithOptions

A = TypeVar("A", bound=Event)
B = TypeVar("B", bound=Event)
C = TypeVar("C", bound=Event)
D = TypeVar("D", bound=Event)


@defer_interrupts
class SocketWithEvents(SocketWithOptions):
    """The events of a socket and its counts, beside its options."""

    __slots__ = ("_budget", "_hub", "_inbox", "_outbox", "_pending", "_proxy", "_reader")

    _budget: Budget
    _hub: EventHub
    _inbox: Inbox
    _outbox: Outbox
    _pending: PendingErrors
    _proxy: ProxyDecoder | None
    _reader: BackgroundReader

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
        """Subscribe to the events of the socket and return their channel::

            async with trio_dgram.open_socket("udp4", port=0) as sock:
                events = sock.events(trio_dgram.Listening, trio_dgram.Closed)
                sock.close()
                async for event in events:
                    print(event)

        Args:
          types: the events, all if none is named. A bound or connected socket first announces that it is.
          max_buffer_size: how many datagrams, and how many failures, the channel queues, from 1; ``math.inf`` for any
            number. Default: 1024.
          overflow: what happens to a datagram when the queue is full. ``"block"``: the socket is not read until every
            such channel has space; ``"drop-newest"``, ``"drop-oldest"``: one is dropped and counted. Default:
            ``"block"``.

        Raises:
          TypeError, ValueError: if an argument is wrong.
          trio.BusyResourceError: if the channel takes :class:`Datagram` and a task is receiving.
          trio.ClosedResourceError: if the socket is closed.

        While a channel takes datagrams, the nursery reads the socket for it, and ``receive`` raises
        ``trio.BusyResourceError``. The channel ends after :class:`Closed`.
        """
        kinds = check_event_types(types)
        size, policy = check_buffer_size(max_buffer_size), check_overflow(overflow)
        self._lifetime.check("events")
        subscription = Subscription(kinds, size, policy, self._hub.changed)
        self._reader.subscribe(subscription)
        if self._association.bound:
            subscription.offer(Listening(self._descriptor.local_address()))
            self._reader.start()
        if self._association.peer is not None:
            subscription.offer(Connected(self._association.peer))
        return create_channel(subscription, self._budget, self._lifetime)

    def statistics(self) -> SocketStatistics:
        """Return the counts of the socket, also after it was closed."""
        descriptor, inbox, outbox, proxy = self._descriptor, self._inbox, self._outbox, self._proxy
        counts = descriptor.calls.counts
        return SocketStatistics(
            sent=outbox.sent,
            received=counts.received,
            dropped_by_kernel=descriptor.drops(),
            kernel_drops_exact=descriptor.drops_are_datagrams,
            filtered=counts.filtered + inbox.filtered + (proxy.filtered if proxy else 0),
            proxy_refused=proxy.refused if proxy else 0,
            proxy_headers=proxy.headers if proxy else 0,
            truncated=counts.truncated,
            unsplit_batches=counts.unsplit_batches,
            discarded_at_close=counts.discarded + inbox.discarded,
            receive_errors=self._pending.count,
            send_errors=outbox.errors,
            coalesced_receives=counts.coalesced_receives,
            coalesced_datagrams=counts.coalesced_datagrams,
            segmented_sends=outbox.segmented_sends,
            segmented_datagrams=outbox.segmented_datagrams,
        )
