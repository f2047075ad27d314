"""Multicast memberships, joined on the interfaces of a network namespace."""

from __future__ import annotations

import errno
import json
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import DatagramNursery, DatagramSocket, Interface, Membership
from trio_dgram._codecs.families import SocketType
from trio_dgram._kernel import capabilities as _capabilities

from .support.families import Family
from .support.faults import faulty_kernel
from .support.namespaces import Link, Machine, add_address, ip, run, sysctl, wait_until_up

GROUPS: Final = {"udp4": ("239.1.2.3", "239.1.2.4"), "udp6": ("ff15::1234", "ff15::1235")}
"""Two groups that nothing else on the machine joins, by the type of a socket."""
PORT: Final = 4000


@attrs.frozen
class Net:
    """A machine with loopback, two interfaces that are up and one that is down, each linked to another machine."""

    machine: Machine
    first: Link
    second: Link
    down: Link

    @property
    def capable(self) -> list[str]:
        """The interfaces on which a group can be joined, by index."""
        return ["lo", self.first.name, self.second.name]

    def sender(self, nursery: DatagramNursery, type: SocketType, link: Link) -> DatagramSocket:
        """Return a socket on the other machine that sends multicast datagrams over ``link``."""
        with self.machine.active():
            return nursery.create_socket(type, multicast_interface=link.peer_name).unref()


@pytest.fixture
def net(machine: Machine) -> Net:
    return Net(machine, machine.link(1), machine.link(2), machine.link(3, up=False))


def joined(group: str) -> list[str]:
    """Return the interfaces on which any socket has joined ``group``, by index, as ip-maddress(8) reports."""
    reported: list[dict[str, Any]] = json.loads(run("ip", "-j", "maddress"))
    return [each["ifname"] for each in reported if group in [address.get("address") for address in each["maddr"]]]


def names(interfaces: tuple[Interface, ...]) -> list[str]:
    return [interface.name for interface in interfaces]


def needs(capability: str) -> None:
    """Skip the test where the platform, real or emulated, lacks ``capability``."""
    if not getattr(trio_dgram.capabilities(), capability):
        pytest.skip(
            f"kernel: {capability} is not among the portable calls"
        )  # pragma: no cover -- the session tests_portable runs it


@pytest.fixture
def multicast_all() -> None:
    needs("multicast_all")


@pytest.fixture
def source_membership() -> None:
    needs("source_membership")


@pytest.fixture(params=["from any source", "from one source"])
def source(request: pytest.FixtureRequest, udp: Family, net: Net) -> str | None:
    """The source to join from: none, and the peer of the first interface."""
    if request.param == "from any source":
        return None
    needs("source_membership")
    return net.first.there[udp.type]


async def arrivals(sock: DatagramSocket, last: bytes) -> list[bytes]:
    """Return the payloads that are received, up to ``last``."""
    got: list[bytes] = []
    while last not in got:
        got.append((await sock.receive()).data)
    return got


@pytest.mark.parametrize("by", ["name", "index", "address"])
async def test_a_group_is_joined_and_left_on_one_interface(udp: Family, net: Net, by: str) -> None:
    group, _ = GROUPS[udp.type]
    expected = next(each for each in trio_dgram.interfaces() if each.name == net.first.name)
    named: dict[str, str | int] = {"name": expected.name, "index": expected.index, "address": net.first.here[udp.type]}
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        assert sock.add_membership(group, named[by]) == (expected,)
        assert joined(group) == [net.first.name]
        await net.sender(nursery, udp.type, net.first).send(b"hello", (group, PORT))
        assert (await sock.receive()).data == b"hello"
        assert sock.drop_membership(group, named[by]) == (expected,)
        assert joined(group) == []


@pytest.mark.usefixtures("multicast_all")
async def test_a_socket_receives_only_groups_that_it_joined(udp: Family, net: Net) -> None:
    group, others = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        sock.add_membership(group, net.first.name)
        # The machine receives this group, which another socket has joined.
        nursery.create_socket(udp.type).unref().add_membership(others, net.first.name)
        sender = net.sender(nursery, udp.type, net.first)
        await sender.send(b"another group", (others, PORT))
        await sender.send(b"ours", (group, PORT))
        assert await arrivals(sock, b"ours") == [b"ours"]


@pytest.mark.usefixtures("multicast_all")
async def test_an_ipv4_socket_receives_a_group_only_on_interfaces_where_it_joined(net: Net) -> None:
    # For IPv6, Linux compares the group only, not the interface.
    group, _ = GROUPS["udp4"]
    async with trio_dgram.open_socket("udp4", port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        sock.add_membership(group, net.first.name)
        nursery.create_socket("udp4").unref().add_membership(group, net.second.name)
        by_first, by_second = (net.sender(nursery, "udp4", link) for link in (net.first, net.second))
        await by_second.send(b"another interface", (group, PORT))
        await by_first.send(b"ours", (group, PORT))
        assert await arrivals(sock, b"ours") == [b"ours"]


async def test_a_dual_stack_socket_joins_an_ipv4_group(net: Net) -> None:
    group, _ = GROUPS["udp4"]
    async with trio_dgram.open_socket("udp6", port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        (interface,) = sock.add_membership(group, net.first.name)
        assert sock.memberships == (Membership(group, None, interface.name, interface.index),)
        await net.sender(nursery, "udp4", net.first).send(b"x", (group, PORT))
        assert (await sock.receive()).address.host == f"::ffff:{net.first.there['udp4']}"
        assert names(sock.drop_membership(group)) == [net.first.name]
        assert joined(group) == []
    async with trio_dgram.open_socket("udp6", ipv6_only=True) as sock:
        for text in (group, f"::ffff:{group}"):
            with pytest.raises(ValueError, match="group must be"):
                sock.add_membership(text, net.first.name)


@pytest.mark.usefixtures("source_membership")
async def test_a_group_is_joined_from_one_source_and_then_from_a_second(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    version = 4 if udp.type == "udp4" else 6
    good, bad = net.first.host(version, 2), net.first.host(version, 3)
    with net.machine.active():
        add_address(f"{bad}/{24 if version == 4 else 64}", net.first.peer_name)
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        from_good, from_bad = (net.sender(nursery, udp.type, net.first) for _ in range(2))
        with net.machine.active():
            await from_good.bind(0, good)
            await from_bad.bind(0, bad)
        assert names(sock.add_membership(group, net.first.name, source=good)) == [net.first.name]
        await from_bad.send(b"unwanted", (group, PORT))
        await from_good.send(b"1", (group, PORT))
        assert await arrivals(sock, b"1") == [b"1"]
        sock.add_membership(group, net.first.name, source=bad)
        await from_bad.send(b"2", (group, PORT))
        await from_good.send(b"3", (group, PORT))
        assert await arrivals(sock, b"3") == [b"2", b"3"]
        assert names(sock.drop_membership(group, net.first.name, source=good)) == [net.first.name]
        await from_good.send(b"unwanted", (group, PORT))
        await from_bad.send(b"4", (group, PORT))
        assert await arrivals(sock, b"4") == [b"4"]
        assert names(sock.drop_membership(group, source=bad)) == [net.first.name]
        assert joined(group) == []


async def test_a_group_is_joined_on_every_capable_interface(udp: Family, net: Net, source: str | None) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        assert names(sock.add_membership(group, source=source)) == net.capable
        assert joined(group) == net.capable
        for link in [net.first, net.second][: 1 if source else 2]:
            await net.sender(nursery, udp.type, link).send(link.name, (group, PORT))
            assert (await sock.receive()).data.decode() == link.name
        assert names(sock.drop_membership(group, source=source)) == net.capable
        assert joined(group) == []
        with pytest.raises(OSError, match="on every interface"):
            sock.drop_membership(group, source=source)
        assert names(sock.add_membership(group, source=source)) == net.capable
    assert joined(group) == []


async def test_joining_autobinds(udp: Family, net: Net) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(GROUPS[udp.type][0], net.first.name)
        assert sock.address.port


async def test_joining_everywhere_skips_interfaces_where_the_group_is_joined(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group, net.first.name)
        assert names(sock.add_membership(group)) == ["lo", net.second.name]
        assert names(sock.drop_membership(group, net.second.name)) == [net.second.name]
        assert sorted(names(sock.drop_membership(group))) == ["lo", net.first.name]
        assert joined(group) == []


async def test_joining_everywhere_skips_an_interface_that_refuses(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0) as sock:
            faults.set("setsockopt", None, errno.ENODEV)
            assert names(sock.add_membership(group)) == joined(group) == ["lo", net.second.name]
            assert names(sock.drop_membership(group)) == ["lo", net.second.name]


async def test_leaving_everywhere_skips_a_removed_interface(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group)
        ip(f"link del {net.first.name}")
        assert names(sock.drop_membership(group)) == ["lo", net.second.name]
        assert joined(group) == []


async def test_joining_twice_and_leaving_without_joining_raise_the_kernels_error(udp: Family, net: Net) -> None:
    group, another = GROUPS[udp.type]
    name = net.first.name
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group, name)
        with pytest.raises(OSError, match=f"add_membership {group} on {name}") as caught:
            sock.add_membership(group, name)
        assert caught.value.errno == errno.EADDRINUSE
        for which in (name, None):
            with pytest.raises(OSError, match=f"drop_membership {another} on {which or 'every interface'}") as caught:
                sock.drop_membership(another, which)
            assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.usefixtures("source_membership")
async def test_joining_a_source_twice_and_leaving_another_raise_the_kernels_error(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    name, source = net.first.name, net.first.there[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group, name, source=source)
        with pytest.raises(OSError, match=f"add_membership {group} from {source} on {name}") as caught:
            sock.add_membership(group, name, source=source)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        other = net.second.there[udp.type]
        with pytest.raises(OSError, match=f"drop_membership {group} from {other} on {name}") as caught:
            sock.drop_membership(group, name, source=other)
        assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_joining_from_one_source_raises_enotsup_without_the_capability(
    udp: Family, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match=f"add_membership {group} from {udp.loopback} on lo") as caught:
            sock.add_membership(group, "lo", source=udp.loopback)
        assert caught.value.errno == errno.ENOTSUP
        assert joined(group) == []


@pytest.mark.parametrize("interface", ["veth99", 99, "203.0.113.1", "2001:db8:ffff::1"])
async def test_an_unknown_interface_raises_enodev(udp: Family, net: Net, interface: str | int) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        for change in (sock.add_membership, sock.drop_membership):
            with pytest.raises(OSError, match=f"{group} on {interface}: ") as caught:
                change(group, interface)
            assert caught.value.errno == errno.ENODEV
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address


async def test_joining_on_no_interface_raises_the_first_error_from_a_group_of_all(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group)
        with pytest.raises(OSError, match=f"{group} on lo") as caught:
            sock.add_membership(group)
        tries = caught.value.__cause__
        assert isinstance(tries, ExceptionGroup)
        assert tries.exceptions[0] is caught.value
        assert [str(each).count(f"{group} on {name}") for each, name in zip(tries.exceptions, net.capable, strict=True)]
        assert {each.errno for each in tries.exceptions if isinstance(each, OSError)} == {errno.EADDRINUSE}
        assert names(sock.drop_membership(group)) == net.capable


@pytest.mark.usefixtures("namespace")
async def test_joining_without_a_capable_interface_raises_enodev(udp: Family) -> None:
    group, _ = GROUPS[udp.type]
    ip("link set lo down")
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match=f"add_membership {group} on every interface") as caught:
            sock.add_membership(group)
        assert caught.value.errno == errno.ENODEV
        assert caught.value.__cause__ is None


async def test_too_many_groups_on_one_interface_raise_the_kernels_error(net: Net) -> None:
    group, another = GROUPS["udp4"]
    sysctl("net.ipv4.igmp_max_memberships", 1)
    async with trio_dgram.open_socket("udp4") as sock:
        sock.add_membership(group, net.first.name)
        with pytest.raises(OSError, match=f"add_membership {another} on {net.first.name}") as caught:
            sock.add_membership(another, net.first.name)
        assert caught.value.errno == errno.ENOBUFS


@pytest.mark.usefixtures("source_membership")
async def test_too_many_sources_raise_the_kernels_error(net: Net) -> None:
    group, _ = GROUPS["udp4"]
    sysctl("net.ipv4.igmp_max_msf", 1)
    async with trio_dgram.open_socket("udp4") as sock:
        sock.add_membership(group, net.first.name, source=net.first.there["udp4"])
        second = net.second.there["udp4"]
        with pytest.raises(OSError, match=f"add_membership {group} from {second} on {net.first.name}") as caught:
            sock.add_membership(group, net.first.name, source=second)
        assert caught.value.errno == errno.ENOBUFS


async def test_too_many_groups_undo_the_joins_of_the_same_call(net: Net) -> None:
    group, another = GROUPS["udp4"]
    sysctl("net.ipv4.igmp_max_memberships", 3)
    async with trio_dgram.open_socket("udp4") as sock:
        sock.add_membership(another, net.second.name)
        sock.add_membership(group, net.first.name)
        # One more membership is allowed, and two interfaces are left.
        with pytest.raises(OSError, match=f"add_membership {group} on {net.second.name}") as caught:
            sock.add_membership(group)
        assert caught.value.errno == errno.ENOBUFS
        assert joined(group) == [net.first.name]
        assert names(sock.drop_membership(group)) == [net.first.name]


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM])
async def test_enobufs_and_enomem_undo_the_joins_of_the_same_call(udp: Family, net: Net, error: int) -> None:
    group, _ = GROUPS[udp.type]
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0) as sock:
            faults.set("setsockopt", None, None, error)
            with pytest.raises(OSError, match=f"add_membership {group} on {net.second.name}") as caught:
                sock.add_membership(group)
            assert caught.value.errno == error
            assert joined(group) == []
            assert names(sock.add_membership(group)) == net.capable


async def test_memberships_are_listed_in_the_order_of_joining(udp: Family, net: Net, source: str | None) -> None:
    one, two = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        assert not sock.memberships
        (second,) = sock.add_membership(two, net.second.name, source=source)
        (first,) = sock.add_membership(one, net.first.name)
        sock.add_membership(one, net.second.name)
        sock.drop_membership(one, net.second.name)
        assert sock.memberships == (
            Membership(two, source, second.name, second.index),
            Membership(one, None, first.name, first.index),
        )
        sock.drop_membership(two, source=source)
        assert [membership.group for membership in sock.memberships] == [one]
    for closed in (lambda: sock.memberships, sock.rejoin_memberships):
        with pytest.raises(trio.ClosedResourceError):
            closed()


async def test_a_membership_is_kept_while_its_interface_is_down(udp: Family, net: Net, source: str | None) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        sock.add_membership(group, net.first.name, source=source)
        before = sock.memberships
        ip(f"link set {net.first.name} down")
        assert sock.rejoin_memberships() == ()
        assert sock.memberships == before
        ip(f"link set {net.first.name} up")
        wait_until_up(net.machine.home, net.first.name)
        assert sock.rejoin_memberships() == sock.memberships == before
        assert joined(group) == [net.first.name]
        await net.sender(nursery, udp.type, net.first).send(b"again", (group, PORT))
        assert (await sock.receive()).data == b"again"


async def test_memberships_of_a_recreated_interface_are_joined_again(udp: Family, net: Net, source: str | None) -> None:
    group, other = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        sock.add_membership(other, net.second.name)
        for _ in range(3):
            sock.add_membership(group, net.first.name, source=source)
            before = sock.memberships
            ip(f"link delete {net.first.name}")
            assert [membership.interface for membership in sock.rejoin_memberships()] == [net.second.name]
            assert sock.memberships == before
            net.machine.link(1)
            assert joined(group) == []
            after = sock.rejoin_memberships()
            assert after == sock.memberships
            assert [(each.group, each.interface) for each in after] == [
                (other, net.second.name),
                (group, net.first.name),
            ]
            assert after[1].index != before[1].index
            assert sock.rejoin_memberships() == after
            assert joined(group) == [net.first.name]
            sender = net.sender(nursery, udp.type, net.first)
            await sender.send(b"again", (group, PORT))
            assert (await sock.receive()).data == b"again"
            sock.drop_membership(group, source=source)
            assert joined(group) == []


async def test_memberships_of_an_interface_recreated_with_the_same_index_are_joined_again(
    udp: Family, net: Net, source: str | None
) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        (interface,) = sock.add_membership(group, net.first.name, source=source)
        before = sock.memberships
        ip(
            f"link delete {interface.name}",
            f"link add {interface.name} index {interface.index} type veth peer name another",
            f"link set {interface.name} up",
        )
        assert joined(group) == []
        assert sock.rejoin_memberships() == sock.memberships == before
        assert joined(group) == [interface.name]


async def test_ipv6_memberships_lost_by_a_small_mtu_are_joined_again(udp: Family, net: Net, source: str | None) -> None:
    group, _ = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group, net.first.name, source=source)
        before = sock.memberships
        # IPv6 needs 1280 bytes (RFC 8200, 5).
        ip(f"link set {net.first.name} mtu 1000")
        assert sock.rejoin_memberships() == (before if udp.type == "udp4" else ())
        assert sock.memberships == before
        ip(f"link set {net.first.name} mtu 1500")
        assert sock.rejoin_memberships() == before
        assert joined(group) == [net.first.name]


@pytest.mark.usefixtures("source_membership")
async def test_rejoining_restores_two_sources_and_no_other(udp: Family, net: Net) -> None:
    group, _ = GROUPS[udp.type]
    version = 4 if udp.type == "udp4" else 6
    first, second, third = (net.first.host(version, number) for number in (2, 3, 4))
    async with trio_dgram.open_socket(udp.type, port=PORT) as sock, trio_dgram.open_nursery() as nursery:
        for each in (first, second):
            sock.add_membership(group, net.first.name, source=each)
        ip(f"link delete {net.first.name}")
        net.machine.link(1)
        assert [membership.source for membership in sock.rejoin_memberships()] == [first, second]
        with net.machine.active():
            for each in (second, third):
                add_address(f"{each}/{24 if version == 4 else 64}", net.first.peer_name)
        for each in (third, first, second):
            sender = net.sender(nursery, udp.type, net.first)
            with net.machine.active():
                await sender.bind(0, each)
            await sender.send(each, (group, PORT))
        assert await arrivals(sock, second.encode()) == [first.encode(), second.encode()]


async def test_groups_on_a_recreated_interface_are_joined_and_left_by_name(
    udp: Family, net: Net, source: str | None
) -> None:
    group, other = GROUPS[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        for each in (group, other):
            sock.add_membership(each, net.first.name, source=source)
        sock.add_membership(group, net.second.name, source=source)
        ip(f"link delete {net.first.name}")
        net.machine.link(1)
        # The kernel has lost this membership already; it must not be joined again.
        assert names(sock.drop_membership(group, net.first.name, source=source)) == [net.first.name]
        (new,) = sock.add_membership(other, net.first.name, source=source)
        assert [(each.group, each.interface) for each in sock.rejoin_memberships()] == [
            (group, net.second.name),
            (other, net.first.name),
        ]
        assert sock.memberships[1].index == new.index
        assert joined(group) == [net.second.name]
        assert names(sock.drop_membership(other, source=source)) == [net.first.name]
        assert joined(other) == []


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM])
async def test_a_failed_rejoin_names_the_group_and_the_interface(udp: Family, net: Net, error: int) -> None:
    group, _ = GROUPS[udp.type]
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=PORT) as sock:
            sock.add_membership(group, net.first.name)
            before = sock.memberships
            faults.set("setsockopt", None, error)
            with pytest.raises(OSError, match=f"rejoin_memberships {group} on {net.first.name}") as caught:
                sock.rejoin_memberships()
            assert caught.value.errno == error
            assert sock.memberships == before
            assert joined(group) == []
            assert sock.rejoin_memberships() == before
            assert joined(group) == [net.first.name]


async def test_rejoining_keeps_a_membership_that_cannot_be_left(udp: Family, net: Net, source: str | None) -> None:
    group, _ = GROUPS[udp.type]
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=PORT) as sock:
            sock.add_membership(group, net.first.name, source=source)
            faults.set("setsockopt", errno.EADDRNOTAVAIL)
            assert sock.rejoin_memberships() == sock.memberships != ()
            assert joined(group) == [net.first.name]


async def test_memberships_of_removed_interfaces_do_not_count_against_the_limit(
    udp: Family, net: Net, source: str | None
) -> None:
    group, _ = GROUPS[udp.type]
    sysctl("net.ipv4.igmp_max_memberships", 1)
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(group, net.first.name, source=source)
        for _ in range(2):
            ip(f"link delete {net.first.name}")
            net.machine.link(1)
            assert len(sock.rejoin_memberships()) == 1
