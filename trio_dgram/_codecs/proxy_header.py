"""PROXY protocol headers, from bytes to values (HAProxy, doc/proxy-protocol.txt).

Rule 1: version 1 is a line of text, version 2 is binary; either precedes the payload in the same datagram.
Rule 2: the addresses are those of the client and of the proxy's own socket. A header with the command LOCAL, or of
    version 1 with UNKNOWN, precedes a datagram of the proxy itself; its addresses mean nothing.
Rule 3: anything that is not exactly a header is refused; nothing is guessed.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from functools import lru_cache
from typing import Final

from .._values.addresses import Address, is_ipv4_group, new_tuple
from .._values.datagrams import ProxyHeader
from .._values.errors import ProxyHeaderError

V1_PREFIX: Final = b"PROXY "
V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V2_FIXED_SIZE: Final = 16
"""The size of a version 2 header without addresses and extensions, in bytes."""
ALL_VERSIONS: Final = frozenset({1, 2})

_LINE_END: Final = b"\r\n"
_LONGEST_LINE: Final = 107
"""The size of the longest version 1 header with its CRLF, in bytes."""
_MOST_TLVS: Final = 64

_LOCAL, _PROXY = 0, 1
_UNSPECIFIED: Final = 0x00
_STREAMS: Final = frozenset({0x11, 0x21})
_IPV4: Final = struct.Struct("!4s4sHH")
_IPV6: Final = struct.Struct("!16s16sHH")
_ADDRESSES: Final = {
    0x11: (_IPV4, socket.AF_INET),
    0x12: (_IPV4, socket.AF_INET),
    0x21: (_IPV6, socket.AF_INET6),
    0x22: (_IPV6, socket.AF_INET6),
}
"""The form of the addresses for each family and transport that has any: IPv4 or IPv6, stream or datagram."""

_CRC32C: Final = 0x03
_NOOP: Final = 0x04

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The first bytes of an IPv4-mapped address (RFC 4291, 2.5.5.2)."""

_LINE: Final = re.compile(
    rb"PROXY (?:TCP|UDP)(?P<version>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+)"
    rb" (?P<source_port>0|[1-9][0-9]{0,4}) (?P<destination_port>0|[1-9][0-9]{0,4})"
)
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)


def malformed(reason: str) -> ProxyHeaderError:
    """Return the error for a datagram without a valid header."""
    return ProxyHeaderError(errno.EBADMSG, reason)


def begins_like_header(data: bytes) -> bool:
    """Whether ``data`` begins as every header of one of the versions does."""
    return data.startswith((V2_SIGNATURE, V1_PREFIX))


def line_size(data: bytes) -> int:
    """Return the size of the version 1 header that ``data`` begins with; below 2 without one."""
    return data.find(_LINE_END, 0, _LONGEST_LINE) + len(_LINE_END) if data.startswith(V1_PREFIX) else 0


def parse_untrusted(
    data: bytes, *, versions: frozenset[int] = ALL_VERSIONS, stream_ok: bool = False
) -> tuple[ProxyHeader, int]:
    """Return the header that ``data`` begins with, and the offset of the payload behind it.

    Args:
      data: a datagram.
      versions: the versions of the protocol to accept.
      stream_ok: whether to accept version 2 headers whose transport is STREAM.

    Raises:
      ProxyHeaderError: if the datagram does not begin with such a header.
    """
    if data.startswith(V2_SIGNATURE):
        _check_version(2, versions)
        return _parse_binary(data, stream_ok=stream_ok)
    if data.startswith(V1_PREFIX):
        _check_version(1, versions)
        return _parse_line(data)
    raise malformed("the datagram does not begin with a PROXY protocol header")


def _check_version(version: int, versions: frozenset[int]) -> None:
    if version not in versions:
        raise malformed(f"the PROXY protocol header has version {version}, which proxy_versions lacks")


def _parse_binary(data: bytes, *, stream_ok: bool) -> tuple[ProxyHeader, int]:
    if len(data) < V2_FIXED_SIZE:
        raise malformed(f"the PROXY protocol header ends after {len(data)} bytes")
    version, command = divmod(data[12], 16)
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise malformed(f"the PROXY protocol header has version and command 0x{data[12]:02x}, not 0x20 or 0x21")
    kind = data[13]
    end = V2_FIXED_SIZE + int.from_bytes(data[14:16], "big")
    if end > len(data):
        raise malformed(f"the PROXY protocol header is {end} bytes long, the datagram {len(data)}")
    form, family = _ADDRESSES.get(kind, (None, socket.AF_UNSPEC))
    fits = form is not None and end >= V2_FIXED_SIZE + form.size
    if command == _LOCAL:
        # The protocol has the receiver discard the block; what can be read of it is shown.
        source, destination = _unpack(form, family, data) if form is not None and fits else (None, None)
        return ProxyHeader(command="local", source=source, destination=destination), end
    if form is None:
        reason = "no address family" if kind == _UNSPECIFIED else f"family and transport 0x{kind:02x}"
        raise malformed(f"the PROXY protocol header of a client has {reason}, not IPv4 or IPv6 and DGRAM")
    if kind in _STREAMS and not stream_ok:
        raise malformed("the PROXY protocol header has transport STREAM: set proxy_stream_ok=True to accept it")
    if not fits:
        raise malformed(f"the PROXY protocol header is {end} bytes long, too short for its addresses")
    source, destination = _unpack(form, family, data)
    _check_source(source)
    tlvs = _parse_tlvs(data, V2_FIXED_SIZE + form.size, end)
    return ProxyHeader(command="proxy", source=source, destination=destination, tlvs=tlvs), end


def _unpack(form: struct.Struct, family: socket.AddressFamily, data: bytes) -> tuple[Address, Address]:
    source, destination, source_port, destination_port = form.unpack_from(data, V2_FIXED_SIZE)
    return (
        new_tuple(Address, (_host(family, source), source_port)),
        new_tuple(Address, (_host(family, destination), destination_port)),
    )


def _host(family: socket.AddressFamily, packed: bytes) -> str:
    """Return an address as text, an IPv4-mapped one as IPv4."""
    if packed.startswith(_MAPPED):
        family, packed = socket.AF_INET, packed[12:]
    return socket.inet_ntop(family, packed)


def _check_source(source: Address) -> None:
    """Raise unless a client can have the address ``source``; the socket filters port 0 and unspecified hosts."""
    host = source[0]
    # An IPv6 group begins with ff and two more digits (RFC 4291, 2.7).
    is_group = is_ipv4_group(host) or (host.startswith("ff") and host.find(":") == 4)
    if is_group or host == "255.255.255.255":
        raise malformed(f"the PROXY protocol header names {host} as client, which cannot be a source")


def _parse_tlvs(data: bytes, start: int, end: int) -> tuple[tuple[int, bytes], ...]:
    tlvs: list[tuple[int, bytes]] = []
    count = 0
    while start < end:
        count += 1
        if count > _MOST_TLVS:
            raise malformed(f"the PROXY protocol header has more than {_MOST_TLVS} TLVs")
        following = start + 3 + int.from_bytes(data[start + 1 : start + 3], "big")
        if start + 3 > end or following > end:
            raise malformed("a TLV of the PROXY protocol header exceeds it")
        type_, value = data[start], data[start + 3 : following]
        if type_ == _CRC32C:
            _check_crc(data, start + 3, value, end)
        if type_ != _NOOP:
            tlvs.append((type_, value))
        start = following
    return tuple(tlvs)


def _check_crc(data: bytes, position: int, value: bytes, end: int) -> None:
    """Raise unless the checksum ``value`` at ``position`` is that of the header, which it counts in as zeros."""
    if len(value) != 4 or int.from_bytes(value, "big") != crc32c(data[:position] + bytes(4) + data[position + 4 : end]):
        raise malformed("the CRC32C of the PROXY protocol header is wrong")


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data`` (RFC 9260, appendix A)."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@lru_cache(1)
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 -- a shift register
        table.append(value)
    return tuple(table)


def _parse_line(data: bytes) -> tuple[ProxyHeader, int]:
    # TCP is accepted in any case: nginx writes it for UDP.
    end = line_size(data)
    if end < len(_LINE_END):
        raise malformed(f"the PROXY protocol line does not end within {_LONGEST_LINE} bytes")
    line = data[: end - len(_LINE_END)]
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader(command="local", source=None, destination=None), end
    found = _LINE.fullmatch(line)
    if found is None:
        raise malformed(f"the PROXY protocol line is malformed: {line!r}")
    family = socket.AF_INET if found["version"] == b"4" else socket.AF_INET6
    source, destination = (
        Address(_canonical(family, found[name], line), _port(found[f"{name}_port"], line))
        for name in ("source", "destination")
    )
    _check_source(source)
    return ProxyHeader(command="proxy", source=source, destination=destination), end


def _canonical(family: socket.AddressFamily, text: bytes, line: bytes) -> str:
    try:
        packed = socket.inet_pton(family, text.decode("ascii"))
    except OSError:
        raise malformed(f"the PROXY protocol line has an address that is none of its family: {line!r}") from None
    return _host(family, packed)


def _port(text: bytes, line: bytes) -> int:
    port = int(text)
    if port > 65535:
        raise malformed(f"the PROXY protocol line has a port above 65535: {line!r}")
    return port
