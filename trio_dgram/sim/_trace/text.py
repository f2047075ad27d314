"""The trace in words: a line for each record and note."""

from __future__ import annotations

from typing import Final

from ..._codecs.error_queue import ICMP, ICMP6, ErrorRecord
from ..._values.addresses import Address, format_address
from .._values.records import Note, Packet, Record, Report
from .excerpt import Entry, Excerpt, Fold
from .payloads import Payloads, one_line

_LONGEST_PAYLOAD: Final = 60
"""In characters."""
_SIGNS: Final = {"note": "*", "violation": "!!"}
"""What stands in the place of a number before a note; before faults it is an exclamation mark."""


def story(shown: Excerpt, payloads: Payloads | None = None) -> str:
    """Return a line for each entry of an excerpt.

    A datagram has the time of its sending, its number, its ends, its size, its payload, and its fate. A note begins
    with an asterisk, a fault with an exclamation mark, and a check that does not hold with two.
    """
    words = payloads or Payloads()
    lines = [_cells(entry, words) for entry in shown.entries]
    datagrams = [cells for cells in lines if len(cells) > _NOTE_CELLS]
    early, few = (max((len(cells[column]) for cells in lines), default=0) for column in range(2))
    ways, payload = (max((len(cells[column]) for cells in datagrams), default=0) for column in (2, 4))
    # What ICMP reports is a sentence, and as wide as one the column would be empty most of the time.
    sizes = max((len(cells[3]) for cells in datagrams if not cells[3].startswith("ICMP")), default=0)
    told = []
    for time, number, text, *rest in lines:
        line = f"{time:>{early}}  {number:<{few}}  "
        if rest:
            size, said, fate = rest
            said = f"  {said:<{payload}}" if payload and not size.startswith("ICMP") else ""
            told.append(f"{line}{text:{ways}}  {size:>{sizes}}{said}  {fate}")
        else:
            told.append(line + text)
    return "\n".join(told)


_NOTE_CELLS: Final = 3


def _cells(entry: Entry, payloads: Payloads) -> tuple[str, ...]:
    """Return the columns of an entry: time, number, and the rest."""
    if isinstance(entry, Fold):
        return f"{entry.at:.6f}", "...", entry.text
    if isinstance(entry, Note):
        return f"{entry.at:.6f}", sign(entry), note_text(entry)
    packet = entry.packet
    ends = f"{_place(packet.sender, packet.source)} -> {_place(entry.receiver, packet.destination)}"
    said = shortened(payloads.describe(packet))
    return f"{packet.sent_at:.6f}", f"#{packet.number}", ends, contents(packet), said, outcome(entry)


def sign(note: Note) -> str:
    """Return what stands before a note."""
    return _SIGNS.get(note.kind, "!")


def note_text(note: Note) -> str:
    """Return a note on one line, after the name of its host."""
    return f"{shown(note.host)}: {one_line(note.text)}" if note.host else one_line(note.text)


def omitted_text(datagrams: int) -> str:
    """Return how many datagrams an excerpt leaves out."""
    return f"{datagrams} datagram{'' if datagrams == 1 else 's'} before {'is' if datagrams == 1 else 'are'} left out"


def contents(packet: Packet) -> str:
    """Return the size of a datagram, or what an ICMP message reports, in words."""
    if packet.report is not None:
        return in_words(packet.report)
    return f"{len(packet.payload)} byte{'' if len(packet.payload) == 1 else 's'}"


def about(packet: Packet, payloads: Payloads) -> str:
    """Return the size of a datagram and its payload, or what an ICMP message reports, in words."""
    said = "" if packet.report is not None else shortened(payloads.describe(packet))
    return f"{contents(packet)} {said}".rstrip()


def shortened(text: str) -> str:
    """Return a text of at most so many characters as a line has place for."""
    return text if len(text) <= _LONGEST_PAYLOAD else text[: _LONGEST_PAYLOAD - 3] + "..."


def outcome(record: Record) -> str:
    """Return what became of a packet, in words."""
    if record.fate == "delivered":
        return f"delivered after {(record.at - record.packet.sent_at) * 1000:.3f} ms"
    return "in flight" if record.fate == "in flight" else f"dropped: {record.reason}"


def in_words(report: Report) -> str:
    """Return what an ICMP message says, and about which datagram."""
    origin = ICMP6 if report.about.is_ipv6 else ICMP
    reason = ErrorRecord(0, origin, report.type, report.code, None, None).reason
    limit = f" (at most {report.mtu})" if report.mtu else ""
    return f"ICMP: {reason}{limit}, about #{report.about.number}"


def shown(host: str) -> str:
    """Return the name of a host as texts show it: on one line, whatever it is made of."""
    return one_line(host) or "the network"


def _place(host: str, address: Address) -> str:
    return f"{shown(host)} {format_address(address)}"
