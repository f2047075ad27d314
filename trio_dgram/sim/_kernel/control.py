"""The control messages of a simulated kernel: the counterpart of the library's own encoders and decoders."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

import attrs

from ..._codecs.ancillary import (
    IP_PKTINFO,
    IP_RECVTOS,
    IP_RECVTTL,
    IP_TOS,
    IP_TTL,
    IPV6_HOPLIMIT,
    IPV6_PKTINFO,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_TCLASS,
    SO_TIMESTAMPNS,
    UDP_SEGMENT,
    Ancillary,
    ControlMessage,
)
from ..._codecs.error_queue import ICMP, ICMP6, IP_RECVERR, IPV6_RECVERR, LOCAL
from .._values.places import is_ipv6, kind_of, packed, plain, refusal, sockaddr_of
from .._values.records import Packet
from .option_table import SO_TIMESTAMP
from .settings import Settings

_MOST_SEGMENTS: Final = 64
"""The most datagrams that one call sends."""
_SO_RXQ_OVFL: Final = 40
_IP, _IPV6, _SOL = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET


def describe(
    packet: Packet,
    settings: Settings,
    family: socket.AddressFamily,
    index: int,
    own: str,
    nanoseconds: int,
    drops: int = 0,
) -> list[ControlMessage]:
    """Return the control messages of a received datagram.

    Args:
      packet: the datagram.
      settings: the options that enable control messages.
      family: the socket's.
      index: the interface that received it.
      own: the address of the host to reply from.
      nanoseconds: its arrival by the wall clock.
      drops: the drop counter when it was queued.
    """
    messages = _socket_level(settings, nanoseconds, drops)
    to = packet.destination.host
    if is_ipv6(to):
        if settings.is_on(_IPV6, IPV6_RECVTCLASS):
            messages.append((_IPV6, IPV6_TCLASS, struct.pack("=i", packet.traffic_class)))
        if settings.is_on(_IPV6, IPV6_RECVHOPLIMIT):
            messages.append((_IPV6, IPV6_HOPLIMIT, struct.pack("=i", packet.hop_limit)))
    else:
        if settings.is_on(_IP, IP_PKTINFO):
            messages.append((_IP, IP_PKTINFO, struct.pack("=i4s4s", index, packed(own), packed(to))))
        if settings.is_on(_IP, IP_RECVTTL):
            messages.append((_IP, IP_TTL, struct.pack("=i", packet.hop_limit)))
        if settings.is_on(_IP, IP_RECVTOS):
            messages.append((_IP, IP_TOS, bytes([packet.traffic_class])))
    if settings.is_on(_IPV6, IPV6_RECVPKTINFO):
        destination = packed(sockaddr_of(family, to, 0)[0])
        messages.append((_IPV6, IPV6_PKTINFO, struct.pack("=16si", destination, index)))
    return messages


def _socket_level(settings: Settings, nanoseconds: int, drops: int) -> list[ControlMessage]:
    messages: list[ControlMessage] = []
    if settings.is_on(_SOL, SO_TIMESTAMPNS):
        messages.append((_SOL, SO_TIMESTAMPNS, struct.pack("@ll", *divmod(nanoseconds, 1_000_000_000))))
    elif settings.is_on(_SOL, SO_TIMESTAMP):
        messages.append((_SOL, SO_TIMESTAMP, struct.pack("@ll", *divmod(nanoseconds // 1000, 1_000_000))))
    if drops and settings.is_on(_SOL, _SO_RXQ_OVFL):
        messages.append((_SOL, _SO_RXQ_OVFL, struct.pack("=I", drops)))
    return messages


@attrs.define
class Instructions:
    """The options of one send; a value of None is left to the socket."""

    source: str | None = None
    index: int = 0
    hop_limit: int | None = None
    traffic_class: int | None = None
    segment: int = 0
    """The segment size of the payload, in bytes; 0 for a single datagram."""


def read_instructions(ancillary: Ancillary) -> Instructions:
    """Return the options in the control messages of a ``sendmsg``.

    Raises:
      OSError: EINVAL for a control message that Linux does not know, or of a wrong size.
    """
    found = Instructions()
    for level, number, data in ancillary:
        try:
            _read_instruction(found, level, number, bytes(data))
        except struct.error:
            raise refusal(errno.EINVAL) from None
    return found


def _read_instruction(found: Instructions, level: int, number: int, data: bytes) -> None:
    place = (level, number)
    if place == (_IP, IP_PKTINFO):
        found.index, source, _ = struct.unpack("=i4s4s", data)
        found.source = socket.inet_ntop(socket.AF_INET, source) if any(source) else None
    elif place == (_IPV6, IPV6_PKTINFO):
        source, found.index = struct.unpack("=16si", data)
        text = plain(socket.inet_ntop(socket.AF_INET6, source))
        found.source = None if kind_of(text) == "wildcard" else text
    elif place in ((_IP, IP_TOS), (_IPV6, IPV6_TCLASS)):
        found.traffic_class = data[0] if len(data) == 1 else int(struct.unpack("=i", data)[0])
    elif place in ((_IP, IP_TTL), (_IPV6, IPV6_HOPLIMIT)):
        found.hop_limit = int(struct.unpack("=i", data)[0])
    elif place == (socket.IPPROTO_UDP, UDP_SEGMENT):
        found.segment = int(struct.unpack("=H", data)[0])
    else:
        raise refusal(errno.EINVAL)


def split(payload: bytes, segment: int, largest: int) -> list[bytes]:
    """Split a payload into datagrams of ``segment`` bytes, the last one perhaps shorter; 0 makes a single datagram.

    Raises:
      OSError: EMSGSIZE if a segment is larger than ``largest``, EINVAL if there are too many (udp(7)).
    """
    if not segment:
        return [payload]
    if segment > largest:
        raise refusal(errno.EMSGSIZE)
    if len(payload) > segment * _MOST_SEGMENTS:
        raise refusal(errno.EINVAL)
    return [payload[start : start + segment] for start in range(0, len(payload), segment)] or [payload]


@attrs.frozen
class QueuedError:
    """One entry of an error queue."""

    number: int
    """The errno."""
    packet: Packet
    """The datagram that caused the error."""
    offender: str
    """The address that reported the error; empty for a local error."""
    type: int
    """ICMP's type."""
    code: int
    """ICMP's code."""
    info: int
    """The path MTU, for an error about it."""


def describe_error(error: QueuedError, family: socket.AddressFamily) -> ControlMessage:
    """Return the control message with which ``recvmsg`` reports an error (MSG_ERRQUEUE)."""
    ipv6 = is_ipv6(error.packet.destination.host)
    origin = (ICMP6 if ipv6 else ICMP) if error.offender else LOCAL
    data = struct.pack("=IBBBxII", error.number, origin, error.type, error.code, error.info, 0)
    if error.offender and family == socket.AF_INET:
        data += struct.pack("=HH4s8x", socket.AF_INET, 0, packed(error.offender))
    elif error.offender:
        offender = sockaddr_of(family, error.offender, 0)[0]
        data += struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packed(offender), 0)
    level, number = (_IP, IP_RECVERR) if family == socket.AF_INET else (_IPV6, IPV6_RECVERR)
    return level, number, data


def errno_of(type: int, code: int, *, ipv6: bool) -> tuple[int, bool]:
    """Return the errno of an ICMP message, and whether a connected socket reports it without IP_RECVERR.

    "Packet too big" is reported to a socket that discovers the path MTU.
    """
    return (_ERRORS6 if ipv6 else _ERRORS4).get((type, code), (errno.EHOSTUNREACH, False))


# net/ipv4/icmp.c, net/ipv6/icmp.c and the error handlers of their udp.c
_ERRORS4: Final = {
    (3, 0): (errno.ENETUNREACH, False),
    (3, 1): (errno.EHOSTUNREACH, False),
    (3, 2): (errno.ENOPROTOOPT, True),
    (3, 3): (errno.ECONNREFUSED, True),
    (3, 4): (errno.EMSGSIZE, True),
    (3, 9): (errno.ENETUNREACH, True),
    (3, 10): (errno.EHOSTUNREACH, True),
    (3, 13): (errno.EHOSTUNREACH, True),
}
_ERRORS6: Final = {
    (1, 0): (errno.ENETUNREACH, False),
    (1, 1): (errno.EACCES, True),
    (1, 3): (errno.EHOSTUNREACH, False),
    (1, 4): (errno.ECONNREFUSED, True),
    (2, 0): (errno.EMSGSIZE, True),
}
