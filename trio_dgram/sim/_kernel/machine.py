"""A host without a clock: its addresses, and the lookup of the socket for a packet."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final, Protocol

from ..._values.addresses import Address, format_address
from .._values.choices import Choices
from .._values.places import (
    INTERFACE_INDEX,
    LOCAL_BROADCAST,
    LOOPBACK_INDEX,
    Kind,
    is_ipv6,
    kind_of,
    refusal,
)
from .._values.records import INTERFACE_MTU, NoteKind, Packet, Report
from .endpoint import Endpoint

LOOPBACK_MTU: Final = 65536
"""The largest packet that stays on a host, in bytes."""
_EPHEMERAL: Final = range(32768, 61000)
"""The ports that Linux chooses from (net.ipv4.ip_local_port_range)."""
_ICMP_BURST: Final = 6
_ICMP_INTERVAL: Final = 1.0
"""The ICMP rate limit: a burst of so many messages per peer, then one per interval, in seconds (icmp(7))."""
_MOST_PEERS: Final = 4096
_CLOSED_SHOWN: Final = 8
"""How many closed sockets the table of sockets keeps."""

PORT_UNREACHABLE: Final = {False: (3, 3), True: (1, 4)}
"""ICMP's type and code, by whether it is IPv6."""
NO_SOCKET: Final = "no socket on the port"
NO_ROOM: Final = "no room in the receive buffer"
BAD_CHECKSUM: Final = "wrong checksum"
HOST_IS_DOWN: Final = "the host is down"


class Wire(Protocol):
    """The interface of the network to a host."""

    @property
    def choices(self) -> Choices:
        """The choices of the run."""
        ...

    def now(self) -> float:
        """Return the time, in seconds since the network was opened."""
        ...

    def nanoseconds(self, time: float) -> int:
        """Return the time of day at a time of the network's, as a Unix time in nanoseconds."""
        ...

    def next_number(self) -> int:
        """Return the number of the next datagram."""
        ...

    def transmit(self, machine: Machine, packet: Packet) -> None:
        """Route a packet that leaves a host."""

    def record(self, packet: Packet, reason: str, receiver: str) -> None:
        """Record the fate of a packet; ``reason`` is empty if it was delivered."""

    def note(self, host: str, text: str, kind: NoteKind) -> None:
        """Record an event at a host, with the current time."""


class Machine:
    """One host."""

    def __init__(
        self, wire: Wire, name: str, addresses: tuple[str, ...], broadcasts: frozenset[str] = frozenset()
    ) -> None:
        self.wire: Wire = wire
        self.next_number: Callable[[], int] = wire.next_number
        self.time: Callable[[], float] = wire.now
        self.name: str = name
        self.addresses: tuple[str, ...] = addresses
        self._broadcasts = broadcasts
        self.up: bool = True
        self.paused: bool = False
        self.path_mtus: dict[str, int] = {}
        """The path MTU by destination, as reported by ICMP, in bytes."""
        self.endpoints: dict[Endpoint, None] = {}
        """Every open socket, in order of creation."""
        self._closed: deque[str] = deque(maxlen=_CLOSED_SHOWN)
        self._owned = frozenset(addresses)
        self._ports: dict[int, list[Endpoint]] = {}
        draw = wire.choices.stream(name, "ports").getrandbits
        self._choose_port = wire.choices.at(f"{name}: port", lambda: draw(32) % len(_EPHEMERAL), neutral=0)
        self._allowance: dict[str, tuple[float, float]] = {}

    # The interface for its sockets

    def remember(self, endpoint: Endpoint) -> None:
        """Register a new socket."""
        self.endpoints[endpoint] = None

    def forget(self, endpoint: Endpoint) -> None:
        """Unregister a socket that is being closed."""
        self.endpoints.pop(endpoint, None)
        self._closed.append(_row(endpoint, " (closed)"))

    def sockets(self) -> str:
        """Return a table of its open sockets and of the last closed ones: addresses, queue length, drops."""
        head = f"{'':6}{'local address':30}{'peer':30}{'queued':>8}{'dropped':>9}"
        return "\n".join([head, *self._closed, *(_row(endpoint, "") for endpoint in self.endpoints)])

    def nanoseconds(self, time: float) -> int:
        """Return the time of day at a time of the network's, as a Unix time in nanoseconds."""
        return self.wire.nanoseconds(time)

    def owns(self, host: str) -> bool:
        """Whether ``host`` is an address of this machine."""
        return host in self._owned or kind_of(host) == "loopback"

    def kind_of(self, host: str) -> Kind:
        """Return the kind of a plain address as seen by this machine, whose networks have broadcast addresses."""
        return "broadcast" if host in self._broadcasts else kind_of(host)

    def index_of(self, host: str) -> int:
        """Return the interface that has the address ``host``; ENODEV if none has."""
        if kind_of(host) == "loopback":
            return LOOPBACK_INDEX
        if host not in self._owned:
            raise refusal(errno.ENODEV)
        return INTERFACE_INDEX

    def own_address(self, destination: str) -> str:
        """Return the source address of packets to ``destination``; ENETUNREACH without a route."""
        if destination in self._owned:
            return destination
        ipv6 = is_ipv6(destination)
        if kind_of(destination) == "loopback":
            return "::1" if ipv6 else "127.0.0.1"
        for address in self.addresses if self.up else ():
            if is_ipv6(address) == ipv6:
                return address
        raise refusal(errno.ENETUNREACH)

    def interface_mtu(self, destination: str) -> int:
        """Return the MTU of the interface towards ``destination``, in bytes."""
        return LOOPBACK_MTU if self.owns(destination) else INTERFACE_MTU

    def path_mtu(self, destination: str) -> int:
        """Return the known path MTU to ``destination``, in bytes."""
        return self.path_mtus.get(destination) or self.interface_mtu(destination)

    def pause(self, *, paused: bool) -> None:
        """Block every call of its sockets, or resume them."""
        self.paused = paused
        for endpoint in self.endpoints:
            endpoint.notify()

    def check_clock(self) -> None:
        """Return: the clock of a simulated host can be skewed."""

    # Ports

    def attach(self, endpoint: Endpoint, host: str, port: int) -> int:
        """Reserve a port for a socket and return it: an ephemeral port if ``port`` is 0."""
        if not port:
            port = self._free_port(endpoint, host)
        elif any(_conflict(endpoint, host, other) for other in self._ports.get(port, ())):
            raise refusal(errno.EADDRINUSE)
        self._ports.setdefault(port, []).append(endpoint)
        return port

    def _free_port(self, endpoint: Endpoint, host: str) -> int:
        start = self._choose_port()
        for step in range(len(_EPHEMERAL)):
            port = _EPHEMERAL[(start + step) % len(_EPHEMERAL)]
            # An ephemeral port must be unused, even by sockets that would share it.
            if not any(_overlap(endpoint, host, other) for other in self._ports.get(port, ())):
                return port
        raise refusal(errno.EADDRINUSE)

    def detach(self, endpoint: Endpoint) -> None:
        """Free the port of a socket."""
        holders = self._ports.get(endpoint.port)
        if holders is not None and endpoint in holders:
            holders.remove(endpoint)
            if not holders:
                del self._ports[endpoint.port]

    # Packets

    def send(self, packet: Packet, index: int, *, back: bool) -> None:
        """Send a packet by the interface ``index``, 0 for that of the route; with ``back`` a multicast or broadcast
        packet is also delivered to this machine's sockets."""
        host = packet.destination.host
        kind = self.kind_of(host)
        if kind in ("group", "broadcast"):
            index = index or (LOOPBACK_INDEX if host == LOCAL_BROADCAST else INTERFACE_INDEX)
            if index == LOOPBACK_INDEX and packet.is_ipv6:
                raise refusal(errno.ENETUNREACH)
            if back:
                self._receive_of_many(packet, index)
            if index == INTERFACE_INDEX and packet.hop_limit and self.up:
                self.wire.transmit(self, packet)
        elif self.owns(host):
            self._receive_one(packet, LOOPBACK_INDEX)
        elif index == LOOPBACK_INDEX:
            raise refusal(errno.ENETUNREACH)
        else:
            self.transmit(packet)

    def transmit(self, packet: Packet) -> None:
        """Send a packet to another host; ENETUNREACH if this one is down."""
        if not self.up:
            raise refusal(errno.ENETUNREACH)
        self.wire.transmit(self, packet)

    def receive(self, packet: Packet) -> None:
        """Process a packet from the network."""
        if not self.up:
            self.wire.record(packet, HOST_IS_DOWN, self.name)
        elif packet.broken:
            self.wire.record(packet, BAD_CHECKSUM, self.name)
        elif packet.report is not None:
            self._receive_icmp(packet, packet.report)
        elif self.kind_of(packet.destination.host) in ("group", "broadcast"):
            self._receive_of_many(packet, INTERFACE_INDEX)
        else:
            self._receive_one(packet, INTERFACE_INDEX)

    def wants(self, packet: Packet) -> bool:
        """Whether a socket of this machine accepts a multicast or broadcast ``packet``."""
        return self.up and any(True for _ in self._receivers(packet, INTERFACE_INDEX))

    def _receive_one(self, packet: Packet, index: int) -> None:
        endpoint = self._find(packet, index)
        if endpoint is None:
            self.wire.record(packet, NO_SOCKET, self.name)
            self._refuse(packet)
        elif endpoint.deliver(packet, index):
            self.wire.record(packet, "", self.name)
        else:
            self.wire.record(packet, NO_ROOM, self.name)

    def _receive_of_many(self, packet: Packet, index: int) -> None:
        receivers = list(self._receivers(packet, index))
        if not receivers:
            return
        # Each matching socket gets a copy, so delivery must not stop at the first one with space.
        delivered = [endpoint.deliver(packet, index) for endpoint in receivers]
        self.wire.record(packet, "" if any(delivered) else NO_ROOM, self.name)

    def _receivers(self, packet: Packet, index: int) -> Iterator[Endpoint]:
        is_group = kind_of(packet.destination.host) == "group"
        if is_group and not any(
            endpoint.settings.memberships.has_joined(packet.destination.host, index) for endpoint in self.endpoints
        ):
            return
        for endpoint in self._ports.get(packet.destination.port, ()):
            if (
                endpoint.accepts(packet)
                and endpoint.accepts_device(index)
                and (not is_group or endpoint.is_member(packet, index))
            ):
                yield endpoint

    def _find(self, packet: Packet, index: int) -> Endpoint | None:
        """Return the socket for a unicast packet: the latest of the best matches, or one of those that share the port,
        chosen by the addresses."""
        matches = [
            endpoint
            for endpoint in self._ports.get(packet.destination.port, ())
            if endpoint.accepts(packet) and endpoint.accepts_device(index)
        ]
        if len(matches) < 2:
            return matches[0] if matches else None
        best_fit = max(map(_fit, matches))
        best = [endpoint for endpoint in matches if _fit(endpoint) == best_fit]
        if len(best) > 1 and all(endpoint.shares_port for endpoint in best):
            return best[_hash(packet) % len(best)]
        return best[-1]

    # ICMP

    def _refuse(self, packet: Packet) -> None:
        """Send ICMP port unreachable for ``packet``."""
        report = Report(*PORT_UNREACHABLE[packet.is_ipv6], 0, packet)
        source = Address(packet.destination.host, 0)
        answer = Packet(0, source, Address(packet.source.host, 0), b"", self.name, self.time(), report=report)
        if self.owns(packet.source.host):
            self._receive_icmp(answer, report)
        elif self._may_complain_to(packet.source.host):
            answer.number = self.next_number()
            self.wire.transmit(self, answer)

    def _may_complain_to(self, peer: str) -> bool:
        now = self.time()
        left, before = self._allowance.get(peer, (_ICMP_BURST * _ICMP_INTERVAL, now))
        left = min(left + (now - before), _ICMP_BURST * _ICMP_INTERVAL)
        if len(self._allowance) >= _MOST_PEERS:
            # Forged sources must not grow the table without bound. An evicted peer has its full burst again.
            del self._allowance[next(iter(self._allowance))]
        allowed = left >= _ICMP_INTERVAL
        self._allowance[peer] = (left - _ICMP_INTERVAL if allowed else left, now)
        return allowed

    def _receive_icmp(self, packet: Packet, report: Report) -> None:
        about = report.about
        if report.mtu:
            known = self.path_mtu(about.destination.host)
            self.path_mtus[about.destination.host] = min(report.mtu, known)
            for endpoint in self.endpoints:
                endpoint.forget_routes()
        if not self.owns(about.destination.host):
            self.wire.record(packet, "", self.name)
        senders = [endpoint for endpoint in self._ports.get(about.source.port, ()) if endpoint.sent(about)]
        # Of several senders the best match gets the error, a connected socket first.
        senders.sort(key=_fit)
        if senders:
            senders[-1].received_icmp(packet, report)


def _row(endpoint: Endpoint, state: str) -> str:
    family = "udp4" if endpoint.family == socket.AF_INET else "udp6"
    local = format_address(Address(*endpoint.getsockname()[:2])) if endpoint.port else "not bound"
    peer = format_address(endpoint.peer) if endpoint.peer else "anybody"
    drops = endpoint.settings.buffer.drops
    return f"{family:6}{local:30}{peer:30}{endpoint.queued:>8}{drops:>9}{state}"


def _fit(endpoint: Endpoint) -> int:
    """Return how closely a socket matches a packet: Linux's order of precedence."""
    # net/ipv4/udp.c: a bound address ranks above the wildcard address, a connected peer above everything else.
    score = 1 if endpoint.family == socket.AF_INET6 else 2
    score += 64 if endpoint.local != endpoint.wildcard else 0
    score += 16 if endpoint.peer is not None else 0
    return score + (4 if endpoint.settings.device else 0)


def _hash(packet: Packet) -> int:
    text = f"{packet.source} {packet.destination}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big")


def _overlap(endpoint: Endpoint, host: str, other: Endpoint) -> bool:
    """Whether binding to ``host`` overlaps the address of ``other``, at the same port."""
    if endpoint.family != other.family:
        both = endpoint if endpoint.family == socket.AF_INET6 else other
        if not both.accepts_ipv4:
            return False
    wide = host == endpoint.wildcard, other.local == other.wildcard
    return any(wide) or host == other.local


def _conflict(endpoint: Endpoint, host: str, other: Endpoint) -> bool:
    """Whether ``other`` prevents a bind to ``host``, at the same port."""
    if not _overlap(endpoint, host, other):
        return False
    devices = endpoint.settings.device, other.settings.device
    if all(devices) and devices[0] != devices[1]:
        return False
    return not ((endpoint.reuses_address and other.reuses_address) or (endpoint.shares_port and other.shares_port))
