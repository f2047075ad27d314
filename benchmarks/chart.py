"""The chart: each case's peers beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.cases import CASES, PEERS, Case
from benchmarks.report import Line

OURS: Final = "#0b7285"
OTHERS: Final = "#adb5bd"


def _label(case: Case, line: Line) -> str:
    digits = 0 if line.median >= 1000 else 1
    label = f"{line.median:,.{digits}f}"
    if line.ratio is None:
        return label
    # The ratio to the first row; the table has its inverse unless the case grows.
    times = line.ratio.median if case.growth else 1 / line.ratio.median
    return f"{label} ({times:.2f} x)"


def draw(summary: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Draw every case with more than one row, with the spread of its rounds, and write it to ``path`` as SVG."""
    shown = {name: lines for name, lines in summary.items() if len(lines) > 1}
    if not shown:
        return
    rows = sum(map(len, shown.values()))
    figure = Figure(figsize=(9, 0.3 * rows + 0.75 * len(shown)), layout="constrained")
    heights = [len(lines) + 1 for lines in shown.values()]
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (name, lines), axis in zip(shown.items(), axes[:, 0], strict=True):
        case = CASES[name]
        ordered = lines if case.growth else sorted(lines, key=lambda line: line.median, reverse=case.higher_is_better)
        medians = [line.median for line in ordered]
        spread = [
            [line.median - line.low for line in ordered],
            [line.high - line.median for line in ordered],
        ]
        drawn = axis.barh(
            [line.name for line in ordered],
            medians,
            xerr=spread,
            color=[OURS if line.name == case.rows[0].name or line.name not in PEERS else OTHERS for line in ordered],
            error_kw={"ecolor": "#495057", "linewidth": 0.8},
        )
        axis.bar_label(drawn, labels=[_label(case, line) for line in ordered], padding=4, fontsize=8)
        better = "more" if case.higher_is_better else "less"
        axis.set_title(f"{name} ({case.unit}; {better} is better)", loc="left", fontsize=10)
        axis.tick_params(axis="y", labelsize=9, length=0)
        axis.invert_yaxis()
        axis.set_xlim(0, max(line.high for line in ordered) * 1.25)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    # Neither a date nor random names, so that the same figures draw the same file.
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "font.family": "DejaVu Sans"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
