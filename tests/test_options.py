"""Socket options: their values in the kernel and as properties."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import pytest
import trio

import trio_dgram
from trio_dgram import AddressBlockedError, DatagramSocket
from trio_dgram._socket.socket_options import OptionProperty

from .support.families import Family

IP, IPV6, SOCKET = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET

# Name, value, the option and the value in the kernel by family.
IN_KERNEL = [
    ("broadcast", True, {"udp4": (SOCKET, socket.SO_BROADCAST), "udp6": (SOCKET, socket.SO_BROADCAST)}, 1),
    ("ttl", 17, {"udp4": (IP, socket.IP_TTL), "udp6": (IPV6, socket.IPV6_UNICAST_HOPS)}, 17),
    ("dscp", 46, {"udp4": (IP, socket.IP_TOS), "udp6": (IPV6, socket.IPV6_TCLASS)}, 46 << 2),
    ("ecn", 2, {"udp4": (IP, socket.IP_TOS), "udp6": (IPV6, socket.IPV6_TCLASS)}, 2),
    ("multicast_ttl", 9, {"udp4": (IP, socket.IP_MULTICAST_TTL), "udp6": (IPV6, socket.IPV6_MULTICAST_HOPS)}, 9),
    (
        "multicast_loopback",
        False,
        {"udp4": (IP, socket.IP_MULTICAST_LOOP), "udp6": (IPV6, socket.IPV6_MULTICAST_LOOP)},
        0,
    ),
]
TOWARDS_IPV4 = {
    "ttl": socket.IP_TTL,
    "dscp": socket.IP_TOS,
    "ecn": socket.IP_TOS,
    "multicast_ttl": socket.IP_MULTICAST_TTL,
    "multicast_loopback": socket.IP_MULTICAST_LOOP,
}


@pytest.mark.parametrize(("name", "value", "places", "in_kernel"), IN_KERNEL)
@pytest.mark.parametrize("at_creation", [True, False])
async def test_an_option_is_set_in_the_kernel_and_reads_back(
    udp: Family, name: str, value: int, places: dict[str, tuple[int, int]], in_kernel: int, at_creation: bool
) -> None:
    options = {name: value} if at_creation else {}
    async with trio_dgram.open_socket(udp.type, **options) as sock:  # type: ignore[arg-type]
        if not at_creation:
            setattr(sock, name, value)
        assert getattr(sock, name) == value
        assert sock.getsockopt(*places[udp.type]) == in_kernel
        # A dual-stack socket has a second option for IPv4 peers.
        towards_ipv4 = TOWARDS_IPV4.get(name) if udp.type == "udp6" else None
        assert towards_ipv4 is None or sock.getsockopt(IP, towards_ipv4) == in_kernel


async def test_options_can_be_read_before_they_are_set(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        assert not sock.broadcast
        assert 1 <= sock.ttl <= 255
        assert (sock.dscp, sock.ecn, sock.multicast_ttl) == (0, 0, 1)
        assert sock.multicast_loopback
        assert sock.multicast_interface is None
        assert sock.device is None
        assert sock.receive_buffer_size > 0
        assert sock.send_buffer_size > 0
    assert isinstance(DatagramSocket.ttl, OptionProperty)
    assert "hop limit" in (DatagramSocket.ttl.__doc__ or "")


async def test_dscp_and_ecn_are_set_independently(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, dscp=10, ecn=1) as sock:
        assert (sock.dscp, sock.ecn) == (10, 1)
        sock.ecn = 2
        assert (sock.dscp, sock.ecn) == (10, 2)
        sock.dscp = 63
        assert (sock.dscp, sock.ecn) == (63, 2)


@pytest.mark.parametrize("only", [True, False])
async def test_ipv6_only_is_set_to_either_value(only: bool) -> None:
    async with trio_dgram.open_socket("udp6", ipv6_only=only, ttl=5) as sock:
        assert sock.getsockopt(IPV6, socket.IPV6_V6ONLY) == only
        assert (sock.getsockopt(IP, socket.IP_TTL) == 5) != only


async def test_disconnecting_keeps_the_device(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, device="lo") as sock:
        assert sock.device == "lo"
        await sock.connect((udp.loopback, sock.address.port))
        sock.disconnect()
        assert sock.device == "lo"
        sock.device = None
        assert sock.device is None
        with pytest.raises(OSError, match="set device to 'nowhere'"):
            sock.device = "nowhere"


async def test_setsockopt_and_getsockopt_reach_other_options(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.setsockopt(SOCKET, socket.SO_PRIORITY, 3)
        assert sock.getsockopt(SOCKET, socket.SO_PRIORITY) == 3
        assert sock.getsockopt(SOCKET, socket.SO_PRIORITY, 4) == (3).to_bytes(4, "little")
        sock.setsockopt(SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert sock.device == "lo"
        sock.setsockopt(SOCKET, socket.SO_BINDTODEVICE, None, 0)
        assert sock.device is None


ENTRIES: list[Callable[[str], object]] = [
    str,
    ipaddress.ip_address,
    ipaddress.ip_network,
    lambda host: f"{host}/{'31' if '.' in host else '127'}",
]


@pytest.mark.parametrize("entry", ENTRIES)
async def test_block_lists_accept_addresses_and_networks_as_text_and_objects(
    udp: Family, entry: Callable[[str], object]
) -> None:
    async with trio_dgram.open_socket(udp.type, send_block_list=[entry(udp.loopback)]) as sock:  # type: ignore[list-item]
        with pytest.raises(AddressBlockedError) as caught:
            await sock.send(b"x", (udp.loopback, 9))
        assert caught.value.address == (udp.loopback, 9)  # type: ignore[attr-defined]
        assert "send" in str(caught.value)


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.1", "::ffff:127.0.0.0/104"])
async def test_block_lists_match_ipv4_mapped_addresses_as_ipv4(entry: str) -> None:
    async with (
        trio_dgram.open_socket("udp6", port=0, receive_block_list=[entry], send_block_list=[entry]) as six,
        trio_dgram.open_socket("udp4") as four,
    ):
        with pytest.raises(AddressBlockedError):
            await six.send(b"x", ("127.0.0.1", 9))
        with pytest.raises(AddressBlockedError):
            await six.send(b"x", ("::ffff:127.0.0.1", 9))
        await four.send(b"blocked", ("127.0.0.1", six.address.port))
        await six.send(b"fine", ("::1", six.address.port))
        assert (await six.receive()).data == b"fine"
        assert six.statistics().filtered == 1


async def test_a_reply_to_a_blocked_peer_is_reported_and_not_raised(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, send_block_list=[udp.loopback]) as server:
        failures = server.events(trio_dgram.Failure)
        async with trio_dgram.open_socket(udp.type) as peer:
            await peer.send(b"x", server.address)
            datagram = await server.receive()
            await server.send(b"answer", datagram.address)
            await server.send_many([datagram.reply(b"answer")])
        for _ in range(2):
            failure = await failures.receive()
            assert isinstance(failure.error, AddressBlockedError)
        assert (server.statistics().sent, server.statistics().send_errors) == (0, 2)


async def test_names_are_resolved_by_trios_resolver_without_a_lookup() -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:  # type: ignore[override]
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.7", 9))]

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    assert await trio_dgram.resolve("any.name", 9, "udp4") == ("127.0.0.7", 9)
    async with trio_dgram.open_socket("udp4") as sock:
        await sock.connect(("any.name", 9))
        assert sock.remote_address == ("127.0.0.7", 9)
