"""What ``doctor`` reports, and the checks that try something on loopback sockets of their own."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Literal

import attrs

from .._codecs.ancillary import IP_PKTINFO, SO_TIMESTAMPNS, UDP_GRO, UDP_SEGMENT
from .._codecs.error_queue import IP_RECVERR
from .._workers.steering import attach

State = Literal["ok", "slow", "missing"]

_TIMEOUT: Final = 1.0
"""How long a datagram may take over loopback, in seconds."""
_SEGMENTS: Final = 8
_SEGMENT: Final = 100
_SOURCES: Final = 64
"""How many source ports try the balancing: all on one of two sockets has a probability of 2 ** -63."""
_CLOCK_SOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_LOOPBACK: Final = "127.0.0.1"
_GROUP: Final = {socket.AF_INET: "239.255.41.234", socket.AF_INET6: "ff12::4:1234"}
"""Groups of local scope, chosen at random (RFC 2365, RFC 4291)."""


@attrs.frozen
class Finding:
    """One line of ``doctor``."""

    name: str
    state: State
    detail: str
    remedy: str = ""


class Sockets(ExitStack):
    """Sockets that are closed together."""

    def open(self, family: int = socket.AF_INET, *options: tuple[int, int, int]) -> socket.socket:
        """Return a new UDP socket with these options set."""
        made = self.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        made.settimeout(_TIMEOUT)
        for option in options:
            made.setsockopt(*option)
        return made

    def pair(self, *options: tuple[int, int, int]) -> tuple[socket.socket, socket.socket]:
        """Return a sender that is connected to a receiver with these options."""
        receiver, sender = self.open(socket.AF_INET, *options), self.open()
        receiver.bind((_LOOPBACK, 0))
        sender.connect(receiver.getsockname())
        return sender, receiver


def try_buffer(option: int) -> int:
    """Return the largest buffer that a program may request, in bytes."""
    with Sockets() as sockets:
        made = sockets.open()
        made.setsockopt(socket.SOL_SOCKET, option, 1 << 30)
        granted: int = made.getsockopt(socket.SOL_SOCKET, option)
    # Linux reserves as much again for itself, and reports the sum (socket(7)).
    return granted // 2


def try_offload(*, receive: bool) -> str:
    """Send some datagrams in one call, receive them singly or in one call, and return what happened."""
    with Sockets() as sockets:
        sender, receiver = sockets.pair(*[(socket.IPPROTO_UDP, UDP_GRO, 1)] * receive)
        control = (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", _SEGMENT))
        sender.sendmsg([bytes(_SEGMENT * _SEGMENTS)], [control])
        size = len(receiver.recv(1 << 16))
    wanted = _SEGMENT * _SEGMENTS if receive else _SEGMENT
    if size != wanted:
        raise OSError(f"received {size} bytes in one call, not {wanted}")
    return f"{_SEGMENTS} datagrams in one call"


def try_sharing(*, steered: bool) -> str:
    """Open two sockets on one port; check that the kernel balances them, or steers by the first byte of datagrams."""
    with Sockets() as sockets:
        shared = [sockets.open(socket.AF_INET, (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)) for _ in range(2)]
        shared[0].bind((_LOOPBACK, 0))
        shared[1].bind(shared[0].getsockname())
        if steered:
            attach(shared[0], (0, 0xFF))
        for number in range(_SOURCES):
            sockets.open().sendto(bytes([number % 2]), shared[0].getsockname())
        received = [_drain(each) for each in shared]
    counts = [len(each) for each in received]
    if not all(counts) or (steered and received != [[0] * counts[0], [1] * counts[1]]):
        raise OSError(f"two sockets received {counts[0]} and {counts[1]} of {_SOURCES} datagrams")
    return f"{counts[0]} and {counts[1]} of {_SOURCES} datagrams"


def _drain(sock: socket.socket) -> list[int]:
    """Return the first byte of each queued datagram; over loopback, what was sent is queued."""
    sock.settimeout(0)
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(sock.recv(1)[0])
    return found


def try_ipv6() -> str:
    """Send a datagram to ``::1``."""
    with Sockets() as sockets:
        sock = sockets.open(socket.AF_INET6)
        sock.bind(("::1", 0))
        sock.sendto(b"?", sock.getsockname())
        sock.recv(1)
    return "a datagram to ::1 arrived"


def try_multicast(index: int, family: int = socket.AF_INET) -> str:
    """Join a group on one interface, and send to it there."""
    group = _GROUP[socket.AddressFamily(family)]
    packed = socket.inet_pton(family, group)
    with Sockets() as sockets:
        sock = sockets.open(family)
        if family == socket.AF_INET:
            request = struct.pack("@4s4si", packed, bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("@16si", packed, index))
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.bind((group, 0) if family == socket.AF_INET else (group, 0, 0, index))
        sock.sendto(b"?", sock.getsockname())
        sock.recv(1)
    return f"a datagram to {group} arrived"


def try_packet_info() -> str:
    """Receive a datagram with the address that it was sent to."""
    with Sockets() as sockets:
        sender, receiver = sockets.pair((socket.IPPROTO_IP, IP_PKTINFO, 1))
        sender.send(b"?")
        control = receiver.recvmsg(1, 256)[1]
    if not any(socket.inet_aton(_LOOPBACK) in data for _, _, data in control):
        raise OSError("the datagram arrived without its local address")
    return "the local address of a datagram is reported"


def try_error_queue() -> str:
    """Send to a closed port, and read the report from the error queue."""
    with Sockets() as sockets:
        sender, receiver = sockets.pair((socket.IPPROTO_IP, IP_RECVERR, 1))
        sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        receiver.close()
        sender.send(b"?")
        with suppress(ConnectionRefusedError):
            sender.recv(1)
        sender.recvmsg(1, 512, socket.MSG_ERRQUEUE)
    return "the refusal of a closed port is reported"


def try_timestamps() -> str:
    """Compare the kernel's timestamp of a datagram with the clock of programs."""
    with Sockets() as sockets:
        sender, receiver = sockets.pair((socket.SOL_SOCKET, SO_TIMESTAMPNS, 1))
        before = time.time_ns()
        sender.send(b"?")
        control = receiver.recvmsg(1, 256)[1]
        after = time.time_ns()
    for _, kind, data in control:
        if kind == SO_TIMESTAMPNS:
            seconds, rest = struct.unpack("@ll", data[: struct.calcsize("@ll")])
            stamp = seconds * 1_000_000_000 + rest
            # Both read the same clock; one step of it between them is normal.
            if before - 10_000_000 <= stamp <= after + 10_000_000:
                return f"{max(0, after - stamp) / 1000:.0f} us before the program read it"
            raise OSError(f"the kernel's clock differs from the program's by {(after - stamp) / 1e9:.3f} s")
    raise OSError("the datagram arrived without a timestamp")


def attempt(name: str, trial: Callable[[], str], state: State, remedy: str) -> Finding:
    """Return what a trial found, or ``state`` with its error and the remedy."""
    try:
        return Finding(name, "ok", trial())
    except OSError as error:
        reason = "no datagram arrived" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return Finding(name, state, reason, remedy)


def clock_source() -> str | None:
    """Return the kernel's clock source, ``None`` where it is not reported."""
    with suppress(OSError):
        return _CLOCK_SOURCE.read_text(encoding="ascii").strip()
    return None
