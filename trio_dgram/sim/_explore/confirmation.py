"""The confirmation of a cause on the real kernel: what of it can be replayed there, and the result in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from ..._values.words import plural
from .._values.tape import Choice
from .places import FATES, Place, group_of, parse_place
from .shrink import Cause, Choices, Interval, is_negative

LONGEST: Final = 60.0
"""How long a run may take, in seconds."""

TOGETHER_WITHIN: Final = 0.005
"""How far apart datagrams arrive at most on the kernel that arrive at the same instant of virtual time, in seconds."""

_FAULTS: Final = frozenset({"crash", "partition", "hold", "path"})
_OBSTACLES: Final = {
    "run": "the order of tasks",
    "port": "an ephemeral port",
    "random": "the program's randomness",
    "clock": "a wrong clock",
    "pause": "a host that is paused",
    "freeze": "a host that is frozen",
}
"""What cannot be replayed, by the kind of the choice."""
_MARGIN: Final = 0.1
"""How far a number that has no upper bound is increased at most, in seconds: timers of the real kernel are inexact."""
_NUMERALS: Final = ("without faults", "same fault", "same two faults", "same three faults", "same four faults")


def obstacles(choices: Choices) -> str:
    """Return what of the choices the kernel cannot replay, in words; empty if it can replay all of them."""
    return ", ".join(dict.fromkeys(filter(None, map(_obstacle, choices))))


def _obstacle(choice: Choice) -> str:
    place = parse_place(choice.place)
    if place.run > 1:
        return "more networks than one"
    is_replayed = place.kind in _FAULTS if place.is_fault else place.is_path and place.kind in (*FATES, "tie")
    return "" if is_replayed else _OBSTACLES.get(place.kind, f"the choice {choice.place!r}")


def has_order(choices: Choices) -> bool:
    """Return whether an order of arrivals at the same instant is among the choices."""
    return any(parse_place(choice.place).kind == "tie" for choice in choices)


def centred(causes: Iterable[Cause], fails: Callable[[Choices], bool]) -> Choices:
    """Return the choices that cause a failure with their numbers in the middle of their intervals, where the failure
    depends least on exact times; a number with which the run does not fail then is unchanged.

    Args:
      causes: the choices with their intervals.
      fails: whether the run fails in the same way with other choices.
    """
    causes = tuple(causes)
    chosen = tuple(cause.choice for cause in causes)
    for index, (choice, _, interval) in enumerate(causes):
        if interval is None:
            continue
        value = _middle(abs(float(choice.value)), interval)
        moved = attrs.evolve(choice, value=-value if is_negative(choice) else value)
        candidate = (*chosen[:index], moved, *chosen[index + 1 :])
        if fails(candidate):
            chosen = candidate
    return chosen


def _middle(value: float, interval: Interval) -> float:
    middle = (interval.low + interval.high) / 2
    return middle if interval.passes_above is not None else min(middle, value + _MARGIN)


def confirmed(choices: Choices, hosts: int) -> str:
    """Return the line for a failure that happens on the kernel too.

    Args:
      choices: the choices that it needs; empty if it happens also without them.
      hosts: the number of namespaces.
    """
    return f"confirmed on the kernel: fails there too ({_namespaces(hosts)}, {_same(choices)})"


def not_confirmed(choices: Choices, hosts: int, attempts: int, other: str) -> str:
    """Return the line for a failure that does not happen on the kernel.

    Args:
      choices: the choices that were replayed.
      hosts: the number of namespaces.
      attempts: the number of runs.
      other: the failure of the last run; empty if that passed.
    """
    how = f"fails there in another way: {other}" if other else f"passes there in {attempts} {plural(attempts, 'run')}"
    return f"not confirmed on the kernel: {how} ({_namespaces(hosts)}, {_same(choices)})"


def not_tried(reason: str) -> str:  # pragma: no cover -- long tests run it
    """Return the line for a failure that is not replayed on the kernel."""
    return f"not tried on the kernel: {reason}"


def _namespaces(hosts: int) -> str:
    return f"{hosts} {plural(hosts, 'namespace')}"


def _same(choices: Choices) -> str:
    """Return what was the same as in the simulated run, in words."""
    places = ((choice, parse_place(choice.place)) for choice in choices)
    number = len({_fault(choice, place) for choice, place in places if place.kind != "tie"})
    faults = _NUMERALS[number] if number < len(_NUMERALS) else f"same {number} faults"
    if not has_order(choices):
        return faults
    return f"{faults} and order of arrivals" if number else "same order of arrivals"


def _fault(choice: Choice, place: Place) -> object:
    """Return the fault that a choice is a part of: the fate of one datagram, or a fault with its begin and end."""
    return group_of(choice) if place.is_fault else choice
