"""A tape: the choices of a run, as a value and as a text file.

Rule 1: a choice that is not on the tape has its neutral value: ``False``, 0 or an empty string. It means no loss, no
fault, no additional delay, the order of arrival. Removing a choice from a tape undoes that choice alone.
Rule 2: the choices of a place are counted from 1, and the count includes those that are neutral.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from ..._values.arguments import describe_value

Value: TypeAlias = "bool | int | float | str"
"""The types of the values of choices."""

_FORMAT: Final = "trio_dgram tape"
_VERSION: Final = 1
_HEADER: Final = f'{{"{_FORMAT}": {_VERSION}, "seed": 0, "test": "..."}}'


class TapeError(Exception):
    """A tape that cannot be read; the message has one line, with the file and the line in it."""


@attrs.frozen
class Choice:
    """One choice of a run.

    Attributes:
      place: the name of the place where it is made, such as ``"n1 -> n2: loss"``.
      number: how many choices were made there up to this one, from 1.
      value: its value, which is not neutral.
    """

    place: str
    number: int
    value: Value


@attrs.frozen
class Tape:
    """The choices of a run that are not neutral, in the order in which they were made.

    Attributes:
      choices: the choices; no two have the same place and number.
      seed: the seed of the run.
      test: the test that ran, as pytest names it; empty for none.
      example: the example with which Hypothesis ran the test, encoded; empty for none.
    """

    choices: tuple[Choice, ...]
    seed: int = 0
    test: str = ""
    example: str = ""

    def without(self, removed: Container[Choice]) -> Tape:
        """Return the tape with some choices neutral."""
        return attrs.evolve(self, choices=tuple(choice for choice in self.choices if choice not in removed))

    def to_text(self) -> str:
        """Return the tape as JSON lines: a header, and for each choice its place, number and value."""
        header = {_FORMAT: _VERSION, "seed": self.seed, "test": self.test}
        if self.example:
            header["example"] = self.example
        rows = ([choice.place, choice.number, choice.value] for choice in self.choices)
        return "".join(f"{json.dumps(row)}\n" for row in (header, *rows))

    def write(self, path: Path) -> None:
        """Write the tape to a file, in a folder that is made if there is none.

        Raises:
          OSError: if that fails.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_text(), encoding="utf-8")


def read_tape(path: Path) -> Tape:
    """Return the tape in a file.

    Raises:
      TapeError: if there is no such file, or it is no tape.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TapeError(f"cannot read the tape {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TapeError(f"{path} is no tape: it must be text in UTF-8") from None
    header = _parsed(lines[0]) if lines else None
    if not isinstance(header, dict) or _FORMAT not in header:
        raise TapeError(f"{path} is no tape: line 1 must be such as {_HEADER}")
    if header[_FORMAT] != _VERSION:
        raise TapeError(f"{path} has version {header[_FORMAT]!r} of the format, and this is for version {_VERSION}")
    seed, test = header.get("seed"), header.get("test")
    if type(seed) is not int:
        raise TapeError(f"{path}, line 1: seed must be an integer, not {describe_value(seed)}")
    if not isinstance(test, str):
        raise TapeError(f"{path}, line 1: test must be a string, not {describe_value(test)}")
    example = header.get("example", "")
    if not isinstance(example, str):
        raise TapeError(f"{path}, line 1: example must be a string, not {describe_value(example)}")
    return Tape(tuple(_choices(path, lines)), seed, test, example)


def _choices(path: Path, lines: list[str]) -> Iterator[Choice]:
    seen: set[tuple[str, int]] = set()
    for at, line in enumerate(lines[1:], 2):
        row = _parsed(line)
        if not _is_row(row):
            raise TapeError(f'{path}, line {at}: must be ["place", number from 1, value], not {describe_value(line)}')
        place, number, value = row
        if (place, number) in seen:
            raise TapeError(f"{path}, line {at}: the choice {number} of {place!r} is there twice")
        seen.add((place, number))
        yield Choice(place, number, value)


def _parsed(line: str) -> Any:
    """Return the value of a line of JSON, None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_row(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 3:
        return False
    place, number, value = row
    # JSON of Python has NaN and infinity, which no choice has.
    is_value = isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(place, str) and type(number) is int and number >= 1 and is_value
