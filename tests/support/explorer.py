"""Cancelling a scenario everywhere: once at each of its schedule points, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from trio_dgram._budget import current_budget

from .descriptors import open_descriptors

T = TypeVar("T")
LIMIT = 500
"""More schedule points than any scenario has."""


@attrs.define(eq=False)
class _CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task is about to run for the given time, counting from 0."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    step: int
    seen: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            if self.seen == self.step:
                self.scope.cancel()
            self.seen += 1


async def cancel_everywhere(
    scenario: Callable[[], Awaitable[T]], check: Callable[[T | None], Awaitable[None]] | None = None
) -> int:
    """Run ``scenario`` again and again, each time cancelled at the next schedule point, until it completes.

    Every operation of a socket yields meanwhile, so that none of them is left out. After each run no
    descriptor and no task of the scenario may be left, and ``check`` is called with what the scenario returned,
    None where it was cancelled. Returns how often it was cancelled.
    """
    task = trio.lowlevel.current_task()
    budget = current_budget()
    operations = budget.operations
    budget.operations = budget.left = 0
    try:
        for step in range(LIMIT):
            before = open_descriptors()
            children = len(task.child_nurseries)
            result: T | None = None
            with trio.CancelScope() as scope:
                instrument = _CancelAtStep(task, scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    result = await scenario()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            assert open_descriptors() == before, f"descriptors left when cancelled at step {step}"
            assert len(task.child_nurseries) == children
            if check is not None:
                await check(result)
            if not scope.cancel_called:
                return step
    finally:
        budget.operations = operations
    raise AssertionError(f"the scenario has not come to its end in {LIMIT} schedule points")
