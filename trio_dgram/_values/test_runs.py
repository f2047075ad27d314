"""What a test run decides for the simulated networks of a test, and the reports of those networks.

The pytest plugin sets it before each test. This module imports nothing of the simulator, which a test may import later.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

import attrs


class Report(Protocol):
    """The report of one network."""

    def end(self) -> None:
        """Record no more."""


class Tape(Protocol):
    """The tape that a run is recorded on, or replayed from."""

    example: str
    """The only example that Hypothesis is to run; empty for no such test."""

    def choices(self, seed: Any, /) -> Any:
        """Return the choices of the next run of a scenario."""
        ...


class Underlay(Protocol):
    """What the hosts of a network are, if they are not simulated."""

    @property
    def together_within(self) -> float:
        """How far apart arrivals are due at most that count as those of one instant, in seconds."""
        ...

    def machine(self, wire: Any, name: str, addresses: tuple[str, ...], broadcasts: frozenset[str], /) -> Any:
        """Return a new host."""
        ...

    def socket_factory(self, machine: Any, /) -> Any:
        """Return the socket factory; ``machine`` returns the host of the current task."""
        ...

    def opened(self, nursery: Any, /) -> AbstractContextManager[None]:
        """Use it for a network while the ``with`` block runs, with the nursery of that."""
        ...


@attrs.define(eq=False)
class TestRun:
    """One run of a test under one seed."""

    __test__ = False

    seed: int = 0
    """The seed of a network that is given none."""
    tape: Tape | None = None
    """The recording of the run, or the replay."""
    underlay: Underlay | None = None
    """The hosts of its networks; None if they are simulated."""
    find_example: Callable[[], Any] = lambda: None
    """Returns the example of Hypothesis that runs now."""
    example: Any = None
    """What that returned when a network was opened last."""
    reports: list[Report] = attrs.field(factory=list)
    """The reports of the networks that were opened last: a test that opens one network after the other has failed on
    the last one, as under Hypothesis, which runs its last failing example at the end."""
    _open: int = 0

    def end_reports(self) -> None:
        """End the reports before what the test leaves open is closed."""
        for report in self.reports:
            report.end()

    @contextmanager
    def collecting(self, report: Report) -> Generator[None]:
        """Keep the report of a network that is open while the ``with`` block runs."""
        if not self._open:
            self.reports.clear()
            self.example = self.find_example()
        self.reports.append(report)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


_current: Final[ContextVar[TestRun | None]] = ContextVar("trio_dgram test run", default=None)


def current_test_run() -> TestRun:
    """Return the run of the test that runs, a new one outside pytest."""
    return _current.get() or TestRun()


@contextmanager
def running_test(test_run: TestRun) -> Generator[None]:
    """Make a run of a test the current one in the ``with`` block."""
    token = _current.set(test_run)
    try:
        yield
    finally:
        _current.reset(token)
