"""The fast path of sending to a known destination: it has the same outcomes as the slow path."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket

from .support.families import Family
from .support.faults import faulty_kernel


@attrs.frozen
class Pair:
    """Two sockets, the first of which has sent to the second by one kind of destination."""

    sender: DatagramSocket
    receiver: DatagramSocket
    way: str
    to: Any
    """The same object each time."""

    async def send(self, data: bytes) -> None:
        """Send ``data`` by that kind of destination."""
        match self.way:
            case "connected":
                await self.sender.send(data)
            case "a datagram" | "a reply":
                await self.sender.send(Datagram(data, self.to))
            case _:
                await self.sender.send(data, self.to)


@asynccontextmanager
async def pair(udp: Family, way: str) -> AsyncGenerator[Pair]:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sender,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
    ):
        await receiver.send(b"hello", sender.address)
        hello = await sender.receive()
        ways = {
            "a plain tuple": (udp.loopback, receiver.address.port),
            "an address": Address(*receiver.address),
            "a datagram": Address(*receiver.address),
            "a received address": hello.address,
            "a reply": hello.reply(b"").address,
            "connected": None,
        }
        if way == "connected":
            await sender.connect(receiver.address)
        both = Pair(sender, receiver, way, ways[way])
        await both.send(b"first")
        assert await receiver.receive() == (b"first", sender.address, None)
        yield both


CHOSEN = ("a plain tuple", "an address", "a datagram")
"""Addresses that the program chooses."""
EACH_WAY = pytest.mark.parametrize("way", [*CHOSEN, "a received address", "a reply", "connected"])
EACH_CHOICE = pytest.mark.parametrize("way", CHOSEN)


@EACH_WAY
async def test_it_arrives(udp: Family, way: str) -> None:
    async with pair(udp, way) as both:
        for data in (b"second", b"", b"third"):
            await both.send(data)
        assert [(await both.receiver.receive()).data for _ in range(3)] == [b"second", b"", b"third"]
        assert both.sender.statistics().sent == 4


@EACH_CHOICE
@pytest.mark.parametrize("again", [False, True])
async def test_a_repeated_send_is_one_system_call(udp: Family, way: str, again: bool) -> None:
    with faulty_kernel() as faults:
        async with pair(udp, way) as both:
            if again:
                await both.send(b"second")
            faults.calls.clear()
            await both.send(b"third")
            assert faults.calls == {"sendto": 1}


@EACH_WAY
async def test_a_cancelled_call_has_sent_nothing(udp: Family, way: str) -> None:
    async with pair(udp, way) as both:
        with trio.CancelScope() as scope:
            scope.cancel()
            await both.send(b"never")
        assert scope.cancelled_caught
        await both.send(b"second")
        assert (await both.receiver.receive()).data == b"second"
        assert both.sender.statistics().sent == 2


@EACH_WAY
async def test_others_run_in_between(udp: Family, way: str) -> None:
    async with pair(udp, way) as both, trio.open_nursery() as nursery:
        ran = trio.Event()

        async def other() -> None:
            ran.set()

        nursery.start_soon(other)
        # Twice, since of two tasks that can run Trio takes either first.
        for _ in range(2 * 64):
            await both.send(b"x")
        assert ran.is_set()


@EACH_WAY
async def test_an_oversized_datagram_is_refused_and_later_ones_are_sent(udp: Family, way: str) -> None:
    async with pair(udp, way) as both:
        with pytest.raises(OSError, match=f"send .*{both.receiver.address.port}: Message too long") as caught:
            await both.send(bytes(70_000))
        assert caught.value.errno == errno.EMSGSIZE
        assert vars(caught.value)["address"] == both.receiver.address
        await both.send(b"second")
        assert (await both.receiver.receive()).data == b"second"
        assert both.sender.statistics().send_errors == 1


@EACH_WAY
async def test_it_waits_while_the_buffer_is_full(udp: Family, way: str) -> None:
    with faulty_kernel() as faults:
        async with pair(udp, way) as both:
            faults.set("send" if way == "connected" else "sendto", errno.EAGAIN, errno.ENOBUFS)
            await both.send(b"second")
            assert (await both.receiver.receive()).data == b"second"
            assert both.sender.statistics().sent == 2


@EACH_WAY
async def test_a_call_cancelled_in_backpressure_has_sent_nothing(
    udp: Family, way: str, autojump_clock: trio.testing.MockClock
) -> None:
    with faulty_kernel() as faults:
        async with pair(udp, way) as both:
            start = autojump_clock.current_time()
            faults.set("send" if way == "connected" else "sendto", *[errno.ENOBUFS] * 100)
            with trio.move_on_after(0.01) as scope:
                await both.send(b"never")
            assert scope.cancelled_caught
            assert autojump_clock.current_time() - start == pytest.approx(0.01)
            faults.plan.clear()
            await both.send(b"second")
            assert (await both.receiver.receive()).data == b"second"
            assert (both.sender.statistics().sent, both.sender.statistics().send_errors) == (2, 0)


@EACH_CHOICE
async def test_an_error_of_a_destination_that_the_program_chose_is_raised(udp: Family, way: str) -> None:
    with faulty_kernel() as faults:
        async with pair(udp, way) as both:
            faults.set("sendto", errno.EPERM)
            with pytest.raises(PermissionError, match="send"):
                await both.send(b"never")
            assert not faults.pending


@EACH_CHOICE
async def test_a_peer_and_its_loss_are_noticed(udp: Family, way: str) -> None:
    async with pair(udp, way) as both:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other:
            await both.sender.connect(other.address)
            with pytest.raises(trio_dgram.AlreadyConnectedError):
                await both.send(b"never")
            await both.sender.send(b"to the peer")
            assert (await other.receive()).data == b"to the peer"
            both.sender.disconnect()
            with pytest.raises(trio_dgram.NotConnectedError):
                await both.sender.send(b"never")
        await both.send(b"second")
        assert (await both.receiver.receive()).data == b"second"


@EACH_WAY
async def test_a_closed_socket_sends_nothing(udp: Family, way: str) -> None:
    async with pair(udp, way) as both:
        await both.sender.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await both.send(b"never")


@EACH_CHOICE
async def test_a_peer_that_is_connected_during_backpressure_is_noticed(
    udp: Family, way: str, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    with faulty_kernel() as faults:
        async with pair(udp, way) as both, trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other:
            fresh = attrs.evolve(both, to=Address(*both.to))
            async with trio.open_nursery() as nursery:
                faults.set("sendto", *[errno.ENOBUFS] * 3)
                nursery.start_soon(fresh.send, b"second")
                await trio.testing.wait_all_tasks_blocked()
                await both.sender.connect(other.address)
            assert (await both.receiver.receive()).data == b"second"
            for _ in range(2):
                with pytest.raises(trio_dgram.AlreadyConnectedError):
                    await fresh.send(b"never")
                await both.sender.send(b"to the peer")
                assert (await other.receive()).data == b"to the peer"


@pytest.mark.parametrize("many", [False, True])
async def test_a_send_in_backpressure_is_not_sent_to_a_later_peer(
    udp: Family, many: bool, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    with faulty_kernel() as faults:
        async with pair(udp, "connected") as both, trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other:

            async def send() -> None:
                with pytest.raises(trio_dgram.NotConnectedError, match="disconnected"):
                    await (both.sender.send_many([Datagram(b"x", both.receiver.address)]) if many else both.send(b"x"))

            async with trio.open_nursery() as nursery:
                faults.set("send", *[errno.ENOBUFS] * 3)
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                both.sender.disconnect()
                await both.sender.connect(other.address)
            await both.sender.send(b"to the peer")
            assert (await other.receive()).data == b"to the peer"
            assert both.sender.statistics().sent == 2


async def test_the_rest_of_send_many_is_not_sent_to_a_later_peer(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=False) as sender,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as first,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as second,
    ):
        await sender.connect(first.address)

        async def send() -> None:
            with pytest.raises(trio_dgram.NotConnectedError, match="disconnected"):
                await sender.send_many([Datagram(b"x", first.address)] * 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while not sender.statistics().sent:
                await trio.lowlevel.checkpoint()
            sender.disconnect()
            await sender.connect(second.address)
        sent = sender.statistics().sent
        assert 0 < sent < 1000
        await sender.send(b"to the peer")
        assert [datagram.data for datagram in await second.receive_many()] == [b"to the peer"]
        assert len(await first.receive_many()) == sent


@pytest.mark.parametrize("connected", [False, True])
async def test_a_datagram_without_a_destination_is_refused_each_time(udp: Family, connected: bool) -> None:
    async with pair(udp, "connected" if connected else "an address") as both:
        for _ in range(2):
            with pytest.raises(TypeError, match="the address of the datagram"):
                await both.sender.send(Datagram(b"never", None))  # type: ignore[arg-type]
            await both.send(b"next")
        assert both.sender.statistics().sent == 3


async def test_a_received_address_that_the_program_changes_is_its_own_choice(udp: Family) -> None:
    async with pair(udp, "a received address") as both:
        for port, error in ((70_000, ValueError), (0, ValueError), (True, TypeError)):
            with pytest.raises(error, match="port"):
                await both.sender.send(b"never", both.to._replace(port=port))
        own = both.to._replace(port=both.receiver.address.port)
        assert (own, type(own)) == (both.receiver.address, Address)
        with pytest.raises(OSError, match="send"):
            await both.sender.send(bytes(70_000), own)


async def test_a_reply_to_a_datagram_made_by_the_program_is_checked_like_any_other(udp: Family) -> None:
    asked = []

    async def lookup(host: str, port: int, _family: object) -> Address:
        asked.append(host)
        return Address(udp.loopback, port)

    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, lookup=lookup) as sock:
        to = sock.address
        for data in (b"first", b"second"):
            await sock.send(Datagram(b"", Address("a.name", to.port)).reply(data))
            await sock.send(Datagram(b"", to).reply(data))
            assert [(await sock.receive()).data for _ in range(2)] == [data, data]
        assert asked == ["a.name", "a.name"]
        for port, error in ((70_000, ValueError), (0, ValueError), (True, TypeError)):
            with pytest.raises(error, match="port"):
                await sock.send(Datagram(b"", Address(udp.loopback, port)).reply(b"never"))
            with pytest.raises(error, match="port"):
                await sock.send_many([Datagram(b"", Address(udp.loopback, port)).reply(b"never")])
        assert sock.statistics().sent == 4


async def test_an_address_received_by_a_socket_of_the_other_family_is_mapped_or_refused() -> None:
    async with (
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as receiver,
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as asked,
        trio_dgram.open_socket("udp6", port=0) as dual,
        trio_dgram.open_socket("udp6", port=0, host="::1") as six,
    ):
        await receiver.send(b"question", asked.address)
        address = (await asked.receive()).address
        for data in (b"first", b"second"):
            await dual.send(data, address)
            assert (await receiver.receive()).data == data
        await six.send(b"question", six.address)
        with pytest.raises(OSError, match="udp4"):
            await asked.send(b"never", (await six.receive()).address)
        # A dual-stack socket reports IPv4 peers by mapped addresses, which an IPv4 socket unmaps.
        await receiver.send(b"question", ("127.0.0.1", dual.address.port))
        mapped = (await dual.receive()).address
        assert mapped.host == "::ffff:127.0.0.1"
        for _ in range(100):
            await asked.send(b"answer", mapped)
            assert await receiver.receive() == (b"answer", asked.address, None)
