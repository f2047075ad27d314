"""The report of a failure as one HTML file: the cause, the shrunk run as a ladder, and the neighbour beside it."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import takewhile
from string import Template
from typing import Any, Final

import attrs

from ..._values.addresses import format_address
from .._trace.text import in_words, outcome, shortened
from .._trace.trace import Trace
from .._values.records import Record
from .logs import LogLine

MOST_EVENTS: Final = 2000
"""The most events of each run, from the end."""
_LONGEST_TEXT: Final = 200
"""The length of the text of a note or a log line, in characters."""
_LINES: Final = 200
"""The length of the story as text, in lines."""


class _Page(Template):
    """The template, whose script has dollar signs of its own."""

    delimiter = "@@"


@attrs.frozen
class Run:
    """One run in the report.

    Attributes:
      title: its title.
      subtitle: what is special of it.
      trace: its trace.
      sockets: the tables of its sockets, as text.
      log: the lines that the program logged.
      chosen: the numbers of the datagrams that the choices of the run are about.
      inevitable_from: the moment from which its failure is inevitable; None if none is known.
    """

    title: str
    subtitle: str
    trace: Trace
    sockets: str
    log: Sequence[LogLine] = ()
    chosen: Container[int] = frozenset()
    inevitable_from: float | None = None


def page(title: str, sentence: str, runs: Sequence[Run]) -> str:
    """Return the report as HTML.

    Args:
      title: the name of the test.
      sentence: the cause in words.
      runs: the shrunk run, and its neighbour if there is one.
    """
    events = [list(_events(run)) for run in runs]
    parting = _parting(events)
    drawn = [
        {
            "title": run.title,
            "subtitle": run.subtitle,
            "hosts": _hosts(each),
            "events": each[-MOST_EVENTS:],
            "parting": parting,
            "inevitableFrom": run.inevitable_from,
        }
        for run, each in zip(runs, events, strict=True)
    ]
    template = _Page(files("trio_dgram.sim._explore").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        sentence=escape(sentence),
        texts="\n".join(map(_text, runs)),
        # A closing tag inside would end the script.
        data=json.dumps({"runs": drawn}).replace("<", "\\u003c"),
    )


def _text(run: Run) -> str:
    story = escape(f"{run.trace.to_text(_LINES)}\n\n{run.sockets}")
    return f"<details><summary>{escape(run.title)} as text, and its sockets</summary><pre>{story}</pre></details>"


def _events(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the events of a run in order: datagrams when they are sent, notes, and log lines."""
    trace = run.trace
    ordered: list[tuple[float, int, dict[str, Any]]] = [
        (record.packet.sent_at, record.packet.number, _datagram(record, run))
        for record in (*trace.records, *trace.in_flight)
    ]
    ordered += [
        (note.at, note.after, {"kind": note.kind, "host": note.host, "text": _short(note.text)}) for note in trace.notes
    ]
    # Log lines have no number: they stand after the datagrams and notes of their instant.
    last = max((number for _, number, _ in ordered), default=0)
    ordered += [(line.at, last + 1, {"kind": "log", "host": line.host, "text": _short(line.text)}) for line in run.log]
    ordered.sort(key=lambda entry: entry[:2])
    for index, (time, _, event) in enumerate(ordered):
        yield {"index": index, "time": time, **event}


def _datagram(record: Record, run: Run) -> dict[str, Any]:
    packet = record.packet
    text = in_words(packet.report) if packet.report is not None else shortened(run.trace.describe(packet))
    return {
        "kind": "datagram",
        "number": packet.number,
        "from": packet.sender,
        "to": record.receiver,
        "source": format_address(packet.source),
        "destination": format_address(packet.destination),
        "ports": [packet.source.port, packet.destination.port],
        "size": len(packet.payload),
        "payload": text,
        "fate": record.fate,
        "at": record.at,
        "outcome": outcome(record),
        "isChosen": packet.number in run.chosen,
    }


def _hosts(events: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of hosts, in the order in which they appear."""
    names = (event[key] for event in events for key in ("from", "to", "host") if event.get(key))
    return list(dict.fromkeys(names))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."


def _parting(events: Sequence[Sequence[dict[str, Any]]]) -> int | None:
    """Return the index of the first event in which two runs differ; None for one run, or two equal ones."""
    if len(events) < 2:
        return None
    first, second = events
    pairs = zip(first, second, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: _unmarked(pair[0]) == _unmarked(pair[1]), pairs))
    return None if alike == len(first) == len(second) else alike


def _unmarked(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "isChosen"}
