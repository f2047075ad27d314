"""The requirements of the plugin that a test does not meet, in one line at that test."""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import Final

import pytest

from .examples import is_under_hypothesis
from .tapes import problem_of_tape

_ASYNC_FIXTURES: Final = frozenset({"sim_network", "udp_pair"})
LIMITS: Final = frozenset(
    {
        *("fake_randomness", "fake_time", "passes", "payload", "quiet_limit"),
        *("schedule", "threads", "time_limit", "timer_slack", "trace_limit"),
    }
)
"""The arguments of ``sim.run`` that the marker ``sim`` accepts; importing the simulator for them would be too slow."""


def check_test(item: pytest.Item) -> None:
    """Fail a test that does not meet the requirements of the plugin."""
    problem = _problem_of_markers(item) or problem_of_tape(item) or _problem_of_fixtures(item)
    if problem:
        pytest.fail(problem, pytrace=False)


def count_of(marker: pytest.Mark) -> int | None:
    """Return the number of seeds of a marker, None if it is invalid."""
    count = marker.args[0] if len(marker.args) == 1 and not marker.kwargs else None
    return count if isinstance(count, int) and count >= 1 else None


def _problem_of_markers(item: pytest.Item) -> str:
    seeds = item.get_closest_marker("seeds")
    if seeds is not None and count_of(seeds) is None:
        given = ", ".join([*map(repr, seeds.args), *(f"{name}={value!r}" for name, value in seeds.kwargs.items())])
        return f"seeds must have a number of seeds, such as @pytest.mark.seeds(50), not ({given})"
    sim = item.get_closest_marker("sim")
    if sim is not None and (sim.args or not LIMITS.issuperset(sim.kwargs)):
        wrong = [*map(repr, sim.args), *sorted({*sim.kwargs} - LIMITS)]
        return f"sim accepts only the keyword arguments {', '.join(sorted(LIMITS))}, not {', '.join(wrong)}"
    if item.get_closest_marker("cancel_everywhere") is not None and not _is_async(item):
        return "cancel_everywhere must mark an async test: make the test async, or call sim.cancel_everywhere"
    return ""


def _problem_of_fixtures(item: pytest.Item) -> str:
    used = sorted(_ASYNC_FIXTURES.intersection(getattr(item, "fixturenames", ())))
    # anyio runs async fixtures of its own tests.
    if not used or item.get_closest_marker("anyio") is not None:
        return ""
    fixture = used[0]
    if not _is_async(item):
        return f"the fixture {fixture} needs an async test: make the test async, or use sim.run(scenario)"
    if is_under_hypothesis(item):
        return f"the fixture {fixture} is set up once, and Hypothesis runs a test often: use sim.run(scenario)"
    try:
        item.config.getini("trio_mode")
    except (KeyError, ValueError):
        return f"the fixture {fixture} needs pytest-trio: pip install pytest-trio"
    if item.get_closest_marker("trio") is None:
        return (
            f"the fixture {fixture} needs trio_mode = true in pytest's configuration, or @pytest.mark.trio at the test"
        )
    return ""


def _is_async(item: pytest.Item) -> bool:
    test = getattr(item, "obj", None)
    # Hypothesis and pytest-trio wrap the test function.
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    return iscoroutinefunction(inner) or iscoroutinefunction(getattr(inner, "__wrapped__", None))
