"""The clock of a network: one task delivers what is due, and timers of programs are late by the timer slack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

import trio
import trio.testing

EPOCH: Final = 1_767_225_600.0
"""The time of day at which every network is opened: the first second of 2026, UTC, as a Unix time."""
TIMER_SLACK: Final = 1e-6
"""The default timer slack: how late a sleeping task wakes, in seconds."""


class Driven(Protocol):
    """The interface of the object that a pump drives."""

    @property
    def next_time(self) -> float | None:
        """The time of the next event, in seconds since the network was opened; ``None`` without one."""
        ...

    @property
    def needs_steps(self) -> bool:
        """Whether every event must be processed in a step of the pump's task."""
        ...

    def arrive(self, now: float) -> None:
        """Process the arrivals that are due at ``now``, up to the first other event."""

    def advance(self, now: float) -> None:
        """Process the events that are due at ``now``."""


class Pump:
    """Sleeps until an event is due, processes it, and repeats.

    Args:
      slack: how late a task that sleeps on a ``MockClock`` wakes, in seconds.
    """

    def __init__(self, slack: float = TIMER_SLACK) -> None:
        self.slack: float = slack
        self._driven: Driven | None = None
        self._sleep = trio.CancelScope()
        self._clock = clock = trio.lowlevel.current_clock()
        self._started_at = trio.current_time()
        self._woken_for = -math.inf
        self._failure: BaseException | None = None
        self._jumps = _jumps_of(clock) if slack and isinstance(clock, trio.testing.MockClock) else None

    def now(self) -> float:
        """Return the time, in seconds since the network was opened."""
        return self._clock.current_time() - self._started_at

    def sooner(self) -> None:
        """Wake up when an event is due that is earlier than all others."""
        self._sleep.deadline = self._wake_up_at()

    @property
    def due(self) -> float:
        """The time of the next event by Trio's clock; infinity without one."""
        due = None if self._driven is None else self._driven.next_time
        return math.inf if due is None else self._started_at + due

    def _wake_up_at(self) -> float:
        # The jump wakes the pump itself. Its deadline only makes Trio jump at all, and lies beside the instant: a
        # deadline at the instant belongs to a task.
        return self.due if self._jumps is None else self.due + self.slack / 2

    def wake(self, due: float) -> None:
        """Process the events due at ``due``, by Trio's clock, although the clock may be a rounding error behind it."""
        self._woken_for = due
        self._sleep.cancel()

    def arrive(self, due: float, now: float) -> None:
        """Process the arrivals due at ``due`` although no task runs; :meth:`wake` for other events."""
        driven = self._driven
        if driven is not None and not driven.needs_steps:
            try:
                driven.arrive(max(due, now) - self._started_at)
            except BaseException as error:  # noqa: BLE001 -- Trio would end the run without its tasks
                self._failure = error
        if self._failure is None and self.due > due:
            self.sooner()
        else:
            self.wake(due)

    async def run(self, driven: Driven) -> None:
        """Drive ``driven`` as time passes, for ever."""
        self._driven = driven
        if self._jumps is not None:
            self._jumps.add(self)
        try:
            while True:
                with trio.CancelScope(deadline=self._wake_up_at()) as self._sleep:
                    await trio.sleep_forever()
                if self._failure is not None:
                    raise self._failure
                driven.advance(max(self.now(), self._woken_for - self._started_at))
        finally:
            if self._jumps is not None:
                self._jumps.remove(self)


class Jumps:
    """The jumps of a ``MockClock``: exactly to the next event of a network, and past deadlines by the timer slack.

    On a real clock, a timer never fires exactly at its deadline. A program that compares its deadlines with the time,
    as aioquic does, may find that nothing is due yet and set the same timer again, for ever.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._jump: Callable[[float], None] = clock.jump
        self._pumps: list[Pump] = []

    def add(self, pump: Pump) -> None:
        """Add a network to the jumps."""
        if not self._pumps:
            setattr(self._clock, "jump", self.jump)  # noqa: B010 -- it replaces a method
        self._pumps.append(pump)

    def remove(self, pump: Pump) -> None:
        """Remove a network from the jumps."""
        self._pumps.remove(pump)
        if not self._pumps:
            delattr(self._clock, "jump")

    def jump(self, seconds: float) -> None:
        """Jump as ``MockClock.jump`` does; extend Trio's own jumps to the next deadline by the timer slack."""
        now = self._clock.current_time()
        deadline = now + seconds
        in_a_task = _in_a_task()
        due = {pump: pump.due for pump in self._pumps}
        self._jump(seconds if in_a_task else max(0.0, self._target(deadline, min(due.values())) - now))
        now = self._clock.current_time()
        woken = [pump for pump in self._pumps if due[pump] <= now + _rounding(now)]
        # No deadline has passed, so a step of the pump's task would be the only one of this pass of Trio's scheduler.
        # Without it the receivers run in this pass, in the same order as in the next one.
        is_alone = len(woken) == 1 and now < deadline and not in_a_task
        for pump in woken:
            if is_alone:
                pump.arrive(due[pump], now)
            else:
                pump.wake(due[pump])

    def _target(self, deadline: float, due: float) -> float:
        """Return the target of a jump if the next deadline of any task is ``deadline``, and the next event is at
        ``due``."""
        late = deadline + max(pump.slack for pump in self._pumps)
        if late < due:
            return late
        # A task whose deadline is exactly this instant wakes after the deliveries of the instant.
        return due - _rounding(due) / 2 if abs(deadline - due) <= _rounding(due) / 4 else due


def _rounding(time: float) -> float:
    """Return an upper bound for the rounding error of sums and differences of times like ``time``."""
    return 16 * math.ulp(time)


def _in_a_task() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


_jumps: Final[trio.lowlevel.RunVar[Jumps | None]] = trio.lowlevel.RunVar("trio_dgram.sim jumps", None)


def _jumps_of(clock: trio.testing.MockClock) -> Jumps:
    """Return the jumps of this Trio run."""
    jumps = _jumps.get()
    if jumps is None:
        jumps = Jumps(clock)
        _jumps.set(jumps)
    return jumps
