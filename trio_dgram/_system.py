"""The operating system's socket: what Python's own can't say, and what this platform can do."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from functools import cache
from typing import Final

import attrs

# What the socket module of some supported Python lacks. The numbers are Linux's, and the capabilities say
# whether they mean anything here.
IP_MULTICAST_ALL: Final = 49
IPV6_MULTICAST_ALL: Final = 29
SO_MEMINFO: Final = 55
SO_MEMINFO_DROPS: Final = 8
MCAST_JOIN_SOURCE_GROUP: Final = 46
MCAST_LEAVE_SOURCE_GROUP: Final = 47


@attrs.frozen(kw_only=True)
class Capabilities:
    """What the platform can do beyond the portable calls. Found out once; a socket that meets a refusal all
    the same goes without."""

    offload: bool
    """UDP_GRO and UDP_SEGMENT: many datagrams in one system call (Linux)."""
    drop_counter: bool
    """SO_MEMINFO: how many datagrams the receive buffer had no room for (Linux)."""
    group_isolation: bool
    """IP_MULTICAST_ALL: a socket gets its own groups only if told so (Linux)."""
    source_membership: bool
    """MCAST_JOIN_SOURCE_GROUP: memberships by interface index and source (RFC 3678), by Linux's numbers."""
    dissolve: bool
    """``connect`` to AF_UNSPEC: a connected socket can be disconnected (POSIX)."""


portable: Final = Capabilities(
    offload=False, drop_counter=False, group_isolation=False, source_membership=False, dissolve=os.name == "posix"
)


def detect() -> Capabilities:
    """Return what this platform can do."""
    if sys.platform != "linux":
        return portable
    return Capabilities(offload=True, drop_counter=True, group_isolation=True, source_membership=True, dissolve=True)


capabilities: Capabilities = detect()


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class SystemSocket(socket.socket):
    """A non-blocking datagram socket of the operating system.

    It is the synchronous interface that the library runs on: the standard library's socket and
    ``disconnect``. A custom socket factory whose sockets have a method ``kernel_socket`` returning an object
    like this one gives the library everything the kernel gives it.
    """

    def disconnect(self) -> None:
        """Dissolve the association with a peer (POSIX ``connect`` to AF_UNSPEC; Linux man page connect(2)).

        The kernel also frees a local port that it chose itself.
        """
        if not capabilities.dissolve:
            raise OSError(errno.ENOTSUP, "this platform cannot disconnect a datagram socket")
        c_library = _c_library()
        # BSDs have a length in the first byte; AF_UNSPEC is 0 in either form.
        unspecified = struct.pack("16x") if sys.platform == "linux" else struct.pack("B15x", 16)
        if c_library.connect(self.fileno(), unspecified, len(unspecified)) == -1:
            number = ctypes.get_errno()
            # BSDs may say so and have disconnected all the same.
            if number != errno.EAFNOSUPPORT:
                raise OSError(number, os.strerror(number))
