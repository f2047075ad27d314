"""Sockets that a program makes with the standard library and brings to Trio, or to us: no factory made them.

Rule 1: an internet datagram socket is replaced by a simulated one with its address and sharing options. The original
    stays open until that is closed, so that its ``getsockname`` keeps working, but nothing is sent or received by it.
Rule 2: an internet datagram socket that cannot be replaced raises: it would silently use the real network.
Rule 3: every other socket, such as the listener of a web server, passes through untouched.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, SupportsIndex

import trio

from .succession import succeeding
from .trio_socket import SimulatedSocket

_real_from_stdlib_socket: Final = trio.socket.from_stdlib_socket
_real_fromfd: Final = trio.socket.fromfd
_depth: Final[trio.lowlevel.RunVar[int]] = trio.lowlevel.RunVar("trio_dgram.sim networks that adopt", 0)
_installed: Final[list[None]] = []
"""The open networks of this process, one entry each."""


@contextmanager
def adopting() -> Generator[None]:
    """Replace standard-library datagram sockets that Trio adopts in this run with simulated ones."""
    trio.socket.from_stdlib_socket, trio.socket.fromfd = _from_stdlib_socket, _fromfd
    _installed.append(None)
    _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.set(_depth.get() - 1)
        _installed.pop()
        if not _installed:
            trio.socket.from_stdlib_socket, trio.socket.fromfd = _real_from_stdlib_socket, _real_fromfd


def _from_stdlib_socket(sock: socket.socket) -> trio.socket.SocketType:
    """Replace ``trio.socket.from_stdlib_socket``."""
    if _depth.get() and _is_internet_datagram(sock):
        return _adopt(sock, "trio.socket.from_stdlib_socket")
    return _real_from_stdlib_socket(sock)


def _fromfd(fd: SupportsIndex, *args: Any, **kwargs: Any) -> trio.socket.SocketType:
    """Replace ``trio.socket.fromfd``."""
    if _depth.get():
        sock = socket.socket(fileno=os.dup(fd.__index__()))
        if _is_internet_datagram(sock):
            try:
                return _adopt(sock, "trio.socket.fromfd")
            except OSError:
                sock.close()
                raise
        sock.close()
    return _real_fromfd(fd, *args, **kwargs)


def _is_internet_datagram(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6)


def _adopt(sock: socket.socket, call: str) -> SimulatedSocket:
    """Return the simulated socket that replaces ``sock`` and owns it."""
    made = trio.socket.socket(sock.family, sock.type)
    if not isinstance(made, SimulatedSocket):  # pragma: no cover -- another factory was installed meanwhile
        raise TypeError(f"{call}: another socket factory has replaced that of the simulated network")
    with succeeding(made.kernel_socket(), sock, call):
        return made
