"""The shown part of a long trace: its end, with repetitions folded."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dgram.sim import Record
from trio_dgram.sim._trace.excerpt import Excerpt, Fold, excerpt
from trio_dgram.sim._trace.ladder import ROWS, ROWS_OF_RECORD, ladder
from trio_dgram.sim._trace.mermaid import sequence_diagram
from trio_dgram.sim._trace.text import story
from trio_dgram.sim._values.records import Note

from ..support.records import make_complaint, make_record


def sends(*payloads: bytes, start: int = 1, reason: str = "") -> list[Record]:
    return [
        make_record(number, payload, at=number / 10, reason=reason) for number, payload in enumerate(payloads, start)
    ]


def shown(result: Excerpt) -> list[str]:
    """Return the numbers of the datagrams that are shown, the texts of folds and notes."""
    return [f"#{e.packet.number}" if isinstance(e, Record) else e.text for e in result.entries]


def test_without_a_limit_nothing_is_folded() -> None:
    records = sends(*[b"x"] * 9)
    assert excerpt(records) == Excerpt(records, hosts=("client", "server"))


def test_repetitions_are_folded_except_the_first_and_the_last() -> None:
    records = sends(*[b"x"] * 9)
    result = excerpt(records, rows=9)
    assert shown(result) == ["#1", "this datagram again, 7 times, until 0.800000 s", "#9"]
    assert (result.omitted, result.datagrams) == (0, 9)
    assert excerpt(records, rows=2) == result._replace(entries=list(result.entries[1:]), omitted=1)


def test_a_block_repeats_in_any_order_within_it() -> None:
    result = excerpt(sends(b"a", b"b", b"b", b"a", b"a", b"b", b"c"), rows=9)
    assert shown(result) == ["#1", "#2", "these 2 datagrams again, 1 time, until 0.400000 s", "#5", "#6", "#7"]


@pytest.mark.parametrize(
    ("payloads", "folds"),
    [
        pytest.param([b"seq %d" % n for n in range(8)], [6], id="counting"),
        pytest.param([b"seq %d of 8" % n for n in range(8)], [6], id="counting beside a constant"),
        pytest.param([b"term 3"] * 4 + [b"term 4"] * 4, [2, 2], id="a change"),
        pytest.param([b"%d" % n for n in (1, 5, 2, 9, 4)], [], id="any numbers"),
        pytest.param([b"9" * 5000] * 4, [2], id="a number that Python does not convert"),
        pytest.param([b"\x00%c" % n for n in range(8)], [6], id="binary"),
        pytest.param([b"x", b"x"], [], id="twice"),
    ],
)
def test_numbers_may_grow_evenly(payloads: list[bytes], folds: list[int]) -> None:
    result = excerpt(sends(*payloads), rows=99)
    assert [entry.datagrams for entry in result.entries if isinstance(entry, Fold)] == folds
    assert result.datagrams == len(payloads)


def test_another_fate_or_another_host_is_no_repetition() -> None:
    records = sends(*[b"x"] * 6)
    records[2] = records[2]._replace(fate="dropped", reason="lost")
    records[4] = records[4]._replace(receiver="other")
    assert len(excerpt(records, rows=99).entries) == 6


def test_other_ports_that_the_system_chose_are_a_repetition() -> None:
    records = [
        record._replace(packet=attrs.evolve(record.packet, source=record.packet.source._replace(port=40000 + number)))
        for number, record in enumerate(sends(*[b"x"] * 6))
    ]
    assert len(excerpt(records, rows=99).entries) == 3


def test_icmp_messages_are_folded_too() -> None:
    about = make_record(1, at=0.0).packet
    complaints = [make_complaint(about, number, at=number, kind=(3, 3)) for number in range(2, 8)]
    assert len(excerpt(complaints, rows=99).entries) == 3


def test_notes_stand_between_the_datagrams_and_end_a_repetition() -> None:
    notes = [Note(0.5, "server", "becomes leader", after=5), Note(0.9, "", "partition", "fault", 9)]
    result = excerpt(sends(*[b"x"] * 9), notes, rows=99)
    fold = "this datagram again, {} times, until {:.6f} s"
    assert shown(result) == [
        *["#1", fold.format(3, 0.4), "#5"],
        "becomes leader",
        *["#6", fold.format(2, 0.8), "#9"],
        "partition",
    ]


def test_a_limit_shows_only_the_end() -> None:
    result = excerpt(sends(b"a", b"b", b"c", b"d"), [Note(0.2, "server", "noted", after=2)], rows=3)
    assert shown(result) == ["noted", "#3", "#4"]
    assert result.omitted == 2
    assert shown(excerpt(sends(b"a", b"b", b"c"), rows=5, rows_of_record=2)) == ["#2", "#3"]
    assert excerpt(sends(b"a"), rows=0).entries == []


def test_hosts_that_are_down_when_it_begins_are_known() -> None:
    notes = [
        Note(0.01, "client", "crashes", "crash"),
        Note(0.02, "server", "crashes", "crash"),
        Note(0.03, "client", "restarts", "restart"),
    ]
    assert excerpt(sends(b"a", b"b"), notes, rows=1).down == {"server"}
    assert excerpt(sends(b"a", b"b"), notes, rows=9).down == set()
    begins_with_a_fold = excerpt(sends(*[b"a"] * 9), notes, rows=2)
    assert isinstance(begins_with_a_fold.entries[0], Fold)
    assert begins_with_a_fold.down == {"server"}


ENTRIES = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"1", b"2"]), st.sampled_from(["", "lost"])), max_size=60)


@given(ENTRIES, st.lists(st.integers(0, 60), max_size=5), st.integers(0, 70))
def test_nothing_is_shown_twice_or_missing(sent: list[tuple[bytes, str]], noted: list[int], rows: int) -> None:
    records = [make_record(n, payload, at=float(n), reason=reason) for n, (payload, reason) in enumerate(sent, 1)]
    notes = [Note(float(number), "client", "noted", after=number) for number in sorted(noted)]
    result = excerpt(records, notes, rows=rows)
    assert len(result.entries) <= rows
    assert result.omitted + result.datagrams == len(records)
    numbers = [entry.packet.number for entry in result.entries if isinstance(entry, Record)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1:] in ([], [len(records)])
    assert len(story(result).splitlines()) == len(result.entries)


def test_pictures_of_long_traces_are_small() -> None:
    records = [
        make_record(number, b"%d" % (number * number), at=number / 10, ends=(f"n{number % 7}", f"n{number % 5}"))
        for number in range(1, 5000)
    ]
    result = excerpt(records, rows=ROWS, rows_of_record=ROWS_OF_RECORD)
    picture = ladder(result)
    assert len(picture) < 100_000
    assert "4969 datagrams before are left out" in picture
    assert "4969 datagrams before are left out" in sequence_diagram(result)
