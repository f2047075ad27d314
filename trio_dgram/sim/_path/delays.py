"""Delay: the time that each packet is in flight, after its transmission."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, Literal, TypeAlias

from ..._values.arguments import describe_value

Shape: TypeAlias = Literal["uniform", "normal", "pareto", "exponential"]
"""The distributions that have a name."""

Distribution: TypeAlias = "Shape | Sequence[float] | Callable[[random.Random], float]"
"""The distribution of delays.

- ``"uniform"``: up to ``jitter`` more or less;
- ``"normal"``: ``jitter`` is the standard deviation;
- ``"pareto"``: most slightly shorter, few much longer, with a standard deviation of about ``jitter``, as netem's;
- ``"exponential"``: only longer, by ``jitter`` on average, as behind a queue;
- a table of samples, in units of ``jitter``, of which one is drawn for each packet;
- a function of a random source that returns the value to add to ``delay``, in seconds; ``jitter`` is ignored then.

No delay is ever less than 0.
"""

SHAPES: Final = ("uniform", "normal", "pareto", "exponential")

# Quantised like the tables of netem, so that the last bit of a machine's logarithm has no effect.
_TABLE_SIZE: Final = 4096
_SCALE: Final = 8192
_LONGEST_PARETO: Final = 4
"""In units of jitter: the range of netem's 16-bit tables."""


def check_distribution(name: str, value: object) -> None:
    """Raise if ``value`` is no :data:`Distribution`."""
    if isinstance(value, str):
        if value not in SHAPES:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, SHAPES))}, not {value!r}")
    elif isinstance(value, Sequence):
        if not value:
            raise ValueError(f"{name} must have at least one sample")
        for sample in value:
            if not isinstance(sample, (int, float)) or isinstance(sample, bool) or not math.isfinite(sample):
                raise TypeError(f"{name} must have finite numbers as samples, not {describe_value(sample)}")
    elif not callable(value):
        raise TypeError(
            f"{name} must be one of {', '.join(map(repr, SHAPES))}, a sequence of numbers, or a function of a random "
            f"source, not {describe_value(value)}"
        )


def varies(jitter: float, distribution: Distribution) -> bool:
    """Return whether delays differ from packet to packet."""
    return bool(jitter) or callable(distribution)


def jitter_process(jitter: float, distribution: Distribution, source: random.Random) -> Callable[[object], float]:
    """Return a function that draws from ``source``, for one packet after the other, the seconds to add to its delay."""
    draw = source.random
    if callable(distribution):
        return lambda _packet: distribution(source)
    if distribution == "uniform":
        width = 2 * jitter
        return lambda _packet: width * draw() - jitter
    samples = _table(distribution) if isinstance(distribution, str) else distribution
    added = [jitter * sample for sample in samples]
    size = len(added)
    return lambda _packet: added[int(size * draw())]


@cache
def _table(shape: str) -> tuple[float, ...]:
    """Return samples of a distribution in units of jitter, spaced by equal probability."""
    quantile = _QUANTILES[shape]
    return tuple(round(_SCALE * quantile((index + 0.5) / _TABLE_SIZE)) / _SCALE for index in range(_TABLE_SIZE))


def _pareto(probability: float) -> float:
    # The mean of the distribution with the shape 3 is 1.5, and its standard deviation the root of 3/4.
    value: float = (1 - probability) ** (-1 / 3)
    return min((value - 1.5) * 4 / 3, _LONGEST_PARETO)


def _exponential(probability: float) -> float:
    return -math.log(1 - probability)


_QUANTILES: Final[dict[str, Callable[[float], float]]] = {
    "normal": statistics.NormalDist().inv_cdf,
    "pareto": _pareto,
    "exponential": _exponential,
}
