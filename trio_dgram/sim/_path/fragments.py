"""Fragmentation: the packets that carry a datagram (RFC 791, 3.2; RFC 8200, 4.5).

Rule 1: all fragments but the last carry a multiple of 8 bytes.
Rule 2: an IPv6 fragment has a header more than a whole packet.
"""

from __future__ import annotations

from typing import Final

from .._values.records import IPV4_HEADER, IPV6_HEADER, UDP_HEADER, Packet

IPV6_FRAGMENT_HEADER: Final = 8
"""In bytes (RFC 8200, 4.5)."""
MOST_HEADERS: Final = IPV6_HEADER + UDP_HEADER
"""The most header bytes of an unfragmented packet."""


def sent_sizes(packet: Packet) -> list[int]:
    """Return the sizes of the fragments that the sender makes of this packet, IP headers included, in bytes."""
    size = packet.ip_size
    if size <= packet.fragment_size:
        return [size]
    whole_header = IPV6_HEADER if packet.is_ipv6 else IPV4_HEADER
    return _split(size - whole_header, packet.fragment_size, _fragment_header(packet))


def cut_sizes(packet: Packet, sizes: list[int], mtu: int) -> list[int]:
    """Return the sizes after fragmenting each of ``sizes``, in which ``packet`` was sent, to at most ``mtu`` bytes."""
    header = _fragment_header(packet)
    whole_header = IPV6_HEADER if packet.is_ipv6 and len(sizes) == 1 else header
    cut = []
    for size in sizes:
        cut += [size] if size <= mtu else _split(size - whole_header, mtu, header)
    return cut


def _fragment_header(packet: Packet) -> int:
    return IPV6_HEADER + IPV6_FRAGMENT_HEADER if packet.is_ipv6 else IPV4_HEADER


def _split(content: int, largest: int, header: int) -> list[int]:
    # Every valid MTU has space for payload, but the loop must end for any argument.
    room = max(8, (largest - header) // 8 * 8)
    sizes = []
    while content > max(room, largest - header):
        sizes.append(header + room)
        content -= room
    return [*sizes, header + content]
