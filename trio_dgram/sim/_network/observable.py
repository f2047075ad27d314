"""The observable side of a network: its trace, the program's notes, and checks that stop the run when they fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import trio

from ..._values.arguments import check_integer, check_number, describe_value
from .._path.fabric import Fabric
from .._trace.report import FailureReport
from .._trace.trace import Trace
from .._values.random import Seed
from .host import Process, current_process
from .invariants import Invariant, InvariantError, Invariants


class Observable:
    """The part of a network that a test observes."""

    def __init__(self, nursery: trio.Nursery, fabric: Fabric, report: FailureReport, invariants: Invariants) -> None:
        self.trace: Trace = report.trace
        self._nursery = nursery
        self._fabric = fabric
        self.report: FailureReport = report
        """The report that explains a failure, as text: ``str(network.report)``."""
        self._invariants = invariants
        invariants.on_failure = self._stop

    @property
    def seed(self) -> Seed:
        """The seed of all randomness."""
        return self._fabric.seed

    @property
    def digest(self) -> str:
        """A hash over the whole trace up to now: times, addresses, sizes and fates, and the payloads where the network
        was opened with ``payload=True``. Notes are not in it."""
        return self.trace.digest

    @property
    def time(self) -> float:
        """The seconds since the network was opened."""
        return self._fabric.now()

    def note(self, text: str) -> None:
        """Add a note to the trace, at the host of the current task, now: ``network.note("becomes leader, term 3")``.

        It is shown in the story, in pictures, and in the comments of captures. Faults note themselves.

        Raises:
          TypeError: if ``text`` is not text.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {describe_value(text)}")
        self._fabric.note(_name_of_host(current_process.get()), text, "note")

    def decode(self, port: int, function: Callable[[bytes], object]) -> None:
        """Decode the payloads to and from a port with ``function``.

        Args:
          port: the port, from 1 to 65535.
          function: returns text for a payload. It is called when a story or picture is made; if it raises an exception,
            the payload is shown undecoded.

        Raises:
          TypeError, ValueError: if an argument is invalid.
        """
        check_integer("port", port, 1, 65535)
        if not callable(function):
            raise TypeError(f"function must accept a payload and return text, not {describe_value(function)}")
        self.trace.decode(port, function)

    def always(self, check: Callable[[], object], name: str) -> None:
        """Stop the run with :exc:`InvariantError` as soon as a check does not hold: the story ends there.

        The check is called now, and after each step of a task, so after each delivery and each timer.

        Args:
          check: a function without arguments. It holds if it returns true, or None, as a function with assertions does.
          name: a description of the check, such as ``"at most one leader"``.

        Raises:
          TypeError: if an argument is invalid.
        """
        self._add_invariant(Invariant(_check_function(check), _check_name(name)))

    def eventually(self, check: Callable[[], object], name: str, *, within: float) -> None:
        """Stop the run with :exc:`InvariantError` unless a check has held once within so many seconds from now.

        If the scenario ends earlier, the check must have held by then. While a nemesis is active, it is not called, and
        the time begins with the calm (:meth:`Network.nemesis`).

        Args:
          check: as for :meth:`always`.
          name: a description of the check, such as ``"a leader"``.
          within: the time limit, in virtual seconds.

        Raises:
          TypeError, ValueError: if an argument is invalid.
        """
        deadline = self.time + check_number("within", within, 0)
        invariant = Invariant(_check_function(check), _check_name(name), within, deadline)
        self._add_invariant(invariant)
        self._expire_at_deadline(invariant)

    def _add_invariant(self, invariant: Invariant) -> None:
        self._fabric.steps_are_checked = True
        self._invariants.add(invariant)

    def _expire_at_deadline(self, invariant: Invariant) -> None:
        at = invariant.deadline
        self._fabric.schedule(at, lambda: self._invariants.expire(invariant, at))

    def _defer_eventually(self) -> None:
        self._invariants.defer()

    def _judge_eventually(self) -> None:
        for invariant in self._invariants.resume(self.time):
            self._expire_at_deadline(invariant)

    def _stop(self, failure: InvariantError, task: trio.lowlevel.Task | None) -> None:
        host = _name_of_host(None if task is None else task.context.get(current_process))
        # An assertion explains itself in the lines below.
        self._fabric.note(host, str(failure).partition("\n")[0], "violation")
        self.report.attach(failure)
        self._nursery.cancel_scope.cancel()


def _name_of_host(process: Process | None) -> str:
    return "" if process is None else process.host.name


def _check_function(check: Callable[[], object]) -> Callable[[], object]:
    if not callable(check) or inspect.iscoroutinefunction(check):
        raise TypeError(f"check must be a function without arguments that is not async, not {describe_value(check)}")
    return check


def _check_name(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be text that describes the check, not {describe_value(name)}")
    return name
