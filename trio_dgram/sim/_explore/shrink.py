"""Shrinking: the choices of a failing run that its failure needs, and the bounds of their numbers.

It has no simulator: a function evaluates candidates, each a part of the choices.

Rule 1: a candidate is accepted only if it fails in the same way, so the result is a run that was seen to fail.
Rule 2: the candidates depend on the choices and the outcomes alone, and outcomes count in the order of the candidates:
    the number of processes that evaluate them, and their speed, change nothing.
Rule 3: passes repeat until one accepts nothing, so that shrinking the result again accepts nothing, either.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from decimal import ROUND_CEILING, Decimal
from itertools import tee
from typing import Final, Literal, NamedTuple, TypeAlias

import attrs

from .._values.tape import Choice
from .places import group_of, is_begin_of, is_count, is_time, kind_of

RUNS: Final = 400
"""The default limit on the runs of one shrinking."""
SECONDS: Final = 60.0
"""The default limit on its duration, in seconds."""
_MOST_PASSES: Final = 20
"""The most passes: times that depend on each other might move each other for ever."""
_FIRST_STEP: Final = 1 / 16
"""The first step from a number towards a bound of its interval, as a share of the number. Steps double."""
_LARGEST_STEP: Final = 8
"""The last step, as a share of the number."""
_GAP: Final = 1 / 16
"""The uncertainty of a bound, as a share of the width of the interval."""
_ROUGH_GAP: Final = 1 / 4
"""The same while choices may still be removed."""
_LEAST_GAP: Final = 1 / 1024
"""The uncertainty of a bound, as a share of the number, at which a narrow interval is not refined any more."""
_MOST_DIGITS: Final = 4
"""The most significant digits of a number that replaces another one."""
_GROUPINGS: Final[tuple[Callable[[Choice], object], ...]] = (kind_of, group_of, lambda choice: choice)
"""Choices with the same key are removed at once, where that still fails."""

Choices: TypeAlias = tuple[Choice, ...]
"""Choices of a run, in order. A choice that is absent has its neutral value."""
Outcome: TypeAlias = Literal["fails", "fails otherwise", "passes"]
"""The outcome of a run; ``"fails"`` is the failure that is shrunk."""
Evaluate: TypeAlias = Callable[[Iterable[Choices]], Generator[Outcome]]
"""Yields the outcome of each candidate, in order. It may evaluate later candidates ahead, and is closed at the first
that fails."""


class SpentError(Exception):
    """The budget is spent."""


@attrs.define
class Budget:
    """The limits of a shrinking, from now on.

    Attributes:
      runs: the most runs that count; None for no limit. Those that were evaluated ahead in vain do not count.
      seconds: the longest duration; None for no limit. It depends on the machine; ``runs`` does not.
      clock: the time in seconds.
    """

    runs: int | None = RUNS
    seconds: float | None = SECONDS
    clock: Callable[[], float] = time.monotonic
    spent: int = attrs.field(default=0, init=False)
    """The number of runs up to now."""
    _end: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._end = math.inf if self.seconds is None else self.clock() + self.seconds

    def spend(self) -> None:
        """Count a run that begins.

        Raises:
          SpentError: if the limits do not allow it.
        """
        if self.spent == self.runs or self.clock() >= self._end:
            raise SpentError
        self.spent += 1


@attrs.frozen
class Interval:
    """The values of a number, without its sign, with which the run still fails, by bisection.

    Attributes:
      low: the least value that fails.
      high: the greatest value that fails.
      passes_below: the greatest value below ``low`` that does not fail; None if none was found.
      passes_above: the least value above ``high`` that does not fail; None if none was found.
    """

    low: float
    high: float
    passes_below: float | None
    passes_above: float | None


class Cause(NamedTuple):
    """One choice of the shrunk run."""

    choice: Choice
    without: Outcome | None
    """The outcome of the run without this choice alone; None if the budget ended before."""
    interval: Interval | None
    """The interval of its number; None for a choice without one, or if the budget ended before."""


@attrs.frozen
class Shrunk:
    """The result of shrinking.

    Attributes:
      choices: the smallest choices that fail.
      causes: the same, each with its outcome if it is taken away, and its interval.
      neighbour: the choices that differ least and pass; None if none are known.
      runs: the number of runs that this took.
      reproduced: whether the choices that were given failed at all.
      is_complete: whether shrinking ended before the budget did.
    """

    choices: Choices
    causes: tuple[Cause, ...]
    neighbour: Choices | None
    runs: int
    reproduced: bool
    is_complete: bool

    def in_order(self, made: Iterable[Choice]) -> Shrunk:
        """Return the same with the choices in the order in which the shrunk run made them."""
        order = {choice: index for index, choice in enumerate(made)}
        causes = sorted(self.causes, key=lambda cause: order.get(cause.choice, len(order)))
        return attrs.evolve(self, choices=tuple(cause.choice for cause in causes), causes=tuple(causes))


def one_by_one(run: Callable[[Choices], Outcome]) -> Evaluate:
    """Return a function that evaluates candidates in this process."""

    def evaluate(candidates: Iterable[Choices]) -> Generator[Outcome]:
        yield from map(run, candidates)

    return evaluate


def shrink(choices: Choices, evaluate: Evaluate, budget: Budget | None = None) -> Shrunk:
    """Return the smallest choices that still fail in the same way.

    Args:
      choices: the choices of the failing run.
      evaluate: evaluates candidates.
      budget: the limits. Default: :data:`RUNS`, and :data:`SECONDS`.
    """
    shrinker = _Shrinker(choices, evaluate, budget or Budget())
    with suppress(SpentError):
        shrinker.shrink()
    return shrinker.result()


class _Shrinker:
    def __init__(self, choices: Choices, evaluate: Evaluate, budget: Budget) -> None:
        self._best = choices
        self._evaluate = evaluate
        self._budget = budget
        self._known: dict[Choices, Outcome] = {}
        self._intervals: dict[Choice, Interval] = {}
        self._is_complete = False

    def shrink(self) -> None:
        if self._outcome(self._best) == "fails":
            for _ in range(_MOST_PASSES):  # pragma: no branch -- none is known that needs so many
                before = self._best
                self._remove()
                self._simplify()
                if self._best == before:
                    break
            for choice in filter(size_of, self._best):
                self._intervals[choice] = self._interval(choice, _GAP)
        self._is_complete = True

    def result(self) -> Shrunk:
        reproduced = self._known.get(self._best) == "fails"
        return Shrunk(
            choices=self._best,
            causes=tuple(
                Cause(choice, self._known.get(_without(self._best, {choice})), self._intervals.get(choice))
                for choice in self._best
            ),
            neighbour=self._neighbour() if reproduced else None,
            runs=self._budget.spent,
            reproduced=reproduced,
            is_complete=self._is_complete,
        )

    # Removing choices

    def _remove(self) -> None:
        """Remove choices: whole kinds first, then whole places, then single ones, the most at once."""
        for key in _GROUPINGS:
            groups: dict[object, list[Choice]] = {}
            for choice in self._best:
                groups.setdefault(key(choice), []).append(choice)
            self._remove_units(sorted(groups.values(), key=len, reverse=True))

    def _remove_units(self, units: list[list[Choice]]) -> None:
        """Remove units that are not needed, by delta debugging: runs of them, of half the length each time."""
        size = len(units)
        while size:
            start = 0
            while start < len(units):
                starts = range(start, len(units), size)
                found = self._first_failing(self._without_units(units, starts, size))
                if found is None:
                    break
                start = starts[found]
                del units[start : start + size]
            size //= 2

    def _without_units(self, units: Sequence[list[Choice]], starts: Iterable[int], size: int) -> Iterator[Choices]:
        best = self._best
        for start in starts:
            yield _without(best, {choice for unit in units[start : start + size] for choice in unit})

    # Numbers

    def _simplify(self) -> None:
        """Replace numbers by shorter ones: amounts and counts by smaller ones, times by those amid their interval.

        A time at the edge of its interval would keep choices that only move the other events a little.
        """
        for choice in tuple(filter(is_count, self._best)):
            self._replace(choice, [self._least_count(choice)])
        for choice in tuple(filter(size_of, self._best)):
            value = size_of(choice)
            if not is_time(choice):
                low, _ = self._bound(choice, -1, value, _ROUGH_GAP)
                self._replace(choice, list(shorter_numbers(max(low, value / 10), value))[:-1])
                continue
            least, most = _middle(self._interval(choice, _ROUGH_GAP), value)
            is_amid = least <= value <= most
            numbers = shorter_numbers(least, most)
            self._replace(choice, [number for number in numbers if not is_amid or _digits(number) < _digits(value)])

    def _replace(self, choice: Choice, numbers: Iterable[float]) -> None:
        """Replace the number of a choice by the first of others that fails."""
        for number in numbers:
            candidate = self._with_value(choice, number)
            if self._outcome(candidate) == "fails":
                self._best = candidate
                return

    def _least_count(self, choice: Choice) -> int:
        """Return the least count with which the run still fails, by bisection."""
        counts = range(1, int(choice.value))
        return 1 + bisect_left(counts, True, key=lambda count: self._fails_with(choice, count))  # noqa: FBT003 -- the value

    def _interval(self, choice: Choice, gap: float) -> Interval:
        high, passes_above = self._bound(choice, 1, size_of(choice), gap)
        low, passes_below = self._bound(choice, -1, high, gap)
        return Interval(low, high, passes_below, passes_above)

    def _bound(self, choice: Choice, direction: int, other_bound: float, gap: float) -> tuple[float, float | None]:
        """Return the last value in a direction that fails, and the next one that does not, or None; all without sign.

        Args:
          choice: the choice.
          direction: -1 for smaller values, towards 0, and 1 for greater ones.
          other_bound: the bound in the other direction.
          gap: the uncertainty of the bound, as a share of the width of the interval.
        """
        value = fails = passes = size_of(choice)
        step = _FIRST_STEP
        # The value 0 would be neutral, as without the choice, and no fault ends before it begins.
        least = max(value * _LEAST_GAP, *(size_of(other) for other in self._best if is_begin_of(other, choice)), 0.0)
        while fails == passes:
            if (direction < 0 and fails <= least) or step > _LARGEST_STEP:
                return fails, None
            passes = max(least, value * (1 + direction * step))
            fails = passes if self._fails_with(choice, passes) else fails
            step *= 2
        while abs(passes - fails) > max(abs(fails - other_bound) * gap, value * _LEAST_GAP):
            middle = (fails + passes) / 2
            if self._fails_with(choice, middle):
                fails = middle
            else:
                passes = middle
        return fails, passes

    def _fails_with(self, choice: Choice, value: float) -> bool:
        return self._outcome(self._with_value(choice, value)) == "fails"

    def _with_value(self, choice: Choice, value: float) -> Choices:
        changed = Choice(choice.place, choice.number, -value if is_negative(choice) else value)
        return tuple(changed if other == choice else other for other in self._best)

    # The neighbour

    def _neighbour(self) -> Choices | None:
        """Return the run with the least change of a number that passes; without one that without its last choice."""
        changed = [
            (abs(value / size_of(choice) - 1), candidate)
            for choice, interval in self._intervals.items()
            for value in (interval.passes_below, interval.passes_above)
            if value is not None and self._known.get(candidate := self._with_value(choice, value)) == "passes"
        ]
        if changed:
            return min(changed, key=lambda change: change[0])[1]
        without = (_without(self._best, {choice}) for choice in reversed(self._best))
        return next((candidate for candidate in without if self._known.get(candidate) == "passes"), None)

    # Runs

    def _outcome(self, candidate: Choices) -> Outcome:
        if candidate not in self._known:
            next(self._outcomes([(0, candidate)]))
        return self._known[candidate]

    def _first_failing(self, candidates: Iterable[Choices]) -> int | None:
        """Accept the first candidate that fails, and return its index; None if none does."""
        unknown = ((index, candidate) for index, candidate in enumerate(candidates) if candidate not in self._known)
        with closing(self._outcomes(unknown)) as outcomes:
            for index, candidate in outcomes:
                if self._known[candidate] == "fails":
                    self._best = candidate
                    return index
        return None

    def _outcomes(self, candidates: Iterable[tuple[int, Choices]]) -> Generator[tuple[int, Choices]]:
        """Evaluate candidates, and yield each with its index once its outcome is known."""
        counted, evaluated = tee(candidates)
        with closing(self._evaluate(candidate for _, candidate in evaluated)) as outcomes:
            for index, candidate in counted:
                self._budget.spend()
                self._known[candidate] = next(outcomes)
                yield index, candidate


def _without(choices: Choices, removed: Container[Choice]) -> Choices:
    return tuple(choice for choice in choices if choice not in removed)


def _middle(interval: Interval, value: float) -> tuple[float, float]:
    """Return the middle half of an interval; of one without an upper bound what is near ``value``."""
    if interval.passes_above is None:
        return max(interval.low, value * 0.9), min(interval.high, value * 1.1)
    margin = (interval.high - interval.low) / 4
    return interval.low + margin, interval.high - margin


def size_of(choice: Choice) -> float:
    """Return the number of a choice without its sign; 0 for a choice that has no interval, such as a count."""
    return abs(choice.value) if isinstance(choice.value, float) else 0.0


def is_negative(choice: Choice) -> bool:
    """Whether the number of a choice is below 0."""
    return isinstance(choice.value, float) and choice.value < 0


def _digits(value: float) -> int:
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


def shorter_numbers(low: float, high: float) -> Iterator[float]:
    """Yield numbers of a range of positive ones, the shortest first, and ``high`` at last.

    Each is the least with its number of digits.
    """
    first = Decimal(repr(low))
    for digits in range(1, _digits(high)):
        unit = Decimal(1).scaleb(first.adjusted() - digits + 1)
        shorter = float((first / unit).to_integral_value(ROUND_CEILING) * unit)
        if shorter < high:
            yield shorter
    yield high
