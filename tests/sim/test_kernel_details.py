"""Options, flags and names on the simulated network equal those of Linux: the same assertions run on loopback."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from trio_dgram import sim
from trio_dgram.sim._kernel.option_table import OF_IPV4, OF_IPV6, Place
from trio_dgram.sim._network.trio_socket import SimulatedSocket

SOL, IP, IPV6, UDP = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP
SO_RXQ_OVFL, SO_TIMESTAMP, SO_TIMESTAMPNS = 40, 29, 35
UDP_CORK, UDP_SEGMENT, UDP_ENCAP = 1, 103, 100
IP_UNICAST_IF = 50
PRIVILEGED = {(SOL, 1), (SOL, 12), (SOL, 36), (SOL, 46), (SOL, 69), (SOL, 75), (IP, 19), (IPV6, 75)}
"""Options that only root may set on the real kernel: SO_DEBUG, SO_PRIORITY, SO_MARK and others."""

Scenario = Callable[[], Awaitable[None]]
Run = Callable[[Scenario], None]


def run_simulated(scenario: Scenario) -> None:
    async def on_a_network(_: sim.Network) -> None:
        await scenario()

    sim.run(on_a_network)


@pytest.fixture(params=["kernel", "simulated"])
def on(request: pytest.FixtureRequest) -> Run:
    if request.param == "simulated":
        return run_simulated
    if sys.platform != "linux":  # pragma: no cover -- these are Linux's
        pytest.skip("the kernel is not Linux")
    return trio.run


def made(family: int = socket.AF_INET) -> trio.socket.SocketType:
    return trio.socket.socket(family, socket.SOCK_DGRAM)


@contextmanager
def pair() -> Iterator[tuple[Any, Any]]:
    """Make a sender and a receiver, to be bound by ``receiver_of``."""
    with made() as sender, made() as receiver:
        yield sender, receiver


def failing(number: int) -> Any:
    return pytest.raises(OSError, match=rf"^\[Errno {number}\]")


def attempt(sock: Any, place: Place, value: int) -> object:
    """Return the value of an option after it was set, or the error."""
    try:
        sock.setsockopt(*place, value)
    except OSError as error:
        return error.errno
    return sock.getsockopt(*place)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_every_option_has_the_default_and_the_domain_of_the_kernels(family: socket.AddressFamily) -> None:
    def outcomes(make: Callable[[], Any], place: Place) -> list[object]:
        found: list[object] = []
        for value in (0, 1, 2, -1, -2, 255, 256, 65536):
            with make() as sock:
                found += [sock.getsockopt(*place), attempt(sock, place, value)]
        return found

    def is_known(place: Place) -> bool:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.setsockopt(*place, sock.getsockopt(*place))
            except OSError:  # pragma: no cover -- an older kernel, or no root
                return False
        return True

    async def scenario(_: sim.Network) -> None:
        known = OF_IPV6 if family == socket.AF_INET6 else OF_IPV4
        places = [place for place in known if place not in PRIVILEGED and is_known(place)]
        assert len(places) > 30
        assert {place: outcomes(lambda: made(family), place) for place in places} == {
            place: outcomes(lambda: socket.socket(family, socket.SOCK_DGRAM), place) for place in places
        }

    sim.run(scenario)


def test_options_that_are_structures_are_stored(on: Run) -> None:
    async def scenario() -> None:
        with made() as sock:
            for option, size in ((socket.SO_LINGER, 8), (socket.SO_RCVTIMEO, 16), (socket.SO_SNDTIMEO, 16)):
                assert sock.getsockopt(SOL, option, size) == bytes(size)
                assert sock.getsockopt(SOL, option) == 0
                with failing(errno.EINVAL):
                    sock.setsockopt(SOL, option, 1)
                with failing(errno.EINVAL):
                    sock.setsockopt(SOL, option, b"1")
            sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("=ii", 1, 5))
            assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("=ii", 1, 5)

    on(scenario)


def test_options_with_rules_of_their_own(on: Run) -> None:
    async def scenario() -> None:
        with made() as sock, made(socket.AF_INET6) as sock6:
            sock.setsockopt(SOL, SO_TIMESTAMP, 1)
            sock.setsockopt(SOL, SO_TIMESTAMPNS, 1)
            assert (sock.getsockopt(SOL, SO_TIMESTAMP), sock.getsockopt(SOL, SO_TIMESTAMPNS)) == (0, 1)
            sock.setsockopt(SOL, SO_TIMESTAMP, 0)
            assert sock.getsockopt(SOL, SO_TIMESTAMPNS) == 0
            assert attempt(sock, (UDP, UDP_ENCAP), 2) == 2
            assert attempt(sock, (UDP, UDP_ENCAP), 1) == errno.ENOPROTOOPT
            assert attempt(sock, (IP, IP_UNICAST_IF), socket.htonl(1)) == socket.htonl(1)
            assert attempt(sock, (IP, IP_UNICAST_IF), 1) == errno.EADDRNOTAVAIL
            with failing(errno.EOPNOTSUPP):
                sock.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS)
            await sock6.bind(("::", 0))
            with failing(errno.EINVAL):
                sock6.setsockopt(IPV6, socket.IPV6_V6ONLY, 1)
            large = attempt(sock, (SOL, socket.SO_RCVBUF), -1)
            assert large == attempt(sock, (SOL, socket.SO_RCVBUF), 2**30) != 2304
            assert attempt(sock, (SOL, socket.SO_RCVBUF), 1) == 2304

    on(scenario)


def test_a_corked_socket_gathers_one_datagram(on: Run) -> None:
    async def scenario() -> None:
        with pair() as (sender, receiver):
            await receiver.bind(("127.0.0.1", 0))
            to = receiver.getsockname()
            await sender.sendto(b"a", socket.MSG_MORE, to)
            await sender.sendto(b"b", to)
            sender.setsockopt(UDP, UDP_CORK, 1)
            await sender.sendto(b"c", to)
            await sender.sendto(b"d", to)
            with failing(errno.EMSGSIZE):
                await sender.sendto(bytes(65507), to)
            sender.setsockopt(UDP, UDP_CORK, 0)
            sender.setsockopt(UDP, UDP_CORK, 0)
            await sender.sendto(b"e", to)
            assert [await receiver.recv(10) for _ in range(2)] == [b"ab", b"cd"]

    run_simulated(scenario)


def test_segments_as_an_option_split_every_payload(on: Run) -> None:
    async def scenario() -> None:
        with pair() as (sender, receiver):
            await receiver.bind(("127.0.0.1", 0))
            sender.setsockopt(UDP, UDP_SEGMENT, 2)
            await sender.sendto(b"abcde", receiver.getsockname())
            assert [await receiver.recv(10) for _ in range(3)] == [b"ab", b"cd", b"e"]

    on(scenario)


def test_flags_have_the_meaning_of_linux(on: Run) -> None:
    async def scenario() -> None:
        with pair() as (sender, receiver):
            await receiver.bind(("127.0.0.1", 0))
            to = receiver.getsockname()
            with failing(errno.EOPNOTSUPP):
                await sender.sendto(b"x", socket.MSG_OOB, to)
            with failing(errno.EMSGSIZE):
                await sender.sendmsg([b"x"] * 1025, [], 0, to)
            await sender.sendto(b"x" * 100, to)
            await sender.sendto(b"y" * 100, to)
            buffer = bytearray(10)
            assert await receiver.recv_into(buffer, 0, socket.MSG_TRUNC) == 100
            assert buffer == b"x" * 10
            assert await receiver.recv_into(buffer, 5) == 5
            assert buffer == b"y" * 5 + b"x" * 5

    on(scenario)


def test_the_port_0_can_be_connected_to(on: Run) -> None:
    async def scenario() -> None:
        with made() as sock:
            await sock.connect(("127.0.0.1", 0))
            with failing(errno.ENOTCONN):
                sock.getpeername()
            assert await sock.send(b"x") == 1

    on(scenario)


def test_a_loopback_address_reaches_no_other_host() -> None:
    async def scenario(network: sim.Network) -> None:
        other = network.host("other")
        with made() as sock, made(socket.AF_INET6) as sock6:
            await sock.bind(("127.0.0.1", 0))
            with failing(errno.EINVAL):
                await sock.sendto(b"x", (other.ipv4, 9))
            with failing(errno.EINVAL):
                await sock.connect((other.ipv4, 9))
            # Linux checks IPv4 only.
            await sock6.bind(("::1", 0))
            await sock6.sendto(b"x", (other.ipv6, 9))

    sim.run(scenario)


def test_drops_and_timestamps_are_reported_with_a_datagram(on: Run) -> None:
    async def scenario() -> None:
        with pair() as (sender, receiver):
            receiver.setsockopt(SOL, SO_RXQ_OVFL, 1)
            receiver.setsockopt(SOL, SO_TIMESTAMP, 1)
            receiver.setsockopt(SOL, socket.SO_RCVBUF, 1)
            await receiver.bind(("127.0.0.1", 0))
            for _ in range(9):
                await sender.sendto(b"x", receiver.getsockname())
            first = (await receiver.recvmsg(10, 100))[1]
            assert [(level, number, len(data)) for level, number, data in first] == [(SOL, SO_TIMESTAMP, 16)]
            while receiver.is_readable():
                await receiver.recv(10)
            await sender.sendto(b"x", receiver.getsockname())
            last = {number: data for _, number, data in (await receiver.recvmsg(10, 100))[1]}
            assert struct.unpack("=I", last[SO_RXQ_OVFL])[0] > 0

    on(scenario)


def test_names_of_services_and_addresses_are_known(on: Run) -> None:
    async def scenario() -> None:
        resolve, name = trio.socket.getaddrinfo, trio.socket.getnameinfo
        datagram = {"type": socket.SOCK_DGRAM}
        assert (await resolve("127.0.0.1", "domain", **datagram))[0][4] == ("127.0.0.1", 53)
        assert (await resolve("::1", "ntp", **datagram))[0][4][:2] == ("::1", 123)
        for host, service, family, number in (
            ("127.0.0.1", "nosuchservice", 0, socket.EAI_SERVICE),
            ("127.0.0.1", "53", socket.AF_INET6, -9),
        ):
            with pytest.raises(socket.gaierror) as caught:
                await resolve(host, service, family=family, **datagram)
            assert caught.value.errno == number
        canonical = await resolve("localhost", 53, family=socket.AF_INET, flags=socket.AI_CANONNAME, **datagram)
        assert canonical[0][3:] == ("localhost", ("127.0.0.1", 53))
        assert await name(("127.0.0.1", 53), socket.NI_DGRAM) == ("localhost", "domain")

    on(scenario)


def test_a_name_that_is_required_is_known_or_an_error() -> None:
    async def scenario(network: sim.Network) -> None:
        host = network.host("a")
        assert await trio.socket.getnameinfo((host.ipv4, 53), socket.NI_NAMEREQD) == ("a", "domain")
        assert await trio.socket.getnameinfo(("192.0.2.1", 53), 0) == ("192.0.2.1", "domain")
        with pytest.raises(socket.gaierror):
            await trio.socket.getnameinfo(("192.0.2.1", 53), socket.NI_NAMEREQD)

    sim.run(scenario)


def test_a_directed_broadcast_needs_the_option_and_arrives_in_its_network() -> None:
    async def scenario(network: sim.Network) -> None:
        here = network.host("here", addresses=["198.18.1.1/24"])
        there = network.host("there", addresses=["198.18.1.2"])
        far = network.host("far", addresses=["198.18.1.3/16", "2001:db8::1/48"])
        network.host("point", addresses=["192.0.2.0/31", "192.0.2.255"])
        receivers: dict[sim.Host, Any] = {}
        for host in (here, there, far):
            with host.active():
                receivers[host] = made()
            await receivers[host].bind(("", 7))
        with here.active(), made() as sock:
            with failing(errno.EACCES):
                await sock.sendto(b"x", ("198.18.1.255", 7))
            with failing(errno.EACCES):
                await sock.connect(("198.18.1.255", 7))
            sock.setsockopt(SOL, socket.SO_BROADCAST, 1)
            await sock.sendto(b"x", ("198.18.1.255", 7))
            network.hold(here, there)
            await sock.sendto(b"y", ("198.18.1.255", 7))
            network.release(here, there)
            await trio.sleep(1)
        assert {host.name: sock.kernel_socket().queued for host, sock in receivers.items()} == {
            "here": 2,
            "there": 2,
            "far": 0,
        }
        with there.active(), made() as sock:
            await sock.bind(("198.18.1.255", 7777))
        for sock in receivers.values():
            assert isinstance(sock, SimulatedSocket)
            sock.close()

    sim.run(scenario)


@pytest.mark.parametrize("address", ["198.18.1.1/33", "198.18.1/24", "example", 7, "224.0.0.1/24"])
def test_addresses_with_a_wrong_prefix_are_refused(address: Any) -> None:
    async def scenario(network: sim.Network) -> None:
        with pytest.raises(ValueError, match="addresses must be"):
            network.host("a", addresses=[address])

    sim.run(scenario)
