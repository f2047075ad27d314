"""The trace as a sequence diagram in Mermaid's language."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .._values.records import Record
from .text import contents, outcome, shown


def sequence_diagram(records: Iterable[Record]) -> str:
    """Return a ``sequenceDiagram``: hosts as participants, datagrams as arrows in the order of their sending, with a
    cross where one was dropped."""
    chosen = sorted(records, key=lambda record: (record.packet.sent_at, record.packet.number, record.at))
    # Dictionaries keep the order of appearance.
    hosts = dict.fromkeys(name for record in chosen for name in (record.packet.sender, record.receiver))
    ids = {name: f"host{number}" for number, name in enumerate(hosts)}
    lines = ["sequenceDiagram"]
    lines += [f"    participant {ids[name]} as {_name(name)}" for name in hosts]
    for record in chosen:
        packet = record.packet
        arrow = "->>" if record.fate == "delivered" else "-x"
        arrow = f"-{arrow}" if packet.report is not None else arrow
        text = f"#{packet.number} {contents(packet)}, {outcome(record)}"
        lines.append(f"    {ids[packet.sender]}{arrow}{ids[record.receiver]}: {_escaped(text)}")
    return "\n".join(lines) + "\n"


def _name(host: str) -> str:
    # A name that begins with "wrap:" would lose that, which is an order there.
    return _escaped(shown(host)).replace(":", "#58;")


def _escaped(text: str) -> str:
    # What has a meaning in Mermaid is written as the number of its character, and so is what ends a line.
    return re.sub(r"[^\w .,:/()\[\]+-]", lambda found: f"#{ord(found.group())};", text)
