"""Noticing that a scenario will never come to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final, NoReturn

import trio

from .._network.host import current_host
from .._network.network import Network
from .tasks import all_tasks

TIME_LIMIT: Final = 86_400.0
"""How long a scenario may take if nothing else is said, in virtual seconds: a day."""
PASSES: Final = 100_000
"""How often tasks may run in one instant of virtual time."""
_PATIENCE: Final = 1.0
"""How long something outside may take to happen, such as a real descriptor becoming readable, in real seconds."""
_BETWEEN_LOOKS: Final = 16
_PACKAGES: Final = (str(Path(trio.__file__).parent), str(Path(__file__).parents[2]))


class Stuck(Exception):  # noqa: N818 -- the name it has always had
    """A scenario waits for what will never happen, or goes round in circles while no time passes."""


class Watch(trio.abc.Instrument):
    """Ends a run that will never end by itself.

    Args:
      network: the network it is on.
      end: what to call then.
      time_limit: when it has to be over, in seconds since the network was opened.
      passes: how often tasks may run in one instant of virtual time.
    """

    def __init__(
        self,
        network: Network,
        end: Callable[[], object],
        *,
        time_limit: float = TIME_LIMIT,
        passes: int = PASSES,
    ) -> None:
        self.failure: Exception | None = None
        self._network = network
        self._end = end
        self._time_limit = time_limit
        self._passes = passes
        self._left = passes
        self._instant = -1.0
        self._idle_since: float | None = None

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 -- Trio's signature
        """Look whether anything can still happen."""
        if self.failure is not None:
            return
        now = trio.current_time()
        if now != self._instant:
            self._instant, self._left = now, self._passes
            # Not by a deadline: then there would always be one left.
            if self._network.time > self._time_limit:
                self._fail(trio.TooSlowError(f"it takes longer than {self._time_limit} s"))
                return
        self._left -= 1
        # It is not looked at each time: what is stuck stays so.
        if self._left % _BETWEEN_LOOKS == 0:
            self._look(now)

    def _look(self, now: float) -> None:
        if self._left <= 0:
            self._fail(Stuck(f"tasks run on and on while time stands still at {now:.6f} s\n{story_of(self._network)}"))
            return
        statistics = trio.lowlevel.current_statistics()
        if statistics.tasks_runnable or statistics.seconds_to_next_deadline < math.inf:
            self._idle_since = None
            return
        if self._may_hear_from_outside(statistics):
            return
        self._fail(
            Stuck(
                "every task waits, nothing is on the wire, and there is no deadline left at "
                f"{now:.6f} s\n{story_of(self._network)}"
            )
        )

    def _may_hear_from_outside(self, statistics: trio.lowlevel.RunStatistics) -> bool:
        waiting = statistics.io_statistics
        # One of those waiting is Trio's own.
        if getattr(waiting, "tasks_waiting_read", 0) + getattr(waiting, "tasks_waiting_write", 0) <= 1:
            return False
        real_now = perf_counter()
        self._idle_since = self._idle_since or real_now
        return real_now - self._idle_since < _PATIENCE

    def _fail(self, failure: Exception) -> None:
        self.failure = failure
        self._end()

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watch the Trio run that the ``with`` block is in."""
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)


async def guard(network: Network) -> NoReturn:
    """Raise what is wrong once the run of ``network`` will never end by itself."""
    failed = trio.Event()
    watch = Watch(network, failed.set)
    with watch.watching():
        await failed.wait()
    raise watch.failure or AssertionError("it ends for a reason")


def story_of(network: Network) -> str:
    """Return which tasks wait where, and the table of sockets."""
    lines = ["Tasks:"]
    for task in all_tasks():
        host = task.context.get(current_host)
        place = _place_of(task)
        if place is not None:
            lines.append(f"  {host.name if host else 'no host'}: {task.name} waits in {place}")
    lines += ["Sockets:", *(f"  {line}" for line in network.netstat().splitlines())]
    return "\n".join(lines)


def _place_of(task: trio.lowlevel.Task) -> str | None:
    """Return the innermost line of a program's own that a task is at, ``None`` where it is none of the program's."""
    place = None
    for frame, line in task.iter_await_frames():
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGES):
            place = f"{code.co_qualname} ({code.co_filename}:{line})"
    return place
