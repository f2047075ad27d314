"""The trace as a picture: hosts as columns, datagrams as arrows between them, time downwards (SVG).

Only elements and attributes that every renderer supports are used: no style sheet, no markers, and a white background
behind texts in place of outlines. Classes allow programs to style the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from .._values.places import kind_of
from .._values.records import Note, Record
from .excerpt import Excerpt, Fold
from .payloads import Payloads
from .text import about, note_text, omitted_text, outcome, shown

ROWS: Final = 60
"""The most rows of a picture."""
ROWS_OF_RECORD: Final = 2
"""A datagram has a row for its sending and one for its end."""

_MARGIN: Final = 8
"""The margin around everything, in pixels, as are all lengths here."""
_LEFT: Final = 110
"""The smallest width for times."""
_TOP: Final = 92
"""The height for names and addresses."""
_NARROWEST, _WIDEST = 330, 560
"""The distance between hosts, depending on the texts between them."""
_ALL_COLUMNS, _NARROWEST_OF_MANY = 4000, 120
"""The largest width of all columns together, unless there are so many that each would be narrower than this."""
_ROW: Final = 22
"""The distance between two events: space for the text above one and beside the other."""
_BREAK: Final = 26
"""The additional distance for a long silence."""
_LONG: Final = 8
"""A silence is long if it lasts so many times as long as the usual one."""
_LINE: Final = 15
"""Between two addresses of a host."""
_MOST_ADDRESSES: Final = 2
_DROPPED_AT: Final = 0.45
"""The fraction of its arrow that is drawn for a datagram dropped or in flight; the reason has the rest."""
_LOOP: Final = 34
"""The length of the arrow of a datagram that a host sends to itself."""
_CROSS: Final = 5
_BESIDE_CROSS: Final = 2 * _CROSS
_HEAD, _HALF_HEAD = 9, 4
"""The length of an arrow's head, and half its width."""
_DOT: Final = 4
"""The radius of the dot at a note."""
_NOTE_ROOM: Final = 700
"""The most characters shown of a note."""

_CHARACTER: Final = 7.2
"""The width of a character, on average, in fonts that are rather wide."""
_BOLD_CHARACTER: Final = 9.2
_FAINT_CHARACTER: Final = 6.8

_INK, _FAINT, _COLUMN, _BLUE, _RED, _PURPLE, _GREEN = (
    "#1b1f24",
    "#57606a",
    "#d0d7de",
    "#0b5cad",
    "#b42318",
    "#7a3e9d",
    "#1a6b37",
)
_TEXTS: Final = {
    "": f'font-size="12" fill="{_INK}"',
    "host": f'font-size="14" font-weight="bold" fill="{_INK}"',
    "faint": f'font-size="11" fill="{_FAINT}"',
    "why": f'font-size="12" fill="{_RED}"',
    "note": f'font-size="12" fill="{_GREEN}"',
    "fault": f'font-size="12" fill="{_RED}"',
    "violation": f'font-size="12" font-weight="bold" fill="{_RED}"',
}
"""The look of texts, by class."""

_SENT, _ARRIVED, _AT_ONCE = 1, 0, 2
"""The order of events at one time: arrivals, then sends and notes, then arrivals without delay."""


def ladder(excerpt: Excerpt, payloads: Payloads | None = None) -> str:
    """Return the picture as an SVG document.

    Each event has a row of its own, so that texts never cover anything else; while nothing happens, the rows are closer
    than their times, and a long silence is marked with its duration. A truncated text is shown in full under the
    pointer. The column of a host is dashed while it is down.
    """
    return _Picture(excerpt, payloads or Payloads()).draw()


class _Label(NamedTuple):
    """A text: ``room`` is the space for it."""

    x: int
    y: int
    direction: int
    text: str
    kind: str
    room: int

    @property
    def width(self) -> float:
        """Its largest width."""
        return min(self.room, len(self.text) * (_BOLD_CHARACTER if self.kind == "violation" else _CHARACTER))

    @property
    def right(self) -> float:
        """The largest x coordinate that it reaches."""
        return self.x + (self.width if self.direction > 0 else 0)

    def draw(self) -> Iterator[str]:
        width = round(self.width)
        left = self.x if self.direction > 0 else self.x - width
        place = f'x="{left}" y="{self.y - 10}" width="{width}" height="13"'
        yield f'<rect {place} fill="#ffffff" fill-opacity="0.8" stroke="none"/>'
        short = _fitted(self.text, self.room, _BOLD_CHARACTER if self.kind == "violation" else _CHARACTER)
        anchor = "start" if self.direction > 0 else "end"
        yield _text(self.kind, self.x, self.y, short, anchor, self.text if short != self.text else "")


class _Picture:
    def __init__(self, excerpt: Excerpt, payloads: Payloads) -> None:
        self._excerpt = excerpt
        self._payloads = payloads
        self._records = [entry for entry in excerpt.entries if isinstance(entry, Record)]
        self._others = [entry for entry in excerpt.entries if not isinstance(entry, Record)]
        self._layout = _lay_out(self._records, self._others, is_cut=excerpt.omitted > 0)
        headings = _headings(self._records, self._others, excerpt.hosts)
        self._column = self._column_width(headings)
        self._headings = {name: _short_heading(lines, self._column - 2 * _MARGIN) for name, lines in headings.items()}
        widths = [_heading_width(lines) for lines in self._headings.values()] or [0.0]
        times = max((len(text) for text, _ in self._layout.texts), default=0) * _FAINT_CHARACTER
        left = round(max(_LEFT, times + 3 * _MARGIN, widths[0] / 2 + _MARGIN))
        self._columns = {name: left + number * self._column for number, name in enumerate(headings)}
        self._first_column = left
        labels = (label for numbered in enumerate(self._records) for label in self._labels(*numbered))
        # Duplicates, and copies to a group, are sent once: the farthest receiver leaves the most space.
        written = {(label.x, label.y, label.direction): label for label in sorted(labels, key=lambda each: each.room)}
        self._written = [*written.values(), *self._notes()]
        rightmost = max(self._columns.values(), default=left) + widths[-1] / 2
        self._width = round(max([rightmost, *(label.right for label in self._written)])) + 2 * _MARGIN
        self._height = self._layout.bottom + 40

    def draw(self) -> str:
        size = f'width="{self._width}" height="{self._height}"'
        box = f'viewBox="0 0 {self._width} {self._height}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" {size} {box}>',
            f'<rect {size} fill="#ffffff"/>',
            *self._draw_hosts(),
            *self._draw_times(),
            *self._draw_notes(),
        ]
        for number, record in enumerate(self._records):
            title = f"#{record.packet.number} {about(record.packet, self._payloads)}, {outcome(record)}"
            lines += [f'<g class="datagram"><title>{escape(title)}</title>', *self._draw_arrow(number, record), "</g>"]
        # Texts are drawn last, so that no arrow crosses them.
        lines += [line for label in self._written for line in label.draw()]
        return "\n".join([*lines, "</svg>", ""])

    def _column_width(self, headings: dict[str, list[str]]) -> int:
        wanted = [_heading_width(lines) + 2 * _MARGIN for lines in headings.values()]
        wanted += [len(self._about(record)) * _CHARACTER + 2 * _MARGIN for record in self._records]
        beside = _BESIDE_CROSS + _MARGIN + 1
        wanted += [(len(record.reason) * _CHARACTER + beside) / (1 - _DROPPED_AT) for record in self._records]
        most = max(_NARROWEST_OF_MANY, min(_WIDEST, _ALL_COLUMNS // max(1, len(headings))))
        return min(most, max(_NARROWEST, *map(round, wanted))) if wanted else _NARROWEST

    def _about(self, record: Record) -> str:
        packet = record.packet
        ports = "" if packet.report is not None else f" {packet.source.port} -> {packet.destination.port}"
        return f"#{packet.number}{ports} {about(packet, self._payloads)}"

    # Hosts, times and notes

    def _draw_hosts(self) -> Iterator[str]:
        for name, (title, *addresses) in self._headings.items():
            x = self._columns[name]
            top, bottom = _TOP - _ROW + 4, self._height - 12
            yield f'<line class="column" {_stroke(_COLUMN, 2)} x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>'
            for begin, end in self._times_down(name, top, bottom):
                line = f'x1="{x}" y1="{begin}" x2="{x}" y2="{end}"'
                yield f"<line {_stroke('#ffffff', 4)} {line}/>"
                yield f'<line class="down" {_stroke(_RED, 2)} stroke-dasharray="3 5" {line}/>'
            yield _text("host", x, 24, title, "middle")
            for number, address in enumerate(addresses):
                yield _text("faint", x, 42 + number * _LINE, address, "middle")

    def _times_down(self, host: str, top: int, bottom: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of y in which the column of a host is dashed."""
        begin = top if host in self._excerpt.down else None
        for number, entry in enumerate(self._others):
            if not isinstance(entry, Note) or entry.host != host:
                continue
            if entry.kind == "crash" and begin is None:
                begin = self._layout.rows[_other(number, entry)]
            elif entry.kind == "restart" and begin is not None:
                yield begin, self._layout.rows[_other(number, entry)]
                begin = None
        if begin is not None:
            yield begin, bottom

    def _draw_times(self) -> Iterator[str]:
        for y in self._layout.silences:
            yield self._draw_across("silence", _FAINT, y)
        for text, y in self._layout.texts:
            yield _text("faint", _MARGIN, y + 4, text)

    def _draw_across(self, kind: str, colour: str, y: int) -> str:
        ends = f'x1="{self._first_column - 2 * _MARGIN}" y1="{y}" x2="{self._width - _MARGIN}" y2="{y}"'
        return f'<line class="{kind}" {_stroke(colour, 1)} stroke-dasharray="2 4" {ends}/>'

    def _draw_notes(self) -> Iterator[str]:
        for number, entry in enumerate(self._others):
            y = self._layout.rows[_other(number, entry)]
            if isinstance(entry, Fold):
                yield self._draw_across("fold", _FAINT, y)
                continue
            colour = _GREEN if entry.kind == "note" else _RED
            if entry.host:
                x = self._columns[entry.host]
                yield f'<circle class="{entry.kind}" cx="{x}" cy="{y}" r="{_DOT}" fill="{colour}" stroke="none"/>'
            else:
                yield self._draw_across("fault", colour, y)

    def _notes(self) -> Iterator[_Label]:
        if self._excerpt.omitted:
            yield self._label_across(_TOP, omitted_text(self._excerpt.omitted), "fault")
        for number, entry in enumerate(self._others):
            y = self._layout.rows[_other(number, entry)]
            if isinstance(entry, Fold):
                yield self._label_across(y, entry.text, "")
                continue
            kind = entry.kind if entry.kind in _TEXTS else "fault"
            if entry.host:
                yield _Label(self._columns[entry.host] + _MARGIN, y + 4, 1, note_text(entry), kind, _NOTE_ROOM)
            else:
                yield self._label_across(y, note_text(entry), kind)

    def _label_across(self, y: int, text: str, kind: str) -> _Label:
        return _Label(self._first_column + _MARGIN, y + 4, 1, text, kind, _NOTE_ROOM)

    # Datagrams

    def _ends(self, number: int, record: Record) -> tuple[int, int, int, int]:
        """Return the start and the end of a record's arrow: x and y, x and y."""
        begin, end = self._columns[record.packet.sender], self._columns[record.receiver]
        if record.fate != "delivered":
            end = begin + round((end - begin) * _DROPPED_AT) if end != begin else begin + _LOOP
        rows = self._layout.rows
        return begin, rows[_sending(number, record)], end, rows[_ending(number, record)]

    def _direction(self, record: Record) -> int:
        return 1 if self._columns[record.receiver] >= self._columns[record.packet.sender] else -1

    def _draw_arrow(self, number: int, record: Record) -> Iterator[str]:
        begin, top, end, bottom = self._ends(number, record)
        kind, colour, dashes = "arrow", _BLUE, ""
        if record.packet.report is not None:
            kind, colour, dashes = "arrow report", _PURPLE, ' stroke-dasharray="5 3"'
        line = f'x1="{begin}" y1="{top}" x2="{end}" y2="{bottom}"'
        if record.fate == "dropped":
            yield f'<line class="{kind} dropped" {_stroke(_RED, 1.4)}{dashes} {line}/>'
            size = 2 * _CROSS
            path = f"M{end - _CROSS} {bottom - _CROSS}l{size} {size}m0 -{size}l-{size} {size}"
            yield f'<path class="cross" fill="none" {_stroke(_RED, 2)} d="{path}"/>'
        elif record.fate == "in flight":
            yield f'<line class="{kind} flying" {_stroke(colour, 1.4)} stroke-dasharray="1 3" {line}/>'
        elif begin == end:
            path = f"M{begin} {top}h{_LOOP}V{bottom}h-{_LOOP - 2}"
            yield f'<path class="{kind}" fill="none" {_stroke(colour, 1.4)}{dashes} d="{path}"/>'
            yield _head(begin + _LOOP, bottom, end, bottom, colour)
        else:
            yield f'<line class="{kind}" {_stroke(colour, 1.4)}{dashes} {line}/>'
            yield _head(begin, top, end, bottom, colour)

    def _labels(self, number: int, record: Record) -> Iterator[_Label]:
        direction = self._direction(record)
        begin, top, end, bottom = self._ends(number, record)
        room = max(self._column, abs(self._columns[record.receiver] - begin)) - 2 * _MARGIN
        yield _Label(begin + _MARGIN * direction, top - 3, direction, self._about(record), "", room)
        if record.fate != "delivered":
            x = end + _BESIDE_CROSS * direction
            yield _Label(x, bottom + 4, direction, record.reason or record.fate, "why", _room_for_reason(self._column))


# What is drawn


def _stroke(colour: str, width: float) -> str:
    return f'stroke="{colour}" stroke-width="{width}"'


def _text(kind: str, x: int, y: int, text: str, anchor: str = "start", whole: str = "") -> str:
    place = f'x="{x}" y="{y}" text-anchor="{anchor}"'
    # ImageMagick drops a quotation mark at the end.
    text = f"{text}\N{NO-BREAK SPACE}" if text.endswith(('"', "'")) else text
    element = f'<text class="{kind}" {_TEXTS[kind]} stroke="none" {place}>{escape(text)}</text>'
    # ImageMagick does not draw a text that has a title of its own.
    return f"<g><title>{escape(whole)}</title>{element}</g>" if whole else element


def _head(begin: int, top: int, end: int, bottom: int, colour: str) -> str:
    """Return the head of an arrow, as a triangle."""
    length = math.hypot(end - begin, bottom - top)
    along, down = (end - begin) / length, (bottom - top) / length
    x, y = end - along * _HEAD, bottom - down * _HEAD
    sides = [(x - down * _HALF_HEAD, y + along * _HALF_HEAD), (x + down * _HALF_HEAD, y - along * _HALF_HEAD)]
    points = " ".join(f"{round(left, 1)},{round(height, 1)}" for left, height in [(end, bottom), *sides])
    return f'<polygon class="head" points="{points}" fill="{colour}" stroke="none"/>'


# What is written


def _fitted(text: str, room: float, character: float) -> str:
    most = max(1, int(room / character))
    return text if len(text) <= most else text[: most - 1] + "…"


def _room_for_reason(column: int) -> int:
    return int(column * (1 - _DROPPED_AT)) - _BESIDE_CROSS - _MARGIN


def _headings(records: Sequence[Record], others: Sequence[Note | Fold], hosts: Sequence[str]) -> dict[str, list[str]]:
    """Return the name of each shown host, with its known addresses."""
    names = {name for record in records for name in (record.packet.sender, record.receiver)}
    names.update(entry.host for entry in others if isinstance(entry, Note) and entry.host)
    addresses: dict[str, dict[str, None]] = {name: {} for name in hosts if name in names}
    for record in records:
        found = [(record.packet.sender, record.packet.source.host)]
        if record.fate == "delivered":
            found.append((record.receiver, record.packet.destination.host))
        for name, host in found:
            # A multicast or broadcast address belongs to other hosts too.
            if kind_of(host) == "unicast":
                addresses[name][host] = None
    return {name: [shown(name), *_few(list(own))] for name, own in addresses.items()}


def _few(addresses: list[str]) -> list[str]:
    more = len(addresses) - _MOST_ADDRESSES
    return addresses if more <= 0 else [*addresses[: _MOST_ADDRESSES - 1], f"and {more + 1} more"]


def _heading_width(lines: Sequence[str]) -> float:
    title, *addresses = lines
    return max(len(title) * _BOLD_CHARACTER, *(len(address) * _FAINT_CHARACTER for address in ["", *addresses]))


def _short_heading(lines: Sequence[str], room: int) -> list[str]:
    title, *addresses = lines
    return [_fitted(title, room, _BOLD_CHARACTER), *addresses]


# Times of events

_Event = tuple[float, int, float, float, int]


def _sending(_: int, record: Record) -> _Event:
    # Duplicates were sent once.
    return record.packet.sent_at, _SENT, record.packet.number, 0.0, 0


def _ending(number: int, record: Record) -> _Event:
    kind = _ARRIVED if record.at > record.packet.sent_at else _AT_ONCE
    # Of the copies to a group the farthest comes first, so that their arrows do not overlap.
    return record.at, kind, record.packet.number, record.packet.sent_at, -number


def _other(number: int, entry: Note | Fold) -> _Event:
    order = entry.after + 0.5 if isinstance(entry, Note) else float(entry.number)
    return entry.at, _SENT, order, 0.0, number


class _Layout(NamedTuple):
    rows: dict[_Event, int]
    """The y coordinate of each event."""
    texts: list[tuple[str, int]]
    """The texts at the side: times, and durations of silences."""
    silences: list[int]
    bottom: int


def _lay_out(records: Sequence[Record], others: Sequence[Note | Fold], *, is_cut: bool) -> _Layout:
    found = {event(*record) for record in enumerate(records) for event in (_sending, _ending)}
    events = sorted(found.union(_other(*entry) for entry in enumerate(others)))
    ends = {_other(number, entry): entry.until for number, entry in enumerate(others) if isinstance(entry, Fold)}
    # Events at the same time do not count towards the usual silence.
    gaps = sorted(gap for one, other in pairwise(events) if (gap := other[0] - ends.get(one, one[0])) > 0)
    long = _LONG * gaps[len(gaps) // 2] if gaps else 0.0
    top = _TOP + (_ROW if is_cut else 0)
    layout = _Layout({}, [], [], top + max(0, len(events) - 1) * _ROW + sum(gap > long for gap in gaps) * _BREAK)
    y, before = top - _ROW, None
    for event in events:
        y += _ROW
        if before is not None and event[0] - before > long:
            middle = y + (_BREAK - _ROW) // 2
            layout.silences.append(middle)
            layout.texts.append((f"{event[0] - before:.6g} s later", middle))
            y += _BREAK
        if event[0] != before:
            layout.texts.append((f"{event[0]:.6f} s", y))
        layout.rows[event] = y
        before = ends.get(event, event[0])
    return layout
