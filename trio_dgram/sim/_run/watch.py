"""Ending runs that would never end by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Final, NoReturn

import trio

from .._network.host import host_of
from .._network.network import Network
from .._network.trio_internals import deadline_of, end_task, outlives_its_cancellation, steps_of
from .tasks import all_tasks

TIME_LIMIT: Final = 86_400.0
"""The default time limit of a scenario, in virtual seconds: a day."""
PASSES: Final = 100_000
"""The most scheduler passes in one instant of virtual time."""
QUIET_LIMIT: Final = 3600.0
"""The longest wait of the scenario's own task without a deadline, in virtual seconds."""
_GRACE: Final = 10_000
"""The scheduler passes in which cancelled tasks must end."""
_LAST: Final = 100
"""The further passes in which they must end once their waits fail."""
_LONGEST_REAL_WAIT: Final = 1.0
"""The longest wait for an outside event, such as a real descriptor becoming readable, in real seconds."""
_CHECK_INTERVAL: Final = 16
_PACKAGES: Final = (str(Path(trio.__file__).parent), str(Path(__file__).parents[2]))


class StuckError(Exception):
    """A scenario waits for an event that cannot happen, or loops without end while no time passes."""


class Watch(trio.abc.Instrument):
    """Ends a run that will never end by itself.

    Rule 1: a failure is detected between two passes of Trio's scheduler; then the run is cancelled.
    Rule 2: tasks that have not ended :data:`_GRACE` passes later, because they are shielded or swallow ``Cancelled``,
    raise TaskEndedError where they wait.
    Rule 3: tasks that swallow that, too, are abandoned :data:`_LAST` passes later: Trio's run ends with
        TrioInternalError, whose cause is the failure.

    Args:
      network: the network of the run.
      end: called to cancel the run.
      time_limit: the latest end of the run, in seconds since the network was opened.
      passes: the most scheduler passes in one instant of virtual time.
      task: the scenario's own task, if the run is for it alone; ``None`` to allow it to wait for ever while others run.
      quiet_limit: the longest wait of that task without a deadline, in virtual seconds.
    """

    def __init__(
        self,
        network: Network,
        end: Callable[[], object],
        *,
        time_limit: float = TIME_LIMIT,
        passes: int = PASSES,
        task: trio.lowlevel.Task | None = None,
        quiet_limit: float = QUIET_LIMIT,
    ) -> None:
        self.failure: Exception | None = None
        self.network: Network = network
        self._end = end
        self._time_limit = time_limit
        self._passes = passes
        self._left = passes
        self._grace = _GRACE
        self._instant = -1.0
        self._idle_since: float | None = None
        self._task = task
        self._owns_run = task is not None
        self._quiet_limit = quiet_limit
        self._ends_at = trio.current_time() + time_limit - network.time
        self._steps = -1
        self._waits_since = 0.0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 -- Trio's signature
        """Check whether any event can still happen."""
        if self.failure is not None:
            self._grace -= 1
            if self._grace == 0:
                left = describe_tasks(self._outliving_tasks())
                self.failure.add_note(f"These tasks had to be ended, since they did not when cancelled:\n{left}")
            if self._grace <= 0:
                self._end_tasks(self.failure)
            return
        now = trio.current_time()
        if self._task is not None and (steps := steps_of(self._task)) != self._steps:
            self._steps, self._waits_since = steps, now
        if now != self._instant:
            self._instant, self._left = now, self._passes
            self._check_limits(now)
            return
        self._left -= 1
        # Checking at intervals suffices: a run that is stuck stays stuck.
        if self._left % _CHECK_INTERVAL == 0:
            self._check(now)

    def _check_limits(self, now: float) -> None:
        # A deadline would not do: the run could then never be found without one.
        if now > self._ends_at:
            self._fail(trio.TooSlowError(f"the scenario takes longer than {self._time_limit} s\n{self._waiting()}"))
        elif (
            self._task is not None
            and now - self._waits_since > self._quiet_limit
            and deadline_of(self._task) == math.inf
        ):
            self._fail(
                StuckError(
                    f"the scenario has waited for {self._quiet_limit} s without a deadline of its own, while others "
                    f"run; if that is intended, raise quiet_limit\n{self._waiting()}"
                )
            )

    def _check(self, now: float) -> None:
        if self._left <= 0:
            self._fail(StuckError(f"tasks run without end while time stands still at {now:.6f} s\n{self._waiting()}"))
            return
        statistics = trio.lowlevel.current_statistics()
        if (
            statistics.tasks_runnable
            or statistics.run_sync_soon_queue_size
            or statistics.seconds_to_next_deadline < math.inf
        ):
            self._idle_since = None
            return
        if self._may_be_woken_from_outside(statistics):
            return
        self._fail(
            StuckError(
                "every task waits, nothing is on the wire, and there is no deadline left at "
                f"{now:.6f} s\n{self._waiting()}"
            )
        )

    def _may_be_woken_from_outside(self, statistics: trio.lowlevel.RunStatistics) -> bool:
        waiting = statistics.io_statistics
        # One of those waiting is Trio's own.
        if getattr(waiting, "tasks_waiting_read", 0) + getattr(waiting, "tasks_waiting_write", 0) <= 1:
            return False
        real_now = perf_counter()
        self._idle_since = self._idle_since or real_now
        return real_now - self._idle_since < _LONGEST_REAL_WAIT

    def _waiting(self) -> str:
        return waiting_in(self.network)

    def _fail(self, failure: Exception) -> None:
        self.failure = failure
        self.network.report.attach(failure)
        self._end()

    def scenario_ended(self) -> None:
        """Continue to watch, but without the scenario's own task."""
        self._task = None

    def _outliving_tasks(self) -> list[trio.lowlevel.Task]:
        # Trio's own task ends last, after its work for the run. In a run that is not the scenario's alone, such as
        # that of a test with fixtures, only tasks of hosts are known to be the program's.
        root = trio.lowlevel.current_root_task()
        return [
            task
            for task in all_tasks()
            if task is not root and (self._owns_run or host_of(task) is not None) and outlives_its_cancellation(task)
        ]

    def _end_tasks(self, failure: Exception) -> None:
        for task in self._outliving_tasks():
            end_task(task, str(failure))
        if self._grace < -_LAST:
            abandoned.extend(all_tasks())

            def current_time() -> NoReturn:
                raise failure

            # Only an exception in the clock ends Trio's loop regardless of its tasks.
            setattr(trio.lowlevel.current_clock(), "current_time", current_time)  # noqa: B010 -- a method


abandoned: Final[list[trio.lowlevel.Task]] = []
"""The tasks of runs that were abandoned. Kept, since Python would run them on to collect them."""


async def guard(
    network: Network,
    *,
    time_limit: float = TIME_LIMIT,
    passes: int = PASSES,
    task: trio.lowlevel.Task | None = None,
    quiet_limit: float = QUIET_LIMIT,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Raise the failure if the run of ``network`` will never end by itself. See :class:`Watch`."""
    failed = trio.Event()
    watch = Watch(network, failed.set, time_limit=time_limit, passes=passes, task=task, quiet_limit=quiet_limit)
    # Until the end of the run: tasks of hosts may outlive the network.
    trio.lowlevel.add_instrument(watch)
    task_status.started()
    await failed.wait()
    raise watch.failure or AssertionError("it ends for a reason")


def waiting_in(network: Network) -> str:
    """Return the waiting tasks with their positions, and the table of sockets."""
    sockets = [f"  {line}" for line in network.netstat().splitlines()]
    return "\n".join(["Tasks:", describe_tasks(all_tasks()), "Sockets:", *sockets])


def describe_tasks(tasks: Iterable[trio.lowlevel.Task]) -> str:
    """Return a line for each task: its host, its name, and where it waits."""
    lines = []
    for task in tasks:
        host, place = host_of(task), _place_of(task)
        if place is not None:
            lines.append(f"  {host.name if host else 'no host'}: {task.name} waits in {place}")
    return "\n".join(lines)


def _place_of(task: trio.lowlevel.Task) -> str | None:
    """Return the innermost line of the program at which a task waits, ``None`` without one."""
    place = None
    for frame, line in task.iter_await_frames():
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGES):
            place = f"{code.co_qualname} ({code.co_filename}:{line})"
    return place
