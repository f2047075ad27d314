"""The trace in words: a line for each record."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ..._codecs.error_queue import ICMP, ICMP6, ErrorRecord
from ..._values.addresses import Address, format_address
from ..._values.arguments import check_integer
from .._values.records import Packet, Record, Report


def story(records: Iterable[Record], *, last: int | None = None) -> str:
    """Return a line for each record, in the order of their sending: when, its number, from where to where, its size,
    and what became of it.

    Args:
      records: what is to be told.
      last: only so many of them, from the end.

    Raises:
      TypeError: if ``last`` is no integer.
      ValueError: if it is negative.
    """
    chosen = list(records)
    if last is not None:
        check_integer("last", last, 0, sys.maxsize)
        chosen = chosen[len(chosen) - min(last, len(chosen)) :]
    chosen.sort(key=lambda record: (record.packet.sent_at, record.packet.number, record.at))
    ways = [f"{_place(r.packet.sender, r.packet.source)} -> {_place(r.receiver, r.packet.destination)}" for r in chosen]
    times = [f"{record.packet.sent_at:.6f}" for record in chosen]
    numbers = [f"#{record.packet.number}" for record in chosen]
    early, few, short = (max(map(len, column), default=0) for column in (times, numbers, ways))
    # What ICMP says is a sentence: made as wide as one, the column would be empty most of the way.
    small = max((len(contents(record.packet)) for record in chosen if record.packet.report is None), default=0)
    return "\n".join(
        f"{time:>{early}}  {number:<{few}}  {way:{short}}  {contents(record.packet):>{small}}  {outcome(record)}"
        for record, time, number, way in zip(chosen, times, numbers, ways, strict=True)
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


def shown(host: str) -> str:
    """Return the name of a host as texts show it: on one line, whatever it is made of."""
    if host.isprintable():
        return host or "the network"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in host)


def _place(host: str, address: Address) -> str:
    return f"{shown(host)} {format_address(address)}"
