"""Hypothesis strategies for the conditions of a simulated network; they shrink towards a perfect one.

They need Hypothesis, which this package does not install.
"""

from __future__ import annotations

from typing import Any, cast

from hypothesis import strategies as st

from ._path.conditions import Knobs
from ._path.losses import Burst, DropList, GilbertElliott, Loss

_LONGEST_DELAY = 2.0
_PATTERNS = 8


def losses() -> st.SearchStrategy[Loss]:
    """Return ways to lose packets: none, a probability up to a half, bursts, some of the first few."""
    probability = st.floats(0, 0.5)
    return st.one_of(
        st.just(0.0),
        st.frozensets(st.integers(1, _PATTERNS), min_size=1).map(lambda numbers: DropList(set(numbers))),
        probability,
        st.builds(Burst, st.floats(0, 0.2), st.integers(1, _PATTERNS)),
        st.builds(GilbertElliott, st.floats(0, 0.2), st.floats(0.2, 1)),
    )


def conditions() -> st.SearchStrategy[Knobs]:
    """Return conditions for ``network.path(a, b, **conditions)``.

    No condition cuts a path for good: a program that retries often enough succeeds. They shrink towards no knob at all,
        and each knob towards no effect.
    """
    knobs: dict[str, st.SearchStrategy[Any]] = {
        "loss": losses(),
        "delay": st.floats(0, _LONGEST_DELAY),
        "jitter": st.floats(0, _LONGEST_DELAY),
        "keep_order": st.sampled_from([True, False]),
        "duplicate": st.floats(0, 1),
        "reorder": st.floats(0, 1),
        "corrupt": st.floats(0, 0.5),
        "rate": st.sampled_from([None, 1e9, 1e6, 64e3]),
        "mtu": st.sampled_from([1500, 1280, 576]),
    }
    drawn = st.fixed_dictionaries({}, optional=knobs)
    return drawn.map(lambda found: cast("Knobs", found))
