"""Packets as they are on the wire: UDP datagrams and ICMP errors, from the IP header on."""

from __future__ import annotations

import socket
import struct
from typing import Final

from .places import packed
from .records import IPV4_HEADER, IPV6_HEADER, UDP_HEADER, Packet, Report

DONT_FRAGMENT: Final = 0x4000
"""The flag of an IPv4 header."""
_QUOTED: Final = {False: 8, True: 1192}
"""The most bytes after its IP header that an ICMP message quotes, by whether it is ICMPv6 (RFC 792, RFC 4443)."""


def encode(packet: Packet) -> bytes:
    """Return a packet as it is on the wire, from its IP header on."""
    ipv6 = packet.is_ipv6
    if packet.report is None:
        protocol, body = int(socket.IPPROTO_UDP), _udp(packet)
    else:
        protocol = int(socket.IPPROTO_ICMPV6 if ipv6 else socket.IPPROTO_ICMP)
        body = _icmp(packet, packet.report)
    return (_ipv6_header if ipv6 else _ipv4_header)(packet, protocol, len(body)) + body


def _udp(packet: Packet) -> bytes:
    # RFC 768
    length = UDP_HEADER + len(packet.payload)
    body = struct.pack("!HHHH", packet.source.port, packet.destination.port, length, 0) + packet.payload
    checksum = _checksum(_pseudo_header(packet, int(socket.IPPROTO_UDP), length) + body) or 0xFFFF
    if packet.broken:
        # A checksum of 0 means none and would pass (RFC 768).
        checksum = checksum ^ 0x5555 or 0xAAAA
    return body[:6] + struct.pack("!H", checksum) + body[8:]


def _icmp(packet: Packet, report: Report) -> bytes:
    # RFC 792, RFC 1191, RFC 4443: the message quotes its packet, over IPv4 only the beginning of the datagram.
    ipv6 = packet.is_ipv6
    header = IPV6_HEADER if ipv6 else IPV4_HEADER
    quoted = encode(report.about)[: header + _QUOTED[ipv6]]
    # The MTU has four bytes, or the latter two of them.
    body = struct.pack("!BBHI", report.type, report.code, 0, report.mtu) + quoted
    covered = (_pseudo_header(packet, int(socket.IPPROTO_ICMPV6), len(body)) if ipv6 else b"") + body
    return body[:2] + struct.pack("!H", _checksum(covered)) + body[4:]


def _ipv4_header(packet: Packet, protocol: int, size: int) -> bytes:
    # RFC 791, 3.1
    flags = DONT_FRAGMENT if packet.dont_fragment else 0
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        packet.traffic_class,
        IPV4_HEADER + size,
        packet.number & 0xFFFF,
        flags,
        packet.hop_limit,
        protocol,
        0,
        packed(packet.source.host),
        packed(packet.destination.host),
    )
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:]


def _ipv6_header(packet: Packet, protocol: int, size: int) -> bytes:
    # RFC 8200, 3
    first = 6 << 28 | packet.traffic_class << 20
    addresses = packed(packet.source.host) + packed(packet.destination.host)
    return struct.pack("!IHBB", first, size, protocol, packet.hop_limit) + addresses


def _pseudo_header(packet: Packet, protocol: int, length: int) -> bytes:
    # RFC 768; RFC 8200, 8.1
    addresses = packed(packet.source.host) + packed(packet.destination.host)
    if packet.is_ipv6:
        return addresses + struct.pack("!I3xB", length, protocol)
    return addresses + struct.pack("!xBH", protocol, length)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF
