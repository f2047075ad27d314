"""Promise 1: what a cancelled call has done, at every checkpoint of every async method."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

import trio_dgram
from trio_dgram import Datagram, DatagramSocket, Failure, Listening

from .support.explorer import cancel_everywhere
from .support.families import Family
from .support.faults import faulty_kernel


def drained(sock: DatagramSocket) -> list[bytes]:
    """Take what is there to be received."""
    taken = []
    while True:
        try:
            taken.append(sock.receive_nowait().data)
        except trio.WouldBlock:
            return taken


@asynccontextmanager
async def pair(udp: Family, *, offload: bool = True) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket]]:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=offload) as one,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=offload) as other,
    ):
        yield one, other


Send = Callable[[DatagramSocket, trio_dgram.Address], Awaitable[None]]
SENDS: dict[str, Send] = {
    "send": lambda sock, to: sock.send(b"x", to),
    "send a list": lambda sock, to: sock.send([b"x", "y"], to),
    "send a datagram": lambda sock, to: sock.send(Datagram(b"x", to)),
    "send to a name": lambda sock, to: sock.send(b"x", ("ours", to.port)),
    "send_many": lambda sock, to: sock.send_many([Datagram(b"x", to)] * 70),
    "send_many of unequal": lambda sock, to: sock.send_many([Datagram(b"x" * size, to) for size in range(9)]),
}


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
async def test_what_a_cancelled_send_has_counted_has_arrived(udp: Family, send: Send, offload: bool) -> None:
    async def lookup(host: str, port: int, family: socket.AddressFamily) -> tuple[str, int]:
        await trio.lowlevel.checkpoint()
        assert (host, family) == ("ours", udp.family)
        return udp.loopback, port

    counted = 0
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver:
        to = receiver.address

        async def scenario() -> None:
            nonlocal counted
            async with trio_dgram.open_socket(udp.type, lookup=lookup, offload=offload) as sender:
                try:
                    await send(sender, to)
                finally:
                    counted = sender.statistics().sent

        async def check(_: object) -> None:
            assert len(drained(receiver)) == counted

        assert await cancel_everywhere(scenario, check) >= 3


@pytest.mark.parametrize("fault", [errno.EAGAIN, errno.ENOBUFS])
async def test_a_send_cancelled_while_it_waits_for_room_has_sent_nothing(
    udp: Family, fault: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver:
        to = receiver.address
        counted = 0

        async def scenario() -> None:
            nonlocal counted
            with faulty_kernel() as faults:
                async with trio_dgram.open_socket(udp.type) as sender, trio.open_nursery() as nursery:
                    faults.set("sendto", *[fault] * 3)
                    try:
                        # The others wait for their turn, and the last one for all of it to be over.
                        nursery.start_soon(sender.send, b"1", to)
                        nursery.start_soon(sender.send, b"2", to)
                        await sender.send(b"3", to)
                    finally:
                        nursery.cancel_scope.cancel()
                        counted = sender.statistics().sent

        async def check(_: object) -> None:
            # The children were cancelled too, and what they had sent by then was counted.
            assert counted <= len(drained(receiver)) <= 3

        assert await cancel_everywhere(scenario, check) >= 5


Receive = Callable[[DatagramSocket], Awaitable[object]]
RECEIVES: dict[str, Receive] = {
    "receive": lambda sock: sock.receive(),
    "receive_many": lambda sock: sock.receive_many(2),
    "iteration": anext,
}


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES)
async def test_a_cancelled_receive_has_consumed_nothing(udp: Family, receive: Receive, offload: bool) -> None:
    async with pair(udp, offload=offload) as (receiver, sender):
        to = receiver.address
        expected: list[bytes] = []

        async def scenario() -> object:
            expected[:] = [b"1", b"2", b"3"]
            async with trio.open_nursery() as nursery:
                for data in expected:
                    nursery.start_soon(sender.send, data, to)
                nursery.cancel_scope.shield = True
            return await receive(receiver)

        async def check(result: object) -> None:
            taken: list[Datagram] = [result] if isinstance(result, Datagram) else cast("list[Datagram]", result or [])
            left = [datagram.data for datagram in taken] + drained(receiver)
            assert sorted(left) in (sorted(expected), expected)

        assert await cancel_everywhere(scenario, check) >= 2


async def test_a_receive_cancelled_while_it_waits_leaves_the_next_datagram(udp: Family) -> None:
    async with pair(udp) as (receiver, sender):
        for receive in RECEIVES.values():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive, receiver)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            await sender.send(b"kept", receiver.address)
            assert (await receiver.receive()).data == b"kept"
        assert receiver.statistics().received == len(RECEIVES)


@pytest.mark.parametrize("host", ["literal", "name"])
async def test_a_cancelled_bind_has_bound_nothing_and_one_that_took_effect_returns(udp: Family, host: str) -> None:
    async def lookup(_host: str, port: int, _family: socket.AddressFamily) -> tuple[str, int]:
        await trio.lowlevel.checkpoint()
        return udp.loopback, port

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

    assert await cancel_everywhere(scenario) >= 2


async def test_a_cancelled_connect_has_changed_nothing_and_one_that_took_effect_returns(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        to = peer.address

        async def scenario() -> None:
            async with trio_dgram.open_socket(udp.type) as sock:
                returned = False
                try:
                    await sock.connect(to)
                    returned = True
                finally:
                    if returned:
                        assert sock.remote_address == to
                    else:
                        with pytest.raises(trio_dgram.NotConnectedError):
                            _ = sock.remote_address
                        with trio.CancelScope(shield=True):
                            await sock.connect(to)

        assert await cancel_everywhere(scenario) >= 2


async def test_opening_and_closing_cancelled_anywhere_leaves_nothing(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        to = peer.address

        async def receive_until_closed(sock: DatagramSocket) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await sock.receive()

        async def scenario() -> None:
            async with trio_dgram.open_nursery() as nursery:
                bound = nursery.create_socket(udp.type)
                await bound.bind(0, udp.loopback)
                nursery.start_soon(receive_until_closed, bound)
                async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, connect=to) as sock:
                    async with sock.events() as events:
                        await events.receive()
                    await sock.aclose()
                await trio_dgram.resolve(udp.loopback, 1, udp.type)
                await bound.aclose()
                nursery.cancel_scope.cancel()

        assert await cancel_everywhere(scenario) >= 8


async def test_a_cancelled_channel_receive_has_consumed_no_event(udp: Family) -> None:
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
        assert seen == [b"x"] * (cancelled + 1)


async def test_an_already_cancelled_scope_ends_every_async_method(udp: Family) -> None:
    async with pair(udp) as (one, other), trio_dgram.open_socket(udp.type) as fresh:
        await other.send_many([Datagram(b"ready", one.address)] * 8)
        to = (await one.receive()).address
        events = fresh.events(Failure)
        methods: list[Callable[[], Awaitable[object]]] = [
            one.receive,
            one.receive_many,
            lambda: anext(one),
            lambda: one.send(b"x", to),
            lambda: one.send("x", (udp.loopback, to.port)),
            lambda: one.send_many([Datagram(b"x", to)]),
            lambda: one.send_many([]),
            fresh.bind,
            lambda: fresh.connect(to),
            events.receive,
            events.aclose,
            fresh.aclose,
            lambda: trio_dgram.resolve(udp.loopback, 1, udp.type),
        ]
        for method in methods:
            with trio.CancelScope() as scope:
                scope.cancel()
                await method()
            assert scope.cancelled_caught, method
        assert fresh.closed
        assert one.statistics().sent == 0
        assert drained(one) == [b"ready"] * 7
