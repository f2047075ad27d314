"""The part of a trace that texts and pictures show: its end, in the order of sending, with repetitions folded.

Rule 1: a block of entries is a repetition if it has the same hosts, ports, fates and words, and each number in the
words grows by the same amount each time. The order within a block does not matter.
Rule 2: of three or more repetitions the first and the last are shown.
Rule 3: notes are never folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from ..._values.words import plural
from .._values.records import Note, Record
from .payloads import Payloads

_FEWEST_REPETITIONS: Final = 3
_LONGEST_BLOCK: Final = 16
_CONSIDERED: Final = 4000
"""How many of the last records and of the last notes are considered for a limited excerpt."""
_EPHEMERAL: Final = 32768
_LONGEST_WORDS: Final = 200
_NUMBER: Final = re.compile(r"\d+")


class Fold(NamedTuple):
    """Repetitions that are not shown."""

    at: float
    """When the first datagram of them was sent."""
    until: float
    """When the last one was."""
    number: int
    """The number of the first datagram."""
    datagrams: int
    """How many there are."""
    block: int
    """How many datagrams are repeated."""
    hosts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text in their place."""
        these = "this datagram" if self.block == 1 else f"these {self.block} datagrams"
        times = self.datagrams // self.block
        return f"{these} again, {times} {plural(times, 'time')}, until {self.until:.6f} s"


Entry: TypeAlias = Record | Note | Fold


class Excerpt(NamedTuple):
    """The shown part of a trace."""

    entries: Sequence[Entry] = ()
    omitted: int = 0
    """The number of datagrams before them that are left out."""
    down: frozenset[str] = frozenset()
    """The hosts that are down when it begins."""
    hosts: Sequence[str] = ()
    """The names of all hosts, in the order of their appearance in the whole trace."""

    @property
    def datagrams(self) -> int:
        """The number of datagrams that it covers, including folded ones."""
        return sum(entry.datagrams if isinstance(entry, Fold) else isinstance(entry, Record) for entry in self.entries)


def excerpt(
    records: Sequence[Record],
    notes: Sequence[Note] = (),
    payloads: Payloads | None = None,
    *,
    rows: int | None = None,
    rows_of_record: int = 1,
) -> Excerpt:
    """Return the shown part of a trace.

    Args:
      records: the fates of the packets.
      notes: the other events.
      payloads: decodes payloads into text.
      rows: the size of the excerpt; None for everything, unfolded.
      rows_of_record: the rows of a record; every other entry has one.
    """
    words = payloads or Payloads()
    for record in records:
        words.learn(record.packet)
    hosts = _hosts(records, notes)
    chosen = records if rows is None else records[-_CONSIDERED:]
    noted = notes if rows is None else notes[-_CONSIDERED:]
    entries: list[Entry] = sorted([*chosen, *noted], key=_order)
    if rows is None:
        return Excerpt(entries, hosts=hosts)
    kept: list[Entry] = []
    left = rows
    for entry in reversed(_folded(entries, words)):
        left -= rows_of_record if isinstance(entry, Record) else 1
        if left < 0:
            break
        kept.append(entry)
    kept.reverse()
    shown = Excerpt(kept)
    begin = kept[0] if kept else None
    before = [note for note in notes if begin is not None and _order(note) < _order(begin)]
    return Excerpt(kept, len(records) - shown.datagrams, _down_after(before), hosts)


def _hosts(records: Sequence[Record], notes: Sequence[Note]) -> tuple[str, ...]:
    in_order = sorted(records, key=_order)
    names = dict.fromkeys(name for record in in_order for name in (record.packet.sender, record.receiver))
    return (*names, *dict.fromkeys(note.host for note in notes if note.host and note.host not in names))


def _order(entry: Entry) -> tuple[float, float, float]:
    if isinstance(entry, Record):
        return entry.packet.sent_at, entry.packet.number, entry.at
    if isinstance(entry, Note):
        return entry.at, entry.after + 0.5, 0.0
    return entry.at, entry.number, 0.0


def _down_after(notes: Iterable[Note]) -> frozenset[str]:
    down: set[str] = set()
    for note in notes:
        if note.kind == "crash":
            down.add(note.host)
        elif note.kind == "restart":
            down.discard(note.host)
    return frozenset(down)


# Folding

_Key: TypeAlias = tuple[int, tuple[int, ...]]
"""A number for the parts that must be equal, and the numbers that may grow."""


def _keys(entries: Sequence[Entry], payloads: Payloads) -> list[_Key | None]:
    """Return the key of each record, None for notes."""
    known: dict[tuple[object, ...], int] = {}
    keys: list[_Key | None] = []
    for entry in entries:
        if not isinstance(entry, Record):
            keys.append(None)
            continue
        packet = entry.packet
        words = "" if packet.report is not None else payloads.describe(packet)[:_LONGEST_WORDS]
        about = () if packet.report is None else (packet.report.type, packet.report.code)
        ports = [port if port < _EPHEMERAL else 0 for port in (packet.source.port, packet.destination.port)]
        place = (packet.sender, entry.receiver, packet.destination.host, *ports)
        equal = (*place, about, _NUMBER.sub("0", words), entry.fate, entry.reason)
        keys.append((known.setdefault(equal, len(known)), tuple(map(int, _NUMBER.findall(words)))))
    return keys


def _folded(entries: Sequence[Entry], payloads: Payloads) -> list[Entry]:
    keys = _keys(entries, payloads)
    found: list[Entry] = []
    place = 0
    while place < len(entries):
        block, times = _longest_repetition(keys, place)
        if times < _FEWEST_REPETITIONS:
            found.append(entries[place])
            place += 1
            continue
        end = place + block * times
        found += entries[place : place + block]
        found.append(_fold([e for e in entries[place + block : end - block] if isinstance(e, Record)], block))
        found += entries[end - block : end]
        place = end
    return found


def _fold(records: Sequence[Record], block: int) -> Fold:
    first, last = records[0].packet, records[-1].packet
    hosts = dict.fromkeys(host for record in records for host in (record.packet.sender, record.receiver))
    return Fold(first.sent_at, last.sent_at, first.number, len(records), block, tuple(hosts))


def _longest_repetition(keys: Sequence[_Key | None], place: int) -> tuple[int, int]:
    """Return the size of the block at ``place`` whose repetitions cover most entries, and the number of repetitions."""
    best = (1, 1)
    for size in range(1, _LONGEST_BLOCK + 1):
        times = _repetitions(keys, place, size)
        if times >= _FEWEST_REPETITIONS and times * size > best[0] * best[1]:
            best = size, times
    return best


def _repetitions(keys: Sequence[_Key | None], place: int, size: int) -> int:
    before = _block(keys, place, size)
    if before is None:
        return 0
    times = 1
    growth: list[int] | None = None
    while (block := _block(keys, place + times * size, size)) is not None:
        if [equal for equal, _ in block] != [equal for equal, _ in before]:
            break
        grown = [
            later - earlier
            for (_, new), (_, old) in zip(block, before, strict=True)
            for later, earlier in zip(new, old, strict=True)
        ]
        if growth is not None and grown != growth:
            break
        before, growth = block, grown
        times += 1
    return times


def _block(keys: Sequence[_Key | None], place: int, size: int) -> list[_Key] | None:
    """Return the keys of a block in a canonical order; None if it has a note, or the entries end."""
    block = sorted(filter(None, keys[place : place + size]))
    return block if len(block) == size else None
