"""The hot calls: every implementation keeps the same contract on every kind of socket.

Another implementation is one more line in ``IMPLEMENTATIONS``.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal, TypeAlias

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import Datagram, PacketInfo
from trio_dgram._codecs.ancillary import (
    IP_PKTINFO,
    IP_RECVTOS,
    IP_RECVTTL,
    IPV6_PKTINFO,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    SO_PASSCRED,
    SO_TIMESTAMPNS,
    UDP_GRO,
    control_messages,
    encode_packet_info,
    segment_size,
)
from trio_dgram._codecs.families import FAMILIES, Family, SocketAddress
from trio_dgram._kernel import local_address_cache as _local_address_cache
from trio_dgram._kernel import python_calls as _python_calls
from trio_dgram._kernel import recvmmsg as _recvmmsg
from trio_dgram._kernel.compiled_calls import create_calls
from trio_dgram._kernel.hot_calls import HotCalls, ReceiveCounts
from trio_dgram._kernel.python_calls import PythonCalls
from trio_dgram._kernel.recvmmsg import receive_batch
from trio_dgram._kernel.system_socket import SystemSocket
from trio_dgram._values.addresses import (
    ReceivedAddress,
    ReceivedIPv4Address,
    ReceivedIPv6Address,
    ReceivedUnixAddress,
    ScopedReceivedAddress,
)
from trio_dgram._values.datagrams import ReceivedPacketInfo

from .support.descriptors import same_descriptors
from .support.planned import Message, PlannedSocket, packed_ipv4, packed_ipv6, packed_messages, unpacked
from .support.planned_native import CAN_PLAN, create_planned_calls

Implementation: TypeAlias = Callable[[Any, Family], HotCalls]
Received: TypeAlias = deque[Datagram] | list[Datagram]

CAN: Final = trio_dgram.capabilities()
IMPLEMENTATIONS: Final[dict[str, Implementation]] = {
    "python": PythonCalls,
    **({"compiled": create_calls} if CAN.compiled else {}),
}
PLANNABLE: Final[dict[str, Implementation]] = {
    "python": PythonCalls,
    **({"compiled": create_planned_calls} if CAN_PLAN else {}),
}
"""Those that run on a socket object instead of a descriptor, so that a test can plan what it receives."""

needs_batches = pytest.mark.skipif(not CAN.batches, reason="kernel: no recvmmsg")
needs_packet_info = pytest.mark.skipif(not CAN.packet_info, reason="kernel: no packet info")
needs_offload = pytest.mark.skipif(
    not (CAN.receive_offload and CAN.send_offload), reason="kernel: no UDP_GRO or UDP_SEGMENT"
)
one_by_one_and_in_batches = pytest.mark.usefixtures("reading")

TOO_LARGE: Final = bytes(1 << 20)
"""More than a datagram of any kind holds."""


@attrs.frozen
class Kind:
    """A kind of descriptor and of the peers that it has."""

    name: str
    family: Family
    peer_family: socket.AddressFamily
    source_type: type[ReceivedAddress]
    host: str = ""
    """What the socket is bound to."""
    peer_host: str = ""
    """What the peer is bound to, and where it reaches the socket."""
    peer_reported: str = ""
    """The host of the peer as the socket reports it."""
    burst: int = 100
    """How many datagrams fit in the receive queue; on AF_UNIX it is net.unix.max_dgram_qlen."""


UDP4: Final = Kind("udp4", FAMILIES["udp4"], socket.AF_INET, ReceivedIPv4Address, "127.0.0.1", "127.0.0.1", "127.0.0.1")
UDP6: Final = Kind("udp6", FAMILIES["udp6"], socket.AF_INET6, ReceivedIPv6Address, "::1", "::1", "::1")
DUAL_STACK: Final = Kind(
    "dual-stack", FAMILIES["udp6"], socket.AF_INET, ReceivedIPv6Address, "::", "127.0.0.1", "::ffff:127.0.0.1"
)
UNIX: Final = Kind("unix", FAMILIES["unix"], socket.AF_UNIX, ReceivedUnixAddress, burst=10)
INTERNET: Final = (UDP4, UDP6, DUAL_STACK)


@attrs.frozen
class Link:
    """A descriptor under test, and a plain socket that is connected to it."""

    kind: Kind
    sock: SystemSocket
    calls: HotCalls
    peer: socket.socket
    peer_sockaddr: SocketAddress
    """Where the descriptor reaches the peer."""

    @property
    def source(self) -> tuple[str, int]:
        """The address of the peer as the descriptor reports it."""
        if self.kind is UNIX:
            return os.fsdecode(self.peer.getsockname()), 0
        return self.kind.peer_reported, self.peer.getsockname()[1]

    def send(self, payloads: Sequence[bytes]) -> None:
        """Send from the peer; all are queued when this returns."""
        for payload in payloads:
            self.peer.send(payload)

    def at_peer(self) -> list[bytes]:
        """Return the payloads that the peer has received."""
        payloads = []
        with suppress(BlockingIOError):
            while True:
                payloads.append(self.peer.recv(1 << 17))
        return payloads


def receive_all(calls: HotCalls, into: Received | None = None, limit: int = 1000) -> list[Datagram]:
    """Return ``into``, empty by default, with what is queued, which an empty queue has ended."""
    into = [] if into is None else into
    with pytest.raises(BlockingIOError):
        while True:
            calls.receive(into, limit)
    return list(into)


def check_received(link: Link, payloads: Sequence[bytes], got: Sequence[Datagram], *, info: bool = False) -> None:
    """Compare ``got`` with what the peer sent: one assertion for every implementation, kind and call."""
    assert [datagram.data for datagram in got] == payloads
    assert {(type(datagram), type(datagram.data)) for datagram in got} <= {(Datagram, bytes)}
    assert {datagram.address for datagram in got} == {link.source}
    assert {type(datagram.address) for datagram in got} == {link.kind.source_type}
    assert {datagram.info is not None for datagram in got} == {info}
    assert link.calls.counts.received == len(payloads)


def counted(payloads: Sequence[bytes], **others: int) -> ReceiveCounts:
    """Return the counts after ``payloads`` were received."""
    return ReceiveCounts(received=len(payloads), **others)


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
def implementation(request: pytest.FixtureRequest) -> Implementation:
    made: Implementation = request.param
    return made


@pytest.fixture(params=PLANNABLE.values(), ids=list(PLANNABLE))
def plannable(request: pytest.FixtureRequest) -> Implementation:
    made: Implementation = request.param
    return made


@pytest.fixture
def open_link(implementation: Implementation) -> Generator[Callable[[Kind], Link]]:
    """Return a function that opens a link of a kind."""
    with ExitStack() as stack:

        def open_link(kind: Kind) -> Link:
            sock = stack.enter_context(SystemSocket.create(kind.family.family))
            calls = implementation(sock, kind.family)
            stack.callback(calls.close)
            peer = stack.enter_context(socket.socket(kind.peer_family, socket.SOCK_DGRAM))
            peer.settimeout(0)
            if kind is UNIX:
                # Linux chooses an abstract name.
                sock.bind("")
                peer.bind("")
                peer.connect(sock.getsockname())
                return Link(kind, sock, calls, peer, peer.getsockname())
            if kind.family.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, kind is not DUAL_STACK)
            for end in (sock, peer):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.bind((kind.host, 0))
            peer.bind((kind.peer_host, 0))
            peer.connect((kind.peer_host, sock.getsockname()[1]))
            return Link(kind, sock, calls, peer, (kind.peer_reported, peer.getsockname()[1]))

        yield open_link


@pytest.fixture(params=(*INTERNET, UNIX), ids=lambda kind: kind.name)
def link(request: pytest.FixtureRequest, open_link: Callable[[Kind], Link]) -> Link:
    return open_link(request.param)


@pytest.fixture(params=INTERNET, ids=lambda kind: kind.name)
def udp_link(request: pytest.FixtureRequest, open_link: Callable[[Kind], Link]) -> Link:
    return open_link(request.param)


def burst_of(link: Link) -> list[bytes]:
    """Return payloads that fill the receive queue, with an empty one among them."""
    return [bytes([number]) * (number % 7) for number in range(link.kind.burst)]


Metadata: TypeAlias = Literal["plain", "with info", "with local address"]
METADATA: Final[tuple[Metadata, ...]] = ("plain", "with info", "with local address")
MODES: Final = (*METADATA, "coalescing")


def set_mode(calls: HotCalls, mode: str) -> None:
    """Set one of ``MODES`` beside those that are set."""
    calls.with_info |= mode == "with info"
    calls.with_local_address |= mode == "with local address"
    calls.coalescing |= mode == "coalescing"


# Receiving


@one_by_one_and_in_batches
@pytest.mark.parametrize("container", [list, deque])
def test_an_empty_queue_raises_blocking_io_error_and_appends_nothing(link: Link, container: type[Received]) -> None:
    into = container()
    for _ in range(2):
        assert receive_all(link.calls, into) == []
    assert link.calls.counts == ReceiveCounts()


@one_by_one_and_in_batches
@pytest.mark.parametrize("container", [list, deque])
def test_order_payloads_and_sources_are_kept(link: Link, container: type[Received]) -> None:
    payloads = burst_of(link)
    earlier = Datagram(b"earlier", trio_dgram.Address("::1", 1))
    into = container([earlier])
    for _ in range(2):
        link.send(payloads)
        receive_all(link.calls, into)
    assert into[0] is earlier
    check_received(link, payloads * 2, list(into)[1:])
    assert link.calls.counts == counted(payloads * 2)


@one_by_one_and_in_batches
def test_datagrams_of_every_size_are_received_whole(link: Link) -> None:
    payloads = [bytes([number]) * size for number, size in enumerate([0, 1, 1472, 0, 0, 9000, 65507, 1])]
    link.send(payloads)
    check_received(link, payloads, receive_all(link.calls))


@one_by_one_and_in_batches
@pytest.mark.parametrize("limit", [1, 4, 9])
def test_receive_appends_at_most_limit_datagrams(link: Link, limit: int) -> None:
    payloads = burst_of(link)
    link.send(payloads)
    got: list[Datagram] = []
    while len(payloads) - len(got) >= limit:
        before = len(got)
        link.calls.receive(got, limit)
        assert len(got) == before + limit
        assert link.calls.counts.received == len(got)
    check_received(link, payloads, receive_all(link.calls, got, limit))


@one_by_one_and_in_batches
def test_each_datagram_has_its_own_source(udp_link: Link) -> None:
    kind, port = udp_link.kind, udp_link.sock.getsockname()[1]
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.socket(kind.peer_family, socket.SOCK_DGRAM)) for _ in range(3)]
        for _ in range(4):
            for peer in peers:
                peer.sendto(b"x", (kind.peer_host, port))
        ports = [peer.getsockname()[1] for peer in peers]
    got = receive_all(udp_link.calls)
    assert [datagram.address for datagram in got] == [(kind.peer_reported, port) for port in ports] * 4


@one_by_one_and_in_batches
def test_a_dual_stack_descriptor_has_sources_of_both_families(open_link: Callable[[Kind], Link]) -> None:
    link = open_link(DUAL_STACK)
    link.send([b"4"])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.sendto(b"6", ("::1", link.sock.getsockname()[1]))
        expected = [link.source, ("::1", six.getsockname()[1])]
    got = receive_all(link.calls)
    assert [datagram.address for datagram in got] == expected
    assert {type(datagram.address) for datagram in got} == {ReceivedIPv6Address}


@one_by_one_and_in_batches
def test_an_unnamed_unix_socket_has_an_empty_path(open_link: Callable[[Kind], Link]) -> None:
    link = open_link(UNIX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unnamed:
        unnamed.sendto(b"x", link.sock.getsockname())
    (datagram,) = receive_all(link.calls)
    assert type(datagram.address) is ReceivedUnixAddress
    assert datagram == (b"x", ("", 0), None)


@one_by_one_and_in_batches
def test_a_pending_error_is_raised_once_and_queued_datagrams_remain(udp_link: Link) -> None:
    udp_link.send([b"1", b"2"])
    with socket.socket(udp_link.kind.peer_family, socket.SOCK_DGRAM) as refusing:
        refusing.bind((udp_link.kind.peer_host, 0))
        port = refusing.getsockname()[1]
    udp_link.sock.connect((udp_link.kind.peer_reported, port))
    udp_link.calls.send(b"x")
    got: list[Datagram] = []
    with pytest.raises(ConnectionRefusedError):
        udp_link.calls.receive(got, 10)
    assert got == []
    check_received(udp_link, [b"1", b"2"], receive_all(udp_link.calls))


# Sources that cannot be answered


@one_by_one_and_in_batches
@pytest.mark.parametrize("bound", ["address", "wildcard"])
def test_datagrams_from_the_own_address_and_port_are_left_out(implementation: Implementation, bound: str) -> None:
    for kind in INTERNET:
        own = kind.peer_reported
        with SystemSocket.create(kind.family.family) as sock, SystemSocket.create(kind.peer_family) as other:
            sock.bind((own if bound == "address" else kind.family.wildcard.host, 0))
            calls = implementation(sock, kind.family)
            port = sock.getsockname()[1]
            asked: list[str] = []

            def is_own(host: str, own: str = own, asked: list[str] = asked) -> bool:
                asked.append(host)
                return host == own

            calls.filter_own(port, is_own)
            calls.sendto(b"own", (own, port))
            other.sendto(b"other port", (kind.peer_host, port))
            calls.sendto(b"own", (own, port))
            got = receive_all(calls)
            assert [datagram.data for datagram in got] == [b"other port"]
            assert calls.counts == ReceiveCounts(received=3, filtered=2)
            assert set(asked) == {own}

            calls.filter_own(0, None)
            calls.sendto(b"own", (own, port))
            assert receive_all(calls) == [(b"own", (own, port), None)]
            assert calls.counts == ReceiveCounts(received=4, filtered=2)


@one_by_one_and_in_batches
def test_another_host_with_the_own_port_is_not_left_out(implementation: Implementation) -> None:
    for kind in (UDP4, DUAL_STACK):
        with SystemSocket.create(kind.family.family) as sock, SystemSocket.create(socket.AF_INET) as other:
            sock.bind((kind.peer_reported, 0))
            port = sock.getsockname()[1]
            other.bind(("127.0.0.2", port))
            calls = implementation(sock, kind.family)
            calls.filter_own(port, lambda host: host.endswith("127.0.0.1"))
            other.sendto(b"x", ("127.0.0.1", port))
            assert [datagram.data for datagram in receive_all(calls)] == [b"x"]
            assert calls.counts == ReceiveCounts(received=1)


FORGED: Final = {
    "udp4 port 0": (FAMILIES["udp4"], packed_ipv4("127.0.0.1", 0), packed_ipv4("127.0.0.1", 5)),
    "udp4 0.0.0.0": (FAMILIES["udp4"], packed_ipv4("0.0.0.0", 5), packed_ipv4("127.0.0.1", 5)),
    "udp6 port 0": (FAMILIES["udp6"], packed_ipv6("::1", 0), packed_ipv6("::1", 5)),
    "udp6 ::": (FAMILIES["udp6"], packed_ipv6("::", 5), packed_ipv6("::1", 5)),
    "udp6 ::ffff:0.0.0.0": (FAMILIES["udp6"], packed_ipv6("::ffff:0.0.0.0", 5), packed_ipv6("::1", 5)),
    "udp6 scoped port 0": (FAMILIES["udp6"], packed_ipv6("fe80::1", 0, 1), packed_ipv6("fe80::1", 5, 1)),
}


@one_by_one_and_in_batches
@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize(("family", "forged", "valid"), FORGED.values(), ids=list(FORGED))
def test_forged_sources_are_left_out_and_counted(
    plannable: Implementation, family: Family, forged: bytes, valid: bytes, metadata: Metadata
) -> None:
    order = (forged, valid, forged, forged, valid)
    calls = plannable(PlannedSocket([Message(bytes([number]), packed) for number, packed in enumerate(order)]), family)
    set_mode(calls, metadata)
    got = receive_all(calls)
    assert [datagram.data for datagram in got] == [b"\1", b"\4"]
    assert calls.counts == ReceiveCounts(received=5, filtered=3)


@one_by_one_and_in_batches
def test_every_datagram_of_a_coalesced_message_with_a_forged_source_is_counted(plannable: Implementation) -> None:
    forged = Message(b"aabbc", packed_ipv4("0.0.0.0", 5), GRO_OF_2)
    calls = plannable(
        PlannedSocket([forged, Message(b"aabb", packed_ipv4("127.0.0.1", 5), GRO_OF_2)]), FAMILIES["udp4"]
    )
    calls.coalescing = True
    assert [datagram.data for datagram in receive_all(calls)] == [b"aa", b"bb"]
    assert calls.counts == ReceiveCounts(received=5, filtered=3, coalesced_receives=1, coalesced_datagrams=2)


@one_by_one_and_in_batches
@pytest.mark.parametrize("metadata", METADATA)
def test_scoped_sources_have_their_zone(plannable: Implementation, metadata: Metadata) -> None:
    packed = [packed_ipv6("fe80::1", 5, 1), packed_ipv6("fe80::1", 5), packed_ipv6("fe80::1", 5, 2**31 - 1)]
    calls = plannable(PlannedSocket([Message(b"x", source) for source in packed]), FAMILIES["udp6"])
    set_mode(calls, metadata)
    addresses = [datagram.address for datagram in receive_all(calls)]
    assert addresses == [("fe80::1%lo", 5), ("fe80::1", 5), ("fe80::1%2147483647", 5)]
    assert list(map(type, addresses)) == [ScopedReceivedAddress, ReceivedIPv6Address, ScopedReceivedAddress]


# Ancillary data

INFO_OPTIONS: Final = {
    "udp4": [(socket.IPPROTO_IP, option) for option in (IP_PKTINFO, IP_RECVTTL, IP_RECVTOS)],
    "udp6": [(socket.IPPROTO_IPV6, option) for option in (IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS)],
}
PACKET_INFO_OPTIONS: Final = {name: options[:1] for name, options in INFO_OPTIONS.items()}
PACKET_INFO_OPTIONS["dual-stack"] = PACKET_INFO_OPTIONS["udp4"] + PACKET_INFO_OPTIONS["udp6"]
INFO_OPTIONS["dual-stack"] = INFO_OPTIONS["udp4"] + INFO_OPTIONS["udp6"]


def enable_info(link: Link) -> None:
    """Have the descriptor report everything that a PacketInfo holds."""
    for level, option in [*INFO_OPTIONS[link.kind.name], (socket.SOL_SOCKET, SO_TIMESTAMPNS)]:
        link.sock.setsockopt(level, option, 1)
    link.calls.with_info = True


@one_by_one_and_in_batches
@pytest.mark.skipif(not CAN.packet_info, reason="kernel: no packet info")
def test_every_datagram_has_its_packet_info(udp_link: Link) -> None:
    enable_info(udp_link)
    is_ipv4 = udp_link.kind.peer_family == socket.AF_INET
    level = socket.IPPROTO_IP if is_ipv4 else socket.IPPROTO_IPV6
    udp_link.peer.setsockopt(level, socket.IP_TTL if is_ipv4 else socket.IPV6_UNICAST_HOPS, 7)
    udp_link.peer.setsockopt(level, socket.IP_TOS if is_ipv4 else socket.IPV6_TCLASS, 46 << 2 | 1)
    payloads = [b"", b"x", b"yz"] * 5
    udp_link.send(payloads)
    got = receive_all(udp_link.calls)
    check_received(udp_link, payloads, got, info=True)
    for _, _, info in got:
        assert isinstance(info, PacketInfo)
        assert info.local_address == udp_link.kind.peer_reported
        assert (info.interface, info.ecn, info.dscp, info.hop_limit) == (socket.if_nametoindex("lo"), 1, 46, 7)
        assert info.timestamp_ns is not None
        assert not info.truncated
    assert udp_link.calls.counts == counted(payloads)


def local_info_of(kind: Kind) -> ReceivedPacketInfo:
    """Return the info of a datagram from the peer that has nothing but the local address and the interface."""
    host = kind.peer_reported
    return ReceivedPacketInfo(local_address=host, unicast_address=host, interface=socket.if_nametoindex("lo"))


def enable_local_address(link: Link) -> None:
    """Have the descriptor report the local address and the interface only."""
    for place in PACKET_INFO_OPTIONS[link.kind.name]:
        link.sock.setsockopt(*place, 1)
    link.calls.with_local_address = True


@one_by_one_and_in_batches
@needs_packet_info
def test_every_datagram_has_the_info_that_all_to_one_local_address_share(udp_link: Link) -> None:
    enable_local_address(udp_link)
    payloads = burst_of(udp_link)
    got: list[Datagram] = []
    for _ in range(2):
        udp_link.send(payloads)
        receive_all(udp_link.calls, got)
    check_received(udp_link, payloads * 2, got, info=True)
    assert len({id(info) for _, _, info in got}) == 1
    assert type(got[0].info) is ReceivedPacketInfo
    assert got[0].info == local_info_of(udp_link.kind)
    assert udp_link.calls.counts == counted(payloads * 2)


@one_by_one_and_in_batches
@needs_packet_info
def test_datagrams_to_several_local_addresses_have_an_info_each(open_link: Callable[[Kind], Link]) -> None:
    for kind in (attrs.evolve(UDP4, host="0.0.0.0"), DUAL_STACK):
        link = open_link(kind)
        enable_local_address(link)
        hosts = [f"127.0.0.{number}" for number in (1, 2, 3)] * 5
        for host in hosts:
            link.peer.connect((host, link.sock.getsockname()[1]))
            link.send([host.encode()])
        got = receive_all(link.calls)
        assert [datagram.data.decode() for datagram in got] == hosts
        prefix = "::ffff:" if kind is DUAL_STACK else ""
        assert [info and info.local_address for _, _, info in got] == [prefix + host for host in hosts]
        assert len({id(info) for _, _, info in got}) == 3


@one_by_one_and_in_batches
@needs_packet_info
def test_a_local_address_is_decoded_without_the_other_metadata(udp_link: Link) -> None:
    enable_info(udp_link)
    udp_link.calls.with_info = False
    udp_link.calls.with_local_address = True
    payloads = burst_of(udp_link)
    udp_link.send(payloads)
    got = receive_all(udp_link.calls)
    check_received(udp_link, payloads, got, info=True)
    assert {id(info) for _, _, info in got} == {id(got[0].info)}
    assert got[0].info == local_info_of(udp_link.kind)


@one_by_one_and_in_batches
@needs_packet_info
def test_the_whole_packet_info_includes_the_local_address(udp_link: Link) -> None:
    enable_info(udp_link)
    udp_link.calls.with_local_address = True
    udp_link.send([b"x"])
    (datagram,) = receive_all(udp_link.calls)
    assert datagram.info is not None
    assert datagram.info.timestamp_ns is not None


@one_by_one_and_in_batches
def test_an_unreported_local_address_is_none(udp_link: Link) -> None:
    udp_link.calls.with_local_address = True
    payloads = burst_of(udp_link)
    udp_link.send(payloads)
    got = receive_all(udp_link.calls)
    check_received(udp_link, payloads, got, info=True)
    assert {datagram.info for datagram in got} == {ReceivedPacketInfo()}


@needs_batches
def test_bursts_with_a_local_address_are_received_by_recvmmsg() -> None:
    sock = PlannedSocket()
    calls = PythonCalls(sock, FAMILIES["udp4"])
    set_mode(calls, "with local address")
    for count, expected in ((8, "recvmsg"), (100, "recvmmsg"), (1, "recvmmsg"), (1, "recvmsg")):
        sock.queue = deque([Message(b"x", packed_ipv4("127.0.0.1", 5))] * count)
        sock.calls.clear()
        with suppress(BlockingIOError):
            calls.receive([], 128)
        assert set(sock.calls) == {expected}


@one_by_one_and_in_batches
def test_the_infos_of_any_number_of_local_addresses_are_bounded(
    plannable: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[Any, PacketInfo] = {}
    monkeypatch.setattr(_local_address_cache, "_cached", kept)
    monkeypatch.setattr(_local_address_cache, "_LARGEST_CACHE", 50)
    monkeypatch.setattr(_local_address_cache, "cached_local_info", kept.get)
    monkeypatch.setattr(_python_calls, "cached_local_info", kept.get)
    source = packed_ipv6("::1", 5)
    locals_ = [socket.inet_pton(socket.AF_INET6, f"2001:db8::{number % 500:x}") for number in range(1000)]
    messages = [
        Message(b"x", source, packed_messages([(socket.IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("=16si", each, 7))]))
        for each in locals_
    ]
    calls = plannable(PlannedSocket(messages), FAMILIES["udp6"])
    set_mode(calls, "with local address")
    got: list[Datagram] = []
    with suppress(BlockingIOError):
        while True:
            calls.receive(got, 7)
            assert len(kept) <= 50
    hosts = [socket.inet_ntop(socket.AF_INET6, each) for each in locals_]
    assert [info and info.local_address for _, _, info in got] == hosts


@one_by_one_and_in_batches
def test_segment_sizes_and_timestamps_do_not_fill_the_cache_of_local_addresses(
    plannable: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[Any, PacketInfo] = {}
    monkeypatch.setattr(_local_address_cache, "_cached", kept)
    local = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 1, b"\x7f\0\0\1", b"\x7f\0\0\1"))
    messages = [
        Message(b"x" * 100, packed_ipv4("127.0.0.1", 5), packed_messages([other, local]))
        for number in range(1, 50)
        for other in (
            (socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", number)),
            (socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("@ll", number, 0)),
        )
    ]
    calls = plannable(PlannedSocket(messages), FAMILIES["udp4"])
    set_mode(calls, "with local address")
    calls.coalescing = True
    got = receive_all(calls)
    assert sum(len(datagram.data) for datagram in got) == 100 * len(messages)
    assert {info and info.local_address for _, _, info in got} == {"127.0.0.1"}
    assert len(kept) == 1


@one_by_one_and_in_batches
@pytest.mark.skipif(not CAN.packet_info, reason="kernel: no packet info")
def test_a_unix_datagram_has_the_credentials_of_its_sender(open_link: Callable[[Kind], Link]) -> None:
    link = open_link(UNIX)
    link.sock.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    link.calls.with_info = True
    link.send([b"1", b"2"])
    got = receive_all(link.calls)
    check_received(link, [b"1", b"2"], got, info=True)
    expected = trio_dgram.Credentials(os.getpid(), os.getuid(), os.getgid())
    assert [datagram.info and datagram.info.credentials for datagram in got] == [expected] * 2


@one_by_one_and_in_batches
@pytest.mark.parametrize("with_info", [False, True], ids=["plain", "with info"])
def test_descriptors_that_a_unix_datagram_carries_are_closed(
    open_link: Callable[[Kind], Link], *, with_info: bool
) -> None:
    link = open_link(UNIX)
    link.calls.with_info = with_info
    with same_descriptors():
        for _ in range(3):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
            link.peer.sendmsg([b"x"], [rights])
        check_received(link, [b"x"] * 3, receive_all(link.calls), info=with_info)


@one_by_one_and_in_batches
@pytest.mark.parametrize("mode", ["with info", "with local address", "coalescing"])
def test_truncated_datagrams_are_counted(plannable: Implementation, mode: str) -> None:
    whole, cut = (Message(b"x", packed_ipv4("127.0.0.1", 5), b"", flags) for flags in (0, socket.MSG_TRUNC))
    calls = plannable(PlannedSocket([whole, cut, whole, cut]), FAMILIES["udp4"])
    set_mode(calls, mode)
    got = receive_all(calls)
    assert calls.counts == ReceiveCounts(received=4, truncated=2)
    if mode != "coalescing":
        assert [datagram.info and datagram.info.truncated for datagram in got] == [False, True] * 2


@one_by_one_and_in_batches
def test_a_truncated_unix_datagram_is_counted(plannable: Implementation) -> None:
    sock = PlannedSocket([Message(bytes(1 << 20), b"\0name", b"", socket.MSG_TRUNC)])
    calls = plannable(sock, FAMILIES["unix"])
    (datagram,) = receive_all(calls)
    assert datagram.address == ("\0name", 0)
    assert calls.counts == ReceiveCounts(received=1, truncated=1)


# Coalesced datagrams


def gro(size: int) -> bytes:
    """Return the control message with the segment size of a coalesced message (udp(7))."""
    return packed_messages([(socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", size))])


GRO_OF_2: Final = gro(2)


def send_train(link: Link, payload: bytes, size: int) -> list[bytes]:
    """Send ``payload`` from the peer in segments, which arrive coalesced, and return these."""
    segment = (socket.IPPROTO_UDP, 103, struct.pack("=H", size))
    link.peer.sendmsg([payload], [segment])
    return [payload[start : start + size] for start in range(0, len(payload), size)]


def enable_coalescing(link: Link) -> None:
    """Make the kernel return coalesced datagrams as one message."""
    link.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    link.calls.coalescing = True


@one_by_one_and_in_batches
@needs_offload
@pytest.mark.parametrize("metadata", METADATA)
def test_coalesced_messages_are_split_at_the_segment_size(udp_link: Link, metadata: Metadata) -> None:
    if metadata == "with info":
        enable_info(udp_link)
    elif metadata == "with local address":
        enable_local_address(udp_link)
    enable_coalescing(udp_link)
    payloads: list[bytes] = []
    for _ in range(3):
        udp_link.send([b"", b"alone"])
        payloads += [b"", b"alone"]
        payloads += send_train(udp_link, b"aabbccd", 2)
        payloads += send_train(udp_link, bytes(range(200)) * 10, 1000)
        payloads += send_train(udp_link, b"xyz", 1)
    got = receive_all(udp_link.calls)
    check_received(udp_link, payloads, got, info=metadata != "plain")
    if metadata == "with local address":
        assert {datagram.info for datagram in got} == {local_info_of(udp_link.kind)}
    assert udp_link.calls.counts == counted(payloads, coalesced_receives=9, coalesced_datagrams=len(payloads) - 6)


@one_by_one_and_in_batches
@needs_offload
def test_datagrams_that_were_not_coalesced_stay_whole(udp_link: Link) -> None:
    enable_coalescing(udp_link)
    payloads = burst_of(udp_link)
    udp_link.send(payloads)
    check_received(udp_link, payloads, receive_all(udp_link.calls))
    assert udp_link.calls.counts == counted(payloads)


@one_by_one_and_in_batches
@needs_offload
@pytest.mark.parametrize("limit", [1, 60])
def test_a_limit_is_exceeded_by_less_than_the_last_coalesced_message(udp_link: Link, limit: int) -> None:
    enable_coalescing(udp_link)
    payloads: list[bytes] = []
    for number in range(20):
        payloads += send_train(udp_link, bytes([number]) * 500, 10)
    got: list[Datagram] = []
    # The first call learns how many datagrams a message holds.
    udp_link.calls.receive(got, 1)
    while len(got) < len(payloads):
        before = len(got)
        with suppress(BlockingIOError):
            udp_link.calls.receive(got, limit)
        assert 1 <= len(got) - before < limit + 50
    check_received(udp_link, payloads, got)
    assert udp_link.calls.counts == counted(payloads, coalesced_receives=20, coalesced_datagrams=1000)


@one_by_one_and_in_batches
def test_a_message_whose_segment_size_was_cut_off_is_counted_as_unsplit(plannable: Implementation) -> None:
    source = packed_ipv6("::1", 5)
    cut = Message(b"aabb", source, b"", socket.MSG_CTRUNC)
    kept = Message(b"ccd", source, GRO_OF_2, socket.MSG_CTRUNC)
    calls = plannable(PlannedSocket([cut, kept, cut, Message(b"e", source)]), FAMILIES["udp6"])
    calls.coalescing = True
    assert [datagram.data for datagram in receive_all(calls)] == [b"cc", b"d", b"e"]
    assert calls.counts == ReceiveCounts(received=5, unsplit_batches=2, coalesced_receives=1, coalesced_datagrams=2)


@one_by_one_and_in_batches
def test_without_coalescing_cut_off_ancillary_data_lose_no_datagram(plannable: Implementation) -> None:
    message = Message(b"aabb", packed_ipv6("::1", 5), GRO_OF_2, socket.MSG_CTRUNC)
    calls = plannable(PlannedSocket([message]), FAMILIES["udp6"])
    calls.with_info = True
    assert [datagram.data for datagram in receive_all(calls)] == [b"aabb"]
    assert calls.counts == ReceiveCounts(received=1)


@one_by_one_and_in_batches
def test_an_empty_datagram_with_a_segment_size_is_one_datagram(plannable: Implementation) -> None:
    calls = plannable(PlannedSocket([Message(b"", packed_ipv4("127.0.0.1", 5), GRO_OF_2)]), FAMILIES["udp4"])
    calls.coalescing = True
    assert [datagram.data for datagram in receive_all(calls)] == [b""]
    assert calls.counts.received == 1


# Calls that fail, and interruptions


@one_by_one_and_in_batches
@pytest.mark.parametrize("mode", MODES)
def test_datagrams_before_an_error_are_appended_and_counted(plannable: Implementation, mode: str) -> None:
    datagram = Message(b"x", packed_ipv4("127.0.0.1", 5))
    forged = Message(b"x", packed_ipv4("127.0.0.1", 0))
    sock = PlannedSocket([datagram, forged, datagram, errno.ECONNREFUSED, datagram, errno.ENETDOWN])
    calls = plannable(sock, FAMILIES["udp4"])
    set_mode(calls, mode)
    got: list[Datagram] = []
    for number, received in ((errno.ECONNREFUSED, 3), (errno.ENETDOWN, 4), (errno.EAGAIN, 4)):
        with pytest.raises(OSError, match=r".") as raised:
            while True:
                calls.receive(got, 10)
        assert raised.value.errno == number
        assert len(got) == received - 1
        assert calls.counts == ReceiveCounts(received=received, filtered=1)


@pytest.mark.parametrize(
    ("mode", "replacement"), [("plain", "recvfrom"), ("coalescing", "recvmsg"), ("with local address", "recvmsg")]
)
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_refused_recvmmsg_is_replaced_at_once_and_not_tried_again(
    plannable: Implementation, number: int, monkeypatch: pytest.MonkeyPatch, mode: str, replacement: str
) -> None:
    monkeypatch.setattr(_python_calls, "_BURST", 0)
    datagram = Message(b"x", packed_ipv4("127.0.0.1", 5))
    sock = PlannedSocket([datagram] * 3)
    calls = plannable(sock, FAMILIES["udp4"])
    set_mode(calls, mode)
    got: list[Datagram] = []
    calls.receive(got, 1)
    sock.refusal = number
    for count in (2, 3):
        calls.receive(got, 1)
        assert len(got) == count
    assert sock.calls == ["recvmmsg", "recvmmsg", *[replacement] * 2]
    assert calls.counts == ReceiveCounts(received=3)


@pytest.mark.parametrize("number", [errno.ENOPROTOOPT, errno.EOPNOTSUPP])
def test_a_pending_icmp_error_is_no_refusal_of_recvmmsg(
    plannable: Implementation, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_python_calls, "_BURST", 0)
    sock = PlannedSocket([number, Message(b"x", packed_ipv4("127.0.0.1", 5))])
    calls = plannable(sock, FAMILIES["udp4"])
    with pytest.raises(OSError, match=r".") as raised:
        calls.receive([], 10)
    assert raised.value.errno == number
    assert len(receive_all(calls)) == 1
    assert set(sock.calls) == {"recvmmsg"}


@needs_batches
def test_a_burst_is_received_by_recvmmsg_and_single_datagrams_by_recvfrom() -> None:
    datagram = Message(b"x", packed_ipv4("127.0.0.1", 5))
    sock = PlannedSocket([datagram] * 8)
    calls = PythonCalls(sock, FAMILIES["udp4"])
    # A call expects as many datagrams as the one before has received.
    for count, expected in ((8, "recvfrom"), (100, "recvmmsg"), (1, "recvmmsg"), (1, "recvfrom")):
        sock.queue = deque([datagram] * count)
        sock.calls.clear()
        with suppress(BlockingIOError):
            calls.receive([], 128)
        assert set(sock.calls) == {expected}


@needs_batches
def test_without_recvmmsg_bursts_are_received_one_by_one(plannable: Implementation) -> None:
    sock = PlannedSocket([Message(b"x", packed_ipv4("127.0.0.1", 5))] * 20)
    sock.capabilities = attrs.evolve(sock.capabilities, batches=False)
    calls = plannable(sock, FAMILIES["udp4"])
    for _ in range(2):
        calls.receive([], 10)
    assert set(sock.calls) == {"recvfrom"}
    assert calls.counts == ReceiveCounts(received=20)


@pytest.fixture
def handle() -> Generator[Callable[[signal.Signals, Callable[..., None]], None]]:
    """Return a function that sets the handler of a signal for the test."""
    with ExitStack() as stack:

        def handle(number: signal.Signals, handler: Callable[..., None]) -> None:
            stack.callback(signal.signal, number, signal.signal(number, handler))

        yield handle


@one_by_one_and_in_batches
def test_a_signal_handler_receives_on_another_socket_in_the_middle_of_a_batch(
    udp_link: Link, open_link: Callable[[Kind], Link], handle: Callable[..., None]
) -> None:
    other = open_link(udp_link.kind)
    in_handler: list[Datagram] = []

    def receive_other(*_: object) -> None:
        other.send([b"B"] * 3)
        receive_all(other.calls, in_handler)

    def is_own(_: str) -> bool:
        # It is called between two datagrams of the batch.
        signal.raise_signal(signal.SIGUSR1)
        return False

    handle(signal.SIGUSR1, receive_other)
    udp_link.calls.filter_own(udp_link.peer.getsockname()[1], is_own)
    payloads = [b"A%d" % number for number in range(20)]
    udp_link.send(payloads)
    check_received(udp_link, payloads, receive_all(udp_link.calls))
    check_received(other, [b"B"] * 60, in_handler)


@one_by_one_and_in_batches
def test_a_signal_handler_may_receive_at_any_moment(
    udp_link: Link, open_link: Callable[[Kind], Link], handle: Callable[..., None]
) -> None:
    other = open_link(udp_link.kind)
    in_handler: list[Datagram] = []
    got: list[Datagram] = []
    sent = 0

    def receive_other(*_: object) -> None:
        other.send([b"B" * 50] * 12)
        with suppress(BlockingIOError):
            other.calls.receive(in_handler, 12)
        if len(in_handler) < 600:
            # One after the other: a handler must not interrupt itself.
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

    handle(signal.SIGALRM, receive_other)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    while len(in_handler) < 600:
        udp_link.send([b"A" * 50] * 60)
        sent += 60
        with suppress(BlockingIOError):
            while True:
                udp_link.calls.receive(got, 128)
    check_received(udp_link, [b"A" * 50] * sent, got)
    check_received(other, [b"B" * 50] * len(in_handler), in_handler)


@needs_batches
def test_receive_batch_keeps_the_errno_of_the_call_that_it_may_have_interrupted() -> None:
    with SystemSocket.create(socket.AF_INET) as sock:
        ctypes.set_errno(errno.ENETDOWN)
        with pytest.raises(BlockingIOError):
            receive_batch(sock.fileno(), 8, 16, ancillary=False)
    assert ctypes.get_errno() == errno.ENETDOWN


@needs_batches
def test_each_thread_has_buffers_that_it_uses_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted(_recvmmsg._Buffers):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(_recvmmsg, "_Buffers", Counted)

    def receive_twice() -> None:
        with SystemSocket.create(socket.AF_INET) as sock:
            for _ in range(2):
                with suppress(BlockingIOError):
                    receive_batch(sock.fileno(), 8, 16, ancillary=True)

    for _ in range(2):
        thread = threading.Thread(target=receive_twice)
        thread.start()
        thread.join()
    assert len(made) == 2


@one_by_one_and_in_batches
def test_two_threads_receive_on_two_sockets_at_once(udp_link: Link, open_link: Callable[[Kind], Link]) -> None:
    links = (udp_link, open_link(udp_link.kind))
    results: list[list[Datagram]] = [[], []]
    payloads = [[name * (number + 1) for number in range(50) for _ in range(20)] for name in (b"a", b"b")]

    def exchange(link: Link, sent: list[bytes], got: list[Datagram]) -> None:
        for start in range(0, len(sent), 20):
            link.send(sent[start : start + 20])
            with suppress(BlockingIOError):
                while True:
                    link.calls.receive(got, 20)

    threads = [threading.Thread(target=exchange, args=each) for each in zip(links, payloads, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for link, sent, got in zip(links, payloads, results, strict=True):
        check_received(link, sent, got)


# Sending


def test_send_reaches_the_peer_and_sendto_an_address(link: Link) -> None:
    sizes = [0, 1, 1472, 65507]
    for size in sizes:
        link.calls.sendto(b"t" * size, link.peer_sockaddr)
    link.sock.connect(link.peer_sockaddr)
    for size in sizes:
        link.calls.send(b"c" * size)
    assert link.at_peer() == [letter * size for letter in (b"t", b"c") for size in sizes]


@needs_packet_info
@pytest.mark.parametrize("connected", [False, True], ids=["to an address", "to the peer"])
def test_sendmsg_sends_with_the_control_messages_of_its_call(udp_link: Link, *, connected: bool) -> None:
    kind = udp_link.kind
    level, option = INFO_OPTIONS["udp4" if kind.peer_family == socket.AF_INET else "udp6"][1]
    udp_link.peer.setsockopt(level, option, 1)
    if connected:
        udp_link.sock.connect(udp_link.peer_sockaddr)
    ancillary = encode_packet_info(
        PacketInfo(hop_limit=7), kind.peer_reported, on_ipv6=kind.family.family == socket.AF_INET6
    )
    udp_link.calls.sendmsg((b"x",), ancillary, 0, None if connected else udp_link.peer_sockaddr)
    data, control, _, _ = udp_link.peer.recvmsg(100, 100)
    assert (data, [message[2] for message in control]) == (b"x", [struct.pack("=i", 7)])


def test_refused_sends_raise(link: Link) -> None:
    with pytest.raises(OSError, match=r".") as unconnected:
        link.calls.send(b"x")
    assert unconnected.value.errno == (errno.ENOTCONN if link.kind is UNIX else errno.EDESTADDRREQ)
    with pytest.raises(OSError, match=r".") as too_large:
        link.calls.sendto(TOO_LARGE, link.peer_sockaddr)
    assert too_large.value.errno == errno.EMSGSIZE
    assert link.at_peer() == []


@pytest.mark.parametrize("connected", [False, True], ids=["to an address", "to the peer"])
def test_send_batch_sends_in_order_until_one_is_refused(link: Link, *, connected: bool) -> None:
    sockaddr = None if connected else link.peer_sockaddr
    if connected:
        link.sock.connect(link.peer_sockaddr)
    payloads = burst_of(link)
    assert link.calls.send_batch(payloads, [sockaddr] * len(payloads)) == (len(payloads), None)
    assert link.at_peer() == payloads
    assert link.calls.send_batch([], []) == (0, None)
    sent, error = link.calls.send_batch([b"1", b"2", TOO_LARGE, b"3"], [sockaddr] * 4)
    assert (sent, getattr(error, "errno", None)) == (2, errno.EMSGSIZE)
    assert link.at_peer() == [b"1", b"2"]
    sent, error = link.calls.send_batch([TOO_LARGE, b"1"], [sockaddr] * 2)
    assert (sent, getattr(error, "errno", None)) == (0, errno.EMSGSIZE)
    assert link.at_peer() == []


@pytest.mark.parametrize("kind", INTERNET, ids=lambda kind: kind.name)
def test_send_batch_reaches_each_address_of_every_form(open_link: Callable[[Kind], Link], kind: Kind) -> None:
    link = open_link(kind)
    zone = () if kind is UDP4 else (0, 0)
    with socket.socket(kind.peer_family, socket.SOCK_DGRAM) as other:
        other.bind((kind.peer_host, 0))
        other_sockaddr = (link.peer_sockaddr[0], other.getsockname()[1])
        forms: list[Any] = [link.peer_sockaddr, other_sockaddr, (*link.peer_sockaddr, *zone), other_sockaddr]
        payloads = [b"%d" % number for number in range(200)]
        assert link.calls.send_batch(payloads, [forms[number % 4] for number in range(200)]) == (200, None)
        assert link.at_peer() == payloads[::2]
        assert [other.recv(100) for _ in range(100)] == payloads[1::2]
    # Sent by Python: a payload that is not exactly bytes.
    mixed: list[Any] = [b"1", bytearray(b"2"), b"3"]
    assert link.calls.send_batch(mixed, [link.peer_sockaddr] * 3) == (3, None)
    assert link.at_peer() == [b"1", b"2", b"3"]


def test_a_full_queue_of_a_unix_peer_ends_a_batch(open_link: Callable[[Kind], Link]) -> None:
    link = open_link(UNIX)
    payloads = [b"%d" % number for number in range(10_000)]
    sent, error = link.calls.send_batch(payloads, [link.peer_sockaddr] * len(payloads))
    assert UNIX.burst <= sent < len(payloads)
    assert isinstance(error, BlockingIOError)
    assert link.at_peer() == payloads[:sent]


@needs_offload
@pytest.mark.parametrize("connected", [False, True], ids=["to an address", "to the peer"])
def test_send_segments_sends_datagrams_of_one_size_in_order(udp_link: Link, *, connected: bool) -> None:
    sockaddr = None if connected else udp_link.peer_sockaddr
    if connected:
        udp_link.sock.connect(udp_link.peer_sockaddr)
    udp_link.calls.send_segments(b"aabbccd", 2, (), sockaddr)
    udp_link.calls.send_segments(b"xxyy", 2, (), sockaddr)
    udp_link.calls.send_segments(b"z" * 60_000, 1000, (), sockaddr)
    assert udp_link.at_peer() == [b"aa", b"bb", b"cc", b"d", b"xx", b"yy", *[b"z" * 1000] * 60]


@needs_offload
@pytest.mark.parametrize(("length", "size", "number"), [(65508, 1400, errno.EMSGSIZE), (200, 1, errno.EINVAL)])
def test_refused_segments_raise_and_none_is_sent(udp_link: Link, length: int, size: int, number: int) -> None:
    # IPv6 has no header within the limit of 65535 bytes.
    payload = bytes(length + 20 * (udp_link.kind is UDP6 and length > 60_000))
    with pytest.raises(OSError, match=r".") as refused:
        udp_link.calls.send_segments(payload, size, (), udp_link.peer_sockaddr)
    assert refused.value.errno == number
    assert udp_link.at_peer() == []


@needs_offload
@pytest.mark.skipif(not CAN.packet_info, reason="kernel: no packet info")
def test_segments_have_the_ancillary_data_of_their_call(udp_link: Link) -> None:
    kind = udp_link.kind
    level, option = INFO_OPTIONS["udp4" if kind.peer_family == socket.AF_INET else "udp6"][1]
    udp_link.peer.setsockopt(level, option, 1)
    on_ipv6 = kind.family.family == socket.AF_INET6
    ancillary = encode_packet_info(PacketInfo(hop_limit=7), kind.peer_reported, on_ipv6=on_ipv6)
    udp_link.calls.send_segments(b"aab", 2, ancillary, udp_link.peer_sockaddr)
    for expected in (b"aa", b"b"):
        data, control, _, _ = udp_link.peer.recvmsg(100, 100)
        assert (data, [message[2] for message in control]) == (expected, [struct.pack("=i", 7)])


# Life


def has_former(link: Link) -> bool:
    """Return ``has_former``, which other calls change."""
    return link.calls.has_former


def former_of(link: Link, open_link: Callable[[Kind], Link], payloads: Sequence[bytes]) -> Link:
    """Have the descriptor of ``link`` take over another one where ``payloads`` are queued."""
    former = open_link(link.kind)
    former.send(payloads)
    link.calls.take_over(former.sock)
    return former


@one_by_one_and_in_batches
def test_datagrams_of_the_former_socket_are_returned_first(link: Link, open_link: Callable[[Kind], Link]) -> None:
    assert not has_former(link)
    former = former_of(link, open_link, [b"1", b"2"])
    link.send([b"3"])
    assert has_former(link)
    got: list[Datagram] = []
    link.calls.receive(got, 2)
    # The socket may yet have more.
    assert [datagram.data for datagram in got] == [b"1", b"2"]
    assert has_former(link)
    receive_all(link.calls, got)
    assert [datagram.data for datagram in got] == [b"1", b"2", b"3"]
    assert [datagram.address for datagram in got] == [former.source, former.source, link.source]
    assert link.calls.counts == ReceiveCounts(received=3)
    assert not has_former(link)
    assert former.sock.fileno() == -1
    assert link.sock.fileno() != -1


@one_by_one_and_in_batches
def test_an_error_of_the_former_peer_loses_no_datagram(udp_link: Link, open_link: Callable[[Kind], Link]) -> None:
    former = former_of(udp_link, open_link, [b"1", b"2"])
    with socket.socket(udp_link.kind.peer_family, socket.SOCK_DGRAM) as refusing:
        refusing.bind((udp_link.kind.peer_host, 0))
        port = refusing.getsockname()[1]
    former.sock.connect((udp_link.kind.peer_reported, port))
    # The kernel reports the error before the datagrams.
    former.sock.send(b"x")
    udp_link.send([b"3"])
    assert [datagram.data for datagram in receive_all(udp_link.calls)] == [b"1", b"2", b"3"]
    assert former.sock.fileno() == -1


@one_by_one_and_in_batches
def test_a_former_socket_that_only_fails_is_closed(plannable: Implementation) -> None:
    sock, former = PlannedSocket([Message(b"x", packed_ipv4("127.0.0.1", 5))]), PlannedSocket([errno.ENETDOWN] * 9)
    calls = plannable(sock, FAMILIES["udp4"])
    calls.take_over(former)
    assert [datagram.data for datagram in receive_all(calls)] == [b"x"]
    assert former.closed


@one_by_one_and_in_batches
def test_the_former_socket_filters_the_same_sources(open_link: Callable[[Kind], Link]) -> None:
    link, former = open_link(UDP4), open_link(UDP4)
    link.calls.filter_own(former.peer.getsockname()[1], lambda host: host == "127.0.0.1")
    former.send([b"forged"])
    link.calls.take_over(former.sock)
    assert receive_all(link.calls) == []
    assert link.calls.counts == ReceiveCounts(received=1, filtered=1)


@one_by_one_and_in_batches
@needs_offload
def test_the_former_socket_may_have_coalesced(open_link: Callable[[Kind], Link]) -> None:
    link, former = open_link(UDP6), open_link(UDP6)
    enable_coalescing(link)
    enable_coalescing(former)
    payloads = send_train(former, b"aabbc", 2)
    link.calls.take_over(former.sock)
    assert [datagram.data for datagram in receive_all(link.calls)] == payloads
    assert link.calls.counts == counted(payloads, coalesced_receives=1, coalesced_datagrams=3)


@one_by_one_and_in_batches
@pytest.mark.parametrize("metadata", ["with info", "with local address"])
def test_datagrams_of_the_former_socket_have_a_packet_info_enabled_later(
    link: Link, open_link: Callable[[Kind], Link], metadata: Metadata
) -> None:
    if link.kind is UNIX:
        metadata = "with info"
    former_of(link, open_link, [b"1"])
    link.send([b"2"])
    set_mode(link.calls, metadata)
    assert [datagram.info is not None for datagram in receive_all(link.calls)] == [True, True]


def test_close_closes_the_former_socket_only(link: Link, open_link: Callable[[Kind], Link]) -> None:
    link.calls.close()
    former = former_of(link, open_link, [b"1"])
    for _ in range(2):
        link.calls.close()
        assert former.sock.fileno() == -1
        assert not has_former(link)
        assert link.sock.fileno() != -1
    link.send([b"2"])
    check_received(link, [b"2"], receive_all(link.calls))


def test_former_sockets_are_received_from_in_order(link: Link, open_link: Callable[[Kind], Link]) -> None:
    formers = [former_of(link, open_link, (b"%d" % number,)) for number in range(3)]
    assert [datagram.data for datagram in receive_all(link.calls)] == [b"0", b"1", b"2"]
    assert [former.sock.fileno() for former in formers] == [-1] * 3


def test_the_oldest_of_too_many_former_sockets_is_discarded_and_counted(
    link: Link, open_link: Callable[[Kind], Link]
) -> None:
    # More than one call receives, where the queue is long enough.
    first = burst_of(link)
    formers = [former_of(link, open_link, (b"1", b"2") if number else first) for number in range(10)]
    assert [former.sock.fileno() == -1 for former in formers] == [True, True] + [False] * 8
    assert (link.calls.counts.received, link.calls.counts.discarded) == (len(first) + 2, len(first) + 2)
    assert len(receive_all(link.calls)) == 16


@pytest.mark.skipif(not CAN.disconnect, reason="kernel: cannot disconnect")
def test_disconnect_dissolves_the_association(link: Link) -> None:
    local = link.sock.getsockname()
    link.sock.connect(link.peer_sockaddr)
    link.calls.send(b"1")
    link.calls.disconnect()
    with pytest.raises(OSError, match=r".") as no_peer:
        link.sock.getpeername()
    assert no_peer.value.errno == errno.ENOTCONN
    if link.kind is not UNIX:
        # Linux has freed the port, and the peer accepts datagrams from there only.
        link.sock.bind(local)
    with pytest.raises(OSError, match=r".") as unconnected:
        link.calls.send(b"2")
    assert unconnected.value.errno in (errno.ENOTCONN, errno.EDESTADDRREQ)
    link.calls.sendto(b"3", link.peer_sockaddr)
    assert link.at_peer() == [b"1", b"3"]


# Hostile input

HEADERS: Final = [(socket.IPPROTO_UDP, UDP_GRO), *INFO_OPTIONS["dual-stack"], (socket.SOL_SOCKET, SO_TIMESTAMPNS)]
KNOWN_MESSAGES = st.lists(
    st.builds(
        lambda header, data: (*header, data),
        st.sampled_from(HEADERS),
        st.integers(-3, 40).map(lambda value: struct.pack("=i", value)) | st.binary(max_size=24),
    ),
    max_size=3,
).map(packed_messages)
CONTROL = st.just(b"") | KNOWN_MESSAGES | st.binary(max_size=60)
FLAGS = st.sampled_from([0, 0, int(socket.MSG_TRUNC), int(socket.MSG_CTRUNC)]) | st.integers(0, 2**31 - 1)
OWN_PORT: Final = 53
PORTS = st.sampled_from([OWN_PORT, 0, 1000]) | st.integers(0, 65535)
SOURCES: Final = {
    "udp4": st.builds(packed_ipv4, st.sampled_from(["0.0.0.0", "127.0.0.1", "1.2.3.4"]), PORTS)
    | st.binary(min_size=16, max_size=16),
    "udp6": st.builds(
        packed_ipv6, st.sampled_from(["::", "::1", "fe80::1", "::ffff:0.0.0.0", "::ffff:1.2.3.4"]), PORTS, FLAGS
    )
    | st.binary(min_size=28, max_size=28),
}
ERRNOS = st.sampled_from([errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.ENOMEM])


def is_own(host: str) -> bool:
    """A stand-in for the predicate of a socket that is bound to some of the addresses above."""
    return host in ("127.0.0.1", "::1", "fe80::1%lo")


def expected_of(calls: HotCalls, family: Family, message: Message) -> list[tuple[bytes, ReceivedAddress]]:
    """Return the payloads and sources of the datagrams that ``message`` adds."""
    address = family.source(unpacked(message.packed))
    size = segment_size(control_messages(message.control)) if calls.coalescing else 0
    is_unsplit = calls.coalescing and not size and bool(message.flags & socket.MSG_CTRUNC)
    if address is None or is_unsplit or (address.port == OWN_PORT and is_own(address.host)):
        return []
    starts = range(0, len(message.data) or 1, size) if size else ()
    return [(message.data[start : start + size], address) for start in starts] or [(message.data, address)]


@pytest.mark.parametrize("plannable", PLANNABLE.values(), ids=list(PLANNABLE))
@pytest.mark.parametrize("burst", [0, sys.maxsize], ids=["in batches", "one by one"])
@pytest.mark.parametrize("type_", ["udp4", "udp6"])
@settings(max_examples=50)
@given(data=st.data())
def test_hostile_input_raises_nothing_and_every_datagram_is_counted(
    plannable: Implementation, type_: str, burst: int, data: st.DataObject
) -> None:
    family = FAMILIES[type_]
    messages = st.builds(Message, st.binary(max_size=50), SOURCES[type_], CONTROL, FLAGS)
    queue: list[Message | int] = data.draw(st.lists(messages | ERRNOS, max_size=12), "queue")
    calls = plannable(PlannedSocket(queue), family)
    for name in data.draw(st.sets(st.sampled_from(MODES)), "modes"):
        set_mode(calls, name)
    calls.filter_own(OWN_PORT, is_own)
    limit = data.draw(st.integers(1, 20), "limit")
    got: list[Datagram] = []
    raised: list[int | None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_python_calls, "_BURST", burst)
        while errno.EAGAIN not in raised:
            try:
                calls.receive(got, limit)
            except OSError as error:
                raised.append(error.errno)
    assert raised == [number for number in queue if not isinstance(number, Message)] + [errno.EAGAIN]
    expected = [
        pair for message in queue if isinstance(message, Message) for pair in expected_of(calls, family, message)
    ]
    assert [datagram[:2] for datagram in got] == expected
    assert [type(datagram.address) for datagram in got] == [type(address) for _, address in expected]
    assert {datagram.info is not None for datagram in got} <= {calls.with_info or calls.with_local_address}
    counts = calls.counts
    assert counts.received == len(got) + counts.filtered + counts.unsplit_batches
    assert counts.coalesced_datagrams >= counts.coalesced_receives
    assert counts.discarded == 0


@pytest.mark.skipif(not CAN_PLAN, reason="pure: without the compiled layer")
@pytest.mark.parametrize("type_", ["udp4", "udp6"])
@settings(max_examples=50)
@given(data=st.data())
def test_both_implementations_return_the_same_for_the_same_messages(type_: str, data: st.DataObject) -> None:
    modes = data.draw(st.sets(st.sampled_from(MODES)), "modes")
    # Without ancillary data PythonCalls does not read the flags.
    flags = FLAGS if modes - {"plain"} else st.just(0)
    messages = st.builds(Message, st.binary(max_size=50), SOURCES[type_], CONTROL, flags)
    queue: list[Message | int] = data.draw(st.lists(messages | ERRNOS, max_size=100), "queue")
    limit = data.draw(st.integers(1, 130), "limit")
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_python_calls, "_BURST", 0)
        for implementation in PLANNABLE.values():
            calls = implementation(PlannedSocket(queue), FAMILIES[type_])
            for name in modes:
                set_mode(calls, name)
            calls.filter_own(OWN_PORT, is_own)
            got: list[Datagram] = []
            errors: list[int | None] = []
            while errno.EAGAIN not in errors:
                try:
                    calls.receive(got, limit)
                except OSError as error:
                    errors.append(error.errno)
            results.append((got, [type(datagram.address) for datagram in got], errors, calls.counts))
    assert results[0] == results[1]
