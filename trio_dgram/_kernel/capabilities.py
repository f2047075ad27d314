"""Capabilities: which optional calls and options this system has, found out by trying them on a socket.

A sandbox or an older kernel may lack any of them, so the platform's name answers for none. Where a socket is refused
an option that was found here, it works without that option; only what the program asked for by name raises.
"""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress
from typing import Final

import attrs

from .._codecs.ancillary import IP_PKTINFO, UDP_GRO, UDP_SEGMENT
from .._codecs.error_queue import IP_RECVERR
from .c_library import c_function
from .compiled_layer import native
from .recvmmsg import has_recvmmsg

# The socket module of some supported Python lacks these. The numbers are Linux's: other systems use them otherwise.
IP_MULTICAST_ALL: Final = 49
IPV6_MULTICAST_ALL: Final = 29
SO_MEMINFO: Final = 55
IP_MTU_DISCOVER: Final = 10
MCAST_JOIN_SOURCE_GROUP: Final = 46
MCAST_LEAVE_SOURCE_GROUP: Final = 47

NOT_AVAILABLE: Final = frozenset({errno.ENOPROTOOPT, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
"""The errnos of a kernel that does not know a call or an option."""


def not_supported(error: OSError) -> OSError:
    """Return ``error``, or ENOTSUP in its place where it reports a call or an option that the kernel does not know."""
    if error.errno in NOT_AVAILABLE and error.errno != errno.ENOTSUP:
        return OSError(errno.ENOTSUP, f"this system does not support it ({error.strerror})")
    return error


@attrs.frozen(kw_only=True)
class Capabilities:
    """What this system has beyond the portable calls, as :func:`capabilities` returns it.

    Attributes:
      batches (bool): many datagrams are received in one system call (recvmmsg(2)).
      receive_offload (bool): the kernel coalesces received datagrams (UDP_GRO, Linux 5.0).
      send_offload (bool): the kernel sends many datagrams in one call (UDP_SEGMENT, Linux 4.18).
      drop_counter (bool): the kernel reports the datagrams that a full receive buffer dropped (SO_MEMINFO).
      multicast_all (bool): a socket can be limited to the groups that it joined itself (IP_MULTICAST_ALL; for IPv6
        groups Linux 4.20).
      source_membership (bool): groups can be joined from one source (MCAST_JOIN_SOURCE_GROUP, RFC 3678).
      packet_info (bool): metadata of a datagram can be received and sent (IP_PKTINFO and related, ip(7), ipv6(7)).
      error_queue (bool): ICMP errors are reported with destination and sender (IP_RECVERR).
      path_mtu (bool): path MTU discovery can be configured and its result read (IP_MTU_DISCOVER, IP_MTU).
      bind_to_device (bool): a socket can be limited to one interface (SO_BINDTODEVICE).
      reuse_port (bool): sockets can share a port, balanced by the kernel (SO_REUSEPORT).
      disconnect (bool): a connected socket can be disconnected (connect(2) with AF_UNSPEC).
      compiled (bool): the system's sockets receive and send by the compiled layer; otherwise in pure Python, which does
        the same. ``TRIO_DGRAM_PURE=1`` in the environment disables it.
    """

    batches: bool
    receive_offload: bool
    send_offload: bool
    drop_counter: bool
    multicast_all: bool
    source_membership: bool
    packet_info: bool
    error_queue: bool
    path_mtu: bool
    bind_to_device: bool
    reuse_port: bool
    disconnect: bool
    compiled: bool


COMPLETE: Final = Capabilities(**{field.name: field.name != "compiled" for field in attrs.fields(Capabilities)})
"""Every capability of a current Linux, as on the simulated network, which is pure Python."""


def portable() -> Capabilities:
    """Return the capabilities of a system that has the portable calls only."""
    none = {field.name: False for field in attrs.fields(Capabilities)}
    return Capabilities(
        **{
            **none,
            "disconnect": c_function("connect") is not None,
            "reuse_port": hasattr(socket, "SO_REUSEPORT"),
            "bind_to_device": hasattr(socket, "SO_BINDTODEVICE"),
        }
    )


def detect() -> Capabilities:
    """Try every optional call on a new socket and return those that the system has."""
    found = portable()
    if sys.platform != "linux":
        return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0)

        def accepts(level: int, option: int, value: int) -> bool:
            with suppress(OSError):
                probe.setsockopt(level, option, value)
                return True
            return False

        def reports(option: int, size: int) -> int | None:
            """Return how many bytes the kernel reports, ``None`` if it does not know the option."""
            with suppress(OSError):
                return len(probe.getsockopt(socket.SOL_SOCKET, option, size))
            return None

        def knows_source_groups() -> bool:
            # An empty request is invalid, which a kernel without the option does not get to notice.
            try:
                probe.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, b"")
            except OSError as error:
                return error.errno == errno.EINVAL
            return True  # pragma: no cover -- no kernel accepts it

        def disconnects() -> bool:
            connect = c_function("connect")
            return connect is not None and connect(probe.fileno(), bytes(16), 16) == 0

        batches = has_recvmmsg(probe.fileno())
        receives_control, sends_control = hasattr(probe, "recvmsg"), hasattr(probe, "sendmsg")
        return attrs.evolve(
            found,
            batches=batches,
            receive_offload=accepts(socket.IPPROTO_UDP, UDP_GRO, 1) and receives_control,
            send_offload=accepts(socket.IPPROTO_UDP, UDP_SEGMENT, 0) and sends_control,
            drop_counter=reports(SO_MEMINFO, 36) == 36,
            multicast_all=accepts(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0),
            source_membership=knows_source_groups(),
            packet_info=accepts(socket.IPPROTO_IP, IP_PKTINFO, 1) and receives_control and sends_control,
            error_queue=accepts(socket.IPPROTO_IP, IP_RECVERR, 1) and receives_control,
            path_mtu=accepts(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0),
            # Reading it needs no privilege, unlike setting it before Linux 5.7.
            bind_to_device=found.bind_to_device and reports(socket.SO_BINDTODEVICE, 16) is not None,
            reuse_port=found.reuse_port and accepts(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
            disconnect=disconnects(),
            compiled=native is not None and batches,
        )


detected: Capabilities | None = None
"""The capabilities of this process once they were asked for."""


def capabilities() -> Capabilities:
    """Return what this system has beyond the portable calls::

        if not trio_dgram.capabilities().receive_offload:
            print("this kernel does not coalesce datagrams")

    The first call in a process tries each of them on a socket of its own and sends nothing; later calls return the
    same value.

    Raises:
      OSError: if no socket can be created, such as EMFILE.
    """
    global detected  # noqa: PLW0603 -- one process has one kernel
    if detected is None:
        detected = detect()
    return detected


def capabilities_of(sock: object) -> Capabilities:
    """Return the capabilities of ``sock``: its own if it is simulated, otherwise those of this system."""
    own: Capabilities | None = getattr(sock, "capabilities", None)
    return capabilities() if own is None else own
