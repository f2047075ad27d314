"""The chart: each case's peers beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.cases import CASES, OURS

Rounds = Mapping[str, Mapping[str, Sequence[float]]]
"""The figures of all rounds, by case and peer."""


def draw(rounds: Rounds, path: Path) -> None:
    """Draw every case that has peers, ours marked, and write it to ``path`` as SVG."""
    shown = [name for name in CASES if len(rounds.get(name, ())) > 1]
    figure = Figure(figsize=(9, 0.6 + sum(0.55 + 0.28 * len(rounds[name]) for name in shown)), layout="constrained")
    heights = [len(rounds[name]) + 1.5 for name in shown]
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for name, axis in zip(shown, axes[:, 0], strict=True):
        better = CASES[name].higher_is_better
        bars = sorted(
            ((statistics.median(figures), peer) for peer, figures in rounds[name].items()), reverse=not better
        )
        values = [value for value, _ in bars]
        colours = ["#0b7285" if peer == OURS else "#adb5bd" for _, peer in bars]
        drawn = axis.barh([peer for _, peer in bars], values, color=colours)
        axis.bar_label(
            drawn, labels=[f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values], padding=3
        )
        axis.set_title(
            f"{name} ({CASES[name].unit}, {'more' if better else 'less'} is better)", loc="left", fontsize=10
        )
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    # Without the date, so that the same figures draw the same file.
    figure.savefig(path, format="svg", metadata={"Date": None})
