"""Choices: the one source of whatever a run decides by chance.

Each choice is made at a place with a name, and counted there. A run that is not recorded draws at no additional cost:
the function of a place is the function that draws.

Rule 1: what a tape has is followed by place and number, so a choice is the same whatever happens at other places.
Rule 2: a place where nothing was drawn when the tape was recorded is neutral in its replay.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final, TypeVar, TypeVarTuple

from ..._values.test_runs import current_test_run
from .random import Seed, stream
from .tape import Choice, Tape, Value

T = TypeVar("T")
V = TypeVar("V", bool, int, float)
Ts = TypeVarTuple("Ts")

_SHORTLY: Final = 1e-8
"""How long after a moment a tape ends, in seconds: tasks that an event wakes then have run, and no timer has fired."""


class Choices:
    """The choices of a run, drawn from random sources that derive from a seed.

    Args:
      seed: the seed.
      variant: what distinguishes its random sources from those of another run with this seed, if anything.
    """

    tape_ends_at: float = math.inf
    """When the tape ends and choices begin to be drawn, in seconds since the network was opened; infinity for never."""

    def __init__(self, seed: Seed, *variant: object) -> None:
        self.seed: Seed = seed
        self._variant = variant

    def stream(self, *key: object, seed: Seed | None = None) -> random.Random:
        """Return the random source of a key, by another seed than that of the run if one is given."""
        return stream(self.seed if seed is None else seed, *self._variant, *key)

    def at(self, place: str, draw: Callable[[*Ts], V], neutral: V) -> Callable[[*Ts], V]:  # noqa: ARG002 -- for subclasses
        """Return the function that makes the choices of one place.

        Args:
          place: its name.
          draw: the function that draws them.
          neutral: the neutral value, of the type of the others.
        """
        return draw

    def among(
        self,
        place_of: Callable[[T], str],  # noqa: ARG002 -- for subclasses
        draw: Callable[[T, *Ts], int],
    ) -> Callable[[T, *Ts], int]:
        """Return the function that makes the choices of several places, each an integer.

        Args:
          place_of: returns the name of the place for the first argument of ``draw``.
          draw: the function that draws them.
        """
        return draw

    def planned(self, prefix: str) -> list[Choice] | None:  # noqa: ARG002 -- for subclasses
        """Return the choices of a replay at places whose names begin with ``prefix``; None if they are to be drawn."""
        return None

    def add(self, place: str, number: int, value: Value) -> None:
        """Record a choice that was made without :meth:`at`."""

    def end_tape(self) -> None:
        """End the tape: from now on choices are drawn."""

    def at_end_of_tape(self, function: Callable[[], object]) -> None:
        """Call a function when the tape ends, if it does before the run."""


class _Places(Choices):
    """The choices of a run that is recorded or replayed: places are counted.

    Args:
      seed: the seed.
      prefix: the start of the name of each place.
      variant: as for :class:`Choices`.
    """

    def __init__(self, seed: Seed, prefix: str, *variant: object) -> None:
        super().__init__(seed, *variant)
        self._prefix = prefix
        self._counts: dict[str, count[int]] = {}

    def _numbers(self, place: str) -> count[int]:
        """Return the numbers of the further choices of a place."""
        return self._counts.setdefault(place, count(1))

    def among(self, place_of: Callable[[T], str], draw: Callable[[T, *Ts], int]) -> Callable[[T, *Ts], int]:
        functions: dict[str, Callable[[T, *Ts], int]] = {}

        def choose(item: T, *args: *Ts) -> int:
            place = place_of(item)
            function = functions.get(place)
            if function is None:
                function = functions[place] = self.at(place, draw, 0)
            return function(item, *args)

        return choose


class _Recorded(_Places):
    """Draws, and records what is not neutral."""

    def __init__(self, seed: Seed, prefix: str, rows: list[tuple[str, int, Value]]) -> None:
        super().__init__(seed, prefix)
        self._rows = rows

    def at(self, place: str, draw: Callable[[*Ts], V], neutral: V) -> Callable[[*Ts], V]:  # noqa: ARG002 -- Choices' own
        name = self._prefix + place
        numbers, append = self._numbers(name), self._rows.append

        def choose(*args: *Ts) -> V:
            number = next(numbers)
            value = draw(*args)
            if value:
                append((name, number, value))
            return value

        return choose

    def add(self, place: str, number: int, value: Value) -> None:
        self._rows.append((self._prefix + place, number, value))


class _Replayed(_Places):
    """Follows a tape."""

    def __init__(self, seed: Seed, prefix: str, replay: Replay, *variant: object) -> None:
        super().__init__(seed, prefix, *variant)
        self._replay = replay

    def at(self, place: str, draw: Callable[[*Ts], V], neutral: V) -> Callable[[*Ts], V]:  # noqa: ARG002 -- it is not drawn
        name = self._prefix + place
        numbers, by_number = self._numbers(name), self._replay.by_place.get(name, {})
        followed, kind = self._replay.followed, type(neutral)

        def choose(*args: *Ts) -> V:
            choice = by_number.get(next(numbers))
            # A string is not of this place.
            if choice is None or isinstance(choice.value, str):
                return neutral
            followed[choice] = args[0] if args else None
            return kind(choice.value)

        return choose

    def planned(self, prefix: str) -> list[Choice] | None:
        start = len(self._prefix)
        found = (choice for choice in self._replay.tape.choices if choice.place.startswith(self._prefix + prefix))
        return [Choice(choice.place[start:], choice.number, choice.value) for choice in found]

    def add(self, place: str, number: int, value: Value) -> None:
        self._replay.followed[Choice(self._prefix + place, number, value)] = None


class _Continued(_Replayed):
    """Follows a tape up to its end, and draws from then on."""

    def __init__(self, seed: Seed, prefix: str, replay: Replay, tape_ends_at: float, *variant: object) -> None:
        super().__init__(seed, prefix, replay, *variant)
        self.tape_ends_at = tape_ends_at
        self._has_ended = False
        self._functions: list[Callable[[], object]] = []

    def at(self, place: str, draw: Callable[[*Ts], V], neutral: V) -> Callable[[*Ts], V]:
        follow = super().at(place, draw, neutral)
        return lambda *args: draw(*args) if self._has_ended else follow(*args)

    def planned(self, prefix: str) -> list[Choice] | None:
        return None if self._has_ended else super().planned(prefix)

    def at_end_of_tape(self, function: Callable[[], object]) -> None:
        self._functions.append(function)

    def end_tape(self) -> None:
        self._has_ended = True
        for function in self._functions:
            function()


class _Runs:
    """The runs of a test, of which each has its own choices."""

    def __init__(self) -> None:
        self.count: int = 0
        """The number of runs that have begun."""

    def _next_prefix(self) -> str:
        """Return what the names of the places of the next run begin with: nothing for the first."""
        self.count += 1
        return "" if self.count == 1 else f"run {self.count}: "


class Recording(_Runs):
    """Records the choices of the runs of a test.

    Args:
      example: the only example that Hypothesis is to run; empty for a test without Hypothesis.
    """

    def __init__(self, example: str = "") -> None:
        super().__init__()
        self.example: str = example
        self._rows: list[tuple[str, int, Value]] = []

    def choices(self, seed: Seed) -> Choices:
        """Return the choices of the next run."""
        return _Recorded(seed, self._next_prefix(), self._rows)

    def tape(self, seed: int, test: str) -> Tape:
        """Return what was recorded up to now."""
        return Tape(tuple(Choice(*row) for row in self._rows), seed, test, self.example)


class Replay(_Runs):
    """Replays the runs of a test.

    Args:
      tape: the tape.
    """

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape: Final = tape
        self.example: str = tape.example
        self.by_place: Final[dict[str, dict[int, Choice]]] = {}
        """Its choices by place and number."""
        for choice in tape.choices:
            self.by_place.setdefault(choice.place, {})[choice.number] = choice
        self.followed: Final[dict[Choice, Any]] = {}
        """The choices that were made, in order, each with what it was about: a packet on a path, a pipe for a tie, a
        task for the schedule, else None."""

    def choices(self, seed: Seed) -> Choices:
        """Return the choices of the next run."""
        return _Replayed(seed, self._next_prefix(), self)

    @property
    def unused(self) -> list[Choice]:
        """The choices of the tape that had no place in the run."""
        return [choice for choice in self.tape.choices if choice not in self.followed]


class Continuation(Replay):
    """Replays the runs of a test up to a moment of one of them, and draws all choices after that.

    Args:
      tape: the tape.
      run: the number of the run, counted from 1.
      moment: the moment, in seconds since the network of the run was opened. Choices at that moment are followed.
      number: the number of the continuation: each one draws other choices.
    """

    def __init__(self, tape: Tape, run: int, moment: float, number: int) -> None:
        super().__init__(tape)
        self._run = run
        self._tape_ends_at = moment + _SHORTLY
        self._variant: tuple[object, ...] = ("continuation", number)

    def choices(self, seed: Seed) -> Choices:
        """Return the choices of the next run."""
        prefix = self._next_prefix()
        if self.count < self._run:
            return _Replayed(seed, prefix, self)
        if self.count == self._run:
            return _Continued(seed, prefix, self, self._tape_ends_at, *self._variant)
        return Choices(seed, *self._variant)


def new_choices(seed: Seed) -> Choices:
    """Return the choices of a run that begins: those of a tape if the test is recorded or replayed."""
    tape = current_test_run().tape
    return Choices(seed) if tape is None else tape.choices(seed)


def any_order(draw: Callable[[], float]) -> Callable[[object, Sequence[object]], int]:
    """Return a function for :func:`in_order` by which every order is equally probable.

    Args:
      draw: draws a number from 0 to 1.
    """
    return lambda _item, order: int(draw() * (len(order) + 1))


def in_order(items: Iterable[T], overtaken: Callable[[T, Sequence[T]], int]) -> list[T]:
    """Return ``items`` in an order that is chosen.

    Args:
      items: the items, in their neutral order.
      overtaken: returns how many of the items before it an item overtakes, from the item and the order of those.
    """
    order: list[T] = []
    for position, item in enumerate(items):
        order.insert(max(0, position - overtaken(item, order)) if position else 0, item)
    return order
