"""Cancel a scenario at each of its schedule points, one per run.

Each step of a task makes two schedule points. At the end of a step the task waits, and a cancellation ends the wait. At
the start of the next step the wait has completed, and a cancellation is noticed only when the task waits again.
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
"""The default limit on the schedule points of a scenario."""
_LAST_STEPS = 10
"""How many scheduler passes the last cancelled tasks of a scenario have to end after it has ended."""


@attrs.define(eq=False)
class _Canceller(trio.abc.Instrument):
    """Cancel a scope once its tasks have reached a given number of schedule points, counted from 0."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    point: int
    outside: tuple[trio.Nursery, ...]
    """The nurseries that contained ``task`` before: their other tasks are outside the scope."""

    def __attrs_post_init__(self) -> None:
        # Point 0 precedes the first step: the scenario starts in a scope that is already cancelled.
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
    """Resources that a scenario must not leak. The descriptors include those of real sockets."""

    nurseries: tuple[trio.Nursery, ...]
    descriptors: dict[int, str] = attrs.field(factory=open_descriptors)
    sockets: frozenset[Endpoint] = attrs.field(factory=_simulated_sockets)
    tasks: frozenset[trio.lowlevel.Task] = attrs.field(factory=lambda: frozenset(all_tasks()))

    def new_tasks(self) -> frozenset[trio.lowlevel.Task]:
        return frozenset(all_tasks()) - self.tasks


@contextmanager
def every_operation_yields() -> Generator[None]:
    """Make every socket operation in this Trio run yield to the scheduler."""
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

    The first run is cancelled before its first step. Schedule points are counted, not timed, and include those of child
    tasks; every socket operation yields meanwhile, so that none is skipped. Trio runs several runnable tasks in random
    order, so a point can be a different one in the next run.

    Args:
      scenario: the async function to cancel. It may swallow the cancellation if its operation took effect.
      check: called after each run, outside the cancelled scope, with the return value of the scenario: None if it was
        cancelled.
      limit: the most schedule points that it may have.

    Returns:
      The number of points at which it was cancelled.

    Raises:
      AssertionError: if a run left a descriptor, a socket or a task, or there are more than ``limit`` points.

    Exceptions of the scenario and of ``check`` propagate, with a note that names the point.
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
    raise AssertionError(f"the scenario did not complete within {limit} schedule points")


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
    _expect(
        left == before.descriptors, f"descriptors were left open or closed: {left.items() ^ before.descriptors.items()}"
    )
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
