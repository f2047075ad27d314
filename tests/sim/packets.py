"""Packets for tests of their fates."""

from __future__ import annotations

from trio_dgram import Address
from trio_dgram.sim._values.records import INTERFACE_MTU, Packet

HEADERS_4 = 28
HEADERS_6 = 48


def make_packet(
    number: int = 1,
    size: int = 100,
    *,
    ipv6: bool = False,
    dont_fragment: bool = False,
    fragment_size: int = INTERFACE_MTU,
) -> Packet:
    """Return a packet with a payload of ``size`` bytes."""
    source, destination = ("fd00::1", "fd00::2") if ipv6 else ("10.0.0.1", "10.0.0.2")
    return Packet(
        number,
        Address(source, 1111),
        Address(destination, 2222),
        bytes(size),
        "a",
        0.0,
        dont_fragment=dont_fragment,
        fragment_size=fragment_size,
    )
