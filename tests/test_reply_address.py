"""Reply addresses: a socket on the wildcard address answers from the address that was asked."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, Failure, PacketInfo, sim
from trio_dgram._codecs.ancillary import IP_PKTINFO, IPV6_RECVPKTINFO
from trio_dgram._codecs.families import SocketType
from trio_dgram._socket import association as _association
from trio_dgram._socket.reply_address import enable_reply_address, reply_destination, send_to
from trio_dgram._values import datagrams as _datagrams
from trio_dgram._values.datagrams import ReceivedPacketInfo, info_for_reply

from .support.factories import awaited_sockets
from .support.families import Family
from .support.faults import faulty_kernel
from .support.marks import needs_packet_info
from .support.namespaces import Machine, add_address, ip
from .support.refusals import refuse

ASKED: Final[list[tuple[SocketType, str]]] = [
    ("udp4", "127.0.0.1"),
    ("udp4", "127.0.0.2"),
    ("udp6", "::1"),
    ("udp6", "127.0.0.1"),
    ("udp6", "127.0.0.2"),
]
"""The type of a socket on the wildcard address, and an address at which its peer asks it."""


@asynccontextmanager
async def server_and_client(
    type_: SocketType, host: str, **options: Any
) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket, Address]]:
    """Yield a server that reports local addresses, a client, and the server's address at ``host``."""
    client_type: SocketType = "udp6" if ":" in host else "udp4"
    async with (
        trio_dgram.open_socket(type_, port=0, **options) as server,
        trio_dgram.open_socket(client_type) as client,
    ):
        assert enable_reply_address(server)
        yield server, client, Address(host, server.address.port)


def info_of(type_: SocketType, host: str, interface: int | None) -> ReceivedPacketInfo:
    """Return all that the info of a datagram to ``host`` has."""
    seen = f"::ffff:{host}" if type_ == "udp6" and ":" not in host else host
    return ReceivedPacketInfo(local_address=seen, unicast_address=seen, interface=interface)


async def answer_in_every_way(server: DatagramSocket, question: Datagram) -> int:
    """Send one answer by each call that sends; return how many there are."""
    await server.send(question.reply(b"answer"))
    await server.send_many([question.reply(b"answer")] * 2)
    server.send_nowait(question.reply(b"answer"))
    destination = reply_destination(server, question)
    assert destination is not None
    await send_to(server, b"answer", destination)
    return 5


async def assert_answered(server: DatagramSocket, client: DatagramSocket, asked: Address) -> None:
    """Ask the server at ``asked``, and check that every answer leaves from there."""
    await client.send(b"question", asked)
    for _ in range(await answer_in_every_way(server, await server.receive())):
        assert (await client.receive()).address == asked


@needs_packet_info
@pytest.mark.parametrize(("type_", "host"), ASKED)
async def test_answers_leave_from_the_address_that_was_asked(type_: SocketType, host: str) -> None:
    async with server_and_client(type_, host) as (server, client, to):
        for _ in range(3):
            await client.send(b"question", to)
            question = await server.receive()
            assert type(question.info) is ReceivedPacketInfo
            assert question.info == info_of(type_, host, socket.if_nametoindex("lo"))
            for _ in range(await answer_in_every_way(server, question)):
                assert await client.receive() == (b"answer", to, None)


@needs_packet_info
async def test_one_peer_is_answered_from_each_of_the_addresses_that_it_asks_in_turn() -> None:
    for type_ in ("udp4", "udp6"):
        async with server_and_client(type_, "127.0.0.1") as (server, client, to):
            for number in (1, 2, 1, 3, 2, 1):
                await assert_answered(server, client, Address(f"127.0.0.{number}", to.port))


@needs_packet_info
async def test_a_dual_stack_socket_answers_peers_of_both_families_in_turn() -> None:
    async with (
        server_and_client("udp6", "127.0.0.2") as (server, ipv4, to),
        trio_dgram.open_socket("udp6") as ipv6,
    ):
        for _ in range(2):
            for client, host in ((ipv4, "127.0.0.2"), (ipv6, "::1")):
                await assert_answered(server, client, Address(host, to.port))


@needs_packet_info
async def test_a_datagram_is_forwarded_to_a_peer_of_the_other_family() -> None:
    async with (
        server_and_client("udp6", "127.0.0.2") as (relay, ipv4, to),
        trio_dgram.open_socket("udp6") as ipv6,
    ):
        for client, host in ((ipv4, "127.0.0.2"), (ipv6, "::1")):
            await client.send(host, (host, to.port))
        one, other = await relay.receive_many()
        for _ in range(2):
            await relay.send(Datagram(b"forwarded", other.address, one.info))
            assert (await ipv6.receive()).data == b"forwarded"
            await relay.send(Datagram(b"forwarded", one.address, other.info))
            assert (await ipv4.receive()).data == b"forwarded"


@needs_packet_info
async def test_each_of_two_addresses_of_an_interface_answers_for_itself(udp: Family, machine: Machine) -> None:
    link = machine.link()
    second = link.add_second_address(udp.type)
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket(udp.type)
        port = (await server.bind()).port
        assert enable_reply_address(server)
        with machine.active():
            client = nursery.create_socket(udp.type)
        for host in (second, link.here[udp.type], second):
            await client.send(b"question", (host, port))
            question = await server.receive()
            assert question.info == info_of(udp.type, host, socket.if_nametoindex(link.name))
            for _ in range(await answer_in_every_way(server, question)):
                assert (await client.receive()).address == (host, port)
        nursery.cancel_scope.cancel()


@needs_packet_info
async def test_a_link_local_peer_is_answered_on_the_interface_that_received_it(machine: Machine) -> None:
    links = [machine.link(1), machine.link(2)]
    # Both links have the same address here and the same peer.
    for link in links:
        add_address("fe80::1/64", link.name)
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket("udp6")
        port = (await server.bind()).port
        assert enable_reply_address(server)
        for link in (*links, *links):
            with machine.active():
                add_address("fe80::2/64", link.peer_name)
                client = nursery.create_socket("udp6")
                await client.bind(0, f"fe80::2%{link.peer_name}")
                to = Address(f"fe80::1%{link.peer_name}", port)
                await client.send(b"question", to)
            question = await server.receive()
            assert question.address.host == f"fe80::2%{link.name}"
            answers = await answer_in_every_way(server, question)
            with machine.active():
                for _ in range(answers):
                    assert (await client.receive()).address == to
        nursery.cancel_scope.cancel()


@needs_packet_info
async def test_multicast_and_broadcast_are_answered_from_an_address_of_the_interface(
    udp: Family, machine: Machine
) -> None:
    link = machine.link()
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket(udp.type)
        port = (await server.bind()).port
        server.add_membership(udp.group, link.name)
        assert enable_reply_address(server)
        with machine.active():
            client = nursery.create_socket(udp.type, multicast_interface=link.peer_name)
            ipv4 = nursery.create_socket("udp4", broadcast=True)
        for sender, to in ((client, udp.group), (ipv4, link.host(4, 255))):
            await sender.send(b"question", (to, port))
            question = await server.receive()
            assert question.info is not None
            assert question.info.local_address in (to, f"::ffff:{to}")
            for _ in range(await answer_in_every_way(server, question)):
                answer = await sender.receive()
                assert answer.address.host in {link.here["udp4"], *trio_dgram.interfaces()[-1].addresses}
        nursery.cancel_scope.cancel()


@needs_packet_info
async def test_datagrams_that_were_queued_before_have_their_destination(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0) as server,
        trio_dgram.open_socket(udp.type) as client,
    ):
        to = Address({"udp4": "127.0.0.2", "udp6": "::1"}[udp.type], server.address.port)
        await client.send(b"question", to)
        assert enable_reply_address(server)
        question = await server.receive()
        assert question.info is not None
        assert question.info.local_address == to.host
        for _ in range(await answer_in_every_way(server, question)):
            assert (await client.receive()).address == to


@needs_packet_info
@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize(("type_", "host"), ASKED)
async def test_every_datagram_of_a_burst_has_its_local_address(
    type_: SocketType, host: str, offload: bool, coalescing: None
) -> None:
    async with server_and_client(type_, host, offload=offload) as (server, client, to):
        with pytest.raises(trio.WouldBlock):
            server.receive_nowait()
        payloads = [bytes([number % 251]) * (10 if number % 30 else 4) for number in range(150)]
        for _ in range(2):
            await client.send_many([Datagram(payload, to) for payload in payloads])
            received: list[Datagram] = []
            while len(received) < len(payloads):
                received += await server.receive_many()
            assert [datagram.data for datagram in received] == payloads
            assert {datagram.info for datagram in received} == {info_of(type_, host, socket.if_nametoindex("lo"))}
        assert bool(server.statistics().coalesced_receives) == offload
        assert server.statistics().received == 2 * len(payloads)


@needs_packet_info
async def test_segments_leave_from_the_address_that_was_asked(offload: bool) -> None:
    async with server_and_client("udp4", "127.0.0.2", offload=offload) as (server, client, to):
        await client.send(b"question", to)
        question = await server.receive()
        await server.send_many([question.reply(b"answer")] * 100)
        answers: list[Datagram] = []
        while len(answers) < 100:
            answers += await client.receive_many()
        assert {answer.address for answer in answers} == {to}


@needs_packet_info
async def test_a_socket_with_packet_info_keeps_its_metadata(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
        assert enable_reply_address(sock)
        await sock.send(b"x", sock.address)
        info = (await sock.receive()).info
        assert info is not None
        assert info.timestamp_ns is not None
        assert info.hop_limit is not None


@needs_packet_info
async def test_it_can_be_enabled_again_and_survives_disconnecting(udp: Family) -> None:
    # While it is connected, the kernel drops datagrams to other addresses.
    async with server_and_client(udp.type, udp.loopback) as (server, client, to):
        assert enable_reply_address(server)
        await client.send(b"x", to)
        await server.connect((await server.receive()).address)
        await client.send(b"before", to)
        server.disconnect()
        await client.send(b"after", to)
        for expected in (b"before", b"after"):
            question = await server.receive()
            assert question.data == expected
            assert question.info == info_of(udp.type, udp.loopback, socket.if_nametoindex("lo"))
            await server.send(question.reply(b"answer"))
            assert (await client.receive()).address == to


@needs_packet_info
async def test_it_can_be_enabled_on_an_adopted_socket(udp: Family) -> None:
    with socket.socket(udp.family, socket.SOCK_DGRAM) as plain:
        plain.bind((udp.wildcard, 0))
        async with trio_dgram.open_nursery() as nursery, trio_dgram.open_socket(udp.type) as client:
            server = nursery.adopt_socket(plain)
            assert enable_reply_address(server)
            to = Address({"udp4": "127.0.0.2", "udp6": "::1"}[udp.type], server.address.port)
            await client.send(b"question", to)
            for _ in range(await answer_in_every_way(server, await server.receive())):
                assert (await client.receive()).address == to
            nursery.cancel_scope.cancel()


# Where it is not possible


async def exchange_without(sock: DatagramSocket) -> None:
    """Check that a datagram has no info, and that it can be answered all the same."""
    await sock.send(b"question", sock.address)
    question = await sock.receive()
    assert question.info is None
    destination = reply_destination(sock, question)
    assert destination is not None
    await send_to(sock, b"answer", destination)
    assert (await sock.receive()).data == b"answer"


async def test_a_unix_socket_has_no_reply_address() -> None:
    async with trio_dgram.open_socket("unix") as sock:
        await sock.bind("\0trio_dgram-reply-address")
        assert not enable_reply_address(sock)
        await exchange_without(sock)


async def test_the_awaited_sockets_of_a_factory_have_no_reply_address(udp: Family) -> None:
    with awaited_sockets():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            assert not enable_reply_address(sock)
            await exchange_without(sock)


async def test_a_closed_socket_has_no_reply_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        sock.close()
        assert not enable_reply_address(sock)


@pytest.mark.parametrize("name", ["packet info", "no recvmsg and sendmsg"])
@pytest.mark.parametrize("packet_info", [False, True])
async def test_a_system_without_packet_info_has_no_reply_address(
    udp: Family, name: str, packet_info: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, name)
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=packet_info) as sock:
        assert not enable_reply_address(sock)
        await sock.send(b"question", sock.address)
        question = await sock.receive()
        assert question.info == (ReceivedPacketInfo() if packet_info else None)
        destination = reply_destination(sock, question)
        assert destination is not None
        assert not destination[2]


@needs_packet_info
@pytest.mark.parametrize("refused", [1, 2], ids=["the first option", "the second option"])
async def test_an_option_that_is_refused_at_run_time_leaves_the_socket_as_it_was(refused: int) -> None:
    with faulty_kernel() as faults:
        for type_ in ("udp4", "udp6") if refused == 1 else ("udp6",):
            async with trio_dgram.open_socket(type_, port=0) as sock:
                faults.set("setsockopt", *[None] * (refused - 1), errno.ENOPROTOOPT)
                assert not enable_reply_address(sock)
                assert not faults.pending
                options = {"udp4": [(socket.IPPROTO_IP, IP_PKTINFO)], "udp6": [(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO)]}
                assert [sock.getsockopt(*option) for option in options[type_]] == [0]
                await sock.send(b"x", (None, sock.address.port))
                assert (await sock.receive()).info is None
                assert enable_reply_address(sock)


@needs_packet_info
async def test_an_option_that_was_set_before_stays_when_the_other_is_refused() -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket("udp6", port=0) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            faults.set("setsockopt", errno.EPERM)
            assert not enable_reply_address(sock)
            assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO) == 1
            assert sock.getsockopt(socket.IPPROTO_IP, IP_PKTINFO) == 0


# Sending to a destination that was kept


@needs_packet_info
async def test_send_to_waits_while_the_buffer_is_full_and_sends_nothing_when_cancelled(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with server_and_client(udp.type, udp.loopback) as (server, client, to):
            await client.send(b"question", to)
            question = await server.receive()
            destination = reply_destination(server, question)
            assert destination is not None
            faults.set("sendmsg", errno.EAGAIN, errno.EAGAIN, None)
            await send_to(server, b"1", destination)
            with trio.CancelScope() as scope:
                scope.cancel()
                await send_to(server, b"2", destination)
            assert scope.cancelled_caught
            faults.set("sendmsg", errno.EAGAIN)
            await send_to(server, b"3", destination)
            assert [(await client.receive()).data for _ in range(2)] == [b"1", b"3"]
            assert server.statistics().sent == 2


@needs_packet_info
async def test_send_to_on_a_closed_socket_raises_closed_resource_error(udp: Family) -> None:
    async with server_and_client(udp.type, udp.loopback) as (server, client, to):
        await client.send(b"question", to)
        destination = reply_destination(server, await server.receive())
        assert destination is not None
        server.close()
        with pytest.raises(trio.ClosedResourceError):
            await send_to(server, b"x", destination)


@needs_packet_info
async def test_send_to_yields_to_other_tasks_and_notices_that_one_of_them_closed_the_socket(udp: Family) -> None:
    async with server_and_client(udp.type, udp.loopback) as (server, client, to):
        await client.send(b"question", to)
        destination = reply_destination(server, await server.receive())
        assert destination is not None

        async def send_forever() -> None:
            with pytest.raises(trio.ClosedResourceError):
                while True:
                    await send_to(server, b"x", destination)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_forever)
            await trio.lowlevel.checkpoint()
            server.close()


@needs_packet_info
async def test_an_answer_from_an_address_that_was_removed_is_reported_and_not_raised(
    udp: Family, machine: Machine
) -> None:
    link = machine.link()
    second = link.add_second_address(udp.type)
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket(udp.type)
        port = (await server.bind()).port
        assert enable_reply_address(server)
        with machine.active():
            client = nursery.create_socket(udp.type)
        await client.send(b"question", (second, port))
        question = await server.receive()
        failures = server.events(Failure)
        ip(f"addr del {second}/{24 if udp.type == 'udp4' else 64} dev {link.name}")
        answers = await answer_in_every_way(server, question)
        assert [(await failures.receive()).address for _ in range(answers)] == [question.address] * answers
        assert (server.statistics().sent, server.statistics().send_errors) == (0, answers)
        nursery.cancel_scope.cancel()


@needs_packet_info
async def test_a_link_local_peer_without_an_interface_has_no_kept_destination(machine: Machine) -> None:
    link = machine.link()
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket("udp6")
        port = (await server.bind()).port
        local = next(host for host in trio_dgram.interfaces()[-1].addresses if host.startswith("fe80:"))
        with machine.active():
            client = nursery.create_socket("udp6")
            await client.send(b"question", (f"{local.partition('%')[0]}%{link.peer_name}", port))
        question = await server.receive()
        assert question.info is None
        assert reply_destination(server, question) is None
        nursery.cancel_scope.cancel()


# Bounds


@needs_packet_info
async def test_the_caches_of_the_sending_side_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[Any, PacketInfo] = {}
    monkeypatch.setattr(_datagrams, "_replies", kept)
    monkeypatch.setattr(_datagrams, "_MOST_REPLIES", 10)
    monkeypatch.setattr(_association, "_MOST_INFOS", 10)
    async with server_and_client("udp4", "127.0.0.1") as (server, client, to):
        for number in range(1, 100):
            asked = Address(f"127.0.0.{number}", to.port)
            await client.send(b"question", asked)
            for _ in range(await answer_in_every_way(server, await server.receive())):
                assert (await client.receive()).address == asked
            assert len(kept) <= 10
            assert len(server._association._ancillary or ()) <= 10
        server.close()
        assert not server._association._ancillary


def test_the_reply_info_of_one_local_address_is_one_value() -> None:
    peers = [Address("192.0.2.1", 1), Address("192.0.2.2", 2)]
    infos = [ReceivedPacketInfo(unicast_address="198.51.100.1", timestamp_ns=number) for number in range(2)]
    replies = [info_for_reply(info, peer) for info in infos for peer in peers]
    assert {id(reply) for reply in replies} == {id(replies[0])}
    assert replies[0] == PacketInfo(local_address="198.51.100.1")


def test_an_ipv4_translated_peer_is_an_ipv6_peer() -> None:
    info = ReceivedPacketInfo(unicast_address="2001:db8::1")
    assert info_for_reply(info, Address("::ffff:0:c000:201", 9)) == PacketInfo(local_address="2001:db8::1")
    assert info_for_reply(info, Address("::ffff:192.0.2.1", 9)) is None


# The simulated network


def test_the_address_that_was_asked_answers_on_the_simulated_network(udp: Family) -> None:
    hosts = {"udp4": ["192.0.2.1", "192.0.2.2"], "udp6": ["2001:db8::1", "2001:db8::2"]}[udp.type]

    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server", addresses=hosts), network.host("client")
        with server.active():
            async with trio_dgram.open_socket(udp.type, port=7) as server_socket:
                assert enable_reply_address(server_socket)
                with client.active():
                    async with trio_dgram.open_socket(udp.type) as client_socket:
                        for host in (*hosts, *hosts):
                            await client_socket.send(b"question", (host, 7))
                            question = await server_socket.receive()
                            assert question.info == info_of(udp.type, host, 2)
                            for _ in range(await answer_in_every_way(server_socket, question)):
                                assert (await client_socket.receive()).address == (host, 7)

    sim.run(scenario)


def test_an_ipv4_mapped_address_answers_on_the_simulated_network() -> None:
    hosts = ["192.0.2.1", "192.0.2.2"]

    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server", addresses=hosts), network.host("client")
        with server.active():
            async with trio_dgram.open_socket("udp6", port=7) as server_socket:
                assert enable_reply_address(server_socket)
                with client.active():
                    async with trio_dgram.open_socket("udp4") as client_socket:
                        for host in (*hosts, *hosts):
                            await client_socket.send(b"question", (host, 7))
                            question = await server_socket.receive()
                            assert question.info == info_of("udp6", host, 2)
                            for _ in range(await answer_in_every_way(server_socket, question)):
                                assert (await client_socket.receive()).address == (host, 7)

    sim.run(scenario)
