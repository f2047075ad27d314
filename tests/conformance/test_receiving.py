"""Receiving: what the suites of other implementations check."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Address, Datagram, DatagramNursery
from trio_dgram._codecs.families import UDP6

from ..support.families import Family
from ..support.namespaces import Link, Machine


async def test_an_echo_has_the_sources_address_and_port_in_both_directions(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as server,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as client,
    ):
        await client.send(b"ping", server.address)
        datagram = await server.receive()
        assert datagram == Datagram(b"ping", client.address)
        assert (datagram.address.host, datagram.address.port) == client.address
        assert datagram.address.family == udp.family
        await server.send(datagram.data, datagram.address)
        assert await client.receive() == Datagram(b"ping", server.address)


@pytest.mark.not_simulated("there are no link-local addresses")
async def test_a_link_local_source_has_its_zone_and_can_be_answered(veth: Link) -> None:
    (here,) = (interface for interface in trio_dgram.interfaces() if interface.name == veth.name)
    (host,) = (address for address in here.addresses if address.startswith("fe80:"))
    assert host.endswith(f"%{veth.name}")
    async with trio_dgram.open_socket("udp6", port=0, host=host) as server:
        assert server.address.host == host
        assert server.address.family == socket.AF_INET6
        async with trio_dgram.open_socket("udp6", port=0, host=host) as client:
            await client.send(b"1", server.address)
            datagram = await server.receive()
            assert datagram.address == client.address == (host, client.address.port)
            await server.send(b"2", datagram.address)
            await server.send(datagram.reply(b"3"))
            await server.send_many([datagram.reply(b"4")] * 2)
            assert [(await client.receive()).data for _ in range(4)] == [b"2", b"3", b"4", b"4"]
            await client.connect(server.address)
            assert client.remote_address == server.address
            by_number = f"{host.partition('%')[0]}%{here.index}"
            await server.send(b"by number", (by_number, client.address.port))
            assert await client.receive() == (b"by number", server.address, None)


@pytest.mark.not_simulated("there are no link-local addresses")
async def test_the_zone_is_the_receiving_interface(machine: Machine, veth: Link, nursery: DatagramNursery) -> None:
    server = nursery.create_socket("udp6")
    port = (await server.bind()).port
    with machine.active():
        client = nursery.create_socket("udp6")
        # The address has the zone of the other machine.
        host = next(host for host in trio_dgram.interfaces()[1].addresses if host.startswith("fe80:"))
        await client.bind(0, host)
    await client.send(b"ping", (veth.here["udp6"], port))
    datagram = await server.receive()
    assert datagram.address == (host.replace(veth.peer_name, veth.name), client.address.port)
    await server.send(datagram.reply(b"pong"))
    assert (await client.receive()).data == b"pong"


async def test_an_unknown_zone_raises_gaierror() -> None:
    async with trio_dgram.open_socket("udp6") as sock:
        with pytest.raises(socket.gaierror, match="no interface 'nowhere'"):
            await sock.send(b"x", ("fe80::1%nowhere", 9))


async def test_a_source_on_a_removed_interface_keeps_the_index_as_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(index: int) -> str:
        raise OSError(index)

    monkeypatch.setattr(socket, "if_indextoname", gone)
    family = UDP6
    assert family.source(("fe80::1", 9, 0, 77)) == ("fe80::1%77", 9)


@pytest.mark.parametrize("connected", [False, True])
async def test_operations_after_close_raise_closed_resource_error(udp: Family, connected: bool) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        to: Address | None = sock.address
        if connected:
            await sock.connect(sock.address)
            to = None
        await sock.send(b"not received", to)
        await sock.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await sock.receive()
        with pytest.raises(trio.ClosedResourceError):
            await sock.send(b"x", to)
        with pytest.raises(trio.ClosedResourceError):
            async for _ in sock:
                raise AssertionError  # pragma: no cover -- nothing is delivered after close


@pytest.mark.parametrize("connected", [False, True])
async def test_closing_ends_a_waiting_receive(udp: Family, connected: bool) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock, trio.open_nursery() as nursery:
        if connected:
            await sock.connect(sock.address)

        async def close_when_it_waits() -> None:
            await wait_all_tasks_blocked()
            await sock.aclose()

        nursery.start_soon(close_when_it_waits)
        with pytest.raises(trio.ClosedResourceError):
            await sock.receive()


async def test_five_hundred_rounds_of_ping_pong_lose_nothing(udp: Family, nursery: DatagramNursery) -> None:
    server, client = nursery.create_socket(udp.type), nursery.create_socket(udp.type)
    await server.bind()

    async def echo() -> None:
        async for datagram in server:
            await server.send(datagram.data, datagram.address)

    nursery.start_soon(echo)
    for number in range(500):
        ping = str(number).encode()
        await client.send(ping, ("", server.address.port))
        assert await client.receive() == (ping, (udp.loopback, server.address.port), None)
    assert client.statistics().received == client.statistics().sent == 500


async def test_a_channel_receives_datagrams_with_their_source(udp: Family, nursery: DatagramNursery) -> None:
    receiver, sender = nursery.create_socket(udp.type), nursery.create_socket(udp.type)
    messages = receiver.events(Datagram)
    await receiver.bind(0, udp.loopback)
    sent = [b"%d" % number for number in range(40)] + [b""]
    for data in sent:
        await sender.send(data, receiver.address)
    received = [await messages.receive() for _ in sent]
    assert received == [Datagram(data, Address(udp.loopback, sender.address.port)) for data in sent]


async def test_nothing_from_a_blocked_address_is_received(udp: Family, nursery: DatagramNursery) -> None:
    # On a dual-stack socket an IPv4 address in a block list matches IPv4-mapped sources.
    other = {"udp4": "127.0.0.2", "udp6": "127.0.0.1"}[udp.type]
    receiver = nursery.create_socket(udp.type, receive_block_list=[other])
    port = (await receiver.bind()).port
    blocked, free = nursery.create_socket("udp4"), nursery.create_socket(udp.type)
    await blocked.bind(0, other)
    await blocked.send(b"blocked", ("127.0.0.1", port))
    await free.send(b"free", (udp.loopback, port))
    assert (await receiver.receive()).data == b"free"
    assert receiver.statistics().filtered == 1


async def test_iteration_returns_each_datagram_with_its_source(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sender,
    ):
        sent = [b"1", b"", b"3"]
        for data in sent:
            await sender.send(data, receiver.address)
        got = []

        async def iterate() -> None:
            async for datagram in receiver:
                got.append(datagram)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(iterate)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert got == [Datagram(data, sender.address) for data in sent]


async def test_an_empty_datagram_is_data_also_amid_a_burst(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        sent = [b"a", b"", b"b", b"", b""]
        await sock.send_many([Datagram(data, sock.address) for data in sent])
        received: list[bytes] = []
        while len(received) < len(sent):
            received += [datagram.data for datagram in await sock.receive_many()]
        assert received == sent


async def test_receiving_on_an_unbound_socket_raises_not_bound_error(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(trio_dgram.NotBoundError):
            await sock.receive()
        with pytest.raises(trio_dgram.NotBoundError):
            await sock.receive_many()


@pytest.mark.parametrize("connected", [False, True])
async def test_a_second_receiving_task_raises_busy_resource_error(udp: Family, connected: bool) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock, trio.open_nursery() as nursery:
        to: Address | None = sock.address
        if connected:
            await sock.connect(sock.address)
            to = None
        nursery.start_soon(sock.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await sock.receive()
        with pytest.raises(trio.BusyResourceError):
            await sock.receive_many()
        await sock.send(b"x", to)


@pytest.mark.kernel_transport("reading ahead")
async def test_receive_many_returns_up_to_max_count_queued_datagrams(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        sent = [bytes([number]) for number in range(10)]
        await sock.send_many([Datagram(data, sock.address) for data in sent])
        assert [datagram.data for datagram in await sock.receive_many(3)] == sent[:3]
        assert (await sock.receive()).data == sent[3]
        assert [datagram.data for datagram in await sock.receive_many(max_count=100)] == sent[4:]
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                assert [datagram.data for datagram in await sock.receive_many()] == [b"later"]

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await sock.send(b"later", sock.address)


@pytest.mark.kernel_transport("receiving at once")
async def test_receive_nowait_does_not_wait(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(trio_dgram.NotBoundError):
            sock.receive_nowait()
        await sock.bind(0, udp.loopback)
        with pytest.raises(trio.WouldBlock):
            sock.receive_nowait()
        await sock.send(b"x", sock.address)
        assert sock.receive_nowait().data == b"x"


@pytest.mark.kernel_transport("receiving at once")
async def test_a_second_receiving_task_raises_busy_resource_error_even_if_a_datagram_is_queued(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock, trio.open_nursery() as nursery:
        nursery.start_soon(sock.receive)
        await wait_all_tasks_blocked()
        await sock.send(b"x", sock.address)
        with pytest.raises(trio.BusyResourceError):
            sock.receive_nowait()
        with pytest.raises(trio.BusyResourceError):
            await sock.receive_many()


async def test_resolve_returns_an_address_that_can_be_reused(udp: Family) -> None:
    assert await trio_dgram.resolve(udp.loopback, 9, udp.type) == Address(udp.loopback, 9)
    for nowhere in ("", None):
        assert await trio_dgram.resolve(nowhere, 9, udp.type) == (udp.loopback, 9)
    assert await trio_dgram.resolve("localhost", 9, "udp4") == ("127.0.0.1", 9)
    with pytest.raises(ValueError, match="port"):
        await trio_dgram.resolve("localhost", 0, udp.type)
    with pytest.raises(ValueError, match="type"):
        await trio_dgram.resolve("localhost", 9, "tcp")  # type: ignore[arg-type]


def test_an_address_has_a_family_and_a_name_has_none() -> None:
    assert Address("127.0.0.1", 1).family == socket.AF_INET
    assert Address("fe80::1%eth0", 1).family == socket.AF_INET6
    with pytest.raises(ValueError, match="resolve it"):
        _ = Address("localhost", 1).family
    assert Address("::1", 5) == ("::1", 5)
    assert {Address("::1", 5): 1}["::1", 5] == 1  # type: ignore[index]
    assert repr(Address("::1", 5)) == "Address(host='::1', port=5)"


async def test_the_address_of_a_datagram_equals_the_senders_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.send(b"x", sock.address)
        datagram = await sock.receive()
        assert isinstance(datagram.address, Address)
        assert repr(datagram.address) == repr(sock.address)
        assert datagram.address == sock.address
        assert hash(datagram.address) == hash(sock.address)
        assert Datagram(b"x", sock.address).reply(b"y") == datagram.reply(b"y")
