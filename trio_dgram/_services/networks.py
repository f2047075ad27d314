"""The networks that peers count for, and how many peers each has."""

from __future__ import annotations

import socket
from typing import Final

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The first bytes of an IPv4-mapped address (RFC 4291, 2.5.5.2)."""


class NetworkCounts:
    """The numbers of peers of each network, and their limits.

    Args:
      limits: the largest number in an IPv4 /24 and in an IPv6 /56; None for any number, which counts nothing.
    """

    def __init__(self, limits: tuple[int, int] | None) -> None:
        self._limits = limits
        self._counts: dict[str, int] = {}

    def find(self, host: str) -> str | None:
        """Return the network for :meth:`add`, None if it is at its limit."""
        if self._limits is None:
            return ""
        network, index = network_of(host)
        return network if self._counts.get(network, 0) < self._limits[index] else None

    def add(self, network: str) -> None:
        """Count one peer more."""
        if network:
            self._counts[network] = self._counts.get(network, 0) + 1

    def remove(self, network: str) -> None:
        """Count one peer less."""
        if network:
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]


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
