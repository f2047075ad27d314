"""The operating system's socket: the calls that Python's socket lacks, and descriptors shared with other processes."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import sys
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Self

from .._values.addresses import unmapped
from .c_library import c_function
from .recvmmsg import Batch, receive_batch
from .windows import disable_reports

# The socket module of some supported Python lacks these. The numbers are Linux's.
IP_MTU: Final = 14
IPV6_MTU: Final = 24
MSG_ERRQUEUE: Final = 0x2000
# A plain integer: an operator of the socket module's flags costs as much as a system call. Windows has none.
_MSG_DONTWAIT: Final = int(getattr(socket, "MSG_DONTWAIT", 0))

_MEMBERSHIP_OPTIONS: Final = frozenset(
    (level, getattr(socket, name, number))
    for level, name, number in (
        (socket.IPPROTO_IP, "IP_ADD_MEMBERSHIP", 35),
        (socket.IPPROTO_IP, "IP_DROP_MEMBERSHIP", 36),
        (socket.IPPROTO_IP, "MCAST_JOIN_SOURCE_GROUP", 46),
        (socket.IPPROTO_IP, "MCAST_LEAVE_SOURCE_GROUP", 47),
        (socket.IPPROTO_IPV6, "IPV6_JOIN_GROUP", 20),
        (socket.IPPROTO_IPV6, "IPV6_LEAVE_GROUP", 21),
        (socket.IPPROTO_IPV6, "MCAST_JOIN_SOURCE_GROUP", 46),
        (socket.IPPROTO_IPV6, "MCAST_LEAVE_SOURCE_GROUP", 47),
    )
)
"""The options that add to or take from a list instead of replacing a value."""

_DISCARD: Final = 9
"""The port of the discard service (RFC 863), which never sends."""

_DISSOLVED_ANYWAY: Final = (errno.EAFNOSUPPORT, errno.EINVAL)
"""The errnos with which BSDs and macOS report that they disconnected a socket."""


class SystemSocket:
    """A non-blocking datagram socket of the operating system.

    It is the synchronous interface that the library runs on: the standard library's socket, to which it delegates,
    ``disconnect``, ``path_mtu``, ``watch_errors``, ``is_local`` and, where the system has the call, ``recvmmsg``. A
    custom socket factory whose sockets have a method ``kernel_socket`` that returns such an object supports
    every feature that the kernel supports.

    Args:
      sock: the socket to delegate to. It need not be of the standard library's class: a test suite may have replaced
        that.
    """

    # A dictionary per socket would be a tenth of its memory.
    __slots__ = ("_options", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # The options that were set, for a socket that may replace this one: empty where none will.
        self._options: dict[tuple[int, int], tuple[Any, ...]] = {}

    @classmethod
    def create(cls, family: int) -> Self:
        """Create a non-blocking datagram socket, by ``socket.socket`` as it is at this moment."""
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(0)
        disable_reports(sock.fileno())
        return cls(sock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def disconnect(self) -> None:
        """Dissolve the association with a peer (connect(2) with AF_UNSPEC).

        Linux also frees a port that it chose itself.

        Raises:
          OSError: ENOTSUP where the system has no such call; the kernel's error where it is refused.
        """
        connect = c_function("connect")
        if connect is None:
            raise OSError(errno.ENOTSUP, "this system cannot disconnect a datagram socket")
        # BSDs store the length in the first byte; AF_UNSPEC is 0 in either form.
        unspecified = bytes(16) if sys.platform == "linux" else struct.pack("B15x", 16)
        if connect(self._sock.fileno(), unspecified, len(unspecified)) == -1:
            number = ctypes.get_errno()
            if number not in _DISSOLVED_ANYWAY or self.has_peer:
                raise OSError(number, os.strerror(number))

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        """Set an option as ``socket.setsockopt`` does."""
        self._sock.setsockopt(level, option, *value)
        if self.must_renew:
            self.remember(level, option, *value)

    def remember(self, level: int, option: int, *value: Any) -> None:
        """Note an option that was set, for the socket that may replace this one."""
        if (level, option) not in _MEMBERSHIP_OPTIONS:
            self._options[level, option] = value

    @property
    def must_renew(self) -> bool:
        """Whether :meth:`disconnect` leaves the socket deaf: Linux does not clear the peer's IPv6 address, so that it
        drops the datagrams of every other host."""
        return is_deaf_once_disconnected(self._sock)

    def renew(self) -> SystemSocket:
        """Exchange the disconnected socket of the kernel for a new one with the same number, options and address.

        Returns:
          The former one, on its own descriptor, for what is queued there; nothing more arrives.

        Raises:
          OSError: if that is not possible; nothing has changed.
        """
        old = self._sock
        reused = old.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        with socket.socket(old.family, socket.SOCK_DGRAM) as new:
            new.settimeout(0)
            for (level, option), value in self._options.items():
                new.setsockopt(level, option, *value)
            local = old.getsockname()
            old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # For the moment both are bound, so that no datagram is refused in between.
                new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                new.bind(local)
                former = SystemSocket(old.dup())
            except BaseException:
                old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reused)
                raise
            os.dup2(new.fileno(), old.fileno(), inheritable=False)
        old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reused)
        # Connected to a port that sends nothing, the former one receives nothing.
        former.connect(("::1", _DISCARD))
        return former

    @property
    def has_peer(self) -> bool:
        """Whether the socket is connected."""
        try:
            self._sock.getpeername()
        except OSError as error:
            return error.errno != errno.ENOTCONN
        return True

    def recvmmsg(self, most: int, source_size: int, *, ancillary: bool) -> Batch:
        """Receive what is queued, at most ``most`` datagrams, as :func:`receive_batch` does (recvmmsg(2))."""
        return receive_batch(self._sock.fileno(), most, source_size, ancillary=ancillary)

    def path_mtu(self, sockaddr: Any = None) -> int:
        """Return the largest packet that the path to ``sockaddr``, or the peer, accepts, in bytes (IP_MTU, ip(7))."""
        if sockaddr is None:
            peer = self._sock.getpeername()[0]
            over_ipv6 = self._sock.family == socket.AF_INET6 and unmapped(peer) is peer
            place = (socket.IPPROTO_IPV6, IPV6_MTU) if over_ipv6 else (socket.IPPROTO_IP, IP_MTU)
            return int(self._sock.getsockopt(*place))
        # The kernel reports it for a connected socket only. Connecting one sends nothing.
        with self.scratch() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            probe.connect(sockaddr)
            return probe.path_mtu()

    def scratch(self) -> SystemSocket:
        """Return a new socket that connect(2) treats like this one, to find out what it would do."""
        made = SystemSocket.create(self._sock.family)
        try:
            made.setsockopt(
                socket.SOL_SOCKET, socket.SO_BROADCAST, self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
            )
            device = b""
            # Where the option is missing, this socket has no device either.
            with suppress(AttributeError, OSError):
                device = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            if device:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        except BaseException:
            made.close()
            raise
        return made

    def is_local(self, host: str) -> bool:
        """Whether ``host`` is a numeric address of this machine; the answer may be a second old."""
        return unmapped(host).startswith("127.") or _local_hosts.contains(self._sock.family, host)

    def watch_errors(self) -> select.epoll:
        """Return a descriptor that is readable while the error queue is not empty (epoll_ctl(2)).

        An epoll of its own, because Trio's wait for readability would also return for datagrams, which the program may
        leave unread.
        """
        watch = select.epoll()
        # EPOLLERR is always reported.
        watch.register(self._sock.fileno(), 0)
        return watch


def is_deaf_once_disconnected(sock: socket.socket) -> bool:
    """Whether a socket of this kind still receives only from its former peer after it was disconnected."""
    return sys.platform == "linux" and sock.family == socket.AF_INET6


class _LocalHosts:
    """A cache of which addresses are local: to ask the kernel costs 10 us."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[int, str], bool] = {}
        self._expiry = 0.0

    def contains(self, family: int, host: str) -> bool:
        """Whether ``host``, of the address family ``family``, is a local address."""
        now = monotonic()
        if now >= self._expiry or len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
            self._expiry = now + _VERDICTS_LAST
        verdict = self._verdicts.get((family, host))
        if verdict is None:
            verdict = self._verdicts[family, host] = _is_local(family, host)
        return verdict


_MOST_VERDICTS: Final = 4096
_VERDICTS_LAST: Final = 1.0
"""How long a verdict is used, in seconds: the addresses of a machine change."""
_local_hosts: Final = _LocalHosts()


def _is_local(family: int, host: str) -> bool:
    # The kernel sends to a local address from that address. Connecting sends nothing; bind() would not do as a test,
    # since with ip_nonlocal_bind it accepts any address.
    with suppress(OSError, ValueError), SystemSocket.create(family) as probe:
        unscoped, _, zone = host.partition("%")
        scope = (0, socket.if_nametoindex(zone)) if zone else ()
        probe.connect((unscoped, 9, *scope))
        own: str = probe.getsockname()[0]
        return own == unscoped
    return False


class SharedSocket(SystemSocket):
    """A socket whose open file description other processes may share.

    Every call has MSG_DONTWAIT: O_NONBLOCK would affect the other processes.
    """

    @property
    def must_renew(self) -> bool:
        """Never: the other processes would keep the former socket."""
        return False

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receive as ``socket.recvfrom`` does, without waiting."""
        return self._sock.recvfrom(bufsize, flags | _MSG_DONTWAIT)

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Receive as ``socket.recvmsg`` does, without waiting."""
        return self._sock.recvmsg(bufsize, ancbufsize, flags | _MSG_DONTWAIT)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send as ``socket.send`` does, without waiting."""
        return self._sock.send(data, flags | _MSG_DONTWAIT)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Send as ``socket.sendto`` does, without waiting."""
        *flags, address = flags_and_address
        return self._sock.sendto(data, sum(flags) | _MSG_DONTWAIT, address)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        """Send as ``socket.sendmsg`` does, without waiting."""
        return self._sock.sendmsg(buffers, ancdata, flags | _MSG_DONTWAIT, address)


def share(descriptor: int) -> SharedSocket:
    """Return a socket that runs on ``descriptor`` and leaves its O_NONBLOCK unchanged.

    Raises:
      OSError: EBADF or ENOTSOCK if it is not an open descriptor of a socket.
    """
    if not hasattr(socket, "MSG_DONTWAIT"):
        raise OSError(errno.ENOTSUP, "this system cannot receive without waiting and without O_NONBLOCK")
    try:
        blocking = os.get_blocking(descriptor)
    except OverflowError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    sock = socket.socket(fileno=descriptor)
    if sock.gettimeout() is not None:
        # Python has applied the default timeout of the process to the descriptor as well.
        sock.settimeout(None)
        os.set_blocking(descriptor, blocking)
    return SharedSocket(sock)
