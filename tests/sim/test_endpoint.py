"""A simulated socket behaves as Linux's does, call by call; the same assertions hold on the kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from trio_dgram import sim
from trio_dgram._kernel.system_socket import SystemSocket
from trio_dgram.sim._kernel.endpoint import Endpoint
from trio_dgram.sim._path.conditions import Knobs
from trio_dgram.sim._path.fabric import Fabric
from trio_dgram.sim._values.choices import Choices

from ..support.families import Family

IP_RECVERR, IP_MULTICAST_ALL, SO_MEMINFO, MSG_ERRQUEUE = 11, 49, 55, 0x2000
MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP = 46, 47


class Clockless:
    """A fabric whose clock the test advances, with two hosts."""

    def __init__(self, seed: int = 1) -> None:
        self.time = 0.0
        self.trace = sim.Trace(None, payload=False, opened_at=1000.0)
        self.fabric = Fabric(Choices(seed), lambda: self.time, 1000.0, self.trace, lambda: None)
        self.here = self.fabric.add("here", ("198.18.0.1", "2001:db8:1::1"))
        self.there = self.fabric.add("there", ("198.18.0.2", "2001:db8:1::2"))

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.fabric.advance(self.time)

    def path(self, **knobs: Any) -> None:
        chosen: Knobs = knobs  # type: ignore[assignment]
        self.fabric.pipe("here", "there").set(**chosen)

    def socket(self, family: socket.AddressFamily, host: str = "here") -> Endpoint:
        return Endpoint(self.fabric.machines[host], family)

    def reasons(self) -> list[str]:
        return [record.reason for record in self.trace]


@pytest.fixture
def network() -> Clockless:
    return Clockless()


@pytest.fixture(params=["kernel", "simulation"])
def make(request: pytest.FixtureRequest, network: Clockless) -> Generator[Any]:
    """Makes non-blocking sockets, of the kernel and of a simulated host in turn."""
    made: list[Any] = []

    def make(family: socket.AddressFamily) -> Any:
        if request.param == "simulation":
            return network.socket(family)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(0)
        made.append(sock)
        return sock

    yield make
    for sock in made:
        sock.close()


@contextmanager
def refused(number: int) -> Generator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- the number says which
        yield
    assert caught.value.errno == number, caught.value


# On the kernel and on a simulated host


def test_a_datagram_is_received_with_its_source(make: Any, udp: Family) -> None:
    one, other = make(udp.family), make(udp.family)
    one.bind((udp.loopback, 0))
    other.bind((udp.loopback, 0))
    assert other.sendto(b"hello", one.getsockname()) == 5
    assert one.recvfrom(100) == (b"hello", other.getsockname())
    assert other.sendmsg([b"in ", bytearray(b"parts")], [], 0, one.getsockname()) == 8
    assert one.recv(100) == b"in parts"
    other.connect(one.getsockname())
    assert other.send(memoryview(b"again")) == 5
    assert one.recvmsg(3, 0) == (b"aga", [], socket.MSG_TRUNC, other.getsockname())
    with refused(errno.EAGAIN):
        one.recv(1)


def test_peeking_leaves_the_datagram_queued(make: Any, udp: Family) -> None:
    sock = make(udp.family)
    sock.bind((udp.loopback, 0))
    sock.sendto(b"hello", sock.getsockname())
    assert sock.recv(10, socket.MSG_PEEK) == b"hello"
    assert sock.recvfrom(10, socket.MSG_PEEK) == (b"hello", sock.getsockname())
    assert sock.recv(10) == b"hello"


def test_sending_reports_the_error(make: Any, udp: Family) -> None:
    sock = make(udp.family)
    with refused(errno.EDESTADDRREQ):
        sock.send(b"nowhere")
    with refused(errno.EINVAL):
        sock.sendto(b"no port", (udp.loopback, 0))
    with refused(errno.EMSGSIZE):
        sock.sendto(bytes(65536), (udp.loopback, 9))
    with refused(errno.ENOTCONN):
        sock.getpeername()
    with refused(errno.ENOTCONN):
        sock.shutdown(socket.SHUT_WR)


def test_binding_reports_the_error(make: Any, udp: Family) -> None:
    sock, other = make(udp.family), make(udp.family)
    with refused(errno.EADDRNOTAVAIL):
        sock.bind((udp.foreign, 0))
    sock.bind((udp.loopback, 0))
    with refused(errno.EINVAL):
        sock.bind((udp.loopback, 0))
    with refused(errno.EADDRINUSE):
        other.bind(sock.getsockname())


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_port_is_shared_if_both_sockets_enable_it(make: Any, udp: Family, option: int) -> None:
    one, other, selfish = make(udp.family), make(udp.family), make(udp.family)
    for sock in (one, other):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    one.bind((udp.loopback, 0))
    other.bind(one.getsockname())
    with refused(errno.EADDRINUSE):
        selfish.bind(one.getsockname())


def test_the_socket_bound_last_receives_the_datagrams(make: Any, udp: Family) -> None:
    first, last, sender = make(udp.family), make(udp.family), make(udp.family)
    for sock in (first, last):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    first.bind((udp.loopback, 0))
    last.bind(first.getsockname())
    sender.sendto(b"hello", first.getsockname())
    assert last.recv(10) == b"hello"


def test_sharing_a_port_distributes_peers(make: Any, udp: Family) -> None:
    receivers = [make(udp.family) for _ in range(2)]
    address = (udp.loopback, 0)
    for sock in receivers:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        address = sock.getsockname()
    for _ in range(64):
        make(udp.family).sendto(b"hello", address)
    counts = []
    for sock in receivers:
        counts.append(0)
        with pytest.raises(BlockingIOError):
            while True:
                sock.recv(10)
                counts[-1] += 1
    assert sum(counts) == 64
    assert min(counts) > 10


def test_a_connected_socket_receives_only_from_its_peer_and_before_others(make: Any, udp: Family) -> None:
    server, peer, outsider = make(udp.family), make(udp.family), make(udp.family)
    for sock in (server, peer, outsider):
        sock.bind((udp.loopback, 0))
    server.connect(peer.getsockname())
    outsider.sendto(b"outsider", server.getsockname())
    peer.sendto(b"peer", server.getsockname())
    assert server.recv(10) == b"peer"
    assert server.getpeername() == peer.getsockname()


def test_a_refused_datagram_fails_the_next_send_once(make: Any, udp: Family) -> None:
    sock, closed = make(udp.family), make(udp.family)
    closed.bind((udp.loopback, 0))
    sock.connect(closed.getsockname())
    closed.close()
    sock.send(b"x")
    with refused(errno.ECONNREFUSED):
        sock.send(b"x")
    sock.send(b"x")
    with refused(errno.ECONNREFUSED):
        sock.recv(10)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    sock.send(b"x")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_the_error_queue_names_the_destination_of_the_datagram(make: Any, udp: Family) -> None:
    sock, closed = make(udp.family), make(udp.family)
    level, number = {"udp4": (socket.IPPROTO_IP, 11), "udp6": (socket.IPPROTO_IPV6, 25)}[udp.type]
    sock.setsockopt(level, number, 1)
    with refused(errno.EAGAIN):
        sock.recvmsg(10, 100, MSG_ERRQUEUE)
    closed.bind((udp.loopback, 0))
    address = closed.getsockname()
    closed.close()
    sock.sendto(b"hello", address)
    payload, ((got_level, got_number, data),), _, destination = sock.recvmsg(100, 512, MSG_ERRQUEUE)
    assert (payload, destination[:2], got_level, got_number) == (b"hello", address[:2], level, number)
    origin, kind, code = {"udp4": (2, 3, 3), "udp6": (3, 1, 4)}[udp.type]
    assert struct.unpack_from("=IBBB", data) == (errno.ECONNREFUSED, origin, kind, code)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_full_buffer_drops_and_releases_space_in_quarters(make: Any) -> None:
    receiver, sender = make(socket.AF_INET), make(socket.AF_INET)
    receiver.bind(("127.0.0.1", 0))
    for _ in range(300):
        sender.sendto(bytes(100), receiver.getsockname())
    held = receiver.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    assert struct.unpack("=9I", held)[8] == 300 - 256
    for reads in (63, 1):
        for _ in range(reads):
            receiver.recv(100)
        sender.sendto(b"more", receiver.getsockname())
    count = 0
    with pytest.raises(BlockingIOError):
        while True:
            receiver.recv(100)
            count += 1
    assert count == 256 - 64 + 1


@pytest.mark.parametrize(("size", "fits"), [(100, 256), (1200, 92), (9000, 12)])
def test_the_capacity_depends_on_the_size_of_datagrams(make: Any, size: int, fits: int) -> None:
    receiver, sender = make(socket.AF_INET), make(socket.AF_INET)
    receiver.bind(("127.0.0.1", 0))
    for _ in range(300):
        sender.sendto(bytes(size), receiver.getsockname())
    count = 0
    with pytest.raises(BlockingIOError):
        while True:
            receiver.recv(10)
            count += 1
    assert count == fits


def test_a_small_buffer_accepts_one_large_datagram(make: Any) -> None:
    receiver = make(socket.AF_INET)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2304
    receiver.bind(("127.0.0.1", 0))
    for _ in range(2):
        receiver.sendto(bytes(9000), receiver.getsockname())
    assert len(receiver.recv(9000)) == 9000
    with pytest.raises(BlockingIOError):
        receiver.recv(10)


@pytest.mark.parametrize(
    ("level", "number", "value", "wanted"),
    [
        (socket.IPPROTO_IP, socket.IP_TTL, 9, 9),
        (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", 9), 9),
        (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, b"\5", 5),
        (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, -1, 1),
        (socket.IPPROTO_IP, socket.IP_TTL, 0, None),
        (socket.IPPROTO_IP, socket.IP_TTL, 256, None),
        (socket.IPPROTO_IP, IP_MULTICAST_ALL, 2, None),
        (socket.IPPROTO_IP, 10, 9, None),
        (socket.SOL_SOCKET, socket.SO_BROADCAST, 1, 1),
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 5000, 10000),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 5000, 10000),
    ],
)
def test_options_are_kept_or_refused(make: Any, level: int, number: int, value: Any, wanted: int | None) -> None:
    sock = make(socket.AF_INET)
    if wanted is None:
        with refused(errno.EINVAL):
            sock.setsockopt(level, number, value)
        return
    sock.setsockopt(level, number, value)
    assert sock.getsockopt(level, number) == wanted
    assert sock.getsockopt(level, number, 4) == struct.pack("=i", wanted)


@pytest.mark.parametrize(("name", "wanted"), [("SO_TYPE", socket.SOCK_DGRAM), ("SO_ACCEPTCONN", 0)])
def test_an_option_that_cannot_be_set_is_reported(make: Any, name: str, wanted: int) -> None:
    assert make(socket.AF_INET).getsockopt(socket.SOL_SOCKET, getattr(socket, name)) == wanted


def test_unknown_options_are_refused(make: Any) -> None:
    sock = make(socket.AF_INET)
    with refused(errno.ENOPROTOOPT):
        sock.setsockopt(socket.SOL_SOCKET, 9999, 1)
    with refused(errno.ENOPROTOOPT):
        sock.getsockopt(socket.SOL_SOCKET, 9999)
    with refused(errno.EINVAL):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, b"")


def test_memberships_are_counted_and_checked(make: Any) -> None:
    sock = make(socket.AF_INET)
    level, join, leave = socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP

    def on_loopback(group: str) -> bytes:
        return socket.inet_aton(group) + socket.inet_aton("127.0.0.1")

    def source(group: str, source: str, index: int = 1) -> bytes:
        def storage(host: str) -> bytes:
            return struct.pack("=H2x4s", socket.AF_INET, socket.inet_aton(host))

        return struct.pack("@I0L128s128s", index, storage(group), storage(source))

    sock.setsockopt(level, join, on_loopback("239.0.0.1"))
    with refused(errno.EADDRINUSE):
        sock.setsockopt(level, join, on_loopback("239.0.0.1"))
    with refused(errno.EADDRNOTAVAIL):
        sock.setsockopt(level, leave, on_loopback("239.0.0.2"))
    with refused(errno.EINVAL):
        sock.setsockopt(level, join, on_loopback("10.0.0.1"))
    with refused(errno.ENODEV):
        sock.setsockopt(level, join, socket.inet_aton("239.0.0.3") + bytes(4) + struct.pack("=i", 999))
    with refused(errno.ENODEV):
        sock.setsockopt(level, join, socket.inet_aton("239.0.0.3") + socket.inet_aton("203.0.113.7"))
    for value in (b"short", b""):
        with refused(errno.EINVAL):
            sock.setsockopt(level, join, value)
    with refused(errno.EINVAL):
        sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, b"short")
    # A membership for any source becomes one for a single source.
    sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, source("239.0.0.1", "127.0.0.5"))
    with refused(errno.EADDRNOTAVAIL):
        sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, source("239.0.0.1", "127.0.0.5"))
    sock.setsockopt(level, leave, on_loopback("239.0.0.1"))
    for number in range(10):
        sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, source("239.0.0.4", f"127.0.1.{number}"))
    with refused(errno.ENOBUFS):
        sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, source("239.0.0.4", "127.0.2.1"))
    with refused(errno.EADDRNOTAVAIL):
        sock.setsockopt(level, MCAST_LEAVE_SOURCE_GROUP, source("239.0.0.4", "127.0.2.1"))
    for number in range(10):
        sock.setsockopt(level, MCAST_LEAVE_SOURCE_GROUP, source("239.0.0.4", f"127.0.1.{number}"))
    for number in range(20):
        sock.setsockopt(level, join, on_loopback(f"239.0.1.{number}"))
    with refused(errno.ENOBUFS):
        sock.setsockopt(level, join, on_loopback("239.0.2.1"))


def test_ipv6_memberships_have_their_own_requests(make: Any) -> None:
    sock = make(socket.AF_INET6)
    request = socket.inet_pton(socket.AF_INET6, "ff02::1234") + struct.pack("=i", 1)
    with refused(errno.EINVAL):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request[:10])
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    with refused(errno.EADDRINUSE):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, request)
    with refused(errno.EADDRNOTAVAIL):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, request)


def test_the_multicast_interface_is_named_by_address_or_index(make: Any) -> None:
    sock = make(socket.AF_INET)
    place = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
    sock.setsockopt(*place, socket.inet_aton("127.0.0.1"))
    sock.setsockopt(*place, bytes(8) + struct.pack("=i", 1))
    sock.setsockopt(*place, bytes(4))
    with refused(errno.EINVAL):
        sock.setsockopt(*place, b"")
    for nowhere in (socket.inet_aton("203.0.113.7"), bytes(8) + struct.pack("=i", 99)):
        with refused(errno.EADDRNOTAVAIL):
            sock.setsockopt(*place, nowhere)
    six = make(socket.AF_INET6)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, 1)
    assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF) == 1
    with refused(errno.ENODEV):
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, 999)


def test_a_device_must_exist(make: Any) -> None:
    sock = make(socket.AF_INET)
    place = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE)
    assert sock.getsockopt(*place, 16) == b""
    with refused(errno.ENODEV):
        sock.setsockopt(*place, b"no-such\0")
    sock.setsockopt(*place, b"lo\0")
    assert sock.getsockopt(*place, 16) == b"lo\0"
    sock.setsockopt(*place, b"\0")
    assert sock.getsockopt(*place, 16) == b""


def test_a_dual_stack_socket_has_ipv4_peers_by_mapped_addresses(make: Any) -> None:
    six, four = make(socket.AF_INET6), make(socket.AF_INET)
    six.bind(("::", 0))
    port = six.getsockname()[1]
    four.bind(("127.0.0.1", 0))
    four.sendto(b"hello", ("127.0.0.1", port))
    data, source = six.recvfrom(10)
    assert (data, source[0]) == (b"hello", "::ffff:127.0.0.1")
    six.sendto(b"back", source)
    assert four.recvfrom(10) == (b"back", ("127.0.0.1", port))


def test_an_ipv6_only_socket_leaves_the_port_free_for_ipv4(make: Any) -> None:
    six, four, dual = make(socket.AF_INET6), make(socket.AF_INET), make(socket.AF_INET6)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", 0))
    four.bind(("0.0.0.0", six.getsockname()[1]))
    with refused(errno.EADDRINUSE):
        dual.bind(("::", six.getsockname()[1]))
    with refused(errno.ENETUNREACH):
        six.sendto(b"x", ("::ffff:127.0.0.1", 9))
    four.sendto(b"x", ("127.0.0.1", six.getsockname()[1]))
    assert four.recv(10) == b"x"


def test_a_socket_shut_down_neither_receives_nor_sends(make: Any, udp: Family) -> None:
    sock = make(udp.family)
    sock.bind((udp.loopback, 0))
    sock.connect(sock.getsockname())
    sock.shutdown(socket.SHUT_RD)
    with refused(errno.EAGAIN):
        sock.recv(10)
    sock.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        sock.send(b"x")


def test_a_closed_socket_is_a_bad_descriptor(make: Any, udp: Family) -> None:
    sock = make(udp.family)
    sock.close()
    sock.close()
    for call in (
        lambda: sock.recv(1),
        lambda: sock.send(b"x"),
        lambda: sock.bind((udp.loopback, 0)),
        lambda: sock.connect((udp.loopback, 9)),
        sock.getsockname,
        sock.getpeername,
        lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
        lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
    ):
        with refused(errno.EBADF):
            call()


def test_segments_are_datagrams_of_their_own(make: Any, udp: Family) -> None:
    receiver, sender = make(udp.family), make(udp.family)
    receiver.bind((udp.loopback, 0))

    def segment(size: int) -> list[tuple[int, int, bytes]]:
        return [(socket.IPPROTO_UDP, 103, struct.pack("=H", size))]

    sender.sendmsg([b"aabbc"], segment(2), 0, receiver.getsockname())
    assert [receiver.recv(10) for _ in range(3)] == [b"aa", b"bb", b"c"]
    with refused(errno.EINVAL):
        sender.sendmsg([bytes(1000)], segment(1), 0, receiver.getsockname())


def test_invalid_control_messages_are_refused(make: Any, udp: Family) -> None:
    sock = make(udp.family)
    sock.bind((udp.loopback, 0))
    level, number = {"udp4": (socket.IPPROTO_IP, 8), "udp6": (socket.IPPROTO_IPV6, 50)}[udp.type]
    for message in ((level, number, b"short"), (level, 999, b"unknown")):
        with refused(errno.EINVAL):
            sock.sendmsg([b"x"], [message], 0, sock.getsockname())
    elsewhere = socket.inet_pton(udp.family, udp.foreign)
    packed = struct.pack("=i4s4x", 0, elsewhere) if udp.type == "udp4" else elsewhere + bytes(4)
    with refused({"udp4": errno.ENETUNREACH, "udp6": errno.EINVAL}[udp.type]):
        sock.sendmsg([b"x"], [(level, number, packed)], 0, sock.getsockname())


# On a simulated host only: behaviour that this machine does not expose


def test_repr_names_the_host_and_the_state(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    assert repr(sock) == "<simulated UDP socket on here, not bound>"
    sock.bind(("127.0.0.1", 9))
    assert repr(sock) == "<simulated UDP socket on here, bound to ('127.0.0.1', 9)>"
    sock.close()
    assert repr(sock) == "<simulated UDP socket on here, closed>"


@pytest.mark.parametrize("address", [("::1", 9), ("no number", 9)])
def test_an_address_must_have_the_family_of_the_socket(network: Clockless, address: tuple[str, int]) -> None:
    with pytest.raises(socket.gaierror):
        network.socket(socket.AF_INET).bind(address)
    with pytest.raises(OverflowError, match="port must be 0-65535"):
        network.socket(socket.AF_INET).bind(("127.0.0.1", 70000))


def test_a_socket_bound_to_an_address_reaches_only_its_family(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET6)
    sock.bind(("2001:db8:1::1", 0))
    with refused(errno.ENETUNREACH):
        sock.sendto(b"x", ("::ffff:198.18.0.2", 9))


def test_bind_fails_if_every_port_is_in_use(network: Clockless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_dgram.sim._kernel.machine._EPHEMERAL", range(40000, 40003))
    bound = [network.socket(socket.AF_INET) for _ in range(4)]
    for sock in bound[:3]:
        sock.bind(("0.0.0.0", 0))
    with refused(errno.EADDRINUSE):
        bound[3].bind(("0.0.0.0", 0))
    with closing(bound[0]):
        pass
    bound[3].bind(("0.0.0.0", 0))


def test_the_path_mtu_is_learnt_from_icmp_and_reported_once(network: Clockless, udp: Family) -> None:
    network.path(mtu=1300, too_big="icmp")
    host = {"udp4": "198.18.0.2", "udp6": "2001:db8:1::2"}[udp.type]
    sock, receiver = network.socket(udp.family), network.socket(udp.family, "there")
    receiver.bind((host, 9))
    with refused(errno.ENOTCONN):
        sock.path_mtu()
    sock.connect((host, 9))
    assert sock.path_mtu() == sock.path_mtu((host, 9)) == 1500
    sock.send(bytes(1400))
    network.advance(1)
    assert network.reasons() == ["too big for the path", ""]
    with refused(errno.EMSGSIZE):
        sock.send(bytes(1))
    assert sock.path_mtu() == 1300
    sock.send(bytes(1400))
    network.advance(1)
    assert len(receiver.recv(2000)) == 1400
    place = {"udp4": (socket.IPPROTO_IP, 14), "udp6": (socket.IPPROTO_IPV6, 24)}[udp.type]
    assert sock.getsockopt(*place) == 1300


@pytest.mark.parametrize(("how", "refused_at"), [(0, None), (1, None), (2, 1300), (3, 1500)])
def test_path_mtu_discovery_follows_the_option(
    network: Clockless, udp: Family, how: int, refused_at: int | None
) -> None:
    network.path(mtu=1300, too_big="icmp")
    host = {"udp4": "198.18.0.2", "udp6": "2001:db8:1::2"}[udp.type]
    place = {"udp4": (socket.IPPROTO_IP, 10), "udp6": (socket.IPPROTO_IPV6, 23)}[udp.type]
    sock = network.socket(udp.family)
    sock.setsockopt(*place, how)
    sock.sendto(bytes(1400), (host, 9))
    network.advance(1)
    for size in (1350, 1600):
        if refused_at is not None and size > refused_at - 48:
            with refused(errno.EMSGSIZE):
                sock.sendto(bytes(size), (host, 9))
        else:
            sock.sendto(bytes(size), (host, 9))


def test_an_oversize_send_is_reported_twice(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_IP, 10, 2)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    with refused(errno.EMSGSIZE):
        sock.sendto(bytes(1473), ("198.18.0.2", 9))
    _, ((_, _, data),), _, _ = sock.recvmsg(0, 100, MSG_ERRQUEUE)
    assert struct.unpack_from("=IBBBxI", data) == (errno.EMSGSIZE, 1, 0, 0, 1500)
    sock.sendto(b"x", ("198.18.0.2", 9))


def test_segments_must_fit_the_path(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    message = (socket.IPPROTO_UDP, 103, struct.pack("=H", 1473))
    with refused(errno.EMSGSIZE):
        sock.sendmsg([bytes(3000)], [message], 0, ("198.18.0.2", 9))


def test_options_apply_from_the_next_datagram_to_a_known_destination(network: Clockless, udp: Family) -> None:
    level, option, host = {
        socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL, "198.18.0.2"),
        socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, "2001:db8:1::2"),
    }[udp.family]
    with closing(network.socket(udp.family)) as sock:
        sock.sendto(b"by default", (host, 9))
        sock.setsockopt(level, option, 7)
        sock.sendto(b"seven", (host, 9))
        sock.connect((host, 10))
        sock.sendto(b"beside the peer", (host, 9))
        sock.send(b"to the peer")
        sock.connect((host, 11))
        sock.send(b"to the new peer")
    sent = [(record.packet.hop_limit, record.packet.destination.port) for record in network.trace.in_flight]
    assert sent == [(64, 9), (7, 9), (7, 9), (7, 10), (7, 11)]


def test_a_socket_may_send_to_any_number_of_destinations(network: Clockless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_dgram.sim._kernel.endpoint._MOST_ROUTES", 2)
    with closing(network.socket(socket.AF_INET)) as sock:
        ports = [9, 10, 11, 9, 10, 11]
        for port in ports:
            sock.sendto(b"x", ("198.18.0.2", port))
    assert [record.packet.destination.port for record in network.trace.in_flight] == ports


def test_icmp_refusals_are_rate_limited(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    for _ in range(20):
        sock.sendto(b"x", ("198.18.0.2", 9))
    network.advance(0.5)
    answers = [record for record in network.trace.records if record.packet.report is not None]
    network.advance(0.5)
    assert network.reasons().count("no socket on the port") == 20
    assert len([record for record in network.trace.records if record.packet.report is not None]) == 6
    assert not answers or len(answers) == 6
    for expected in (7, 8):
        network.advance(1)
        sock.sendto(b"x", ("198.18.0.2", 9))
        network.advance(0.5)
        assert len([record for record in network.trace.records if record.packet.report is not None]) == expected


def test_the_table_of_rate_limits_is_bounded(network: Clockless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_dgram.sim._kernel.machine._MOST_PEERS", 3)
    for number in range(9):
        machine = network.fabric.add(f"peer {number}", ())
        Endpoint(machine, socket.AF_INET).sendto(b"x", ("198.18.0.2", 9))
    network.advance(1)
    assert len(network.there._allowance) <= 3


def test_a_queue_of_errors_is_bounded(network: Clockless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_dgram.sim._kernel.socket_errors._MOST", 2)
    sock = network.socket(socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    for _ in range(4):
        sock.sendto(b"x", ("127.0.0.1", 9))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    for _ in range(2):
        sock.recvmsg(0, 100, MSG_ERRQUEUE)
    with refused(errno.EAGAIN):
        sock.recvmsg(0, 100, MSG_ERRQUEUE)


def test_an_address_without_a_host_is_unreachable(network: Clockless, udp: Family) -> None:
    sock = network.socket(udp.family)
    level, number = {"udp4": (socket.IPPROTO_IP, 11), "udp6": (socket.IPPROTO_IPV6, 25)}[udp.type]
    sock.setsockopt(level, number, 1)
    sock.sendto(b"x", (udp.foreign, 9))
    network.advance(1)
    _, ((_, _, data),), _, destination = sock.recvmsg(0, 100, MSG_ERRQUEUE)
    assert destination[:2] == (udp.foreign, 9)
    assert struct.unpack_from("=I", data) == (errno.EHOSTUNREACH,)
    assert network.reasons() == ["no host has that address", ""]


def test_a_host_that_is_down_reaches_only_itself(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    network.here.up = False
    with refused(errno.ENETUNREACH):
        sock.sendto(b"x", ("198.18.0.2", 9))
    sock.bind(("127.0.0.1", 0))
    sock.sendto(b"x", sock.getsockname())
    assert sock.recv(1) == b"x"
    bound = network.socket(socket.AF_INET)
    bound.bind(("198.18.0.1", 0))
    with refused(errno.ENETUNREACH):
        bound.sendto(b"x", ("198.18.0.2", 9))


def test_a_datagram_with_a_wrong_checksum_is_dropped(network: Clockless) -> None:
    network.path(corrupt=1)
    receiver = network.socket(socket.AF_INET, "there")
    receiver.bind(("198.18.0.2", 9))
    network.socket(socket.AF_INET).sendto(b"x", ("198.18.0.2", 9))
    network.advance(1)
    assert network.reasons() == ["wrong checksum"]
    assert not receiver.readable


def test_multicast_on_a_path_reaches_only_members(network: Clockless) -> None:
    members = [network.socket(socket.AF_INET, host) for host in ("here", "there")]
    for sock in members:
        sock.bind(("0.0.0.0", 9))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.0.0.1") + bytes(4))
    network.fabric.add("silent", ())
    sender = network.socket(socket.AF_INET)
    sender.sendto(b"to all", ("239.0.0.1", 9))
    network.advance(1)
    assert [sock.recv(10) for sock in members] == [b"to all", b"to all"]
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    sender.sendto(b"others", ("239.0.0.1", 9))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
    sender.sendto(b"unwanted", ("239.0.0.1", 9))
    network.advance(1)
    assert members[1].recv(10) == b"others"
    assert [sock.readable for sock in members] == [False, False]
    assert {record.receiver for record in network.trace.records} == {"here", "there"}


def test_ipv6_groups_do_not_work_on_loopback(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, 1)
    with refused(errno.ENETUNREACH):
        sock.sendto(b"x", ("ff02::1", 9))


def test_a_member_with_a_full_buffer_does_not_affect_others(network: Clockless) -> None:
    full, member = network.socket(socket.AF_INET), network.socket(socket.AF_INET)
    full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for sock in (full, member):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", 9))
    sender = network.socket(socket.AF_INET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for _ in range(4):
        sender.sendto(b"x", ("255.255.255.255", 9))
    assert (full.queued, member.queued) == (2, 4)
    member.close()
    sender.sendto(b"x", ("255.255.255.255", 9))
    assert network.reasons() == ["", "", "", "", "no room in the receive buffer"]


def test_ancillary_data_are_truncated_to_the_buffer(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    sock.bind(("127.0.0.1", 0))
    for number in (8, 12, 13):
        sock.setsockopt(socket.IPPROTO_IP, number, 1)
    sock.sendto(b"x", sock.getsockname())
    _, messages, flags, _ = sock.recvmsg(1, socket.CMSG_SPACE(12))
    assert [number for _, number, _ in messages] == [8]
    assert flags & socket.MSG_CTRUNC


def test_the_best_match_receives_regardless_of_the_order_of_binding(make: Any, udp: Family) -> None:
    exact, wide, sender = make(udp.family), make(udp.family), make(udp.family)
    for sock in (exact, wide):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    exact.bind((udp.loopback, 0))
    wide.bind((udp.wildcard, exact.getsockname()[1]))
    sender.sendto(b"hello", exact.getsockname())
    assert exact.recv(10) == b"hello"


def test_connecting_to_a_broadcast_address_requires_the_option(make: Any) -> None:
    sock = make(socket.AF_INET)
    with refused(errno.EACCES):
        sock.connect(("127.255.255.255", 9))


def test_a_destination_beyond_the_bound_device_is_unreachable(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    with refused(errno.ENETUNREACH):
        sock.sendto(b"x", ("198.18.0.2", 9))
    with refused(errno.ENODEV):
        sock.sendmsg([b"x"], [(socket.IPPROTO_IP, 8, struct.pack("=i8x", 99))], 0, ("198.18.0.2", 9))


def test_sockets_on_different_devices_may_share_a_port(network: Clockless) -> None:
    socks = [network.socket(socket.AF_INET) for _ in range(3)]
    for sock, device in zip(socks, (b"lo", b"eth0", b"lo"), strict=True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    for sock in socks[:2]:
        sock.bind(("0.0.0.0", 9))
    with refused(errno.EADDRINUSE):
        socks[2].bind(("0.0.0.0", 9))


def test_a_traffic_class_may_be_a_byte(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    sock.bind(("127.0.0.1", 9))
    sock.setsockopt(socket.IPPROTO_IP, 13, 1)
    sock.sendmsg([b"x"], [(socket.IPPROTO_IP, 1, b"\x28")], 0, sock.getsockname())
    assert sock.recvmsg(1, 100)[1] == [(socket.IPPROTO_IP, 1, b"\x28")]


def test_a_source_is_joined_by_the_older_option_too(make: Any) -> None:
    sock = make(socket.AF_INET)
    request = socket.inet_aton("239.0.0.9") + socket.inet_aton("127.0.0.1") + socket.inet_aton("127.0.0.7")
    with refused(errno.EINVAL):
        sock.setsockopt(socket.IPPROTO_IP, 39, request[:8])
    sock.setsockopt(socket.IPPROTO_IP, 39, request)
    with refused(errno.EADDRNOTAVAIL):
        sock.setsockopt(socket.IPPROTO_IP, 39, request)
    sock.setsockopt(socket.IPPROTO_IP, 40, request)


def test_icmp_reaches_the_socket_that_sent(network: Clockless) -> None:
    other, sender = network.socket(socket.AF_INET), network.socket(socket.AF_INET)
    other.bind(("127.0.0.1", 9))
    sender.bind(("198.18.0.1", 9))
    sender.connect(("198.18.0.2", 7))
    sender.send(b"x")
    sender.close()
    network.advance(1)
    sender = network.socket(socket.AF_INET)
    sender.bind(("198.18.0.1", 9))
    sender.connect(("198.18.0.2", 7))
    sender.send(b"x")
    network.advance(1)
    assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_icmp_without_a_matching_socket_is_not_answered(network: Clockless) -> None:
    network.here.path_mtus["198.18.0.2"] = 1300
    receiver = network.socket(socket.AF_INET, "there")
    receiver.bind(("198.18.0.2", 9))
    sock = network.socket(socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_IP, 10, 3)
    sock.sendto(bytes(1400), ("198.18.0.2", 9))
    # The sending host no longer has the source address.
    del network.fabric.owners["198.18.0.1"]
    sock.sendto(b"x", ("198.18.0.2", 7))
    network.advance(1)
    assert network.reasons().count("no host has that address") == 1


def test_disconnecting_keeps_an_explicit_port(make: Any, udp: Family) -> None:
    chosen, named = (_with_disconnect(make(udp.family)) for _ in range(2))
    with closing(chosen), closing(named):
        chosen.bind((udp.wildcard, 0))
        chosen.connect((udp.loopback, 9))
        assert chosen.getsockname()[0] == udp.loopback
        port = chosen.getsockname()[1]
        chosen.disconnect()
        assert chosen.getsockname()[:2] == (udp.wildcard, 0)
        named.bind((udp.wildcard, port))
        named.connect((udp.loopback, 9))
        named.disconnect()
        assert named.getsockname()[:2] == (udp.wildcard, port)


def _with_disconnect(sock: Any) -> Any:
    return SystemSocket(sock) if isinstance(sock, socket.socket) else sock


def test_an_own_address_selects_the_interface(network: Clockless) -> None:
    sock = network.socket(socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.0.1"))
    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF) == 2


def test_arrivals_within_an_instant_are_processed_at_its_end_in_an_order_that_is_chosen() -> None:
    orders = set()
    for seed in range(20):
        network = Clockless(seed)
        network.fabric.together_within = 0.005
        network.fabric.add("third", ("198.18.0.3",))
        receiver = network.socket(socket.AF_INET, "there")
        receiver.bind(("198.18.0.2", 7))
        network.socket(socket.AF_INET).sendto(b"1", ("198.18.0.2", 7))
        network.advance(0.004)
        network.socket(socket.AF_INET, "third").sendto(b"2", ("198.18.0.2", 7))
        network.advance(0)
        with refused(errno.EAGAIN):
            receiver.recv(1)
        # Each takes 1 ms.
        assert network.fabric.next_time == 0.006
        network.advance(0.002)
        orders.add(receiver.recv(1) + receiver.recv(1))
        assert network.fabric.next_time is None
    assert orders == {b"12", b"21"}
