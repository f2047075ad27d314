"""The summary of the figures of a case, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.cases import Case
from benchmarks.comparing import Ratio, ratio
from benchmarks.measuring import Figure


@attrs.frozen
class Line:
    """The summary of the rounds of one row."""

    name: str
    median: float
    low: float
    high: float
    lost: float
    ratio: Ratio | None
    """The first row's figure divided by this one's, or the inverse in a case that grows."""
    bar: float | None
    met: bool | None
    """Whether the bar is met, None without a bar or in a run too short to judge."""
    rounds: tuple[Figure, ...]


def sum_up(case: Case, measured: Mapping[str, Sequence[Figure]], *, judge: bool) -> list[Line]:
    """Return the lines of the rows of a case that were measured."""
    return [_line(case, row.name, row.bar, measured, judge=judge) for row in case.rows if row.name in measured]


def _line(case: Case, name: str, bar: float | None, measured: Mapping[str, Sequence[Figure]], *, judge: bool) -> Line:
    values = [figure.value for figure in measured[name]]
    median = statistics.median(values)
    first = case.rows[0].name
    compared = met = None
    if name != first and first in measured:
        reference = [figure.value for figure in measured[first]]
        compared = ratio(values, reference) if case.growth else ratio(reference, values)
        if bar is not None:
            met = compared.reaches(bar, higher_is_better=case.higher_is_better)
    elif case.at_most is not None:
        bar, met = case.at_most, median <= case.at_most
    return Line(
        name=name,
        median=median,
        low=min(values),
        high=max(values),
        lost=statistics.median(figure.lost for figure in measured[name]),
        ratio=compared,
        bar=bar,
        met=met if judge else None,
        rounds=tuple(measured[name]),
    )


def table(case: Case, lines: Sequence[Line], cores: int) -> Iterator[str]:
    """Yield the lines of a case's table, which was measured on so many cores."""
    better = "more" if case.higher_is_better else "less"
    compared = "to the first" if case.growth else "first / this"
    yield f"{case.name} ({case.unit}; {better} is better)"
    yield f"  {'':22}{'median':>12}{'spread':>25}{'lost':>8}   {compared:22}{'bar':>8}"
    for line in lines:
        spread = f"{line.low:,.1f} .. {line.high:,.1f}"
        text = f"  {line.name:22}{line.median:12,.1f}{spread:>25}{line.lost:8.1%}"
        between = ""
        if line.ratio is not None:
            between = f"{line.ratio.median:.2f} ({line.ratio.low:.2f} .. {line.ratio.high:.2f})"
        text += f"   {between:22}"
        if line.bar is not None:
            sign = ">=" if case.higher_is_better else "<="
            text += f"{f'{sign} {line.bar:g}':>8}"
        if line.met is not None:
            text += "  met" if line.met else "  MISSED"
        yield text.rstrip()
        if line.rounds[-1].note:
            yield f"    {line.rounds[-1].note}"
    if case.cores > cores:
        yield f"  not judged: it needs {case.cores} cores, and here are {cores}"
