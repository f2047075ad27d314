"""The moment from which a failure is inevitable: from there on it happens whatever is drawn.

It has no simulator: a function evaluates continuations, each a run that follows the shrunk one up to a moment and draws
what comes after it.

Rule 1: the shrunk run itself is a continuation from each of its moments, so once all fail they fail from every later
    moment, too, and the first such moment is found by bisection.
Rule 2: as in shrinking, outcomes count in the order of the continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from typing import Final, TypeAlias

from .._trace.report import FailureReport
from .shrink import Budget, Outcome, SpentError

CONTINUATIONS: Final = 20
"""The number of continuations from one moment."""

Continue: TypeAlias = Callable[[Iterable[tuple[float, int]]], Generator[Outcome]]
"""Yields the outcome of each continuation, in order, by its moment and number. It may evaluate later ones ahead, and
is closed at the first that does not fail."""


def moments_of(report: FailureReport) -> list[float]:
    """Return the times of the events of a run that failed, in order, and at last that of its failure."""
    trace = report.trace
    records = (*trace.records, *trace.in_flight)
    times = {record.packet.sent_at for record in records} | {record.at for record in records}
    times |= {note.at for note in trace.notes}
    return [*sorted(time for time in times if time < report.ended_at), report.ended_at]


def inevitable_from(moments: Sequence[float], evaluate: Continue, budget: Budget) -> float | None:
    """Return the first moment from which all continuations fail; None if that is only the last one.

    Args:
      moments: the moments, in order; the last one is that of the failure.
      evaluate: evaluates continuations.
      budget: the limits. Once they are reached, the result is the first moment that is known up to then.
    """
    low, high = 0, len(moments) - 1
    with suppress(SpentError):
        while low < high:
            middle = (low + high) // 2
            if _all_fail(moments[middle], evaluate, budget):
                high = middle
            else:
                low = middle + 1
    return moments[high] if high < len(moments) - 1 else None


def _all_fail(moment: float, evaluate: Continue, budget: Budget) -> bool:
    with closing(evaluate((moment, number) for number in range(1, CONTINUATIONS + 1))) as outcomes:
        for _ in range(CONTINUATIONS):
            budget.spend()
            if next(outcomes) != "fails":
                return False
    return True
