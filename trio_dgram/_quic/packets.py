"""The part of a packet's header that selects its connection (RFC 8999, RFC 9000, 17.2): bytes in, values out."""

from __future__ import annotations

from typing import Final, NamedTuple

ID_SIZE: Final = 8
"""The size of the connection IDs that we choose, in bytes."""
SMALLEST_DATAGRAM: Final = 1200
"""The size of the smallest datagram that may begin a connection (RFC 9000, 14.1)."""

_LONG: Final = 0x80
_FIXED: Final = 0x40
_INITIAL: Final = {1: 0, 0x6B3343CF: 1}
"""The type of Initial packets in each version (RFC 9000, 17.2.2; RFC 9369, 3.2)."""


class Header(NamedTuple):
    """The fields of a long header that are needed before a connection exists."""

    version: int
    destination: bytes
    source: bytes
    token: bytes
    is_initial: bool


def destination_of_untrusted(data: bytes) -> bytes:
    """Return the destination connection ID of a datagram; of any length, even 0, if the header is malformed."""
    if data[:1] < b"\x80":
        return data[1 : 1 + ID_SIZE]
    return data[6 : 6 + data[5]] if len(data) > 5 else b""


def parse_long_header_untrusted(data: bytes) -> Header | None:
    """Return the long header of a datagram; None if it has a short one, or is malformed."""
    try:
        if not data[0] & _LONG:
            return None
        version = int.from_bytes(data[1:5])
        destination, position = _pull_id(data, 5)
        source, position = _pull_id(data, position)
        is_initial = bool(data[0] & _FIXED) and _INITIAL.get(version) == data[0] >> 4 & 3
        token = _pull_token(data, position) if is_initial else b""
    except (IndexError, ValueError):
        return None
    return Header(version, destination, source, token, is_initial)


def _pull_id(data: bytes, position: int) -> tuple[bytes, int]:
    end = position + 1 + data[position]
    if end > len(data):
        raise ValueError("truncated")
    return data[position + 1 : end], end


def _pull_token(data: bytes, position: int) -> bytes:
    size = 1 << (data[position] >> 6)
    length = int.from_bytes(data[position : position + size]) & ((1 << 8 * size - 2) - 1)
    start = position + size
    if start + length > len(data):
        raise ValueError("truncated")
    return data[start : start + length]
