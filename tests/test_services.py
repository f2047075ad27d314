"""A channel per peer: accepting, ending, limits, and one task at a time that reads for all."""

from __future__ import annotations

import errno
import gc
import logging
import socket
import tracemalloc
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import (
    AmplificationLimitError,
    Datagram,
    DatagramChannel,
    DatagramListener,
    DatagramSocket,
    sim,
)
from trio_dgram._services import sockets as _sockets
from trio_dgram.sim import cancel_everywhere

from .support.families import Family
from .support.refusing import refusing_address

Handler = Any


async def shout(peer: trio.abc.Channel[bytes]) -> None:
    """Echo each datagram in capitals, for any channel of bytes."""
    async for data in peer:
        await peer.send(data.upper())


@pytest.fixture
async def client(udp: Family) -> AsyncGenerator[DatagramSocket]:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        yield sock


async def listen(udp: Family, **options: Any) -> DatagramListener:
    (listener,) = await trio_dgram.open_listeners(0, host=udp.loopback, **options)
    return listener


async def accepted(listener: DatagramListener, sock: DatagramSocket, data: bytes = b"hello") -> DatagramChannel:
    await sock.send(data, listener.address)
    return await listener.accept()


# Accepting and talking


async def test_trio_serves_its_listeners_as_those_of_tcp() -> None:
    listeners = await trio_dgram.open_listeners(0)
    assert len({listener.address.port for listener in listeners}) == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, shout, listeners)
        for host in ("127.0.0.1", "::1", "localhost"):
            async with trio_dgram.open_connection(host, listeners[0].address.port) as peer:
                await peer.send(b"hello")
                assert await peer.receive() == b"HELLO"
        nursery.cancel_scope.cancel()


async def test_serve_reports_its_listeners_and_their_port(udp: Family) -> None:
    async with trio.open_nursery() as nursery:
        listeners: list[DatagramListener] = await nursery.start(trio_dgram.serve, shout, 0)
        async with trio_dgram.open_connection(udp.loopback, listeners[0].address.port) as peer:
            for payload in (b"hello", b"", b"again"):
                await peer.send(payload)
                assert await peer.receive() == payload.upper()
        nursery.cancel_scope.cancel()


async def test_handlers_run_in_the_given_nursery(udp: Family) -> None:
    async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio_dgram.serve(
                shout, 0, host=udp.loopback, handler_nursery=handlers, task_status=task_status
            )
        )
        async with trio_dgram.open_connection(udp.loopback, listeners[0].address.port) as peer:
            await peer.send(b"hello")
            assert await peer.receive() == b"HELLO"
            assert len(handlers.child_tasks) == 1
        handlers.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_each_peer_has_a_channel_of_its_own(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener, trio_dgram.open_socket(udp.type) as other:
        first, second = await accepted(listener, client, b"one"), await accepted(listener, other, b"two")
        assert (first.address, first.local_address) == (client.address, listener.address)
        assert [await first.receive(), await second.receive()] == [b"one", b"two"]
        await first.send(b"to the first")
        await second.send(memoryview(b"to the second"))
        assert (await client.receive()).data == b"to the first"
        assert (await other.receive()).data == b"to the second"
        statistics = first.statistics()
        assert (statistics.received, statistics.bytes_received, statistics.bytes_sent) == (1, 3, 12)
        assert (listener.statistics().peers, listener.statistics().accepted) == (2, 2)
        for channel in (first, second):
            await channel.aclose()
        assert listener.statistics().peers == 0


async def test_a_waiting_task_reads_for_all_and_passes_that_role_on(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener, trio_dgram.open_socket(udp.type) as other, AsyncExitStack() as stack:
        first, second = await accepted(listener, client), await accepted(listener, other)
        for channel in (first, second):
            stack.push_async_callback(channel.aclose)
            await channel.receive()
        got: list[object] = []

        async def receive(channel: DatagramChannel) -> None:
            got.append(await channel.receive())

        async def accept() -> None:
            got.append(await listener.accept())

        async with trio.open_nursery() as nursery:
            for channel in (first, second):
                nursery.start_soon(receive, channel)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await other.send(b"for the second", listener.address)
            await trio.testing.wait_all_tasks_blocked()
            assert got == [b"for the second"]
            await client.send(b"for the first", listener.address)
            await trio.testing.wait_all_tasks_blocked()
            assert got == [b"for the second", b"for the first"]
            async with trio_dgram.open_socket(udp.type) as third:
                await third.send(b"new", listener.address)
        new = got[2]
        assert isinstance(new, DatagramChannel)
        new.close()


async def test_the_reading_task_may_be_cancelled_at_any_moment(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener:
        channel = await accepted(listener, client)
        await channel.receive()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def accept() -> None:
                with scope:
                    await listener.accept()

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()

            async def receive() -> None:
                assert await channel.receive() == b"after it"

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await client.send(b"after it", listener.address)
        channel.close()


# Ending


async def test_closing_twice_is_closing_once(udp: Family, client: DatagramSocket) -> None:
    listener = await listen(udp)
    channel = await accepted(listener, client)
    for _ in range(2):
        await channel.aclose()
        await listener.aclose()
    for call in (channel.receive, listener.accept):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        await channel.send(b"x")
    assert "closed" in repr(channel)
    assert "closed" in repr(listener)


@pytest.mark.parametrize("first", ["accept", "receive"])
async def test_closing_ends_waiting_calls(udp: Family, client: DatagramSocket, first: str) -> None:
    listener = await listen(udp)
    channel = await accepted(listener, client)
    await channel.receive()

    async def expect_end(call: Any) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()

    calls = [listener.accept, channel.receive]
    async with trio.open_nursery() as nursery:
        # The one that is first reads for both.
        for call in calls if first == "accept" else reversed(calls):
            nursery.start_soon(expect_end, call)
            await trio.testing.wait_all_tasks_blocked()
        listener.close()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        channel.close()


async def test_the_port_is_free_when_the_last_channel_is_closed(udp: Family, client: DatagramSocket) -> None:
    listener = await listen(udp)
    first, port = await accepted(listener, client), listener.address.port
    listener.close()
    assert listener.address.port == port
    await first.send(b"still here")
    assert (await client.receive()).data == b"still here"
    async with trio_dgram.open_socket(udp.type) as other:
        with pytest.raises(OSError, match="in use"):
            await other.bind(port, udp.loopback)
        first.close()
        await other.bind(port, udp.loopback)


async def test_closing_a_listener_closes_the_peers_in_its_backlog(udp: Family, client: DatagramSocket) -> None:
    listener = await listen(udp)
    channel = await accepted(listener, client)
    async with trio_dgram.open_socket(udp.type) as other:
        await other.send(b"not accepted", listener.address)
        await client.send(b"more", listener.address)
        assert await channel.receive() == b"hello"
        assert await channel.receive() == b"more"
        assert listener.statistics().waiting == 1
        listener.close()
        assert listener.statistics().peers == 1
        await other.send(b"too late", listener.address)
        await client.send(b"last", listener.address)
        assert await channel.receive() == b"last"
        assert listener.statistics().refused == 1
    channel.close()


async def test_a_closed_channels_peer_is_a_new_one(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener:
        first = await accepted(listener, client)
        first.close()
        second = await accepted(listener, client, b"again")
        assert second is not first
        assert await second.receive() == b"again"
        second.close()


def test_a_peer_that_sends_nothing_ends_even_if_it_is_sent_to(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        (listener,) = await trio_dgram.open_listeners(7, host=udp.loopback, idle_timeout=10)
        async with trio_dgram.open_socket(udp.type) as sock, listener:
            channel = await accepted(listener, sock)
            await channel.receive()
            async with trio.open_nursery() as nursery:

                async def talk() -> None:
                    await trio.sleep(5)
                    await channel.send(b"still there?")
                    await trio.sleep(3)
                    await sock.send(b"yes", listener.address)

                nursery.start_soon(talk)
                assert await channel.receive() == b"yes"
                with pytest.raises(trio.EndOfChannel):
                    await channel.receive()
            assert round(network.time, 4) == 18
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
            with pytest.raises(trio.BrokenResourceError):
                await channel.send(b"x")
            assert "ended" in repr(channel)
            assert (listener.statistics().expired, listener.statistics().peers) == (1, 0)

    sim.run(scenario)


# Limits


async def flood(sock: DatagramSocket, listener: DatagramListener, count: int, size: int) -> None:
    await sock.send_many([Datagram(bytes(size), listener.address)] * count)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"max_buffer_size": 5}, 5),
        ({"max_buffer_bytes": 350}, 3),
        # Unvalidated peers have half of it.
        ({"max_total_bytes": 500}, 2),
    ],
)
async def test_datagrams_beyond_a_limit_are_dropped_and_counted(
    udp: Family, client: DatagramSocket, options: dict[str, int], kept: int
) -> None:
    async with await listen(udp, **options) as listener, trio_dgram.open_socket(udp.type) as other:
        await flood(client, listener, 10, 100)
        channel = await listener.accept()
        honest = await accepted(listener, other, b"ok")
        assert await honest.receive() == b"ok"
        statistics = channel.statistics()
        assert (statistics.queued, statistics.queued_bytes, statistics.dropped) == (kept, kept * 100, 10 - kept)
        assert (listener.statistics().dropped, listener.statistics().buffered_bytes) == (10 - kept, kept * 100)
        for _ in range(kept):
            await channel.receive()
        assert listener.statistics().buffered_bytes == 0
        for each in (channel, honest):
            each.close()


async def peers_of(count: int, udp: Family, listener: DatagramListener, stack: AsyncExitStack) -> list[DatagramSocket]:
    socks = [
        await stack.enter_async_context(trio_dgram.open_socket(udp.type, port=0, host=udp.loopback))
        for _ in range(count)
    ]
    for sock in socks:
        await sock.send(b"hello", listener.address)
    return socks


async def test_a_new_peer_evicts_an_unvalidated_one_and_no_validated_one(udp: Family) -> None:
    async with await listen(udp, max_peers=2) as listener, AsyncExitStack() as stack:
        await peers_of(2, udp, listener, stack)
        first, second = await listener.accept(), await listener.accept()
        await peers_of(1, udp, listener, stack)
        third = await listener.accept()
        assert listener.statistics().evicted == 1
        # What it had sent is discarded: the memory of an evicted peer is free at once.
        assert listener.statistics().discarded == 1
        with pytest.raises(trio.EndOfChannel):
            await first.receive()
        second.mark_validated()
        second.mark_validated()
        third.mark_validated()
        assert second.statistics().validated
        await peers_of(1, udp, listener, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (listener.statistics().evicted, listener.statistics().refused) == (1, 1)
        for channel in (first, second, third):
            channel.close()


def test_a_new_peer_gets_the_place_of_a_peer_past_its_idle_timeout(udp: Family) -> None:
    async def scenario(_: sim.Network) -> None:
        (listener,) = await trio_dgram.open_listeners(
            7, host=udp.loopback, max_peers=1, idle_timeout=10, unvalidated_timeout=1
        )
        async with listener, AsyncExitStack() as stack:
            await peers_of(1, udp, listener, stack)
            first = await listener.accept()
            first.mark_validated()
            await trio.sleep(5)
            await peers_of(1, udp, listener, stack)
            with trio.move_on_after(1):
                await listener.accept()
            assert listener.statistics().refused == 1
            await trio.sleep(5)
            await peers_of(1, udp, listener, stack)
            second = await listener.accept()
            assert "ended" in repr(first)
            await second.receive()
            before = trio.current_time()
            with pytest.raises(trio.EndOfChannel):
                await second.receive()
            assert round(trio.current_time() - before, 4) == 1
            assert listener.statistics().expired == 2

    sim.run(scenario)


async def test_accept_filter_admits_peers(
    udp: Family, client: DatagramSocket, caplog: pytest.LogCaptureFixture
) -> None:
    def is_polite(datagram: Datagram) -> bool:
        if datagram.data == b"broken":
            raise ValueError(datagram.data)
        return datagram.data.startswith(b"please")

    async with await listen(udp, accept_filter=is_polite) as listener:
        for data in (b"now!", b"broken", b"please"):
            await client.send(data, listener.address)
        channel = await listener.accept()
        assert await channel.receive() == b"please"
        await client.send(b"now!", listener.address)
        assert await channel.receive() == b"now!"
        assert listener.statistics().refused_by_filter == 2
        assert "accept_filter failed" in caplog.text
        channel.close()


@pytest.mark.parametrize("host", ["udp4", "mapped"])
async def test_a_network_has_so_many_peers(host: str) -> None:
    async with AsyncExitStack() as stack:
        (listener,) = await trio_dgram.open_listeners(0, host="127.0.0.1", max_peers_per_network=(2, 1))
        await stack.enter_async_context(listener)
        socks = [
            await stack.enter_async_context(trio_dgram.open_socket("udp4", port=0, host=f"127.0.{third}.{last}"))
            for third, last in ((1, 1), (1, 2), (1, 3), (2, 1))
        ]
        for sock in socks:
            await sock.send(b"hello", listener.address)
        channels = [await listener.accept() for _ in range(3)]
        assert [channel.address.host for channel in channels] == ["127.0.1.1", "127.0.1.2", "127.0.2.1"]
        assert listener.statistics().refused_by_network == 1
        channels[0].close()
        await socks[2].send(b"now", listener.address)
        channels.append(await listener.accept())
        assert channels[-1].address.host == "127.0.1.3"
        for channel in channels:
            channel.close()


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.77", ("192.0.2.0/24", 0)),
        ("::ffff:192.0.2.77", ("192.0.2.0/24", 0)),
        ("2001:db8:1:2ff::1", ("2001:db8:1:200::/56", 1)),
        ("fe80::1%eth0", ("fe80::/56", 1)),
    ],
)
def test_which_network_a_peer_counts_for(host: str, network: tuple[str, int]) -> None:
    from trio_dgram._services.networks import network_of  # noqa: PLC0415 -- for this alone

    assert network_of(host) == network


async def test_the_amplification_limit_holds_until_a_peer_is_validated(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp, amplification_limit=3) as listener:
        channel = await accepted(listener, client, bytes(10))
        await channel.send(bytes(20))
        with pytest.raises(AmplificationLimitError, match="11 more bytes"):
            await channel.send(bytes(11))
        await channel.send(bytes(10))
        with pytest.raises(AmplificationLimitError):
            await channel.send(b"x")
        channel.mark_validated()
        await channel.send(bytes(1000))
        assert [len((await client.receive()).data) for _ in range(3)] == [20, 10, 1000]
        assert listener.statistics().amplification_refused == 2
        channel.close()


# Others do not notice


async def test_a_failing_or_slow_handler_does_not_affect_other_peers(
    udp: Family, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(peer: DatagramChannel) -> None:
        async for data in peer:
            if data == b"hang":
                await trio.sleep_forever()
            if data == b"raise":
                raise ValueError("of the handler")
            await peer.send(data.upper())

    caplog.set_level(logging.ERROR)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        (listener,) = await nursery.start(
            lambda task_status: trio_dgram.serve(handler, 0, host=udp.loopback, task_status=task_status)
        )
        peers = [
            await stack.enter_async_context(trio_dgram.open_connection(udp.loopback, listener.address.port))
            for _ in range(4)
        ]
        await peers[0].send(b"hang")
        await peers[1].send(b"raise")
        for _ in range(200):
            await peers[2].send(b"flood")
        await peers[3].send(b"honest")
        assert await peers[3].receive() == b"HONEST"
        await peers[1].send(b"again")
        assert await peers[1].receive() == b"AGAIN"
        assert "of the handler" in caplog.text
        assert str(peers[1].local_address.port) in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_peer_evicted_before_it_is_accepted_leaves_nothing_behind(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp, max_peers=2) as listener, AsyncExitStack() as stack:
        channel = await accepted(listener, client)
        channel.mark_validated()
        await channel.receive()
        socks = await peers_of(5, udp, listener, stack)
        await client.send(b"last", listener.address)
        assert await channel.receive() == b"last"
        now = listener.statistics()
        assert (now.received, now.delivered, now.queued, now.discarded) == (7, 2, 1, 4)
        assert (now.waiting, now.evicted, now.buffered_bytes) == (1, 4, 5)
        newest = await listener.accept()
        assert newest.address == socks[-1].address
        for each in (channel, newest):
            each.close()
        assert listener.statistics().discarded == 5


async def test_a_handler_that_answers_an_evicted_peer_has_not_failed(
    udp: Family, client: DatagramSocket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def handler(peer: DatagramChannel) -> None:
        data = await peer.receive()
        started[data].set()
        with trio.CancelScope(shield=True):
            await go_on.wait()
            if data == b"broken":
                raise trio.BrokenResourceError("of the handler's own")
            try:
                await peer.send(data)
            finally:
                done[data].set()

    go_on = trio.Event()
    started, done = defaultdict[bytes, trio.Event](trio.Event), defaultdict[bytes, trio.Event](trio.Event)
    async with trio.open_nursery() as nursery, trio_dgram.open_socket(udp.type) as other:
        (listener,) = await nursery.start(
            lambda task_status: trio_dgram.serve(handler, 0, host=udp.loopback, max_peers=1, task_status=task_status)
        )
        for sock, data in ((client, b"first"), (other, b"second")):
            await sock.send(data, listener.address)
            await started[data].wait()
        go_on.set()
        for data in (b"first", b"second"):
            await done[data].wait()
        await trio.testing.wait_all_tasks_blocked()
        assert listener.statistics().evicted == 1
        assert not caplog.text
        await other.send(b"broken", listener.address)
        await started[b"broken"].wait()
        await trio.testing.wait_all_tasks_blocked()
        assert "of the handler's own" in caplog.text
        nursery.cancel_scope.cancel()


async def test_two_cannot_receive_at_once(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener, trio.open_nursery() as nursery:
        channel = await accepted(listener, client)
        await channel.receive()
        nursery.start_soon(channel.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await channel.receive()
        nursery.cancel_scope.cancel()
        channel.close()


@pytest.mark.long
def test_ten_thousand_peers_each_get_their_own_answers() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        (listener,) = await server.run(open_one, 20_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, shout, [listener])
            with client.active():
                async with trio_dgram.open_nursery() as sockets:
                    socks = [sockets.create_socket("udp4") for _ in range(10_000)]
                    to = await trio_dgram.resolve("server", 7, "udp4")
                    for start in range(0, len(socks), 100):
                        for number, sock in enumerate(socks[start : start + 100], start):
                            await sock.send(b"peer %d" % number, to)
                        for number, sock in enumerate(socks[start : start + 100], start):
                            assert (await sock.receive()).data == b"PEER %d" % number
                    assert listener.statistics().peers == 10_000
                    sockets.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def open_one(max_peers: int) -> list[DatagramListener]:
        return await trio_dgram.open_listeners(7, host="0.0.0.0", max_peers=max_peers)

    sim.run(scenario)


@pytest.mark.long
async def test_an_idle_peer_uses_little_memory() -> None:
    async def idle(channel: DatagramChannel) -> None:
        async with channel:
            await channel.receive()
            await channel.receive()

    async def nothing(_: object) -> None:
        await trio.sleep_forever()

    def memory() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    count = 1000
    (listener,) = await trio_dgram.open_listeners(0, host="127.0.0.1", max_peers=count)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listener)
        tracemalloc.start()
        async with trio.open_nursery() as nursery:
            before = memory()
            for _ in range(count):
                nursery.start_soon(nothing, None)
            await trio.testing.wait_all_tasks_blocked()
            task_alone = memory() - before
            nursery.cancel_scope.cancel()
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        async with trio.open_nursery() as nursery:
            before = memory()
            for sock in socks:
                sock.sendto(b"x", listener.address)
                nursery.start_soon(idle, await listener.accept())
            await trio.testing.wait_all_tasks_blocked()
            with_peer = memory() - before
            nursery.cancel_scope.cancel()
        tracemalloc.stop()
        for sock in socks:
            sock.close()
    assert (with_peer - task_alone) / count <= 2048


# Connecting


async def test_a_name_is_tried_address_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*hosts: str) -> Any:
        async def getaddrinfo(*_: object, **__: object) -> Any:
            return [
                (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, 9))
                for host in hosts
            ]

        return getaddrinfo

    monkeypatch.setattr(trio.socket, "getaddrinfo", answer("255.255.255.255", "127.0.0.1"))
    async with trio_dgram.open_connection("two.example", 9) as peer:
        assert peer.address == ("127.0.0.1", 9)
    monkeypatch.setattr(trio.socket, "getaddrinfo", answer("255.255.255.255"))
    with pytest.raises(PermissionError):
        async with trio_dgram.open_connection("none.example", 9):
            raise AssertionError


async def test_a_refusal_is_raised_by_receive(udp: Family) -> None:
    async with refusing_address(udp) as refusing, trio_dgram.open_connection(*refusing) as peer:
        await peer.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            await peer.receive()


async def test_an_invalid_payload_is_refused_and_nothing_is_sent(udp: Family) -> None:
    async with trio_dgram.open_connection(udp.loopback, 9) as peer:
        with pytest.raises(TypeError, match="the payload must be bytes-like"):
            await peer.send(7)  # type: ignore[arg-type]
        with pytest.raises(OSError, match="too long") as caught:
            await peer.send(bytes(70_000))
        assert caught.value.errno == errno.EMSGSIZE


async def test_a_port_that_is_taken_in_one_family_is_an_error_and_leaves_nothing_open() -> None:
    async with trio_dgram.open_socket("udp4", port=0) as taken:
        with pytest.raises(OSError, match="in use"):
            await trio_dgram.open_listeners(taken.address.port)
        (listener,) = await trio_dgram.open_listeners(taken.address.port, host="::")
        listener.close()


# Cancelled everywhere


def test_everything_can_be_cancelled_at_every_point(udp: Family) -> None:
    async def exchange() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio_dgram.serve, shout, 7)
            async with trio_dgram.open_connection(udp.loopback, listeners[0].address.port) as peer:
                await peer.send(b"hello")
                assert await peer.receive() == b"HELLO"
            nursery.cancel_scope.cancel()

    async def scenario(_: sim.Network) -> int:
        return await cancel_everywhere(exchange)

    assert sim.run(scenario) > 10


# Faults


def failing(monkeypatch: pytest.MonkeyPatch, errors: dict[str, list[OSError]]) -> None:
    """Make the creation of listeners' sockets fail, by type and in order."""
    make = _sockets.make_socket

    def make_socket(type_: str, options: Any) -> DatagramSocket:
        if errors.get(type_):
            raise errors[type_].pop(0)
        return make(type_, options)

    monkeypatch.setattr(_sockets, "make_socket", make_socket)


async def test_without_one_family_the_listener_uses_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [OSError(errno.EAFNOSUPPORT, "no IPv6"), OSError(errno.EAFNOSUPPORT, "no IPv6")]
    failing(monkeypatch, {"udp6": missing, "udp4": [OSError(errno.EAFNOSUPPORT, "no IPv4")]})
    with pytest.raises(OSError, match="no IPv6"):
        await trio_dgram.open_listeners(0)
    (listener,) = await trio_dgram.open_listeners(0)
    assert listener.address.host == "0.0.0.0"
    listener.close()


async def test_a_chosen_port_that_is_taken_in_one_family_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, {"udp4": [OSError(errno.EADDRINUSE, "in use")] * 3})
    listeners = await trio_dgram.open_listeners(0)
    assert len({listener.address.port for listener in listeners}) == 1
    for listener in listeners:
        listener.close()
    failing(monkeypatch, {"udp4": [OSError(errno.EADDRINUSE, "in use")] * 16})
    with pytest.raises(OSError, match="in use"):
        await trio_dgram.open_listeners(0)


async def test_a_name_is_listened_on_at_its_addresses() -> None:
    async with sim.open_network() as network:
        host = network.host("server", addresses=["192.0.2.1", "2001:db8::1"])
        with host.active():
            listeners = await trio_dgram.open_listeners(0, host="server")
        assert {listener.address.host for listener in listeners} == {"192.0.2.1", "2001:db8::1"}
        for listener in listeners:
            listener.close()


async def test_closing_a_channel_ends_its_receive_while_another_reads(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener, trio.open_nursery() as nursery:
        channel = await accepted(listener, client)
        await channel.receive()
        nursery.start_soon(listener.accept)
        await trio.testing.wait_all_tasks_blocked()

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive()
            nursery.cancel_scope.cancel()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        channel.close()


def test_a_validated_peer_expires_after_idle_timeout_while_accept_waits(udp: Family) -> None:
    async def scenario(_: sim.Network) -> None:
        (listener,) = await trio_dgram.open_listeners(7, host=udp.loopback, idle_timeout=5, unvalidated_timeout=50)
        async with trio_dgram.open_socket(udp.type) as sock, listener, trio.open_nursery() as nursery:
            channel = await accepted(listener, sock)
            await channel.receive()
            nursery.start_soon(listener.accept)
            await trio.sleep(1)
            channel.mark_validated()
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
            assert round(trio.current_time(), 4) == 6
            nursery.cancel_scope.cancel()

    sim.run(scenario)


async def test_of_two_accepting_tasks_one_gets_the_peer(udp: Family, client: DatagramSocket) -> None:
    async with await listen(udp) as listener, trio.open_nursery() as nursery:
        got: list[DatagramChannel] = []

        async def accept() -> None:
            got.append(await listener.accept())

        for _ in range(3):
            nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"hello", listener.address)
        await trio.testing.wait_all_tasks_blocked()
        assert len(got) == 1
        got[0].close()
        nursery.cancel_scope.cancel()
