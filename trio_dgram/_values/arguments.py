"""Argument checks: each returns the value or raises an error that names the argument, the domain and the value."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Iterable


def check_bool(name: str, value: object) -> bool:
    """Return ``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {describe_value(value)}")
    return value


def check_integer(name: str, value: object, lowest: int, highest: int) -> int:
    """Return ``value`` as a plain int if it is an integer within the inclusive bounds."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {describe_value(value)}")
    # A subclass may override every operator, so the comparison needs the plain int.
    number = value if type(value) is int else int.__index__(value)
    if not lowest <= number <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}, not {reprlib.repr(number)}")
    return number


def check_number(name: str, value: object, lowest: float, *, infinite: bool = False) -> float:
    """Return ``value`` if it is a number of at least ``lowest``, and finite unless ``infinite`` allows infinity."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {describe_value(value)}")
    # NaN compares false with every bound.
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


def check_function(name: str, value: object, of: str) -> None:
    """Raise ``TypeError`` unless ``value`` is a function, of the arguments that ``of`` describes, and not async."""
    if not callable(value):
        raise TypeError(f"{name} must be a function of {of}, not {describe_value(value)}")
    if inspect.iscoroutinefunction(value):
        # What it returns is true, hashable and never awaited.
        raise TypeError(f"{name} must be a synchronous function of {of}, not an async one")


def check_names(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``TypeError`` if ``given`` has a name that ``known`` lacks; the message lists the known names."""
    known = sorted(known)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"unknown {kind} {', '.join(map(repr, unknown))}; the {kind}s are {', '.join(known)}")


def plain_string(value: str) -> str:
    """Return ``value`` as an exact ``str``: a subclass may override what its methods return."""
    return value if type(value) is str else str.__str__(value)


def describe_value(value: object) -> str:
    """Return a short description of a wrong value for an error message; reprlib survives a failing ``repr``."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"
