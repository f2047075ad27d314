"""Making sockets and their options, as other implementations' suites insist on it."""

from __future__ import annotations

import math
import os
import socket
from typing import Any, Final

import pytest
import trio

from trio_dgram import Address, DatagramNursery, NotBoundError

from ..support.descriptors import same_descriptors
from ..support.families import Family

BUFFER_SIZES: Final = ["receive_buffer_size", "send_buffer_size"]
HOP_LIMITS: Final = {"ttl": range(1, 256), "multicast_ttl": range(256)}
SWITCHES: Final = ["broadcast", "multicast_loopback"]


@pytest.mark.parametrize("type", ["udp4", "udp6"])
@pytest.mark.parametrize("wrong", ["{}\0", " {}", "{}x", "UDP", "udp", "test", ""])
async def test_only_the_exact_type_names_are_accepted(nursery: DatagramNursery, type: str, wrong: str) -> None:
    assert nursery.create_socket(type).type == type
    with same_descriptors(), pytest.raises(ValueError, match="type must be one of"):
        nursery.create_socket(wrong.format(type))


@pytest.mark.parametrize("wrong", [["udp4"], {"type": "udp4"}, b"udp4", 4, True, False, None], ids=repr)
async def test_a_type_that_is_no_string_is_refused(nursery: DatagramNursery, wrong: Any) -> None:
    with same_descriptors(), pytest.raises(TypeError, match="type must be one of"):
        nursery.create_socket(wrong)


@pytest.mark.not_simulated("a simulated socket's descriptor only mirrors whether it can be read")
async def test_an_unbound_socket_has_its_descriptor_and_takes_options(udp: Family, nursery: DatagramNursery) -> None:
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


@pytest.mark.parametrize("option", BUFFER_SIZES)
@pytest.mark.parametrize("wrong", ["Doh!", 1.5, math.inf, True, -1, 0, 2**31], ids=repr)
async def test_a_buffer_size_that_is_no_integer_fails_at_creation(
    udp: Family, nursery: DatagramNursery, option: str, wrong: Any
) -> None:
    with same_descriptors(), pytest.raises((TypeError, ValueError), match=option):
        nursery.create_socket(udp.type, **{option: wrong})
    sock = nursery.create_socket(udp.type)
    before = getattr(sock, option)
    with pytest.raises((TypeError, ValueError), match=option):
        setattr(sock, option, wrong)
    assert getattr(sock, option) == before


async def test_a_custom_lookup_is_called_with_host_port_and_family_for_names(
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


async def test_neither_a_lookup_nor_trios_resolver_is_asked_for_literals_and_no_host(
    udp: Family, nursery: DatagramNursery
) -> None:
    async def lookup(*_: object) -> Address:
        raise AssertionError  # pragma: no cover -- what this shows is that it is not called

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


@pytest.mark.parametrize("wrong", [True, False, 0, 1, math.nan, "", "lookup", {}, object()], ids=repr)
async def test_a_lookup_that_is_not_callable_is_refused(udp: Family, nursery: DatagramNursery, wrong: Any) -> None:
    with same_descriptors(), pytest.raises(TypeError, match="lookup must be"):
        nursery.create_socket(udp.type, lookup=wrong)


@pytest.mark.parametrize("option", ["receive_block_list", "send_block_list"])
@pytest.mark.parametrize("wrong", [True, 1, [1.5], ["no address"], ["10.0.0.0/99"]], ids=repr)
async def test_a_block_list_that_holds_no_addresses_is_refused(
    udp: Family, nursery: DatagramNursery, option: str, wrong: Any
) -> None:
    with same_descriptors(), pytest.raises((TypeError, ValueError), match=option):
        nursery.create_socket(udp.type, **{option: wrong})


async def test_ttl_16_reads_back_and_nonsense_is_refused(udp: Family, nursery: DatagramNursery) -> None:
    sock = nursery.create_socket(udp.type)
    sock.ttl = 16
    assert sock.ttl == 16
    for wrong in (0, 256, -1, 1000):
        with pytest.raises(ValueError, match="ttl must be from 1 to 255"):
            sock.ttl = wrong
    with pytest.raises(TypeError, match="ttl must be an integer"):
        sock.ttl = "x"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    assert sock.ttl == 16


async def test_multicast_ttl_takes_0_and_255(udp: Family, nursery: DatagramNursery) -> None:
    sock = nursery.create_socket(udp.type)
    for value in (0, 255, 16):
        sock.multicast_ttl = value
        assert sock.multicast_ttl == value
    for wrong in (-1, 256, 1000):
        with pytest.raises(ValueError, match="multicast_ttl must be from 0 to 255"):
            sock.multicast_ttl = wrong
    assert sock.multicast_ttl == 16


@pytest.mark.parametrize("option", HOP_LIMITS)
async def test_every_hop_limit_reads_back(udp: Family, nursery: DatagramNursery, option: str) -> None:
    sock = nursery.create_socket(udp.type)
    for value in HOP_LIMITS[option]:
        setattr(sock, option, value)
        assert getattr(sock, option) == value


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("ttl", 0),
        ("ttl", 256),
        ("multicast_ttl", -1),
        ("multicast_ttl", 256),
        ("dscp", -1),
        ("dscp", 64),
        ("ecn", -1),
        ("ecn", 3),
    ],
)
async def test_a_number_out_of_range_is_refused_at_creation_too(
    udp: Family, nursery: DatagramNursery, option: str, wrong: Any
) -> None:
    with same_descriptors(), pytest.raises(ValueError, match=f"{option} must be from"):
        nursery.create_socket(udp.type, **{option: wrong})
    with pytest.raises(ValueError, match=f"{option} must be from"):
        setattr(nursery.create_socket(udp.type), option, wrong)


@pytest.mark.parametrize("option", ["ttl", "multicast_ttl", "dscp", "ecn"])
@pytest.mark.parametrize("wrong", ["x", "1", 1.0, True, None, math.inf], ids=repr)
async def test_what_is_no_number_is_refused_at_creation_too(
    udp: Family, nursery: DatagramNursery, option: str, wrong: Any
) -> None:
    with same_descriptors(), pytest.raises(TypeError, match=f"{option} must be an integer"):
        nursery.create_socket(udp.type, **{option: wrong})
    with pytest.raises(TypeError, match=f"{option} must be an integer"):
        setattr(nursery.create_socket(udp.type), option, wrong)


@pytest.mark.parametrize("option", SWITCHES)
async def test_switches_can_be_thrown_twice(udp: Family, nursery: DatagramNursery, option: str) -> None:
    sock = nursery.create_socket(udp.type)
    for value in (True, True, False, False):
        setattr(sock, option, value)
        assert getattr(sock, option) is value


@pytest.mark.parametrize("option", SWITCHES)
@pytest.mark.parametrize("wrong", [16, 0, 1, "on", None], ids=repr)
async def test_a_switch_takes_nothing_but_a_bool(
    udp: Family, nursery: DatagramNursery, option: str, wrong: Any
) -> None:
    with same_descriptors(), pytest.raises(TypeError, match=f"{option} must be a bool"):
        nursery.create_socket(udp.type, **{option: wrong})
    with pytest.raises(TypeError, match=f"{option} must be a bool"):
        setattr(nursery.create_socket(udp.type), option, wrong)


async def test_an_option_that_there_is_not_is_refused(udp: Family, nursery: DatagramNursery) -> None:
    with same_descriptors(), pytest.raises(TypeError, match="there is no socket option 'reuse_addr'"):
        nursery.create_socket(udp.type, reuse_addr=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def test_ipv6_only_is_for_ipv6(nursery: DatagramNursery) -> None:
    with same_descriptors(), pytest.raises(ValueError, match="ipv6_only is for udp6"):
        nursery.create_socket("udp4", ipv6_only=True)
