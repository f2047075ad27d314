from __future__ import annotations

import hashlib
import random
import statistics
from typing import Any

import pytest

from trio_dgram.sim._path.delays import SHAPES, Distribution, _table, check_distribution, jitter_process, varies

COUNT = 5000


def draw(delay: float, jitter: float, distribution: Distribution, count: int = COUNT) -> list[float]:
    process = jitter_process(jitter, distribution, random.Random(1))
    return [delay + process(None) for _ in range(count)]


# Bounds of five standard errors, of the mean and of the standard deviation.
@pytest.mark.parametrize(
    ("distribution", "mean", "deviation"),
    [("uniform", 1.0, 0.1 / 3**0.5), ("normal", 1.0, 0.1), ("exponential", 1.1, 0.1), ([-2, 2], 1.0, 0.2)],
)
def test_delays_have_their_distribution(distribution: Distribution, mean: float, deviation: float) -> None:
    delays = draw(1.0, 0.1, distribution)
    assert statistics.fmean(delays) == pytest.approx(mean, abs=5 * deviation / COUNT**0.5)
    assert statistics.pstdev(delays) == pytest.approx(deviation, rel=10 / COUNT**0.5)


def test_uniform_delays_keep_within_the_jitter() -> None:
    delays = draw(1.0, 0.1, "uniform")
    assert 0.9 <= min(delays) < 0.901
    assert 1.099 < max(delays) <= 1.1


def test_most_pareto_delays_are_short_and_few_are_long() -> None:
    delays = draw(1.0, 0.1, "pareto")
    assert min(delays) == pytest.approx(1 - 0.1 * 2 / 3, abs=1e-3)
    assert max(delays) == pytest.approx(1.4)
    assert statistics.median(delays) < 1.0
    assert statistics.fmean(delays) == pytest.approx(1.0, abs=0.01)


def test_an_exponential_delay_is_never_less_than_the_delay() -> None:
    assert min(draw(1.0, 0.1, "exponential")) >= 1.0


def test_a_function_returns_seconds() -> None:
    assert draw(1.0, 5.0, lambda _source: 0.25, 2) == [1.25, 1.25]


def test_a_table_returns_only_its_samples() -> None:
    assert set(draw(1.0, 0.5, (-1, 0.5, 2), 100)) == {0.5, 1.25, 2.0}


def test_the_tables_are_the_same_everywhere() -> None:
    tables = repr([_table(shape) for shape in SHAPES if shape != "uniform"]).encode()
    assert hashlib.sha256(tables).hexdigest() == "38478755b7dcd2356ab1a051437bbfbb4e12519e28ed35c817270854a6675aca"
    deviation = statistics.pstdev(_table("normal"))
    assert deviation == pytest.approx(1, rel=0.001)


def test_delays_vary_with_a_jitter_or_a_function() -> None:
    assert varies(0.1, "normal")
    assert varies(0, lambda source: source.random())
    assert not varies(0, "normal")
    assert not varies(0, [1, 2])


@pytest.mark.parametrize("distribution", [*SHAPES, [1, -1], (0.5,), lambda _source: 0.0])
def test_valid_distributions_are_accepted(distribution: Any) -> None:
    check_distribution("distribution", distribution)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("gaussian", ValueError, "distribution must be one of 'uniform', 'normal', .*, not 'gaussian'"),
        ((), ValueError, "distribution must have at least one sample"),
        ([1, "2"], TypeError, r"distribution must have finite numbers as samples, not '2' \(str\)"),
        ([float("inf")], TypeError, "distribution must have finite numbers as samples, not inf"),
        ([True], TypeError, "distribution must have finite numbers"),
        (5, TypeError, r"distribution must be one of .* or a function of a random source, not 5 \(int\)"),
    ],
)
def test_invalid_distributions_are_refused(wrong: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_distribution("distribution", wrong)
