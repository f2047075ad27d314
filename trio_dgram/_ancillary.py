"""Ancillary data: what the kernel tells beside a payload, from bytes to values (cmsg(3), recvmsg(2))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Final, TypeAlias

# Not in the socket module; the numbers are Linux's (udp(7)).
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104

Ancillary: TypeAlias = Iterable[tuple[int, int, bytes]]
"""Level, type and data of each control message, as ``recvmsg`` returns them."""


def segment_size(ancillary: Ancillary) -> int:
    """Return how long each datagram of a coalesced batch is, in bytes; 0 where it is a single one (udp(7))."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO and len(data) == 4:
            return int(struct.unpack("=i", data)[0])
    return 0
