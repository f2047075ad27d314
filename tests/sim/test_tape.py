from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_dgram.sim._values.tape import Choice, Tape, TapeError, read_tape

VALUES = st.one_of(st.just(value=True), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
ROWS = st.dictionaries(st.tuples(st.text(), st.integers(min_value=1)), VALUES, max_size=4)
HEADER = '{"trio_dgram tape": 1, "seed": 44, "test": "test_it"}\n'


@settings(max_examples=30)
@given(rows=ROWS, seed=st.integers(), test=st.text())
def test_a_written_tape_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[str, int], bool | float | str], seed: int, test: str
) -> None:
    tape = Tape(tuple(Choice(*key, value) for key, value in rows.items()), seed, test)
    path = tmp_path_factory.mktemp("tapes") / "folder" / "it.tape"
    tape.write(path)
    assert repr(read_tape(path)) == repr(tape)


def test_a_tape_is_json_lines() -> None:
    tape = Tape((Choice("a -> b: loss", 17, value=True), Choice("a -> b: delay", 2, 0.25)), 44, "test_it")
    assert tape.to_text() == HEADER + '["a -> b: loss", 17, true]\n["a -> b: delay", 2, 0.25]\n'


def test_without_removes_the_choices_given() -> None:
    one, other = Choice("a", 1, 1), Choice("a", 2, 1)
    assert Tape((one, other), 3, "test_it").without({one}) == Tape((other,), 3, "test_it")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "line 1 must be such as"),
        ("[]\n", "line 1 must be such as"),
        ("[" * 100_000, "line 1 must be such as"),
        ('{"seed": 0}\n', "line 1 must be such as"),
        ('{"trio_dgram tape": 2}\n', "has version 2 of the format"),
        ('{"trio_dgram tape": 1, "test": ""}\n', "line 1: seed must be an integer, not None"),
        ('{"trio_dgram tape": 1, "seed": true, "test": ""}\n', "line 1: seed must be an integer, not True"),
        ('{"trio_dgram tape": 1, "seed": 0, "test": 5}\n', "line 1: test must be a string, not 5"),
        ('{"trio_dgram tape": 1, "seed": 0, "test": "", "example": 5}\n', "line 1: example must be a string, not 5"),
        (HEADER + "\n", r"line 2: must be \[\"place\", number from 1, value\]"),
        (HEADER + '["a", 1, true]\n["a", 0, true]\n', "line 3: must be"),
        (HEADER + '["a", true, true]\n', "line 2: must be"),
        (HEADER + '["a", 1, NaN]\n', "line 2: must be"),
        (HEADER + '["a", 1, null]\n', "line 2: must be"),
        (HEADER + '["a", 1]\n', "line 2: must be"),
        (HEADER + '["a", 1, 1]\n["a", 1, 2]\n', "line 3: the choice 1 of 'a' is there twice"),
    ],
)
def test_a_broken_tape_is_refused_by_one_line(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "it.tape"
    path.write_text(content)
    with pytest.raises(TapeError, match=problem) as caught:
        read_tape(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tape_is_refused_by_one_line(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=r"cannot read the tape .*none\.tape: No such file or directory"):
        read_tape(tmp_path / "none.tape")


def test_a_tape_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.tape"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TapeError, match="must be text in UTF-8"):
        read_tape(path)
