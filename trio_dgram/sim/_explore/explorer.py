"""Cancelling a scenario everywhere: once at each of its schedule points, one after the other.

Each step of each of its tasks makes two of them. At its end the task waits, and a cancellation ends the wait. At
the beginning of the next one the wait is over, what was waited for has come, and a cancellation that arrives now
is noticed only when the task waits again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import attrs
import trio

from ..._socket.budget import current_budget
from .._kernel.endpoint import Endpoint
from .._network.network import current_networks
from .._run.tasks import all_tasks
from .descriptors import open_descriptors

T = TypeVar("T")
LIMIT = 2000
"""More schedule points than a scenario is to have."""
_LAST_STEPS = 10
"""How often others may run until the last task of a scenario is gone, which was told to end when it did."""


@attrs.define(eq=False)
class _Canceller(trio.abc.Instrument):
    """Cancels a scope when the tasks in it have come to so many schedule points, counting from 0."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    point: int
    outside: tuple[trio.Nursery, ...]
    """The nurseries that ``task`` was in before: what runs in those is not in the scope."""

    def __attrs_post_init__(self) -> None:
        # Before anything has begun: the scenario starts in a scope that is cancelled already.
        self._pass()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_inside(task):
            self._pass()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_inside(task):
            self._pass()

    def _pass(self) -> None:
        if not self.point:
            self.scope.cancel()
        self.point -= 1

    def _is_inside(self, task: trio.lowlevel.Task) -> bool:
        while task is not self.task:
            nursery = task.parent_nursery
            if nursery is None or nursery in self.outside:
                return False
            task = nursery.parent_task
        return True


def _simulated_sockets() -> frozenset[Endpoint]:
    return frozenset(endpoint for network in current_networks() for endpoint in network.open_sockets())


@attrs.frozen
class _Surroundings:
    """What a scenario may not add to. A real socket that was left open is among the descriptors."""

    nurseries: tuple[trio.Nursery, ...]
    descriptors: dict[int, str] = attrs.field(factory=open_descriptors)
    sockets: frozenset[Endpoint] = attrs.field(factory=_simulated_sockets)
    tasks: frozenset[trio.lowlevel.Task] = attrs.field(factory=lambda: frozenset(all_tasks()))

    def new_tasks(self) -> frozenset[trio.lowlevel.Task]:
        return frozenset(all_tasks()) - self.tasks


@contextmanager
def every_operation_yields() -> Generator[None]:
    """Let no operation of a socket in this Trio run spare the yield to the scheduler."""
    budget = current_budget()
    operations = budget.operations
    budget.operations = budget.left = 0
    try:
        yield
    finally:
        budget.operations = operations


async def cancel_everywhere(
    scenario: Callable[[], Awaitable[T]],
    check: Callable[[T | None], Awaitable[None]] | None = None,
    *,
    limit: int = LIMIT,
) -> int:
    """Run ``scenario`` again and again, each time cancelled at the next schedule point, until it completes.

    The first time it is cancelled before it begins. The points are counted, not timed, and those of the tasks
    that it starts count as well; every operation of a socket yields meanwhile, so that none is left out. Where
    several tasks are to run, Trio draws lots for who goes first, so that a point may be another one next time.

    Args:
      scenario: what to cancel. It may swallow the cancellation if what it did took effect.
      check: called after each run, when the scenario has ended and is cancelled no more, with what it returned:
        None where it was cancelled.
      limit: how many schedule points it may have.

    Returns:
      At how many points it was cancelled.

    Raises:
      AssertionError: if a run left a descriptor, a socket or a task, or there are more than ``limit`` points.

    What the scenario or ``check`` raises leaves it, with a note that names the point.
    """
    with every_operation_yields():
        for point in range(limit):
            try:
                was_cancelled = await _run_cancelled(scenario, check, point)
            except Exception as error:
                error.add_note(f"The scenario was cancelled at schedule point {point}.")
                raise
            if not was_cancelled:
                return point
    raise AssertionError(f"the scenario has not come to its end in {limit} schedule points")


async def _run_cancelled(
    scenario: Callable[[], Awaitable[T]], check: Callable[[T | None], Awaitable[None]] | None, point: int
) -> bool:
    task = trio.lowlevel.current_task()
    before = _Surroundings(tuple(task.child_nurseries))
    result: T | None = None
    with trio.CancelScope() as scope:
        canceller = _Canceller(task, scope, point, before.nurseries)
        trio.lowlevel.add_instrument(canceller)
        try:
            result = await scenario()
        finally:
            trio.lowlevel.remove_instrument(canceller)
    left = open_descriptors()
    _expect(left == before.descriptors, f"descriptors were left or taken: {left.items() ^ before.descriptors.items()}")
    forgotten = _simulated_sockets() - before.sockets
    _expect(not forgotten, f"sockets were left: {', '.join(map(repr, forgotten))}")
    _expect(tuple(task.child_nurseries) == before.nurseries, "a nursery was left open")
    for _ in range(_LAST_STEPS):
        if not before.new_tasks():
            break
        await trio.lowlevel.checkpoint()
    _expect(not before.new_tasks(), f"tasks were left: {before.new_tasks()}")
    if check is not None:
        await check(result)
    return scope.cancel_called


def _expect(holds: bool, what_else: str) -> None:  # noqa: FBT001 -- as with assert
    if not holds:
        raise AssertionError(what_else)
