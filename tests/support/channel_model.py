"""The rules of event channels, without a socket.

Rule 1: a channel is offered every event of its types, in order, from its opening to its end.
Rule 2: an overflow policy concerns datagrams. Of Failure events, ``max_buffer_size`` are kept, the latest. Other events
are always kept and do not count.
Rule 3: a channel is offered a datagram while every "block" channel of its socket has room.
Rule 4: the last channel that takes datagrams, closed, returns those it still holds to the socket, in order.
Rule 5: closing the socket discards the datagrams; then comes Closed, then the end.
"""

from __future__ import annotations

from collections import deque

import attrs

from trio_dgram import Closed, Datagram, Event, Failure


@attrs.define(eq=False)
class ChannelModel:
    """One event channel."""

    types: frozenset[type]
    size: float = 1024
    overflow: str = "block"
    events: list[Event] = attrs.field(factory=list)
    offered: int = 0
    delivered: int = 0
    dropped: int = 0
    failures_dropped: int = 0
    closed: bool = False
    ended: bool = False

    @property
    def takes_datagrams(self) -> bool:
        return Datagram in self.types

    @property
    def queued(self) -> int:
        return sum(isinstance(event, Datagram) for event in self.events)

    @property
    def _failures(self) -> int:
        return sum(isinstance(event, Failure) for event in self.events)

    @property
    def has_room(self) -> bool:
        return self.overflow != "block" or self.queued < self.size

    def offer(self, event: Event) -> None:
        if type(event) not in self.types:
            return
        if isinstance(event, Datagram):
            self.offered += 1
            if self.queued >= self.size:
                self.dropped += 1
                if self.overflow == "drop-newest":
                    return
                self._drop_oldest(Datagram)
        elif isinstance(event, Failure) and self._failures >= self.size:
            self.failures_dropped += 1
            self._drop_oldest(Failure)
        self.events.append(event)

    def take(self) -> Event:
        event = self.events.pop(0)
        self.delivered += isinstance(event, Datagram)
        return event

    def close(self, *, last: bool) -> list[Datagram]:
        """Close it; return the datagrams that return to the socket if it is the last that receives them."""
        held = [event for event in self.events if isinstance(event, Datagram)]
        self.events.clear()
        self.closed = True
        if last:
            self.offered -= len(held)
            return held
        self.dropped += len(held)
        return []

    def end(self) -> None:
        """The socket was closed."""
        self.dropped += self.queued
        self.events = [event for event in self.events if not isinstance(event, Datagram)]
        self.offer(Closed())
        self.ended = True

    def _drop_oldest(self, kind: type) -> None:
        del self.events[next(number for number, event in enumerate(self.events) if type(event) is kind)]


def hand_out(unread: deque[Datagram], channels: list[ChannelModel]) -> None:
    """Offer what can be read of a socket to the channels that take datagrams, as far as rule 3 allows."""
    readers = [channel for channel in channels if channel.takes_datagrams]
    while unread and readers and all(channel.has_room for channel in readers):
        datagram = unread.popleft()
        for channel in readers:
            channel.offer(datagram)
