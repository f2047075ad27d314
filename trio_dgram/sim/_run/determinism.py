"""Deterministic runs: Trio's order of tasks, time, threads, and randomness."""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, TypeAlias

from .._network.trio_internals import deterministic_scheduling, threads_run
from .._values.choices import Choices
from .._values.random import stream
from .._values.replacing import replaced
from .clocks import virtual_time
from .schedules import Schedule, order_of

Threads: TypeAlias = Literal["inline", "refuse"]
"""The treatment of threads that a scenario starts."""

_lock: Final = threading.RLock()


@contextmanager
def deterministic(
    choices: Choices,
    *,
    fake_time: bool = True,
    fake_randomness: bool = True,
    threads: Threads = "inline",
    schedule: Schedule = "random",
) -> Generator[None]:
    """Make a Trio run on a ``MockClock`` deterministic: the order of its tasks, threads, and on request time and
    randomness.

    Raises:
      RuntimeError: if another thread does so at the same time.
    """
    if not _lock.acquire(blocking=False):
        raise RuntimeError(
            "another thread runs a simulated network: time, randomness and Trio's scheduler belong to the whole "
            "process, so run scenarios one after the other, or in several processes"
        )
    try:
        with ExitStack() as stack:
            stack.enter_context(deterministic_scheduling(order_of(schedule, choices)))
            stack.enter_context(threads_run(inline=threads == "inline"))
            if fake_time:
                stack.enter_context(virtual_time())
            if fake_randomness:
                stack.enter_context(seeded_randomness(choices))
            yield
    finally:
        _lock.release()


@contextmanager
def seeded_randomness(choices: Choices) -> Generator[None]:
    """Derive ``random``, ``os.urandom``, ``os.getrandom``, ``secrets`` and ``uuid`` from one choice."""
    draw = choices.stream("random").getrandbits
    choose = choices.at("random", lambda: draw(64), neutral=0)
    seed = choose()
    source = stream(seed, "os.urandom")

    def begin_again() -> None:
        seed = choose()
        random.seed(seed)
        source.setstate(stream(seed, "os.urandom").getstate())

    def urandom(size: int, /) -> bytes:
        return source.randbytes(size)

    def getrandom(size: int, flags: int = 0) -> bytes:  # noqa: ARG001 -- the signature of os.getrandom
        return source.randbytes(size)

    # secrets and SystemRandom use the name in random; uuid1 would query the C library and the network card.
    patches: list[tuple[Any, dict[str, Any]]] = [
        (os, {"urandom": urandom}),
        (random, {"_urandom": urandom}),
        (uuid, {"_generate_time_safe": None, "_last_timestamp": None}),
    ]
    node = stream(seed, "uuid").getrandbits(48)
    if hasattr(os, "getrandom"):  # pragma: no branch -- Linux has it
        patches.append((os, {"getrandom": getrandom}))
    state = random.getstate()
    random.seed(seed)
    choices.at_end_of_tape(begin_again)
    with ExitStack() as stack:
        for owner, names in patches:
            stack.enter_context(replaced(owner, **names))
        stack.enter_context(replaced(uuid, getnode=lambda: node))
        try:
            yield
        finally:
            random.setstate(state)
