"""The trace as a picture: hosts as columns, datagrams as arrows between them, time downwards (SVG)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from ._records import Record
from ._text import contents, outcome

_LEFT: Final = 110
_RIGHT: Final = 60
_TOP: Final = 70
_COLUMN: Final = 330
"""Between two hosts, in pixels."""
_ROW: Final = 19
"""Between two events, in pixels: labels are no higher."""
_BREAK: Final = 26
"""What a long silence adds to that."""
_LONG: Final = 8
"""A silence is long that lasts so many times as long as the usual one."""
_DROPPED_AT: Final = 0.58
"""How far on its way one is crossed out that was dropped."""
_LONGEST_LABEL: Final = 50

_STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #1b1f24; paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
.host { font-weight: bold; font-size: 14px; }
.faint { fill: #57606a; font-size: 11px; }
.column { stroke: #d0d7de; stroke-width: 2; }
.silence { stroke: #8c959f; stroke-dasharray: 2 4; }
.arrow { fill: none; stroke: #0b5cad; stroke-width: 1.4; }
.dropped { stroke: #b42318; }
.report { stroke: #7a3e9d; stroke-dasharray: 5 3; }
.why { fill: #b42318; }
"""

_HEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
    ' orient="auto-start-reverse"><path d="M0 0 10 5 0 10z" fill="context-stroke"/></marker></defs>'
)

_SENT, _ARRIVED, _AT_ONCE = 1, 0, 2
"""What comes first of what happens at one time: what arrives, then what is sent, then what arrives at once."""


def ladder(records: Iterable[Record]) -> str:
    """Return the picture as an SVG document.

    Each event has a row of its own, so that what is written never covers something else; where time passes without
    any, the rows are closer than their times, and a long silence is marked.
    """
    chosen = sorted(records, key=lambda record: (record.packet.sent_at, record.packet.number, record.at))
    return _Picture(chosen).draw()


class _Picture:
    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        names = dict.fromkeys(name for record in records for name in (record.packet.sender, record.receiver))
        self._columns = {name: _LEFT + number * _COLUMN for number, name in enumerate(names)}
        self._rows, self._times, self._silences = _lay_out(records)
        self._height = max(self._rows.values(), default=_TOP) + 40
        self._width = _LEFT + max(0, len(names) - 1) * _COLUMN + _RIGHT + (_COLUMN // 2 if len(names) == 1 else 80)

    def draw(self) -> str:
        size = f'width="{self._width}" height="{self._height}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self._width} {self._height}">',
            f"<style>{_STYLE}</style>",
            _HEAD,
            f'<rect {size} fill="#ffffff"/>',
            *self._draw_hosts(),
            *self._draw_times(),
        ]
        for record in self._records:
            lines += self._draw_record(record)
        return "\n".join([*lines, "</svg>", ""])

    def _draw_hosts(self) -> Iterable[str]:
        addresses: dict[str, dict[str, None]] = {}
        for record in self._records:
            addresses.setdefault(record.packet.sender, {})[record.packet.source.host] = None
        for name, x in self._columns.items():
            yield f'<line class="column" x1="{x}" y1="{_TOP - 12}" x2="{x}" y2="{self._height - 12}"/>'
            yield f'<text class="host" x="{x}" y="24" text-anchor="middle">{escape(name or "the network")}</text>'
            text = ", ".join(list(addresses.get(name, ()))[:2])
            yield f'<text class="faint" x="{x}" y="42" text-anchor="middle">{escape(text)}</text>'

    def _draw_times(self) -> Iterable[str]:
        for time, y in self._times:
            yield f'<text class="faint" x="8" y="{y + 4}">{time:.6f} s</text>'
        for y in self._silences:
            yield f'<line class="silence" x1="8" y1="{y}" x2="{self._width - 8}" y2="{y}"/>'

    def _draw_record(self, record: Record) -> Iterable[str]:
        packet = record.packet
        begin, end = self._columns[packet.sender], self._columns[record.receiver]
        top, bottom = self._rows[_sending(record)], self._rows[_ending(record)]
        kind = "arrow" + (" report" if packet.report is not None else "")
        direction = 1 if end >= begin else -1
        title = f"<title>{escape(f'#{packet.number} {contents(packet)}, {outcome(record)}')}</title>"
        yield f"<g>{title}"
        if record.fate == "dropped":
            end = begin + round((end - begin) * _DROPPED_AT) if end != begin else begin + 40
            yield f'<line class="{kind} dropped" x1="{begin}" y1="{top}" x2="{end}" y2="{bottom}"/>'
            cross = f"M{end - 5} {bottom - 5}l10 10m0 -10l-10 10"
            yield f'<path class="arrow dropped" stroke-width="2.4" d="{cross}"/>'
            yield _label(end + 10 * direction, bottom + 4, direction, record.reason, "why")
        elif begin == end:
            path = f"M{begin} {top}h34V{bottom}h-32"
            yield f'<path class="{kind}" marker-end="url(#head)" d="{path}"/>'
        else:
            yield f'<line class="{kind}" marker-end="url(#head)" x1="{begin}" y1="{top}" x2="{end}" y2="{bottom}"/>'
        yield _label(begin + 8 * direction, top - 3, direction, f"#{packet.number} {contents(packet)}", "")
        yield "</g>"


def _label(x: int, y: int, direction: int, text: str, kind: str) -> str:
    shown = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    anchor = "start" if direction > 0 else "end"
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(shown)}</text>'


_Event = tuple[float, int, int, float]


def _sending(record: Record) -> _Event:
    # Duplicates were sent once.
    return record.packet.sent_at, _SENT, record.packet.number, 0.0


def _ending(record: Record) -> _Event:
    kind = _ARRIVED if record.at > record.packet.sent_at else _AT_ONCE
    return record.at, kind, record.packet.number, record.packet.sent_at


def _lay_out(records: Sequence[Record]) -> tuple[dict[_Event, int], list[tuple[float, int]], list[int]]:
    """Return the row of each event, the times that are written at the side, and where there is silence."""
    events = sorted({event(record) for record in records for event in (_sending, _ending)})
    gaps = sorted(later[0] - earlier[0] for earlier, later in pairwise(events))
    usual = gaps[len(gaps) // 2] if gaps else 0.0
    rows: dict[_Event, int] = {}
    times: list[tuple[float, int]] = []
    silences: list[int] = []
    y, before = _TOP, None
    for event in events:
        if before is not None:
            y += _ROW
            if event[0] - before > _LONG * usual > 0:
                silences.append(y - _ROW // 2 + _BREAK // 2)
                y += _BREAK
        if event[0] != before:
            times.append((event[0], y))
        rows[event] = y
        before = event[0]
    return rows, times, silences
