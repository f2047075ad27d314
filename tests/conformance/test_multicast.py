"""Multicast and broadcast: what the suites of other implementations check.

Loopback supports IPv4 multicast but not IPv6 multicast, which uses a veth link of a namespace.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, DatagramNursery, DatagramSocket
from trio_dgram._kernel.capabilities import IPV6_MULTICAST_ALL

from ..support.families import Family
from ..support.namespaces import Link, Machine, add_address, ip
from ..support.simulated import SECOND_HERE, SimulatedLink
from .conftest import plain_socket

ANOTHER_GROUP: Final = {"udp4": "239.9.9.9", "udp6": "ff02::9999"}
MESSAGES: Final = [b"First message", b"Second message", b"Third message", b"Fourth message"]
PORT: Final = 4242


@attrs.frozen
class Place:
    """An interface on which this machine receives its own multicast datagrams, and two of its addresses there."""

    interface: str
    hosts: tuple[str, str]


@pytest.fixture
def place(udp: Family, request: pytest.FixtureRequest) -> Place:
    """Loopback for IPv4, a veth link for IPv6, in a namespace where every port is free."""
    if udp.type == "udp4":
        request.getfixturevalue("namespace")
        return Place("lo", ("127.0.0.1", "127.0.0.2"))
    veth: Link | SimulatedLink = request.getfixturevalue("veth")
    if isinstance(veth, SimulatedLink):
        return Place(veth.name, (veth.here["udp6"], SECOND_HERE))
    second = veth.host(6, 3)
    add_address(f"{second}/64", veth.name)
    return Place(veth.name, (veth.here["udp6"], second))


@pytest.fixture
def multicast_all(udp: Family) -> None:
    """Skip the test where IPv6 lacks the option, which Linux has since 4.20."""
    if udp.type == "udp6":
        with socket.socket(udp.family, socket.SOCK_DGRAM) as probe:
            try:
                probe.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            except OSError:  # pragma: no cover -- long tests run it
                pytest.skip("kernel: it lacks IPV6_MULTICAST_ALL")


def index_of(name: str) -> int:
    """Return the index of an interface."""
    return next(interface.index for interface in trio_dgram.interfaces() if interface.name == name)


async def arrivals(sock: DatagramSocket, last: bytes) -> list[bytes]:
    """Receive datagrams up to ``last`` and return their data."""
    got: list[bytes] = []
    while last not in got:
        got.append((await sock.receive()).data)
    return got


async def test_three_receivers_on_one_port_each_get_all_four_messages(
    udp: Family, place: Place, nursery: DatagramNursery
) -> None:
    receivers = [nursery.create_socket(udp.type, reuse_address=True) for _ in range(3)]
    for receiver in receivers:
        await receiver.bind(PORT)
        (joined,) = receiver.add_membership(udp.group, place.interface)
        assert joined.name == place.interface
    sender = nursery.create_socket(udp.type, multicast_interface=place.hosts[0], multicast_loopback=True)
    for message in MESSAGES:
        await sender.send(message, (udp.group, PORT))
    for receiver in receivers:
        assert [(await receiver.receive()).data for _ in MESSAGES] == MESSAGES


async def test_a_socket_bound_to_a_group_receives_nothing_else(
    udp: Family, place: Place, nursery: DatagramNursery
) -> None:
    # Binding to a link-local group needs its zone.
    host = udp.group if udp.type == "udp4" else f"{udp.group}%{place.interface}"
    receiver = nursery.create_socket(udp.type)
    await receiver.bind(PORT, host)
    receiver.add_membership(udp.group, place.interface)
    sender = nursery.create_socket(udp.type, multicast_interface=place.interface)
    await sender.send(b"to the machine", (place.hosts[0], PORT))
    await sender.send(b"to the group", (udp.group, PORT))
    assert await arrivals(receiver, b"to the group") == [b"to the group"]


@pytest.mark.needs("source_membership")
async def test_a_source_membership_receives_only_that_source(
    udp: Family, place: Place, nursery: DatagramNursery
) -> None:
    receiver = nursery.create_socket(udp.type)
    await receiver.bind(PORT)
    senders = [nursery.create_socket(udp.type, multicast_interface=place.interface) for _ in place.hosts]
    no_more = Address(place.hosts[0], PORT)
    for sender, host in zip(senders, place.hosts, strict=True):
        await sender.bind(0, host)

    async def heard() -> list[str]:
        for sender in senders:
            await sender.send(b"to the group", (udp.group, PORT))
        await senders[0].send(b"no more", no_more)
        heard = []
        while (datagram := await receiver.receive()).data != b"no more":
            heard.append(datagram.address.host)
        return heard

    first, second = place.hosts
    receiver.add_membership(udp.group, first)
    assert await heard() == [first, second]
    receiver.drop_membership(udp.group, first)
    receiver.add_membership(udp.group, place.interface, source=second)
    assert await heard() == [second]
    receiver.add_membership(udp.group, place.interface, source=first)
    assert await heard() == [first, second]
    receiver.drop_membership(udp.group, place.interface, source=second)
    assert await heard() == [first]
    receiver.drop_membership(udp.group, source=first)
    receiver.add_membership(udp.group, index_of(place.interface))
    assert await heard() == [first, second]


@pytest.mark.needs("multicast_all")
@pytest.mark.usefixtures("multicast_all")
async def test_a_socket_receives_its_own_groups_only(udp: Family, place: Place, nursery: DatagramNursery) -> None:
    one, other = (nursery.create_socket(udp.type, reuse_address=True) for _ in range(2))
    for sock, group in ((one, udp.group), (other, ANOTHER_GROUP[udp.type])):
        await sock.bind(PORT)
        sock.add_membership(group, place.interface)
    sender = nursery.create_socket(udp.type, multicast_interface=place.interface)
    await sender.send(b"for one", (udp.group, PORT))
    await sender.send(b"for the other", (ANOTHER_GROUP[udp.type], PORT))
    assert [datagram.data for datagram in await one.receive_many()] == [b"for one"]
    assert [datagram.data for datagram in await other.receive_many()] == [b"for the other"]


@pytest.mark.not_simulated("a host has one interface besides loopback")
@pytest.mark.parametrize("by", ["name", "address", "index"])
@pytest.mark.needs("bind_to_device")
async def test_the_outgoing_interface_can_be_set_and_reset(
    udp: Family, machine: Machine, nursery: DatagramNursery, by: str
) -> None:
    first, second = machine.link(1), machine.link(2)
    with machine.active():
        receivers = [
            nursery.create_socket(udp.type, device=link.peer_name, reuse_address=True) for link in (first, second)
        ]
    for receiver, link in zip(receivers, (first, second), strict=True):
        await receiver.bind(PORT)
        with machine.active():
            receiver.add_membership(udp.group, link.peer_name)
    # The route makes the second interface the default.
    level = {"udp4": "route add 239.0.0.0/8", "udp6": "route add ff02::/16 table local metric 1"}[udp.type]
    ip(f"{level} dev {second.name}")
    sender = nursery.create_socket(udp.type)
    assert sender.multicast_interface is None
    named: dict[str, Any] = {
        "name": first.name,
        "address": first.here[udp.type],
        "index": socket.if_nametoindex(first.name),
    }
    await sender.send(b"by default", (udp.group, PORT))
    sender.multicast_interface = named[by]
    assert sender.multicast_interface == named[by]
    await sender.send(b"by the first", (udp.group, PORT))
    sender.multicast_interface = None
    assert sender.multicast_interface is None
    await sender.send(b"by default again", (udp.group, PORT))
    assert [datagram.data for datagram in await receivers[0].receive_many()] == [b"by the first"]
    assert await arrivals(receivers[1], b"by default again") == [b"by default", b"by default again"]


async def test_multicast_without_loopback_does_not_reach_this_machine(
    udp: Family, veth: Link, machine: Machine, nursery: DatagramNursery
) -> None:
    here, sender = nursery.create_socket(udp.type), nursery.create_socket(udp.type, multicast_interface=veth.name)
    with machine.active():
        there = nursery.create_socket(udp.type)
    await here.bind(PORT)
    here.add_membership(udp.group, veth.name)
    await there.bind(PORT)
    with machine.active():
        there.add_membership(udp.group, veth.peer_name)
    for switch in (True, False, True):
        sender.multicast_loopback = switch
        await sender.send(str(switch), (udp.group, PORT))
    assert [(await there.receive()).data for _ in range(3)] == [b"True", b"False", b"True"]
    assert [(await here.receive()).data for _ in range(2)] == [b"True", b"True"]


@pytest.mark.needs("packet_info")
async def test_multicast_ttl_is_the_hop_limit_of_sent_datagrams(
    udp: Family, place: Place, nursery: DatagramNursery
) -> None:
    level, option = {
        # IP_RECVTTL has no name in every supported Python.
        "udp4": (socket.IPPROTO_IP, 12),
        "udp6": (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT),
    }[udp.type]
    group, index = socket.inet_pton(udp.family, udp.group), index_of(place.interface)
    # struct ip_mreqn, struct ipv6_mreq
    joining = {
        "udp4": (socket.IP_ADD_MEMBERSHIP, group + bytes(4) + struct.pack("=i", index)),
        "udp6": (socket.IPV6_JOIN_GROUP, group + struct.pack("=i", index)),
    }
    sender = nursery.create_socket(udp.type, multicast_interface=place.interface)
    with plain_socket(udp.family) as receiver:
        receiver.bind((udp.wildcard, PORT))
        receiver.setsockopt(level, *joining[udp.type])
        receiver.setsockopt(level, option, 1)
        for hops in (32, 1, 0, 255):
            sender.multicast_ttl = hops
            await sender.send(b"PING", (udp.group, PORT))
            _, ((_, _, data),), _, _ = receiver.recvmsg(10, 100)
            assert int.from_bytes(data, sys.byteorder) == hops


async def test_a_socket_bound_to_loopback_works_with_every_outgoing_interface(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for which in ("lo", 1, udp.loopback, None):
            sock.multicast_interface = which
            await sock.send(b"PING", sock.address)
            assert (await sock.receive()).data == b"PING"


async def test_an_outgoing_interface_cannot_be_set_after_close(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        sock.close()
        with pytest.raises(trio.ClosedResourceError):
            sock.multicast_interface = "lo"


async def test_an_outgoing_interface_that_does_not_exist_is_refused(udp: Family) -> None:
    interfaces: list[str | int] = ["nowhere", "undefined", "1.1.1.1", "2001:db8::1", "224.0.0.2", "ff02::2", 10**6]
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for wrong in interfaces:
            with pytest.raises(OSError, match="multicast_interface") as caught:
                sock.multicast_interface = wrong
            assert (wrong, caught.value.errno) == (wrong, errno.ENODEV)
            assert sock.multicast_interface is None
        await sock.send(b"usable", sock.address)
        assert (await sock.receive()).data == b"usable"


async def test_sending_to_a_broadcast_address_needs_the_broadcast_option() -> None:
    async with trio_dgram.open_socket("udp4", port=0) as sock:
        with pytest.raises(PermissionError, match=r"send 127\.255\.255\.255"):
            await sock.send(b"x", ("127.255.255.255", 9))
        sock.broadcast = True
        await sock.send(b"x", ("127.255.255.255", 9))


@pytest.mark.needs("bind_to_device")
async def test_three_receivers_each_get_all_four_broadcasts(
    machine: Machine, veth: Link, nursery: DatagramNursery
) -> None:
    with machine.active():
        receivers = [nursery.create_socket("udp4", reuse_address=True) for _ in range(3)]
    for receiver in receivers:
        await receiver.bind(PORT)
    sender = nursery.create_socket("udp4", broadcast=True, device=veth.name)
    await sender.bind(PORT, veth.here["udp4"])
    for message, host in zip(MESSAGES, ["255.255.255.255", veth.broadcast] * 2, strict=True):
        await sender.send(message, (host, PORT))
    for receiver in receivers:
        received = [await receiver.receive() for _ in MESSAGES]
        assert [datagram.data for datagram in received] == MESSAGES
        assert {datagram.address for datagram in received} == {(veth.here["udp4"], PORT)}


@pytest.mark.kernel_transport("joining a group before it is bound")
async def test_a_group_is_joined_and_left_before_and_after_binding(
    udp: Family, place: Place, nursery: DatagramNursery
) -> None:
    sock = nursery.create_socket(udp.type, reuse_address=True)
    with pytest.raises(OSError, match="drop_membership") as caught:
        sock.drop_membership(udp.group, place.interface)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(trio_dgram.NotBoundError):
        _ = sock.address
    for _ in range(2):
        sock.add_membership(udp.group, place.interface)
        # Joining binds the socket.
        assert sock.address.port > 0
        sock.drop_membership(udp.group, place.interface)


async def test_a_closed_socket_can_neither_join_nor_leave_a_group(udp: Family, nursery: DatagramNursery) -> None:
    sock = nursery.create_socket(udp.type)
    sock.close()
    for change in (sock.add_membership, sock.drop_membership):
        with pytest.raises(trio.ClosedResourceError):
            change(udp.group, "lo")
        with pytest.raises(trio.ClosedResourceError):
            change(udp.group, "lo", source=udp.loopback)


async def test_a_membership_on_an_interface_that_does_not_exist_is_refused(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        for change in (sock.add_membership, sock.drop_membership):
            with pytest.raises(OSError, match=r"_membership .* on nowhere: "):
                change(udp.group, "nowhere")
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address


async def test_joining_twice_and_leaving_a_group_not_joined_raise_the_kernels_error(udp: Family, place: Place) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        sock.add_membership(udp.group, place.interface)
        with pytest.raises(OSError, match=f"add_membership {udp.group} on {place.interface}") as caught:
            sock.add_membership(udp.group, place.interface)
        assert caught.value.errno == errno.EADDRINUSE
        assert [interface.name for interface in sock.drop_membership(udp.group)] == [place.interface]
        for arguments in ((udp.group, place.interface), (udp.group,)):
            with pytest.raises(OSError, match=f"drop_membership {udp.group} on") as caught:
                sock.drop_membership(*arguments)
            assert caught.value.errno == errno.EADDRNOTAVAIL
