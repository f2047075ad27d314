"""The values of pytest's options, parsed."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from typing import Final

import attrs

_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


def parse_seconds(text: str) -> float:
    """Return the value of ``--sim-for``: a time, in seconds without a unit."""
    seconds = _seconds(text, unit="s")
    if seconds is None:
        raise ArgumentTypeError(f"must be a time, such as 60s or 5m, not {text!r}")
    return seconds


def _seconds(text: str, unit: str) -> float | None:
    """Return a time in seconds, None if ``text`` is none; ``unit`` is that of a number alone, empty for none."""
    found = _TIME.fullmatch(text)
    if found is None or not (found[2] or unit):
        return None
    return float(found[1]) * _UNITS[found[2] or unit]


def parse_jobs(text: str) -> int:
    """Return the value of ``--sim-jobs``: a number of processes."""
    jobs = cores() if text == "auto" else int(text) if text.isdecimal() else 0
    if jobs < 1:
        raise ArgumentTypeError(f"must be a number of processes, or auto, not {text!r}")
    if jobs > 1 and not hasattr(os, "fork"):
        raise ArgumentTypeError("needs os.fork, which this system lacks")
    return jobs


def cores() -> int:
    """Return the number of cores that this process may use."""
    # macOS and Windows cannot report them.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@attrs.frozen
class Limits:
    """The limits of shrinking: both by default, only the one that the option names otherwise."""

    runs: int | None = 400
    seconds: float | None = 60.0


def parse_limits(text: str) -> Limits:
    """Return the value of ``--sim-shrink``: a number of runs, or a time."""
    if re.fullmatch(r"\d+", text):
        return Limits(int(text), None)
    seconds = _seconds(text, unit="")
    if seconds is None:
        raise ArgumentTypeError(f"must be a number of runs, such as 400, a time, such as 30s, or 0, not {text!r}")
    return Limits(None, seconds)
