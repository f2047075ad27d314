"""One datagram descriptor: its addresses, metadata, error queue and counters, without waiting.

Every call returns at once; one that would have to wait raises ``BlockingIOError``. Systems are distinguished
here and in the modules that this one imports, and nowhere above. An option that the program did not ask for may be
refused; the socket then works without it.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final

import attrs

from .._codecs.ancillary import (
    IP_PKTINFO,
    IP_RECVTOS,
    IP_RECVTTL,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    SO_PASSCRED,
    SO_TIMESTAMPNS,
    UDP_GRO,
    ControlMessage,
    encode_packet_info,
)
from .._codecs.error_queue import IP_RECVERR, IPV6_RECVERR, ErrorRecord, decode_error
from .._codecs.families import UDP6, Family, SocketAddress
from .._values.addresses import Address, is_ipv4_group, unmapped
from .._values.datagrams import PacketInfo
from .._values.errors import with_reason
from .capabilities import (
    IP_MULTICAST_ALL,
    IPV6_MULTICAST_ALL,
    NOT_AVAILABLE,
    SO_MEMINFO,
    Capabilities,
    capabilities_of,
)
from .hot_calls import HotCalls
from .interfaces import find_interface
from .memberships import Memberships
from .options import Place, Target, multicast_source, read_option, write_option
from .passed_sockets import Passed
from .recvmmsg import ANCILLARY_SIZE
from .system_socket import MSG_ERRQUEUE
from .unix_paths import BoundPath, bound_path, why_not_bound

_BIND_TRIES: Final = 16
_CREDENTIALS: Final = (socket.SOL_SOCKET, SO_PASSCRED)
_MOST_ERRORS: Final = 16
"""How many records of the error queue one call reads at most: to report one costs 50 us."""
SO_MEMINFO_DROPS: Final = 8
"""The position of the drop counter in what SO_MEMINFO returns (SK_MEMINFO_DROPS)."""


class Descriptor:
    """A datagram socket as the kernel offers it."""

    __slots__ = (
        "_bound_path",
        "_closed",
        "_drops",
        "_drops_before",
        "_may_coalesce",
        "_socket",
        "calls",
        "can_segment",
        "dual_stack",
        "family",
        "has_error_queue",
        "memberships",
        "options",
        "shares_port",
    )

    def __init__(self, sock: Any, family: Family, calls: HotCalls, *, dual_stack: bool = False) -> None:
        self.family: Family = family
        self.dual_stack: bool = dual_stack
        self.options: Target = Target(sock, family, dual_stack)
        self.memberships: Memberships = Memberships(sock)
        self.calls: HotCalls = calls
        self.can_segment: bool = False
        self.has_error_queue: bool = False
        self.shares_port: bool = False
        self._socket = sock
        self._closed = False
        self._drops: int | None = None
        self._drops_before: int = 0
        self._may_coalesce: bool = False
        self._bound_path: BoundPath | None = None

    # Configuration

    def set_up_own(self, *, ipv6_only: bool) -> None:
        """Configure a descriptor that was just created and that no other process shares."""
        if self.family is UDP6:
            # Set both values explicitly, since the system's default varies.
            with suppress(*() if ipv6_only else (OSError,)):
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        if self._can.multicast_all and self.family.is_internet:
            for place in self.options.places(
                (socket.IPPROTO_IP, IP_MULTICAST_ALL), (socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL)
            ):
                # IPv6 has it since Linux 4.20 only.
                with suppress(OSError):
                    self._socket.setsockopt(*place, 0)

    def set_up_adopted(self) -> None:
        """Continue with a descriptor as it is, which other processes may share."""
        if self._can.receive_offload and self.family.is_internet:
            # Where a former owner has enabled it, messages must be split; it is never enabled here.
            with suppress(OSError):
                self.calls.coalescing = bool(self._socket.getsockopt(socket.IPPROTO_UDP, UDP_GRO))
        if self._can.error_queue and self.family.is_internet:
            # An undrained error queue would wake a receiving task again and again.
            for place in self.options.places((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                with suppress(OSError):
                    self.has_error_queue |= bool(self._socket.getsockopt(*place))
        self._drops_before = self.drops() or 0

    def take_passed(self, sockaddr: SocketAddress, *, ipv6_only: bool | None, exclusive: bool) -> bool:
        """Become the socket for ``sockaddr`` that was passed to this process, if there is one; return whether."""
        take = getattr(self._socket, "take_passed", None)
        if take is None or not take(sockaddr, ipv6_only=ipv6_only, exclusive=exclusive):
            return False
        self._may_coalesce = False
        self.dual_stack = self.options.dual_stack = getattr(self.passed, "ipv6_only", None) is False
        self.memberships.keeps_former = True
        self.set_up_adopted()
        return True

    @property
    def passed(self) -> Passed | None:
        """The socket that was passed to this process and that this one has taken."""
        return getattr(self._socket, "passed", None)

    def enable_offload(self, *, receive: bool) -> None:
        """Send segments where the system can and, with ``receive``, allow :meth:`coalesce`."""
        self.can_segment = self._can.send_offload and self.family.is_internet
        self._may_coalesce = receive and self._can.receive_offload and self.family.is_internet

    def coalesce(self) -> None:
        """Enable receive offload, if allowed: the kernel coalesces the datagrams of one source from now on.

        Not from the beginning, because it slows down datagrams that are received one at a time and makes a kernel drop
        a whole batch. It is never disabled, because batches may be queued.
        """
        if self._may_coalesce:
            self._may_coalesce = False
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
                self.calls.coalescing = True

    def enable_packet_info(self) -> None:
        """Make the kernel report metadata with each datagram; what it cannot report stays None."""
        self.calls.with_info = True
        if not self._can.packet_info:
            return
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if not self.family.is_internet:
            with suppress(OSError):
                self._socket.setsockopt(*_CREDENTIALS, 1)
            return
        for ipv4, ipv6 in (
            (IP_PKTINFO, IPV6_RECVPKTINFO),
            (IP_RECVTOS, IPV6_RECVTCLASS),
            (IP_RECVTTL, IPV6_RECVHOPLIMIT),
        ):
            with suppress(OSError):
                self._enable(ipv4, ipv6)

    def enable_local_address(self) -> bool:
        """Make the kernel report the local address and the interface of each datagram, unless it does so already.

        Returns:
          Whether it does. If not, nothing has changed.
        """
        if not self._can.packet_info or not self.family.is_internet:
            return False
        enabled: list[Place] = []
        try:
            for place in self._packet_info_places:
                if not self._socket.getsockopt(*place):
                    self._socket.setsockopt(*place, 1)
                    enabled.append(place)
        except OSError:
            for place in enabled:
                with suppress(OSError):
                    self._socket.setsockopt(*place, 0)
            return False
        self.calls.with_local_address = True
        return True

    def enable_error_queue(self) -> None:
        """Make the kernel queue ICMP errors; ENOTSUP where it cannot."""
        not_supported = OSError(errno.ENOTSUP, "this system has no queue of ICMP errors (IP_RECVERR)")
        if not self._can.error_queue or not self.family.is_internet:
            raise not_supported
        try:
            self._enable(IP_RECVERR, IPV6_RECVERR)
        except OSError as error:
            raise not_supported from error
        self.has_error_queue = True

    def enable_reuse_port(self) -> None:
        """Share the port that will be bound (SO_REUSEPORT); ``shares_port`` stays False where the system cannot."""
        if not hasattr(socket, "SO_REUSEPORT"):
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            if error.errno not in NOT_AVAILABLE:
                raise
        else:
            self.shares_port = True

    @property
    def _packet_info_places(self) -> tuple[Place, ...]:
        return self.options.places((socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, IPV6_RECVPKTINFO))

    def _enable(self, ipv4: int, ipv6: int) -> None:
        for place in self.options.places((socket.IPPROTO_IP, ipv4), (socket.IPPROTO_IPV6, ipv6)):
            self._socket.setsockopt(*place, 1)

    @property
    def _can(self) -> Capabilities:
        return capabilities_of(self._socket)

    def setsockopt(self, *arguments: Any) -> None:
        """Set any option (setsockopt(2))."""
        self._socket.setsockopt(*arguments)

    def getsockopt(self, *arguments: int) -> Any:
        """Read any option (getsockopt(2))."""
        return self._socket.getsockopt(*arguments)

    def fileno(self) -> int:
        """Return the number of the descriptor, -1 once closed."""
        number: int = self._socket.fileno()
        return number

    # Addresses

    def bind(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind to ``address``, to an automatically chosen port if that is 0."""
        if not self.family.is_internet:
            with self.owning_path(address):
                # Without a name, Linux chooses an abstract one (unix(7)).
                self._socket.bind(sockaddr)
            return
        if address.port or not self._can.disconnect:
            self._socket.bind(sockaddr)
            return
        # Linux frees an automatically chosen port when the socket is disconnected, but keeps one that was named. So the
        # port is chosen, freed and named; if another socket takes it in between, the next one is tried.
        for remaining in reversed(range(_BIND_TRIES)):  # pragma: no branch -- the last try returns or raises
            self._socket.bind(sockaddr)
            host, port = self._socket.getsockname()[:2]
            with suppress(OSError):
                # Where this is refused, disconnecting later is refused too.
                self.disconnect()
            if self._socket.getsockname()[1]:
                # BSDs and macOS keep the port, and bind() again is EINVAL.
                return
            try:
                self._socket.bind((host, port, *sockaddr[2:]))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not remaining:
                    raise
            else:
                return

    @contextmanager
    def owning_path(self, address: Address) -> Generator[None]:
        """Remove the file that the block creates by binding to ``address`` when the socket is closed."""
        if self.family.is_internet:
            yield
            return
        path = address.host
        try:
            yield
        except OSError as error:
            raise with_reason(error, why_not_bound(error.errno, path)) from None
        if path and not path.startswith("\0"):
            self._bound_path = bound_path(path)
            if self._closed and self._bound_path is not None:
                # The socket was closed while a custom factory's bind was awaited.
                self._bound_path.remove()

    def connect(self, sockaddr: SocketAddress) -> None:
        """Fix the peer."""
        self._socket.connect(sockaddr)

    def probe(self, sockaddr: SocketAddress) -> None:
        """Raise the error that connecting this unbound socket would raise, and leave it unbound."""
        if self.family.is_internet and hasattr(self._socket, "scratch"):
            # Connecting this one, even if it is undone, would bind it where the system keeps the port, and on Linux
            # make an IPv6 socket deaf to other hosts.
            with self._socket.scratch() as probe:
                probe.connect(sockaddr)
            return
        if not self._can.disconnect:
            return
        # With SO_PASSCRED, connecting autobinds a "unix" socket, and its name stays (unix(7)).
        named = not self.family.is_internet and self._can.packet_info and self.getsockopt(*_CREDENTIALS)
        if named:
            self.setsockopt(*_CREDENTIALS, 0)
        try:
            self._socket.connect(sockaddr)
        finally:
            self.disconnect()
            if named:
                self.setsockopt(*_CREDENTIALS, 1)

    def disconnect(self) -> None:
        """Dissolve the association with the peer; the port may be lost, the device is kept."""
        device = None
        if self.family.is_internet:
            with suppress(OSError):
                device = read_option(self.options, "device")
        self.calls.disconnect()
        if device is not None:
            # Linux has cleared SO_BINDTODEVICE; an interface that has been removed cannot be set again.
            with suppress(OSError):
                write_option(self.options, "device", device)

    @property
    def must_renew(self) -> bool:
        """Whether disconnecting has to be followed by :meth:`renew`."""
        return bool(getattr(self._socket, "must_renew", False))

    def renew(self) -> None:
        """Exchange a disconnected socket that the kernel leaves deaf for a new one, without losing a datagram.

        Where the kernel refuses that (a port below 1024 after a change of user), the old one stays.
        """
        with suppress(OSError):
            former = self._socket.renew()
            self.calls.take_over(former)
            memory = former.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36) if self._can.drop_counter else bytes(36)
            drops = struct.unpack("=9I", memory)[SO_MEMINFO_DROPS]
            self._drops_before = (self._drops_before - drops) % 2**32
            self.memberships.restore()

    def keep_port(self, address: Address) -> None:
        """Bind to the port of ``address`` again if disconnecting has freed it."""
        if not self.family.is_internet:
            return
        host, port, *rest = self._socket.getsockname()
        if not port:
            self._socket.bind((host, address.port, *rest))

    def filter_own(self) -> int:
        """Leave out datagrams whose source is this socket's own address and port; return the port, 0 if not possible.

        On a socket that shares its port with no other and has not sent to its own address, such a source is forged.
        """
        is_local = getattr(self._socket, "is_local", None)
        if not self.family.is_internet or is_local is None:
            return 0
        host, port = self._socket.getsockname()[:2]
        if unmapped(host) in ("0.0.0.0", "::"):
            self.calls.filter_own(port, is_local)
        else:
            own = self.family.address(self._socket.getsockname()).host
            self.calls.filter_own(port, own.__eq__)
        return int(port)

    def accept_own(self) -> None:
        """Hand out datagrams from this socket's own address from now on: it has sent to that."""
        self.calls.filter_own(0, None)

    def reaches_itself(self, address: Address) -> bool:
        """Whether this socket may receive its own datagram to ``address``, which has its port."""
        host = ipaddress.ip_address(unmapped(address.host.partition("%")[0]))
        return (
            host.is_multicast
            or host.is_unspecified
            or bool(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST))
            or bool(self._socket.is_local(address.host))
        )

    def local_address(self) -> Address:
        """Return the local address; not cached, since connecting changes it."""
        return self.family.address(self._socket.getsockname())

    def remote_address(self) -> Address:
        """Return the address of the peer."""
        return self.family.address(self._socket.getpeername())

    @property
    def is_bound(self) -> bool:
        """Whether it has a local address."""
        return self.family.is_bound(self._socket.getsockname())

    # Sending, where it is rare

    def packet_info(self, info: PacketInfo, host: Any) -> list[ControlMessage]:
        """Return the control messages that send a datagram to ``host`` with ``info``; ENOTSUP where there are none."""
        if not self.family.is_internet or not self._can.packet_info:
            limited = "the system, or this custom socket factory, does not support it"
            raise OSError(errno.ENOTSUP, f"a {self.family.type} socket cannot send a PacketInfo: {limited}")
        if info.interface is not None and info.local_address is None and is_ipv4_group(host):
            with suppress(OSError):
                info = attrs.evolve(info, local_address=multicast_source(find_interface(info.interface)))
        byte = 0
        if (info.ecn is None) != (info.dscp is None):
            byte = read_option(self.options, "dscp") << 2 | read_option(self.options, "ecn")
        return encode_packet_info(info, host, on_ipv6=self.family is UDP6, traffic_class=byte)

    def path_mtu(self, sockaddr: SocketAddress | None) -> int | None:
        """Return the largest packet that the path to ``sockaddr``, or to the peer, accepts, in bytes; ``None`` where
        the system does not report it."""
        if not self._can.path_mtu or not self.family.is_internet:
            return None
        try:
            mtu: int = self._socket.path_mtu(sockaddr)
        except OSError as error:
            if error.errno in NOT_AVAILABLE:
                return None
            raise
        return mtu

    # Errors and counters

    def read_errors(self) -> list[tuple[Address, ErrorRecord]]:
        """Take records from the error queue; return those about delivery, with the destination of the datagram."""
        found: list[tuple[Address, ErrorRecord]] = []
        # An empty queue is EAGAIN; after any other error the queue can be read at the next call.
        with suppress(OSError):
            for _ in range(_MOST_ERRORS):
                _, control, _, destination = self._socket.recvmsg(0, ANCILLARY_SIZE, MSG_ERRQUEUE)
                record = decode_error(control)
                # Records of other kinds, such as transmit timestamps, have no destination.
                if record is not None and destination:
                    found.append((self.family.address(destination), record))
        return found

    def take_error(self) -> int:
        """Return, and clear, the errno that the next call would raise for an earlier datagram; 0 without any."""
        number: int = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return number

    def watch_errors(self) -> select.epoll:
        """Return a descriptor that is readable while the error queue is not empty."""
        watch: select.epoll = self._socket.watch_errors()
        return watch

    @property
    def lacks_broadcast(self) -> bool:
        """Whether the kernel refuses datagrams to broadcast addresses."""
        with suppress(OSError):
            return self.family.is_internet and not read_option(self.options, "broadcast")
        return False  # pragma: no cover -- the descriptor was closed elsewhere

    @property
    def is_shut_down(self) -> bool:
        """Whether another owner of the descriptor has ended receiving by shutdown(2)."""
        if not hasattr(select, "POLLRDHUP"):
            return False  # pragma: no cover -- Linux has it
        poll = select.poll()
        poll.register(self.fileno(), select.POLLRDHUP)
        return any(event & (select.POLLRDHUP | select.POLLNVAL) for _, event in poll.poll(0))

    def drops(self) -> int | None:
        """Return how many datagrams the kernel dropped, ``None`` where it does not report that."""
        if self._closed or not self._can.drop_counter:
            return self._drops
        try:
            memory = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
        except OSError:
            return None
        words: tuple[int, ...] = struct.unpack("=9I", memory)
        # The drops before an adoption do not count. The kernel's counter has 32 bits.
        return (words[SO_MEMINFO_DROPS] - self._drops_before) % 2**32

    @property
    def drops_are_datagrams(self) -> bool:
        """Whether :meth:`drops` counts datagrams, not whole batches."""
        return self._can.drop_counter and not self.calls.coalescing

    def close(self) -> None:
        """Close the descriptor and remove its path; :meth:`drops` keeps its last value."""
        self._drops = self.drops()
        self._closed = True
        self.calls.close()
        try:
            self._socket.close()
        finally:
            if self._bound_path is not None:
                self._bound_path.remove()
