"""The order in which ready tasks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from .._network.host import host_of
from .._values.choices import Choices

Overtaken: TypeAlias = Callable[[trio.lowlevel.Task, int], int]
"""Returns how many older ready tasks a ready task overtakes, from the task and the number of those."""


def random_order(choices: Choices) -> Overtaken:
    """Return the schedule in which every order is equally probable."""
    draw = choices.stream("scheduler").random
    return choices.among(_place_of, lambda _task, most: int(draw() * (most + 1)))


def _place_of(task: trio.lowlevel.Task) -> str:
    host = host_of(task)
    return f"run of {task.name}" if host is None else f"{host.name}: run of {task.name}"
