"""The places of choices, by their names: the kind of decision, and what it concerns.

The modules that make choices name their places. A place with a name that is not known here is a kind by itself.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from .._network.nemesis import PLACE as FAULT
from .._path.pipe import OF_COPIES
from .._values.tape import Choice

_RUN: Final = re.compile(r"run (\d+): ")
FATES: Final = ("loss", "duplicate", "delay", "reorder", "corrupt", "corrupt_undetected")
"""The kinds of decisions about a single datagram on its path."""
_PATH: Final = re.compile(
    rf"(?P<target>.+? -> .+?)(?P<copy>{re.escape(OF_COPIES)})?: (?P<kind>{'|'.join(FATES)}|tie)", re.DOTALL
)
_TASK: Final = re.compile(r"(?:(?P<target>.+): )?(?P<kind>run) of (?P<part>.+)", re.DOTALL)
_PORT: Final = re.compile(r"(?P<target>.+): (?P<kind>port)", re.DOTALL)


@attrs.frozen
class Place:
    """The meaning of the name of a place.

    Attributes:
      kind: the kind of decision, such as ``"loss"``, ``"run"`` or ``"crash"``.
      target: the path, host or hosts that it concerns; empty if none.
      part: of a fault what is decided of it, empty for its begin; of a task its name.
      is_fault: whether it is a fault of a nemesis.
      is_copy: whether it concerns duplicated datagrams.
      run: the number of the run, for a test that runs several scenarios, counted from 1.
    """

    kind: str
    target: str = ""
    part: str = ""
    is_fault: bool = False
    is_copy: bool = False
    run: int = 1

    @property
    def is_path(self) -> bool:
        """Whether its decisions are about single datagrams."""
        return not self.is_fault and " -> " in self.target


def parse_place(name: str) -> Place:
    """Return the meaning of the name of a place."""
    prefix, run = _RUN.match(name), 1
    if prefix is not None:
        name, run = name[prefix.end() :], int(prefix[1])
    for pattern in (FAULT, _PATH, _TASK, _PORT):
        found = pattern.fullmatch(name)
        if found is not None:
            parts = found.groupdict()
            return Place(
                parts["kind"],
                parts["target"] or "",
                parts.get("part") or "",
                is_fault=pattern is FAULT,
                is_copy=bool(parts.get("copy")),
                run=run,
            )
    return Place(name, run=run)


def kind_of(choice: Choice) -> object:
    """Return the kind of a choice: those of one kind are removed at once."""
    place = parse_place(choice.place)
    return place.run, place.is_fault, place.kind


def group_of(choice: Choice) -> object:
    """Return the group of a choice: the losses of a path, the order of a task, or a fault with all of its parts."""
    place = parse_place(choice.place)
    return (place.run, place.kind, place.target, choice.number) if place.is_fault else choice.place


def is_time(choice: Choice) -> bool:
    """Whether the value of a choice is a time of a fault, not an amount."""
    place = parse_place(choice.place)
    return place.is_fault and place.part in ("", "end")


def is_count(choice: Choice) -> bool:
    """Whether the value of a choice is how many earlier tasks or datagrams it overtakes."""
    return parse_place(choice.place).kind in ("run", "tie") and isinstance(choice.value, int)


def is_begin_of(begin: Choice, end: Choice) -> bool:
    """Whether one choice is the begin of the fault whose end is another one."""
    return (f"{begin.place}: end", begin.number) == (end.place, end.number)
