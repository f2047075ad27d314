"""The trace of a network: the fate of each datagram, and a digest of all of them."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from ..._values.addresses import format_address
from ..._values.arguments import check_integer
from .._values.records import Note, NoteKind, Packet, Record
from .excerpt import Excerpt, excerpt
from .ladder import ROWS, ROWS_OF_RECORD, ladder
from .mermaid import sequence_diagram
from .payloads import Payloads
from .pcapng import write_pcapng
from .text import story

# Many datagrams have the times of others, and the text of a float takes long.
_text_of: Final = lru_cache(maxsize=64, typed=True)(repr)


class Trace:
    """The fate of each datagram, in the order in which the fates were decided."""

    def __init__(self, limit: int | None, *, payload: bool, opened_at: float) -> None:
        self._records: deque[Record] = deque(maxlen=limit)
        self._payload = payload
        self._opened_at = opened_at
        self._hash = blake2b(digest_size=16)
        self._append = self._records.append
        self._notes: deque[Note] = deque(maxlen=limit)
        self._payloads = Payloads()
        self._last_number = 0
        self._in_flight: dict[int, tuple[Packet, str]] = {}
        """For each number the packet and its receiver."""
        self._update: Callable[[bytes], None] = self._hash.update
        self._ended = False
        self.total: int = 0
        """The number of records so far, including those that are no longer kept."""

    def sent(self, packet: Packet, receiver: str) -> None:
        """Record that a packet leaves its sender for a host, unless the trace has ended; the network does.

        Args:
          packet: the packet.
          receiver: the name of the host.
        """
        if not self._ended:
            self._last_number = packet.number
            self._in_flight[packet.number] = (packet, receiver)

    def add(self, record: Record) -> None:
        """Add a record, unless the trace has ended; the network does.

        Args:
          record: the record.
        """
        if self._ended:
            return
        packet, at, fate, reason, receiver = record
        self.total += 1
        self._append(record)
        if self._in_flight.pop(packet.number, None) is None:
            # A packet that never left its host is not in flight; only its number counts.
            self._last_number = max(self._last_number, packet.number)
        (host, port), (to_host, to_port) = packet.source, packet.destination
        size = len(packet.payload)
        times = f"{_text_of(packet.sent_at)} {_text_of(at)}"
        line = f"{times} {host} {port} {to_host} {to_port} {size} {fate} {reason} {receiver}\n"
        self._update(line.encode())
        if self._payload:
            self._update(packet.payload)

    def note(self, at: float, host: str, text: str, kind: NoteKind = "note") -> None:
        """Add a note, unless the trace has ended; :meth:`Network.note` does. Notes are not in the digest.

        Args:
          at: the time, in seconds since the network was opened.
          host: the name of the host that it concerns; empty for the network.
          text: the event in words.
          kind: the kind of note. Default: ``"note"``.
        """
        if not self._ended:
            self._notes.append(Note(at, host, text, kind, self._last_number))

    def decode(self, port: int, function: Callable[[bytes], object]) -> None:
        """Decode payloads with a function; :meth:`Network.decode` does.

        Args:
          port: their port, at either end.
          function: returns text for a payload.
        """
        self._payloads.decode(port, function)

    def describe(self, packet: Packet) -> str:
        """Return the payload of a packet in words, on one line; an empty text for an empty one.

        Args:
          packet: the packet.
        """
        return self._payloads.describe(packet)

    def end(self) -> None:
        """Ignore later records: the trace of a failed run ends with the failure."""
        self._ended = True

    @property
    def digest(self) -> str:
        """A hash of everything up to now: times, addresses, sizes and fates."""
        return self._hash.hexdigest()

    @property
    def records(self) -> tuple[Record, ...]:
        """The records that are kept, the oldest first."""
        return tuple(self._records)

    def lines(self) -> Iterator[str]:
        """Yield a line for each record that is kept, with everything that the digest covers."""
        for packet, at, fate, reason, receiver in self._records:
            payload = f" {packet.payload!r}" if self._payload else ""
            source, destination = format_address(packet.source), format_address(packet.destination)
            yield (
                f"#{packet.number} sent at {packet.sent_at!r} s, {fate} at {at!r} s: {source} -> {destination} "
                f"({receiver}), {len(packet.payload)} bytes{payload} {reason}"
            )

    @property
    def in_flight(self) -> tuple[Record, ...]:
        """A record for each packet whose fate is not decided yet, the oldest first."""
        return tuple(
            Record(packet, packet.sent_at, "in flight", "", receiver) for packet, receiver in self._in_flight.values()
        )

    @property
    def notes(self) -> tuple[Note, ...]:
        """The events beside the datagrams: the program's notes, faults, and checks that did not hold."""
        return tuple(self._notes)

    def excerpt(self, rows: int | None = None, rows_of_record: int = 1) -> Excerpt:
        """Return the shown part of the trace: its end, with repetitions folded.

        Args:
          rows: how many rows. Default: None, all of it, unfolded.
          rows_of_record: the rows of a datagram. Default: 1.
        """
        records = (*self.records, *self.in_flight)
        return excerpt(records, self.notes, self._payloads, rows=rows, rows_of_record=rows_of_record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self._records)

    def to_text(self, last: int | None = None) -> str:
        """Return the story in words: a line for each datagram and each note, in the order of sending.

        Args:
          last: the most lines, from the end; repetitions are folded into one. Default: None, all that are kept.

        Raises:
          TypeError: if ``last`` is no integer.
          ValueError: if it is negative.
        """
        if last is not None:
            check_integer("last", last, 0, sys.maxsize)
        return story(self.excerpt(last), self._payloads)

    def to_mermaid(self) -> str:
        """Return a sequence diagram in Mermaid's language: its end, of at most 60 rows, with repetitions folded."""
        return sequence_diagram(self.excerpt(ROWS), self._payloads)

    def to_svg(self, path: str | os.PathLike[str]) -> None:
        """Draw the datagrams as arrows between the hosts, time downwards, and write that to ``path`` as SVG.

        The picture shows the end of the trace, in at most 60 rows, with repetitions folded, and how much it leaves out.
        """
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 -- any path-like does
            file.write(ladder(self.excerpt(ROWS, ROWS_OF_RECORD), self._payloads))

    def to_pcapng(self, path: str | os.PathLike[str]) -> None:
        """Write a capture file to ``path``, for Wireshark and tshark; it needs the extra ``capture``."""
        write_pcapng(path, (*self.records, *self.in_flight), self._opened_at, self.notes)
