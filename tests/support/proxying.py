"""PROXY protocol headers as proxies write them."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Final

SIGNATURE: Final = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL: Final = SIGNATURE + b"\x20\x00\x00\x00"
"""The header of dnsdist's health checks."""
SERVICE: Final = ("192.0.2.53", 53)
"""The address that clients send to."""
SERVICE6: Final = ("2001:db8::53", 53)
PROXY, DGRAM, STREAM = 1, 2, 1


def tlv(type_: int, value: bytes) -> bytes:
    """Return one extension."""
    return struct.pack("!BH", type_, len(value)) + value


def v2(
    source: tuple[str, int],
    destination: tuple[str, int] | None = None,
    *,
    tlvs: Iterable[tuple[int, bytes]] = (),
    command: int = PROXY,
    transport: int = DGRAM,
) -> bytes:
    """Return a header of version 2; both addresses are of the family of ``source``."""
    version = ipaddress.ip_address(source[0]).version
    if destination is None:
        destination = SERVICE if version == 4 else SERVICE6
    block = b"".join(ipaddress.ip_address(host).packed for host, _ in (source, destination))
    block += struct.pack("!HH", source[1], destination[1]) + b"".join(tlv(*each) for each in tlvs)
    family = {4: 0x10, 6: 0x20}[version]
    return SIGNATURE + struct.pack("!BBH", 0x20 + command, family + transport, len(block)) + block


def v1(source: tuple[str, int], destination: tuple[str, int] | None = None, protocol: str = "TCP") -> bytes:
    """Return a header of version 1, as nginx writes it also for UDP."""
    version = ipaddress.ip_address(source[0]).version
    if destination is None:
        destination = SERVICE if version == 4 else SERVICE6
    return f"PROXY {protocol}{version} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()
