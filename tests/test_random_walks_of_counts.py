"""Random walks over what is counted: no datagram is lost without a count of it.

Rule 1: once the kernel's queue is empty, ``received`` and ``dropped_by_kernel`` are what the peers have sent to it.
Rule 2: what was received was handed out, dropped by an event channel, filtered, or discarded at close; the rest is
what can be received without asking the kernel.
Rule 3: ``sent`` counts the datagrams that the kernel took, ``send_errors`` the others.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, Literal

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import (
    Address,
    AddressBlockedError,
    Datagram,
    DatagramSocket,
    EventChannel,
    SendManyError,
    SocketStatistics,
)

from .support.families import Family
from .support.walks import Step, check_walks, each_number_of_walks, error_of_call, start_call

SENDERS: Final = 3
"""The last one sends from a blocked address."""
BLOCKED_SOURCE: Final = "127.0.0.2"
BLOCKED_DESTINATION: Final = {"udp4": "127.0.0.3", "udp6": "::ffff:127.0.0.3"}
LARGEST_SIZE: Final = 65_507
RECEIVE_BUFFER_SIZES: Final = (2304, 8192, 212_992)


@attrs.define(eq=False)
class _Sender:
    """A socket that sends, and what it has sent."""

    socket: DatagramSocket
    to: Address
    """The receiver, as it is reached in the sender's family."""
    connected: bool = False
    sent: int = 0
    errors: int = 0


@attrs.define(eq=False)
class CountingWalk:
    """A walk over datagrams that are sent, received, dropped, filtered, refused and discarded."""

    family: Family
    senders: list[_Sender] = attrs.field(factory=list)
    accepted: int = 0
    """Datagrams for the receiver that the kernel has queued or dropped."""
    handed_out: int = 0
    connected_to: _Sender | None = None
    channel: EventChannel[Datagram] | None = None
    dropped_by_channels: int = 0
    """By those that are closed."""
    closed: bool = False
    numbers: int = 0
    latest: dict[Address, int] = attrs.field(factory=dict)
    """The number of the last datagram that was handed out, for each sender."""
    receiver: DatagramSocket = attrs.field(init=False)
    tasks: trio.Nursery = attrs.field(init=False)

    async def walk(self, steps: Iterable[Step]) -> None:
        async with trio.open_nursery() as self.tasks, trio_dgram.open_nursery() as nursery:
            self.receiver = nursery.create_socket(
                self.family.type, receive_block_list=[BLOCKED_SOURCE], offload=False
            ).unref()
            port = (await self.receiver.bind()).port
            for number in range(SENDERS):
                blocked = number == SENDERS - 1
                type_, source, to = self.family.type, self.family.loopback, self.family.loopback
                if blocked:
                    type_, source, to = "udp4", BLOCKED_SOURCE, "127.0.0.1"
                sender = nursery.create_socket(type_, send_block_list=[BLOCKED_DESTINATION[type_]]).unref()
                await sender.bind(0, source)
                self.senders.append(_Sender(sender, Address(to, port)))
            try:
                for name, *arguments in steps:
                    await getattr(self, name)(*arguments)
                    self._check()
                await self._finish()
            finally:
                self.tasks.cancel_scope.cancel()

    # Steps

    async def limit(self, size: int) -> None:
        """Have the receiver keep little."""
        self.receiver.receive_buffer_size = size

    async def send(self, who: int, count: int, size: int) -> None:
        """Send datagrams one by one."""
        sender = self.senders[who]
        for number in range(count):
            data = self._payload(size)
            if number % 2:
                sender.socket.send_nowait(data, None if sender.connected else sender.to)
            else:
                await sender.socket.send(data, None if sender.connected else sender.to)
        self._sent(sender, count)

    async def send_many(self, who: int, count: int, size: int) -> None:
        sender = self.senders[who]
        await sender.socket.send_many([Datagram(self._payload(size), sender.to) for _ in range(count)])
        self._sent(sender, count)

    async def send_too_big(self, who: int, count: int) -> None:
        """Send a datagram that is too big after ``count`` others, and others that are not sent after it."""
        sender = self.senders[who]
        too_big = Datagram(b"x" * (LARGEST_SIZE + 100), sender.to)
        await self._send_and_fail(sender, count, too_big, errno.EMSGSIZE, OSError)

    async def send_to_blocked(self, who: int, count: int) -> None:
        """Send to a blocked destination after ``count`` datagrams to the receiver."""
        sender = self.senders[who]
        if not sender.connected:
            to = Address(BLOCKED_DESTINATION[sender.socket.type], sender.to.port)
            await self._send_and_fail(sender, count, Datagram(b"x", to), errno.EPERM, AddressBlockedError)

    async def connect_sender(self, who: int) -> None:
        sender = self.senders[who]
        if not sender.connected:
            await sender.socket.connect(sender.to)
            sender.connected = True

    async def disconnect_sender(self, who: int) -> None:
        if self.senders[who].connected:
            self.senders[who].socket.disconnect()
            self.senders[who].connected = False

    async def connect(self, who: int) -> None:
        if self.connected_to is None and not self.closed:
            sender = self.senders[who]
            host = sender.socket.address.host
            mapped = f"::ffff:{host}" if self.family.type == "udp6" and ":" not in host else host
            await self.receiver.connect((mapped, sender.socket.address.port))
            self.connected_to = sender

    async def disconnect(self) -> None:
        if self.connected_to is not None and not self.closed:
            self.receiver.disconnect()
            self.connected_to = None

    async def receive_nowait(self, count: int) -> None:
        for _ in range(count):
            datagram, error = error_of_call(self.receiver.receive_nowait)
            if error is not None:
                assert type(error) in {trio.WouldBlock, *self._errors_of_receive()}, error
                return
            self._handed_out(datagram)

    async def receive_many(self, count: int) -> None:
        call = await start_call(self.tasks, self.receiver.receive_many, count)
        if not call.finished:
            await call.cancel()
        elif call.error is not None:
            assert type(call.error) in self._errors_of_receive(), call.error
        else:
            assert 0 < len(call.value) <= count
            for datagram in call.value:
                self._handed_out(datagram)

    async def open_channel(self, size: int, overflow: Literal["block", "drop-newest", "drop-oldest"]) -> None:
        if self.channel is None and not self.closed:
            self.channel = self.receiver.events(Datagram, max_buffer_size=size, overflow=overflow)
            await wait_all_tasks_blocked()

    async def take(self, count: int) -> None:
        """Take so many datagrams from the event channel, or what there is."""
        for _ in range(count):
            if self.channel is None:
                return
            datagram, error = error_of_call(self.channel.receive_nowait)
            if error is not None:
                return
            self._handed_out(datagram)

    async def close_channel(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.dropped_by_channels += self.channel.statistics().dropped
            self.channel = None

    async def read_everything(self) -> None:
        """Empty the kernel's queue, and check the counts exactly."""
        if self.closed:
            return
        while True:
            await wait_all_tasks_blocked()
            before = self.handed_out
            if self.channel is None:
                await self.receive_many(50)
            else:
                await self.take(50)
            if self.handed_out == before:
                break
        statistics = self.receiver.statistics()
        assert statistics.received == self._accounted_for(statistics)
        if statistics.dropped_by_kernel is not None:
            assert statistics.kernel_drops_exact
            assert statistics.received + statistics.dropped_by_kernel == self.accepted

    # What steps share

    def _payload(self, size: int) -> bytes:
        self.numbers += 1
        return str(self.numbers).encode().ljust(size)

    def _sent(self, sender: _Sender, count: int) -> None:
        sender.sent += count
        if not self.closed and self.connected_to in (None, sender):
            self.accepted += count

    async def _send_and_fail(
        self, sender: _Sender, count: int, refused: Datagram, number: int, kind: type[OSError]
    ) -> None:
        if count:
            before = [Datagram(self._payload(8), sender.to) for _ in range(count)]
            with pytest.raises(SendManyError) as many:
                await sender.socket.send_many([*before, refused, *before])
            assert (many.value.index, many.value.sent, many.value.errno) == (count, count, number)
        else:
            with pytest.raises(kind) as alone:
                await sender.socket.send(refused)
            assert alone.value.errno == number
        self._sent(sender, count)
        sender.errors += 1

    def _errors_of_receive(self) -> set[type[Exception]]:
        if self.closed:
            return {trio.ClosedResourceError}
        return {trio.BusyResourceError} if self.channel is not None else set()

    def _handed_out(self, datagram: Datagram) -> None:
        self.handed_out += 1
        number = int(datagram.data)
        assert number > self.latest.get(datagram.address, 0)
        assert BLOCKED_SOURCE not in datagram.address.host
        self.latest[datagram.address] = number

    def _accounted_for(self, statistics: SocketStatistics) -> int:
        channel = self.channel.statistics() if self.channel is not None else None
        dropped = self.dropped_by_channels + (channel.dropped + channel.queued if channel else 0)
        return self.handed_out + dropped + statistics.filtered + statistics.discarded_at_close

    # What holds after every step

    def _check(self) -> None:
        statistics = self.receiver.statistics()
        assert self._accounted_for(statistics) <= statistics.received
        assert statistics.received + (statistics.dropped_by_kernel or 0) <= self.accepted
        assert (statistics.truncated, statistics.coalesced_receives) == (0, 0)
        for sender in self.senders:
            counts = sender.socket.statistics()
            assert (counts.sent, counts.send_errors) == (sender.sent, sender.errors)

    async def _finish(self) -> None:
        """Close the receiver with what it has read ahead, which is discarded and counted."""
        before = self.receiver.statistics()
        self.receiver.close()
        self.closed = True
        await self.take(1)
        statistics = self.receiver.statistics()
        assert statistics.received == before.received == self._accounted_for(statistics)
        assert statistics.dropped_by_kernel == before.dropped_by_kernel
        for who in range(SENDERS):
            await self.send_many(who, 3, 8)
            self._check()
        assert self.receiver.statistics() == statistics


def _burst(random: Random) -> tuple[int, int, int]:
    """Return a sender, how many datagrams it sends, and their size."""
    return random.randrange(SENDERS), random.choice([1, 2, 5, 20, 100]), random.choice([8, 8, 200, 2000])


_STEPS: Final[dict[str, tuple[int, Callable[[Random], tuple[Any, ...]]]]] = {
    "send": (10, _burst),
    "send_many": (12, _burst),
    "send_too_big": (3, lambda random: (random.randrange(SENDERS), random.choice([0, 0, 3]))),
    "send_to_blocked": (3, lambda random: (random.randrange(SENDERS), random.choice([0, 0, 3]))),
    "connect_sender": (3, lambda random: (random.randrange(SENDERS),)),
    "disconnect_sender": (2, lambda random: (random.randrange(SENDERS),)),
    "connect": (2, lambda random: (random.randrange(SENDERS),)),
    "disconnect": (4, lambda _: ()),
    "receive_nowait": (6, lambda random: (random.choice([1, 3, 50]),)),
    "receive_many": (6, lambda random: (random.choice([1, 3, 1024]),)),
    "open_channel": (
        3,
        lambda random: (random.choice([1, 5, 100]), random.choice(["block", "drop-newest", "drop-oldest"])),
    ),
    "take": (4, lambda random: (random.choice([1, 5, 100]),)),
    "close_channel": (4, lambda _: ()),
    "read_everything": (8, lambda _: ()),
}


def draw_steps(random: Random) -> list[Step]:
    """Return the steps of one walk, the first of them the size of the receive buffer."""
    names, weights = list(_STEPS), [weight for weight, _ in _STEPS.values()]
    drawn = random.choices(names, weights, k=random.randrange(10, 60))
    return [
        ("limit", random.choice(RECEIVE_BUFFER_SIZES)),
        *((name, *_STEPS[name][1](random)) for name in drawn),
    ]


@pytest.mark.parametrize("transport", ["kernel", "simulation"])
@each_number_of_walks
def test_every_datagram_is_in_one_of_the_counts(udp: Family, transport: str, seeds: range) -> None:
    check_walks(CountingWalk, draw_steps, seeds, udp, transport)
