"""Arguments: what every check of one says when it is wrong."""

from __future__ import annotations

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
