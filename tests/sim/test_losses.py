from __future__ import annotations

import random
from typing import Any

import pytest

from trio_dgram.sim._path.losses import Burst, DropList, GilbertElliott, Loss, Markov4, check_loss, loss_process
from trio_dgram.sim._values.records import Packet

from .packets import make_packet

PACKET = make_packet()


def lost(loss: Loss, count: int, seed: int = 1) -> list[bool]:
    loses = loss_process(loss, random.Random(seed))
    return [loses(PACKET) for _ in range(count)]


def longest_run(losses: list[bool]) -> int:
    longest = run = 0
    for is_lost in losses:
        run = run + 1 if is_lost else 0
        longest = max(longest, run)
    return longest


def test_a_probability_loses_that_share() -> None:
    assert sum(lost(0.2, 10_000)) == pytest.approx(2000, abs=200)  # five standard errors
    assert all(lost(1, 100))
    assert not any(lost(0, 100))


@pytest.mark.parametrize(
    "loss", [0.3, GilbertElliott(0.1, 0.3, 0.9, 0.1), Markov4(0.1, 0.3, 0.2, 0.5, 0.05), Burst(0.5, 2)]
)
def test_equal_sources_lose_the_same_packets(loss: Loss) -> None:
    assert lost(loss, 200) == lost(loss, 200)
    assert lost(loss, 200) != lost(loss, 200, seed=2)


def test_gilbert_elliott_begins_good_and_leaves_a_state_after_its_packet() -> None:
    assert lost(GilbertElliott(1, 0), 4) == [False, True, True, True]
    assert lost(GilbertElliott(1, 1), 5) == [False, True, False, True, False]
    assert lost(GilbertElliott(1, 1, bad=0, good=1), 4) == [True, False, True, False]


def test_markov_passes_through_its_states() -> None:
    assert lost(Markov4(1, 1), 5) == [True, False, True, False, True]
    assert lost(Markov4(1, 0, 1), 5) == [True, False, True, False, True]
    assert lost(Markov4(1, 0, 1, 0), 5) == [True, False, False, False, False]
    assert lost(Markov4(1, 0), 4) == [True, True, True, True]
    assert lost(Markov4(0, 0, p14=1), 5) == [True, False, True, False, True]


def test_a_drop_list_counts_from_one() -> None:
    assert lost(DropList({1, 3}), 4) == [True, False, True, False]
    assert DropList([3, 1, 3]) == DropList({1, 3})


def test_a_burst_has_a_longest_length() -> None:
    assert lost(Burst(1, 2), 7) == [True, True, False, True, True, False, True]
    losses = lost(Burst(0.5, 3), 2000)
    assert longest_run(losses) == 3
    assert longest_run(lost(0.5, 2000)) > 3


def test_a_loss_function_receives_the_packet() -> None:
    seen = []

    def loses(packet: Packet) -> bool:
        seen.append(packet)
        return len(seen) == 2

    assert lost(loses, 3) == [False, True, False]
    assert seen == [PACKET] * 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GilbertElliott(1.5, 0.1), ValueError, "p must be a probability from 0 to 1, not 1.5"),
        (lambda: GilbertElliott(0.1, None), TypeError, "r must be a probability from 0 to 1, not None"),  # type: ignore[arg-type]
        (lambda: GilbertElliott(0.1, 0.1, bad=-1), ValueError, "bad must be a probability"),
        (lambda: GilbertElliott(0.1, 0.1, good=True), TypeError, "good must be a probability"),
        (lambda: Markov4(0.1, float("nan")), ValueError, "p31 must be a probability"),
        (lambda: Markov4(0.6, 0.1, p14=0.5), ValueError, "p13 and p14 must add up to at most 1, not to 1.1"),
        (lambda: Markov4(0.1, 0.75, p32=0.5), ValueError, "p31 and p32 must add up to at most 1, not to 1.25"),
        (lambda: DropList({0}), ValueError, "each of numbers must be from 1"),
        (lambda: DropList({"one"}), TypeError, "each of numbers must be an integer"),  # type: ignore[arg-type]
        (lambda: DropList(5), TypeError, r"numbers must be some integers from 1 on, not 5 \(int\)"),  # type: ignore[arg-type]
        (lambda: Burst(2, 3), ValueError, "rate must be a probability"),
        (lambda: Burst(0.5, 0), ValueError, "longest must be from 1"),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_loss_is_validated() -> None:
    for loss in (0, 0.5, 1, DropList({1}), lambda _packet: True):
        check_loss("loss", loss)
    with pytest.raises(ValueError, match=r"loss must be a probability from 0 to 1, not 1\.5"):
        check_loss("loss", 1.5)
    for wrong in ("0.5", None, True):
        with pytest.raises(TypeError, match="loss must be a probability from 0 to 1, a GilbertElliott, Markov4,"):
            check_loss("loss", wrong)
