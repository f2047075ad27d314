"""Rare branches of a program, which a simulated network takes on purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import trio

from .._values.arguments import check_probability

drawing: Final[trio.lowlevel.RunVar[Callable[[str, float], bool] | None]] = trio.lowlevel.RunVar(
    "trio_dgram buggify", None
)
"""Decides for a place of the program, by its name and the probability; the simulator sets it."""


def buggify(probability: float) -> bool:
    """Return whether to take a branch that is rare, or costly to reach, in a test: always False in production.

    On a simulated network it returns True with the probability. Each call is a choice of the run, which a tape has. Use
    it where the program is allowed to behave worse than usual: to flush a cache, to retry, to time out early, to send
    less at once. It is neither a checkpoint nor does it import the simulator.

    Args:
      probability: the probability of True, from 0 to 1.

    Raises:
      TypeError, ValueError: if it is none.
    """
    check_probability("probability", probability)
    try:
        draw = drawing.get()
    except RuntimeError:
        # There is no Trio run.
        return False
    if draw is None:
        return False
    caller = sys._getframe(1)  # noqa: SLF001 -- the place is the function that calls this one
    return draw(f"{caller.f_globals.get('__name__', '')}.{caller.f_code.co_qualname}", probability)
