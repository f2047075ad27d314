"""Queues that are full for real: the socket's own (EAGAIN), and the device's (ENOBUFS).

A token bucket on the way out (tc-tbf(8)) makes either. What it holds back is charged to the socket; if it has room
for a few datagrams only, it refuses the others.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Final, NoReturn

import attrs
import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, Failure

from .support.families import Family
from .support.namespaces import Link, Machine, run

pytestmark = pytest.mark.usefixtures("one_processor")

SO_RCVBUFFORCE: Final = 33
RECVERR: Final = {"udp4": (socket.IPPROTO_IP, 11), "udp6": (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR: without them Linux hides what its own queues refuse (ip(7))."""

STOPPED: Final = "1kbit"
"""Ten seconds for each datagram."""
SLOW: Final = "2mbit"
"""Five milliseconds for each."""
FAST: Final = "10gbit"

ROOMY: Final = "10m"
"""More than the socket's own buffer."""
NARROW: Final = "20k"
"""Sixteen datagrams."""


def payload(number: int) -> bytes:
    """Return a payload with a number, large enough for few of them to fill a queue."""
    return number.to_bytes(4, "big").ljust(1200, b".")


def hold_back(link: Link, rate: str, limit: str) -> None:
    """Put a token bucket at this end of ``link``, or change the one that is there."""
    bucket = ["tbf", "burst", "4k", "rate", rate, "limit", limit]
    run("tc", "qdisc", "replace", "dev", link.name, "root", *bucket)


@attrs.frozen
class Road:
    """A socket here, one on another machine, and the token bucket between them."""

    link: Link
    sender: DatagramSocket
    receiver: DatagramSocket
    to: Address
    """Where the receiver is."""

    def narrow(self, rate: str, limit: str) -> None:
        """Hold back what is beyond ``rate``, and refuse what is beyond ``limit``."""
        hold_back(self.link, rate, limit)

    def release(self) -> None:
        """Remove the limit."""
        self.narrow(FAST, ROOMY)
        # The bucket applies its new rate when a packet arrives.
        with socket.socket(self.to.family, socket.SOCK_DGRAM) as other:
            other.sendto(b"", (self.to.host, 9))

    def fill(self) -> int:
        """Send until the socket's queue is full, and return how many datagrams went."""
        with pytest.raises(trio.WouldBlock):
            self._send_on()
        return self.sender.statistics().sent

    def refuse(self) -> int:
        """Send until the device's queue is full, and return how many datagrams went."""
        self.sender.setsockopt(*RECVERR[self.sender.type], 1)
        with pytest.raises(OSError, match="send") as caught:
            self._send_on()
        assert caught.value.errno == errno.ENOBUFS
        return self.sender.statistics().sent

    def _send_on(self) -> NoReturn:
        while True:
            self.sender.send_nowait(payload(self.sender.statistics().sent), self.to)

    async def arrived(self, count: int) -> list[int]:
        """Return the numbers of the next ``count`` datagrams."""
        got: list[Datagram] = []
        while len(got) < count:
            got += await self.receiver.receive_many()
        return [int.from_bytes(datagram.data[:4], "big") for datagram in got]


@pytest.fixture
def one_processor(veth: Link) -> Generator[None]:
    """Have all happen on one processor: each takes in what it has sent over a link by itself, so that what leaves on
    two of them, by who sends and by who releases a queue, may arrive in another order."""
    del veth  # first of all, since there is none where processors cannot be chosen
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def bucket(veth: Link) -> Link:
    """A link with a token bucket that holds nothing back as yet."""
    try:
        hold_back(veth, FAST, ROOMY)
    except AssertionError as error:  # pragma: no cover -- where the kernel is built without sch_tbf
        pytest.skip(f"kernel: no token bucket: {error}")
    return veth


@pytest.fixture
async def road(udp: Family, machine: Machine, bucket: Link) -> AsyncGenerator[Road]:
    async with trio_dgram.open_nursery() as nursery:
        with machine.active():
            receiver = nursery.create_socket(udp.type)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2**23)
        port = (await receiver.bind()).port
        sender = nursery.create_socket(udp.type)
        yield Road(bucket, sender, receiver, Address(bucket.there[udp.type], port))
        sender.close()
        receiver.close()


async def test_sends_wait_in_backpressure_and_each_datagram_is_sent_once(road: Road) -> None:
    async def send(*numbers: int) -> None:
        for number in numbers:
            await road.sender.send(payload(number), road.to)

    road.narrow(STOPPED, ROOMY)
    full = road.fill()
    async with trio.open_nursery() as nursery:
        for first in range(full, full + 12, 4):
            nursery.start_soon(send, *range(first, first + 4))
        await trio.testing.wait_all_tasks_blocked()
        assert road.sender.statistics().sent == full
        road.release()
    assert road.sender.statistics().sent == full + 12
    assert road.sender.statistics().send_errors == 0
    arrived = await road.arrived(full + 12)
    assert arrived[:full] == list(range(full))
    assert sorted(arrived[full:]) == list(range(full, full + 12))


async def test_a_send_that_is_cancelled_while_it_waits_has_sent_nothing(road: Road) -> None:
    road.narrow(STOPPED, ROOMY)
    full = road.fill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.sender.send, payload(full), road.to)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert road.sender.statistics().sent == full
    road.release()
    await road.sender.send(payload(full + 1), road.to)
    assert await road.arrived(full + 1) == [*range(full), full + 1]


async def test_a_send_many_that_is_cancelled_while_it_waits_has_sent_a_prefix(road: Road) -> None:
    road.narrow(STOPPED, ROOMY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.sender.send_many, [Datagram(payload(number), road.to) for number in range(1000)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    sent = road.sender.statistics().sent
    assert 0 < sent < 1000
    road.release()
    await road.sender.send(payload(1000), road.to)
    assert await road.arrived(sent + 1) == [*range(sent), 1000]


async def test_a_send_many_waits_in_backpressure_and_each_datagram_is_sent_once(road: Road) -> None:
    road.narrow(STOPPED, ROOMY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.sender.send_many, [Datagram(payload(number), road.to) for number in range(500)])
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < road.sender.statistics().sent < 500
        road.release()
    assert road.sender.statistics().sent == 500
    assert await road.arrived(500) == list(range(500))


async def test_closing_ends_the_wait_in_backpressure(road: Road) -> None:
    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await road.sender.send(b"never", road.to)

    road.narrow(STOPPED, ROOMY)
    full = road.fill()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        road.sender.close()
    assert road.sender.statistics().sent == full


async def test_a_send_to_a_full_device_is_retried_until_it_accepts(road: Road) -> None:
    road.narrow(SLOW, NARROW)
    full = road.refuse()
    for number in range(full, full + 10):
        await road.sender.send(payload(number), road.to)
    statistics = road.sender.statistics()
    assert (statistics.sent, statistics.send_errors) == (full + 10, 1)
    assert await road.arrived(full + 10) == list(range(full + 10))


async def test_a_send_to_a_full_device_is_retried_for_50_ms(road: Road, autojump_clock: trio.testing.MockClock) -> None:
    road.narrow(STOPPED, NARROW)
    full = road.refuse()
    start = trio.current_time()
    with pytest.raises(OSError, match="send") as caught:
        await road.sender.send(payload(full), road.to)
    assert caught.value.errno == errno.ENOBUFS
    assert trio.current_time() - start == pytest.approx(0.05)
    assert (road.sender.statistics().sent, road.sender.statistics().send_errors) == (full, 2)


async def test_an_answer_that_a_full_device_drops_is_reported(
    road: Road, autojump_clock: trio.testing.MockClock
) -> None:
    failures = road.sender.events(Failure)
    await road.sender.bind()
    here = (road.link.here[road.sender.type], road.sender.address.port)
    await road.receiver.send(b"question", here)
    question = await road.sender.receive()
    road.narrow(STOPPED, NARROW)
    full = road.refuse()
    await road.sender.send(payload(full), question.address)
    failure = failures.receive_nowait()
    assert (failure.error.errno, failure.operation, failure.address) == (errno.ENOBUFS, "send", road.to)
    assert (road.sender.statistics().sent, road.sender.statistics().send_errors) == (full, 2)
