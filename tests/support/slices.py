"""Slices: what a task does between two turns of the scheduler, in CPU time or in whatever a meter counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from .floods import one_batch

SHARE: Final = 0.001
"""How long one call may keep the scheduler besides one batch, in seconds of CPU time."""
_ATTEMPTS: Final = 20


@attrs.frozen(order=True)
class Slice:
    """One uninterrupted stretch of a task."""

    amount: float
    task: str = attrs.field(order=False)


@attrs.define(eq=False)
class Slices(trio.abc.Instrument):
    """Measures every slice by the difference of a meter and keeps the largest. Made by :func:`slices`."""

    meter: Callable[[], float]
    largest: Slice = Slice(0, "no task")
    count: int = 0
    _start: float | None = None

    def begin(self) -> None:
        """Start a slice."""
        self._start = self.meter()

    def end(self, task: trio.lowlevel.Task) -> None:
        """End the slice of ``task``."""
        if self._start is None:
            return
        amount, self._start = self.meter() - self._start, None
        self.count += 1
        if amount > self.largest.amount:
            self.largest = Slice(amount, task.name)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Start a slice."""
        del task
        self.begin()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """End it."""
        self.end(task)


@contextmanager
def slices(meter: Callable[[], float] = time.thread_time) -> Generator[Slices]:
    """Measure the slices of all tasks during the block.

    The block's own task counts from the block's beginning to its end, so set-up and checks belong outside. The CPU
    time is the thread's: other processes do not add to it, but page faults, cold caches and interrupts do.
    """
    measured = Slices(meter)
    trio.lowlevel.add_instrument(measured)
    measured.begin()
    try:
        yield measured
    finally:
        measured.end(trio.lowlevel.current_task())
        trio.lowlevel.remove_instrument(measured)


@contextmanager
def without_collections() -> Generator[None]:
    """Keep the garbage collector from running in the block, since a full collection takes many milliseconds."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def limit(segments: int = 1) -> float:
    """Return how much CPU time one slice may take, in seconds.

    Args:
      segments: how many datagrams the kernel hands over by one receive, if it coalesces.

    A batch is measured in this process with Python's own sockets, so that a slow machine gets the time it needs and
    a slower library does not.
    """
    return SHARE + one_batch(segments)


async def assert_bounded(attempt: Callable[[], Awaitable[Slice]], most: Callable[[], float]) -> None:
    """Assert that the largest slice of ``attempt`` takes at most the CPU time that ``most`` returns, in seconds.

    Noise only ever adds to CPU time, so one of several attempts must do so. Work without a bound is the same in each of
    them. What may be taken is measured again each time: beside other processes on one core both take longer.
    """
    found: list[tuple[float, Slice, float]] = []
    with without_collections():
        while len(found) < _ATTEMPTS:
            largest, allowed = await attempt(), most()
            if largest.amount <= allowed:
                return
            found.append((largest.amount - allowed, largest, allowed))
    _, largest, allowed = min(found)
    raise AssertionError(
        f"{largest.task} kept the scheduler for {largest.amount * 1000:.2f} ms of CPU time, more than"
        f" {allowed * 1000:.2f} ms"
    )
