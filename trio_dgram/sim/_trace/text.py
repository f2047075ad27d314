"""The trace in words: a line for each record and note."""

from __future__ import annotations

from typing import Final

from ..._codecs.error_queue import ICMP, ICMP6, ErrorRecord
from ..._values.addresses import Address, format_address
from ..._values.words import plural
from .._values.records import Note, Packet, Record, Report
from .excerpt import Entry, Excerpt, Fold
from .payloads import Payloads, one_line

_LONGEST_PAYLOAD: Final = 60
"""In characters."""
_SIGNS: Final = {"note": "*", "violation": "!!"}
"""The mark in place of a number before a note; before faults it is an exclamation mark."""


def story(shown: Excerpt, payloads: Payloads | None = None) -> str:
    """Return a line for each entry of an excerpt.

    A datagram has the time of its sending, its number, its ends, its size, its payload, and its fate. A note begins
    with an asterisk, a fault with an exclamation mark, and a check that does not hold with two.
    """
    words = payloads or Payloads()
    rows = [_cells(entry, words) for entry in shown.entries]
    datagrams = [cells for cells in rows if len(cells) > _NOTE_CELLS]
    early, few = (max((len(cells[column]) for cells in rows), default=0) for column in range(2))
    ways, payload = (max((len(cells[column]) for cells in datagrams), default=0) for column in (2, 4))
    # An ICMP report is a sentence; a column as wide would be empty most of the time.
    sizes = max((len(cells[3]) for cells in datagrams if not cells[3].startswith("ICMP")), default=0)
    lines = []
    for time, number, text, *rest in rows:
        line = f"{time:>{early}}  {number:<{few}}  "
        if rest:
            size, payload_text, fate = rest
            payload_text = f"  {payload_text:<{payload}}" if payload and not size.startswith("ICMP") else ""
            lines.append(f"{line}{text:{ways}}  {size:>{sizes}}{payload_text}  {fate}")
        else:
            lines.append(line + text)
    return "\n".join(lines)


_NOTE_CELLS: Final = 3


def _cells(entry: Entry, payloads: Payloads) -> tuple[str, ...]:
    """Return the columns of an entry: time, number, and the rest."""
    if isinstance(entry, Fold):
        return f"{entry.at:.6f}", "...", entry.text
    if isinstance(entry, Note):
        return f"{entry.at:.6f}", sign(entry), note_text(entry)
    packet = entry.packet
    ends = f"{_place(packet.sender, packet.source)} -> {_place(entry.receiver, packet.destination)}"
    payload_text = shortened(payloads.describe(packet))
    return f"{packet.sent_at:.6f}", f"#{packet.number}", ends, contents(packet), payload_text, outcome(entry)


def sign(note: Note) -> str:
    """Return the mark before a note."""
    return _SIGNS.get(note.kind, "!")


def note_text(note: Note) -> str:
    """Return a note on one line, after the name of its host."""
    return f"{shown(note.host)}: {one_line(note.text)}" if note.host else one_line(note.text)


def omitted_text(datagrams: int) -> str:
    """Return how many datagrams an excerpt leaves out."""
    return f"{datagrams} {plural(datagrams, 'datagram')} before {'is' if datagrams == 1 else 'are'} left out"


def contents(packet: Packet) -> str:
    """Return the size of a datagram, or the report of an ICMP message, in words."""
    if packet.report is not None:
        return in_words(packet.report)
    size = len(packet.payload)
    return f"{size} {plural(size, 'byte')}"


def about(packet: Packet, payloads: Payloads) -> str:
    """Return the size of a datagram and its payload, or the report of an ICMP message, in words."""
    payload_text = "" if packet.report is not None else shortened(payloads.describe(packet))
    return f"{contents(packet)} {payload_text}".rstrip()


def shortened(text: str) -> str:
    """Return a text truncated to the length that a line has space for."""
    return text if len(text) <= _LONGEST_PAYLOAD else text[: _LONGEST_PAYLOAD - 3] + "..."


def outcome(record: Record) -> str:
    """Return the fate of a packet, in words."""
    if record.fate == "delivered":
        return f"delivered after {(record.at - record.packet.sent_at) * 1000:.3f} ms"
    return "in flight" if record.fate == "in flight" else f"dropped: {record.reason}"


def in_words(report: Report) -> str:
    """Return the error of an ICMP message, and the datagram that it is about."""
    origin = ICMP6 if report.about.is_ipv6 else ICMP
    reason = ErrorRecord(0, origin, report.type, report.code, None, None).reason
    limit = f" (at most {report.mtu})" if report.mtu else ""
    return f"ICMP: {reason}{limit}, about #{report.about.number}"


def shown(host: str) -> str:
    """Return the name of a host for texts: on one line, with unprintable characters escaped."""
    return one_line(host) or "the network"


def _place(host: str, address: Address) -> str:
    return f"{shown(host)} {format_address(address)}"
