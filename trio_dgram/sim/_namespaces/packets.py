"""Parsing the packets that leave an interface: UDP datagrams, and ICMP errors about them.

Source: RFC 791, RFC 768, RFC 792, RFC 1191, RFC 8200, RFC 4443.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from ..._values.addresses import Address
from .._values.encoding import DONT_FRAGMENT
from .._values.records import IPV6_HEADER, UDP_HEADER

_UDP: Final = 17
_ICMP: Final = {False: 1, True: 58}
"""The protocol of ICMP, by whether it is IPv6."""
_ERRORS: Final = {False: (3, 11, 12), True: (1, 2, 3, 4)}
"""The types of ICMP messages that are about a packet, likewise."""
_FRAGMENT_HEADER: Final = 44
_FRAGMENT_BITS: Final = 0x3FFF
_ICMP_HEADER: Final = 8


class FragmentError(Exception):
    """A packet is a fragment."""


class Headers(NamedTuple):
    """What the headers of a packet say, and the data after them.

    Attributes:
      source: the source; the port is 0 unless it is UDP.
      destination: the destination; the port is 0 unless it is UDP.
      protocol: the number of the protocol.
      data: the payload of a datagram, or what follows the IP header.
      hop_limit: the hop limit.
      traffic_class: DSCP and ECN.
      dont_fragment: whether it must not be fragmented.
    """

    source: Address
    destination: Address
    protocol: int
    data: bytes
    hop_limit: int
    traffic_class: int
    dont_fragment: bool

    @property
    def is_datagram(self) -> bool:
        """Whether it is a UDP datagram."""
        return self.protocol == _UDP


class Complaint(NamedTuple):
    """An ICMP error.

    Attributes:
      type: the type of the message.
      code: its code.
      mtu: the MTU that it reports, in bytes; 0 for none.
      about: the headers of the packet that it is about; its data may be cut short.
    """

    type: int
    code: int
    mtu: int
    about: Headers


def parse_packet(data: bytes) -> Headers:
    """Return the headers of a packet that the kernel has sent.

    Raises:
      FragmentError: if it is a fragment.
    """
    if data[0] >> 4 == 4:
        traffic_class, flags, hop_limit, protocol = struct.unpack_from("!xB4xHBB", data)
        if flags & _FRAGMENT_BITS:
            raise FragmentError
        start, hosts, family = 4 * (data[0] & 15), data[12:20], socket.AF_INET
        dont_fragment = bool(flags & DONT_FRAGMENT)
    else:
        first, protocol, hop_limit = struct.unpack_from("!I2xBB", data)
        if protocol == _FRAGMENT_HEADER:
            raise FragmentError
        start, hosts, family = IPV6_HEADER, data[8:40], socket.AF_INET6
        traffic_class, dont_fragment = first >> 20 & 255, True
    middle = len(hosts) // 2
    source, destination = (socket.inet_ntop(family, part) for part in (hosts[:middle], hosts[middle:]))
    ports, payload = (0, 0), data[start:]
    if protocol == _UDP:
        ports, payload = struct.unpack_from("!HH", payload), payload[UDP_HEADER:]
    return Headers(
        Address(source, ports[0]),
        Address(destination, ports[1]),
        protocol,
        payload,
        hop_limit,
        traffic_class,
        dont_fragment,
    )


def parse_complaint(headers: Headers) -> Complaint | None:
    """Return the ICMP error in a packet; None if it is none, or not about a datagram."""
    ipv6 = ":" in headers.source.host
    if headers.protocol != _ICMP[ipv6] or headers.data[0] not in _ERRORS[ipv6]:
        return None
    kind, code, mtu = struct.unpack_from("!BB2xI", headers.data)
    about = parse_packet(headers.data[_ICMP_HEADER:])
    return Complaint(kind, code, mtu, about) if about.is_datagram else None
