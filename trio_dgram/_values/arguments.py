"""Arguments: what every check of one says when it is wrong."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable


def check_bool(name: str, value: object) -> bool:
    """Return ``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {describe_value(value)}")
    return value


def check_integer(name: str, value: object, lowest: int, highest: int) -> int:
    """Return ``value`` if it is an integer within the bounds, both included."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {describe_value(value)}")
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}, not {value}")
    return value


def check_number(name: str, value: object, lowest: float, *, infinite: bool = False) -> float:
    """Return ``value`` if it is a number from ``lowest`` on, and finite unless it may be ``infinite``."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {describe_value(value)}")
    # Not a number is not within any bounds.
    if not value >= lowest or (math.isinf(value) and not infinite):
        raise ValueError(f"{name} must be at least {lowest}{'' if infinite else ' and finite'}, not {value}")
    return value


def check_probability(name: str, value: object) -> float:
    """Return ``value`` if it is a number from 0 to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a probability from 0 to 1, not {describe_value(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, not {value}")
    return value


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    names = ", ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {names}, not {describe_value(value)}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {names}, not {value!r}")
    return value


def describe_value(value: object) -> str:
    """Return how an error shows the value that was wrong: short, whatever was passed."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"
