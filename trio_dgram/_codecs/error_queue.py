"""The error queue: records about datagrams sent earlier, from bytes to values (ip(7))."""

from __future__ import annotations

import socket
import struct
from typing import Final

import attrs

from .ancillary import Ancillary

# The socket module lacks these. The numbers are Linux's.
IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25

LOCAL: Final = 1
ICMP: Final = 2
ICMP6: Final = 3

_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")
"""struct sock_extended_err (ip(7)): errno, origin, type, code, info, data."""


@attrs.frozen
class ErrorRecord:
    """One record of the error queue: the reason why a datagram was not delivered.

    Attributes:
      errno (int): the kernel's translation, such as ECONNREFUSED.
      origin (int): the reporter: 1 this machine, 2 ICMP (RFC 792), 3 ICMPv6 (RFC 4443). Records of other origins do not
        concern delivery.
      icmp_type (int): the type of the ICMP message, 0 without one.
      icmp_code (int): the code of the ICMP message, 0 without one.
      offender (str | None): the source address of the ICMP message, if known.
      path_mtu (int | None): for a datagram that was too big, the largest packet that the path accepts, in bytes, if
        known.
    """

    errno: int
    origin: int
    icmp_type: int
    icmp_code: int
    offender: str | None
    path_mtu: int | None

    @property
    def reason(self) -> str:
        """The ICMP type and code in words."""
        if self.origin == LOCAL:
            return "refused by this machine"
        words, unknown = _WORDS.get((self.origin, self.icmp_type), ({}, "ICMP"))
        known = words.get(self.icmp_code)
        return known or f"{unknown} (type {self.icmp_type}, code {self.icmp_code})"


def decode_error(ancillary: Ancillary) -> ErrorRecord | None:
    """Return the record in what ``recvmsg`` with MSG_ERRQUEUE returned, None if there is none.

    Args:
      ancillary: the control messages: level, type and data of each.

    Messages of other kinds, or too short for a record, are ignored; nothing is raised because of them.
    """
    for level, kind, data in ancillary:
        if (level, kind) not in _LEVELS or len(data) < _EXTENDED_ERROR.size:
            continue
        errno, origin, icmp_type, icmp_code, info, _ = _EXTENDED_ERROR.unpack_from(data)
        too_big = (origin, icmp_type, icmp_code) in _TOO_BIG or origin == LOCAL
        return ErrorRecord(
            errno=errno,
            origin=origin,
            icmp_type=icmp_type,
            icmp_code=icmp_code,
            offender=_host(data[_EXTENDED_ERROR.size :]),
            path_mtu=info if too_big and info else None,
        )
    return None


def _host(sockaddr: bytes) -> str | None:
    if len(sockaddr) < 2:
        return None
    (family,) = struct.unpack_from("=H", sockaddr)
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 28:
        host = socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
        (scope,) = struct.unpack_from("=I", sockaddr, 24)
        return f"{host}%{scope}" if scope else host
    return None


_LEVELS: Final = frozenset({(socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)})

_TOO_BIG: Final = frozenset({(ICMP, 3, 4), (ICMP6, 2, 0)})

_WORDS: Final[dict[tuple[int, int], tuple[dict[int, str], str]]] = {
    # RFC 792, RFC 1122 (3.2.2.1), RFC 1812 (5.2.7.1)
    (ICMP, 3): (
        {
            0: "network unreachable",
            1: "host unreachable",
            2: "protocol unreachable",
            3: "port unreachable",
            4: "packet too big",
            5: "source route failed",
            6: "network unknown",
            7: "host unknown",
            8: "source host isolated",
            9: "network prohibited",
            10: "host prohibited",
            11: "network unreachable for this type of service",
            12: "host unreachable for this type of service",
            13: "prohibited by a filter",
            14: "host precedence violation",
            15: "precedence cutoff",
        },
        "destination unreachable",
    ),
    (ICMP, 4): ({0: "source quench"}, "source quench"),
    (ICMP, 11): ({0: "hop limit exceeded", 1: "fragment reassembly time exceeded"}, "time exceeded"),
    (ICMP, 12): ({0: "bad header", 1: "required option missing", 2: "bad length"}, "parameter problem"),
    # RFC 4443, RFC 9343 (5, 6)
    (ICMP6, 1): (
        {
            0: "no route to the destination",
            1: "prohibited by a filter",
            2: "beyond the scope of the source address",
            3: "host unreachable",
            4: "port unreachable",
            5: "source address failed a policy",
            6: "route rejected",
        },
        "destination unreachable",
    ),
    (ICMP6, 2): ({0: "packet too big"}, "packet too big"),
    (ICMP6, 3): ({0: "hop limit exceeded", 1: "fragment reassembly time exceeded"}, "time exceeded"),
    (ICMP6, 4): ({0: "bad header", 1: "unknown next header", 2: "unknown option"}, "parameter problem"),
}
"""By origin and type: the codes in words, and the words for an unknown code."""
