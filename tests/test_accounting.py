"""Promise 3: nothing received is lost silently."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Closed, Datagram, DatagramSocket, SocketStatistics
from trio_dgram._socket.event_channel import Overflow

from .support.families import Family

COUNT = 20_000
counts_drops = pytest.mark.skipif(
    "config.getoption('--portable')", reason="kernel: the portable path has no drop counter"
)


def sender_to(sock: DatagramSocket, udp: Family) -> Callable[[int], None]:
    """Return a function that sends so many datagrams to ``sock``, past the library."""
    out = socket.socket(udp.family, socket.SOCK_DGRAM)
    out.connect(tuple(sock.address))

    def send(count: int) -> None:
        for _ in range(count):
            out.send(b"12345678")
        if not count:
            out.close()

    return send


def accounted_for(statistics: SocketStatistics) -> int:
    assert statistics.kernel_drops_exact
    assert statistics.dropped_by_kernel is not None
    return statistics.received + statistics.dropped_by_kernel


@counts_drops
async def test_every_datagram_of_a_flood_is_received_or_counted_as_dropped(udp: Family) -> None:
    async with trio_dgram.open_socket(
        udp.type, port=0, host=udp.loopback, receive_buffer_size=4096, offload=False
    ) as sock:
        send = sender_to(sock, udp)
        taken = 0
        for _ in range(100):
            send(COUNT // 100)
            taken += len(await sock.receive_many())
        send(0)
        statistics = sock.statistics()
        assert accounted_for(statistics) == COUNT
        assert 0 < taken <= statistics.received < COUNT
    assert accounted_for(sock.statistics()) == COUNT
    assert sock.statistics().received == taken + sock.statistics().discarded_at_close


@counts_drops
@pytest.mark.parametrize("overflow", ["block", "drop-newest", "drop-oldest"])
async def test_every_datagram_of_a_flood_into_channels_is_accounted_for(udp: Family, overflow: Overflow) -> None:
    async with trio_dgram.open_socket(
        udp.type, port=0, host=udp.loopback, receive_buffer_size=4096, offload=False
    ) as sock:
        slow = sock.events(Datagram, Closed, max_buffer_size=10, overflow=overflow)
        other = sock.events(Datagram, max_buffer_size=100, overflow="drop-oldest")
        send = sender_to(sock, udp)
        taken = 0
        for _ in range(100):
            send(COUNT // 100)
            await wait_all_tasks_blocked()
            await slow.receive()
            taken += 1
        send(0)
        # The slow channel leaves datagrams in the kernel's queue, which cannot be counted.
        while overflow == "block" and slow.statistics().queued:
            await slow.receive()
            taken += 1
            await wait_all_tasks_blocked()
        assert accounted_for(sock.statistics()) == COUNT
        assert slow.statistics().delivered == taken
    statistics = sock.statistics()
    assert accounted_for(statistics) == COUNT
    for channel in (slow, other):
        offered = channel.statistics()
        assert offered.queued == 0
        assert offered.delivered + offered.dropped == statistics.received - statistics.discarded_at_close
    assert [event async for event in slow] == [Closed()]


async def test_datagrams_read_ahead_are_counted_as_discarded_when_the_socket_is_closed(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for data in range(8):
            await sock.send(bytes([data]), sock.address)
        # The batch grows, so some datagrams have been read ahead.
        for _ in range(3):
            await sock.receive()
    statistics = sock.statistics()
    assert (statistics.sent, statistics.discarded_at_close) == (8, statistics.received - 3)


async def test_datagrams_from_blocked_addresses_are_counted_as_filtered(udp: Family) -> None:
    async with trio_dgram.open_socket(
        udp.type, port=0, host=udp.loopback, receive_block_list=[udp.loopback]
    ) as blocking:
        await blocking.send_many([Datagram(b"x", blocking.address)] * 5)
        # The batch grows from one datagram.
        for _ in range(4):
            with pytest.raises(trio.WouldBlock):
                blocking.receive_nowait()
        statistics = blocking.statistics()
        assert (statistics.received, statistics.filtered) == (5, 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="permission: only root can send raw datagrams")
@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("many", [True, False])
async def test_datagrams_from_port_0_are_counted_as_filtered(many: bool) -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            header = b"\0\0" + sock.address.port.to_bytes(2, "big") + (8 + 3).to_bytes(2, "big") + b"\0\0"
            raw.sendto(header + b"abc", ("127.0.0.1", 0))
        await sock.send(b"honest", sock.address)
        received = await sock.receive_many() if many else [await sock.receive()]
        assert [datagram.data for datagram in received] == [b"honest"]
        assert (sock.statistics().received, sock.statistics().filtered) == (2, 1)


@pytest.mark.usefixtures("coalescing")
async def test_with_coalesced_datagrams_the_drop_count_is_marked_as_a_lower_bound(
    udp: Family, offload: bool, request: pytest.FixtureRequest
) -> None:
    async with trio_dgram.open_socket(
        udp.type, port=0, host=udp.loopback, receive_buffer_size=4096, offload=offload
    ) as sock:
        sent = [Datagram(b"x" * 100, sock.address)] * 1000
        with pytest.raises(trio.WouldBlock):
            sock.receive_nowait()
        await sock.send_many(sent)
        got = 0
        with pytest.raises(trio.WouldBlock):
            while True:
                sock.receive_nowait()
                got += 1
        statistics = sock.statistics()
        assert statistics.sent == 1000
        assert statistics.received == got
        segmented = offload and trio_dgram.capabilities().receive_offload
        joined = segmented and "refused" not in request.node.callspec.id
        assert (bool(statistics.segmented_sends), bool(statistics.coalesced_receives)) == (segmented, joined)
        assert statistics.kernel_drops_exact == (trio_dgram.capabilities().drop_counter and not joined)
        if statistics.kernel_drops_exact:
            assert accounted_for(statistics) == 1000
        else:
            assert got + (statistics.dropped_by_kernel or 0) <= 1000


async def test_statistics_stay_after_close(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.send(b"x", sock.address)
        await sock.receive()
        before = sock.statistics()
        assert (before.sent, before.received) == (1, 1)
    assert sock.statistics() == before
    assert (before.dropped_by_kernel is None) != trio_dgram.capabilities().drop_counter
