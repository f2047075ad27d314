"""The packets of the simulated network, and their fates."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

import attrs

from ..._values.addresses import Address

IPV4_HEADER: Final = 20
"""Without options, in bytes (RFC 791, 3.1)."""
IPV6_HEADER: Final = 40
"""Without extensions, in bytes (RFC 8200, 3)."""
UDP_HEADER: Final = 8
"""In bytes (RFC 768)."""
INTERFACE_MTU: Final = 1500
"""The largest packet that an interface of a host takes whole, in bytes."""

Fate: TypeAlias = Literal["delivered", "dropped", "in flight"]
"""The fates of a datagram; ``"in flight"`` while that is not decided."""


@attrs.frozen
class Report:
    """An ICMP message: an error about a packet, reported by a router or a host (RFC 792, RFC 4443)."""

    type: int
    """The type of the message, by ICMP's numbers or ICMPv6's."""
    code: int
    """The code of the message."""
    mtu: int
    """For a packet that was too big: the largest that would have passed, in bytes; else 0."""
    about: Packet
    """The packet that it is about."""


@attrs.define(eq=False)
class Packet:
    """One datagram, or an ICMP message. A packet is immutable once sent: a change on the path makes a copy."""

    number: int
    """Its number, counted from 1 in the order of sending. Its duplicates have the same."""
    source: Address
    """The source; the port is 0 for an ICMP message."""
    destination: Address
    """The destination; the port is 0 for an ICMP message."""
    payload: bytes
    """The payload; empty for an ICMP message."""
    sender: str
    """The name of the host that sent it."""
    sent_at: float
    """The time of sending, in seconds since the network was opened."""
    hop_limit: int = 64
    """The remaining hop limit."""
    traffic_class: int = 0
    """DSCP and ECN, as one byte."""
    fragment_size: int = INTERFACE_MTU
    """The size to which the sender has fragmented it, in bytes, IP header included."""
    dont_fragment: bool = False
    """Whether it must not be fragmented on the path."""
    broken: bool = False
    """Whether its checksum is wrong by now."""
    report: Report | None = None
    """The error that it reports, if it is an ICMP message."""

    @property
    def is_ipv6(self) -> bool:
        """Whether it is an IPv6 packet."""
        return ":" in self.destination.host

    @property
    def ip_size(self) -> int:
        """Its size as one packet, with its IP and UDP headers, in bytes."""
        header = IPV6_HEADER if self.is_ipv6 else IPV4_HEADER
        return header + UDP_HEADER + len(self.payload)


class Record(NamedTuple):
    """The fate of one packet, or of one of its duplicates."""

    packet: Packet
    at: float
    """The time of that, in seconds since the network was opened: the arrival of a delivered packet."""
    fate: Fate
    """Whether it was delivered to a socket."""
    reason: str
    """The reason of the drop, in words; empty if it was delivered."""
    receiver: str
    """The name of the host that it was sent to; empty if no host has that address."""


NoteKind: TypeAlias = Literal["note", "fault", "crash", "restart", "violation"]
"""The origin of a note: the program, a fault of the network, or a check that does not hold. ``"crash"`` and
``"restart"`` are the faults between which a host is down."""


class Note(NamedTuple):
    """An event beside the packets: a program's own note, a fault, or a check that does not hold."""

    at: float
    """When, in seconds since the network was opened."""
    host: str
    """The name of the host that it concerns; empty for the network."""
    text: str
    """What happened."""
    kind: NoteKind = "note"
    """The kind of note."""
    after: int = 0
    """The number of the last packet that was sent before."""
