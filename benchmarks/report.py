"""The summary of the figures of a case, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.cases import PURE, Case, Row
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
    pure_ratio: Ratio | None = None
    """The same ratio of our row in pure Python."""
    pure_bar: float | None = None
    pure_met: bool | None = None
    cpu: float | None = None
    """The median of the CPU time of each datagram, in us."""


def sum_up(case: Case, measured: Mapping[str, Sequence[Figure]], *, judge: bool) -> list[Line]:
    """Return the lines of the rows of a case that were measured."""
    return [_line(case, row, measured, judge=judge) for row in case.rows if row.name in measured]


def _line(case: Case, row: Row, measured: Mapping[str, Sequence[Figure]], *, judge: bool) -> Line:
    # Without the compiled layer, ours is the pure one.
    is_pure = PURE not in measured and any(other.name == PURE for other in case.rows)
    name, bar = row.name, row.pure_bar if is_pure else row.bar
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
    pure = pure_met = None
    if PURE in measured and name not in (first, PURE):
        pure = ratio([figure.value for figure in measured[PURE]], values)
        if row.pure_bar is not None:
            pure_met = pure.reaches(row.pure_bar, higher_is_better=case.higher_is_better)
    cpu = [figure.cpu for figure in measured[name] if figure.cpu is not None]
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
        pure_ratio=pure,
        pure_bar=row.pure_bar if pure is not None else None,
        pure_met=pure_met if judge else None,
        cpu=statistics.median(cpu) if cpu else None,
    )


def table(case: Case, lines: Sequence[Line], cores: int) -> Iterator[str]:
    """Yield the lines of a case's table, which was measured on so many cores."""
    better = "more" if case.higher_is_better else "less"
    compared = "to the first" if case.growth else "first / this"
    yield f"{case.name} ({case.unit}; {better} is better)"
    header = f"  {'':22}{'median':>12}{'spread':>25}{'lost':>8}{'CPU us':>8}   {compared:36}"
    yield (header + ("pure / this" if any(line.pure_ratio for line in lines) else "")).rstrip()
    for line in lines:
        spread = f"{line.low:,.1f} .. {line.high:,.1f}"
        cpu = "" if line.cpu is None else f"{line.cpu:.2f}"
        text = f"  {line.name:22}{line.median:12,.1f}{spread:>25}{line.lost:8.1%}{cpu:>8}"
        text += f"   {_compared(case, line.ratio, line.bar, line.met):36}"
        text += _compared(case, line.pure_ratio, line.pure_bar, line.pure_met)
        yield text.rstrip()
        if line.rounds[-1].note:
            yield f"    {line.rounds[-1].note}"
    if case.cores > cores:
        yield f"  not judged: it needs {case.cores} cores, and here are {cores}"


def _compared(case: Case, between: Ratio | None, bar: float | None, met: bool | None) -> str:  # noqa: FBT001
    """Return a ratio, its bar, and whether that is met."""
    parts = []
    if between is not None:
        parts.append(f"{between.median:.2f} ({between.low:.2f} .. {between.high:.2f})")
    if bar is not None:
        parts.append(f"{'>=' if case.higher_is_better else '<='} {bar:g}")
    if met is not None:
        parts.append("met" if met else "MISSED")
    return " ".join(parts)
