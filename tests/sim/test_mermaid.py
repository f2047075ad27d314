"""The sequence diagram, with names that have a meaning in Mermaid."""

from __future__ import annotations

import re

import pytest

from trio_dgram.sim._trace.excerpt import excerpt
from trio_dgram.sim._trace.mermaid import sequence_diagram
from trio_dgram.sim._values.records import Note

from ..support.records import make_complaint, make_record


def decoded(text: str) -> str:
    return re.sub(r"#(\d+);", lambda found: chr(int(found.group(1))), text)


@pytest.mark.parametrize("name", ["end", "a;b", "#1;", "%%x", 'a"b', "<b>&'", "x as y", "{x}", "wrap: x", "日本"])
def test_a_name_is_escaped(name: str) -> None:
    lines = sequence_diagram(excerpt([make_record(ends=(name, "server"))])).splitlines()
    assert len(lines) == 4
    written = lines[1].removeprefix("    participant host0 as ")
    assert decoded(written) == name
    assert not re.search(r'[;%"<>&{}:]', re.sub(r"#\d+;", "", written))


def test_a_name_of_two_lines_is_on_one() -> None:
    assert decoded(sequence_diagram(excerpt([make_record(ends=("two\nlines", "server"))])).splitlines()[1]).endswith(
        r"as two\nlines"
    )


def test_hosts_are_in_order_of_appearance_and_arrows_show_the_fates() -> None:
    lost = make_record(1, b"x", at=0.5, reason="lost")
    records = [
        make_complaint(lost.packet, 2, at=0.6, kind=(3, 3)),
        make_complaint(lost.packet, 3, at=0.7, kind=(3, 3))._replace(fate="dropped", reason="lost"),
        lost,
    ]
    assert decoded(sequence_diagram(excerpt(records))).splitlines() == [
        "sequenceDiagram",
        "    participant host0 as client",
        "    participant host1 as server",
        "    participant host2 as the network",
        '    host0-xhost1: #1 1 byte "x", dropped: lost',
        "    host2-->>host0: #2 ICMP: port unreachable, about #1, delivered after 50.000 ms",
        "    host2--xhost0: #3 ICMP: port unreachable, about #1, dropped: lost",
    ]


def test_notes_are_over_the_hosts_that_they_concern() -> None:
    records = [make_record(number, b"x", at=float(number)) for number in range(1, 80)]
    records[-1] = records[-1]._replace(fate="in flight")
    notes = [Note(70.5, "server", "becomes leader", after=70), Note(79.5, "", "partition", "fault", 79)]
    assert decoded(sequence_diagram(excerpt(records, notes, rows=7))).splitlines() == [
        "sequenceDiagram",
        "    participant host0 as client",
        "    participant host1 as server",
        "    Note over host0,host1: 69 datagrams before are left out",
        '    host0->>host1: #70 1 byte "x", delivered after 50.000 ms',
        "    Note over host1: server: becomes leader",
        '    host0->>host1: #71 1 byte "x", delivered after 50.000 ms',
        "    Note over host0,host1: this datagram again, 6 times, until 77.000000 s",
        '    host0->>host1: #78 1 byte "x", delivered after 50.000 ms',
        '    host0-)host1: #79 1 byte "x", in flight',
        "    Note over host0,host1: partition",
    ]


def test_notes_on_the_network_are_over_its_hosts() -> None:
    assert sequence_diagram(excerpt([], [Note(0.0, "", "partition", "fault")])) == "sequenceDiagram\n"
    assert "Note over host0: partition" in sequence_diagram(
        excerpt([make_record(ends=("client", "client"))], [Note(0.0, "", "partition", "fault")])
    )
