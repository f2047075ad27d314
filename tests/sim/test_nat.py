"""Hosts behind a NAT have its address for others, and are reachable through its mappings (RFC 4787)."""

from __future__ import annotations

import errno
import random
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, Failure, PeerUnreachable, sim
from trio_dgram.sim import Packet
from trio_dgram.sim._path import nat as translation
from trio_dgram.sim._path.nat import FILTERED, NO_HAIRPIN, NO_MAPPING, NO_PORT, Behaviour, Nat

from ..support.families import Family

INSIDE = Address("10.0.0.5", 5000)
OUTSIDE = "203.0.113.1"
PEER, SAME_HOST, OTHER_HOST = Address("198.51.100.1", 7), Address("198.51.100.1", 8), Address("198.51.100.2", 7)
WORDS: tuple[Behaviour, ...] = ("endpoint", "address", "address-port")


def make_nat(**options: Any) -> Nat:
    given: dict[str, Any] = {
        "mapping": "endpoint",
        "filtering": "endpoint",
        "timeout": 120.0,
        "hairpin": True,
    } | options
    ports = random.Random(1)
    return Nat("NAT", OUTSIDE, choose_port=lambda: ports.getrandbits(16), **given)


def packet(source: Address, destination: Address) -> Packet:
    return Packet(1, source, destination, b"x", "sender", 0.0)


def sent(nat: Nat, peer: Address, now: float = 0.0, source: Address = INSIDE) -> Packet:
    passed = nat.leave(packet(source, peer), now)
    assert isinstance(passed, Packet)
    return passed


@pytest.mark.parametrize("mapping", WORDS)
@pytest.mark.parametrize("filtering", WORDS)
def test_mapping_and_filtering_follow_the_options(mapping: Behaviour, filtering: Behaviour) -> None:
    nat = make_nat(mapping=mapping, filtering=filtering)
    first = sent(nat, PEER)
    assert first.source.host == OUTSIDE
    assert (first.destination, first.payload) == (PEER, b"x")
    same = {peer: sent(nat, peer).source.port == first.source.port for peer in (PEER, SAME_HOST, OTHER_HOST)}
    assert same == {PEER: True, SAME_HOST: mapping != "address-port", OTHER_HOST: mapping == "endpoint"}

    nat = make_nat(mapping=mapping, filtering=filtering)
    outside = sent(nat, PEER).source
    accepted = {peer: isinstance(nat.enter(packet(peer, outside), 1.0), Packet) for peer in same}
    assert accepted == {PEER: True, SAME_HOST: filtering != "address-port", OTHER_HOST: filtering == "endpoint"}
    entered = nat.enter(packet(PEER, outside), 1.0)
    assert isinstance(entered, Packet)
    assert (entered.source, entered.destination) == (PEER, INSIDE)
    if filtering == "address-port":
        assert nat.enter(packet(SAME_HOST, outside), 1.0) == FILTERED


def test_outgoing_datagrams_refresh_a_mapping() -> None:
    nat = make_nat(timeout=10.0)
    outside = sent(nat, PEER, 0.0).source
    assert sent(nat, PEER, 10.0).source == outside
    assert isinstance(nat.enter(packet(PEER, outside), 20.0), Packet)
    assert [mapping.port for mapping in nat.mappings(20.0)] == [outside.port]
    # Incoming datagrams do not refresh it.
    assert nat.enter(packet(PEER, outside), 20.5) == NO_MAPPING
    assert (nat.mappings(20.5), nat.find(outside.port, 20.5)) == ([], None)
    assert sent(nat, PEER, 30.0).source != outside


def test_a_datagram_without_a_mapping_is_dropped() -> None:
    assert make_nat().enter(packet(PEER, Address(OUTSIDE, 1)), 0.0) == NO_MAPPING


def test_hosts_inside_have_ports_of_their_own() -> None:
    nat = make_nat()
    ports = {sent(nat, PEER, source=Address("10.0.0.5", port)).source.port for port in range(100)}
    assert len(ports) == 100


def test_expired_ports_are_reused_when_every_port_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "_PORTS", range(1024, 1027))
    nat = make_nat(timeout=10.0)
    for port in range(3):
        sent(nat, PEER, port, Address("10.0.0.5", port))
    assert nat.leave(packet(INSIDE, PEER), 5.0) == NO_PORT
    assert sent(nat, PEER, 10.5).source.port in range(1024, 1027)
    assert len(nat.mappings(10.5)) == 3


def test_the_peers_of_a_mapping_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "_MOST_PEERS", 2)
    nat = make_nat(filtering="address-port")
    outside = sent(nat, PEER).source
    for peer in (SAME_HOST, OTHER_HOST):
        sent(nat, peer)
    assert nat.enter(packet(PEER, outside), 0.0) == FILTERED
    assert isinstance(nat.enter(packet(SAME_HOST, outside), 0.0), Packet)


def test_the_recorded_peers_of_a_translator_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "_MOST_PEERS", 1)
    nat = make_nat()
    outside = sent(nat, PEER).source
    refusals = []
    for peer in (PEER, OTHER_HOST):
        came = nat.enter(packet(peer, outside), 0.0)
        assert isinstance(came, Packet)
        refusals.append(attrs.evolve(came, report=sim.Report(3, 3, 0, came)))
    passed = nat.leave(refusals[1], 0.0)
    assert isinstance(passed, Packet)
    assert passed.report is not None
    assert (passed.source, passed.report.about.destination) == (Address(OUTSIDE, 0), outside)
    assert nat.leave(refusals[0], 0.0) == NO_MAPPING


def test_mappings_are_returned_as_copies() -> None:
    nat = make_nat(filtering="address-port")
    outside = sent(nat, PEER).source
    (shown,) = nat.mappings(0.0)
    shown.peers.clear()
    shown.last_used = -1000.0
    assert isinstance(nat.enter(packet(PEER, outside), 0.0), Packet)


def test_without_hairpinning_packets_to_the_own_outside_address_are_dropped() -> None:
    nat = make_nat(hairpin=False)
    outside = sent(nat, PEER).source
    assert nat.enter(packet(Address(OUTSIDE, 1), outside), 0.0) == NO_HAIRPIN


def test_an_icmp_error_without_a_mapping_is_dropped() -> None:
    nat = make_nat()
    about = packet(Address(OUTSIDE, 9), PEER)
    report = attrs.evolve(about, report=sim.Report(3, 3, 0, about))
    assert nat.enter(report, 0.0) == nat.leave(report, 0.0) == NO_MAPPING


# On the network


async def count(datagrams: list[Datagram]) -> None:
    async with trio_dgram.open_socket("udp4", port=7) as sock:
        async for datagram in sock:
            datagrams.append(datagram)
            await sock.send(datagram.data, datagram.address)


async def ask(sock: DatagramSocket, to: tuple[str, int]) -> bool:
    await sock.send(b"ask", to)
    with trio.fail_after(1):
        return (await sock.receive()).data == b"ask"


def test_a_server_sees_the_nats_address_and_answers_it() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        network.path(client, server, symmetric=True, delay=0.25)
        nat = network.nat([client])
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                assert await ask(sock, (server.ipv4, 7))
                assert network.time == 0.5
                assert came[0].address.host == nat.address
                (mapping,) = nat.mappings
                assert (mapping.inside.host, mapping.port) == (client.ipv4, came[0].address.port)
                nat.rebind()
                assert nat.address != came[0].address.host
                assert await ask(sock, (server.ipv4, 7))
        assert came[1].address.host == nat.address != came[0].address.host
        assert came[1].address != came[0].address
        assert repr(nat) == f"<trio_dgram.sim.NatHandle NAT 1: {nat.address}>"

    sim.run(scenario)


def test_an_expired_mapping_gets_another_port_and_the_old_port_is_unmapped() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        nat = network.nat([client], timeout=30)
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                for silence in (29, 31, 0):
                    assert await ask(sock, (server.ipv4, 7))
                    await trio.sleep(silence)
                assert [mapping.port for mapping in nat.mappings] == [came[2].address.port]
                with server.active():
                    async with trio_dgram.open_socket("udp4") as other:
                        await other.send(b"too late", came[0].address)
                        await trio.sleep(1)
        assert came[0].address == came[1].address != came[2].address
        assert network.trace.records[-1].reason == NO_MAPPING

    sim.run(scenario)


def test_datagrams_in_flight_to_a_former_outside_address_are_dropped() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        client, server = network.host("client"), network.host("server")
        network.path(server, client, delay=1)
        nat = network.nat([client])
        server.start_soon(count, [])
        await trio.testing.wait_all_tasks_blocked()
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.send(b"ask", (server.ipv4, 7))
                await trio.sleep(0.5)
                nat.rebind()
                await trio.sleep(1)
        return [record.reason for record in network.trace]

    assert sim.run(scenario) == ["", "no host has that address"]


def test_an_inside_address_cannot_be_reached_from_outside_but_from_inside() -> None:
    async def scenario(network: sim.Network) -> None:
        client, neighbour, server = network.host("client"), network.host("neighbour"), network.host("server")
        network.nat([client, neighbour])
        came: list[Datagram] = []
        client.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with server.active():
            async with trio_dgram.open_socket("udp4", icmp_errors=True) as sock:
                failures = sock.events(Failure)
                await sock.send(b"x", (client.ipv4, 7))
                error = (await failures.receive()).error
                assert isinstance(error, PeerUnreachable)
                assert error.errno == errno.EHOSTUNREACH
        assert network.trace.records[0].reason == "behind a NAT"
        with neighbour.active():
            async with trio_dgram.open_socket("udp4") as sock:
                assert await ask(sock, (client.ipv4, 7))
        assert came[0].address.host == neighbour.ipv4

    sim.run(scenario)


def test_ipv6_is_not_translated() -> None:
    async def scenario(network: sim.Network) -> str:
        client, server = network.host("client"), network.host("server")
        network.nat([client])
        with server.active():
            async with trio_dgram.open_socket("udp6", port=7) as receiver:
                with client.active():
                    async with trio_dgram.open_socket("udp6") as sock:
                        await sock.send(b"x", (server.ipv6, 7))
                return "" if (await receiver.receive()).address.host == client.ipv6 else "translated"

    assert sim.run(scenario) == ""


@pytest.mark.parametrize(("behaviour", "comes_through"), [("endpoint", True), ("address-port", False)])
def test_two_peers_behind_two_nats_punch_holes(behaviour: Behaviour, comes_through: bool) -> None:
    async def peer(own: list[Address], other: list[Address], rendezvous: str, sources: set[str]) -> None:
        async with trio_dgram.open_socket("udp4") as sock:
            await sock.send(b"here I am", (rendezvous, 7))
            host, _, port = (await sock.receive()).data.decode().partition(" ")
            own.append(Address(host, int(port)))
            await trio.sleep(1)
            for _ in range(3):
                await sock.send(b"hello", other[0])
                with trio.move_on_after(1):
                    sources.add((await sock.receive()).address.host)

    async def rendezvous() -> None:
        async with trio_dgram.open_socket("udp4", port=7) as sock:
            async for datagram in sock:
                await sock.send(f"{datagram.address.host} {datagram.address.port}", datagram.address)

    async def scenario(network: sim.Network) -> set[str]:
        one, other, server = network.host("one"), network.host("other"), network.host("server")
        nats = [network.nat([host], mapping=behaviour, filtering="address-port") for host in (one, other)]
        server.start_soon(rendezvous)
        await trio.testing.wait_all_tasks_blocked()
        addresses: tuple[list[Address], list[Address]] = ([], [])
        sources: set[str] = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run, peer, addresses[0], addresses[1], server.ipv4, sources)
            nursery.start_soon(other.run, peer, addresses[1], addresses[0], server.ipv4, sources)
        assert sources <= {nat.address for nat in nats}
        return sources

    # Both receive the other's datagrams, or neither does.
    assert len(sim.run(scenario)) == (2 if comes_through else 0)


@pytest.mark.parametrize("hairpin", [True, False])
def test_hosts_inside_reach_each_other_by_outside_addresses_by_a_hairpin_alone(hairpin: bool) -> None:
    async def scenario(network: sim.Network) -> None:
        one, other, server = network.host("one"), network.host("other"), network.host("server")
        nat = network.nat([one, other], hairpin=hairpin)
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with one.active():
            async with trio_dgram.open_socket("udp4") as first:
                assert await ask(first, (server.ipv4, 7))
                outside = came[0].address
                with other.active():
                    async with trio_dgram.open_socket("udp4") as second:
                        await second.send(b"hello", outside)
                        with trio.move_on_after(1):
                            assert (await first.receive()).address.host == nat.address
                            assert hairpin
                            return
        assert not hairpin
        assert network.trace.records[-1].reason == "the NAT does not turn packets back"

    sim.run(scenario)


def test_an_icmp_refusal_is_translated_back() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        network.nat([client])
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.connect((server.ipv4, 9))
                await sock.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    await sock.receive()

    sim.run(scenario)


def test_icmp_refusal_reaches_a_third_party_behind_the_nat() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server, third = network.host("client"), network.host("server"), network.host("third")
        network.nat([client], mapping="address-port", filtering="endpoint")
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                assert await ask(sock, (server.ipv4, 7))
        with third.active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.connect(came[0].address)
                await sock.send(b"too late")
                with pytest.raises(ConnectionRefusedError):
                    await sock.receive()

    sim.run(scenario)


def test_an_icmp_refusal_from_inside_has_the_outside_address() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        nat = network.nat([client])
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                assert await ask(sock, (server.ipv4, 7))
        with server.active():
            async with trio_dgram.open_socket("udp4", icmp_errors=True) as sock:
                failures = sock.events(Failure)
                await sock.send(b"too late", came[0].address)
                failure = await failures.receive()
                assert isinstance(failure.error, PeerUnreachable)
                assert (failure.address, failure.error.offender) == (came[0].address, nat.address)

    sim.run(scenario)


def test_a_datagram_without_a_mapping_is_in_the_trace() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        client, server = network.host("client"), network.host("server")
        nat = network.nat([client], name="the router")
        with server.active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.send(b"x", (nat.address, 5))
                await trio.sleep(1)
        return [f"{record.receiver}: {record.reason}" for record in network.trace]

    assert sim.run(scenario) == ["the router: the NAT has no mapping"]


def test_a_translator_is_a_hop() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        client, server = network.host("client"), network.host("server")
        network.nat([client])
        with client.active():
            async with trio_dgram.open_socket("udp4", ttl=1, icmp_errors=True) as sock:
                failures = sock.events(Failure)
                await sock.send(b"x", (server.ipv4, 7))
                error = (await failures.receive()).error
                assert isinstance(error, PeerUnreachable)
                assert error.reason == "hop limit exceeded"
        return [record.reason for record in network.trace]

    assert sim.run(scenario) == ["hop limit exceeded", ""]


def test_each_translator_is_a_hop_and_a_hairpin_one() -> None:
    async def scenario(network: sim.Network) -> list[int]:
        one, beside, other = network.host("one"), network.host("beside"), network.host("other")
        server = network.host("server")
        network.nat([one, beside])
        network.nat([other])
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        left = []
        with one.active():
            async with trio_dgram.open_socket("udp4", packet_info=True) as receiver:
                assert await ask(receiver, (server.ipv4, 7))
                for host in (beside, other):
                    with host.active():
                        async with trio_dgram.open_socket("udp4", ttl=9) as sender:
                            await sender.send(b"x", came[0].address)
                    info = (await receiver.receive()).info
                    assert info is not None
                    assert info.hop_limit is not None
                    left.append(info.hop_limit)
        return left

    assert sim.run(scenario) == [8, 7]


def test_multicast_does_not_cross_a_nat(udp: Family) -> None:
    group = {"udp4": "239.1.2.3", "udp6": "ff02::1:3"}[udp.type]

    async def member(datagrams: list[Datagram]) -> None:
        async with trio_dgram.open_socket(udp.type, port=7) as sock:
            sock.add_membership(group, "eth0")
            async for datagram in sock:
                datagrams.append(datagram)

    async def scenario(network: sim.Network) -> tuple[int, int]:
        came: tuple[list[Datagram], list[Datagram]] = ([], [])
        inside, neighbour, outside = network.host("inside"), network.host("neighbour"), network.host("outside")
        network.nat([inside, neighbour])
        for host, datagrams in zip((neighbour, outside), came, strict=True):
            host.start_soon(member, datagrams)
        await trio.testing.wait_all_tasks_blocked()
        with inside.active():
            async with trio_dgram.open_socket(udp.type, multicast_interface="eth0") as sock:
                await sock.send(b"x", (group, 7))
        await trio.sleep(1)
        return len(came[0]), len(came[1])

    assert sim.run(scenario) == (1, 0)


def test_held_datagrams_are_translated_on_release() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        nat = network.nat([client])
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        network.hold(client, server)
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.send(b"x", (server.ipv4, 7))
                network.release(client, server)
                await sock.receive()
        assert came[0].address.host == nat.address

    sim.run(scenario)


def test_held_multicast_reaches_members_on_release() -> None:
    async def scenario(network: sim.Network) -> None:
        inside, neighbour = network.host("inside"), network.host("neighbour")
        network.nat([inside, neighbour])
        network.hold(inside, neighbour)
        with neighbour.active():
            async with trio_dgram.open_socket("udp4", port=7) as receiver:
                receiver.add_membership("239.1.2.3", "eth0")
                with inside.active():
                    async with trio_dgram.open_socket("udp4", multicast_interface="eth0") as sender:
                        await sender.send(b"x", ("239.1.2.3", 7))
                network.release(inside, neighbour)
                assert (await receiver.receive()).address.host == inside.ipv4

    sim.run(scenario)


def test_held_datagrams_hairpin_on_release() -> None:
    async def scenario(network: sim.Network) -> None:
        one, other, server = network.host("one"), network.host("other"), network.host("server")
        nat = network.nat([one, other])
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        network.hold(other, one)
        with one.active():
            async with trio_dgram.open_socket("udp4") as receiver:
                assert await ask(receiver, (server.ipv4, 7))
                with other.active():
                    async with trio_dgram.open_socket("udp4") as sender:
                        await sender.send(b"x", came[0].address)
                network.release(other, one)
                assert (await receiver.receive()).address.host == nat.address

    sim.run(scenario)


def test_held_icmp_messages_of_a_router_are_delivered_on_release() -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        network.nat([client])
        came: list[Datagram] = []
        server.start_soon(count, came)
        await trio.testing.wait_all_tasks_blocked()
        with client.active():
            async with trio_dgram.open_socket("udp4") as sock:
                assert await ask(sock, (server.ipv4, 7))
        network.path(server, client, mtu=600, too_big="icmp")
        network.hold(client, server)
        with server.active():
            async with trio_dgram.open_socket("udp4", icmp_errors=True, mtu_discovery="do") as sock:
                failures = sock.events(Failure)
                await sock.send(bytes(1000), came[0].address)
                await trio.sleep(1)
                network.release(client, server)
                failure = await failures.receive()
                assert isinstance(failure.error, PeerUnreachable)
                assert (failure.address, failure.error.errno) == (came[0].address, errno.EMSGSIZE)

    sim.run(scenario)


def test_the_name_and_address_of_a_nat_are_unique() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("NAT 1")
        nat, named = network.nat([network.host("a")]), network.nat([network.host("b")], name="the router")
        assert repr(nat).startswith("<trio_dgram.sim.NatHandle NAT 2:")
        with pytest.raises(ValueError, match="name must be free: 'the router' is a NAT's"):
            network.host("the router")
        for handle, name in ((nat, "NAT 2"), (named, "the router")):
            with pytest.raises(ValueError, match=f"addresses must be free: {handle.address} is {name}'s"):
                network.host("c", addresses=[handle.address])

    sim.run(scenario)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": "symmetric"}, "mapping must be"),
        ({"filtering": "none"}, "filtering must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"hairpin": "no"}, "hairpin must be"),
        ({"inside": []}, "inside must be one host at least"),
        ({"inside": ["behind"]}, "behind no NAT yet, and 'behind' is"),
        ({"inside": ["nobody"]}, "there is no host 'nobody'"),
        ({"inside": "a"}, "inside must be a list of hosts or their names, not 'a'"),
        ({"inside": 7}, "inside must be a list of hosts or their names, not 7"),
        ({"name": 7}, "name must be the name of a NAT, not 7"),
        ({"name": ""}, "name must be the name of a NAT, not ''"),
        ({"name": "a"}, "name must be free: 'a' is another NAT's or a host's"),
        ({"name": "NAT 1"}, "name must be free: 'NAT 1' is another NAT's or a host's"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a")
        network.nat([network.host("behind")])
        with pytest.raises((ValueError, TypeError), match=message):
            network.nat(**({"inside": ["a"]} | options))

    sim.run(scenario)
