"""A datagram socket of a simulated kernel: every operation that completes at once, without a clock.

A call that would block raises ``BlockingIOError``, as with a non-blocking socket of the standard library.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..._codecs.ancillary import UDP_SEGMENT, Ancillary, ControlMessage
from ..._kernel.system_socket import IP_MTU, IPV6_MTU, MSG_ERRQUEUE
from ..._values.addresses import Address
from .._values.places import (
    INTERFACES,
    LOOPBACK_INDEX,
    is_ipv6,
    kind_of,
    numeric,
    refusal,
    sockaddr_of,
)
from .._values.records import Packet, Report
from .control import Instructions, QueuedError, describe, describe_error, read_instructions, split
from .cork import Cork
from .machine_protocol import Machine
from .option_table import UDP_CORK
from .routes import Route, check_leaves_loopback, find_route
from .settings import MULTICAST_ALL, Settings
from .socket_errors import DISCOVER_DO, DISCOVER_DONT, DISCOVER_PROBE, SocketErrors

_IP, _IPV6, _SOL = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
_SEGMENT: Final = (socket.IPPROTO_UDP, UDP_SEGMENT)
_PEEK: Final = int(socket.MSG_PEEK)
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_OUT_OF_BAND: Final = int(socket.MSG_OOB)
_MORE: Final = int(getattr(socket, "MSG_MORE", 0x8000))
_MOST_BUFFERS: Final = 1024
_ANCILLARY_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_LARGEST: Final = {False: 65507, True: 65527}
"""The largest payload of a datagram in bytes, by whether it is IPv6 (udp(7))."""
_DEFAULT: Final = Instructions()
_MOST_ROUTES: Final = 1024
"""How many routes a socket keeps."""


class Endpoint:
    """One socket of one simulated machine: the synchronous interface of :class:`trio_dgram._system.SystemSocket`."""

    def __init__(self, machine: Machine, family: socket.AddressFamily) -> None:
        self.machine: Machine = machine
        self.family: socket.AddressFamily = family
        self.type: socket.SocketKind = socket.SOCK_DGRAM
        self.proto: int = 0
        self.settings: Settings = Settings(family, machine.index_of)
        self.wildcard: str = "0.0.0.0" if family == socket.AF_INET else "::"
        self.local: str = self.wildcard
        self.port: int = 0
        self.peer: Address | None = None
        self.closed: bool = False
        self.changed: Callable[[], None] | None = None
        """Called when the socket becomes readable, and when it ceases to be."""
        self._port_chosen = False
        self._host_chosen = False
        self._shut: set[str] = set()
        self._queue: deque[tuple[Packet, int, int, float, int]] = deque()
        """For each queued datagram its charge, its interface, its arrival, and the drop counter at that time."""
        self._cork: Cork | None = None
        self._routes: dict[Any, Route] = {}
        """The routes to other hosts by address, None for the peer, of datagrams that no option concerns."""
        self._errors = SocketErrors(self.settings)
        machine.remember(self)

    # Its state

    @property
    def readable(self) -> bool:
        """Whether a read would not block, as poll(2) reports it."""
        return not self.machine.paused and bool(self._queue or self._errors or "read" in self._shut)

    @property
    def has_errors(self) -> bool:
        """Whether poll(2) would report an error."""
        return bool(self._errors)

    @property
    def queued(self) -> int:
        """The number of queued datagrams."""
        return len(self._queue)

    @property
    def accepts_ipv4(self) -> bool:
        """Whether IPv4 peers can reach it."""
        return not self.settings.is_on(_IPV6, socket.IPV6_V6ONLY)

    @property
    def reuses_address(self) -> bool:
        """Whether it shares its address with other sockets that enable this."""
        return self.settings.is_on(_SOL, socket.SO_REUSEADDR)

    @property
    def shares_port(self) -> bool:
        """Whether it shares its port with other sockets that enable this; each of them gets some of the peers."""
        return self.settings.is_on(_SOL, socket.SO_REUSEPORT)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"bound to {self.getsockname()}" if self.port else "not bound"
        return f"<simulated UDP socket on {self.machine.name}, {state}>"

    def notify(self) -> None:
        """Notify waiting tasks of a change."""
        if self.changed is not None:
            self.changed()

    def _check_open(self) -> None:
        if self.closed:
            raise refusal(errno.EBADF)

    def _check_changes(self) -> None:
        """Check that the socket is open, and forget the routes, since a change of its state may change them."""
        self._check_open()
        self.forget_routes()

    def forget_routes(self) -> None:
        """Forget the routes: something that they derive from changes."""
        self._routes.clear()

    def _check_runs(self) -> None:
        self._check_open()
        if self.machine.paused:
            raise BlockingIOError(errno.EAGAIN, "the host is paused")

    def close(self) -> None:
        """Release all resources; closing twice does nothing."""
        if not self.closed:
            self.machine.forget(self)
            self.machine.detach(self)
            self.closed = True
            self.forget_routes()
            self._queue.clear()
            self._errors.clear()
            self.notify()

    def shutdown(self, how: int) -> None:
        """Stop reading, sending, or both (shutdown(2)): ENOTCONN without a peer."""
        self._check_changes()
        if self.peer is None:
            raise refusal(errno.ENOTCONN)
        self._shut |= {socket.SHUT_RD: {"read"}, socket.SHUT_WR: {"send"}, socket.SHUT_RDWR: {"read", "send"}}[how]
        self.notify()

    # Its name and its peer

    def bind(self, sockaddr: Any) -> None:
        """Bind to a local address (bind(2))."""
        self._check_changes()
        host, port = numeric(self.family, sockaddr)
        if self.port:
            raise refusal(errno.EINVAL)
        if self.machine.kind_of(host) not in ("wildcard", "group", "broadcast") and not self.machine.owns(host):
            raise refusal(errno.EADDRNOTAVAIL)
        self._reserve(host, port)
        self._port_chosen = not port
        self._host_chosen = False

    def _reserve(self, host: str, port: int) -> None:
        self.port = self.machine.attach(self, host, port)
        self.local = host

    def _bind_anywhere(self) -> int:
        """Return its port, after binding an unbound socket."""
        if not self.port:
            self._reserve(self.wildcard, 0)
            self._port_chosen = True
        return self.port

    def connect(self, sockaddr: Any) -> None:
        """Set the peer (connect(2))."""
        self._check_changes()
        host, port = numeric(self.family, sockaddr)
        host = self._reachable(host)
        source = self.machine.own_address(host)
        kind = self.machine.kind_of(host)
        if kind == "broadcast" and not self.settings.is_on(_SOL, socket.SO_BROADCAST):
            raise refusal(errno.EACCES)
        self._bind_anywhere()
        check_leaves_loopback(self.machine, self.local, host, kind)
        if kind_of(self.local) == "wildcard":
            self.local = source
            self._host_chosen = True
        self.peer = Address(host, port)

    def disconnect(self) -> None:
        """Clear the peer, and with it the kernel's choices: the address, the port, the device."""
        self._check_changes()
        self.peer = None
        self._errors.due = 0
        self.settings.device = ""
        if self._host_chosen:
            self.local = self.wildcard
            self._host_chosen = False
        if self._port_chosen:
            self.machine.detach(self)
            self.port = 0

    def _reachable(self, host: str) -> str:
        """Return the destination ``host``, with this machine in place of the unspecified address; ENETUNREACH for a
        wrong family."""
        if kind_of(host) == "wildcard":
            return "::1" if is_ipv6(host) else "127.0.0.1"
        if not is_ipv6(host) and self.settings.is_on(_IPV6, socket.IPV6_V6ONLY):
            raise refusal(errno.ENETUNREACH)
        if self.local != self.wildcard and kind_of(self.local) == "unicast" and is_ipv6(host) != is_ipv6(self.local):
            raise refusal(errno.ENETUNREACH)
        return host

    def getsockname(self) -> tuple[Any, ...]:
        """Return the local address."""
        self._check_open()
        if self.local == self.wildcard:
            return (self.wildcard, self.port) if self.family == socket.AF_INET else (self.wildcard, self.port, 0, 0)
        return sockaddr_of(self.family, self.local, self.port)

    def getpeername(self) -> tuple[Any, ...]:
        """Return the peer's address; ENOTCONN without one."""
        self._check_open()
        if self.peer is None or not self.peer.port:
            raise refusal(errno.ENOTCONN)
        return sockaddr_of(self.family, *self.peer)

    # Its options

    def setsockopt(self, level: int, number: int, value: Any, length: int = 0) -> None:
        """Set an option (setsockopt(2))."""
        self._check_changes()
        if (level, number) == (_IPV6, socket.IPV6_V6ONLY) and self.port:
            raise refusal(errno.EINVAL)
        self.settings.set(level, number, bytes(length) if value is None else value)
        if (level, number) == (socket.IPPROTO_UDP, UDP_CORK) and not self._is_corked():
            self._uncork()

    def getsockopt(self, level: int, number: int, size: int = 0) -> Any:
        """Read an option (getsockopt(2))."""
        self._check_open()
        if (level, number) == (_SOL, socket.SO_ERROR):
            return self._pop_error()
        if (level, number) in ((_IP, IP_MTU), (_IPV6, IPV6_MTU)):
            return self.path_mtu()
        return self.settings.get(level, number, size)

    def path_mtu(self, sockaddr: Any = None) -> int:
        """Return the known path MTU to ``sockaddr``, or to the peer, in bytes."""
        if sockaddr is None and self.peer is None:
            raise refusal(errno.ENOTCONN)
        host = self.peer.host if self.peer is not None and sockaddr is None else numeric(self.family, sockaddr)[0]
        return self.machine.path_mtu(self._reachable(host))

    # Sending

    def send(self, data: Any, flags: int = 0) -> int:
        """Send to the peer."""
        return self._send_one(data, flags, None)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Send to an address."""
        *flags, address = flags_and_address
        return self._send_one(data, flags[0] if flags else 0, address)

    def _send_one(self, data: Any, flags: int, address: Any) -> int:
        route = self._routes.get(address)
        hindered = flags or self._errors.due or self.machine.paused
        if hindered or route is None or type(data) is not bytes or len(data) > route.largest:
            return self.sendmsg([data], (), flags, address)
        self._dispatch(data, route)
        return len(data)

    def sendmsg(self, buffers: Any, ancdata: Ancillary = (), flags: int = 0, address: Any = None) -> int:
        """Send to ``address``, or the peer, with the options in the control messages (sendmsg(2))."""
        self._check_runs()
        if "send" in self._shut:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if flags & _OUT_OF_BAND:
            raise refusal(errno.EOPNOTSUPP)
        if len(buffers) > _MOST_BUFFERS:
            raise refusal(errno.EMSGSIZE)
        if self._errors.due:
            raise refusal(self._pop_error())
        destination = self._destination(address)
        instructions = _DEFAULT if ancdata == () else read_instructions(ancdata)
        payload = b"".join(buffers) if len(buffers) != 1 else bytes(buffers[0])
        if flags & _MORE or self._cork is not None or self._is_corked():
            self._gather(payload, destination, instructions)
            if not flags & _MORE and not self._is_corked():
                self._uncork()
        else:
            route = self._send(payload, destination, instructions)
            if route.leaves and instructions is _DEFAULT and not self.settings[_SEGMENT]:
                self._keep_route(address, route)
        return len(payload)

    def _destination(self, address: Any) -> Address:
        if address is None:
            if self.peer is None:
                raise refusal(errno.EDESTADDRREQ)
            return self.peer
        host, port = numeric(self.family, address)
        destination = Address(self._reachable(host), port)
        if not port:
            raise refusal(errno.EINVAL)
        return destination

    def _keep_route(self, address: Any, route: Route) -> None:
        if len(self._routes) >= _MOST_ROUTES:
            self.forget_routes()
        self._routes[address] = route

    def _is_corked(self) -> bool:
        return self.settings.is_on(socket.IPPROTO_UDP, UDP_CORK)

    def _gather(self, payload: bytes, destination: Address, instructions: Instructions) -> None:
        if self._cork is None:
            self._cork = Cork(destination, instructions)
            self.forget_routes()
        self._cork.add(payload, _LARGEST[is_ipv6(self._cork.destination.host)])

    def _uncork(self) -> None:
        cork, self._cork = self._cork, None
        if cork is not None:
            self._send(bytes(cork.payload), cork.destination, cork.instructions)

    def _send(self, payload: bytes, destination: Address, instructions: Instructions) -> Route:
        if len(payload) > _LARGEST[is_ipv6(destination.host)]:
            raise refusal(errno.EMSGSIZE)
        route = find_route(self.machine, self.settings, self.local, destination, instructions, self._bind_anywhere)
        segment = instructions.segment or self.settings[_SEGMENT]
        for piece in split(payload, segment, route.largest_segment):
            self._dispatch(piece, route)
        return route

    def _dispatch(self, payload: bytes, route: Route) -> None:
        machine = self.machine
        fits = len(payload) <= route.largest
        packet = Packet(
            machine.next_number(),
            route.source,
            route.destination,
            payload,
            machine.name,
            machine.time(),
            route.hop_limit,
            route.traffic_class,
            route.mtu,
            dont_fragment=fits and route.discovery != DISCOVER_DONT,
        )
        if route.leaves and fits:
            machine.transmit(packet)
            return
        if not fits and route.discovery in (DISCOVER_DO, DISCOVER_PROBE):
            self._errors.note(QueuedError(errno.EMSGSIZE, packet, "", 0, 0, route.mtu), due=False)
            self.notify()
            raise refusal(errno.EMSGSIZE)
        machine.send(packet, route.index, back=route.loops)

    # Receiving

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive a datagram (recv(2))."""
        return self.recvmsg(size, 0, flags)[0]

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receive a datagram and its source address."""
        if flags or self._errors.due or self.machine.paused or self.closed:
            data, _, _, source = self.recvmsg(size, 0, flags)
            return data, source
        packet = self._first()[0]
        self._drop_first()
        return packet.payload[:size], sockaddr_of(self.family, *packet.source)

    def _first(self) -> tuple[Packet, int, int, float, int]:
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return self._queue[0]

    def _drop_first(self) -> None:
        charge = self._queue.popleft()[1]
        self.settings.buffer.give_back(charge, empty=not self._queue)
        if not self._queue:
            self.notify()

    def recvmsg(self, size: int, space: int = 0, flags: int = 0) -> tuple[bytes, list[ControlMessage], int, Any]:
        """Receive a datagram with its control messages (recvmsg(2)); the error queue with MSG_ERRQUEUE."""
        self._check_runs()
        if flags & MSG_ERRQUEUE:
            return self._read_error(size)
        if self._errors.due:
            raise refusal(self._pop_error())
        packet, _, index, at, drops = self._first()
        if not flags & _PEEK:
            self._drop_first()
        ancillary: list[ControlMessage] = []
        result = _TRUNCATED if len(packet.payload) > size else 0
        own = packet.destination.host
        if not self.machine.owns(own):
            own = self.machine.own_address(packet.source.host)
        elif index == LOOPBACK_INDEX:
            # A datagram to an own address arrives on the loopback, but is reported for the interface with that address.
            index = self.machine.index_of(own)
        nanoseconds = self.machine.nanoseconds(at)
        for message in describe(packet, self.settings, self.family, index, own, nanoseconds, drops):
            needed = socket.CMSG_SPACE(len(message[2]))
            if needed > space:
                result |= _ANCILLARY_TRUNCATED
                break
            space -= needed
            ancillary.append(message)
        return packet.payload[:size], ancillary, result, sockaddr_of(self.family, *packet.source)

    def _read_error(self, size: int) -> tuple[bytes, list[ControlMessage], int, Any]:
        error = self._errors.read()
        self.notify()
        destination = sockaddr_of(self.family, *error.packet.destination)
        return error.packet.payload[:size], [describe_error(error, self.family)], MSG_ERRQUEUE, destination

    def _pop_error(self) -> int:
        number, self._errors.due = self._errors.due, 0
        if number:
            self.notify()
        return number

    # Input from the machine

    def accepts(self, packet: Packet) -> bool:
        """Whether a packet to its port, unicast or not, matches this socket."""
        host = packet.destination.host
        if is_ipv6(host):
            if self.family == socket.AF_INET:
                return False
        elif self.settings.is_on(_IPV6, socket.IPV6_V6ONLY):
            return False
        if self.local not in (self.wildcard, host):
            return False
        peer = self.peer
        return peer is None or peer == packet.source or (not peer.port and peer.host == packet.source.host)

    def is_member(self, packet: Packet, index: int) -> bool:
        """Whether it accepts datagrams to a group on an interface."""
        memberships = self.settings.memberships
        default = self.settings.is_on(*MULTICAST_ALL[packet.is_ipv6])
        return memberships.accepts(packet.destination.host, index, packet.source.host, default=default)

    def accepts_device(self, index: int) -> bool:
        """Whether it accepts datagrams that arrive on an interface."""
        return self.settings.device in ("", INTERFACES[index])

    def deliver(self, packet: Packet, index: int) -> bool:
        """Queue a datagram; return whether the receive buffer had space."""
        charge = self.settings.buffer.admit(len(packet.payload))
        if not charge:
            return False
        self._queue.append((packet, charge, index, self.machine.time(), self.settings.buffer.drops))
        if len(self._queue) == 1:
            self.notify()
        return True

    def sent(self, packet: Packet) -> bool:
        """Whether this socket sent a packet that left its port."""
        if self.local not in (self.wildcard, packet.source.host):
            return False
        return self.peer is None or self.peer == packet.destination

    def received_icmp(self, message: Packet, report: Report) -> None:
        """Process an ICMP message about a datagram of this socket."""
        self._errors.received_icmp(message, report, connected=self.peer is not None)
        self.notify()
