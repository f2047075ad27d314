"""The picture: texts are readable for any records."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from trio_dgram import Address
from trio_dgram.sim import Record
from trio_dgram.sim._trace.excerpt import excerpt
from trio_dgram.sim._trace.ladder import ladder
from trio_dgram.sim._values.records import Note

from ..support.records import make_complaint, make_conversation, make_record

SVG = "{http://www.w3.org/2000/svg}"
LONG = "a packet of a source that no host behind the network address translator has sent to before"
SIX = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")
LONG_NAMES = tuple(f"{name}.with-a-very-long-name-of-its-own.for-the-tests.example.internal" for name in SIX)


def drawn(records: list[Record]) -> ET.Element:
    return ET.fromstring(ladder(excerpt(records)))  # noqa: S314 -- our own


def number(element: ET.Element, name: str) -> float:
    return float(element.get(name, "nan"))


class Box(NamedTuple):
    left: float
    right: float
    top: float
    bottom: float
    text: str

    def covers(self, other: Box) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not beside and self.top < other.bottom and other.top < self.bottom


def boxes(root: ET.Element) -> list[Box]:
    """Return the area of each text, in a font of an average width."""
    found = []
    for element in root.iter(f"{SVG}text"):
        text = element.text or ""
        size = {"host": 14, "faint": 11}.get(element.get("class", ""), 12)
        width = len(text) * size * 0.57
        before = {"middle": width / 2, "end": width}.get(element.get("text-anchor", "start"), 0.0)
        x, y = number(element, "x"), number(element, "y")
        found.append(Box(x - before, x - before + width, y - size * 0.85, y + size * 0.2, text))
    return found


def texts(root: ET.Element, kind: str) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text") if element.get("class") == kind]


def many_to_a_group() -> list[Record]:
    group = Address("224.0.0.251", 5353)
    fates = ["", LONG, "", LONG, "lost"]
    return [
        make_record(1, ends=("alpha", other), reason=reason, destination=group)
        for other, reason in zip(SIX[1:], fates, strict=True)
    ]


def with_reports() -> list[Record]:
    large = make_record(50, bytes(1400), at=0.2, took=0.0, reason="too big for the path")
    reports = [make_complaint(large.packet, 51 + n, at=0.2 + n, kind=(3, 4), mtu=1300) for n in range(3)]
    return [*make_conversation(6, "client", "server"), large, *reports]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(make_conversation(40, "client", "server"), id="two hosts"),
        pytest.param(make_conversation(40, *SIX), id="six hosts"),
        pytest.param(make_conversation(40, *SIX, reason=LONG), id="long reasons"),
        pytest.param(make_conversation(20, *LONG_NAMES, reason=LONG), id="long names"),
        pytest.param(make_conversation(300, "client", "server"), id="many"),
        pytest.param(many_to_a_group(), id="group"),
        pytest.param(with_reports(), id="reports"),
        pytest.param(
            [make_record(n, at=n * 90_000.0, ends=("alone", "alone"), took=0.0, reason=LONG) for n in range(4)],
            id="to oneself",
        ),
    ],
)
def test_texts_are_inside_the_picture_and_do_not_overlap(records: list[Record]) -> None:
    root = drawn(records)
    found = boxes(root)
    width, height = number(root, "width"), number(root, "height")
    for box in found:
        assert box.left >= 0, box
        assert box.right <= width, box
        assert box.top >= 0, box
        assert box.bottom <= height, box
    found.sort(key=lambda box: box.top)
    for one, other in combinations(found, 2):
        assert not one.covers(other), (one, other)


def test_no_line_crosses_a_text() -> None:
    root = drawn(make_conversation(40, *SIX))
    order = [(element.tag.removeprefix(SVG), element.get("class", "")) for element in root]
    last_arrow = max(place for place, drawing in enumerate(order) if drawing == ("g", "datagram"))
    assert all(place > last_arrow for place, drawing in enumerate(order) if drawing in {("text", ""), ("text", "why")})


def test_a_datagram_of_a_host_to_itself_is_a_loop() -> None:
    (group,) = drawn([make_record(ends=("client", "client"), took=0.0)]).iterfind(f"{SVG}g[@class='datagram']")
    (path,) = group.iter(f"{SVG}path")
    (head,) = group.iter(f"{SVG}polygon")
    assert (path.get("class"), head.get("class")) == ("arrow", "head")


def test_later_events_are_lower_and_every_time_has_a_row() -> None:
    times = [(text, y) for text, y in pairs(drawn(make_conversation(40, "client", "server"))) if "later" not in text]
    assert [float(text.split()[0]) for text, _ in times] == sorted(float(text.split()[0]) for text, _ in times)
    assert all(later - earlier >= 22 for (_, earlier), (_, later) in pairwise(times))


def pairs(root: ET.Element) -> list[tuple[str, float]]:
    return [(e.text or "", number(e, "y")) for e in root.iter(f"{SVG}text") if (e.text or "").endswith((" s", "later"))]


def test_a_silence_is_marked_with_its_duration_even_among_simultaneous_events() -> None:
    bursts = [make_record(10 * burst + n, at=burst * 0.01) for burst in range(3) for n in range(5)]
    root = drawn([*bursts, make_record(99, at=31.0)])
    assert [text for text in texts(root, "faint") if "later" in text] == ["30.93 s later"]
    assert [line.get("class") for line in root.iter(f"{SVG}line")].count("silence") == 1


def test_a_host_that_sends_nothing_has_its_address_too() -> None:
    assert texts(drawn([make_record()]), "faint")[:2] == ["10.1.2.3", "10.4.5.6"]


def test_no_host_shows_a_shared_or_undelivered_address() -> None:
    root = drawn([*many_to_a_group(), make_record(2, reason="lost")])
    assert not {"224.0.0.251", "10.4.5.6"} & set(texts(root, "faint"))


def test_many_addresses_are_abbreviated_with_their_number() -> None:
    records = [make_record(n, at=n, source=Address(f"10.1.2.{n}", 9)) for n in range(4)]
    assert texts(drawn(records), "faint")[:2] == ["10.1.2.0", "and 3 more"]
    assert texts(drawn(records[:2]), "faint")[:2] == ["10.1.2.0", "10.1.2.1"]


def test_a_truncated_text_is_whole_in_its_title() -> None:
    root = drawn([make_record(reason=LONG)])
    (group,) = (group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}text") is not None)
    assert group.findtext(f"{SVG}text", "").endswith("…")
    assert group.findtext(f"{SVG}title") == LONG


def test_copies_for_a_group_have_separate_arrows() -> None:
    records = many_to_a_group()
    # An arrow that ends in a row of its own and does not lie within another one.
    lines = list(drawn(records).iterfind(f"{SVG}g[@class='datagram']/{SVG}line"))
    slopes = [(number(e, "y2") - number(e, "y1")) / (number(e, "x2") - number(e, "x1")) for e in lines]
    assert len({round(slope, 3) for slope in slopes}) == len(records)
    assert texts(drawn(records), "") == ['#1 40000 -> 5353 5 bytes "hello"\N{NO-BREAK SPACE}']


def test_icmp_messages_have_a_style_of_their_own() -> None:
    records = with_reports()
    records.append(records[-1]._replace(at=9.0, fate="dropped", reason="lost"))
    kinds = [line.get("class") for line in drawn(records).iterfind(f"{SVG}g[@class='datagram']/{SVG}line")]
    assert kinds.count("arrow report") == 3
    assert kinds.count("arrow report dropped") == 1


@pytest.mark.parametrize("name", ["<b>&\"'", "two\nlines", "\x00", "\ud800", "]]>"])
def test_any_name_yields_a_valid_document(name: str) -> None:
    records = [make_record(ends=(name, "server"))]
    assert ET.fromstring(ladder(excerpt(records)).encode()).tag == f"{SVG}svg"  # noqa: S314 -- our own


def test_an_empty_trace_can_be_drawn() -> None:
    assert list(drawn([]).iter(f"{SVG}text")) == []


def test_the_column_of_a_host_is_dashed_while_it_is_down() -> None:
    records = [make_record(number, at=float(number)) for number in range(1, 9)]
    notes = [
        Note(1.5, "client", "becomes leader", after=1),
        Note(2.5, "server", "crashes", "crash", 2),
        Note(2.6, "server", "crashes", "crash", 2),
        Note(4.5, "server", "restarts", "restart", 4),
        Note(4.6, "server", "restarts", "restart", 4),
        Note(7.5, "server", "crashes", "crash", 7),
        Note(7.6, "", "partition", "fault", 7),
        Note(9.5, "client", "at most one leader: does not hold", "violation", 8),
    ]
    root = ET.fromstring(ladder(excerpt(records, notes)))  # noqa: S314 -- our own
    down = [(number(line, "y1"), number(line, "y2")) for line in root.iterfind(f"{SVG}line[@class='down']")]
    rows = {circle.get("class"): number(circle, "cy") for circle in root.iter(f"{SVG}circle")}
    assert len(down) == 2
    assert down[0][1] == rows["restart"] - 22
    assert down[1][1] == number(root, "height") - 12
    assert texts(root, "note") == ["client: becomes leader"]
    assert texts(root, "violation") == ["client: at most one leader: does not hold"]
    assert texts(root, "fault")[-1] == "partition"
    late = ET.fromstring(ladder(excerpt(records, notes[:2], rows=3)))  # noqa: S314 -- our own
    assert len(list(late.iterfind(f"{SVG}line[@class='down']"))) == 1
    assert texts(late, "fault") == ["2 datagrams before are left out"]


def test_the_arrow_of_a_datagram_in_flight_reaches_no_host() -> None:
    (group,) = drawn([make_record()._replace(fate="in flight")]).iterfind(f"{SVG}g[@class='datagram']")
    assert [element.get("class") for element in group] == [None, "arrow flying"]


def test_many_hosts_stand_closer() -> None:
    records = [make_record(n, at=n / 10, ends=(f"n{n}", f"n{n + 1}")) for n in range(40)]
    assert number(drawn(records), "width") < 40 * 330
