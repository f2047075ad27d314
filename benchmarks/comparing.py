"""The ratio of the figures of interleaved rounds, with its confidence interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Final

import attrs

RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95


@attrs.frozen
class Ratio:
    """The median of the rounds' ratios, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def reaches(self, bar: float, *, higher_is_better: bool) -> bool:
        """Whether the interval reaches ``bar``."""
        return self.high >= bar if higher_is_better else self.low <= bar


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return the ratio of paired rounds, since a machine's speed drifts between rounds more than within one."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    # Seeded, so that equal figures give equal intervals.
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    outside = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Ratio(statistics.median(ratios), medians[outside], medians[-1 - outside])
