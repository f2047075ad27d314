"""Loss: which packets do not arrive.

A model is a value that describes how packets are lost; a process is the state of that model on one pipe and decides
about one packet after the other (about each fragment of a fragmented packet).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import attrs

from ..._values.arguments import check_integer, check_probability, describe_value
from .._values.records import Packet

LossProcess: TypeAlias = Callable[[Packet], bool]
"""Decides about one packet after the other whether it is lost."""


def _probability(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_probability(attribute.name, value)


def _length(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_integer(attribute.name, value, 1, 2**63 - 1)


@attrs.frozen
class GilbertElliott:
    """Losses in bursts: a link that is good or bad, and may change with each packet.

    It begins good. The two states last 1/p and 1/r packets on average, and a share of p / (p + r) of all packets meets
    the bad one. It equals ``gemodel p r 1-h 1-k`` of tc-netem(8) and decides in the order of Linux: a packet meets the
    state that the previous one has left.

    Args:
      p: the probability that a packet turns a good link bad, 0 to 1.
      r: the probability that a packet turns a bad link good, 0 to 1.
      bad: the probability of loss while the link is bad, 0 to 1.
      good: the probability of loss while the link is good, 0 to 1.
    """

    p: float = attrs.field(validator=_probability)
    r: float = attrs.field(validator=_probability)
    bad: float = attrs.field(default=1, validator=_probability)
    good: float = attrs.field(default=0, validator=_probability)

    def process(self, source: random.Random) -> LossProcess:
        """Return a new link of this kind.

        Args:
          source: the random source; the network passes one for each path.
        """
        draw = source.random
        to_bad, to_good, lost_when_bad, lost_when_good = self.p, self.r, self.bad, self.good
        is_bad = False

        def loses(_packet: Packet) -> bool:
            nonlocal is_bad
            if is_bad:
                is_bad = draw() >= to_good
                return draw() < lost_when_bad
            is_bad = draw() < to_bad
            return draw() < lost_when_good

        return loses


@attrs.frozen
class Markov4:
    """Losses in bursts within which single packets are received, and single losses between the bursts.

    The states are those of tc-netem(8), ``loss state p13 p31 p32 p23 p14``, and a packet meets the state that it leads
    to, as in Linux. 1: received, between bursts, where it begins; 2: received within a burst; 3: lost within a
    burst; 4: a single loss, after which the next is received.

    Args:
      p13: the probability that a burst begins, 0 to 1.
      p31: the probability that it ends after a loss, 0 to 1.
      p32: the probability that a packet within a burst is received after a loss, 0 to 1.
      p23: the probability that a packet within a burst is lost after one that was received, 0 to 1.
      p14: the probability of a single loss between bursts, 0 to 1.

    Raises:
      ValueError: if the probabilities of the transitions from one state add up to more than 1.
    """

    p13: float = attrs.field(validator=_probability)
    p31: float = attrs.field(validator=_probability)
    p32: float = attrs.field(default=0, validator=_probability)
    p23: float = attrs.field(default=1, validator=_probability)
    p14: float = attrs.field(default=0, validator=_probability)

    def __attrs_post_init__(self) -> None:
        if self.p13 + self.p14 > 1:
            raise ValueError(f"p13 and p14 must add up to at most 1, not to {self.p13 + self.p14}")
        if self.p31 + self.p32 > 1:
            raise ValueError(f"p31 and p32 must add up to at most 1, not to {self.p31 + self.p32}")

    def process(self, source: random.Random) -> LossProcess:
        """Return a new link of this kind.

        Args:
          source: the random source; the network passes one for each path.
        """
        draw = source.random
        # For each state its successors, each with the upper bound of the draws that lead to it.
        ways = {
            1: ((self.p14, 4), (self.p14 + self.p13, 3), (1, 1)),
            2: ((self.p23, 3), (1, 2)),
            3: ((self.p32, 2), (self.p32 + self.p31, 1), (1, 3)),
            4: ((1, 1),),
        }
        state = 1

        def loses(_packet: Packet) -> bool:
            nonlocal state
            drawn = draw()
            state = next(following for bound, following in ways[state] if drawn < bound)
            return state >= 3

        return loses


def _freeze(numbers: Iterable[int]) -> frozenset[int]:
    try:
        frozen = frozenset(numbers)
    except TypeError:
        raise TypeError(f"numbers must be some integers from 1 on, not {describe_value(numbers)}") from None
    for number in frozen:
        check_integer("each of numbers", number, 1, 2**63 - 1)
    return frozen


@attrs.frozen
class DropList:
    """Exactly these packets are lost.

    Args:
      numbers: which, counted from 1 as they enter the pipe (each fragment counts, where one is cut).
    """

    numbers: frozenset[int] = attrs.field(converter=_freeze)

    def process(self, _source: random.Random) -> LossProcess:
        """Return a new count."""
        numbers = self.numbers
        count = 0

        def loses(_packet: Packet) -> bool:
            nonlocal count
            count += 1
            return count in numbers

        return loses


@attrs.frozen
class Burst:
    """Each packet is lost with the same probability, but never too many in a row.

    Args:
      rate: the probability of loss, 0 to 1.
      longest: the most that are lost in a row, at least 1; the next one arrives.
    """

    rate: float = attrs.field(validator=_probability)
    longest: int = attrs.field(validator=_length)

    def process(self, source: random.Random) -> LossProcess:
        """Return a new link of this kind.

        Args:
          source: the random source; the network passes one for each path.
        """
        draw = source.random
        rate, longest = self.rate, self.longest
        lost_in_a_row = 0

        def loses(_packet: Packet) -> bool:
            nonlocal lost_in_a_row
            lost = draw() < rate and lost_in_a_row < longest
            lost_in_a_row = lost_in_a_row + 1 if lost else 0
            return lost

        return loses


Loss: TypeAlias = "float | GilbertElliott | Markov4 | DropList | Burst | LossProcess"
"""How packets are lost: a probability, a model, or a function of a packet that returns whether it is lost."""

_MODELS = (GilbertElliott, Markov4, DropList, Burst)


def check_loss(name: str, value: object) -> None:
    """Raise if ``value`` is no :data:`Loss`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        check_probability(name, value)
    elif not isinstance(value, _MODELS) and not callable(value):
        raise TypeError(
            f"{name} must be a probability from 0 to 1, a GilbertElliott, Markov4, DropList or Burst, or a function "
            f"of the packet, not {describe_value(value)}"
        )


def is_random(loss: Loss) -> bool:
    """Return whether the process of ``loss`` draws."""
    return not isinstance(loss, DropList) and not callable(loss)


def loss_process(loss: Loss, source: random.Random) -> LossProcess:
    """Return the process of ``loss``, which draws from ``source``."""
    if isinstance(loss, (int, float)):
        draw = source.random
        return lambda _packet: draw() < loss
    if isinstance(loss, _MODELS):
        return loss.process(source)
    return loss
