"""Adopted sockets: existing descriptors, which other processes may share."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import (
    AlreadyBoundError,
    AlreadyConnectedError,
    Connected,
    Datagram,
    DatagramNursery,
    Listening,
    NotBoundError,
    NotConnectedError,
    UnixAddress,
)
from trio_dgram._codecs.ancillary import UDP_GRO, UDP_SEGMENT
from trio_dgram._codecs.error_queue import IP_RECVERR, IPV6_RECVERR

from .conformance.conftest import nursery as nursery  # noqa: PLC0414 -- pytest finds it here
from .support.descriptors import same_descriptors
from .support.families import Family
from .support.marks import needs_packet_info
from .support.namespaces import sysctl
from .support.tables import offending_rows, wrong

needs_offload = pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no offload")
needs_drops = pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path counts no drops")


def plain(udp: Family, *, bound: bool = True) -> socket.socket:
    """Return a blocking socket of the standard library."""
    sock = socket.socket(udp.family, socket.SOCK_DGRAM)
    if bound:
        sock.bind((udp.loopback, 0))
    return sock


@contextmanager
def unchanged(sock: socket.socket) -> Generator[None]:
    """Check that the block leaves ``sock`` open and its blocking mode as it was."""
    descriptor, blocking = sock.fileno(), os.get_blocking(sock.fileno())
    with same_descriptors():
        yield
    assert sock.fileno() == descriptor
    assert os.get_blocking(descriptor) == blocking
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == sock.type


@pytest.fixture(params=[None, 1.0], ids=["no default timeout", "a default timeout"])
def default_timeout(request: pytest.FixtureRequest) -> Generator[None]:
    """Both kinds of processes: those without a default timeout for new sockets, and those with one."""
    socket.setdefaulttimeout(request.param)
    yield
    socket.setdefaulttimeout(None)


# Adopted sockets


@pytest.mark.parametrize("as_number", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.usefixtures("default_timeout")
async def test_adopting_keeps_the_descriptor_and_its_blocking_mode(
    udp: Family, nursery: DatagramNursery, as_number: bool, blocking: bool
) -> None:
    theirs = plain(udp)
    theirs.setblocking(blocking)
    descriptor, address = theirs.fileno(), theirs.getsockname()
    sock = nursery.adopt_socket(theirs.detach() if as_number else theirs)
    assert theirs.fileno() == -1
    assert sock.fileno() == descriptor
    assert os.get_blocking(descriptor) == blocking
    assert sock.type == udp.type
    assert sock.address == address[:2]
    with pytest.raises(AlreadyBoundError):
        await sock.bind()
    with pytest.raises(trio.WouldBlock):
        sock.receive_nowait()
    with trio.move_on_after(0.01) as scope:
        await sock.receive()
    assert scope.cancelled_caught
    await sock.send(b"x", sock.address)
    await sock.send_many([Datagram(b"y", sock.address)] * 3)
    assert [(await sock.receive())[:2] for _ in range(4)] == [(b"x", sock.address)] + [(b"y", sock.address)] * 3
    assert os.get_blocking(descriptor) == blocking
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_an_unbound_socket_is_bound_by_sending_or_by_bind(udp: Family, nursery: DatagramNursery) -> None:
    one = nursery.adopt_socket(plain(udp, bound=False))
    other = nursery.adopt_socket(plain(udp, bound=False))
    with pytest.raises(NotBoundError):
        await one.receive()
    with pytest.raises(NotConnectedError):
        await one.send(b"x")
    address = await other.bind(0, udp.loopback)
    await one.send(b"x", address)
    question = await other.receive()
    await other.send(question.reply(b"y"))
    assert await one.receive() == (b"y", address, None)


async def test_a_connected_socket_keeps_its_peer_and_filters_other_sources(
    udp: Family, nursery: DatagramNursery
) -> None:
    with plain(udp) as peer, plain(udp) as other:
        theirs = plain(udp)
        other.sendto(b"from before", theirs.getsockname())
        theirs.connect(peer.getsockname())
        sock = nursery.adopt_socket(theirs)
        assert sock.remote_address == peer.getsockname()[:2]
        async with sock.events(Listening, Connected) as events:
            assert await events.receive() == Listening(sock.address)
            assert await events.receive() == Connected(sock.remote_address)
        with pytest.raises(AlreadyConnectedError):
            await sock.connect(sock.remote_address)
        await sock.send(b"question")
        data, address = peer.recvfrom(100)
        assert (data, address[:2]) == (b"question", sock.address)
        peer.sendto(b"answer", address)
        assert (await sock.receive()).data == b"answer"
        assert sock.statistics().filtered == 1
        sock.disconnect()
        other.sendto(b"from after", address)
        assert (await sock.receive()).data == b"from after"


@pytest.mark.parametrize("bound_to", ["loopback", "wildcard", "nothing"])
async def test_disconnecting_keeps_the_port_that_the_kernel_chose(
    udp: Family, nursery: DatagramNursery, bound_to: str
) -> None:
    with plain(udp) as peer:
        theirs = plain(udp, bound=False)
        if bound_to != "nothing":
            theirs.bind((getattr(udp, bound_to), 0))
        theirs.connect(peer.getsockname())
        sock = nursery.adopt_socket(theirs)
        port = sock.address.port
        sock.disconnect()
        assert sock.address == (udp.loopback if bound_to == "loopback" else udp.wildcard, port)
        peer.sendto(b"x", (udp.loopback, port))
        assert (await sock.receive()).data == b"x"


@pytest.mark.parametrize("ipv6_only", [True, False])
async def test_ipv6_only_is_adopted_unchanged(nursery: DatagramNursery, ipv6_only: bool) -> None:
    theirs = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
    theirs.bind(("::", 0))
    sock = nursery.adopt_socket(theirs, ttl=9)
    port = sock.address.port
    assert sock.ttl == 9
    assert bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) == ipv6_only
    if ipv6_only:
        with pytest.raises(socket.gaierror, match="not an address that a udp6 socket without IPv4 can reach"):
            await sock.send(b"x", ("127.0.0.1", port))
    else:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 9
        await sock.send(b"x", ("127.0.0.1", port))
        assert (await sock.receive()).address == ("::ffff:127.0.0.1", port)


async def test_closing_an_adopted_unix_socket_keeps_its_file(tmp_path: Path) -> None:
    path, peer = str(tmp_path / "sock"), str(tmp_path / "peer")
    theirs, connected = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    theirs.bind(path)
    connected.bind(peer)
    connected.connect(path)
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.adopt_socket(theirs).unref()
        other = nursery.adopt_socket(connected).unref()
        unbound = nursery.adopt_socket(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        assert (sock.type, sock.address, other.remote_address) == ("unix", UnixAddress(path), UnixAddress(path))
        await other.send(b"x")
        assert await sock.receive() == (b"x", UnixAddress(peer), None)
        with pytest.raises(NotBoundError):
            _ = unbound.address
        await unbound.bind(f"{path}.made")
        assert Path(f"{path}.made").is_socket()
        nursery.cancel_scope.cancel()
    assert Path(path).is_socket()
    assert Path(peer).is_socket()
    # The adopted socket created this one.
    assert not Path(f"{path}.made").exists()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="kernel: no AF_UNIX")
async def test_an_unnamed_pair_exchanges_datagrams(nursery: DatagramNursery) -> None:
    one, other = map(nursery.adopt_socket, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    assert one.remote_address == one.address == UnixAddress("")
    await one.send(b"question")
    question = await other.receive()
    assert question == Datagram(b"question", UnixAddress(""))
    await other.send(question.reply(b"answer"))
    assert (await one.receive()).data == b"answer"


# Options, metadata and counters


@needs_packet_info
async def test_options_are_set_on_an_adopted_socket(udp: Family, nursery: DatagramNursery) -> None:
    with plain(udp) as peer:
        sock = nursery.adopt_socket(plain(udp), packet_info=True, receive_block_list=["10.0.0.0/8"], reuse_address=True)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        peer.sendto(b"x", tuple(sock.address))
        datagram = await sock.receive()
        assert datagram.info is not None
        assert datagram.info.local_address == udp.loopback


@needs_packet_info
@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="kernel: no AF_UNIX")
async def test_credentials_are_reported_from_adoption_on(tmp_path: Path, nursery: DatagramNursery) -> None:
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.bind(str(tmp_path / "sock"))
    theirs.sendto(b"before", theirs.getsockname())
    sock = nursery.adopt_socket(theirs, packet_info=True)
    await sock.send(b"after", sock.address)
    before, after = await sock.receive_many()
    assert before.info is not None
    assert before.info.credentials is None
    assert after.info is not None
    assert after.info.credentials is not None
    assert after.info.credentials.pid == os.getpid()


@needs_drops
async def test_drops_are_counted_from_adoption_on(udp: Family, nursery: DatagramNursery) -> None:
    with plain(udp) as peer:
        theirs = plain(udp)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(50):
            peer.sendto(bytes(500), theirs.getsockname())
        sock = nursery.adopt_socket(theirs, offload=False)
        assert sock.statistics().dropped_by_kernel == 0
        count = len(await sock.receive_many())
        assert count < 50
        for _ in range(50):
            peer.sendto(bytes(500), tuple(sock.address))
        more = len(await sock.receive_many())
        assert sock.statistics().dropped_by_kernel == 50 - more
        assert sock.statistics().received == count + more


@needs_offload
@pytest.mark.usefixtures("coalescing")
async def test_a_flood_does_not_enable_receive_offload(udp: Family, nursery: DatagramNursery) -> None:
    sock = nursery.adopt_socket(plain(udp))
    async with trio_dgram.open_socket(udp.type) as sender:
        for _ in range(3):
            await sender.send_many([Datagram(b"x", sock.address)] * 100)
            assert sum([len(await sock.receive_many()) for _ in range(1)]) == 100
        assert sender.statistics().segmented_sends
    assert not sock.getsockopt(socket.IPPROTO_UDP, UDP_GRO)
    assert sock.statistics().kernel_drops_exact


@needs_offload
@pytest.mark.parametrize("options", [{}, {"offload": False}, {"packet_info": True}], ids=str)
async def test_datagrams_are_split_where_receive_offload_was_enabled(
    udp: Family, nursery: DatagramNursery, options: Any
) -> None:
    theirs = plain(udp)
    theirs.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    sock = nursery.adopt_socket(theirs, **options)
    with plain(udp) as peer:
        peer.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        peer.sendto(bytes(250), tuple(sock.address))
    assert [len(datagram.data) for datagram in await sock.receive_many()] == [100, 100, 50]
    assert sock.statistics().coalesced_datagrams == 3
    assert not sock.statistics().kernel_drops_exact


async def test_the_nursery_waits_for_an_adopted_socket_and_closes_it(udp: Family) -> None:
    theirs = plain(udp)
    descriptor = theirs.fileno()
    waited = False
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.adopt_socket(theirs)

        async def close() -> None:
            nonlocal waited
            await sock.receive()
            waited = True
            sock.unref()

        nursery.start_soon(close)
        await sock.send(b"x", sock.address)
    assert waited
    assert sock.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# Rejected sockets


@pytest.mark.parametrize("number", [-1, 9999, 2**31 - 1, 2**40])
async def test_a_descriptor_that_is_not_open_is_rejected(nursery: DatagramNursery, number: int) -> None:
    with same_descriptors(), pytest.raises(OSError, match=f"adopt_socket {number}: Bad file descriptor") as caught:
        nursery.adopt_socket(number)
    assert caught.value.errno == errno.EBADF
    assert (caught.value.operation, caught.value.address) == ("adopt_socket", number)  # type: ignore[attr-defined]


async def test_a_closed_socket_is_rejected(udp: Family, nursery: DatagramNursery) -> None:
    theirs = plain(udp)
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        nursery.adopt_socket(theirs)
    assert caught.value.errno == errno.EBADF


async def test_a_file_is_rejected_and_stays_open(nursery: DatagramNursery, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        with same_descriptors(), pytest.raises(OSError, match="adopt_socket") as caught:
            nursery.adopt_socket(file.fileno())
        assert caught.value.errno == errno.ENOTSOCK
        file.write("still")
    assert (tmp_path / "file").read_text() == "still"


KINDS: Final = {
    "stream": ("AF_INET", "SOCK_STREAM", 0),
    "stream of unix": ("AF_UNIX", "SOCK_STREAM", 0),
    "sequenced": ("AF_UNIX", "SOCK_SEQPACKET", 0),
    "raw": ("AF_INET", "SOCK_RAW", 17),
    "ICMP": ("AF_INET", "SOCK_DGRAM", 1),
    "netlink": ("AF_NETLINK", "SOCK_DGRAM", 0),
    "packet": ("AF_PACKET", "SOCK_DGRAM", 0),
}


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: other socket types than on Linux")
@pytest.mark.parametrize("as_number", [True, False])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.usefixtures("default_timeout", "namespace")
async def test_a_socket_of_another_type_is_rejected_and_unchanged(
    nursery: DatagramNursery, kind: tuple[str, str, int], as_number: bool
) -> None:
    # Only groups in this range may create ICMP sockets (icmp(7)).
    sysctl("net.ipv4.ping_group_range", "0 2147483647")
    theirs = socket.socket(getattr(socket, kind[0]), getattr(socket, kind[1]), kind[2])
    theirs.settimeout(None)
    with theirs, unchanged(theirs):
        with pytest.raises(ValueError, match=r"sock_or_fd must be a (datagram|UDP or AF_UNIX) socket, not one of"):
            nursery.adopt_socket(theirs.fileno() if as_number else theirs)


WRONG_OPTIONS: Final = [
    wrong(TypeError, "unknown socket option 'nonsense'; the socket options are", nonsense=1),
    wrong(ValueError, "ttl must be from 1 to 255", ttl=0),
    wrong(ValueError, "ipv6_only cannot be set on an adopted socket", ipv6_only=False),
    wrong(OSError, "set device to 'nonsense'", device="nonsense"),
]


@pytest.mark.parametrize("as_number", [True, False])
async def test_a_wrong_option_leaves_the_socket_unchanged(udp: Family, as_number: bool) -> None:
    async with trio_dgram.open_nursery() as nursery:
        with plain(udp) as theirs, unchanged(theirs):
            adopt = partial(nursery.adopt_socket, theirs.fileno() if as_number else theirs)
            assert await offending_rows(adopt, WRONG_OPTIONS) == []
            theirs.sendto(b"x", theirs.getsockname())
            assert theirs.recv(100) == b"x"


async def test_an_ended_nursery_adopts_no_socket(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        pass
    with plain(udp) as theirs, unchanged(theirs):
        with pytest.raises(RuntimeError, match="this nursery has ended"):
            nursery.adopt_socket(theirs)
        theirs.sendto(b"x", theirs.getsockname())
        assert theirs.recv(100) == b"x"


# Other processes


async def test_receive_waits_again_after_another_process_took_the_datagram(
    udp: Family, nursery: DatagramNursery
) -> None:
    theirs = plain(udp)
    with theirs.dup() as other, plain(udp) as peer:
        sock = nursery.adopt_socket(theirs)
        async with trio.open_nursery() as tasks:

            async def receive() -> None:
                assert (await sock.receive()).data == b"ours"

            tasks.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            peer.sendto(b"theirs", tuple(sock.address))
            assert other.recv(100) == b"theirs"
            await trio.testing.wait_all_tasks_blocked()
            peer.sendto(b"ours", tuple(sock.address))


async def test_adopting_without_msg_dontwait_raises_enotsup(
    udp: Family, nursery: DatagramNursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "MSG_DONTWAIT")
    with plain(udp) as theirs:
        with pytest.raises(OSError, match="adopt") as caught:
            nursery.adopt_socket(theirs)
        assert caught.value.errno == errno.ENOTSUP


@pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no error queue")
async def test_an_error_queue_that_was_enabled_before_is_drained(udp: Family, nursery: DatagramNursery) -> None:
    raw = plain(udp)
    raw.setsockopt(*(socket.IPPROTO_IP, IP_RECVERR) if udp.type == "udp4" else (socket.IPPROTO_IPV6, IPV6_RECVERR), 1)
    with plain(udp) as closed:
        closed_port = closed.getsockname()
    raw.sendto(b"lost", closed_port)
    sock = nursery.adopt_socket(raw)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(sock.receive)
        # An undrained queue would wake the task again and again.
        with trio.fail_after(20):
            await trio.testing.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert sock.statistics().receive_errors == 1
