"""The interfaces of a machine: interfaces() agrees with ip-address(8)."""

from __future__ import annotations

import json
import sys
from typing import Any

import attrs
import pytest

import trio_dgram
from trio_dgram import Interface

from .support.namespaces import Machine, ip, run


def expected() -> list[Interface]:
    """Return the interfaces as ip-address(8) reports them, by index."""
    links: list[dict[str, Any]] = json.loads(run("ip", "-j", "address"))
    return sorted(
        [
            Interface(
                name=link["ifname"],
                index=link["ifindex"],
                addresses=tuple(sorted(format_host(link["ifname"], address) for address in link["addr_info"])),
                up="UP" in link["flags"],
                multicast="MULTICAST" in link["flags"],
                loopback="LOOPBACK" in link["flags"],
                mtu=link["mtu"],
            )
            for link in links
        ],
        key=lambda interface: interface.index,
    )


def format_host(name: str, address: dict[str, str]) -> str:
    zoned = address["family"] == "inet6" and address["scope"] == "link"
    return f"{address['local']}%{name}" if zoned else address["local"]


def actual() -> list[Interface]:
    """Return the interfaces as the library reports them, their addresses sorted."""
    return [
        attrs.evolve(interface, addresses=tuple(sorted(interface.addresses))) for interface in trio_dgram.interfaces()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="program: ip exists on Linux only")
def test_the_interfaces_of_this_machine_are_listed() -> None:
    assert actual() == expected()


@pytest.mark.usefixtures("namespace")
def test_a_new_namespace_has_loopback_only() -> None:
    assert [interface.name for interface in trio_dgram.interfaces()] == ["lo"]
    assert actual() == expected()
    ip("link set lo down")
    assert not trio_dgram.interfaces()[0].up
    assert actual() == expected()


def test_state_multicast_and_mtu_are_reported(machine: Machine) -> None:
    machine.link(3, mtu=9000)
    down = machine.link(1, up=False, mtu=1280)
    machine.link(2)
    with machine.active():
        ip("link set peer2 down")
    ip("link set veth3 multicast off")
    interfaces = {interface.name: interface for interface in trio_dgram.interfaces()}
    assert list(interfaces) == ["lo", "veth3", "veth1", "veth2"]
    assert (interfaces[down.name].up, interfaces[down.name].mtu) == (False, 1280)
    assert (interfaces["veth2"].up, interfaces["veth2"].multicast) == (True, True)
    assert (interfaces["veth3"].up, interfaces["veth3"].multicast, interfaces["veth3"].mtu) == (True, False, 9000)
    assert actual() == expected()


def test_each_call_reports_the_current_interfaces(machine: Machine) -> None:
    link = machine.link()
    assert actual() == expected()
    ip(f"addr add 198.51.100.7/32 dev {link.name}")
    assert "198.51.100.7" in trio_dgram.interfaces()[1].addresses
    ip(f"link set {link.name} down", f"link set {link.name} name renamed0", "link set renamed0 mtu 1300")
    assert [interface.name for interface in trio_dgram.interfaces()] == ["lo", "renamed0"]
    assert actual() == expected()
    ip("link del renamed0")
    assert [interface.name for interface in trio_dgram.interfaces()] == ["lo"]


def test_addresses_of_both_families_and_every_scope_are_reported(machine: Machine) -> None:
    link = machine.link()
    ip(
        f"addr add 198.51.100.1 peer 198.51.100.2 dev {link.name}",
        f"addr add 169.254.7.7/16 dev {link.name}",
        f"addr add fd00::7/64 dev {link.name} nodad",
        f"addr add fe80::7/64 dev {link.name} nodad",
        f"addr add 2001:db8:2::7/64 dev {link.name} nodad",
    )
    addresses = trio_dgram.interfaces()[1].addresses
    assert {"198.51.100.1", "169.254.7.7", "fd00::7", f"fe80::7%{link.name}", "2001:db8:2::7"} <= set(addresses)
    assert actual() == expected()


def test_a_labelled_address_belongs_to_its_interface(machine: Machine) -> None:
    link = machine.link()
    ip(f"addr add 198.51.100.1/32 dev {link.name} label {link.name}:old")
    assert "198.51.100.1" in trio_dgram.interfaces()[1].addresses
    assert actual() == expected()


async def test_add_membership_finds_the_interface_of_an_address(machine: Machine) -> None:
    first, second = machine.link(1), machine.link(2)
    ip(f"addr add 198.51.100.1/32 dev {second.name} label {second.name}:1")
    async with trio_dgram.open_socket("udp4") as sock:
        for host in (second.here["udp4"], "198.51.100.1"):
            assert [joined.name for joined in sock.add_membership("239.1.2.3", host)] == [second.name]
            sock.drop_membership("239.1.2.3", host)
        assert [joined.name for joined in sock.add_membership("239.1.2.3", first.here["udp6"])] == [first.name]
