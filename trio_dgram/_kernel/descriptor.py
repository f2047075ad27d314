"""One datagram descriptor: its name and options, and sending, without waiting.

Every call returns at once; one that would have to wait raises ``BlockingIOError``. What differs by platform
is decided here and in the modules this one imports, and nowhere above.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

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
    UDP_SEGMENT,
    ControlMessage,
    encode_packet_info,
)
from .._codecs.error_queue import IP_RECVERR, IPV6_RECVERR, ErrorRecord, decode_error
from .._codecs.families import UDP6, Family, SocketAddress
from .._values.addresses import Address
from .._values.datagrams import PacketInfo
from .._values.errors import with_reason
from . import system_socket as _system
from .awaited import AwaitedSocket, KernelSocket, unsupported
from .memberships import Memberships
from .options import Target, read_option, write_option
from .receiver import ANCILLARY_SPACE, Receiver
from .system_socket import MSG_ERRQUEUE, Capabilities, capabilities_of
from .unix_paths import MadePath, made_path, why_not_bound

_BIND_TRIES: Final = 16
_IPPROTO_UDP: Final = socket.IPPROTO_UDP
_pack_size: Final = struct.Struct("=H").pack
_CREDENTIALS: Final = (socket.SOL_SOCKET, SO_PASSCRED)
_MOST_ERRORS: Final = 256
"""How many records of the error queue are read at a time."""


class Kernel:
    """A datagram socket as the kernel offers it, and the counts that are kept where datagrams come in."""

    __slots__ = (
        "_closed",
        "_drops",
        "_drops_before",
        "_made_path",
        "_socket",
        "awaited",
        "can_segment",
        "dual_stack",
        "family",
        "memberships",
        "options",
        "receiver",
        "send",
        "sendto",
        "tells_errors",
        "waits",
    )

    def __init__(self, sock: KernelSocket, family: Family, *, dual_stack: bool = False) -> None:
        self.family: Family = family
        self.dual_stack: bool = dual_stack
        self.options: Target = Target(sock, family, dual_stack)
        self.memberships: Memberships = Memberships(sock)
        self.receiver: Receiver = Receiver(sock, family)
        self.send: Callable[[bytes], int] = sock.send
        self.sendto: Callable[[bytes, SocketAddress], int] = sock.sendto
        self.can_segment: bool = False
        self.tells_errors: bool = False
        """Whether there is an error queue to be read."""
        self.awaited: Any = sock.awaited if isinstance(sock, AwaitedSocket) else None
        """Trio's own kind of socket, where a custom factory offers nothing else: its calls are awaited."""
        self.waits: Any = sock if hasattr(sock, "wait_readable") else None
        """What waits until the socket can be read or written, where a custom factory's has no need of a descriptor."""
        self._socket = sock
        self._closed = False
        self._drops: int | None = None
        self._drops_before: int = 0
        self._made_path: MadePath | None = None

    def make_own(self, *, ipv6_only: bool) -> None:
        """Set up a descriptor that was just made, and that nobody shares."""
        # A custom factory's sockets need not have what nobody asked for.
        unasked = suppress(OSError) if self.awaited else nullcontext()
        if self.family is UDP6:
            with nullcontext() if ipv6_only else unasked:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        if self._can.group_isolation and self.family.is_internet:
            for place in self.options.places(
                (socket.IPPROTO_IP, _system.IP_MULTICAST_ALL), (socket.IPPROTO_IPV6, _system.IPV6_MULTICAST_ALL)
            ):
                with unasked:
                    self._socket.setsockopt(*place, 0)
        self.receiver.may_coalesce = self.can_segment

    def adopt(self) -> None:
        """Go on with a descriptor as it is, which others may share."""
        # Whoever had it may have switched this on, and then it is the only way to read it.
        if self._can.offload and self.family.is_internet:
            self.receiver.coalescing = bool(self._socket.getsockopt(socket.IPPROTO_UDP, UDP_GRO))
        if self._can.error_queue and self.family.is_internet:
            # Likewise: what is in the error queue would wake up a reader again and again.
            places = self.options.places((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
            self.tells_errors = any(self._socket.getsockopt(*place) for place in places)
        self._drops_before = self.drops() or 0

    def offload(self) -> None:
        """Use offload for what it can be used for."""
        self.can_segment = self._can.offload and self.family.is_internet and not self.awaited

    def inform(self) -> None:
        """Let the kernel tell what it knows about each datagram."""
        if self.awaited:
            raise unsupported("cannot tell of their datagrams")
        self.receiver.informs = True
        if not self._can.packet_info:
            return
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if not self.family.is_internet:
            self._socket.setsockopt(*_CREDENTIALS, 1)
            return
        for ipv4, ipv6 in (
            (IP_PKTINFO, IPV6_RECVPKTINFO),
            (IP_RECVTOS, IPV6_RECVTCLASS),
            (IP_RECVTTL, IPV6_RECVHOPLIMIT),
        ):
            self._switch_on(ipv4, ipv6)

    def tell_errors(self) -> None:
        """Let the kernel keep what ICMP says in the error queue."""
        if self.awaited:
            raise unsupported("have no queue of ICMP errors")
        if not self._can.error_queue:
            raise OSError(errno.ENOTSUP, "there is no queue of ICMP errors here")
        self._switch_on(IP_RECVERR, IPV6_RECVERR)
        self.tells_errors = True

    def _switch_on(self, ipv4: int, ipv6: int) -> None:
        for place in self.options.places((socket.IPPROTO_IP, ipv4), (socket.IPPROTO_IPV6, ipv6)):
            self._socket.setsockopt(*place, 1)

    @property
    def _can(self) -> Capabilities:
        return capabilities_of(self._socket)

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once closed."""
        return self._socket.fileno()

    def bind(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind to ``address``, on a port of the kernel's choice if that is 0."""
        if not self.family.is_internet:
            with self.taking_path(address):
                # Without a name, Linux finds an abstract one (unix(7)).
                self._socket.bind(sockaddr)
            return
        if address.port or not self._can.dissolve:
            self._socket.bind(sockaddr)
            return
        # Disconnecting frees a port that the kernel chose and keeps one that was named. So let it choose, let
        # the port go and name it; should somebody have taken it in between, start again.
        tries = 0
        while True:
            self._socket.bind(sockaddr)
            port = self._socket.getsockname()[1]
            try:
                self.disconnect()
            except OSError:
                # Where that is refused, it will not free the port later either.
                return
            try:
                self._socket.bind((sockaddr[0], port, *sockaddr[2:]))
            except OSError as error:
                tries += 1
                if error.errno != errno.EADDRINUSE or tries == _BIND_TRIES:
                    raise
            else:
                return

    @contextmanager
    def taking_path(self, address: Address) -> Generator[None]:
        """Let the block bind to ``address``; if that makes a file, it goes when the socket is closed."""
        if self.family.is_internet:
            yield
            return
        path = address.host
        try:
            yield
        except OSError as error:
            raise with_reason(error, why_not_bound(error.errno, path)) from None
        if path and not path.startswith("\0"):
            self._made_path = made_path(path)
            if self._closed and self._made_path is not None:
                # While it was awaited.
                self._made_path.remove()

    def connect(self, sockaddr: SocketAddress) -> None:
        """Fix the peer."""
        self._socket.connect(sockaddr)

    def probe(self, sockaddr: SocketAddress) -> None:
        """Raise what connecting this unbound socket would, and leave it unbound."""
        if self.awaited or not self._can.dissolve:
            return
        # Where credentials are asked for, connecting a "unix" socket gives it a name that stays (unix(7)).
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
        """Let the peer go. A port that was named stays; one that the kernel chose goes too."""
        if self.awaited or not self.family.is_internet:
            self._socket.disconnect()
            return
        # It would also undo SO_BINDTODEVICE.
        device = read_option(self.options, "device")
        self._socket.disconnect()
        if device is not None:
            write_option(self.options, "device", device)

    def rebind(self, address: Address) -> None:
        """Take the port of ``address`` again, if it went with the peer since the kernel had chosen it."""
        if not self.family.is_internet:
            return
        host, port, *rest = self._socket.getsockname()
        if not port:
            self._socket.bind((host, address.port, *rest))

    def local_address(self) -> Address:
        """Return the address that it is bound to; asked anew each time, since connecting changes it."""
        return self.family.address(self._socket.getsockname())

    def remote_address(self) -> Address:
        """Return the peer's address."""
        return self.family.address(self._socket.getpeername())

    @property
    def is_bound(self) -> bool:
        """Whether it has a local address."""
        return self.family.is_bound(self._socket.getsockname())

    def packet_info(self, info: PacketInfo, host: Any) -> list[ControlMessage]:
        """Return how to tell the kernel to send a datagram to ``host`` as ``info`` says."""
        if self.awaited:
            raise unsupported("cannot send packet info")
        if not self.family.is_internet or not self._can.packet_info:
            raise OSError(errno.ENOTSUP, f"a {self.family.type} socket cannot send a PacketInfo here")
        byte = 0
        if (info.ecn is None) != (info.dscp is None):
            byte = read_option(self.options, "dscp") << 2 | read_option(self.options, "ecn")
        return encode_packet_info(info, host, on_ipv6=self.family is UDP6, traffic_class=byte)

    def send_message(self, payload: bytes, ancillary: Sequence[ControlMessage], sockaddr: SocketAddress | None) -> None:
        """Send one datagram to ``sockaddr``, or the peer, with something beside the payload."""
        self._socket.sendmsg([payload], ancillary, 0, sockaddr)

    def send_segments(
        self, payload: bytes, size: int, ancillary: Sequence[ControlMessage], sockaddr: SocketAddress | None
    ) -> None:
        """Send datagrams of ``size`` bytes each, the last perhaps shorter, to ``sockaddr`` or the peer."""
        segment = (_IPPROTO_UDP, UDP_SEGMENT, _pack_size(size))
        self._socket.sendmsg([payload], [segment, *ancillary], 0, sockaddr)

    def read_errors(self) -> list[tuple[Address, ErrorRecord]]:
        """Empty the error queue; return what it says about delivery, with the destination of the datagram."""
        found: list[tuple[Address, ErrorRecord]] = []
        # What cannot be read now keeps the descriptor readable.
        with suppress(OSError):
            for _ in range(_MOST_ERRORS):
                _, ancillary, _, destination = self._socket.recvmsg(0, ANCILLARY_SPACE, MSG_ERRQUEUE)
                record = decode_error(ancillary)
                # Records of other kinds, such as of when something was sent, have no destination.
                if record is not None and destination:
                    found.append((self.family.address(destination), record))
        return found

    def take_error(self) -> int:
        """Return the errno that the next call would fail with on account of an earlier datagram, 0 if there is none."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def watch_errors(self) -> select.epoll:
        """Return a descriptor that can be read while there is something in the error queue."""
        return self._socket.watch_errors()

    def path_mtu(self, sockaddr: SocketAddress | None) -> int | None:
        """Return the largest packet that the path to ``sockaddr``, or to the peer, takes, in bytes; ``None`` where
        that cannot be told."""
        if not self._can.path_mtu or self.awaited or not self.family.is_internet:
            return None
        return self._socket.path_mtu(sockaddr)

    def drops(self) -> int | None:
        """Return how many datagrams the kernel dropped for want of room, ``None`` where it cannot tell."""
        if self._closed or not self._can.drop_counter:
            return self._drops
        try:
            memory = self._socket.getsockopt(socket.SOL_SOCKET, _system.SO_MEMINFO, 36)
        except OSError:
            # A custom factory's may not tell.
            return None
        words: tuple[int, ...] = struct.unpack("=9I", memory)
        # What an adopted socket dropped before is not ours to count; the kernel's counter has 32 bits.
        return (words[_system.SO_MEMINFO_DROPS] - self._drops_before) % 2**32

    @property
    def drops_are_datagrams(self) -> bool:
        """Whether what :meth:`drops` counts are datagrams, not whole batches of them."""
        return self._can.drop_counter and not self.receiver.coalescing

    def setsockopt(self, *arguments: Any) -> None:
        """Set any option (Linux man page setsockopt(2))."""
        self._socket.setsockopt(*arguments)

    def getsockopt(self, *arguments: int) -> int | bytes:
        """Read any option (Linux man page getsockopt(2))."""
        return self._socket.getsockopt(*arguments)

    def close(self) -> None:
        """Give the descriptor back; what :meth:`drops` says stays."""
        self._drops = self.drops()
        self._closed = True
        self._socket.close()
        if self._made_path is not None:
            self._made_path.remove()
