"""The sequence diagram, with names that mean something to Mermaid."""

from __future__ import annotations

import re

import pytest

from trio_dgram.sim._trace.mermaid import sequence_diagram

from ..support.records import make_complaint, make_record


def decoded(text: str) -> str:
    return re.sub(r"#(\d+);", lambda found: chr(int(found.group(1))), text)


@pytest.mark.parametrize("name", ["end", "a;b", "#1;", "%%x", 'a"b', "<b>&'", "x as y", "{x}", "wrap: x", "日本"])
def test_a_name_means_nothing_but_itself(name: str) -> None:
    lines = sequence_diagram([make_record(ends=(name, "server"))]).splitlines()
    assert len(lines) == 4
    written = lines[1].removeprefix("    participant host0 as ")
    assert decoded(written) == name
    assert not re.search(r'[;%"<>&{}:]', re.sub(r"#\d+;", "", written))


def test_a_name_of_two_lines_is_on_one() -> None:
    assert decoded(sequence_diagram([make_record(ends=("two\nlines", "server"))]).splitlines()[1]).endswith(
        r"as two\nlines"
    )


def test_hosts_stand_in_order_of_appearance_and_arrows_tell_what_became_of_each() -> None:
    lost = make_record(1, b"x", at=0.5, reason="lost")
    records = [
        make_complaint(lost.packet, 2, at=0.6, kind=(3, 3)),
        make_complaint(lost.packet, 3, at=0.7, kind=(3, 3))._replace(fate="dropped", reason="lost"),
        lost,
    ]
    assert decoded(sequence_diagram(records)).splitlines() == [
        "sequenceDiagram",
        "    participant host0 as client",
        "    participant host1 as server",
        "    participant host2 as the network",
        "    host0-xhost1: #1 1 byte, dropped: lost",
        "    host2-->>host0: #2 ICMP: port unreachable, about #1, delivered after 50.000 ms",
        "    host2--xhost0: #3 ICMP: port unreachable, about #1, dropped: lost",
    ]
