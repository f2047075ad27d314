"""Adopting and sharing existing sockets: what the suites of other implementations check."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Final

import pytest
import trio

from trio_dgram import DatagramNursery

from ..support.families import Family


@pytest.fixture
def theirs(udp: Family) -> socket.socket:
    """A bound, blocking socket, as other programs create them."""
    sock = socket.socket(udp.family, socket.SOCK_DGRAM)
    sock.bind((udp.loopback, 0))
    return sock


@pytest.mark.parametrize("as_number", [True, False])
async def test_an_adopted_socket_keeps_its_address_and_accepts_options(
    nursery: DatagramNursery, theirs: socket.socket, as_number: bool
) -> None:
    address = theirs.getsockname()[:2]
    options = {"ttl": 9, "dscp": 24, "multicast_loopback": False}
    sock = nursery.adopt_socket(theirs.detach() if as_number else theirs, **options)  # type: ignore[arg-type]
    assert sock.address == address
    assert {name: getattr(sock, name) for name in options} == options
    sock.broadcast = True
    assert sock.broadcast
    await sock.send(b"x", address)
    assert await sock.receive() == (b"x", address, None)


@pytest.mark.not_simulated("a simulated socket cannot have a peer on the real network")
async def test_an_adopted_socket_that_is_connected_has_its_peer(
    udp: Family, nursery: DatagramNursery, theirs: socket.socket
) -> None:
    with socket.socket(udp.family, socket.SOCK_DGRAM) as peer:
        peer.bind((udp.loopback, 0))
        theirs.connect(peer.getsockname())
        sock = nursery.adopt_socket(theirs)
        assert sock.remote_address == peer.getsockname()[:2]
        await sock.send(b"question")
        data, address = peer.recvfrom(100)
        assert data == b"question"
        peer.sendto(b"answer", address)
        assert (await sock.receive()).data == b"answer"


@pytest.mark.parametrize("number", [-1, 9999])
async def test_an_invalid_descriptor_cannot_be_adopted(nursery: DatagramNursery, number: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        nursery.adopt_socket(number)


async def test_a_stream_socket_cannot_be_adopted(udp: Family, nursery: DatagramNursery) -> None:
    with socket.socket(udp.family, socket.SOCK_STREAM) as stream:
        with pytest.raises(ValueError, match="sock_or_fd must be a datagram socket"):
            nursery.adopt_socket(stream)
        assert stream.fileno() != -1


READ: Final = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
assert sock.getblocking()
while data := sock.recv(100):
    print(data.decode(), flush=True)
"""


@pytest.mark.not_simulated("a child process is on the real network")
async def test_a_child_that_inherits_the_socket_receives_as_its_parent_does(
    udp: Family, nursery: DatagramNursery, theirs: socket.socket
) -> None:
    sock = nursery.adopt_socket(theirs)
    with socket.socket(udp.family, socket.SOCK_DGRAM) as peer:
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", READ, str(sock.fileno())],
            pass_fds=[sock.fileno()],
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            # While no task here receives, the child receives every datagram.
            for number in range(3):
                peer.sendto(b"%d" % number, tuple(sock.address))
                assert await trio.to_thread.run_sync(child.stdout.readline) == b"%d\n" % number
            peer.sendto(b"", tuple(sock.address))
            assert await trio.to_thread.run_sync(child.wait) == 0
        peer.sendto(b"ours", tuple(sock.address))
        assert (await sock.receive()).data == b"ours"
        assert os.get_blocking(sock.fileno())
