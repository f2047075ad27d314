"""Random walks over the event channels of one socket, against the model in ``support/channel_model.py``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import (
    Address,
    Closed,
    Connected,
    Datagram,
    DatagramSocket,
    Event,
    EventChannel,
    Failure,
    Listening,
)

from .support.channel_model import ChannelModel, hand_out
from .support.families import Family
from .support.walks import Call, Step, check_walks, each_number_of_walks, error_of_call, start_call

KINDS: Final = (
    (),
    (Datagram,),
    (Datagram, Failure),
    (Failure, Closed),
    (Listening, Connected),
    (Datagram, Connected, Closed),
)
SIZES: Final = (1, 2, 3, 5, 1000)
LARGE: Final = 1000
"""A buffer that no walk fills."""
MOST_UNREAD: Final = 100
"""As many datagrams fit into a receive buffer."""
BROADCAST: Final = {"udp4": "255.255.255.255", "udp6": "::ffff:255.255.255.255"}
"""A destination that the kernel refuses to a socket without SO_BROADCAST."""


@attrs.define(eq=False)
class _Opened:
    """A channel, its model, and the receive that waits for it."""

    channel: EventChannel[Event]
    model: ChannelModel
    waiting: Call | None = None


@attrs.define(eq=False)
class ChannelWalk:
    """A walk over several event channels of one socket, with two senders."""

    family: Family
    opened: list[_Opened] = attrs.field(factory=list)
    unread: deque[Datagram] = attrs.field(factory=deque)
    """What the socket has not handed out, in order."""
    unread_others: bool = False
    """Whether datagrams that are to be filtered may still be unread."""
    bound_to: Address | None = None
    peer: Address | None = None
    closed: bool = False
    filtered: int = 0
    numbers: int = 0
    socket: DatagramSocket = attrs.field(init=False)
    senders: list[DatagramSocket] = attrs.field(init=False)
    tasks: trio.Nursery = attrs.field(init=False)

    async def walk(self, steps: Iterable[Step]) -> None:
        family = self.family
        async with trio.open_nursery() as self.tasks, trio_dgram.open_nursery() as nursery:
            self.senders = [nursery.create_socket(family.type).unref() for _ in range(2)]
            for sender in self.senders:
                await sender.bind(0, family.loopback)
            self.socket = nursery.create_socket(family.type).unref()
            try:
                for name, *arguments in steps:
                    await getattr(self, name)(*arguments)
                    await self._check()
                await self._finish()
            finally:
                self.tasks.cancel_scope.cancel()

    # Steps

    async def bind(self) -> None:
        if self.bound_to is None and not self.closed:
            self.bound_to = await self.socket.bind(0, self.family.loopback)
            self._announce(Listening(self.bound_to))

    async def connect(self, which: int) -> None:
        if self.bound_to is None or self.peer is not None or self.closed:
            return
        self.peer = self.senders[which].address
        await self.socket.connect(self.peer)
        self._filter()
        self._announce(Connected(self.peer))

    async def disconnect(self) -> None:
        # It is not defined whether disconnecting filters an unread datagram.
        if self.peer is not None and not self.unread_others and not self.closed:
            self.socket.disconnect()
            self.peer = None

    async def send(self, which: int, count: int) -> None:
        """Have a sender send ``count`` datagrams in a row."""
        if self.bound_to is None or self.closed or len(self.unread) + count > MOST_UNREAD:
            return
        sender = self.senders[which]
        for _ in range(count):
            self.numbers += 1
            data = str(self.numbers).encode()
            sender.send_nowait(data, self.bound_to)
            if self.peer in (None, sender.address):
                self.unread.append(Datagram(data, sender.address))

    async def fail(self) -> None:
        """Send a reply that the kernel refuses."""
        if self.bound_to is not None and self.peer is None and not self.closed:
            self.numbers += 1
            refused = Address(BROADCAST[self.family.type], self.numbers)
            await self.socket.send(Datagram(b"", refused).reply(b"x"))
            self._announce(Failure(OSError(), "send", refused))

    async def open(self, kinds: int, size: float, overflow: str) -> None:
        types = frozenset(KINDS[kinds] or (Listening, Connected, Datagram, Failure, Closed))
        channel, error = error_of_call(self.socket.events, *KINDS[kinds], max_buffer_size=size, overflow=overflow)
        if self.closed:
            assert isinstance(error, trio.ClosedResourceError)
            return
        assert error is None
        model = ChannelModel(types, size, overflow)
        if self.bound_to is not None:
            model.offer(Listening(self.bound_to))
        if self.peer is not None:
            model.offer(Connected(self.peer))
        self.opened.append(_Opened(channel, model))

    async def take(self, which: int, count: int) -> None:
        """Receive ``count`` events without waiting, or as many as there are."""
        for opened in self._one(which):
            for _ in range(count):
                event, error = error_of_call(opened.channel.receive_nowait)
                if error is None:
                    assert opened.model.events, event
                    self._check_event(event, opened.model.take())
                else:
                    assert not opened.model.events, opened.model.events
                    assert type(error) is self._error_of_empty(opened.model)
                    break

    async def wait(self, which: int) -> None:
        """Have a task wait for the next event."""
        for opened in self._one(which):
            may_drop = opened.model.overflow != "block" and opened.model.size < LARGE
            if opened.waiting is None and (opened.model.closed or not may_drop):
                opened.waiting = await start_call(self.tasks, opened.channel.receive)

    async def cancel_wait(self, which: int) -> None:
        for opened in self._one(which):
            if opened.waiting is not None:
                await opened.waiting.cancel()
                opened.waiting = None

    async def receive_in_cancelled_scope(self, which: int) -> None:
        for opened in self._one(which):
            call = await start_call(self.tasks, opened.channel.receive, cancelled=True)
            assert call.cancelled

    async def close_channel(self, which: int) -> None:
        for opened in self._one(which):
            opened.channel.close()
            if not opened.model.closed and not opened.model.ended:
                last = opened.model.takes_datagrams and len(self._readers()) == 1
                self.unread.extendleft(reversed(opened.model.close(last=last)))
                if self.peer is not None:
                    self._filter()
            elif not opened.model.closed:
                opened.model.close(last=False)

    async def receive(self, count: int) -> None:
        """Receive from the socket itself."""
        for _ in range(count):
            call = await start_call(self.tasks, self.socket.receive)
            if self.closed or self.bound_to is None or self._readers():
                expected: type[Exception] = trio.BusyResourceError
                if self.closed:
                    expected = trio.ClosedResourceError
                elif self.bound_to is None:
                    expected = trio_dgram.NotBoundError
                assert type(call.error) is expected, call
            elif self.unread:
                assert call.result() == self.unread.popleft()
            else:
                await call.cancel()
                self.unread_others = False

    async def close(self) -> None:
        self.socket.close()
        if not self.closed:
            self.closed = True
            self.unread.clear()
            for opened in self.opened:
                if not opened.model.closed:
                    opened.model.end()

    # What steps share

    def _one(self, which: int) -> list[_Opened]:
        """Return a list of the one channel that is meant, open or closed, if there is any."""
        return [self.opened[which % len(self.opened)]] if self.opened else []

    def _open(self) -> list[ChannelModel]:
        return [opened.model for opened in self.opened if not opened.model.closed and not opened.model.ended]

    def _readers(self) -> list[ChannelModel]:
        return [model for model in self._open() if model.takes_datagrams]

    def _announce(self, event: Event) -> None:
        for model in self._open():
            model.offer(event)

    def _filter(self) -> None:
        """Only the peer's datagrams are handed out from now on."""
        before = len(self.unread)
        self.unread = deque(datagram for datagram in self.unread if datagram.address == self.peer)
        self.filtered += before - len(self.unread)
        self.unread_others = self.unread_others or before > len(self.unread)

    @staticmethod
    def _error_of_empty(model: ChannelModel) -> type[Exception]:
        if model.closed:
            return trio.ClosedResourceError
        return trio.EndOfChannel if model.ended else trio.WouldBlock

    @staticmethod
    def _check_event(event: object, expected: Event) -> None:
        if isinstance(expected, Failure):
            assert isinstance(event, Failure)
            assert event.address == expected.address
        else:
            assert event == expected

    # What holds after every step

    async def _check(self) -> None:
        await wait_all_tasks_blocked()
        self._hand_out()
        for opened in self.opened:
            model, statistics = opened.model, opened.channel.statistics()
            assert (statistics.delivered, statistics.dropped, statistics.queued) == (
                model.delivered,
                model.dropped,
                model.queued,
            )
            assert statistics.failures_dropped == model.failures_dropped
            assert statistics.delivered + statistics.dropped + statistics.queued == model.offered
            assert opened.channel.closed == model.closed

    def _hand_out(self) -> None:
        """Hand out what can be read, and check what the waiting tasks have received."""
        progress = True
        while progress:
            progress = False
            hand_out(self.unread, self._open())
            for opened in self.opened:
                call, model = opened.waiting, opened.model
                if call is None:
                    continue
                if model.events:
                    self._check_event(call.result(), model.take())
                elif model.closed or model.ended:
                    assert type(call.error) is self._error_of_empty(model), call
                else:
                    continue
                opened.waiting, progress = None, True
        assert not any(opened.waiting.finished for opened in self.opened if opened.waiting is not None)
        if self._readers() and all(model.has_room for model in self._readers()):
            self.unread_others = False

    async def _finish(self) -> None:
        for which in range(len(self.opened)):
            await self.cancel_wait(which)
            await self._check()
        if self.bound_to is not None and not self.closed:
            for which in range(len(self.opened)):
                await self.close_channel(which)
                await self._check()
            await self.receive(len(self.unread) + 1)
            assert self.socket.statistics().filtered == self.filtered
        await self.close()
        for which in range(len(self.opened)):
            await self.take(which, LARGE)
            await self._check()


_STEPS: Final[dict[str, tuple[int, Callable[[Random], tuple[Any, ...]]]]] = {
    "connect": (3, lambda random: (random.randrange(2),)),
    "disconnect": (3, lambda _: ()),
    "send": (20, lambda random: (random.randrange(2), random.choice([1, 1, 2, 3, 10, 30]))),
    "fail": (6, lambda _: ()),
    "open": (
        8,
        lambda random: (
            random.randrange(len(KINDS)),
            random.choice(SIZES),
            random.choice(["block", "drop-newest", "drop-oldest"]),
        ),
    ),
    "take": (10, lambda random: (random.randrange(60), random.choice([1, 2, 5, 20]))),
    "wait": (8, lambda random: (random.randrange(60),)),
    "cancel_wait": (3, lambda random: (random.randrange(60),)),
    "receive_in_cancelled_scope": (2, lambda random: (random.randrange(60),)),
    "close_channel": (8, lambda random: (random.randrange(60),)),
    "receive": (6, lambda random: (random.choice([1, 3, 10]),)),
}


def draw_steps(random: Random) -> list[Step]:
    """Return the steps of one walk: the socket is bound early in most of them, and closed late in some."""
    names, weights = list(_STEPS), [weight for weight, _ in _STEPS.values()]
    count = random.randrange(20, 100)
    drawn: list[Step] = [(name, *_STEPS[name][1](random)) for name in random.choices(names, weights, k=count)]
    drawn.insert(random.randrange(10), ("bind",))
    if random.random() < 0.3:
        drawn.insert(-random.randrange(1, 10), ("close",))
    return drawn


@pytest.mark.parametrize("transport", ["kernel", "simulation"])
@each_number_of_walks
def test_event_channels_follow_their_model(udp: Family, transport: str, seeds: range) -> None:
    check_walks(ChannelWalk, draw_steps, seeds, udp, transport)
