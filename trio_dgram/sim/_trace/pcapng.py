"""The trace as a capture file (pcapng), for Wireshark and tshark."""

from __future__ import annotations

import os
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Final, TypeAlias

from .._values.encoding import encode
from .._values.records import Note, Packet, Record
from .text import note_text, shown, sign

_RAW_IP: Final = 101
"""LINKTYPE_RAW: each packet begins with its IPv4 or IPv6 header."""
_NANOSECONDS: Final = b"\x09"
"""if_tsresol: ten to the minus ninth of a second."""


def write_pcapng(
    path: str | os.PathLike[str], records: Iterable[Record], opened_at: float = 0.0, notes: Sequence[Note] = ()
) -> None:
    """Write a capture of all hosts: each packet when it leaves a host, and again when it arrives at another.

    The format has no place for notes between packets. A note is in the comment of the packet before it, of its own host
    if possible.

    Args:
      path: the path of the file.
      records: the records to write.
      opened_at: the time of day when the network was opened, as a Unix time.
      notes: the other events.

    Raises:
      ImportError: if python-pcapng is not installed.
      OSError: if the file cannot be written.
    """
    try:
        import pcapng  # noqa: PLC0415 -- an extra
        from pcapng import blocks  # noqa: PLC0415
    except ImportError:
        raise ImportError("captures are written with python-pcapng: pip install trio_dgram[capture]") from None

    with open(path, "wb") as file, warnings.catch_warnings():  # noqa: PTH123 -- any path-like does
        # python-pcapng warns about its own declaration of if_tsresol.
        warnings.simplefilter("ignore", DeprecationWarning)
        _write(pcapng.FileWriter, blocks, file, _annotated(_sightings(records), notes), opened_at)


def _write(writer_of: Any, blocks: Any, file: BinaryIO, sightings: Sequence[_Sighting], opened_at: float) -> None:
    opened = _nanoseconds(opened_at, 0.0)
    section = blocks.SectionHeader(options={"shb_userappl": "trio_dgram.sim", "opt_comment": f"opened at {opened} ns"})
    interfaces: dict[str, int] = {}
    for _, host, _, _ in sightings:
        if host not in interfaces:
            options = {"if_name": shown(host), "if_tsresol": _NANOSECONDS}
            made = section.new_member(blocks.InterfaceDescription, link_type=_RAW_IP, options=options)
            interfaces[host] = made.interface_id
    writer = writer_of(file, section)
    for at, host, packet, comment in sightings:
        nanoseconds = _nanoseconds(opened_at, at)
        block = section.new_member(
            blocks.EnhancedPacket,
            interface_id=interfaces[host],
            timestamp_high=nanoseconds >> 32,
            timestamp_low=nanoseconds & 0xFFFFFFFF,
            packet_data=encode(packet),
            options={"opt_comment": comment},
        )
        writer.write_block(block)


def _nanoseconds(opened_at: float, at: float) -> int:
    # Convert both numbers separately: a float cannot hold nanoseconds since 1970.
    return int(opened_at) * 1_000_000_000 + round((opened_at % 1 + at) * 1_000_000_000)


_Sighting: TypeAlias = tuple[float, str, Packet, str]
"""The time and host at which a packet is captured, and its comment."""


def _annotated(sightings: list[_Sighting], notes: Sequence[Note]) -> list[_Sighting]:
    """Return sightings in the order of their times, with each note in the comment of the last one before it at its
    host; without one, of the last one before it at any host, or of the first one."""
    ordered = sorted(sightings, key=lambda sighting: sighting[0])
    times = [at for at, *_ in ordered]
    for note in notes if ordered else ():
        before = range(bisect_right(times, note.at) - 1, -1, -1)
        place = next((number for number in before if ordered[number][1] == note.host), next(iter(before), 0))
        at, host, packet, comment = ordered[place]
        ordered[place] = at, host, packet, f"{comment}\n{_line(note)}"
    return ordered


def _line(note: Note) -> str:
    return f"{sign(note)} {note_text(note)} ({note.at:.6f} s, after #{note.after})"


def _sightings(records: Iterable[Record]) -> list[_Sighting]:
    """Return the sightings of each packet, with comments."""
    # A packet leaves once, also for several receivers and with duplicates that are made on the path.
    sent: dict[int, list[Record]] = {}
    for record in records:
        sent.setdefault(record.packet.number, []).append(record)
    found: list[_Sighting] = []
    for copies in sent.values():
        # A corrupted copy was corrupted on the path if another copy is intact.
        packet = next((record.packet for record in copies if not record.packet.broken), copies[0].packet)
        found.append((packet.sent_at, packet.sender, packet, _comment(copies)))
        found += [
            (record.at, record.receiver, record.packet, f"#{packet.number}")
            for record in copies
            if record.fate == "delivered" and record.receiver != packet.sender
        ]
    return found


def _comment(copies: list[Record]) -> str:
    """Return the comment of a packet that leaves."""
    words = [f"#{copies[0].packet.number}"]
    for record in copies:
        if record.fate == "dropped":
            which = "" if len(copies) == 1 else f"one to {shown(record.receiver)} "
            words.append(f"{which}dropped: {record.reason}")
        elif record.fate == "in flight":
            words.append(record.fate)
    return ", ".join(words)
