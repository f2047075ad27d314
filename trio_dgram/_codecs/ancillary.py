"""Ancillary data: control messages of the kernel to values and back (cmsg(3), recvmsg(2)).

Messages of an unknown kind or of a wrong size are ignored: no received bytes make a function here raise.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from .._values.datagrams import Credentials, PacketInfo, ReceivedPacketInfo

# The socket module of some supported Python lacks these. The numbers are Linux's (ip(7), ipv6(7), udp(7), socket(7),
# unix(7)).
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_TOS: Final = 1
IP_TTL: Final = 2
IP_PKTINFO: Final = 8
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVHOPLIMIT: Final = 51
IPV6_HOPLIMIT: Final = 52
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
SO_PASSCRED: Final = 16
SO_TIMESTAMPNS: Final = 35
SCM_CREDENTIALS: Final = 2

ControlMessage: TypeAlias = tuple[int, int, bytes]
"""Level, type and data of one control message, as ``recvmsg`` returns it and ``sendmsg`` takes it."""
Ancillary: TypeAlias = Iterable[ControlMessage]
"""The control messages of one datagram."""

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The first bytes of an IPv4-mapped address (RFC 4291, 2.5.5.2)."""


_HEADER: Final = struct.Struct("@Nii")
"""struct cmsghdr: the size including the header, the level and the type."""
_ALIGNMENT: Final = struct.calcsize("@N")


def control_messages(packed: bytes) -> list[ControlMessage]:
    """Return the control messages in ``packed``, where the kernel has put them one after the other (cmsg(3))."""
    messages: list[ControlMessage] = []
    start = 0
    while start + _HEADER.size <= len(packed):
        size, level, kind = _HEADER.unpack_from(packed, start)
        if not _HEADER.size <= size <= len(packed) - start:
            break
        messages.append((level, kind, packed[start + _HEADER.size : start + size]))
        start += -(-size // _ALIGNMENT) * _ALIGNMENT
    return messages


def segment_size(ancillary: Ancillary) -> int:
    """Return the size of each datagram of a coalesced batch, in bytes; 0 for a single datagram (udp(7)).

    Args:
      ancillary: the control messages of the batch.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO and len(data) == 4:
            return max(0, int(struct.unpack("=i", data)[0]))
    return 0


def packet_info_messages(ancillary: Ancillary) -> tuple[ControlMessage, ...]:
    """Return the control messages that report the local address and the interface of a datagram (IP_PKTINFO,
    IPV6_PKTINFO)."""
    return tuple(message for message in ancillary if message[:2] in _PACKET_INFO)


def decode_packet_info(ancillary: Ancillary, *, truncated: bool = False) -> PacketInfo:
    """Return the metadata in the control messages of a received datagram.

    Args:
      ancillary: the control messages: level, type and data of each.
      truncated: whether the flags had MSG_TRUNC: the payload was longer than what was read. Default: False.

    A field that no control message reports is ``None``. Messages of other kinds, or of a size that their kind does not
    have, are ignored; nothing is raised because of them.
    """
    fields: dict[str, Any] = {"truncated": truncated}
    for level, kind, data in ancillary:
        known = _DECODERS.get((level, kind))
        if known is not None and len(data) == known[0]:
            known[1](fields, data)
    specific = fields.pop("specific", None)
    local = fields.pop("local", None)
    if local is not None:
        fields["local_address"] = _text(local)
        if specific is not None:
            fields["unicast_address"] = _text(_MAPPED + specific if len(local) == 16 else specific)
        elif not _is_group(local):
            fields["unicast_address"] = _text(local)
    return ReceivedPacketInfo(**fields)


def encode_packet_info(info: PacketInfo, host: str, *, on_ipv6: bool, traffic_class: int = 0) -> list[ControlMessage]:
    """Return the control messages with which ``sendmsg`` sends a datagram with ``info``.

    Args:
      info: the source address, interface, ECN, DSCP and hop limit to use; the socket decides those that are ``None``.
        The other fields concern received datagrams and are ignored.
      host: the numeric destination address.
      on_ipv6: whether the socket is an IPv6 one; its destination may be an IPv4-mapped address.
      traffic_class: the socket's own traffic class, which supplies ECN or DSCP if ``info`` has only the other one.
        Default: 0.

    Raises:
      ValueError: if a datagram to ``host`` cannot have that source address.
    """
    to_ipv4 = not on_ipv6 or ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped is not None
    level, version = (socket.IPPROTO_IP, "IPv4") if to_ipv4 else (socket.IPPROTO_IPV6, "IPv6")
    messages: list[ControlMessage] = []
    if info.local_address is not None or info.interface is not None:
        source = bytes(4 if to_ipv4 else 16)
        if info.local_address is not None:
            address = ipaddress.ip_address(info.local_address.partition("%")[0])
            address = getattr(address, "ipv4_mapped", None) or address
            if (address.version == 4) != to_ipv4:
                raise ValueError(f"local_address must be an {version} address to send to {host}, not {address}")
            source = address.packed
        index = info.interface or 0
        if on_ipv6:
            # Also for an IPv4-mapped destination.
            packed = struct.pack("=16si", _MAPPED + source if to_ipv4 else source, index)
            messages.append((socket.IPPROTO_IPV6, IPV6_PKTINFO, packed))
        else:
            messages.append((socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4x", index, source)))
    if info.ecn is not None or info.dscp is not None:
        ecn = traffic_class & 3 if info.ecn is None else info.ecn
        dscp = traffic_class >> 2 if info.dscp is None else info.dscp
        messages.append((level, IP_TOS if to_ipv4 else IPV6_TCLASS, struct.pack("=i", dscp << 2 | ecn)))
    if info.hop_limit is not None:
        messages.append((level, IP_TTL if to_ipv4 else IPV6_HOPLIMIT, struct.pack("=i", info.hop_limit)))
    return messages


def _text(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _is_group(packed: bytes) -> bool:
    if packed.startswith(_MAPPED):
        packed = packed[12:]
    # IPv4 from 224.0.0.0 on: groups, reserved addresses and the broadcast address; IPv6: ff00::/8.
    return packed[0] >= 224 if len(packed) == 4 else packed[0] == 255


def _ipv4_packet_info(fields: dict[str, Any], data: bytes) -> None:
    # struct in_pktinfo: the address to reply from, and the destination in the header (ip(7)).
    index, specific, header = struct.unpack("=i4s4s", data)
    fields.setdefault("local", header)
    fields["interface"] = index if index > 0 else None
    if not _is_group(specific) and any(specific):
        fields["specific"] = specific


def _ipv6_packet_info(fields: dict[str, Any], data: bytes) -> None:
    # struct in6_pktinfo (RFC 3542, 6.1); for an IPv4 peer it has a mapped address.
    fields["local"], index = struct.unpack("=16si", data)
    fields["interface"] = index if index > 0 else None


def _traffic_class(fields: dict[str, Any], data: bytes) -> None:
    byte = data[0] if len(data) == 1 else struct.unpack("=i", data)[0] & 0xFF
    fields["dscp"], fields["ecn"] = byte >> 2, byte & 3


def _hop_limit(fields: dict[str, Any], data: bytes) -> None:
    (value,) = struct.unpack("=i", data)
    if 0 <= value <= 255:
        fields["hop_limit"] = value


def _timestamp(fields: dict[str, Any], data: bytes) -> None:
    seconds, nanoseconds = struct.unpack("@ll", data)
    fields["timestamp_ns"] = seconds * 1_000_000_000 + nanoseconds


def _credentials(fields: dict[str, Any], data: bytes) -> None:
    found = Credentials(*struct.unpack("@iII", data))
    # Linux reports this for a sender that it does not know, such as of a datagram sent before SO_PASSCRED was set.
    fields["credentials"] = None if found == _UNKNOWN else found


_PACKET_INFO: Final = frozenset({(socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, IPV6_PKTINFO)})
_UNKNOWN: Final = Credentials(0, 65534, 65534)

_DECODERS: Final[dict[tuple[int, int], tuple[int, Callable[[dict[str, Any], bytes], None]]]] = {
    (socket.IPPROTO_IP, IP_PKTINFO): (12, _ipv4_packet_info),
    (socket.IPPROTO_IP, IP_TOS): (1, _traffic_class),
    (socket.IPPROTO_IP, IP_TTL): (4, _hop_limit),
    (socket.IPPROTO_IPV6, IPV6_PKTINFO): (20, _ipv6_packet_info),
    (socket.IPPROTO_IPV6, IPV6_TCLASS): (4, _traffic_class),
    (socket.IPPROTO_IPV6, IPV6_HOPLIMIT): (4, _hop_limit),
    (socket.SOL_SOCKET, SO_TIMESTAMPNS): (struct.calcsize("@ll"), _timestamp),
    (socket.SOL_SOCKET, SCM_CREDENTIALS): (12, _credentials),
}
"""By level and type: the size of the data, and the function that decodes it into the fields of the info."""
