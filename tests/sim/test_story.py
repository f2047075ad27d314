"""The story in words, with records of different kinds."""

from __future__ import annotations

import pytest

from trio_dgram.sim._trace.excerpt import excerpt
from trio_dgram.sim._trace.text import shown, story
from trio_dgram.sim._values.records import Note

from ..support.records import make_complaint, make_record

LOST = make_record(4, b"x", at=12.5, reason="lost")
RECORDS = [
    make_record(1200, bytes(1400), at=0.25),
    LOST,
    make_complaint(LOST.packet, 5, at=12.75, kind=(3, 3)),
]


def test_the_columns_are_as_wide_as_their_contents() -> None:
    notes = [Note(0.3, "server", "becomes leader\n", after=1200), Note(12.6, "", "partition", "fault", 4)]
    ends = "client 10.1.2.3:40000 -> server 10.4.5.6:5005"
    assert story(excerpt(RECORDS, notes)).splitlines() == [
        f" 0.250000  #1200  {ends}  1400 bytes  00 00 00 00 00 00 00 00 ...  delivered after 50.000 ms",
        r" 0.300000  *      server: becomes leader\n",
        f'12.500000  #4     {ends}      1 byte  "x"                          dropped: lost',
        "12.600000  !      partition",
        (
            "12.750000  #5     the network 10.0.0.1 -> client 10.1.2.3        "
            "ICMP: port unreachable, about #4  delivered after 50.000 ms"
        ),
    ]


@pytest.mark.parametrize(
    ("kind", "mtu", "type", "words"),
    [
        ((3, 1), 0, "udp4", "ICMP: host unreachable, about #1"),
        ((3, 4), 1280, "udp4", "ICMP: packet too big (at most 1280), about #1"),
        ((11, 0), 0, "udp4", "ICMP: hop limit exceeded, about #1"),
        ((1, 4), 0, "udp6", "ICMP: port unreachable, about #1"),
        ((2, 0), 1280, "udp6", "ICMP: packet too big (at most 1280), about #1"),
        ((99, 7), 0, "udp4", "ICMP: ICMP (type 99, code 7), about #1"),
    ],
)
def test_icmp_messages_are_described_in_words(kind: tuple[int, int], mtu: int, type: str, words: str) -> None:
    about = make_record(1, type=type).packet
    assert f"  {words}  delivered" in story(excerpt([make_complaint(about, kind=kind, mtu=mtu)]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("server", "server"),
        ("日本", "日本"),
        ("", "the network"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\ud800", r"\ud800"),
        ("\u2028", r"\u2028"),
    ],
)
def test_a_name_stays_on_its_line(name: str, text: str) -> None:
    assert shown(name) == text
    (line,) = story(excerpt([make_record(ends=(name, "server"))])).splitlines()
    assert f"  {text} 10." in line
