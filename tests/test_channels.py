"""Events are channels."""

from __future__ import annotations

import math

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Closed, Connected, Datagram, DatagramSocket, Event, EventChannel, Failure, Listening
from trio_dgram._socket.event_channel import Overflow

from .support.families import Family
from .support.faults import faulty_kernel


def waiting(channel: EventChannel[Event]) -> list[Event]:
    """Take the events that wait in ``channel``."""
    events: list[Event] = []
    while True:
        try:
            events.append(channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return events


def payloads(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Datagram)]


async def send_to_itself(sock: DatagramSocket, count: int, start: int = 0) -> list[bytes]:
    """Send numbered datagrams from ``sock`` to itself and wait until its readers are blocked."""
    sent = [bytes([number]) for number in range(start, start + count)]
    for data in sent:
        await sock.send(data, sock.address)
    await wait_all_tasks_blocked()
    return sent


async def test_a_channel_reports_every_event_after_its_creation(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        events = sock.events()
        assert waiting(events) == []
        address = await sock.bind(0, udp.loopback)
        await send_to_itself(sock, 1)
        await sock.connect(address)
        assert waiting(events) == [Listening(address), Datagram(b"\0", address), Connected(address)]
        sock.close()
        assert waiting(events) == [Closed()]
        with pytest.raises(trio.EndOfChannel):
            await events.receive()


async def test_an_implicit_bind_is_reported(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock, sock.events(Listening) as events:
        await sock.send(b"x", (udp.loopback, 9))
        assert await events.receive() == Listening(sock.address)


async def test_a_channel_reports_only_the_requested_types(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        channels = {kind: sock.events(kind) for kind in (Listening, Connected, Closed, Failure)}
        await sock.bind(0, udp.loopback)
        await sock.connect(sock.address)
        sock.close()
    assert [event async for event in channels[Listening]] != []
    for kind, channel in channels.items():
        assert all(type(event) is kind for event in waiting(channel))
    assert [event async for event in channels[Failure]] == []


async def test_a_channel_opened_late_receives_the_state_first(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.connect(sock.address)
        late = sock.events()
        assert waiting(late) == [Listening(sock.address), Connected(sock.address)]
        sock.disconnect()
        assert waiting(sock.events(Listening, Connected)) == [Listening(sock.address)]


async def test_every_channel_gets_every_event(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        channels = [sock.events(Datagram) for _ in range(3)]
        sent = await send_to_itself(sock, 3)
        for channel in channels:
            assert [(await channel.receive()).data for _ in sent] == sent


async def test_events_support_match(udp: Family) -> None:
    address = trio_dgram.Address(udp.loopback, 1)
    match Connected(address):
        case Connected(trio_dgram.Address(host, port)):
            assert (host, port) == (udp.loopback, 1)
        case _:
            raise AssertionError
    assert Listening(address) == Listening(address)
    assert len({Closed(), Closed()}) == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Listening(address).address = address  # type: ignore[misc]


async def test_a_socket_is_pulled_or_listened_to_not_both(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        async with sock.events(Datagram), sock.events():
            with pytest.raises(trio.BusyResourceError, match="event channels"):
                await sock.receive()
            with pytest.raises(trio.BusyResourceError):
                await sock.receive_many()
            with pytest.raises(trio.BusyResourceError):
                sock.receive_nowait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="another task"):
                sock.events(Datagram)
            with pytest.raises(trio.BusyResourceError):
                sock.events()
            async with sock.events(Failure, Closed):
                await sock.send(b"x", sock.address)


@pytest.mark.parametrize("overflow", ["block", "drop-newest", "drop-oldest"])
async def test_receive_returns_the_undelivered_datagrams_of_the_last_channel(udp: Family, overflow: Overflow) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        first = sock.events(Datagram)
        last = sock.events(Datagram, overflow=overflow, max_buffer_size=4)
        sent = await send_to_itself(sock, 4)
        assert (await last.receive()).data == sent[0]
        first.close()
        assert first.statistics().dropped == 4
        sent += await send_to_itself(sock, 1, start=4)
        last.close()
        sent += await send_to_itself(sock, 2, start=5)
        assert [(await sock.receive()).data for _ in range(6)] == sent[1:]
        statistics = last.statistics()
        assert (statistics.delivered, statistics.dropped, statistics.queued) == (1, 0, 0)


async def test_a_channel_opened_right_after_another_closed_continues_in_order(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        got = []
        for number in range(5):
            async with sock.events(Datagram) as events:
                await sock.send(bytes([number]), sock.address)
                got.append(await events.receive())
            await sock.send(bytes([100 + number]), sock.address)
            got.append(await sock.receive())
        assert [datagram.data[0] for datagram in got] == [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]


async def test_block_stops_reading_until_the_slowest_channel_has_space(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        slow, quick = sock.events(Datagram, max_buffer_size=2), sock.events(Datagram)
        sent = await send_to_itself(sock, 10)
        assert (slow.statistics().queued, quick.statistics().queued) == (2, 2)
        got = []
        for _ in sent:
            got.append((await slow.receive()).data)
            await wait_all_tasks_blocked()
        assert got == sent == payloads(waiting(quick))
        assert slow.statistics() == quick.statistics()


async def test_drop_newest_and_drop_oldest_drop_and_count(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        newest = sock.events(max_buffer_size=3, overflow="drop-newest")
        oldest = sock.events(max_buffer_size=3, overflow="drop-oldest")
        sent = await send_to_itself(sock, 10)
        for channel, kept in ((newest, sent[:3]), (oldest, sent[-3:])):
            assert channel.statistics().dropped == 7
            assert channel.statistics().queued == 3
            events = waiting(channel)
            assert events[0] == Listening(sock.address)
            assert payloads(events) == kept


async def test_events_keep_their_order_among_datagrams(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        events = sock.events(max_buffer_size=4, overflow="drop-oldest")
        await send_to_itself(sock, 3)
        await sock.connect(sock.address)
        await sock.send(b"after")
        await wait_all_tasks_blocked()
        assert [type(event) for event in waiting(events)] == [Listening, *[Datagram] * 3, Connected, Datagram]


async def test_failures_beyond_the_buffer_drop_the_oldest_and_are_counted(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            events = sock.events(Listening, Failure, max_buffer_size=2)
            await sock.send(b"x", sock.address)
            datagram = await sock.receive()
            for number in (1, 13, 22):
                faults.set("sendto", number, number, number)
                await sock.send(b"y", datagram.address)
                faults.plan.clear()
            received = waiting(events)
            assert received[0] == Listening(sock.address)
            assert [event.error.errno for event in received if isinstance(event, Failure)] == [13, 22]
            assert events.statistics().failures_dropped == 1


async def test_on_close_datagrams_are_discarded_and_failures_stay(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            events = sock.events(Datagram, Failure, Closed)
            await send_to_itself(sock, 2)
            faults.set("recvfrom", 111)
            await send_to_itself(sock, 2)
            sock.close()
            left = [event async for event in events]
            assert [type(event) for event in left] == [Failure, Closed]
            assert events.statistics().dropped == 4


async def test_a_waiting_receive_learns_of_an_event_of_a_close_and_of_the_end(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        got: list[Event] = []
        closing = sock.events(Datagram)

        async def listen(channel: EventChannel[Event]) -> None:
            async for event in channel:
                got.append(event)

        async def listen_in_vain() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await closing.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, sock.events(Datagram, Closed))
            nursery.start_soon(listen_in_vain)
            await wait_all_tasks_blocked()
            await closing.aclose()
            closing.close()
            assert closing.closed
            await send_to_itself(sock, 1)
            sock.close()
        assert [type(event) for event in got] == [Datagram, Closed]
        with pytest.raises(trio.ClosedResourceError):
            closing.receive_nowait()
        assert "closed" in repr(closing)


async def test_several_tasks_share_a_channel(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        events = sock.events(Datagram, max_buffer_size=math.inf)
        got: list[bytes] = []

        async def take() -> None:
            got.append((await events.receive()).data)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take)
            await wait_all_tasks_blocked()
            sent = await send_to_itself(sock, 3)
        assert sorted(got) == sent
        assert "Datagram" in repr(events)


async def test_a_channel_may_be_opened_before_the_socket_is_bound(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        events = sock.events(Datagram)
        with pytest.raises(trio_dgram.NotBoundError):
            await sock.receive()
        await sock.bind(0, udp.loopback)
        sent = await send_to_itself(sock, 2)
        assert [(await events.receive()).data for _ in sent] == sent


async def test_a_call_that_raises_is_not_reported_as_an_event_as_well(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        events = sock.events(Failure)
        with pytest.raises(OSError, match="too long"):
            await sock.send(b"x" * 70_000, sock.address)
        assert waiting(events) == []
