"""The trace in words: a line for each record."""

from __future__ import annotations

from collections.abc import Iterable

from .._addresses import Address, written
from .._error_queue import ICMP, ICMP6, ErrorRecord
from ._records import Packet, Record, Report


def story(records: Iterable[Record], *, last: int | None = None) -> str:
    """Return a line for each record, in the order of their sending: when, its number, from where to where, its size,
    and what became of it.

    Args:
      records: what is to be told.
      last: only so many of them, from the end.
    """
    chosen = list(records)
    if last is not None:
        chosen = chosen[len(chosen) - min(last, len(chosen)) :]
    chosen.sort(key=lambda record: (record.packet.sent_at, record.packet.number, record.at))
    ways = [f"{_place(r.packet.sender, r.packet.source)} -> {_place(r.receiver, r.packet.destination)}" for r in chosen]
    width = max(map(len, ways), default=0)
    return "\n".join(
        f"{record.packet.sent_at:.6f}  #{record.packet.number:<4} {way:{width}}  {contents(record.packet):>10}  "
        f"{outcome(record)}"
        for record, way in zip(chosen, ways, strict=True)
    )


def contents(packet: Packet) -> str:
    """Return what a packet brings, in words."""
    if packet.report is not None:
        return in_words(packet.report)
    return f"{len(packet.payload)} byte{'' if len(packet.payload) == 1 else 's'}"


def outcome(record: Record) -> str:
    """Return what became of a packet, in words."""
    if record.fate == "delivered":
        return f"delivered after {(record.at - record.packet.sent_at) * 1000:.3f} ms"
    return f"dropped: {record.reason}"


def in_words(report: Report) -> str:
    """Return what an ICMP message says, and about which datagram."""
    origin = ICMP6 if report.about.is_ipv6 else ICMP
    reason = ErrorRecord(0, origin, report.type, report.code, None, None).reason
    limit = f" (at most {report.mtu})" if report.mtu else ""
    return f"ICMP: {reason}{limit}, about #{report.about.number}"


def _place(host: str, address: Address) -> str:
    return f"{host or 'the network'} {written(address)}"
