"""What a simulated kernel tells beside a payload, and what it is told: the other side of the library's own decoders."""

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
"""How many datagrams one call sends at most."""
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
    """Return what a socket is told about a datagram that it receives.

    Args:
      packet: the datagram.
      settings: the options that say what is told.
      family: the socket's.
      index: the interface that it came in by.
      own: the address of the host that an answer should come from.
      nanoseconds: when it came, by the wall clock.
      drops: how many had been dropped when it was queued.
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
    """How a program wants one datagram to be sent; what is None is left to the socket."""

    source: str | None = None
    index: int = 0
    hop_limit: int | None = None
    traffic_class: int | None = None
    segment: int = 0
    """The size of the datagrams that the payload consists of, in bytes; 0 for a single one."""


def read_instructions(ancillary: Ancillary) -> Instructions:
    """Return what the control messages of a ``sendmsg`` say.

    Raises:
      OSError: EINVAL for what Linux does not know, or of another size than it has.
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
    """Return the datagrams that a payload consists of: of ``segment`` bytes each, the last perhaps shorter; one if that
    is 0.

    Raises:
      OSError: EMSGSIZE if one would be larger than ``largest``, EINVAL if there would be too many (udp(7)).
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
    """The datagram that it is about."""
    offender: str
    """Who says so; empty for this machine itself."""
    type: int
    """ICMP's type."""
    code: int
    """ICMP's code."""
    info: int
    """The path MTU, where it is about that."""


def describe_error(error: QueuedError, family: socket.AddressFamily) -> ControlMessage:
    """Return the control message by which ``recvmsg`` with MSG_ERRQUEUE tells of an error."""
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
    """Return what Linux makes of an ICMP message, and whether a connected socket is told without asking for it.

    That a packet was too big is told to one that discovers the path MTU.
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
