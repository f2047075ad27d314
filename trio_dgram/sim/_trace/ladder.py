"""The trace as a picture: hosts as columns, datagrams as arrows between them, time downwards (SVG)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from .._values.places import kind_of
from .._values.records import Record
from .text import contents, outcome, shown

_MARGIN: Final = 8
"""Around everything, in pixels, as are all lengths here."""
_LEFT: Final = 110
"""For the times, at least."""
_TOP: Final = 92
"""For names and addresses."""
_NARROWEST, _WIDEST = 330, 560
"""How far one host is from the next, depending on what is to be written between them."""
_ROW: Final = 22
"""Between two events: enough for what is written above one and beside the other."""
_BREAK: Final = 26
"""What a long silence adds to that."""
_LONG: Final = 8
"""A silence is long that lasts so many times as long as the usual one."""
_LINE: Final = 15
"""Between two addresses of a host."""
_MOST_ADDRESSES: Final = 2
_DROPPED_AT: Final = 0.45
"""How far on its way one is crossed out that was dropped: the reason has the rest."""
_LOOP: Final = 34
"""How far one goes away that a host sends to itself."""
_CROSS: Final = 5
_BESIDE_CROSS: Final = 2 * _CROSS

_CHARACTER: Final = 7.2
"""The width of a character, on average, in fonts that are rather wide."""
_BOLD_CHARACTER: Final = 9.2
_FAINT_CHARACTER: Final = 6.8

_STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #1b1f24; paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
.host { font-weight: bold; font-size: 14px; }
.faint { fill: #57606a; font-size: 11px; }
.column { stroke: #d0d7de; stroke-width: 2; }
.silence { stroke: #8c959f; stroke-dasharray: 2 4; }
.arrow { fill: none; stroke: #0b5cad; stroke-width: 1.4; }
.dropped { stroke: #b42318; }
.report { stroke: #7a3e9d; stroke-dasharray: 5 3; }
.cross { fill: none; stroke: #b42318; stroke-width: 2; }
.why { fill: #b42318; }
"""


def _marker(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        f' orient="auto"><path d="M0 0 10 5 0 10z" fill="{colour}"/></marker>'
    )


_HEADS: Final = f"<defs>{_marker('head', '#0b5cad')}{_marker('report-head', '#7a3e9d')}</defs>"

_SENT, _ARRIVED, _AT_ONCE = 1, 0, 2
"""What comes first of what happens at one time: what arrives, then what is sent, then what arrives at once."""


def ladder(records: Iterable[Record]) -> str:
    """Return the picture as an SVG document.

    Each event has a row of its own, so that what is written never covers something else; where time passes without
    any, the rows are closer than their times, and a long silence is marked with how long it lasts. What is too long
    to be written whole is shown whole where a pointer rests on it.
    """
    chosen = sorted(records, key=lambda record: (record.packet.sent_at, record.packet.number, record.at))
    return _Picture(chosen).draw()


class _Label(NamedTuple):
    """Something written: ``room`` is how much there is for it."""

    x: int
    y: int
    direction: int
    text: str
    kind: str
    room: int

    @property
    def right(self) -> float:
        """How far it goes to the right at most."""
        return self.x + (min(self.room, len(self.text) * _CHARACTER) if self.direction > 0 else 0)

    def draw(self) -> str:
        anchor = "start" if self.direction > 0 else "end"
        short = _fitted(self.text, self.room, _CHARACTER)
        whole = "" if short == self.text else f"<title>{escape(self.text)}</title>"
        position = f'x="{self.x}" y="{self.y}" text-anchor="{anchor}"'
        return f'<text class="{self.kind}" {position}>{escape(short)}{whole}</text>'


class _Picture:
    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._layout = _lay_out(records)
        headings = _headings(records)
        self._column = _column_width(records, headings)
        self._headings = {name: _short_heading(lines, self._column - 2 * _MARGIN) for name, lines in headings.items()}
        widths = [_heading_width(lines) for lines in self._headings.values()] or [0.0]
        times = max((len(text) for text, _ in self._layout.texts), default=0) * _FAINT_CHARACTER
        left = round(max(_LEFT, times + 3 * _MARGIN, widths[0] / 2 + _MARGIN))
        self._columns = {name: left + number * self._column for number, name in enumerate(headings)}
        labels = (label for number in range(len(records)) for label in self._labels(number))
        # Duplicates are sent once.
        self._written = list(dict.fromkeys(labels))
        rightmost = max(self._columns.values(), default=left) + widths[-1] / 2
        self._width = round(max([rightmost, *(label.right for label in self._written)])) + 2 * _MARGIN
        self._height = self._layout.bottom + 40

    def draw(self) -> str:
        size = f'width="{self._width}" height="{self._height}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self._width} {self._height}">',
            f"<style>{_STYLE}</style>",
            _HEADS,
            f'<rect {size} fill="#ffffff"/>',
            *self._draw_hosts(),
            *self._draw_times(),
        ]
        for number, record in enumerate(self._records):
            title = f"<title>{escape(f'#{record.packet.number} {contents(record.packet)}, {outcome(record)}')}</title>"
            lines += [f"<g>{title}", *self._draw_arrow(number, record), "</g>"]
        # No arrow strikes through what is written on top of them all.
        lines += [label.draw() for label in self._written]
        return "\n".join([*lines, "</svg>", ""])

    def _draw_hosts(self) -> Iterator[str]:
        for name, (title, *addresses) in self._headings.items():
            x = self._columns[name]
            top = _TOP - _ROW + 4
            yield f'<line class="column" x1="{x}" y1="{top}" x2="{x}" y2="{self._height - 12}"/>'
            yield f'<text class="host" x="{x}" y="24" text-anchor="middle">{escape(title)}</text>'
            for number, address in enumerate(addresses):
                y = 42 + number * _LINE
                yield f'<text class="faint" x="{x}" y="{y}" text-anchor="middle">{escape(address)}</text>'

    def _draw_times(self) -> Iterator[str]:
        left = min(self._columns.values(), default=0) - 2 * _MARGIN
        for y in self._layout.silences:
            right = self._width - _MARGIN
            yield f'<line class="silence" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>'
        for text, y in self._layout.texts:
            yield f'<text class="faint" x="{_MARGIN}" y="{y + 4}">{text}</text>'

    def _ends(self, number: int) -> tuple[int, int, int, int]:
        """Return where the arrow of a record begins and ends: x and y, x and y."""
        record = self._records[number]
        begin, end = self._columns[record.packet.sender], self._columns[record.receiver]
        if record.fate == "dropped":
            end = begin + round((end - begin) * _DROPPED_AT) if end != begin else begin + _LOOP
        rows = self._layout.rows
        return begin, rows[_sending(number, record)], end, rows[_ending(number, record)]

    def _direction(self, record: Record) -> int:
        return 1 if self._columns[record.receiver] >= self._columns[record.packet.sender] else -1

    def _draw_arrow(self, number: int, record: Record) -> Iterator[str]:
        begin, top, end, bottom = self._ends(number)
        is_report = record.packet.report is not None
        kind = "arrow report" if is_report else "arrow"
        head = f'marker-end="url(#{"report-head" if is_report else "head"})"'
        line = f'x1="{begin}" y1="{top}" x2="{end}" y2="{bottom}"'
        if record.fate == "dropped":
            yield f'<line class="{kind} dropped" {line}/>'
            size = 2 * _CROSS
            path = f"M{end - _CROSS} {bottom - _CROSS}l{size} {size}m0 -{size}l-{size} {size}"
            yield f'<path class="cross" d="{path}"/>'
        elif begin == end:
            yield f'<path class="{kind}" {head} d="M{begin} {top}h{_LOOP}V{bottom}h-{_LOOP - 2}"/>'
        else:
            yield f'<line class="{kind}" {head} {line}/>'

    def _labels(self, number: int) -> Iterator[_Label]:
        record = self._records[number]
        direction = self._direction(record)
        begin, top, end, bottom = self._ends(number)
        room = self._column - 2 * _MARGIN
        yield _Label(begin + _MARGIN * direction, top - 3, direction, _about(record), "", room)
        if record.fate == "dropped":
            x = end + _BESIDE_CROSS * direction
            yield _Label(x, bottom + 4, direction, record.reason, "why", _room_for_reason(self._column))


# What is written


def _about(record: Record) -> str:
    return f"#{record.packet.number} {contents(record.packet)}"


def _fitted(text: str, room: float, character: float) -> str:
    most = max(1, int(room / character))
    return text if len(text) <= most else text[: most - 1] + "…"


def _room_for_reason(column: int) -> int:
    return int(column * (1 - _DROPPED_AT)) - _BESIDE_CROSS - _MARGIN


def _headings(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return the name of each host, in order of appearance, and after it the addresses that it is known to have."""
    names = dict.fromkeys(name for record in records for name in (record.packet.sender, record.receiver))
    addresses: dict[str, dict[str, None]] = {name: {} for name in names}
    for record in records:
        found = [(record.packet.sender, record.packet.source.host)]
        if record.fate == "delivered":
            found.append((record.receiver, record.packet.destination.host))
        for name, host in found:
            # Others have the address of a group too.
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


def _column_width(records: Sequence[Record], headings: dict[str, list[str]]) -> int:
    wanted = [_heading_width(lines) + 2 * _MARGIN for lines in headings.values()]
    wanted += [len(_about(record)) * _CHARACTER + 2 * _MARGIN for record in records]
    beside = _BESIDE_CROSS + _MARGIN + 1
    wanted += [(len(record.reason) * _CHARACTER + beside) / (1 - _DROPPED_AT) for record in records]
    return min(_WIDEST, max(_NARROWEST, *map(round, wanted))) if wanted else _NARROWEST


# When what happens

_Event = tuple[float, int, int, float, int]


def _sending(_: int, record: Record) -> _Event:
    # Duplicates were sent once.
    return record.packet.sent_at, _SENT, record.packet.number, 0.0, 0


def _ending(number: int, record: Record) -> _Event:
    kind = _ARRIVED if record.at > record.packet.sent_at else _AT_ONCE
    # Of several to a group the one for the farthest column comes first, lest they lie in one line.
    return record.at, kind, record.packet.number, record.packet.sent_at, -number


class _Layout(NamedTuple):
    rows: dict[_Event, int]
    """How far down each event is."""
    texts: list[tuple[str, int]]
    """What is written at the side: when it is, and how long nothing happens."""
    silences: list[int]
    bottom: int


def _lay_out(records: Sequence[Record]) -> _Layout:
    events = sorted({event(*record) for record in enumerate(records) for event in (_sending, _ending)})
    # What happens at the same time says nothing of what is usual.
    gaps = sorted(later[0] - earlier[0] for earlier, later in pairwise(events) if later[0] > earlier[0])
    long = _LONG * gaps[len(gaps) // 2] if gaps else 0.0
    layout = _Layout({}, [], [], _TOP + max(0, len(events) - 1) * _ROW + sum(gap > long for gap in gaps) * _BREAK)
    y, before = _TOP - _ROW, None
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
        before = event[0]
    return layout
