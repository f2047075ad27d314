"""Checks that hold always, or eventually."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import attrs
import trio


class InvariantError(AssertionError):
    """A check of :meth:`Network.always` or :meth:`Network.eventually` does not hold."""


@attrs.define(eq=False)
class Invariant:
    """One check: it holds if it returns true or None and raises nothing."""

    check: Callable[[], object]
    name: str
    within: float | None = None
    """The seconds within which it must hold once; None if it must hold always."""
    deadline: float = 0.0
    """When these seconds are over, in seconds since the network was opened."""

    def holds(self) -> bool:
        """Whether it holds now.

        Raises:
          Exception: any exception of the check except AssertionError, which means that it does not hold.
        """
        result = self.check()
        return result is None or bool(result)


class Invariants(trio.abc.Instrument):
    """The checks of one network, called after each step of a task, and so after each delivery and each timer."""

    def __init__(self) -> None:
        self.failure: InvariantError | None = None
        self.on_failure: Callable[[InvariantError, trio.lowlevel.Task | None], object] = lambda _failure, _task: None
        """Called once, with the error of the first check that does not hold, and the task whose step broke it, None
        without such a task."""
        self._invariants: list[Invariant] = []
        self._is_installed = False
        self._is_deferred = False

    def add(self, invariant: Invariant) -> None:
        """Add a check."""
        if not self._is_installed:
            self._is_installed = True
            trio.lowlevel.add_instrument(self)
        self._invariants.append(invariant)
        self._check(invariant, None)

    def defer(self) -> None:
        """Do not judge what must hold eventually until :meth:`resume`."""
        self._is_deferred = True

    def resume(self, now: float) -> list[Invariant]:
        """Judge what must hold eventually from now on, and return those checks, with new deadlines."""
        self._is_deferred = False
        found = [invariant for invariant in self._invariants if invariant.within is not None]
        for invariant in found:
            invariant.deadline = now + (invariant.within or 0.0)
            self._check(invariant, None)
        return found

    def expire(self, invariant: Invariant, at: float) -> None:
        """Fail unless a check that must hold eventually has held, if its deadline is ``at``."""
        if invariant in self._invariants and not self._is_deferred and invariant.deadline == at:
            self._end(InvariantError(f"{invariant.name}: has not held within {invariant.within} s"), None)

    def expire_all(self) -> None:
        """Fail unless all checks that must hold eventually have held: the run ends."""
        for invariant in tuple(self._invariants):
            if invariant.within is not None:
                self._end(InvariantError(f"{invariant.name}: has not held before the scenario ended"), None)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Call the checks. Part of Trio's interface of instruments."""
        for invariant in tuple(self._invariants):
            self._check(invariant, task)

    @contextmanager
    def raising(self) -> Generator[None]:
        """Raise the failure, if there is one, in place of the exceptions of the ``with`` block, which it has
        cancelled."""
        try:
            yield
        except Exception:
            if self.failure is None:
                raise
        finally:
            self._invariants.clear()
            if self._is_installed:
                trio.lowlevel.remove_instrument(self)
        if self.failure is not None:
            raise self.failure

    def _check(self, invariant: Invariant, task: trio.lowlevel.Task | None) -> None:
        if self._is_deferred and invariant.within is not None:
            return
        try:
            holds = invariant.holds()
        except Exception as error:  # noqa: BLE001 -- Trio would log it and continue without the checks
            if isinstance(error, AssertionError) and invariant.within is not None:
                return
            failure = InvariantError(f"{invariant.name}: {error if str(error) else repr(error)}")
            failure.__cause__ = error
            self._end(failure, task)
            return
        if invariant.within is None:
            if not holds:
                self._end(InvariantError(f"{invariant.name}: does not hold"), task)
        elif holds:
            self._invariants.remove(invariant)

    def _end(self, failure: InvariantError, task: trio.lowlevel.Task | None) -> None:
        self._invariants.clear()
        if self.failure is None:
            self.failure = failure
            self.on_failure(failure, task)
