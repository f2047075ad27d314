"""Connecting: what the suites of other implementations check."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Address, Closed, Connected, Datagram, DatagramNursery, Failure, Listening

from ..support.families import Family
from ..support.refusing import refusing_address
from .conftest import HeldLookup


@pytest.mark.parametrize("host", ["", None])
async def test_the_default_host_is_loopback(udp: Family, host: str | None) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer,
        trio_dgram.open_socket(udp.type) as sock,
    ):
        await sock.connect((host, peer.address.port))
        assert sock.remote_address == (udp.loopback, peer.address.port)
        await sock.send(b"x")
        assert (await peer.receive()).address == sock.address


@pytest.mark.kernel_transport("disconnecting")
@pytest.mark.needs("disconnect")
async def test_a_socket_keeps_its_port_when_it_disconnects_and_connects_elsewhere(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        peers = [nursery.create_socket(udp.type) for _ in range(2)]
        sock = nursery.create_socket(udp.type)
        events = sock.events(Connected)
        ports = set()
        for peer in peers:
            await peer.bind(0, udp.loopback)
            await sock.connect(peer.address)
            assert sock.remote_address == peer.address
            assert sock.address.host == udp.loopback
            await sock.send(b"hello")
            datagram = await peer.receive()
            ports |= {datagram.address.port, sock.address.port}
            await peer.send(datagram.reply(b"answer"))
            assert (await sock.receive()) == (b"answer", peer.address, None)
            assert await events.receive() == Connected(peer.address)
            sock.disconnect()
            assert sock.address.host == udp.wildcard
            ports.add(sock.address.port)
        assert len(ports) == 1
        nursery.cancel_scope.cancel()


async def test_a_connected_socket_sends_to_its_peer_only(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.connect(sock.address)
        with pytest.raises(trio_dgram.AlreadyConnectedError):
            await sock.send(b"x", sock.address)
        with pytest.raises(trio_dgram.AlreadyConnectedError):
            await sock.send(Datagram(b"x", Address(udp.loopback, 9)))
        with pytest.raises(trio_dgram.AlreadyConnectedError):
            await sock.send_many([Datagram(b"x", sock.address), Datagram(b"x", Address(udp.loopback, 9))])
        assert sock.statistics().sent == 0
        await sock.send(Datagram(b"1", sock.address))
        await sock.send_many([Datagram(b"2", sock.address)] * 2)
        assert [(await sock.receive()).data for _ in range(3)] == [b"1", b"2", b"2"]


@pytest.mark.kernel_transport("sending at once")
async def test_send_nowait_on_a_connected_socket_sends_to_its_peer_only(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        with pytest.raises(trio_dgram.NotConnectedError, match="send"):
            sock.send_nowait(b"x")
        await sock.connect(sock.address)
        with pytest.raises(trio_dgram.AlreadyConnectedError):
            sock.send_nowait(b"x", sock.address)
        sock.send_nowait(Datagram(b"1", sock.address))
        assert (await sock.receive()).data == b"1"


@pytest.mark.kernel_transport("disconnecting")
@pytest.mark.needs("disconnect")
async def test_connecting_and_disconnecting_keep_the_bound_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        port = sock.address.port
        for _ in range(2):
            await sock.connect(("", 9))
            assert sock.address == (udp.loopback, port)
            sock.disconnect()
            assert sock.address == (udp.wildcard, port)


async def test_connecting_binds_the_socket_and_sends_both_events(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        events = sock.events(Listening, Connected, Closed)
        await sock.connect(("", 9))
        assert sock.address.port > 0
        sock.close()
        listening, *others = [event async for event in events]
        assert isinstance(listening, Listening)
        assert others == [Connected(Address(udp.loopback, 9)), Closed()]


@pytest.mark.usefixtures("namespace")
async def test_connecting_to_the_wildcard_address_connects_to_loopback(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=4242) as peer,
        trio_dgram.open_socket(udp.type, connect=(udp.wildcard, 4242)) as sock,
    ):
        assert sock.remote_address == (udp.loopback, 4242)
        await sock.send(b"hello")
        assert (await peer.receive()).address == sock.address


async def test_a_name_that_does_not_resolve_leaves_the_socket_unconnected(udp: Family, lookup: HeldLookup) -> None:
    lookup.error = error = socket.gaierror(socket.EAI_NONAME, "the resolver's own")
    lookup.allowed.set()
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
        for _ in range(2):
            with pytest.raises(socket.gaierror) as caught:
                await sock.connect(("a.name", 9))
            assert caught.value is error
            with pytest.raises(trio_dgram.NotConnectedError):
                _ = sock.remote_address
        await sock.connect(("", 9))
        assert sock.remote_address == (udp.loopback, 9)


async def test_after_a_blocked_address_connecting_to_another_one_succeeds(udp: Family) -> None:
    other = {"udp4": "127.0.0.2", "udp6": "::ffff:127.0.0.1"}[udp.type]
    async with trio_dgram.open_socket(udp.type, send_block_list=[udp.loopback]) as sock:
        with pytest.raises(trio_dgram.AddressBlockedError, match="connect"):
            await sock.connect(("", 9))
        with pytest.raises(trio_dgram.NotConnectedError):
            _ = sock.remote_address
        await sock.connect((other, 9))
        assert sock.remote_address == (other, 9)


async def test_connect_waits_for_a_bind_in_progress(udp: Family, lookup: HeldLookup) -> None:
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock, trio.open_nursery() as nursery:
        nursery.start_soon(sock.bind, 0, "a.name")
        await lookup.asked.wait()
        nursery.start_soon(sock.connect, ("", 9))
        await wait_all_tasks_blocked()
        with pytest.raises(trio_dgram.NotConnectedError):
            _ = sock.remote_address
        lookup.allowed.set()
        await wait_all_tasks_blocked()
        assert sock.remote_address == (udp.loopback, 9)


@pytest.mark.needs("reuse_port")
async def test_two_sockets_on_one_port_connect_to_two_peers(udp: Family, nursery: DatagramNursery) -> None:
    peers = [nursery.create_socket(udp.type) for _ in range(2)]
    socks = [nursery.create_socket(udp.type, reuse_port=True) for _ in range(2)]
    port = 0
    for peer, sock in zip(peers, socks, strict=True):
        await peer.bind(0, udp.loopback)
        port = (await sock.bind(port, udp.loopback)).port
        await sock.connect(peer.address)
    for sock in socks:
        await sock.send(b"hello")
    for peer, sock in zip(peers, socks, strict=True):
        datagram = await peer.receive()
        assert datagram.address == (udp.loopback, port)
        await peer.send(datagram.reply(str(peer.address.port).encode()))
        assert (await sock.receive()).data == str(peer.address.port).encode()


async def test_iteration_works_on_a_connected_socket(udp: Family, nursery: DatagramNursery) -> None:
    peer, sock = nursery.create_socket(udp.type), nursery.create_socket(udp.type)
    await peer.bind(0, udp.loopback)
    await sock.connect(peer.address)

    async def answer_backwards() -> None:
        async for datagram in sock:
            await sock.send(datagram.data[::-1])

    nursery.start_soon(answer_backwards)
    for data in (b"FOOBAR", b"123456"):
        await peer.send(data, sock.address)
        assert await peer.receive() == (data[::-1], sock.address, None)


async def test_connecting_twice_or_while_another_task_connects_is_refused(udp: Family, lookup: HeldLookup) -> None:
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.connect, ("a.name", 9))
            await lookup.asked.wait()
            with pytest.raises(trio_dgram.AlreadyConnectedError):
                await sock.connect(("", 10))
            lookup.allowed.set()
        with pytest.raises(trio_dgram.AlreadyConnectedError):
            await sock.connect(("", 10))
        assert sock.remote_address == (udp.loopback, 9)


async def test_disconnect_remote_address_and_send_need_a_connection(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        with pytest.raises(trio_dgram.NotConnectedError, match="disconnect"):
            sock.disconnect()
        with pytest.raises(trio_dgram.NotConnectedError, match="remote_address"):
            _ = sock.remote_address
        with pytest.raises(trio_dgram.NotConnectedError, match="send"):
            await sock.send(b"x")


async def test_a_socket_connected_to_itself_receives_its_own_datagrams(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.connect(sock.address)
        for value, data in (
            (b"mine", b"mine"),
            ([b"mi", b"ne"], b"mine"),
            (["mi", "ne"], b"mine"),
            ([], b""),
            (b"", b""),
        ):
            await sock.send(value)
            assert await sock.receive() == (data, sock.address, None)


async def test_four_sends_to_a_live_peer_arrive(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer,
        trio_dgram.open_socket(udp.type, connect=("", peer.address.port)) as sock,
    ):
        for number in range(4):
            await sock.send(str(number))
        assert [(await peer.receive()).data for _ in range(4)] == [b"0", b"1", b"2", b"3"]


async def test_a_connected_socket_filters_other_sources_also_of_datagrams_queued_before(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        peer, other, sock = (nursery.create_socket(udp.type) for _ in range(3))
        for each in (peer, other, sock):
            await each.bind(0, udp.loopback)
        for number in range(8):
            await other.send(b"before", sock.address)
            await peer.send(bytes([number]), sock.address)
        assert (await sock.receive()).data == b"before"
        assert (await sock.receive()).data == b"\0"
        await sock.connect(peer.address)
        await other.send(b"after", sock.address)
        await peer.send(b"\x08", sock.address)
        assert [(await sock.receive()).data[0] for _ in range(8)] == list(range(1, 9))
        assert sock.statistics().filtered == 7
        nursery.cancel_scope.cancel()


@pytest.mark.kernel_transport("disconnecting")
@pytest.mark.needs("disconnect")
async def test_a_disconnected_socket_receives_from_every_source_again(udp: Family, nursery: DatagramNursery) -> None:
    peer, other, sock = (nursery.create_socket(udp.type) for _ in range(3))
    for each in (peer, other, sock):
        await each.bind(0, udp.loopback)
    await sock.connect(peer.address)
    await other.send(b"filtered", sock.address)
    sock.disconnect()
    await other.send(b"again", sock.address)
    assert (await sock.receive()).data == b"again"


async def test_a_refused_port_is_raised_once_by_the_next_receive_and_never_by_send(udp: Family) -> None:
    async with (
        refusing_address(udp) as refusing,
        trio_dgram.open_socket(udp.type, connect=refusing) as sock,
        trio.open_nursery() as nursery,
    ):
        for _ in range(5):
            await sock.send(b"x")
        assert sock.statistics().sent == 5
        with pytest.raises(ConnectionRefusedError, match="receive"):
            await sock.receive()
        nursery.start_soon(sock.receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("namespace")
async def test_a_peer_that_starts_late_is_received_from_after_the_error(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, connect=("", 4242)) as sock:
        for _ in range(6):
            await sock.send(b"is anybody there?")
        with pytest.raises(ConnectionRefusedError):
            await sock.receive()
        async with trio_dgram.open_socket(udp.type, port=4242, host=udp.loopback) as peer:
            await peer.send(b"I am", sock.address)
            assert (await sock.receive()).data == b"I am"


@pytest.mark.usefixtures("namespace")
async def test_a_socket_can_be_closed_on_an_error_and_with_a_pending_error(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, connect=("", 4242)) as sock:
        await sock.send(b"PING")
        try:
            await sock.receive()
        except ConnectionRefusedError:
            sock.close()
        assert sock.closed
    async with trio_dgram.open_socket(udp.type, connect=("", 4242)) as sock:
        await sock.send(b"PING")
        await sock.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await sock.receive()


async def test_a_refused_port_goes_to_open_failure_channels_instead(udp: Family) -> None:
    async with refusing_address(udp) as refusing, trio_dgram.open_socket(udp.type, connect=refusing) as sock:
        failures = sock.events(Failure)
        await sock.send(b"x")
        await sock.send(b"x")
        failure = await failures.receive()
        assert (failure.error.errno, failure.operation) == (errno.ECONNREFUSED, "receive")
        assert failure.address == refusing


async def test_a_refused_port_does_not_affect_an_unconnected_socket(udp: Family) -> None:
    async with (
        refusing_address(udp) as refusing,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock,
    ):
        for _ in range(3):
            await sock.send(b"x", refusing)
        await sock.send(b"to myself", sock.address)
        assert (await sock.receive()).data == b"to myself"
        assert sock.statistics().receive_errors == 0
