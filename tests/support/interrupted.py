"""Programs to be interrupted: they use the sockets under load, and count what becomes of each datagram.

The load comes from a plain blocking socket, whose datagrams are in the receive queue before the next call, so that a
program does the same in every run.
"""

from __future__ import annotations

import abc
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Generator, Iterable
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from trio.lowlevel import enable_ki_protection
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Closed, Connected, Datagram, DatagramChannel, DatagramSocket, EventChannel, Failure, Listening

from .families import FAMILIES, Family
from .interrupts import MakeProgram, Program
from .programs import unused_port

_BURST: Final = 300
"""More datagrams than the default receive buffer holds."""


@attrs.define(eq=False)
class Load:
    """One socket under load: what was sent to it, and what the program took from it."""

    sock: DatagramSocket
    plain: socket.socket
    exact: bool = True
    """Whether the kernel counts each dropped datagram."""
    sent: int = 0
    taken: list[int] = attrs.field(factory=list)
    channels: dict[EventChannel[Any], int] = attrs.field(factory=dict)
    """The channels that take datagrams, and how many each of them delivered to the program."""
    asked: int = 0
    """How many datagrams the call in progress may return."""
    _kernel: int = -1
    """A second descriptor of the socket, which keeps its receive queue past the end."""

    @enable_ki_protection
    def hold(self) -> None:
        """Keep the receive queue past the end."""
        self._kernel = os.dup(self.sock.fileno())

    def _left(self) -> int:
        """Return how many datagrams the receive queue still holds, after the end."""
        with socket.socket(fileno=self._kernel) as kernel, suppress(BlockingIOError):
            for left in itertools.count():  # noqa: B007 -- what it was when there was no more is the answer
                kernel.recv(2048, socket.MSG_DONTWAIT)
        return left

    @enable_ki_protection
    def fill(self, count: int) -> None:
        """Send numbered datagrams to the socket, past the library."""
        address = self.sock.address
        for _ in range(count):
            self.plain.sendto(self.sent.to_bytes(4, "big"), address)
            self.sent += 1

    def store(self, datagram: Datagram) -> None:
        self.taken.append(int.from_bytes(datagram.data, "big"))
        self.asked = 0

    async def receive(self, count: int = 1) -> None:
        for _ in range(count):
            self.asked = 1
            self.store(await self.sock.receive())

    def receive_nowait(self) -> None:
        self.asked = 1
        self.store(self.sock.receive_nowait())

    async def iterate(self, count: int) -> Datagram:
        self.asked = 1
        async for datagram in self.sock:
            self.store(datagram)
            count -= 1
            if not count:
                return datagram
            self.asked = 1
        raise AssertionError

    async def receive_many(self, max_count: int) -> None:
        self.asked = max_count
        datagrams = await self.sock.receive_many(max_count)
        self.taken += [int.from_bytes(each.data, "big") for each in datagrams]
        self.asked = 0

    def subscribe(self, *types: Any, **options: Any) -> EventChannel[Any]:
        # Without its channel in the list no sum holds.
        self.asked = sys.maxsize
        channel: EventChannel[Any] = self.sock.events(*types, **options)
        self.channels[channel] = 0
        self.asked = 0
        return channel

    async def deliver(self, channel: EventChannel[Any], count: int) -> None:
        """Receive datagrams from a channel, and the events before them."""
        while count:
            self.asked = 1
            event = await channel.receive()
            if isinstance(event, Datagram):
                self.channels[channel] += 1
                self.store(event)
                count -= 1
            self.asked = 0

    def complaints(self, asked: int) -> Generator[str]:
        """Compare the counts; ``asked`` is how many datagrams the program itself may have lost."""
        if not self.sock.closed:
            yield "the socket is open"
        statistics = self.sock.statistics()
        dropped = statistics.dropped_by_kernel
        assert dropped is not None
        left = self._left()
        offered = statistics.received + dropped + left
        if offered != self.sent and (self.exact or offered > self.sent):
            yield f"{self.sent} sent, but {statistics.received} received + {dropped} dropped + {left} in the kernel"
        missing = statistics.received - statistics.filtered - statistics.discarded_at_close
        missing -= len(self.taken) - sum(self.channels.values())
        for channel, taken in self.channels.items():
            counts = channel.statistics()
            lost = counts.delivered - taken
            if not 0 <= lost <= asked:
                yield f"channel: {counts.delivered} delivered, but {taken} taken"
            if counts.queued:
                yield f"channel: {counts.queued} queued after the end"
            missing -= counts.delivered + counts.dropped
        if not 0 <= missing <= asked:
            yield f"{missing} received and in no counter: {statistics.received} received, {len(self.taken)} taken"
        if self.taken != sorted(set(self.taken)):
            yield f"taken out of order or twice: {self.taken}"


class _Program(abc.ABC):
    """A program with any number of sockets under load, and a plain socket as their peer."""

    def __init__(self, family: Family, plain: socket.socket) -> None:
        self.family = family
        self.plain = plain
        self.peer: Any = plain.getsockname()
        if plain.family != socket.AF_UNIX:
            self.peer = self.peer[:2]
        self.loads: list[Load] = []
        self.others: list[DatagramSocket] = []
        """Sockets without load that may have sent to the peer."""

    @abc.abstractmethod
    async def run(self) -> None: ...

    @enable_ki_protection
    def under_load(self, sock: DatagramSocket, **options: Any) -> Load:
        load = Load(sock, self.plain, **options)
        load.hold()
        self.loads.append(load)
        return load

    async def open(self, stack: AsyncExitStack, **options: Any) -> Load:
        """Open a bound socket under load."""
        sock = await stack.enter_async_context(
            trio_dgram.open_socket(self.family.type, port=0, host=self.family.loopback, **options)
        )
        return self.under_load(sock, exact=not options.get("offload"))

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        for load in self.loads:
            yield from load.complaints(load.asked if interrupted_program else 0)
        arrived = 0
        with suppress(BlockingIOError):
            while True:
                self.plain.recv(2048, socket.MSG_DONTWAIT)
                arrived += 1
        sent = sum(sock.statistics().sent for sock in {*[load.sock for load in self.loads], *self.others})
        if sent != arrived:
            yield f"{sent} counted as sent, but {arrived} arrived"


class Pulled(_Program):
    """Receives in every form, and sends in every form, on one socket; connects it and disconnects it."""

    async def run(self) -> None:
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(self.family.type, offload=False)
            load = self.under_load(sock)
            await sock.bind(0, self.family.loopback)
            load.fill(_BURST)
            load.receive_nowait()
            await load.receive(9)
            datagram = await load.iterate(3)
            await load.receive_many(20)
            for _ in range(3):
                await sock.send(b"x", self.peer)
                await sock.send(datagram.reply(b"y"))
                await sock.send("z", datagram.address)
            await sock.send_many([Datagram(b"many", self.peer)] * 5 + [datagram.reply(b"many")] * 5)
            sock.send_nowait(b"now", self.peer)
            sock.send_nowait(datagram)
            load.fill(20)
            await sock.connect(self.peer)
            for _ in range(2):
                await sock.send(b"c")
            await sock.send_many([Datagram(b"many", self.peer)] * 3)
            sock.send_nowait(b"now")
            await load.receive(2)
            sock.disconnect()
            await load.receive_many(10)
            sock.unref().ref()
            await sock.aclose()


class Waiting(_Program):
    """Tasks wait in ``receive`` while datagrams arrive, are cancelled in it, and have their sockets closed."""

    async def run(self) -> None:
        async with trio_dgram.open_nursery() as nursery:
            one = self.under_load(nursery.create_socket(self.family.type, offload=False))
            other = self.under_load(nursery.create_socket(self.family.type, offload=False).unref())
            await one.sock.bind(0, self.family.loopback)
            await other.sock.bind(0, self.family.loopback)
            nursery.start_soon(self._receive_until_closed, one)
            nursery.start_soon(self._receive_until_closed, other)
            for count in (1, 2, 70):
                await wait_all_tasks_blocked()
                one.fill(count)
                other.fill(count)
            await wait_all_tasks_blocked()
            one.sock.close()
            await wait_all_tasks_blocked()
            other.fill(5)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async def _receive_until_closed(self, load: Load) -> None:
        with suppress(trio.ClosedResourceError):
            while True:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await load.receive()
                await load.receive()
                await load.sock.send(b"echo", self.peer)


class Grouped(_Program):
    """Two sockets in a group: received from in every form, discarded, added again, and closed by another task."""

    async def run(self) -> None:
        async with trio_dgram.open_nursery() as nursery, trio_dgram.SocketGroup() as group:
            for _ in range(2):
                load = self.under_load(nursery.create_socket(self.family.type, offload=False))
                await load.sock.bind(0, self.family.loopback)
                group.add(load.sock)
            one, other = self.loads
            one.fill(40)
            other.fill(3)
            for _ in range(12):
                await self._receive(group)
            await self._receive_many(group, 20)
            group.discard(one.sock)
            await one.receive(2)
            group.add(one.sock)
            nursery.start_soon(self._receive_until_closed, group)
            for count in (1, 70):
                await wait_all_tasks_blocked()
                one.fill(count)
                other.fill(count)
            await wait_all_tasks_blocked()
            one.sock.close()
            other.fill(5)
            await wait_all_tasks_blocked()
            group.close()
            await wait_all_tasks_blocked()
            other.fill(1)
            await other.receive()
            other.sock.close()

    async def _receive_until_closed(self, group: trio_dgram.SocketGroup) -> None:
        with suppress(trio.ClosedResourceError):
            while True:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await self._receive(group)
                await self._receive(group)

    def _ask(self, count: int) -> None:
        for load in self.loads:
            load.asked = count

    async def _receive(self, group: trio_dgram.SocketGroup) -> None:
        self._ask(1)
        self._store(*await group.receive())
        self._ask(0)

    async def _receive_many(self, group: trio_dgram.SocketGroup, max_count: int) -> None:
        self._ask(max_count)
        for sock, datagram in await group.receive_many(max_count):
            self._store(sock, datagram)
        self._ask(0)

    def _store(self, sock: DatagramSocket, datagram: Datagram) -> None:
        (load,) = (load for load in self.loads if load.sock is sock)
        load.taken.append(int.from_bytes(datagram.data, "big"))


class Listened(_Program):
    """Event channels take the datagrams: closed before the socket is, ended by it, with either kind of overflow."""

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            load = await self.open(stack, offload=False)
            async with load.sock.events(Closed, Failure) as state:
                load.fill(40)
                async with load.subscribe(Datagram, Listening, max_buffer_size=8) as channel:
                    await load.deliver(channel, 12)
                    load.fill(100)
                    await load.deliver(channel, 12)
                await load.receive(3)
                channel = load.subscribe(max_buffer_size=4, overflow="drop-oldest")
                await load.deliver(channel, 2)
                load.fill(70)
                await load.deliver(channel, 2)
                channel.close()
                load.fill(_BURST)
                channel = load.subscribe(Datagram, Connected, max_buffer_size=4, overflow="drop-newest")
                await load.deliver(channel, 2)
                await load.sock.connect(self.peer)
                load.fill(10)
                await load.deliver(channel, 1)
                await wait_all_tasks_blocked()
                await load.sock.aclose()
                assert [event async for event in state] == [Closed()]


class Informed(_Program):
    """Packet info, the error queue and block lists."""

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            nowhere = (self.family.loopback, unused_port(self.family))
            load = await self.open(
                stack,
                offload=False,
                packet_info=True,
                icmp_errors=True,
                receive_block_list=[self.family.foreign],
                send_block_list=[self.family.foreign],
            )
            load.fill(20)
            datagram = await load.iterate(3)
            await load.sock.send(datagram.reply(b"y"))
            await load.receive_many(10)
            other = await stack.enter_async_context(
                trio_dgram.open_socket(self.family.type, icmp_errors=True, offload=False, port=0)
            )
            async with other.events(Failure) as failures:
                await other.send(b"x", nowhere)
                await failures.receive()
                await other.connect(nowhere)
                with suppress(OSError):
                    await other.send(b"x")
                await failures.receive()
            blocking = await self.open(stack, offload=False, receive_block_list=[self.family.loopback])
            blocking.fill(30)
            with suppress(trio.WouldBlock):
                blocking.receive_nowait()


class Offloaded(_Program):
    """Both offloads, by a receive queue long enough to have the kernel coalesce."""

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            load = await self.open(stack, offload=True)
            load.fill(_BURST)
            await load.receive(130)
            await load.receive_many(100)
            await load.receive_many(100)
            await load.sock.send_many([Datagram(b"x" * 100, self.peer)] * 100)
            load.fill(50)
            await load.receive(5)


class Local(_Program):
    """Datagram sockets of the Unix domain."""

    async def run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "socket")
            async with trio_dgram.open_socket("unix", path=path) as sock:
                self.others.append(sock)
                await sock.send(b"x", self.peer)
                with trio.move_on_after(1):
                    await sock.receive()
                await sock.connect(self.peer)
                self.plain.sendto(b"x", path)
                await sock.send(b"y")
                await sock.receive()
                sock.disconnect()


class Configured(_Program):
    """Options, memberships, names and adopted sockets."""

    async def run(self) -> None:
        type_ = self.family.type
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(
                type_, reuse_address=True, receive_buffer_size=100_000, send_buffer_size=100_000, ttl=9
            )
            with suppress(OSError):
                sock.add_membership(self.family.group)
                repr(sock.memberships)
                sock.drop_membership(self.family.group)
            for name in ("ttl", "multicast_ttl", "multicast_loopback", "receive_buffer_size", "send_buffer_size"):
                setattr(sock, name, getattr(sock, name))
            trio_dgram.interfaces()
            repr(sock.path_mtu(self.peer))
            sock.unref().ref().unref()
            adopted = socket.socket(self.family.family, socket.SOCK_DGRAM)
            try:
                adopted.bind((self.family.loopback, 0))
                load = self.under_load(nursery.adopt_socket(adopted))
            finally:
                # Nothing is left to close where it was adopted.
                adopted.close()
            load.fill(3)
            await load.receive()
            repr(nursery)
            await trio_dgram.resolve(self.family.loopback, 1, type_)
            load.sock.close()


class Served(_Program):
    """Several peers of one listener, of which some are idle, some end first, and one is a third program's."""

    PEERS = 4

    def __init__(self, family: Family, plain: socket.socket) -> None:
        super().__init__(family, plain)
        self.listener: trio_dgram.DatagramListener | None = None
        self.sent = 0
        self.peers: list[DatagramChannel] = []
        self.taken = 0
        self.asked = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            options: Any = {"host": self.family.loopback, "max_peers": 6}
            serve = partial(trio_dgram.serve, self._echo, 0, **options)
            (self.listener,) = await nursery.start(serve)
            port = self.listener.address.port
            self.fill(1)
            async with AsyncExitStack() as stack:
                for _ in range(self.PEERS):
                    connection = trio_dgram.open_connection(self.family.loopback, port)
                    self.peers.append(await stack.enter_async_context(connection))
                for peer in self.peers:
                    await peer.send(b"one.")
                    await peer.send(b"two.")
                for peer in self.peers:
                    assert await peer.receive() == b"one."
                    assert await peer.receive() == b"two."
                self.fill(150)
                await self.peers[0].send(b"bye.")
                await self.peers[1].aclose()
                await self.peers[2].send(b"more")
                assert await self.peers[2].receive() == b"more"
                async with trio.open_nursery() as receivers:
                    for peer in self.peers[2:]:
                        receivers.start_soon(peer.receive)
                    await wait_all_tasks_blocked()
                    for peer in self.peers[2:]:
                        await peer.send(b"last")
                nursery.cancel_scope.cancel()

    async def _echo(self, peer: DatagramChannel) -> None:
        self.asked += 1
        async for data in peer:
            self.taken += 1
            self.asked -= 1
            if data == b"two.":
                peer.mark_validated()
            if data == b"bye.":
                return
            if len(data) == 4:
                await peer.send(data)
            self.asked += 1

    @enable_ki_protection
    def fill(self, count: int) -> None:
        assert self.listener is not None
        for _ in range(count):
            self.plain.sendto(b"a load", self.listener.address)
            self.sent += 1

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        if self.listener is None:
            return
        counts = self.listener.statistics()
        accounted = counts.delivered + counts.queued + counts.discarded + counts.dropped
        accounted += counts.refused + counts.refused_by_filter + counts.refused_by_network
        if counts.received != accounted:
            yield f"{counts.received} received, but {accounted} accounted for: {counts}"
        lost = counts.delivered - self.taken
        if not 0 <= lost <= self.asked * interrupted_program:
            yield f"{counts.delivered} delivered, but {self.taken} taken"
        if counts.queued or counts.buffered_bytes or counts.waiting or counts.peers:
            yield f"left at the end: {counts}"
        # The socket of a listener is not public: what it had read ahead, and discarded when it was closed, is unknown.
        sent = self.sent + sum(peer.statistics().bytes_sent for peer in self.peers) // 4
        if counts.received + (counts.dropped_by_kernel or 0) > sent:
            yield f"{sent} sent, but {counts.received} received + {counts.dropped_by_kernel} dropped by the kernel"


class Asked(_Program):
    """Requests in flight over a connected socket: the peer answers some out of order and twice, and the last never."""

    def __init__(self, family: Family, plain: socket.socket) -> None:
        super().__init__(family, plain)
        self.sock: DatagramSocket | None = None
        self.exchange: trio_dgram.Exchange | None = None
        self.arrived = 0

    async def run(self) -> None:
        async with (
            trio_dgram.open_socket(self.family.type, connect=self.peer) as self.sock,
            trio_dgram.open_exchange(self.sock, key=bytes, max_in_flight=3) as self.exchange,
        ):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(self.exchange.request, b"%d" % number)
                await wait_all_tasks_blocked()
                self.answer(3)
                await wait_all_tasks_blocked()
                self.answer(2)
            with suppress(trio.TooSlowError):
                await self.exchange.request(b"6", attempts=2)
            with trio.move_on_after(0.5):
                await self.exchange.request(b"7")

    @enable_ki_protection
    def answer(self, count: int) -> None:
        assert self.sock is not None
        requests = [self.plain.recv(2048) for _ in range(count)]
        self.arrived += count
        for request in [*reversed(requests), requests[0]]:
            self.plain.sendto(request, self.sock.address)

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:  # noqa: ARG002 -- it loses nothing
        if self.sock is None or self.exchange is None:
            return
        with suppress(BlockingIOError):
            while self.plain.recv(2048, socket.MSG_DONTWAIT):
                self.arrived += 1
        counts, of_socket = self.exchange.statistics(), self.sock.statistics()
        if counts.sent != of_socket.sent or counts.sent != self.arrived:
            yield f"{counts.sent} sent by the exchange and {of_socket.sent} by its socket, but {self.arrived} arrived"
        handed_out = of_socket.received - of_socket.discarded_at_close - of_socket.filtered
        if counts.replies + counts.duplicates + counts.strays != handed_out:
            yield f"{handed_out} received by the socket, but not accounted for: {counts}"
        if counts.in_flight:
            yield f"left at the end: {counts}"


OWN: Final = [
    attrs.evolve(family, loopback=str(IPv4Address(0x7F400000 | os.getpid()))) if family.type == "udp4" else family
    for family in FAMILIES
]
"""The families, with an IPv4 address of this process: tests in other processes may send to 127.0.0.1."""
UNIX: Final = attrs.evolve(FAMILIES[0], type="unix", family=socket.AF_UNIX, loopback="")  # type: ignore[arg-type]


@contextmanager
def _made(kind: type[_Program], family: Family) -> Generator[Program]:
    with socket.socket(family.family, socket.SOCK_DGRAM) as plain:
        plain.bind((family.loopback, 0) if family.family != socket.AF_UNIX else "")
        yield kind(family, plain)


def _named(kinds: Iterable[type[_Program]], families: Iterable[Family]) -> dict[str, MakeProgram]:
    return {f"{kind.__name__} {family.type}": partial(_made, kind, family) for kind in kinds for family in families}


CORE: Final = {
    **_named([Pulled, Waiting, Grouped, Listened, Informed, Offloaded, Configured], OWN),
    **_named([Local], [UNIX]),
}
"""The programs of the core, by name."""
PEERS: Final = _named([Served, Asked], OWN)
"""The programs with a channel per peer, or requests to one."""
