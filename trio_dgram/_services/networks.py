"""The networks that peers count for."""

from __future__ import annotations

import socket
from typing import Final

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The first bytes of an IPv4-mapped address (RFC 4291, 2.5.5.2)."""


def network_of(host: str) -> tuple[str, int]:
    """Return the network that a peer counts for, and the index of its limit: 0 for an IPv4 /24, 1 for an IPv6 /56.

    An IPv4-mapped address counts as IPv4. A flood of forged sources calls this per datagram.
    """
    if ":" not in host:
        return f"{host.rpartition('.')[0]}.0/24", 0
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return "{}.{}.{}.0/24".format(*packed[12:15]), 0
    return f"{socket.inet_ntop(socket.AF_INET6, packed[:7] + bytes(9))}/56", 1
