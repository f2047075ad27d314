"""The options of Linux's UDP sockets whose value is a number: defaults and domains, probed on Linux 6.18.

Other effects of options are implemented where they apply; most options listed here have no effect on a simulated
network.
"""

from __future__ import annotations

import socket
from typing import Final, TypeAlias

import attrs

Place: TypeAlias = tuple[int, int]
"""Level and number of an option."""

_SOL, _IP, _IPV6, _UDP = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1

SO_TIMESTAMP: Final = 29
IP_UNICAST_IF: Final = 50
IPV6_UNICAST_IF: Final = 76
UDP_CORK: Final = 1


@attrs.frozen
class Number:
    """The domain of an option."""

    default: int = 0
    lowest: int = _LOWEST
    highest: int = _HIGHEST
    minus_one: int | None = None
    """The value that -1 selects; ``None`` stores -1 itself."""
    is_flag: bool = False
    """Whether any value but 0 is stored as 1."""
    mask: int = -1
    """The bits of a value that count."""


def _flags(level: int, *numbers: int, default: int = 0) -> dict[Place, Number]:
    return {(level, number): Number(default, is_flag=True) for number in numbers}


SO_RCVLOWAT: Final[Place] = (_SOL, 18)
_STAMPS: Final = Number(0, 0, 2**16 - 1)
_COUNT: Final = Number(0, 0)
_SWITCH: Final = Number(0, 0, 1)

OF_IPV4: Final[dict[Place, Number]] = {
    # SO_DEBUG, REUSEADDR, DONTROUTE, BROADCAST, KEEPALIVE, OOBINLINE, NO_CHECK, REUSEPORT, TIMESTAMP, TIMESTAMPNS,
    # RXQ_OVFL, WIFI_STATUS, NOFCS, LOCK_FILTER, SELECT_ERR_QUEUE, TIMESTAMP_NEW, TIMESTAMPNS_NEW, PREFER_BUSY_POLL,
    # RCVMARK, RCVPRIORITY
    **_flags(_SOL, 1, 2, 5, 6, 9, 10, 11, 15, SO_TIMESTAMP, 35, 40, 41, 43, 44, 45, 63, 64, 69, 75, 82),
    (_SOL, 12): Number(),  # SO_PRIORITY
    (_SOL, 14): Number(mask=0),  # SO_BSDCOMPAT
    SO_RCVLOWAT: Number(1),
    (_SOL, 36): Number(),  # SO_MARK
    (_SOL, 37): _STAMPS,  # SO_TIMESTAMPING
    (_SOL, 42): Number(-1),  # SO_PEEK_OFF
    (_SOL, 46): _COUNT,  # SO_BUSY_POLL
    (_SOL, 47): Number(-1),  # SO_MAX_PACING_RATE
    (_SOL, 49): Number(-1),  # SO_INCOMING_CPU
    (_SOL, 60): _SWITCH,  # SO_ZEROCOPY
    (_SOL, 65): _STAMPS,  # SO_TIMESTAMPING_NEW
    # IP_RECVOPTS, RETOPTS, PKTINFO, RECVERR, RECVTTL, RECVTOS, FREEBIND, PASSSEC, TRANSPARENT, RECVORIGDSTADDR,
    # CHECKSUM, BIND_ADDRESS_NO_PORT, RECVFRAGSIZE
    **_flags(_IP, 6, 7, 8, 11, 12, 13, 15, 18, 19, 20, 23, 24, 25),
    **_flags(_IP, socket.IP_MULTICAST_LOOP, default=1),
    (_IP, socket.IP_TOS): Number(mask=255),
    (_IP, socket.IP_TTL): Number(64, 1, 255, minus_one=64),
    (_IP, 4): Number(0, 0, 1, mask=255),  # IP_OPTIONS: one byte, no operation or the end
    (_IP, 10): Number(1, 0, 5),  # IP_MTU_DISCOVER
    (_IP, 21): Number(0, 0, 255),  # IP_MINTTL
    (_IP, 26): _SWITCH,  # IP_RECVERR_RFC4884
    (_IP, socket.IP_MULTICAST_TTL): Number(1, 0, 255, minus_one=1),
    (_IP, 49): Number(1, 0, 1),  # IP_MULTICAST_ALL
    (_IP, IP_UNICAST_IF): Number(),
    (_IP, 51): Number(),  # IP_LOCAL_PORT_RANGE
    # UDP_CORK, NO_CHECK6_TX, NO_CHECK6_RX, GRO
    **_flags(_UDP, UDP_CORK, 101, 102, 104),
    (_UDP, 103): Number(0, 0, 65535),  # UDP_SEGMENT
}
OF_IPV6: Final[dict[Place, Number]] = {
    **OF_IPV4,
    (_IP, 49): Number(0, 0, 1),
    # IPV6_2292PKTINFO, HOPOPTS, DSTOPTS, RTHDR, HOPLIMIT, FLOWINFO, RECVERR, V6ONLY, ROUTER_ALERT_ISOLATE,
    # FLOWINFO_SEND, RECVPKTINFO, RECVHOPLIMIT, RECVHOPOPTS, RECVRTHDR, RECVDSTOPTS, RECVPATHMTU, DONTFRAG, RECVTCLASS,
    # RECVORIGDSTADDR, TRANSPARENT, RECVFRAGSIZE, FREEBIND
    **_flags(_IPV6, 2, 3, 4, 5, 8, 11, 25, 26, 30, 33, 49, 51, 53, 56, 58, 60, 62, 66, 74, 75, 77, 78),
    **_flags(_IPV6, 29, 70, default=1),  # IPV6_MULTICAST_ALL, AUTOFLOWLABEL
    (_IPV6, socket.IPV6_UNICAST_HOPS): Number(64, 0, 255, minus_one=64),
    (_IPV6, socket.IPV6_MULTICAST_HOPS): Number(1, 0, 255, minus_one=1),
    (_IPV6, socket.IPV6_MULTICAST_LOOP): Number(1, 0, 1),
    (_IPV6, 23): Number(1, 0, 5),  # IPV6_MTU_DISCOVER
    (_IPV6, 31): _SWITCH,  # IPV6_RECVERR_RFC4884
    (_IPV6, socket.IPV6_TCLASS): Number(0, 0, 255, minus_one=0),
    (_IPV6, 73): Number(0, 0, 255),  # IPV6_MINHOPCOUNT
    (_IPV6, IPV6_UNICAST_IF): Number(),
}


def stored(number: Number, value: int) -> int | None:
    """Return the stored value of an option that is set to ``value``; ``None`` if the kernel refuses it."""
    if number.is_flag:
        return int(bool(value))
    if value == -1 and number.minus_one is not None:
        return number.minus_one
    value &= number.mask
    return value if number.lowest <= value <= number.highest else None
