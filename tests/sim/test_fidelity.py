"""The simulator against measurements of Linux's netem: 20,000 datagrams (3000 for inversions), one each millisecond.
The ranges are those of several runs on Linux."""

from __future__ import annotations

import random
import statistics
from itertools import pairwise
from typing import Final, Unpack

import pytest

from trio_dgram.sim._path.conditions import Knobs, change
from trio_dgram.sim._path.losses import GilbertElliott, Loss, Markov4
from trio_dgram.sim._path.pipe import Pipe
from trio_dgram.sim._values.choices import Choices

from .packets import make_packet

COUNT: Final = 20_000
SPACING: Final = 0.001
BLOCK: Final = 200
"""The packets of a block. Far longer than any burst, so that blocks are nearly independent."""
RESAMPLINGS: Final = 200
ERRORS: Final = 4
"""The tolerance of a figure in standard errors; a correct model exceeds it once in 16,000 runs."""


def send(count: int = COUNT, **knobs: Unpack[Knobs]) -> list[tuple[float, int, bool]]:
    """Return for each packet the time of its outcome, its number and whether it was lost."""
    pipe = Pipe("a>b", change(knobs), Choices(7))
    packets = (make_packet(number) for number in range(count))
    outcomes = [outcome for packet in packets for outcome in pipe.enter(packet.number * SPACING, packet)]
    return [(at, packet.number, bool(reason)) for at, packet, reason in outcomes]


def inversions(sent: list[tuple[float, int, bool]]) -> int:
    """Return how many packets arrive just before one that was sent earlier."""
    return sum(earlier[1] > later[1] for earlier, later in pairwise(sorted(sent)))


def count_lost(losses: list[bool]) -> tuple[int, int]:
    """Return the number of losses and of bursts."""
    return sum(losses), sum(later and not earlier for earlier, later in pairwise([False, *losses]))


def bootstrap_error(ratios: list[tuple[int, int]]) -> float:
    """Return the standard error of the ratio of the sums, by resampling the blocks."""
    source = random.Random(1)
    resampled = [source.choices(ratios, k=len(ratios)) for _ in range(RESAMPLINGS)]
    return statistics.stdev(
        sum(above for above, _ in sample) / sum(below for _, below in sample) for sample in resampled
    )


@pytest.mark.parametrize(
    ("loss", "share", "burst"),
    [
        (GilbertElliott(0.01, 0.25), (0.034, 0.047), (3.9, 4.3)),
        (GilbertElliott(0.02, 0.20, 0.50, 0.005), (0.049, 0.049), (1.57, 1.60)),
        (Markov4(0.01, 0.25, 0.10, 0.50, 0.005), (0.043, 0.047), (2.4, 2.4)),
    ],
    ids=["gilbert", "gilbert-elliott", "four states"],
)
def test_losses(loss: Loss, share: tuple[float, float], burst: tuple[float, float]) -> None:
    losses = [is_lost for _, _, is_lost in send(loss=loss)]
    blocks = [count_lost(losses[start : start + BLOCK]) for start in range(0, COUNT, BLOCK)]
    lost, bursts = count_lost(losses)
    error = ERRORS * bootstrap_error([(lost, BLOCK) for lost, _ in blocks])
    assert share[0] - error <= lost / COUNT <= share[1] + error
    error = ERRORS * bootstrap_error(blocks)
    assert error < 0.3 * burst[0]  # or it would show nothing
    assert burst[0] - error <= lost / bursts <= burst[1] + error


def test_jitter() -> None:
    sent = send(delay=0.020, jitter=0.008, keep_order=False)
    delays = [at - number * SPACING for at, number, _ in sent]
    # The standard error of the standard deviation of a uniform distribution is that times the root of 0.2 / count.
    assert statistics.pstdev(delays) == pytest.approx(0.00462, rel=ERRORS * (0.2 / COUNT) ** 0.5)
    assert statistics.fmean(delays) == pytest.approx(0.020, abs=ERRORS * 0.00462 / COUNT**0.5)


def test_inversions_by_jitter() -> None:
    # No more than independent pairs would vary: 27 is the root of 3000 * 0.44 * 0.56.
    assert inversions(send(3000, delay=0.020, jitter=0.008, keep_order=False)) == pytest.approx(1317, abs=ERRORS * 27)


def test_no_inversions_in_order() -> None:
    assert inversions(send(3000, delay=0.020, jitter=0.008)) == 0


def test_inversions_by_reordering() -> None:
    # One in 8 overtakes: four that may not, then one in four. Its distance has a standard deviation of the root of 12,
    # so that the number of them in 3000 has one of 375**0.5 * 12**0.5 / 8.
    count = inversions(send(3000, delay=0.020, reorder=0.25, gap=5))
    assert 352 - ERRORS * 8.4 <= count <= 389 + ERRORS * 8.4
