"""Event channels: what happens to a socket, for any number of tasks to receive."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Literal, TypeAlias, TypedDict, TypeVar, cast

import attrs
import trio

from .._values.arguments import check_choice, describe_value
from .._values.datagrams import Datagram
from .._values.events import Closed, Connected, Event, Failure, Listening
from .._values.statistics import ChannelStatistics
from .budget import Budget

Overflow: TypeAlias = Literal["block", "drop-newest", "drop-oldest"]
"""What becomes of a datagram that a channel has no room for."""


class ChannelOptions(TypedDict, total=False):
    """The keyword options of an event channel."""

    max_buffer_size: float
    """How many datagrams, and failures, may wait in it: an integer from 1, or ``math.inf``. Default: 1024."""
    overflow: Overflow
    """What becomes of a datagram that there is no room for. Default: ``"block"``."""


EVENT_TYPES: Final[tuple[type, ...]] = (Listening, Connected, Datagram, Failure, Closed)
_POLICIES: Final = ("block", "drop-newest", "drop-oldest")

EventT_co = TypeVar("EventT_co", bound=Event, covariant=True)


def check_event_types(types: Iterable[object]) -> frozenset[type]:
    """Return the set of event types asked for, all of them where none was named."""
    for type_ in types:
        if type_ not in EVENT_TYPES:
            names = ", ".join(each.__name__ for each in EVENT_TYPES)
            raise TypeError(f"events takes event types ({names}), not {describe_value(type_)}")
    return cast("frozenset[type]", frozenset(types)) or frozenset(EVENT_TYPES)


def check_buffer_size(value: object) -> float:
    """Return ``value`` if it can be the size of a channel's buffer."""
    if value == math.inf:
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
    """The events that wait in a channel, in order.

    Datagrams have a queue of their own, so that the oldest can be dropped without a search. Each of the others
    is kept with the number of datagrams that go before it.
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


class EventChannel(trio.abc.ReceiveChannel[EventT_co], Generic[EventT_co]):
    """The events of a socket, as :meth:`DatagramSocket.events` returns them.

    It ends after :class:`Closed`, as a Trio channel does: ``receive`` raises ``trio.EndOfChannel`` and an
    ``async for`` is over. Closing the channel stops the subscription.
    """

    def __init__(
        self,
        types: frozenset[type],
        max_buffer_size: float,
        overflow: Overflow,
        budget: Budget,
        changed: Callable[[EventChannel[Any]], None],
    ) -> None:
        self.types = types
        self._max_buffer_size = max_buffer_size
        self._overflow = overflow
        self._budget = budget
        self._changed = changed
        self._queue = _Queue()
        self._waiting = trio.lowlevel.ParkingLot()
        self._delivered = 0
        self._dropped = 0
        self._failures_dropped = 0
        self._ended = False
        self._closed = False

    @property
    def room(self) -> float:
        """How many datagrams may be offered before its socket should stop reading."""
        if self._overflow != "block":
            return math.inf
        return self._max_buffer_size - len(self._queue.datagrams)

    def offer(self, event: Event) -> None:
        """Queue ``event`` if the channel takes its type and, for what can be dropped, by its policy."""
        if type(event) not in self.types:
            return
        queue = self._queue
        if isinstance(event, Datagram):
            if len(queue.datagrams) >= self._max_buffer_size:
                self._dropped += 1
                if self._overflow == "drop-newest":
                    return
                queue.get_datagram()
        elif isinstance(event, Failure) and queue.failures >= self._max_buffer_size:
            queue.drop_oldest_failure()
            self._failures_dropped += 1
        queue.put(event)
        self._waiting.unpark()

    def end(self) -> None:
        """Let the channel end after what is queued, the datagrams in it discarded: the socket was closed."""
        self._dropped += len(self._queue.datagrams)
        self._queue.datagrams.clear()
        self.offer(Closed())
        self._ended = True
        self._waiting.unpark_all()

    def take_back(self) -> list[Datagram]:
        """Return the datagrams that were queued and not handed out, as if they had never been offered."""
        datagrams = list(self._queue.datagrams)
        self._queue.datagrams.clear()
        return datagrams

    async def receive(self) -> EventT_co:
        """Wait for the next event and return it.

        Raises:
          trio.EndOfChannel: after the last event of a socket that was closed.
          trio.ClosedResourceError: if the channel was closed, also while waiting.

        A cancelled call has consumed nothing. A cancellation point always, a yield to the scheduler once a
        budget of operations is spent.
        """
        await self._budget.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._waiting.park()
                self._budget.restart()

    def receive_nowait(self) -> EventT_co:
        """Return the next event if there is one.

        Raises:
          trio.WouldBlock: if there is none yet.
          trio.EndOfChannel: after the last event of a socket that was closed.
          trio.ClosedResourceError: if the channel was closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("this event channel was closed")
        if not self._queue:
            if self._ended:
                raise trio.EndOfChannel("the socket was closed")
            raise trio.WouldBlock
        event = self._queue.get()
        if isinstance(event, Datagram):
            self._delivered += 1
            self._changed(self)
        return cast("EventT_co", event)

    def statistics(self) -> ChannelStatistics:
        """Return the channel's counts until now; also after it was closed."""
        return ChannelStatistics(
            delivered=self._delivered,
            dropped=self._dropped,
            queued=len(self._queue.datagrams),
            failures_dropped=self._failures_dropped,
        )

    def close(self) -> None:
        """Stop the subscription.

        Datagrams that still wait are there for the socket's ``receive`` if no other channel takes them, else
        they are discarded and counted. A task that waits in ``receive`` gets ``trio.ClosedResourceError``.
        Closing twice does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._changed(self)
        self._dropped += len(self._queue.datagrams)
        self._queue = _Queue()
        self._waiting.unpark_all()

    async def aclose(self) -> None:
        """Like :meth:`close`, then execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def __repr__(self) -> str:
        names = ", ".join(each.__name__ for each in EVENT_TYPES if each in self.types)
        state = "closed" if self._closed else f"{len(self._queue)} waiting"
        return f"<trio_dgram.EventChannel of {names}, {state}>"
