"""The one task that lets time pass on the network."""

from __future__ import annotations

import math
from typing import Final, Protocol

import trio

EPOCH: Final = 1_767_225_600.0
"""The time of day at which every network is opened: the first second of 2026, UTC, as a Unix time."""


class Driven(Protocol):
    """What a pump lets time pass for."""

    @property
    def next_time(self) -> float | None:
        """When something happens next, in seconds since the network was opened; ``None`` if nothing does."""
        ...

    def advance(self, now: float) -> None:
        """Do what is due at ``now``."""


class Pump:
    """Sleeps until something is due, has it done, and sleeps again."""

    def __init__(self) -> None:
        self._driven: Driven | None = None
        self._sleep = trio.CancelScope()
        self._started_at = trio.current_time()

    def now(self) -> float:
        """Return the time, in seconds since the network was opened."""
        return trio.current_time() - self._started_at

    def sooner(self) -> None:
        """Look again when something is due: sooner than before."""
        self._sleep.deadline = self._wake_up_at()

    def _wake_up_at(self) -> float:
        due = None if self._driven is None else self._driven.next_time
        return math.inf if due is None else self._started_at + due

    async def run(self, driven: Driven) -> None:
        """Let time pass for ``driven``, for ever."""
        self._driven = driven
        while True:
            with trio.CancelScope(deadline=self._wake_up_at()) as self._sleep:
                await trio.sleep_forever()
            driven.advance(self.now())
