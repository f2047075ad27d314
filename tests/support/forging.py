"""Frames that no kernel would send: Ethernet, IPv4 or IPv6, and UDP, byte by byte.

The headers are those of RFC 791 (IPv4), RFC 8200 (IPv6 and its fragments) and RFC 768 (UDP).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

import attrs

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_ETHERNET_TYPES: Final = {4: 0x0800, 6: 0x86DD}
_HOPS: Final = 64
_FRAGMENT: Final = 44
"""The IPv6 extension header of a fragment."""
_MORE_FRAGMENTS: Final = 0x2000
_MARK: Final = 0x1234
"""What the fragments of one packet have in common."""


@attrs.frozen
class Endpoint:
    """The source or the destination of a forged datagram."""

    host: IPAddress = attrs.field(converter=ipaddress.ip_address)
    port: int


def udp_packets(
    source: Endpoint, destination: Endpoint, payload: bytes, *, checksum_error: int = 0, mtu: int = 1500
) -> list[bytes]:
    """Return the IP packets that carry one datagram: a single one, or fragments.

    Args:
      source: the claimed source; of the family of ``destination``.
      destination: its destination.
      payload: what it carries.
      checksum_error: what is added to the right UDP checksum.
      mtu: the largest packet, in bytes.
    """
    datagram = _udp(source, destination, payload, checksum_error)
    return list(_packets(source.host, destination.host, datagram, mtu))


def internet_checksum(data: bytes) -> int:
    """Return the ones' complement of the ones' complement sum of 16-bit words (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{-(-len(data) // 2)}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _udp(source: Endpoint, destination: Endpoint, payload: bytes, checksum_error: int) -> bytes:
    length = 8 + len(payload)
    # The same sum for both families, since zeros add nothing (RFC 8200, 8.1).
    pseudo_header = source.host.packed + destination.host.packed + struct.pack("!II", length, socket.IPPROTO_UDP)
    header = struct.pack("!HHHH", source.port, destination.port, length, 0)
    checksum = (internet_checksum(pseudo_header + header + payload) + checksum_error) & 0xFFFF
    # Zero means no checksum.
    return header[:6] + struct.pack("!H", checksum or 0xFFFF) + payload


def _packets(source: IPAddress, destination: IPAddress, body: bytes, mtu: int) -> Iterator[bytes]:
    overhead = 20 if source.version == 4 else 40
    if overhead + len(body) <= mtu:
        yield _ip_header(source, destination, len(body), fragment=None) + body
        return
    # Offsets count units of eight bytes.
    step = (mtu - overhead - 8) // 8 * 8
    for offset in range(0, len(body), step):
        part = body[offset : offset + step]
        more = offset + step < len(body)
        yield _ip_header(source, destination, len(part), fragment=(offset, more)) + part


def _ip_header(source: IPAddress, destination: IPAddress, length: int, fragment: tuple[int, bool] | None) -> bytes:
    offset, more = fragment or (0, False)
    if source.version == 4:
        where = offset // 8 | _MORE_FRAGMENTS * more
        fields = (0x45, 0, 20 + length, _MARK, where, _HOPS, socket.IPPROTO_UDP, 0)
        header = struct.pack("!BBHHHBBH", *fields) + source.packed + destination.packed
        return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]
    if fragment is None:
        return struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, _HOPS) + source.packed + destination.packed
    extension = struct.pack("!BBHI", socket.IPPROTO_UDP, 0, offset | more, _MARK)
    first = struct.pack("!IHBB", 6 << 28, len(extension) + length, _FRAGMENT, _HOPS)
    return first + source.packed + destination.packed + extension


@attrs.frozen
class Forger:
    """Puts frames on a link. Made by :func:`open_forger`."""

    _socket: socket.socket
    _mac: bytes

    def send(self, packet: bytes) -> None:
        """Put one IP packet on the link."""
        own: bytes = self._socket.getsockname()[4]
        kind = _ETHERNET_TYPES[packet[0] >> 4]
        self._socket.send(self._mac + own + struct.pack("!H", kind) + packet)

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()


def open_forger(interface: str, mac: str) -> Forger:
    """Return what puts frames for the Ethernet address ``mac`` on the link of ``interface``, in this namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((interface, 0))
    return Forger(sock, bytes.fromhex(mac.replace(":", "")))
