"""Records made by hand, for tests of traces and captures."""

from __future__ import annotations

import random
from typing import Any

from trio_dgram import Address
from trio_dgram.sim import Packet, Record, Report

CLIENT, SERVER = "client", "server"
ADDRESSES = {
    "udp4": {CLIENT: "10.1.2.3", SERVER: "10.4.5.6", "": "10.0.0.1"},
    "udp6": {CLIENT: "fd00::1:2:3", SERVER: "fd00::4:5:6", "": "fd00::1"},
}
"""By type and the name of the host; the router has none."""


def make_record(
    number: int = 1,
    payload: bytes = b"hello",
    *,
    at: float = 0.0,
    took: float = 0.05,
    reason: str = "",
    type: str = "udp4",
    ends: tuple[str, str] = (CLIENT, SERVER),
    **packet: Any,
) -> Record:
    """Return what became of a datagram sent at ``at``, in seconds; ``ends`` are the names of its hosts."""
    hosts = ADDRESSES[type]
    sender, receiver = ends
    source = Address(hosts.get(sender, f"10.9.9.{len(sender)}"), 40000)
    destination = Address(hosts.get(receiver, f"10.9.9.{len(receiver)}"), 5005)
    made = Packet(number, source, destination, payload, sender, at)
    for name, value in packet.items():
        setattr(made, name, value)
    return Record(made, at + took, "dropped" if reason else "delivered", reason, receiver)


def make_complaint(about: Packet, number: int = 9, *, at: float = 0.1, kind: tuple[int, int], mtu: int = 0) -> Record:
    """Return the record of an ICMP message of this type and code that the router sent to the sender of ``about``."""
    type = "udp6" if about.is_ipv6 else "udp4"
    record = make_record(number, b"", at=at, type=type, ends=("", about.sender), report=Report(*kind, mtu, about))
    record.packet.source = Address(ADDRESSES[type][""], 0)
    record.packet.destination = Address(about.source.host, 0)
    return record


def make_conversation(count: int, *hosts: str, seed: int = 1, reason: str = "lost") -> list[Record]:
    """Return ``count`` datagrams between ``hosts``, some of them dropped, some overtaken."""
    source = random.Random(seed)
    records, at = [], 0.0
    for number in range(1, count + 1):
        at += source.choice([0.0, 0.0001, 0.004, 0.02])
        sender, receiver = source.sample(hosts, 2)
        records.append(
            make_record(
                number,
                bytes(source.randrange(1400)),
                at=at,
                took=0.03 + source.random() * 0.03,
                reason=reason if source.random() < 0.2 else "",
                ends=(sender, receiver),
            )
        )
    return sorted(records, key=lambda record: record.at)
