"""This library's sockets between simulated hosts: packet information, ICMP errors, multicast, path MTU."""

from __future__ import annotations

import errno

import attrs
import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Datagram, Failure, PeerUnreachable, sim

from ..support.families import Family
from .programs import Type


def address_of(host: sim.Host, udp: Family) -> str:
    return host.ipv4 if udp.type == "udp4" else host.ipv6


def test_a_datagram_is_received_with_its_packet_information(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        with server.active():
            receiver = trio_dgram.open_socket(udp.type, port=7, packet_info=True)
        with client.active():
            sender = trio_dgram.open_socket(udp.type, ttl=9, dscp=24, ecn=1)
        with server.active():
            async with receiver as server_socket:
                with client.active():
                    async with sender as client_socket:
                        await client_socket.send(b"hello", (address_of(server, udp), 7))
                        datagram = await server_socket.receive()
                        await server_socket.send(datagram.reply(b"back"))
                        answer = await client_socket.receive()
        info = datagram.info
        assert info is not None
        assert (info.local_address, info.interface) == (address_of(server, udp), 2)
        assert (info.hop_limit, info.dscp, info.ecn, info.truncated) == (9, 24, 1, False)
        assert info.timestamp_ns == 1_767_225_600_001_000_000
        assert answer.address == (address_of(server, udp), 7)

    sim.run(scenario)


def test_a_reply_leaves_from_the_requested_address(udp: Family) -> None:
    hosts = {"udp4": ["192.0.2.1", "192.0.2.2"], "udp6": ["2001:db8::1", "2001:db8::2"]}[udp.type]

    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server", addresses=hosts), network.host("client")
        with server.active():
            async with trio_dgram.open_socket(udp.type, port=7, packet_info=True) as server_socket:
                with client.active():
                    async with trio_dgram.open_socket(udp.type) as client_socket:
                        for host in hosts:
                            await client_socket.send(b"hello", (host, 7))
                            await server_socket.send((await server_socket.receive()).reply(b"back"))
                            assert (await client_socket.receive()).address == (host, 7)

    sim.run(scenario)


def test_an_icmp_error_is_reported_after_a_round_trip(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, delay=0.25)
        network.path(server, client, delay=0.5)
        with client.active():
            async with trio_dgram.open_socket(udp.type, icmp_errors=True) as sock:
                failures = sock.events(Failure)
                await sock.send(b"x", (address_of(server, udp), 7))
                failure = await failures.receive()
                assert network.time == 0.75
                error = failure.error
                assert isinstance(error, PeerUnreachable)
                assert (error.errno, error.reason) == (errno.ECONNREFUSED, "port unreachable")
                assert error.offender == address_of(server, udp)
                assert failure.address == (address_of(server, udp), 7)

    sim.run(scenario)


def test_a_connected_socket_is_refused(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        with client.active():
            async with trio_dgram.open_socket(udp.type) as sock:
                await sock.connect((address_of(server, udp), 7))
                await sock.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    await sock.receive()
                assert network.time == 0.002

    sim.run(scenario)


async def received(type: Type, datagrams: list[Datagram], group: str = "") -> None:
    async with trio_dgram.open_socket(type, port=7) as sock:
        if group:
            sock.add_membership(group)
        async for datagram in sock:
            datagrams.append(datagram)


def test_a_smaller_path_mtu_is_discovered(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, mtu=1300, too_big="icmp")
        came: list[Datagram] = []
        server.start_soon(received, udp.type, came)
        with client.active():
            async with trio_dgram.open_socket(udp.type) as sock:
                to = (address_of(server, udp), 7)
                await sock.connect(to)
                assert sock.path_mtu(to) == 1500
                for _ in range(3):
                    await sock.send(bytes(1400))
                    await trio.sleep(1)
                # The first datagram is dropped; the path MTU is known afterwards.
                assert [len(datagram.data) for datagram in came] == [1400, 1400]
                assert sock.path_mtu(to) == 1300
            async with trio_dgram.open_socket(udp.type, mtu_discovery="do") as sock:
                with pytest.raises(OSError, match="the path accepts packets of 1300 bytes") as caught:
                    await sock.send(bytes(1400), to)
                assert caught.value.errno == errno.EMSGSIZE

    sim.run(scenario)


@pytest.mark.parametrize("silent", [False, True])
def test_a_black_hole_drops_datagrams_above_the_mtu(udp: Family, silent: bool) -> None:
    async def scenario(network: sim.Network) -> list[int]:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, mtu=1300, too_big="blackhole" if silent else "fragment")
        came: list[Datagram] = []
        server.start_soon(received, udp.type, came)
        with client.active():
            async with trio_dgram.open_socket(udp.type) as sock:
                for size in (1400, 100):
                    await sock.send(bytes(size), (address_of(server, udp), 7))
                    await trio.sleep(1)
        return [len(datagram.data) for datagram in came]

    assert sim.run(scenario) == ([100] if silent else [1400, 100])


def test_datagrams_dropped_by_a_full_buffer_are_counted(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        with server.active():
            async with trio_dgram.open_socket(udp.type, port=7) as receiver:
                with client.active():
                    async with trio_dgram.open_socket(udp.type) as sender:
                        to = await trio_dgram.resolve("server", 7, udp.type)
                        await sender.send_many([Datagram(bytes(100), to)] * 300)
                        await trio.sleep(1)
                        statistics = receiver.statistics()
                        assert statistics.dropped_by_kernel == 300 - 256
                        assert statistics.kernel_drops_exact
                        assert len(await receiver.receive_many(1000)) == 256

    sim.run(scenario)


@attrs.frozen
class Received:
    there: list[bytes]
    here: list[bytes]


def test_multicast_reaches_members_according_to_the_options_of_the_sender(udp: Family) -> None:
    async def scenario(network: sim.Network) -> Received:
        there: list[Datagram] = []
        here: list[Datagram] = []
        sender_host, member = network.host("sender"), network.host("member")
        member.start_soon(received, udp.type, there, udp.group)
        sender_host.start_soon(received, udp.type, here, udp.group)
        network.host("other").start_soon(received, udp.type, [], "")
        await trio.testing.wait_all_tasks_blocked()
        with sender_host.active():
            async with trio_dgram.open_socket(udp.type, multicast_interface="eth0") as sock:
                await sock.send(b"all", (udp.group, 7))
                sock.multicast_loopback = False
                await sock.send(b"others", (udp.group, 7))
                sock.multicast_ttl, sock.multicast_loopback = 0, True
                await sock.send(b"here", (udp.group, 7))
        await trio.sleep(1)
        return Received([datagram.data for datagram in there], [datagram.data for datagram in here])

    assert sim.run(scenario) == Received([b"all", b"others"], [b"all", b"here"])


def test_a_membership_may_accept_a_single_source(udp: Family) -> None:
    async def scenario(network: sim.Network) -> list[str]:
        member, wanted, other = network.host("member"), network.host("wanted"), network.host("other")
        with member.active():
            async with trio_dgram.open_socket(udp.type, port=7) as receiver:
                receiver.add_membership(udp.group, "eth0", source=address_of(wanted, udp))
                for host in (wanted, other):
                    with host.active():
                        async with trio_dgram.open_socket(udp.type) as sock:
                            await sock.send(b"x", (udp.group, 7))
                await trio.sleep(1)
                return [datagram.address.host for datagram in await receiver.receive_many()]

    async def wanted(network: sim.Network) -> str:
        return address_of(network.host("wanted"), udp)

    assert sim.run(scenario) == [sim.run(wanted)]


def test_memberships_can_be_joined_again_and_left(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        with network.host("member").active():
            async with trio_dgram.open_socket(udp.type, port=7) as sock:
                sock.add_membership(udp.group)
                names = {membership.interface for membership in sock.memberships}
                assert "eth0" in names
                assert {membership.interface for membership in sock.rejoin_memberships()} == names
                sock.drop_membership(udp.group)
                assert sock.memberships == ()

    sim.run(scenario)


def test_a_broadcast_reaches_every_host() -> None:
    async def scenario(network: sim.Network) -> list[int]:
        came: list[list[Datagram]] = [[], [], []]
        for number, datagrams in enumerate(came):
            network.host(f"host {number}").start_soon(received, "udp4", datagrams)
        await trio.testing.wait_all_tasks_blocked()
        with network.host("host 0").active():
            async with trio_dgram.open_socket("udp4", broadcast=True) as sock:
                for host in ("255.255.255.255", "10.255.255.255"):
                    await sock.send(b"x", (host, 7))
        await trio.sleep(1)
        return [len(datagrams) for datagrams in came]

    assert sim.run(scenario) == [2, 2, 2]


def test_failures_are_reported_without_a_receiving_task_and_rate_limited(udp: Family) -> None:
    async def scenario(network: sim.Network) -> int:
        server, client = network.host("server"), network.host("client")
        with client.active():
            async with trio_dgram.open_socket(udp.type, icmp_errors=True) as sock:
                failures = sock.events(Failure, max_buffer_size=100)
                reported: list[Failure] = []
                for _ in range(20):
                    await sock.send(b"x", (address_of(server, udp), 7))
                with trio.move_on_after(0.5):
                    async for failure in failures:
                        reported.append(failure)
                return len(reported)

    assert sim.run(scenario) == 6


def test_failures_can_be_watched_again(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        with client.active():
            async with trio_dgram.open_socket(udp.type, icmp_errors=True) as sock:
                for _ in range(2):
                    async with sock.events(Failure) as failures:
                        await sock.send(b"x", (address_of(server, udp), 7))
                        assert isinstance((await failures.receive()).error, PeerUnreachable)
                    # No channel is open now.
                    await sock.send(b"x", (address_of(server, udp), 7))
                    await trio.sleep(1)

    sim.run(scenario)
