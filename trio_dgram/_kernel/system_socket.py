"""The operating system's socket: what Python's own can't say, and what this platform can do."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import sys
from typing import Any, Final

import attrs

from .c_library import c_library
from .recvmmsg import Batch, receive_batch

# What the socket module of some supported Python lacks. The numbers are Linux's, and the capabilities say
# whether they mean anything here.
IP_MULTICAST_ALL: Final = 49
IPV6_MULTICAST_ALL: Final = 29
SO_MEMINFO: Final = 55
SO_MEMINFO_DROPS: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_MTU: Final = 14
IPV6_MTU_DISCOVER: Final = 23
IPV6_MTU: Final = 24
MSG_ERRQUEUE: Final = 0x2000
# A plain integer: the operators of the socket module's cost as much as a system call. Windows has none.
_MSG_DONTWAIT: Final = int(getattr(socket, "MSG_DONTWAIT", 0))
MCAST_JOIN_SOURCE_GROUP: Final = 46
MCAST_LEAVE_SOURCE_GROUP: Final = 47


@attrs.frozen(kw_only=True)
class Capabilities:
    """What the platform can do beyond the portable calls. Found out once; a socket that meets a refusal all
    the same goes without."""

    batches: bool
    """recvmmsg(2): many datagrams in one system call (Linux)."""
    offload: bool
    """UDP_GRO and UDP_SEGMENT: many datagrams in one system call (Linux)."""
    drop_counter: bool
    """SO_MEMINFO: how many datagrams the receive buffer had no room for (Linux)."""
    group_isolation: bool
    """IP_MULTICAST_ALL: a socket gets its own groups only if told so (Linux)."""
    source_membership: bool
    """MCAST_JOIN_SOURCE_GROUP: memberships by interface index and source (RFC 3678), by Linux's numbers."""
    packet_info: bool
    """Ancillary data about the way of a datagram, received and sent (ip(7), ipv6(7)), by Linux's numbers."""
    error_queue: bool
    """IP_RECVERR: what ICMP says is told with its destination and sender (Linux)."""
    path_mtu: bool
    """IP_MTU_DISCOVER and IP_MTU: how large a packet a path takes (Linux)."""
    dissolve: bool
    """``connect`` to AF_UNSPEC: a connected socket can be disconnected (POSIX)."""


linux: Final = Capabilities(
    batches=True,
    offload=True,
    drop_counter=True,
    group_isolation=True,
    source_membership=True,
    packet_info=True,
    error_queue=True,
    path_mtu=True,
    dissolve=True,
)
portable: Final = Capabilities(
    batches=False,
    offload=False,
    drop_counter=False,
    group_isolation=False,
    source_membership=False,
    packet_info=False,
    error_queue=False,
    path_mtu=False,
    dissolve=os.name == "posix",
)


def detect() -> Capabilities:
    """Return what this platform can do."""
    return linux if sys.platform == "linux" else portable


capabilities: Capabilities = detect()


def capabilities_of(sock: object) -> Capabilities:
    """Return what a socket can do: what it says itself, if it is of another kind than this platform's."""
    own: Capabilities | None = getattr(sock, "capabilities", None)
    return capabilities if own is None else own


class SystemSocket(socket.socket):
    """A non-blocking datagram socket of the operating system.

    It is the synchronous interface that the library runs on: the standard library's socket, ``disconnect`` and, where
    there is such a call, ``recvmmsg``. A custom socket factory whose sockets have a method ``kernel_socket`` returning
    an object like this one gives the library everything the kernel gives it.
    """

    def disconnect(self) -> None:
        """Dissolve the association with a peer (POSIX ``connect`` to AF_UNSPEC; Linux man page connect(2)).

        The kernel also frees a local port that it chose itself.
        """
        if not capabilities.dissolve:
            raise OSError(errno.ENOTSUP, "this platform cannot disconnect a datagram socket")
        # BSDs have a length in the first byte; AF_UNSPEC is 0 in either form.
        unspecified = struct.pack("16x") if sys.platform == "linux" else struct.pack("B15x", 16)
        if c_library().connect(self.fileno(), unspecified, len(unspecified)) == -1:
            number = ctypes.get_errno()
            # BSDs may say so and have disconnected all the same.
            if number != errno.EAFNOSUPPORT:
                raise OSError(number, os.strerror(number))

    def recvmmsg(self, most: int, source_size: int, *, ancillary: bool) -> Batch:
        """Receive what is there, ``most`` datagrams at most, as :func:`receive_batch` does (recvmmsg(2))."""
        return receive_batch(self.fileno(), most, source_size, ancillary=ancillary)

    def path_mtu(self, sockaddr: Any = None) -> int:
        """Return the largest packet that the path to ``sockaddr``, or to the peer, takes, in bytes (IP_MTU, ip(7))."""
        if sockaddr is None:
            to_ipv6 = self.family == socket.AF_INET6 and not self.getpeername()[0].startswith("::ffff:")
            return self.getsockopt(*(socket.IPPROTO_IPV6, IPV6_MTU) if to_ipv6 else (socket.IPPROTO_IP, IP_MTU))
        # The kernel tells it of a connected socket only.
        with SystemSocket(self.family, socket.SOCK_DGRAM) as probe:
            device = self.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            if device:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            # Only asked for: it sends nothing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            probe.connect(sockaddr)
            return probe.path_mtu()

    def watch_errors(self) -> select.epoll:
        """Return a descriptor that can be read while there is something in the error queue (epoll_ctl(2)).

        An epoll of its own: nothing else can be waited for apart from the datagrams, which may well be left unread.
        """
        watch = select.epoll()
        # EPOLLERR is always meant.
        watch.register(self.fileno(), 0)
        return watch


class SharedSocket(SystemSocket):
    """A socket whose open file description other processes may have, too.

    Every call says for itself that it does not wait: O_NONBLOCK would show on the other side.
    """

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receive as ``socket.recvfrom`` does, without waiting."""
        return super().recvfrom(bufsize, flags | _MSG_DONTWAIT)

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Receive as ``socket.recvmsg`` does, without waiting."""
        return super().recvmsg(bufsize, ancbufsize, flags | _MSG_DONTWAIT)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send as ``socket.send`` does, without waiting."""
        return super().send(data, flags | _MSG_DONTWAIT)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Send as ``socket.sendto`` does, without waiting."""
        *flags, address = flags_and_address
        return super().sendto(data, sum(flags) | _MSG_DONTWAIT, address)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        """Send as ``socket.sendmsg`` does, without waiting."""
        return super().sendmsg(buffers, ancdata, flags | _MSG_DONTWAIT, address)


def share(descriptor: int) -> SharedSocket:
    """Return a socket that runs on ``descriptor``, leaving alone whether it blocks.

    Raises:
      OSError: if it is no descriptor that is open, or no socket.
    """
    if not hasattr(socket, "MSG_DONTWAIT"):
        raise OSError(errno.ENOTSUP, "this platform cannot receive without waiting and without O_NONBLOCK")
    try:
        blocking = os.get_blocking(descriptor)
    except OverflowError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    shared = SharedSocket(fileno=descriptor)
    if shared.gettimeout() is not None:
        # The process has a default timeout, which Python has applied, to its own waiting and to the descriptor.
        shared.settimeout(None)
        os.set_blocking(descriptor, blocking)
    return shared
