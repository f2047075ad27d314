"""Numbers: what every check of one says when it is wrong."""

from __future__ import annotations

import math

from .._arguments import describe_value


def check_number(name: str, value: object, lowest: float, highest: float = math.inf) -> float:
    """Return ``value`` if it is a finite number within the bounds, both included."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {describe_value(value)}")
    # Not a number is not within any bounds.
    if not lowest <= value <= highest or math.isinf(value):
        bounds = f"at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
        raise ValueError(f"{name} must be {bounds} and finite, not {value}")
    return value


def check_probability(name: str, value: object) -> float:
    """Return ``value`` if it is a number from 0 to 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a probability from 0 to 1, not {describe_value(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, not {value}")
    return value
