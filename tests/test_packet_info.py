"""PacketInfo: the metadata of received datagrams, and datagrams that are sent with metadata."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, Failure, PacketInfo, SendManyError
from trio_dgram._codecs.families import SocketType
from trio_dgram._kernel import capabilities as _capabilities

from .support.families import Family
from .support.faults import FaultySocket, faulty_kernel
from .support.marks import needs_packet_info
from .support.namespaces import Machine, ip

PEERS: Final[list[tuple[SocketType, str]]] = [("udp4", "127.0.0.1"), ("udp6", "::1"), ("udp6", "127.0.0.1")]
"""The type of a socket, and an address at which its peer reaches it; the last is IPv4-mapped on the socket."""


@asynccontextmanager
async def server_and_client(
    type_: SocketType, host: str, **options: Any
) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket, Address]]:
    """Yield a server on all interfaces, a client, both with packet info, and the server's address at ``host``."""
    client_type: SocketType = "udp6" if ":" in host else "udp4"
    async with (
        trio_dgram.open_socket(type_, port=0, packet_info=True) as server,
        trio_dgram.open_socket(client_type, packet_info=True, **options) as client,
    ):
        yield server, client, Address(host, server.address.port)


def as_seen(type_: SocketType, host: str) -> str:
    return f"::ffff:{host}" if type_ == "udp6" and ":" not in host else host


@needs_packet_info
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_packet_info_describes_a_received_datagram(type_: SocketType, host: str) -> None:
    before = time.time_ns()
    async with server_and_client(type_, host, ttl=33, dscp=10, ecn=2) as (server, client, to):
        await client.send(b"x", to)
        info = (await server.receive()).info
        assert info is not None
        assert info.local_address == as_seen(type_, host)
        assert info.interface == socket.if_nametoindex("lo")
        assert (info.ecn, info.dscp, info.hop_limit, info.truncated) == (2, 10, 33, False)
        assert info.timestamp_ns is not None
        assert before <= info.timestamp_ns <= time.time_ns()
        assert info.credentials is None


async def test_packet_info_is_none_by_default(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.send(b"x", sock.address)
        assert (await sock.receive()).info is None


async def test_packet_info_is_empty_without_the_capability(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
        await sock.send(b"x", sock.address)
        received = await sock.receive()
        assert received.info is not None
        assert set(attrs.asdict(received.info).values()) == {None, False}
        with pytest.raises(OSError, match="PacketInfo") as caught:
            await sock.send(Datagram(b"x", sock.address, PacketInfo(hop_limit=3)))
        assert caught.value.errno == errno.ENOTSUP
        await sock.send(received.reply(b"y"))
        assert (await sock.receive()).data == b"y"


@needs_packet_info
@pytest.mark.parametrize("offload", [True, False])
async def test_each_datagram_of_a_batch_has_its_own_packet_info(udp: Family, offload: bool, coalescing: None) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True, offload=offload) as sock:
        with pytest.raises(trio.WouldBlock):
            sock.receive_nowait()
        to = sock.address
        limits = [5, 5, 5, 6, 6, 5]
        await sock.send_many([Datagram(b"x", to, PacketInfo(hop_limit=limit)) for limit in limits])
        received = await sock.receive_many()
        assert [datagram.info and datagram.info.hop_limit for datagram in received] == limits
        assert sock.statistics().segmented_sends == (2 if offload else 0)
        assert sock.statistics().coalesced_receives == (2 if offload else 0)


@needs_packet_info
async def test_iteration_and_event_channels_include_packet_info(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
        await sock.send(b"x", sock.address)
        async for datagram in sock:  # pragma: no branch -- one datagram suffices
            assert datagram.info is not None
            break
        async with sock.events(Datagram) as events:
            await sock.send(b"y", sock.address)
            assert (await events.receive()).info is not None


@needs_packet_info
@pytest.mark.parametrize(("type_", "host"), [("udp4", "127.0.0.1"), ("udp4", "127.0.0.2"), ("udp6", "127.0.0.2")])
async def test_a_reply_is_sent_from_the_address_that_received_the_request(type_: SocketType, host: str) -> None:
    async with server_and_client(type_, host) as (server, client, to):
        await client.send(b"question", to)
        await server.send((await server.receive()).reply(b"answer"))
        assert (await client.receive()).address == to
        await client.send(b"question", to)
        await server.send_many([(await server.receive()).reply(b"answer")] * 3)
        assert [datagram.address for datagram in await client.receive_many()] == [to] * 3
        await client.connect(to)
        await client.send(b"question")
        server.send_nowait((await server.receive()).reply(b"answer"))
        assert (await client.receive()).address == to


@needs_packet_info
async def test_a_reply_is_sent_from_the_receiving_one_of_two_addresses_of_an_interface(
    udp: Family, machine: Machine
) -> None:
    link = machine.link()
    second = link.add_second_address(udp.type)
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket(udp.type, packet_info=True)
        port = (await server.bind()).port
        with machine.active():
            client = nursery.create_socket(udp.type)
        for host in (second, link.here[udp.type], second):
            await client.send(b"question", (host, port))
            question = await server.receive()
            assert question.info is not None
            assert (question.info.local_address, question.info.interface) == (host, socket.if_nametoindex(link.name))
            await server.send(question.reply(b"answer"))
            assert (await client.receive()).address == (host, port)
        nursery.cancel_scope.cancel()


@needs_packet_info
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_replies_and_forwarded_datagrams_do_not_copy_ecn_dscp_and_hop_limit(type_: SocketType, host: str) -> None:
    async with server_and_client(type_, host, ttl=33, dscp=10, ecn=2) as (server, client, to):
        await client.send(b"x", to)
        received = await server.receive()
        for answer in (received.reply(b"y"), received):
            await server.send(answer)
            info = (await client.receive()).info
            assert info is not None
            assert (info.ecn, info.dscp, info.hop_limit) == (0, 0, 64)


@needs_packet_info
async def test_a_reply_to_a_multicast_datagram_is_sent_from_a_local_address(udp: Family, machine: Machine) -> None:
    link = machine.link()
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket(udp.type, packet_info=True)
        port = (await server.bind()).port
        server.add_membership(udp.group, link.name)
        with machine.active():
            client = nursery.create_socket(udp.type, multicast_interface=link.peer_name)
        await client.send(b"question", (udp.group, port))
        question = await server.receive()
        assert question.info is not None
        assert question.info.local_address == udp.group
        await server.send(question.reply(b"answer"))
        answer = await client.receive()
        assert answer.data == b"answer"
        assert answer.address.host in {link.here["udp4"], *trio_dgram.interfaces()[-1].addresses}
        nursery.cancel_scope.cancel()


@needs_packet_info
async def test_a_reply_to_a_broadcast_datagram_is_sent_from_a_local_address(machine: Machine) -> None:
    link = machine.link()
    for type_ in ("udp4", "udp6"):
        async with trio_dgram.open_nursery() as nursery:
            server = nursery.create_socket(type_, packet_info=True)
            port = (await server.bind()).port
            with machine.active():
                client = nursery.create_socket("udp4", broadcast=True)
            await client.send(b"question", (link.host(4, 255), port))
            await server.send((await server.receive()).reply(b"answer"))
            assert await client.receive() == (b"answer", (link.here["udp4"], port), None)
            nursery.cancel_scope.cancel()


@needs_packet_info
async def test_a_reply_to_a_link_local_peer_is_sent_on_the_receiving_interface(machine: Machine) -> None:
    link = machine.link()
    async with trio_dgram.open_nursery() as nursery:
        server = nursery.create_socket("udp6", packet_info=True)
        port = (await server.bind()).port
        local = next(host for host in trio_dgram.interfaces()[-1].addresses if host.startswith("fe80:"))
        with machine.active():
            client = nursery.create_socket("udp6")
            to = Address(f"{local.partition('%')[0]}%{link.peer_name}", port)
            await client.send(b"question", to)
        question = await server.receive()
        answer = question.reply(b"answer")
        assert question.address.host.endswith(f"%{link.name}")
        assert answer.info is not None
        assert answer.info.interface == socket.if_nametoindex(link.name)
        await server.send(answer)
        with machine.active():
            assert (await client.receive()).address == to
        nursery.cancel_scope.cancel()


async def test_a_reply_over_a_removed_interface_is_reported_and_not_raised(machine: Machine) -> None:
    link = machine.link()
    for packet_info in (False, True):
        async with trio_dgram.open_nursery() as nursery:
            server = nursery.create_socket("udp6", packet_info=packet_info)
            port = (await server.bind()).port
            local = next(host for host in trio_dgram.interfaces()[-1].addresses if host.startswith("fe80:"))
            with machine.active():
                client = nursery.create_socket("udp6")
                await client.send(b"question", (f"{local.partition('%')[0]}%{link.peer_name}", port))
            question = await server.receive()
            failures = server.events(Failure)
            ip(f"link del {link.name}")
            await server.send(b"answer", question.address)
            await server.send(question.reply(b"answer"))
            server.send_nowait(question.reply(b"answer"))
            await server.send_many([question.reply(b"answer")])
            assert [(await failures.receive()).address for _ in range(4)] == [question.address] * 4
            assert (server.statistics().sent, server.statistics().send_errors) == (0, 4)
            # An address that the program chose raises the error.
            with pytest.raises(socket.gaierror, match=link.name):
                await server.send(b"x", (question.address.host, question.address.port))
            link = machine.link()
            nursery.cancel_scope.cancel()


@needs_packet_info
async def test_a_datagram_is_forwarded_to_a_peer_of_the_other_family() -> None:
    async with (
        trio_dgram.open_socket("udp6", port=0, packet_info=True) as relay,
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as ipv4,
        trio_dgram.open_socket("udp6", port=0, host="::1") as ipv6,
    ):
        received = list[Datagram]()
        for peer, host in ((ipv4, "127.0.0.1"), (ipv6, "::1")):
            await peer.send(host, (host, relay.address.port))
            received.append(await relay.receive())
        await relay.send(Datagram(received[0].data, received[1].address, received[0].info))
        assert (await ipv6.receive()).data == b"127.0.0.1"
        await relay.send_many([Datagram(received[1].data, received[0].address, received[1].info)])
        assert (await ipv4.receive()).data == b"::1"


@needs_packet_info
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_a_packet_info_of_the_program_is_sent_unchanged(type_: SocketType, host: str) -> None:
    async with server_and_client("udp6" if ":" in host else "udp4", host) as (receiver, _, to):
        async with trio_dgram.open_socket(type_, dscp=7, ecn=1) as sender:
            local = "::1" if ":" in host else "127.0.0.5"
            for info, expected in (
                (PacketInfo(local_address=local), (1, 7, 64)),
                (PacketInfo(ecn=2, dscp=9, hop_limit=3), (2, 9, 3)),
                (PacketInfo(ecn=0), (0, 7, 64)),
                (PacketInfo(dscp=0), (1, 0, 64)),
                (PacketInfo(interface=socket.if_nametoindex("lo"), timestamp_ns=5, truncated=True), (1, 7, 64)),
                (PacketInfo(), (1, 7, 64)),
            ):
                await sender.send(Datagram(b"x", to, info))
                received = await receiver.receive()
                assert received.info is not None
                assert (received.info.ecn, received.info.dscp, received.info.hop_limit) == expected
                assert info.local_address in (None, received.address.host)
            await sender.connect(to)
            sender.send_nowait(Datagram(b"x", to, PacketInfo(local_address=local, hop_limit=9)))
            received = await receiver.receive()
            assert received.info is not None
            assert (received.address.host, received.info.hop_limit) == (local, 9)


@needs_packet_info
async def test_packet_info_selects_the_outgoing_interface(udp: Family, machine: Machine) -> None:
    links = [machine.link(1), machine.link(2)]
    async with trio_dgram.open_nursery() as nursery:
        with machine.active():
            listener = nursery.create_socket(udp.type, packet_info=True)
            port = (await listener.bind()).port
            for link in links:
                listener.add_membership(udp.group, link.peer_name)
        sender = nursery.create_socket(udp.type)
        for link in reversed(links):
            index = socket.if_nametoindex(link.name)
            await sender.send(Datagram(b"x", Address(udp.group, port), PacketInfo(interface=index)))
            info = (await listener.receive()).info
            assert info is not None
            with machine.active():
                assert info.interface == socket.if_nametoindex(link.peer_name)
        nursery.cancel_scope.cancel()


@needs_packet_info
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_a_local_address_of_the_other_family_is_rejected(type_: SocketType, host: str) -> None:
    other = "127.0.0.1" if ":" in host else "::1"
    async with trio_dgram.open_socket(type_) as sock:
        with pytest.raises(ValueError, match="local_address"):
            await sock.send(Datagram(b"x", Address(host, 9), PacketInfo(local_address=other)))
        with pytest.raises(trio_dgram.NotBoundError):
            sock.address  # noqa: B018 -- it must be unbound


@needs_packet_info
async def test_a_missing_local_address_is_raised_to_the_program_and_reported_for_a_reply(udp: Family) -> None:
    gone = {"udp4": "192.0.2.1", "udp6": "2001:db8::99"}[udp.type]
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        failures = sock.events(Failure)
        mine = Datagram(b"x", sock.address, PacketInfo(local_address=gone))
        with pytest.raises(OSError, match="send"):
            await sock.send(mine)
        with pytest.raises(SendManyError):
            await sock.send_many([mine])
        await sock.send(mine.reply(b"y"))
        assert (await failures.receive()).address == sock.address
        assert (sock.statistics().sent, sock.statistics().send_errors) == (0, 3)


class _Truncating(FaultySocket):
    """Reports every datagram as truncated."""

    def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        data, ancillary, flags, source = super().recvmsg(*arguments)
        return data, ancillary, flags | socket.MSG_TRUNC, source


async def test_packet_info_reports_truncation(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.faults.FaultySocket", _Truncating)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
            await sock.send(b"x", sock.address)
            info = (await sock.receive()).info
            assert info is not None
            assert info.truncated
            assert sock.statistics().truncated == 1


async def test_a_source_with_port_0_is_filtered_with_packet_info(monkeypatch: pytest.MonkeyPatch, udp: Family) -> None:
    class FromPort0(FaultySocket):
        def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
            data, ancillary, flags, source = super().recvmsg(*arguments)
            return data, ancillary, flags, (source[0], 0, *source[2:]) if data == b"forged" else source

    monkeypatch.setattr("tests.support.faults.FaultySocket", FromPort0)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
            await sock.send(b"forged", sock.address)
            await sock.send(b"honest", sock.address)
            assert (await sock.receive()).data == b"honest"
            assert (sock.statistics().received, sock.statistics().filtered) == (2, 1)


@needs_packet_info
async def test_a_batch_from_port_0_is_filtered_whole(
    monkeypatch: pytest.MonkeyPatch, udp: Family, coalescing: None
) -> None:
    class FromPort0(FaultySocket):
        def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
            data, ancillary, flags, source = super().recvmsg(*arguments)
            return data, ancillary, flags, (source[0], 0, *source[2:])

    monkeypatch.setattr("tests.support.faults.FaultySocket", FromPort0)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            await sock.send_many([Datagram(b"forged", sock.address)] * 5)
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            assert (sock.statistics().received, sock.statistics().filtered) == (5, 5)


def test_a_reply_keeps_the_local_address_and_the_interface_of_a_link_local_peer_only() -> None:
    peer = Address("192.0.2.1", 9)
    assert Datagram(b"", peer, PacketInfo(ecn=1)).reply(b"").info is None
    assert Datagram(b"", peer, PacketInfo(local_address="192.0.2.2", interface=3)).reply(b"").info == PacketInfo(
        local_address="192.0.2.2"
    )
    link_local = Address("169.254.1.1", 9)
    assert Datagram(b"", link_local, PacketInfo(interface=3)).reply(b"").info == PacketInfo(interface=3)
