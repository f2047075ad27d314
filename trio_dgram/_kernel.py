"""One datagram descriptor: batches in, datagrams out, without waiting.

Every call returns at once; one that would have to wait raises ``BlockingIOError``. What differs by platform
is decided here and in the modules this one imports, and nowhere above.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from . import _system
from ._addresses import Address, ReceivedAddress, new_tuple
from ._ancillary import UDP_GRO, UDP_SEGMENT, segment_size
from ._datagrams import Datagram
from ._families import UDP4, UDP6, Family, SocketAddress
from ._memberships import Memberships
from ._options import Target, read_option, write_option
from ._system import SystemSocket

_LARGEST: Final = 65536
"""More than the payload of any UDP datagram, in bytes."""
_ANCILLARY_SPACE: Final = 64
"""Room for the segment size, in bytes."""
_BIND_TRIES: Final = 16


class Kernel:
    """A datagram socket as the kernel offers it, and the counts that are kept where datagrams come in."""

    __slots__ = (
        "_coalescing",
        "_drops",
        "_may_coalesce",
        "_recvfrom",
        "_socket",
        "can_segment",
        "coalesced_datagrams",
        "coalesced_receives",
        "dual_stack",
        "family",
        "filtered",
        "memberships",
        "options",
        "received",
        "send",
        "sendto",
        "truncated",
    )

    def __init__(self, sock: SystemSocket, family: Family, *, ipv6_only: bool, offload: bool) -> None:
        self.family: Family = family
        self.dual_stack: bool = family is UDP6 and not ipv6_only
        self.options: Target = Target(sock, family, self.dual_stack)
        self.memberships: Memberships = Memberships(sock)
        self.received: int = 0
        self.filtered: int = 0
        self.truncated: int = 0
        self.coalesced_receives: int = 0
        self.coalesced_datagrams: int = 0
        self.send: Callable[[bytes], int] = sock.send
        self.sendto: Callable[[bytes, SocketAddress], int] = sock.sendto
        self._recvfrom = sock.recvfrom
        self._socket = sock
        self.can_segment: bool = offload and _system.capabilities.offload
        self._may_coalesce = self.can_segment
        self._coalescing = False
        self._drops: int | None = None
        if family is UDP6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        if _system.capabilities.group_isolation:
            for place in self.options.places(
                (socket.IPPROTO_IP, _system.IP_MULTICAST_ALL), (socket.IPPROTO_IPV6, _system.IPV6_MULTICAST_ALL)
            ):
                sock.setsockopt(*place, 0)

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once closed."""
        return self._socket.fileno()

    def bind(self, sockaddr: SocketAddress) -> None:
        """Bind to ``sockaddr``, on a port of the kernel's choice if that is 0."""
        if sockaddr[1] or not _system.capabilities.dissolve:
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

    def connect(self, sockaddr: SocketAddress) -> None:
        """Fix the peer."""
        self._socket.connect(sockaddr)

    def probe(self, sockaddr: SocketAddress) -> None:
        """Raise what connecting this unbound socket would, and leave it unbound."""
        if _system.capabilities.dissolve:
            try:
                self._socket.connect(sockaddr)
            finally:
                self.disconnect()

    def disconnect(self) -> None:
        """Let the peer go. A port that was named stays; one that the kernel chose goes too."""
        # It would also undo SO_BINDTODEVICE.
        device = read_option(self.options, "device")
        self._socket.disconnect()
        if device is not None:
            write_option(self.options, "device", device)

    def local_address(self) -> Address:
        """Return the address that it is bound to; asked anew each time, since connecting changes it."""
        return self.family.address(self._socket.getsockname())

    def remote_address(self) -> Address:
        """Return the peer's address."""
        return self.family.address(self._socket.getpeername())

    def receive(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Append what has come in to ``into``, in at most ``limit`` system calls.

        It returns when it has made them, and raises what the kernel says when it could not: ``BlockingIOError``
        where nothing is left. What came before that has been appended.
        """
        if self._coalescing:
            self._receive_coalesced(into, limit)
            return
        recvfrom = self._recvfrom
        append = into.append
        is_udp4 = self.family is UDP4
        before = len(into)
        try:
            for _ in range(limit):
                data, source = recvfrom(_LARGEST)
                if not source[1] or (not is_udp4 and source[0] == "::"):
                    self._turn_away(1)
                    continue
                address = new_tuple(ReceivedAddress, source) if is_udp4 else self.family.received_address(source)
                append(new_tuple(Datagram, (data, address, None)))
        finally:
            self.received += len(into) - before

    def _turn_away(self, count: int) -> None:
        # From port 0, or from the unspecified address, which Linux lets in over IPv6: nobody can be answered there,
        # and an answer to the latter would go to this machine itself.
        self.received += count
        self.filtered += count

    def _receive_coalesced(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        recvmsg = self._socket.recvmsg
        append = into.append
        is_udp4 = self.family is UDP4
        before = len(into)
        target = limit
        try:
            while target > 0:
                data, ancillary, flags, source = recvmsg(_LARGEST, _ANCILLARY_SPACE)
                target -= 1
                address = new_tuple(ReceivedAddress, source) if is_udp4 else self.family.received_address(source)
                unanswerable = not source[1] or (not is_udp4 and source[0] == "::")
                if not ancillary and not flags and not unanswerable:
                    append(new_tuple(Datagram, (data, address, None)))
                    continue
                size = segment_size(ancillary)
                if flags & socket.MSG_CTRUNC:
                    # Without the segment size, where one datagram ends and the next begins cannot be told.
                    self.truncated += 1
                    self.received += 1
                    continue
                self.truncated += bool(flags & socket.MSG_TRUNC)
                segments = [data[start : start + size] for start in range(0, len(data), size)] if size else [data]
                target -= len(segments) - 1
                if unanswerable:
                    self._turn_away(len(segments))
                    continue
                if size:
                    self.coalesced_receives += 1
                    self.coalesced_datagrams += len(segments)
                into.extend([new_tuple(Datagram, (segment, address, None)) for segment in segments])
        finally:
            self.received += len(into) - before

    def coalesce(self) -> None:
        """Let the kernel hand over many datagrams of one sender at once from now on, if it can.

        Not from the beginning: it makes reading them one at a time slower, and what the kernel drops then is a
        batch. There is no way back, since batches may be queued.
        """
        if self._may_coalesce:
            self._may_coalesce = False
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
                self._coalescing = True

    def send_segments(self, payload: bytes, size: int, sockaddr: SocketAddress | None) -> None:
        """Send datagrams of ``size`` bytes each, the last perhaps shorter, to ``sockaddr`` or the peer."""
        ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        if sockaddr is None:
            self._socket.sendmsg([payload], ancillary)
        else:
            self._socket.sendmsg([payload], ancillary, 0, sockaddr)

    def drops(self) -> int | None:
        """Return how many datagrams the kernel dropped for want of room, ``None`` where it cannot tell."""
        if self._socket.fileno() == -1 or not _system.capabilities.drop_counter:
            return self._drops
        words: tuple[int, ...] = struct.unpack(
            "=9I", self._socket.getsockopt(socket.SOL_SOCKET, _system.SO_MEMINFO, 36)
        )
        return words[_system.SO_MEMINFO_DROPS]

    @property
    def drops_are_datagrams(self) -> bool:
        """Whether what :meth:`drops` counts are datagrams, not whole batches of them."""
        return _system.capabilities.drop_counter and not self._coalescing

    def setsockopt(self, *arguments: Any) -> None:
        """Set any option (Linux man page setsockopt(2))."""
        self._socket.setsockopt(*arguments)

    def getsockopt(self, *arguments: int) -> int | bytes:
        """Read any option (Linux man page getsockopt(2))."""
        return self._socket.getsockopt(*arguments)

    def close(self) -> None:
        """Give the descriptor back; what :meth:`drops` says stays."""
        self._drops = self.drops()
        self._socket.close()
