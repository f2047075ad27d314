"""Schedules: the order in which the ready tasks of a pass run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import trio

from .._network.host import host_of
from .._values.choices import Choices, any_order

Schedule: TypeAlias = Literal["random", "fifo", "pct"]
"""The names of schedules."""
Overtaken: TypeAlias = Callable[[trio.lowlevel.Task, Sequence[trio.lowlevel.Task]], int]
"""Returns how many of the older ready tasks a ready task overtakes, from the task and the order of those."""

_DEPTH: Final = 3
"""How many priorities change in a run."""
_LONGEST_RUN: Final = 2**16
"""The steps of tasks among which the changes of priority are."""


def order_of(schedule: Schedule, choices: Choices) -> Overtaken:
    """Return what determines the order of tasks by a schedule."""
    if schedule == "fifo":
        return lambda _task, _order: 0
    draw = choices.stream("scheduler").random
    return choices.among(_place_of, any_order(draw) if schedule == "random" else _by_priority(draw))


def _by_priority(draw: Callable[[], float]) -> Overtaken:
    """Each task has a random priority, and at some random steps the one that runs gets the lowest.

    Burckhardt et al., A randomized scheduler with probabilistic guarantees of finding bugs, ASPLOS 2010; but each ready
    task runs once in a pass, as Trio does it.
    """
    # Runs differ in length by orders of magnitude, so the logarithm of a step is drawn.
    changes = sorted(int(_LONGEST_RUN ** draw()) for _ in range(_DEPTH))
    priorities: WeakKeyDictionary[trio.lowlevel.Task, float] = WeakKeyDictionary()
    steps = 0

    def priority_of(task: trio.lowlevel.Task) -> float:
        priority = priorities.get(task)
        if priority is None:
            priority = priorities[task] = draw()
        return priority

    def overtaken(task: trio.lowlevel.Task, order: Sequence[trio.lowlevel.Task]) -> int:
        nonlocal steps
        steps += 1
        if changes and steps >= changes[0]:
            del changes[0]
            # Below all that are drawn, and below those of earlier changes.
            priorities[task] = len(changes) - _DEPTH
        own = priority_of(task)
        return sum(priority_of(other) < own for other in order)

    return overtaken


def _place_of(task: trio.lowlevel.Task) -> str:
    host = host_of(task)
    return f"run of {task.name}" if host is None else f"{host.name}: run of {task.name}"
