"""The trace of a network: what became of each datagram, and a digest of all of it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2b

from ..._values.addresses import format_address
from .._values.records import Record
from .ladder import ladder
from .mermaid import sequence_diagram
from .pcapng import write_pcapng
from .text import story


class Trace:
    """What became of each datagram, in the order in which that was decided."""

    def __init__(self, limit: int | None, *, payload: bool, opened_at: float) -> None:
        self._records: deque[Record] = deque(maxlen=limit)
        self._payload = payload
        self._opened_at = opened_at
        self._hash = blake2b(digest_size=16)
        self._append = self._records.append
        self._update: Callable[[bytes], None] = self._hash.update
        self.total: int = 0
        """How many records there have been, those that are no longer kept included."""

    def note(self, record: Record) -> None:
        """Add a record; the network does.

        Args:
          record: the record.
        """
        packet, at, fate, reason, receiver = record
        self.total += 1
        self._append(record)
        (host, port), (to_host, to_port) = packet.source, packet.destination
        size = len(packet.payload)
        line = f"{packet.sent_at!r} {at!r} {host} {port} {to_host} {to_port} {size} {fate} {reason} {receiver}\n"
        self._update(line.encode())
        if self._payload:
            self._update(packet.payload)

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

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self._records)

    def to_text(self, last: int | None = None) -> str:
        """Return the story in words, a line for each record.

        Args:
          last: how many records, from the end. Default: None, all that are kept.
        """
        return story(self.records, last=last)

    def to_mermaid(self) -> str:
        """Return a sequence diagram in Mermaid's language."""
        return sequence_diagram(self.records)

    def to_svg(self, path: str | os.PathLike[str]) -> None:
        """Draw the datagrams as arrows between the hosts, time downwards, and write that to ``path`` as SVG."""
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 -- any path-like does
            file.write(ladder(self.records))

    def to_pcapng(self, path: str | os.PathLike[str]) -> None:
        """Write a capture file to ``path``, for Wireshark and tshark; it needs the extra ``capture``."""
        write_pcapng(path, self.records, self._opened_at)
