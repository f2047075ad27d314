"""The trace as a sequence diagram in Mermaid's language."""

from __future__ import annotations

import re
from typing import Final

from .._values.records import Note, Record
from .excerpt import Excerpt, Fold
from .payloads import Payloads
from .text import about, note_text, omitted_text, outcome, shown

_ARROWS: Final = {"delivered": "->>", "dropped": "-x", "in flight": "-)"}


def sequence_diagram(excerpt: Excerpt, payloads: Payloads | None = None) -> str:
    """Return a ``sequenceDiagram``: hosts as participants, datagrams as arrows in the order of their sending, with a
    cross where one was dropped, and notes over the hosts that they concern."""
    words = payloads or Payloads()
    shown_hosts = {
        name
        for entry in excerpt.entries
        if not isinstance(entry, Fold)
        for name in ((entry.packet.sender, entry.receiver) if isinstance(entry, Record) else (entry.host,))
    }
    hosts = [name for name in excerpt.hosts if name in shown_hosts]
    ids = {name: f"host{number}" for number, name in enumerate(hosts)}
    lines = ["sequenceDiagram", *(f"    participant {ids[name]} as {_name(name)}" for name in hosts)]
    everyone = ",".join(dict.fromkeys([f"host{0}", f"host{len(ids) - 1}"])) if ids else ""
    if excerpt.omitted and ids:
        lines.append(f"    Note over {everyone}: {_escaped(omitted_text(excerpt.omitted))}")
    for entry in excerpt.entries:
        if isinstance(entry, Record):
            packet = entry.packet
            arrow = ("-" if packet.report is not None else "") + _ARROWS[entry.fate]
            text = f"#{packet.number} {about(packet, words)}, {outcome(entry)}"
            lines.append(f"    {ids[packet.sender]}{arrow}{ids[entry.receiver]}: {_escaped(text)}")
        elif isinstance(entry, Note):
            lines += (
                [f"    Note over {ids[entry.host] if entry.host else everyone}: {_escaped(note_text(entry))}"]
                if ids
                else []
            )
        else:
            lines.append(f"    Note over {everyone}: {_escaped(entry.text)}")
    return "\n".join(lines) + "\n"


def _name(host: str) -> str:
    # Mermaid removes a leading "wrap:", which is a directive there.
    return _escaped(shown(host)).replace(":", "#58;")


def _escaped(text: str) -> str:
    # Characters with a meaning in Mermaid, and line ends, are escaped by their numbers.
    return re.sub(r"[^\w .,:/()\[\]+-]", lambda found: f"#{ord(found.group())};", text)
