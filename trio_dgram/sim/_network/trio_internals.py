"""Trio's private names: the only module that knows them.

Trio has no public API to fix the order in which it runs tasks, to run threads inline, to freeze tasks, to end tasks
that are shielded, or for the deadline and the steps of another task.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Generator, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import outcome
import trio
import trio.testing

from .._values.choices import in_order
from .._values.replacing import replaced

_SCHEDULER: Final = "trio._core._run"
_ALLOW: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
_ORDER: Final = "_r"
_RUNNER: Final = "Runner"
_RESCHEDULE: Final = "reschedule"
_THREADS: Final = "trio._threads"
_START: Final = "start_thread_soon"


class ThreadStartedError(Exception):
    """A scenario has started a thread, whose time is not the network's."""

    def __init__(self) -> None:
        super().__init__(
            "a task started a thread (trio.to_thread.run_sync) although threads='refuse': virtual time would not wait "
            "for it; run the scenario with threads='inline', or in real time with open_network"
        )


def _private(module: str, *names: str) -> Any:
    """Return a module of Trio's that has ``names``.

    Raises:
      RuntimeError: if this release of Trio lacks them.
    """
    found = importlib.import_module(module)
    for name in names:
        if not hasattr(found, name):
            raise RuntimeError(
                f"trio {trio.__version__} no longer has {module}.{name}, which the simulated network needs: use an "
                "older trio, or a newer trio_dgram"
            )
    return found


class _Order(random.Random):
    """The random source of Trio's scheduler, which shuffles the ready tasks of each pass, the oldest first.

    Args:
      overtaken: returns how many older tasks of the pass a task overtakes, from the task and the order of those.
    """

    def __init__(self, overtaken: Callable[[trio.lowlevel.Task, Sequence[trio.lowlevel.Task]], int]) -> None:
        super().__init__(0)
        self._overtaken = overtaken

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Order the tasks of a pass."""
        if len(x) > 1:
            # Trio runs the last task of the list first.
            x[:] = reversed(in_order(x, self._overtaken))


@contextmanager
def deterministic_scheduling(
    overtaken: Callable[[trio.lowlevel.Task, Sequence[trio.lowlevel.Task]], int],
) -> Generator[None]:
    """Let ``overtaken`` determine Trio's order of tasks.

    Args:
      overtaken: returns how many older ready tasks a ready task overtakes, from the task and the order of those.

    Raises:
      RuntimeError: if this release of Trio lacks the internals that this needs.
    """
    scheduler = _private(_SCHEDULER, _ALLOW, _ORDER)
    with replaced(scheduler, **{_ALLOW: True, _ORDER: _Order(overtaken)}):
        yield


@contextmanager
def threads_run(*, inline: bool) -> Generator[None]:
    """In Trio runs whose time is virtual, run the functions of threads at once, or refuse to start threads."""
    threads = _private(_THREADS, _START)
    start = getattr(threads, _START)

    def start_thread_soon(
        function: Callable[[], Any], deliver: Callable[[outcome.Outcome[Any]], object], name: str | None = None
    ) -> None:
        if not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
            start(function, deliver, name)
        elif inline:
            deliver(outcome.capture(function))
        else:
            raise ThreadStartedError

    with replaced(threads, **{_START: start_thread_soon}):
        yield


class TaskEndedError(BaseException):
    """Ends a task that is shielded or swallows ``Cancelled``, unless it swallows every exception."""


def outlives_its_cancellation(task: Any) -> bool:
    """Whether a task still runs although it was cancelled, perhaps outside a shield. A task that waits for its children
    does not count."""
    if any(nursery._parent_waiting_in_aexit for nursery in task.child_nurseries):  # noqa: SLF001 -- likewise
        return False
    status = task._cancel_status  # noqa: SLF001 -- this module is for that
    while status is not None:
        if status._scope.cancel_called:  # noqa: SLF001
            return True
        status = status._parent  # noqa: SLF001
    return False


def steps_of(task: Any) -> int:
    """Return how many steps a task has run."""
    return int(task._schedule_points)  # noqa: SLF001 -- this module is for that


def deadline_of(task: Any) -> float:
    """Return the effective deadline of a task that waits; minus infinity if it has ended."""
    status = task._cancel_status  # noqa: SLF001 -- this module is for that
    return -math.inf if status is None else float(status.effective_deadline())


def end_task(task: Any, reason: str) -> None:
    """Raise TaskEndedError in a task where it waits, also behind a shield; a task before its first step continues."""

    def raise_ended() -> NoReturn:
        raise TaskEndedError(reason)

    if task._abort_func is not None:  # noqa: SLF001 -- this module is for that
        task._attempt_abort(raise_ended)  # noqa: SLF001
    elif task._next_send is not None:  # noqa: SLF001  # pragma: no branch -- None before the first step
        task._next_send = outcome.Error(TaskEndedError(reason))  # noqa: SLF001


class Freezer:
    """Keeps groups of tasks from running, as SIGSTOP does with processes.

    Args:
      group_of: returns the group of a task, ``None`` if it has none.
    """

    def __init__(self, group_of: Callable[[trio.lowlevel.Task], object]) -> None:
        self._group_of = group_of
        self._held: dict[object, list[tuple[trio.lowlevel.Task, Any]]] = {}
        self._reschedule: Any = None

    def freeze(self, group: object) -> None:
        """Freeze the tasks of a group that become runnable from now on."""
        if not self._held:
            runner = getattr(_private(_SCHEDULER, _RUNNER), _RUNNER)
            self._reschedule = getattr(runner, _RESCHEDULE)
            setattr(runner, _RESCHEDULE, lambda runner, task, *result: self._hold_or_reschedule(runner, task, result))
        self._held.setdefault(group, [])

    def _hold_or_reschedule(self, runner: Any, task: Any, result: Any) -> None:
        held = self._held.get(self._group_of(task))
        if held is None:
            self._reschedule(runner, task, *result)
        else:
            # Its wait has ended already: a cancellation must not end it a second time.
            task._abort_func = None  # noqa: SLF001 -- this module is for that
            held.append((task, result))

    def thaw(self, group: object) -> None:
        """Resume the tasks of a group, in the order in which they became runnable."""
        held = self._held.pop(group, [])
        if not self._held and self._reschedule is not None:
            setattr(getattr(_private(_SCHEDULER, _RUNNER), _RUNNER), _RESCHEDULE, self._reschedule)
            self._reschedule = None
        for task, result in held:
            trio.lowlevel.reschedule(task, *result)
