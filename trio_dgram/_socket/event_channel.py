"""Event channels: the events of a socket, for any number of tasks to receive.

:class:`EventChannel` is what the program has; :class:`Subscription` is what the socket fills.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Literal, TypeAlias, TypedDict, TypeVar, cast

import attrs
import trio

from .._values.arguments import check_choice, describe_value
from .._values.construction import NoPublicConstructor, create
from .._values.datagrams import Datagram
from .._values.events import Closed, Connected, Event, Failure, Listening
from .._values.statistics import ChannelStatistics
from .budget import Budget
from .disposal import dispose
from .interrupts import defer_interrupts
from .lifetime import Lifetime

Overflow: TypeAlias = Literal["block", "drop-newest", "drop-oldest"]
"""What happens to a datagram when the buffer of a channel is full."""


class ChannelOptions(TypedDict, total=False):
    """The keyword options of an event channel.

    Attributes:
      max_buffer_size (int | math.inf): how many datagrams, and how many failures, the channel queues, from 1.
        Default: 1024.
      overflow ('block' | 'drop-newest' | 'drop-oldest'): whether a full queue stops the reading of the socket, or
        drops its newest or oldest datagram and counts it. Default: 'block'.
    """

    max_buffer_size: float
    overflow: Overflow


EVENT_TYPES: Final[tuple[type, ...]] = (Listening, Connected, Datagram, Failure, Closed)
_POLICIES: Final = ("block", "drop-newest", "drop-oldest")

EventT_co = TypeVar("EventT_co", bound=Event, covariant=True)


def check_event_types(types: Iterable[object]) -> frozenset[type]:
    """Return the event types as a set, all of them if none is named."""
    for type_ in types:
        if not any(type_ is known for known in EVENT_TYPES):
            names = ", ".join(each.__name__ for each in EVENT_TYPES)
            raise TypeError(f"events takes event types ({names}), not {describe_value(type_)}")
    return cast("frozenset[type]", frozenset(types)) or frozenset(EVENT_TYPES)


def check_buffer_size(value: object) -> float:
    """Return ``value`` if it can be the size of a channel's buffer."""
    if isinstance(value, float) and value == math.inf:
        return math.inf
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"max_buffer_size must be an integer or math.inf, not {describe_value(value)}")
    if value < 1:
        raise ValueError(f"max_buffer_size must be at least 1, not {value}")
    return value


def check_overflow(value: object) -> Overflow:
    """Return ``value`` if it is an overflow policy."""
    return cast("Overflow", check_choice("overflow", value, _POLICIES))


@attrs.define(eq=False, slots=True)
class _Queue:
    """Queued events, in order.

    Datagrams have a deque of their own, so that the oldest can be dropped without a search. Each other event is stored
    with the number of datagrams that precede it.
    """

    datagrams: deque[Datagram] = attrs.field(factory=deque)
    others: deque[tuple[int, Event]] = attrs.field(factory=deque)
    taken: int = 0
    failures: int = 0

    def __len__(self) -> int:
        return len(self.datagrams) + len(self.others)

    def put(self, event: Event) -> None:
        if isinstance(event, Datagram):
            self.datagrams.append(event)
        else:
            self.others.append((self.taken + len(self.datagrams), event))
            self.failures += isinstance(event, Failure)

    def get(self) -> Event:
        if self.others and (self.others[0][0] <= self.taken or not self.datagrams):
            event = self.others.popleft()[1]
            self.failures -= isinstance(event, Failure)
            return event
        return self.get_datagram()

    def get_datagram(self) -> Datagram:
        datagram = self.datagrams.popleft()
        self.taken += 1
        return datagram

    def drop_oldest_failure(self) -> None:
        position = next(number for number, (_, event) in enumerate(self.others) if isinstance(event, Failure))
        del self.others[position]
        self.failures -= 1

    def remove_datagrams(self) -> deque[Datagram]:
        removed, self.datagrams = self.datagrams, deque()
        self.taken += len(removed)
        return removed


@defer_interrupts
class Subscription:
    """The queue of one event channel, as its socket sees it.

    Args:
      types: the events to queue.
      max_buffer_size: how many datagrams, and failures, to queue.
      overflow: what happens to a datagram when the queue is full.
      changed: called after a datagram was taken, and when the channel is closed.
    """

    __slots__ = (
        "_max_buffer_size",
        "_overflow",
        "changed",
        "closed",
        "delivered",
        "dropped",
        "ended",
        "failures_dropped",
        "queue",
        "types",
        "waiting",
    )

    def __init__(
        self,
        types: frozenset[type],
        max_buffer_size: float,
        overflow: Overflow,
        changed: Callable[[Subscription], None],
    ) -> None:
        self.types: frozenset[type] = types
        self.changed: Callable[[Subscription], None] = changed
        self.queue: _Queue = _Queue()
        self.waiting: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.delivered: int = 0
        self.dropped: int = 0
        self.failures_dropped: int = 0
        self.ended: bool = False
        self.closed: bool = False
        self._max_buffer_size = max_buffer_size
        self._overflow = overflow

    @property
    def space(self) -> float:
        """How many datagrams can be offered before the socket must stop reading."""
        if self._overflow != "block":
            return math.inf
        return self._max_buffer_size - len(self.queue.datagrams)

    def offer(self, event: Event) -> None:
        """Queue ``event`` if the channel subscribes to its type; the policies decide what is dropped."""
        if type(event) not in self.types:
            return
        queue = self.queue
        if isinstance(event, Datagram):
            if len(queue.datagrams) >= self._max_buffer_size:
                self.dropped += 1
                if self._overflow == "drop-newest":
                    return
                queue.get_datagram()
        elif isinstance(event, Failure) and queue.failures >= self._max_buffer_size:
            queue.drop_oldest_failure()
            self.failures_dropped += 1
        queue.put(event)
        self.waiting.unpark()

    def end(self) -> None:
        """End the channel after the queued events, because the socket was closed; discard the datagrams."""
        self.discard()
        self.offer(Closed())
        self.ended = True
        self.waiting.unpark_all()

    def discard(self) -> None:
        """Discard, and count, the queued datagrams."""
        datagrams = self.queue.remove_datagrams()
        self.dropped += len(datagrams)
        dispose(datagrams)

    def close(self) -> None:
        """End the subscription, because the program closed the channel."""
        self.closed = True
        self.changed(self)
        self.discard()
        self.queue = _Queue()
        self.waiting.unpark_all()


@defer_interrupts
class EventChannel(trio.abc.ReceiveChannel[EventT_co], Generic[EventT_co], metaclass=NoPublicConstructor):
    """The events of a socket, as :meth:`DatagramSocket.events` returns them.

    It ends after :class:`Closed`, as a Trio channel does: ``receive`` raises ``trio.EndOfChannel`` and an ``async for``
    ends. Closing the channel ends the subscription.
    """

    _created_by = "DatagramSocket.events()"

    def __init__(self, subscription: Subscription, budget: Budget, lifetime: Lifetime) -> None:
        self._subscription = subscription
        self._budget = budget
        self._lifetime = lifetime

    async def receive(self) -> EventT_co:
        """Wait for the next event and return it.

        Raises:
          trio.EndOfChannel: after the last event of a closed socket.
          trio.ClosedResourceError: if the channel is closed, also while this waits.

        A cancelled call has consumed nothing. It is a cancellation point always, and yields to the scheduler unless
        fewer than 64 operations and less than 0.5 ms have passed since the last yield.
        """
        await self._budget.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._subscription.waiting.park()
                self._budget.restart()

    def receive_nowait(self) -> EventT_co:
        """Return the next event without waiting.

        Raises:
          trio.WouldBlock: if none is queued.
          trio.EndOfChannel: after the last event of a closed socket.
          trio.ClosedResourceError: if the channel is closed.
        """
        self._lifetime.check_thread("EventChannel.receive_nowait")
        subscription = self._subscription
        if subscription.closed:
            raise trio.ClosedResourceError("this event channel was closed")
        if not subscription.queue:
            if subscription.ended:
                raise trio.EndOfChannel("the socket was closed")
            raise trio.WouldBlock
        event = subscription.queue.get()
        if isinstance(event, Datagram):
            subscription.delivered += 1
            subscription.changed(subscription)
        return cast("EventT_co", event)

    def statistics(self) -> ChannelStatistics:
        """Return the counts of the channel, also after it was closed."""
        subscription = self._subscription
        return ChannelStatistics(
            delivered=subscription.delivered,
            dropped=subscription.dropped,
            queued=len(subscription.queue.datagrams),
            failures_dropped=subscription.failures_dropped,
        )

    def close(self) -> None:
        """End the subscription.

        If no other channel receives datagrams, those still queued return to the socket's ``receive``; otherwise they
        are discarded and counted. A task waiting in ``receive`` gets ``trio.ClosedResourceError``. Closing again does
        nothing.
        """
        self._lifetime.check_thread("EventChannel.close")
        if not self._subscription.closed:
            self._subscription.close()

    async def aclose(self) -> None:
        """Close the channel as :meth:`close` does, then execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    def closed(self) -> bool:
        """Whether the channel is closed."""
        return self._subscription.closed

    def __repr__(self) -> str:
        subscription = self._subscription
        names = ", ".join(each.__name__ for each in EVENT_TYPES if each in subscription.types)
        state = "closed" if subscription.closed else f"{len(subscription.queue)} queued"
        return f"<trio_dgram.EventChannel of {names}, {state}>"


def create_channel(subscription: Subscription, budget: Budget, lifetime: Lifetime) -> EventChannel[Any]:
    """Return the channel of ``subscription``."""
    return create(EventChannel, subscription, budget, lifetime)
