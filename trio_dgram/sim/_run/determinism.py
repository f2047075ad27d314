"""What makes a run the same every time: Trio's order of tasks, the time of day, and what passes for chance."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import trio
import trio.testing

from .._network.pump import EPOCH
from .._values.random import Seed, stream


class ThreadStartedError(Exception):
    """A scenario has started a thread, whose time is not the network's."""

    def __init__(self) -> None:
        super().__init__(
            "a task has started a thread (trio.to_thread.run_sync), and virtual time would not wait for it: "
            "do without, or run the scenario in real time with open_network"
        )


# Trio has no public way to fix the order in which it runs tasks. This is the only place that knows the private one.
_MODULE: Final = "trio._core._run"
_ALLOW: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
_LOTS: Final = "_r"


@contextmanager
def deterministic(seed: Seed, *, fake_time: bool = True, fake_randomness: bool = True) -> Generator[None]:
    """Let a Trio run on a ``MockClock`` be the same every time: the order of its tasks, and where that is wanted the
    time of day and what passes for chance."""
    with ExitStack() as stack:
        stack.enter_context(deterministic_scheduling(seed))
        stack.enter_context(no_threads())
        if fake_time:
            stack.enter_context(virtual_time(EPOCH))
        if fake_randomness:
            stack.enter_context(seeded_randomness(seed))
        yield


@contextmanager
def deterministic_scheduling(seed: Seed) -> Generator[None]:
    """Have Trio run tasks in an order that follows from ``seed`` alone.

    Raises:
      RuntimeError: if this release of Trio has moved what that takes.
    """
    import importlib  # noqa: PLC0415 -- for this alone

    scheduler: Any = importlib.import_module(_MODULE)
    lots = getattr(scheduler, _LOTS, None)
    if not hasattr(scheduler, _ALLOW) or not isinstance(lots, random.Random):
        raise RuntimeError(
            f"trio {trio.__version__} no longer has {_MODULE}.{_ALLOW} and {_LOTS}, which fix the order of its tasks: "
            "use an older trio, or a newer trio_dgram"
        )
    allowed, state = getattr(scheduler, _ALLOW), lots.getstate()
    setattr(scheduler, _ALLOW, True)
    lots.seed(stream(seed, "scheduler").getrandbits(64))
    try:
        yield
    finally:
        lots.setstate(state)
        setattr(scheduler, _ALLOW, allowed)


@contextmanager
def _replaced(owner: Any, **replacements: Any) -> Generator[None]:
    before = {name: getattr(owner, name) for name in replacements}
    for name, value in replacements.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def no_threads() -> Generator[None]:
    """Refuse to start threads in Trio runs whose time is virtual, whatever limiter they have."""
    acquire = trio.CapacityLimiter.acquire_on_behalf_of

    async def acquire_on_behalf_of(limiter: trio.CapacityLimiter, borrower: object) -> None:
        # What stands for a thread is of a class of Trio's own, in the module that starts them.
        if type(borrower).__module__ == "trio._threads" and isinstance(
            trio.lowlevel.current_clock(), trio.testing.MockClock
        ):
            raise ThreadStartedError
        await acquire(limiter, borrower)

    with _replaced(trio.CapacityLimiter, acquire_on_behalf_of=acquire_on_behalf_of):
        yield


@contextmanager
def virtual_time(epoch: float) -> Generator[None]:
    """Let ``time.time`` and ``time.monotonic`` follow Trio's clock, the former from ``epoch`` on.

    In another thread, and in no Trio run, they are as they were.
    """

    def following(real: Callable[[], Any], start: float, unit: int) -> Callable[[], Any]:
        def now() -> Any:
            try:
                seconds = start + trio.current_time()
            except RuntimeError:
                return real()
            return seconds if unit == 1 else round(seconds * unit)

        return now

    nano = 1_000_000_000
    with _replaced(
        time,
        time=following(time.time, epoch, 1),
        time_ns=following(time.time_ns, epoch, nano),
        monotonic=following(time.monotonic, 0.0, 1),
        monotonic_ns=following(time.monotonic_ns, 0.0, nano),
    ):
        yield


@contextmanager
def seeded_randomness(seed: Seed) -> Generator[None]:
    """Let ``random``, ``os.urandom``, ``secrets`` and ``uuid`` give what follows from ``seed``."""
    source = stream(seed, "os.urandom")

    def urandom(size: int, /) -> bytes:
        return source.randbytes(size)

    state = random.getstate()
    random.seed(stream(seed, "random").getrandbits(64))
    node = stream(seed, "uuid").getrandbits(48)
    # secrets and SystemRandom ask for it by this name; uuid1 would ask the C library and the network card.
    with (
        _replaced(os, urandom=urandom),
        _replaced(random, _urandom=urandom),
        _replaced(uuid, _generate_time_safe=None, _last_timestamp=None, getnode=lambda: node),
    ):
        try:
            yield
        finally:
            random.setstate(state)
