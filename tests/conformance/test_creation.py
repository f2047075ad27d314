"""Creating sockets with options: what the suites of other implementations check."""

from __future__ import annotations

import os
import socket
from typing import Any, Final

import pytest
import trio

from trio_dgram import Address, DatagramNursery, NotBoundError

from ..support.families import Family

BUFFER_SIZES: Final = ["receive_buffer_size", "send_buffer_size"]
HOP_LIMITS: Final = {"ttl": range(1, 256), "multicast_ttl": range(256)}
SWITCHES: Final = ["broadcast", "multicast_loopback"]


@pytest.mark.not_simulated("a simulated socket's descriptor only mirrors whether it can be read")
async def test_an_unbound_socket_has_a_descriptor_and_accepts_options(udp: Family, nursery: DatagramNursery) -> None:
    options: dict[str, Any] = {
        "ttl": 16,
        "dscp": 24,
        "ecn": 2,
        "multicast_ttl": 16,
        "multicast_loopback": False,
        "multicast_interface": "lo",
        "broadcast": True,
    }
    sock = nursery.create_socket(udp.type)
    with socket.socket(fileno=socket.dup(sock.fileno())) as same:
        assert (same.family, same.type) == (udp.family, socket.SOCK_DGRAM)
    assert not os.get_blocking(sock.fileno())
    for name, value in options.items():
        setattr(sock, name, value)
    with pytest.raises(NotBoundError):
        _ = sock.address
    assert {name: getattr(sock, name) for name in options} == options
    await sock.bind()
    assert {name: getattr(sock, name) for name in options} == options
    again = nursery.create_socket(udp.type, **options)
    assert {name: getattr(again, name) for name in options} == options


@pytest.mark.parametrize("option", BUFFER_SIZES)
async def test_a_buffer_size_set_at_creation_reads_back_as_itself_or_doubled(
    udp: Family, nursery: DatagramNursery, option: str
) -> None:
    options: dict[str, Any] = {option: 10_000}
    sock = nursery.create_socket(udp.type, **options)
    assert getattr(sock, option) in (10_000, 20_000)
    await sock.bind()
    assert getattr(sock, option) in (10_000, 20_000)


@pytest.mark.parametrize("option", BUFFER_SIZES)
async def test_a_buffer_size_can_be_set_before_and_after_binding(
    udp: Family, nursery: DatagramNursery, option: str
) -> None:
    sock = nursery.create_socket(udp.type)
    assert getattr(sock, option) > 0
    setattr(sock, option, 10_000)
    assert getattr(sock, option) in (10_000, 20_000)
    await sock.bind()
    setattr(sock, option, 15_000)
    assert getattr(sock, option) in (15_000, 30_000)


async def test_a_custom_lookup_is_called_with_host_port_and_family_of_names(
    udp: Family, nursery: DatagramNursery
) -> None:
    asked: list[tuple[str, int, socket.AddressFamily]] = []

    async def lookup(host: str, port: int, family: socket.AddressFamily) -> Address:
        await trio.lowlevel.checkpoint()
        asked.append((host, port, family))
        return Address(udp.loopback, port)

    sock = nursery.create_socket(udp.type, lookup=lookup)
    assert (await sock.bind(0, "here.example")).host == udp.loopback
    port = sock.address.port
    await sock.send(b"to itself", ("there.example", port))
    assert (await sock.receive()).data == b"to itself"
    await sock.connect(("peer.example", port))
    assert sock.remote_address == (udp.loopback, port)
    hosts = ["here.example", "there.example", "peer.example"]
    assert asked == [(host, wanted, udp.family) for host, wanted in zip(hosts, [0, port, port], strict=True)]


async def test_no_resolver_is_called_for_literals_and_missing_hosts(udp: Family, nursery: DatagramNursery) -> None:
    async def lookup(*_: object) -> Address:
        raise AssertionError  # pragma: no cover -- must not be called

    class Resolver(trio.abc.HostnameResolver):
        getaddrinfo = getnameinfo = lookup  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    trio.socket.set_custom_hostname_resolver(Resolver())
    for given in (lookup, None):
        for host, bound in [(None, udp.wildcard), ("", udp.wildcard), (udp.loopback, udp.loopback)]:
            sock = nursery.create_socket(udp.type, lookup=given)
            await sock.bind(0, host)
            assert sock.address.host == bound
            await sock.send(b"to itself", (host, sock.address.port))
            assert (await sock.receive()).data == b"to itself"
            await sock.connect((host, sock.address.port))
            assert sock.remote_address.host == udp.loopback


@pytest.mark.parametrize("option", HOP_LIMITS)
async def test_every_hop_limit_reads_back(udp: Family, nursery: DatagramNursery, option: str) -> None:
    sock = nursery.create_socket(udp.type)
    for value in HOP_LIMITS[option]:
        setattr(sock, option, value)
        assert getattr(sock, option) == value


@pytest.mark.parametrize("option", SWITCHES)
async def test_a_switch_can_be_set_to_the_same_value_twice(udp: Family, nursery: DatagramNursery, option: str) -> None:
    sock = nursery.create_socket(udp.type)
    for value in (True, True, False, False):
        setattr(sock, option, value)
        assert getattr(sock, option) is value
