"""What a type checker makes of correct programs. It is read by mypy and pyright, and never run."""

from __future__ import annotations

import ipaddress
import math
import socket as stdlib_socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import assert_never, assert_type

import trio

import trio_dgram
from trio_dgram import (
    Address,
    ChannelStatistics,
    Closed,
    Connected,
    Datagram,
    DatagramNursery,
    DatagramSocket,
    Event,
    EventChannel,
    Failure,
    Interface,
    Listening,
    Membership,
    PacketInfo,
    ProxiedAddress,
    SocketOptions,
    SocketStatistics,
    lowlevel,
)


async def a_socket_is_a_channel_of_datagrams(socket: DatagramSocket) -> None:
    channel: trio.abc.Channel[Datagram] = socket
    assert_type(await channel.receive(), Datagram)
    receiver: trio.abc.ReceiveChannel[Datagram] = socket
    assert_type(await receiver.receive(), Datagram)
    sender: trio.abc.SendChannel[Datagram] = socket
    await sender.send(Datagram(b"", Address("127.0.0.1", 9)))
    resource: trio.abc.AsyncResource = socket
    await resource.aclose()
    iterator: AsyncIterator[Datagram] = socket
    assert_type(await anext(iterator), Datagram)
    async with socket as entered:
        assert_type(entered, DatagramSocket)
    async for datagram in socket:
        assert_type(datagram, Datagram)


async def clients_behind_proxies(nursery: DatagramNursery) -> None:
    options: SocketOptions = {"proxy_protocol": ["10.0.0.0/8"], "proxy_versions": {2}, "packet_info": True}
    socket = nursery.create_socket("udp4", **options)
    datagram = await socket.receive()
    if isinstance(datagram.address, ProxiedAddress):
        assert_type(datagram.address.proxy, Address)
    if datagram.info is not None and datagram.info.proxy_header is not None:
        assert_type(datagram.info.proxy_header.source, Address | None)
        assert_type(datagram.info.proxy_header.tlvs, tuple[tuple[int, bytes], ...])
    await socket.send(b"", ProxiedAddress("192.0.2.1", 1, Address("10.0.0.1", 1)))


async def nurseries() -> None:
    manager: AbstractAsyncContextManager[DatagramNursery] = trio_dgram.open_nursery()
    async with manager as nursery:
        assert_type(nursery, DatagramNursery)
        assert_type(nursery.create_socket("udp4"), DatagramSocket)
        nursery.start_soon(a_socket_is_a_channel_of_datagrams, nursery.create_socket("udp6"), name="reader")
        await nursery.start(trio.serve_tcp, print, 0)
        assert_type(nursery.trio_nursery, trio.Nursery)
        assert_type(nursery.cancel_scope, trio.CancelScope)
        assert_type(nursery.child_tasks, frozenset[trio.lowlevel.Task])
        assert_type(nursery.parent_task, trio.lowlevel.Task)
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1", connect=("localhost", 9), ttl=3) as socket:
        assert_type(socket, DatagramSocket)


async def look_up(host: str, port: int, family: stdlib_socket.AddressFamily) -> Address:
    return Address(f"{family.name} of {host}", port)


def options(nursery: DatagramNursery) -> None:
    socket = nursery.create_socket(
        "udp6",
        reuse_address=True,
        reuse_port=True,
        ipv6_only=True,
        broadcast=True,
        receive_buffer_size=65536,
        send_buffer_size=65536,
        ttl=64,
        dscp=46,
        ecn=2,
        multicast_ttl=0,
        multicast_loopback=False,
        multicast_interface="eth0",
        device="eth0",
        lookup=look_up,
        receive_block_list=["10.0.0.0/8", ipaddress.ip_address("::1"), ipaddress.ip_network("fe80::/10")],
        send_block_list={"192.0.2.1"},
        offload=False,
    )
    unset: SocketOptions = {"multicast_interface": None, "device": None, "lookup": None}
    nursery.create_socket("udp6", **unset)
    assert_type(socket.broadcast, bool)
    assert_type(socket.ttl, int)
    assert_type(socket.dscp, int)
    assert_type(socket.ecn, int)
    assert_type(socket.multicast_ttl, int)
    assert_type(socket.multicast_loopback, bool)
    assert_type(socket.multicast_interface, str | int | None)
    assert_type(socket.device, str | None)
    assert_type(socket.receive_buffer_size, int)
    assert_type(socket.send_buffer_size, int)
    socket.multicast_interface = 1
    socket.multicast_interface = None
    socket.device = None
    assert_type(socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR), int)
    socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 0)
    socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, bytes(4))


async def binding_and_connecting(socket: DatagramSocket) -> None:
    assert_type(await socket.bind(), Address)
    assert_type(await socket.bind(41234, "localhost", exclusive=True), Address)
    assert_type(await socket.bind(("127.0.0.1", 0)), Address)
    assert_type(await socket.bind(Address("127.0.0.1", 0), exclusive=True), Address)
    assert_type(await socket.connect(("", 9)), None)
    assert_type(await socket.connect((None, 9)), None)
    assert_type(socket.disconnect(), None)
    assert_type(socket.address, Address)
    assert_type(socket.remote_address, Address)
    assert_type(socket.type, trio_dgram.SocketType)
    assert_type(socket.closed, bool)
    assert_type(socket.fileno(), int)
    assert_type(socket.ref(), DatagramSocket)
    assert_type(socket.unref().unref(), DatagramSocket)
    assert_type(socket.close(), None)
    assert_type(await socket.aclose(), None)


async def sending(socket: DatagramSocket, received: Datagram, parts: list[bytes]) -> None:
    to = ("localhost", 9)
    await socket.send(b"bytes", to)
    await socket.send(bytearray(b"bytes"), to=to)
    await socket.send(memoryview(b"bytes").cast("B"), Address("127.0.0.1", 9), offset=1, length=2)
    await socket.send("text", (None, 9))
    await socket.send([b"a", "b", memoryview(b"c")], to)
    await socket.send((b"a", "b"), to)
    await socket.send(parts, to)
    await socket.send([], to)
    await socket.send(received)
    await socket.send(received.reply(b"answer"))
    assert_type(await socket.send(received.data, received.address), None)
    assert_type(socket.send_nowait("text", to), None)
    socket.send_nowait(received)
    assert_type(await socket.send_many([received]), None)
    await socket.send_many(datagram.reply(b"") for datagram in [received])


async def receiving(socket: DatagramSocket) -> None:
    assert_type(await socket.receive(), Datagram)
    assert_type(socket.receive_nowait(), Datagram)
    assert_type(await socket.receive_many(), list[Datagram])
    assert_type(await socket.receive_many(max_count=2), list[Datagram])
    statistics = socket.statistics()
    assert_type(statistics, SocketStatistics)
    assert_type(statistics.received, int)
    assert_type(statistics.dropped_by_kernel, int | None)
    assert_type(statistics.kernel_drops_exact, bool)


def values(datagram: Datagram) -> None:
    assert_type(datagram.data, bytes)
    assert_type(datagram.address, Address)
    assert_type(datagram.info, PacketInfo | None)
    assert_type(datagram.reply(b""), Datagram)
    host, port = datagram.address
    assert_type(host, str)
    assert_type(port, int)
    assert_type(datagram.address.family, stdlib_socket.AddressFamily)
    assert_type(Address.parse("[::1]:53"), Address)
    assert_type(str(datagram.address), str)
    plain: tuple[str, int] = datagram.address
    assert plain == datagram.address


async def events(socket: DatagramSocket) -> None:
    channel: trio.abc.ReceiveChannel[Event] = socket.events()
    async with channel:
        async for event in channel:
            match event:
                case Listening(address) | Connected(address):
                    assert_type(address, Address)
                case Datagram(data, address):
                    assert_type(data, bytes)
                case Failure(error, operation, address):
                    assert_type(error, OSError)
                    assert_type(operation, str)
                    assert_type(address, Address | None)
                case Closed():
                    pass
                case _:
                    assert_never(event)
    assert_type(socket.events(), EventChannel[Event])
    assert_type(socket.events(Datagram), EventChannel[Datagram])
    assert_type(socket.events(Failure, Closed), EventChannel[Failure | Closed])
    assert_type(socket.events(Listening, Failure, Closed), EventChannel[Listening | Failure | Closed])
    union: trio.abc.ReceiveChannel[Failure | Closed] = socket.events(Failure, Closed)
    assert_type(await union.receive(), Failure | Closed)
    wider: trio.abc.ReceiveChannel[Event] = union
    await wider.aclose()
    with_policy = socket.events(Datagram, max_buffer_size=math.inf, overflow="drop-oldest")
    assert_type(with_policy.receive_nowait(), Datagram)
    assert_type(with_policy.statistics(), ChannelStatistics)
    assert_type(with_policy.statistics().queued, int)
    socket.events(Datagram, overflow="block")
    socket.events(Datagram, overflow="drop-newest")


async def a_group_returns_sockets_with_their_datagrams(socket: DatagramSocket) -> None:
    channel: trio.abc.ReceiveChannel[tuple[DatagramSocket, Datagram]] = trio_dgram.SocketGroup()
    await channel.aclose()
    async with trio_dgram.SocketGroup() as group:
        assert_type(group, trio_dgram.SocketGroup)
        group.add(socket)
        assert_type(socket in group, bool)
        assert_type(await group.receive(), tuple[DatagramSocket, Datagram])
        assert_type(await group.receive_many(2), list[tuple[DatagramSocket, Datagram]])
        async for member, datagram in group:
            assert_type(member, DatagramSocket)
            assert_type(datagram, Datagram)
        group.discard(socket)


async def reading(channel: trio.abc.ReceiveChannel[Failure | Closed]) -> None:
    async for event in channel:
        assert_type(event, Failure | Closed)


async def a_channel_can_be_handed_to_a_task(socket: DatagramSocket, nursery: DatagramNursery) -> None:
    nursery.start_soon(reading, socket.events(Failure, Closed))
    await reading(socket.events(Failure))


def memberships(socket: DatagramSocket) -> None:
    assert_type(socket.add_membership("239.1.2.3"), tuple[Interface, ...])
    assert_type(socket.add_membership("239.1.2.3", "lo", source="192.0.2.1"), tuple[Interface, ...])
    assert_type(socket.drop_membership("239.1.2.3", 1), tuple[Interface, ...])
    assert_type(socket.memberships, tuple[Membership, ...])
    assert_type(socket.rejoin_memberships(), tuple[Membership, ...])


async def names_and_interfaces() -> None:
    assert_type(await trio_dgram.resolve("localhost", 9, "udp4"), Address)
    for interface in trio_dgram.interfaces():
        assert_type(interface, Interface)
        assert_type(interface.name, str)
        assert_type(interface.index, int)
        assert_type(interface.up, bool)


def capabilities() -> None:
    found = trio_dgram.capabilities()
    assert_type(found, trio_dgram.Capabilities)
    assert_type(found.receive_offload, bool)


def errors() -> None:
    state_error: trio_dgram.DatagramError = trio_dgram.SocketStateError()
    for kind in (
        trio_dgram.AlreadyBoundError,
        trio_dgram.NotBoundError,
        trio_dgram.AlreadyConnectedError,
        trio_dgram.NotConnectedError,
    ):
        state_error = kind()
    permission: PermissionError = trio_dgram.AddressBlockedError()
    unreachable: OSError = trio_dgram.PeerUnreachable(
        111, icmp_type=3, icmp_code=3, reason="port unreachable", offender=None, path_mtu=None
    )
    try:
        raise state_error
    except trio_dgram.SendManyError as error:
        os_error: OSError = error
        assert_type(error.index, int)
        assert_type(error.sent, int)
        raise permission from os_error
    except trio_dgram.DatagramError:
        raise unreachable from None


def decoders(received: tuple[bytes, list[tuple[int, int, bytes]], int, object]) -> None:
    ancillary: lowlevel.Ancillary = received[1]
    info: PacketInfo = lowlevel.decode_packet_info(ancillary, truncated=True)
    messages = lowlevel.encode_packet_info(info, "127.0.0.1", on_ipv6=False)
    assert_type(messages, list[lowlevel.ControlMessage])
    assert_type(lowlevel.segment_size(messages), int)
    record = lowlevel.decode_error(messages)
    assert_type(record, lowlevel.ErrorRecord | None)
    if record is not None:
        assert_type(record.offender, str | None)
        assert_type(record.path_mtu, int | None)
        assert_type(record.reason, str)


async def a_request_has_a_reply_of_bytes(channel: trio.abc.Channel[bytes], socket: DatagramSocket) -> bytes:
    async for attempt in trio_dgram.retry(timeout=1, factor=1.5, attempts=3, jitter=0):
        with attempt:
            await channel.send(b"hello")
            await channel.receive()
    async with trio_dgram.open_exchange(socket, key=len, max_in_flight=10) as other:
        assert_type(other.statistics(), trio_dgram.ExchangeStatistics)
    async with trio_dgram.open_exchange(channel, key=lambda data: data[:2]) as exchange:
        assert_type(exchange, trio_dgram.Exchange)
        return await exchange.request(bytearray(b"hello"), timeout=0.5, attempts=2)
