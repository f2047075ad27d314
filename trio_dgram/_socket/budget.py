"""How long a task may run before other tasks do.

A checkpoint of Trio checks for cancellation and yields to the scheduler. The second costs sixteen times the first, so
it is done once per budget of operations and time, not once per datagram.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

_OPERATIONS: Final = 64
_SECONDS: Final = 0.0005


class Budget:
    """What is left, in operations and in seconds, until the next yield to the scheduler.

    All sockets of a Trio run share one, since it protects the run's other tasks.

    Args:
      operations: the operations between two yields.
      seconds: the time between two yields.
    """

    __slots__ = ("deadline", "left", "operations", "seconds")

    def __init__(self, operations: int = _OPERATIONS, seconds: float = _SECONDS) -> None:
        self.operations: int = operations
        self.seconds: float = seconds
        self.left: int = 0
        self.deadline: float = 0.0

    def spend(self) -> bool:
        """Take one operation off the budget; return whether it had one left.

        If so, the operation needs only a check for cancellation, otherwise :meth:`renew`. The hot paths inline
        this.
        """
        self.left = left = self.left - 1
        return left > 0 and perf_counter() < self.deadline

    async def renew(self) -> None:
        """Execute a full checkpoint and start a new budget."""
        await trio.lowlevel.checkpoint()
        self.restart()

    def restart(self) -> None:
        """Start a new budget, after the task has waited."""
        self.left = self.operations
        self.deadline = perf_counter() + self.seconds

    async def checkpoint(self) -> None:
        """Execute the checkpoint that is due: a full one, or a check for cancellation."""
        if self.spend():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self.renew()


_current: Final[trio.lowlevel.RunVar[Budget]] = trio.lowlevel.RunVar("trio_dgram budget")


def current_budget() -> Budget:
    """Return the budget of this Trio run."""
    try:
        return _current.get()
    except LookupError:
        budget = Budget()
        _current.set(budget)
        return budget
