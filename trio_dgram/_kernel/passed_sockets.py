"""Sockets that a supervisor or systemd passed to this process (sd_listen_fds(3)), and the sockets that may take them.

Rule 1: a passed socket is used by one socket of the program at a time, which runs on a duplicate of its descriptor.
Rule 2: later processes get the same socket, so nothing that it does here may change it for them: no O_NONBLOCK, no
    peer, no other address.
Rule 3: the sockets belong to the process that read the variables; a forked child takes none.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import weakref
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Final

import attrs

from .._codecs.families import FAMILIES, UDP6, Family, SocketAddress
from .._values.addresses import Address, format_address
from .system_socket import SharedSocket, is_deaf_once_disconnected, share

_log = logging.getLogger("trio_dgram")

FIRST_DESCRIPTOR: Final = 3
"""The number of the first passed descriptor (SD_LISTEN_FDS_START)."""
MOST_DESCRIPTORS: Final = 1024
VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_UNNAMED: Final = "unknown"
"""The name of a descriptor without one (sd_listen_fds_with_names(3))."""
_V6ONLY: Final = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@attrs.define(eq=False)
class Passed:
    """One bound datagram socket that was passed to this process."""

    name: str
    descriptor: int
    inode: int
    family: Family
    sockaddr: SocketAddress
    ipv6_only: bool | None
    """IPV6_V6ONLY; None for other families."""
    taken: bool = False
    user: weakref.ref[Any] | None = None
    """The socket of the program that has taken it."""

    @property
    def address(self) -> Address:
        """The local address."""
        return self.family.address(self.sockaddr)

    @property
    def is_open(self) -> bool:
        """Whether the descriptor still is this socket: the program may have closed or adopted it."""
        with suppress(OSError):
            return os.fstat(self.descriptor).st_ino == self.inode
        return False

    def describe_user(self) -> str:
        """Return the ``repr`` of the socket that has taken it."""
        user = self.user and self.user()
        return "another socket" if user is None else repr(user)


class PassedSockets:
    """The passed sockets of this process."""

    def __init__(self) -> None:
        self._sockets: list[Passed] = []
        self._process = os.getpid()
        self._missing: tuple[int, int] | None = None
        """The announced and the found number of descriptors, if some are not open."""
        self.on_taken: Callable[[], object] = bool
        """Called whenever a socket was taken."""

    def read(self, environment: MutableMapping[str, str]) -> bool:
        """Read and remove the variables; set FD_CLOEXEC and dissolve connections that a former process left.

        Returns:
          Whether they concern this process.
        """
        values = {name: environment.pop(name, None) for name in VARIABLES}
        count = _announced(values["LISTEN_FDS"])
        if not count or not _is_this_process(values["LISTEN_PID"], values["LISTEN_PIDFDID"]):
            return False
        self._process = os.getpid()
        names = (values["LISTEN_FDNAMES"] or "").split(":")
        names += [_UNNAMED] * count
        descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count)
        opened = [descriptor for descriptor in descriptors if _set_cloexec(descriptor)]
        self._missing = (count, len(opened)) if len(opened) < count else None
        found = (_inspect(names[descriptor - FIRST_DESCRIPTOR] or _UNNAMED, descriptor) for descriptor in opened)
        self._sockets = [each for each in found if each is not None]
        return True

    @property
    def present(self) -> bool:
        """Whether this process was passed sockets."""
        return bool(self._sockets) and self._process == os.getpid()

    def all(self) -> list[Passed]:
        """Return the passed sockets.

        Raises:
          OSError: EBADF if fewer descriptors were open than announced.
        """
        if self._process != os.getpid():
            return []
        if self._missing is not None:
            announced, found = self._missing
            raise OSError(errno.EBADF, f"LISTEN_FDS announces {announced} descriptors, but only {found} are open")
        return list(self._sockets)

    def untaken(self, port: int | None = None) -> list[Passed]:
        """Return those that no socket has taken; with ``port`` those that are bound to it."""
        return [
            each
            for each in self._sockets
            if not each.taken
            and each.is_open
            and (port is None or (each.family.is_internet and each.sockaddr[1] == port))
        ]

    def find(self, family: int, sockaddr: SocketAddress, *, exclusive: bool = False) -> Passed | None:
        """Return the one to use for ``bind``, ``None`` if there is none.

        Raises:
          OSError: EADDRINUSE if every socket of this address is taken.
        """
        if not self.present:
            return None
        matching = [
            each
            for each in self._sockets
            if each.family.family == family and _key(each.sockaddr) == _key(sockaddr) and each.is_open
        ]
        free = next((each for each in matching if not each.taken), None)
        if free is None and matching:
            used = f"{format_address(matching[0].address)} is passed to this process and in use by"
            raise OSError(errno.EADDRINUSE, f"{used} {matching[0].describe_user()}")
        return None if exclusive else free


registry: Final = PassedSockets()
"""Empty until ``trio_dgram.workers`` has read the variables."""


class PassableSocket(SharedSocket):
    """A socket of the program that takes a passed one if it is bound to the address of that.

    It has MSG_DONTWAIT in every call from the beginning, so that nothing but the descriptor changes then.
    """

    passed: Passed | None = None

    @property
    def must_renew(self) -> bool:
        """Whether :meth:`disconnect` leaves the socket deaf; a passed one is never connected."""
        return self.passed is None and is_deaf_once_disconnected(self._sock)

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        """Set an option, and remember it for the socket that may be taken."""
        super().setsockopt(level, option, *value)
        self.remember(level, option, *value)

    def take_passed(self, sockaddr: SocketAddress, *, ipv6_only: bool | None, exclusive: bool) -> bool:
        """Become the passed socket that is bound to ``sockaddr``, with the options of this one, if there is one.

        Args:
          sockaddr: the address.
          ipv6_only: what the program asked for; None for either.
          exclusive: whether to take none.

        Raises:
          ValueError: if the passed socket has another ``ipv6_only``.
          OSError: EADDRINUSE if it is taken; the kernel's error for an option.
        """
        passed = registry.find(self._sock.family, sockaddr, exclusive=exclusive)
        if passed is None:
            return False
        if None not in (ipv6_only, passed.ipv6_only) and ipv6_only != passed.ipv6_only:
            raise ValueError(
                f"ipv6_only must be {passed.ipv6_only}, as on the socket that is passed to this process for "
                f"{format_address(passed.address)}, not {ipv6_only}"
            )
        taken = share(os.dup(passed.descriptor))
        try:
            for (level, option), value in self._options.items():
                if (level, option) != _V6ONLY:
                    taken.setsockopt(level, option, *value)
            os.dup2(taken.fileno(), self._sock.fileno(), inheritable=False)
        finally:
            taken.close()
        passed.taken = True
        self.passed = passed
        registry.on_taken()
        return True

    def close(self) -> None:
        """Close this socket; a later one can take the passed socket again."""
        self._sock.close()
        if self.passed is not None:
            self.passed.taken = False
            self.passed.user = None
            self.passed = None


def _announced(text: str | None) -> int:
    """Return the number in LISTEN_FDS, 0 if it is no valid one."""
    if text is None:
        return 0
    # int() accepts more, such as "1_0".
    if not (text.isascii() and text.isdigit()) or int(text[:6]) > MOST_DESCRIPTORS:
        _log.warning("LISTEN_FDS must be a number from 0 to %d, not %r: ignored", MOST_DESCRIPTORS, text[:40])
        return 0
    return int(text)


def _is_this_process(pid: str | None, pidfd_id: str | None) -> bool:
    if pid != str(os.getpid()):
        return False
    own = _own_pidfd_id() if pidfd_id else None
    return own is None or pidfd_id == str(own)


def _own_pidfd_id() -> int | None:
    """Return the inode number of a pidfd of this process; ``None`` on kernels without pidfs, which number them all
    alike."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return None
    try:
        # Without pidfs a pidfd is an anonymous inode, as an epoll descriptor is, and all of these share one number.
        with select.epoll() as anonymous:
            found = os.fstat(pidfd)
            return None if found.st_dev == os.fstat(anonymous.fileno()).st_dev else found.st_ino
    finally:
        os.close(pidfd)


def _set_cloexec(descriptor: int) -> bool:
    """Set FD_CLOEXEC and return whether the descriptor is open."""
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 -- the argument's only meaning
    except OSError:
        return False
    return True


def _inspect(name: str, descriptor: int) -> Passed | None:
    """Return the socket if it is a bound datagram socket of a family that the library has."""
    try:
        sock = share(os.dup(descriptor))
    except OSError:
        return None
    with sock:
        family = _family_of(sock, FAMILIES.values())
        if family is None or not family.is_bound(sock.getsockname()):
            return None
        if sock.has_peer:
            _dissolve(sock, family)
        v6only = bool(sock.getsockopt(*_V6ONLY)) if family is UDP6 else None
        return Passed(name, descriptor, os.fstat(descriptor).st_ino, family, sock.getsockname(), v6only)


def _family_of(sock: SharedSocket, families: Iterable[Family]) -> Family | None:
    if sock.type != socket.SOCK_DGRAM:
        return None
    return next(
        (
            family
            for family in families
            if sock.family == family.family and (not family.is_internet or sock.proto in (0, socket.IPPROTO_UDP))
        ),
        None,
    )


def _dissolve(sock: SharedSocket, family: Family) -> None:
    """Undo the ``connect`` of a former process, which would leave the socket deaf to other peers."""
    before = sock.getsockname()
    try:
        sock.disconnect()
        after = sock.getsockname()
        if family.is_internet and not after[1]:
            # Linux frees a port that it chose itself.
            sock.bind((after[0], before[1], *after[2:]))
    except OSError as error:
        _log.warning("the passed socket on %s stays connected: %s", format_address(family.address(before)), error)
    if family is UDP6:
        _log.warning(
            "a former process connected the passed socket on %s: Linux leaves it deaf to all other IPv6 hosts",
            format_address(family.address(before)),
        )


def _key(sockaddr: SocketAddress) -> Any:
    """Return what two spellings of one address have in common."""
    if not isinstance(sockaddr, tuple):
        return os.fsencode(sockaddr)
    host, port, *rest = sockaddr
    scope = rest[1] if len(rest) > 1 else 0
    version = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(version, host), port, scope
