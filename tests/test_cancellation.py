"""Promise 1: the effect of a cancelled call, at every schedule point of every async method."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import (
    Address,
    Datagram,
    DatagramSocket,
    EventChannel,
    Failure,
    Listening,
    PacketInfo,
)
from trio_dgram._socket.budget import current_budget
from trio_dgram.sim import cancel_everywhere

from .support.families import Family
from .support.faults import faulty_kernel

pytestmark = [pytest.mark.long, pytest.mark.varied]


def drained(sock: DatagramSocket) -> list[bytes]:
    """Receive the queued datagrams."""
    received = []
    while True:
        try:
            received.append(sock.receive_nowait().data)
        except trio.WouldBlock:
            return received


@asynccontextmanager
async def pair(udp: Family, **options: Any) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket]]:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, **options) as one,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, **options) as other,
    ):
        yield one, other


@pytest.fixture
def lookup(udp: Family) -> Callable[..., Awaitable[tuple[str, int]]]:
    """Resolves every name to the loopback address, after a delay."""

    async def answer(_host: str, port: int, _family: socket.AddressFamily) -> tuple[str, int]:
        await trio.lowlevel.checkpoint()
        return udp.loopback, port

    return answer


# Sending

Send = Callable[[DatagramSocket, Address], Awaitable[None]]


async def send_connected(sock: DatagramSocket, to: Address) -> None:
    await sock.connect(to)
    await sock.send(b"x")


async def send_again(sock: DatagramSocket, to: Address) -> None:
    for data in NUMBERED[:3]:
        await sock.send(data, to)


async def send_connected_again(sock: DatagramSocket, to: Address) -> None:
    await sock.connect(to)
    for data in NUMBERED[:3]:
        await sock.send(data)


async def send_many_connected(sock: DatagramSocket, to: Address) -> None:
    await sock.connect(to)
    await sock.send_many([Datagram(bytes([number]), to) for number in range(4)])


ASKED = trio_dgram.capabilities().packet_info and trio_dgram.capabilities().error_queue
OPTIONS: list[Any] = [
    {"offload": True},
    {"offload": False},
    *[{"packet_info": True, "icmp_errors": True}] * ASKED,
]
NUMBERED = [bytes([number]) for number in range(70)]
SENDS: dict[str, tuple[Send, list[bytes]]] = {
    "send": (lambda sock, to: sock.send(b"x", to), [b"x"]),
    "send text": (lambda sock, to: sock.send("x", to), [b"x"]),
    "send a part": (lambda sock, to: sock.send(b"wxyz", to, offset=1, length=2), [b"xy"]),
    "send a list": (lambda sock, to: sock.send([b"x", "y"], to), [b"xy"]),
    "send a datagram": (lambda sock, to: sock.send(Datagram(b"x", to)), [b"x"]),
    "send a datagram with info": (
        lambda sock, to: sock.send(Datagram(b"x", to, PacketInfo(hop_limit=9) if ASKED else None)),
        [b"x"],
    ),
    "send a reply": (lambda sock, to: sock.send(Datagram(b"", to).reply(b"x")), [b"x"]),
    "send to a name": (lambda sock, to: sock.send(b"x", ("ours", to.port)), [b"x"]),
    "send again": (send_again, NUMBERED[:3]),
    "send connected": (send_connected, [b"x"]),
    "send connected again": (send_connected_again, NUMBERED[:3]),
    "send_many": (lambda sock, to: sock.send_many([Datagram(data, to) for data in NUMBERED]), NUMBERED),
    "send_many of unequal": (
        lambda sock, to: sock.send_many([Datagram(b"x" * size, to) for size in range(9)]),
        [b"x" * size for size in range(9)],
    ),
    "send_many to names": (
        lambda sock, to: sock.send_many([Datagram(data, Address(f"{data[0]}", to.port)) for data in NUMBERED[:4]]),
        NUMBERED[:4],
    ),
    "send_many connected": (send_many_connected, NUMBERED[:4]),
}


@pytest.mark.parametrize("ancillary", [False, True][: 1 + ASKED])
@pytest.mark.parametrize(("send", "payloads"), SENDS.values(), ids=SENDS)
async def test_every_datagram_that_a_cancelled_send_counted_arrives(
    udp: Family, lookup: Any, send: Send, payloads: list[bytes], offload: bool, ancillary: bool
) -> None:
    counted, returned = 0, False
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver:
        to = receiver.address

        async def scenario() -> None:
            nonlocal counted, returned
            counted, returned = 0, False
            async with trio_dgram.open_socket(
                udp.type, lookup=lookup, offload=offload, packet_info=ancillary, icmp_errors=ancillary
            ) as sender:
                try:
                    await send(sender, to)
                    returned = True
                finally:
                    counted = sender.statistics().sent

        async def check(_: object) -> None:
            assert drained(receiver) == payloads[:counted]
            # A single send has sent its datagram or was cancelled; send_many has sent a prefix, perhaps all.
            assert returned == (counted == len(payloads)) or (not returned and len(payloads) > 1)

        assert await cancel_everywhere(scenario, check) >= 6


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("fault", [errno.EAGAIN, errno.ENOBUFS])
@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("connected", [True, False])
async def test_sends_cancelled_in_backpressure_or_in_turn_have_sent_nothing(
    udp: Family, connected: bool, many: bool, fault: int, options: Any, autojump_clock: trio.testing.MockClock
) -> None:
    payloads = [b"a", b"b", b"c"]
    counted, returned, waited = 0, list[bytes](), 0
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver:
            to = receiver.address

            async def send(sender: DatagramSocket, data: bytes) -> None:
                if many:
                    await sender.send_many([Datagram(data, to)] * 3)
                else:
                    await sender.send(data, None if connected else to)
                returned.append(data)

            async def scenario() -> None:
                nonlocal counted
                returned.clear()
                async with trio_dgram.open_socket(udp.type, **options) as sender:
                    try:
                        if connected:
                            await sender.connect(to)
                        faults.plan.clear()
                        for operation in ("send", "sendto", "sendmsg"):
                            faults.set(operation, *[fault] * 4)
                        async with trio.open_nursery() as nursery:
                            for data in payloads:
                                nursery.start_soon(send, sender, data)
                    finally:
                        counted = sender.statistics().sent

            async def check(_: object) -> None:
                nonlocal waited
                arrived = drained(receiver)
                assert len(arrived) == counted
                for data in payloads:
                    if data in returned:
                        assert arrived.count(data) == (3 if many else 1)
                    else:
                        assert arrived.count(data) <= (3 if many else 0)
                waited += faults.pending == 0

            points = await cancel_everywhere(scenario, check)
            assert points >= 20
            # It was cancelled both with faults and without.
            assert waited < points


# Receiving

COUNT = 7
Receive = Callable[[DatagramSocket, list[Datagram]], Awaitable[None]]


async def receive_one(sock: DatagramSocket, received: list[Datagram]) -> None:
    received.append(await sock.receive())


async def receive_many(sock: DatagramSocket, received: list[Datagram]) -> None:
    received += await sock.receive_many(2)


async def receive_next(sock: DatagramSocket, received: list[Datagram]) -> None:
    async for datagram in sock:  # pragma: no branch -- a socket does not end by itself
        received.append(datagram)
        return


async def receive_from_a_channel(sock: DatagramSocket, received: list[Datagram]) -> None:
    # Closing the channel returns the undelivered datagrams.
    async with sock.events(Datagram, max_buffer_size=3) as events:
        received.append(await events.receive())


RECEIVES: dict[str, Receive] = {
    "receive": receive_one,
    "receive_many": receive_many,
    "iteration": receive_next,
    "channel": receive_from_a_channel,
}


@pytest.mark.usefixtures("coalescing")
@pytest.mark.parametrize("ancillary", [False, True][: 1 + ASKED])
@pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES)
async def test_cancelled_receives_have_consumed_nothing(
    udp: Family, receive: Receive, offload: bool, ancillary: bool
) -> None:
    received: list[Datagram] = []
    async with pair(udp, offload=offload, packet_info=ancillary, icmp_errors=ancillary) as (receiver, sender):
        burst = [Datagram(bytes([number]), receiver.address) for number in range(COUNT)]

        async def scenario() -> None:
            received.clear()
            with trio.CancelScope(shield=True):
                await sender.send_many(burst)
            while len(received) < COUNT:
                await receive(receiver, received)

        async def check(_: object) -> None:
            left = [datagram.data for datagram in received] + drained(receiver)
            assert left == [datagram.data for datagram in burst]

        assert await cancel_everywhere(scenario, check) >= COUNT


@pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES)
async def test_a_receive_cancelled_while_it_waits_or_just_after_leaves_the_datagram(
    udp: Family, receive: Receive
) -> None:
    received: list[Datagram] = []
    lost_the_race = 0
    async with pair(udp) as (receiver, sender):
        to = receiver.address
        before = 0

        async def scenario() -> None:
            nonlocal before
            received.clear()
            before = sender.statistics().sent
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, receiver, received)
                await wait_all_tasks_blocked()
                await sender.send(b"kept", to)

        async def check(_: object) -> None:
            nonlocal lost_the_race
            left = drained(receiver)
            assert [datagram.data for datagram in received] + left == [b"kept"] * (sender.statistics().sent - before)
            lost_the_race += len(left)

        assert await cancel_everywhere(scenario, check) >= 6
        assert lost_the_race


async def test_a_cancelled_receive_of_a_channel_that_stays_open_has_consumed_no_event(udp: Family) -> None:
    async with pair(udp) as (receiver, sender):
        to = receiver.address
        events = receiver.events(Datagram, max_buffer_size=4)
        seen: list[bytes] = []

        async def scenario() -> Datagram:
            with trio.CancelScope(shield=True):
                await sender.send(b"x", to)
            return await events.receive()

        async def check(result: Datagram | None) -> None:
            seen.append((await events.receive() if result is None else result).data)

        cancelled = await cancel_everywhere(scenario, check)
        # The first call was cancelled before it had sent a datagram, but the second was shielded.
        assert seen == [b"x"] * (cancelled + 1)


# Binding and connecting


@pytest.mark.parametrize("host", ["literal", "name"])
async def test_a_cancelled_bind_has_bound_nothing_and_one_that_took_effect_returns(
    udp: Family, lookup: Any, host: str
) -> None:
    async def scenario() -> None:
        async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
            returned = False
            events = sock.events(Listening)
            try:
                await sock.bind(0, udp.loopback if host == "literal" else "ours")
                returned = True
            finally:
                if returned:
                    assert events.receive_nowait() == Listening(sock.address)
                else:
                    with pytest.raises(trio_dgram.NotBoundError):
                        _ = sock.address
                    with pytest.raises(trio.WouldBlock):
                        events.receive_nowait()
                    with trio.CancelScope(shield=True):
                        await sock.bind(0, udp.loopback)

    assert await cancel_everywhere(scenario) >= 4


@pytest.mark.parametrize("host", ["literal", "name"])
async def test_a_cancelled_connect_has_changed_nothing_and_one_that_took_effect_returns(
    udp: Family, lookup: Any, host: str
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        to = peer.address

        async def scenario() -> None:
            async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
                returned = False
                try:
                    await sock.connect(to if host == "literal" else ("ours", to.port))
                    returned = True
                finally:
                    if returned:
                        assert sock.remote_address == to
                    else:
                        with pytest.raises(trio_dgram.NotConnectedError):
                            _ = sock.remote_address
                        with pytest.raises(trio_dgram.NotBoundError):
                            _ = sock.address
                        with trio.CancelScope(shield=True):
                            await sock.connect(to)

        assert await cancel_everywhere(scenario) >= 4


async def test_a_call_that_waits_for_a_bind_in_progress_is_cancelled_without_an_effect(
    udp: Family, lookup: Any
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        to = peer.address
        counted = 0

        async def scenario() -> None:
            nonlocal counted
            counted = 0
            async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(sock.bind, 0, "ours")
                        for _ in range(2):
                            await trio.lowlevel.checkpoint()
                            nursery.start_soon(sock.send, b"x", to)
                finally:
                    counted = sock.statistics().sent
                    with trio.CancelScope(shield=True):
                        await sock.send(b"usable", to)

        async def check(_: object) -> None:
            arrived = drained(peer)
            assert arrived in ([], [b"x"] * counted + [b"usable"])

        assert await cancel_everywhere(scenario, check) >= 10


# Opening and closing


async def test_opening_and_closing_cancelled_anywhere_leaves_nothing(udp: Family) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, _host: object, port: Any, *_: object) -> Any:
            await trio.lowlevel.checkpoint()
            return [(udp.family, socket.SOCK_DGRAM, 0, "", (udp.loopback, port))]

        async def getnameinfo(self, *_: object) -> Any:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        to = peer.address

        async def receive_until_closed(sock: DatagramSocket, task_status: trio.TaskStatus[Address]) -> None:
            task_status.started(await sock.bind(0, udp.loopback))
            with pytest.raises(trio.ClosedResourceError):
                await sock.receive()

        async def scenario() -> str:
            async with trio_dgram.open_nursery() as nursery:
                bound = nursery.create_socket(udp.type)
                assert await nursery.start(receive_until_closed, bound) == bound.address
                async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, connect=to) as sock:
                    async with sock.events() as events, sock.events(Listening):
                        await events.receive()
                    await sock.aclose()
                assert await trio_dgram.resolve("ours", 1, udp.type) == (udp.loopback, 1)
                await bound.aclose()
            return "completed"

        async def check(result: str | None) -> None:
            results.append(result)

        results: list[str | None] = []
        assert await cancel_everywhere(scenario, check) >= 20
        assert results[0] is None
        assert results[-1] == "completed"


# Every time


@pytest.mark.parametrize("operations_left", [0, 1000])
async def test_an_already_cancelled_scope_ends_every_async_method(udp: Family, operations_left: int) -> None:
    async def open_one(**options: Any) -> None:
        async with trio_dgram.open_socket(udp.type, **options):
            raise AssertionError

    async with pair(udp) as (one, other), trio_dgram.open_nursery() as nursery:
        fresh, idle, connected = (nursery.create_socket(udp.type) for _ in range(3))
        await idle.bind(0, udp.loopback)
        await connected.connect(other.address)
        await other.send_many([Datagram(b"ready", one.address)] * 8)
        to = (await one.receive()).address
        silent: EventChannel[Failure] = fresh.events(Failure)
        listening: EventChannel[Listening] = idle.events(Listening)
        budget = current_budget()
        methods: list[Callable[[], Awaitable[object]]] = [
            one.receive,
            idle.receive,
            partial(anext, one),
            partial(anext, idle),
            *(partial(sock.receive_many, 3) for sock in (one, idle)),
            *(partial(sock.send, b"x", to) for sock in (one, fresh)),
            partial(one.send, "x", (udp.loopback, to.port)),
            partial(one.send, b"x", ("a.name.to.be.resolved", to.port)),
            partial(connected.send, b"x"),
            *(partial(one.send_many, [Datagram(b"x", to)] * count) for count in (0, 1, 9)),
            fresh.bind,
            partial(fresh.connect, to),
            *(channel.receive for channel in (silent, listening)),
            partial(trio_dgram.resolve, udp.loopback, 1, udp.type),
            partial(trio_dgram.resolve, "a.name", 1, udp.type),
            *(partial(open_one, **options) for options in ({}, {"port": 0}, {"connect": to})),
            silent.aclose,
            connected.aclose,
            connected.aclose,
        ]
        for method in methods:
            with trio.CancelScope() as scope:
                scope.cancel()
                budget.restart()
                budget.left = operations_left
                await method()
            assert scope.cancelled_caught, method
        assert silent.closed
        assert connected.closed
        with pytest.raises(trio_dgram.NotBoundError):
            _ = fresh.address
        assert one.statistics().sent == fresh.statistics().sent == connected.statistics().sent == 0
        assert listening.receive_nowait() == Listening(idle.address)
        assert drained(one) == [b"ready"] * 7
        idle.close()
