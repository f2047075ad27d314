"""What travels on the simulated network, and what became of it."""

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
"""What can become of a datagram; ``"in flight"`` where that is not decided yet."""


@attrs.frozen
class Report:
    """An ICMP message: what somebody on the way says about a packet (RFC 792, RFC 4443)."""

    type: int
    """The type of the message, by ICMP's numbers or ICMPv6's."""
    code: int
    """The code of the message."""
    mtu: int
    """For a packet that was too big: the largest that would have passed, in bytes; else 0."""
    about: Packet
    """The packet that it speaks of."""


@attrs.define(eq=False)
class Packet:
    """One datagram on its way, or an ICMP message. Nobody changes one that has been sent: what changes it on the way
    sends on a copy."""

    number: int
    """Which one it is, counted from 1 as they are sent. Its duplicates have the same."""
    source: Address
    """Where it comes from; the port is 0 for an ICMP message."""
    destination: Address
    """Where it goes; the port is 0 for an ICMP message."""
    payload: bytes
    """The bytes that it brings; none for an ICMP message."""
    sender: str
    """The name of the host that sent it."""
    sent_at: float
    """When, in seconds since the network was opened."""
    hop_limit: int = 64
    """How many more hops it may go."""
    traffic_class: int = 0
    """DSCP and ECN, as one byte."""
    fragment_size: int = INTERFACE_MTU
    """The sender has cut it into packets of at most so many bytes, IP header included."""
    dont_fragment: bool = False
    """Whether nobody on the way may cut it any further."""
    broken: bool = False
    """Whether its checksum is wrong by now."""
    report: Report | None = None
    """What it says, if it is an ICMP message."""

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
    """What became of one packet, or of one of its duplicates."""

    packet: Packet
    at: float
    """When that was decided, in seconds since the network was opened: for one that was delivered the time of its
    arrival."""
    fate: Fate
    """Whether it came to a socket."""
    reason: str
    """Why it was dropped, in words; empty if it was delivered."""
    receiver: str
    """The name of the host that it came to, or was on its way to; empty where no host has that address."""


NoteKind: TypeAlias = Literal["note", "fault", "crash", "restart", "violation"]
"""Who noted it: the program, the network about a fault, or a check that does not hold. ``"crash"`` and ``"restart"``
are the faults between which a host is down."""


class Note(NamedTuple):
    """Something that happened beside the packets: a program's own note, a fault, or a check that does not hold."""

    at: float
    """When, in seconds since the network was opened."""
    host: str
    """The name of the host that it concerns; empty for the network."""
    text: str
    """What happened."""
    kind: NoteKind = "note"
    """What sort of note it is."""
    after: int = 0
    """The number of the last packet that was sent before."""
